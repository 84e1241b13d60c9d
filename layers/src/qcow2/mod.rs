//! The one shape of qcow2 file that layers have: version 3, 64 KiB clusters, 16-bit refcounts that are all
//! one, no snapshots, no bitmaps, no compression. Written here rather than with imago because a layer is
//! received as a stream that may break off: [`Writer`] places clusters by a rule that a list of their
//! numbers reproduces, so that a transfer goes on at its last durable mark, and [`Editor`] orders its
//! writes so that a file on which recovery points rest is sound after a power cut at any instant. Reading
//! is imago's and QEMU's.

mod editor;
mod header;
mod writer;

pub use editor::{Editor, Map};
pub use header::{BACKING_NAME_BYTES_MAX, Backing, Header};
pub use writer::Writer;

use model::CLUSTER_BYTES;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Entries of a table that fills one cluster, L1, L2 and refcount table alike.
const TABLE_ENTRIES: usize = CLUSTER_BYTES as usize / 8;

/// Refcounts of 16 bits in one block of a cluster.
const BLOCK_ENTRIES: usize = CLUSTER_BYTES as usize / 2;

/// "This cluster's refcount is one": QEMU may write to it in place.
const COPIED: u64 = 1 << 63;

/// In an L2 entry: reads as zero, whatever the cluster or the backing file hold.
const ZERO: u64 = 1;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// L1 entries for a disk of this size, in whole clusters (4 TiB each), so that growing seldom moves it.
fn l1_entries(size_bytes: u64) -> usize {
    let clusters = model::clusters::cluster_count(size_bytes) as usize;
    clusters.div_ceil(TABLE_ENTRIES).max(1).next_multiple_of(TABLE_ENTRIES)
}

/// Clusters of a refcount table that never has to move while the disk keeps its L1 table: a host cluster
/// for each guest cluster and each table, and as much again for what merges leave unused.
fn refcount_table_clusters(l1_entries: usize) -> usize {
    let host_clusters = 2 * l1_entries * (TABLE_ENTRIES + 2);
    host_clusters.div_ceil(BLOCK_ENTRIES).div_ceil(TABLE_ENTRIES)
}

fn read_table(file: &File, offset: u64, entries: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; entries * 8];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.chunks_exact(8).map(|entry| u64::from_be_bytes(entry.try_into().expect("eight"))).collect())
}

fn write_table(file: &File, offset: u64, table: &[u64]) -> io::Result<()> {
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    file.write_all_at(&bytes, offset)
}

#[cfg(test)]
mod tests;
