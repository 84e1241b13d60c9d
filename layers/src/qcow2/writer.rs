//! Writes a layer once, from its first cluster to its last. Data clusters are appended as they come; an L2
//! table is appended when the first cluster beyond its reach comes; refcounts, L1 table and header are
//! written at the end. Until then the header is zero and nobody can take the file for an image. Memory: one
//! L2 table and the L1 table.

use super::{
    BLOCK_ENTRIES, Backing, COPIED, Header, TABLE_ENTRIES, ZERO, l1_entries, refcount_table_clusters,
    write_table,
};
use model::CLUSTER_BYTES;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

#[derive(Debug)]
pub struct Writer {
    file: File,
    size_bytes: u64,
    backing: Option<Backing>,
    l1: Vec<u64>,
    /// The L2 table being filled.
    table: Vec<u64>,
    table_index: usize,
    table_used: bool,
    /// Where the next cluster goes.
    end: u64,
    data_clusters: u64,
}

impl Writer {
    /// Starts a file at `path`, or starts over with one that is there: what an earlier attempt has placed
    /// is kept by repeating it with [`Self::replay`], and [`Self::truncate`] drops the rest, before anything
    /// is written.
    pub fn create(path: &Path, size_bytes: u64, backing: Option<Backing>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.write_all_at(&[0; super::header::ENCODED_BYTES], 0)?;
        let l1 = vec![0; l1_entries(size_bytes)];
        let end = CLUSTER_BYTES + l1.len() as u64 * 8;
        Ok(Self {
            file,
            size_bytes,
            backing,
            l1,
            table: vec![0; TABLE_ENTRIES],
            table_index: 0,
            table_used: false,
            end,
            data_clusters: 0,
        })
    }

    /// Places one cluster as [`Self::data`] or [`Self::zero`] did, without its content.
    pub fn replay(&mut self, cluster: u32, zero: bool) -> io::Result<()> {
        if zero { self.zero(cluster, 1) } else { self.place(cluster, 1).map(|_| ()) }
    }

    /// Ends the replay: whatever lies beyond it is cut off. A file too short for what was replayed is
    /// refused.
    pub fn truncate(&self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if self.data_clusters > 0 && length + CLUSTER_BYTES <= self.end {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "shorter than its list of clusters says"));
        }
        self.file.set_len(self.end)
    }

    /// Appends consecutive clusters. Ascending order is the caller's duty; only the disk's last cluster may
    /// be short.
    pub fn data(&mut self, first: u32, bytes: &[u8]) -> io::Result<()> {
        let mut first = first;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = TABLE_ENTRIES - first as usize % TABLE_ENTRIES;
            let (run, later) = rest.split_at(rest.len().min(room * CLUSTER_BYTES as usize));
            let count = run.len().div_ceil(CLUSTER_BYTES as usize);
            let offset = self.place(first, count)?;
            self.file.write_all_at(run, offset)?;
            first += count as u32;
            rest = later;
        }
        Ok(())
    }

    /// Masks clusters with zeroes. At the bottom of a chain there is nothing to mask.
    pub fn zero(&mut self, first: u32, count: u32) -> io::Result<()> {
        if self.backing.is_none() {
            return Ok(());
        }
        for cluster in first..first + count {
            *self.entry(cluster)? = ZERO;
        }
        Ok(())
    }

    /// Makes the clusters written so far durable, so that they can be replayed after a crash.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Completes the image and makes it durable. Returns its (data clusters, bytes).
    pub fn finish(mut self) -> io::Result<(u64, u64)> {
        self.end_table()?;
        write_table(&self.file, CLUSTER_BYTES, &self.l1)?;
        let table_clusters = refcount_table_clusters(self.l1.len()) as u64;
        let used = self.end / CLUSTER_BYTES + table_clusters;
        let mut blocks = 0;
        while blocks * (BLOCK_ENTRIES as u64) < used + blocks {
            blocks += 1;
        }
        let total = used + blocks;
        let blocks_offset = self.end;
        self.write_refcounts(blocks_offset, blocks, total)?;
        let refcount_table_offset = blocks_offset + blocks * CLUSTER_BYTES;
        let table: Vec<u64> = (0..blocks).map(|block| blocks_offset + block * CLUSTER_BYTES).collect();
        write_table(&self.file, refcount_table_offset, &table)?;
        self.file.set_len(total * CLUSTER_BYTES)?;
        let header = Header {
            size_bytes: self.size_bytes,
            l1_entries: self.l1.len() as u32,
            l1_offset: CLUSTER_BYTES,
            refcount_table_offset,
            refcount_table_clusters: table_clusters as u32,
            backing: self.backing,
        };
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync_all()?;
        Ok((self.data_clusters, total * CLUSTER_BYTES))
    }

    /// Every cluster of the file is used once, so the blocks are ones up to its end.
    fn write_refcounts(&self, offset: u64, blocks: u64, total: u64) -> io::Result<()> {
        let ones: Vec<u8> = [0, 1].repeat(BLOCK_ENTRIES);
        for block in 0..blocks {
            let left = (total - block * BLOCK_ENTRIES as u64).min(BLOCK_ENTRIES as u64) as usize;
            self.file.write_all_at(&ones[..left * 2], offset + block * CLUSTER_BYTES)?;
        }
        Ok(())
    }

    /// Gives `count` clusters, which one L2 table covers, consecutive places in the file.
    fn place(&mut self, first: u32, count: usize) -> io::Result<u64> {
        self.entry(first)?;
        let start = first as usize % TABLE_ENTRIES;
        let offset = self.end;
        for (index, entry) in self.table[start..start + count].iter_mut().enumerate() {
            *entry = (offset + index as u64 * CLUSTER_BYTES) | COPIED;
        }
        self.end += count as u64 * CLUSTER_BYTES;
        self.data_clusters += count as u64;
        Ok(offset)
    }

    /// The cluster's L2 entry, once the table before it is in the file.
    fn entry(&mut self, cluster: u32) -> io::Result<&mut u64> {
        let index = cluster as usize / TABLE_ENTRIES;
        if index != self.table_index {
            self.end_table()?;
            self.table_index = index;
        }
        self.table_used = true;
        Ok(&mut self.table[cluster as usize % TABLE_ENTRIES])
    }

    fn end_table(&mut self) -> io::Result<()> {
        if self.table_used {
            write_table(&self.file, self.end, &self.table)?;
            self.l1[self.table_index] = self.end | COPIED;
            self.end += CLUSTER_BYTES;
            self.table.fill(0);
            self.table_used = false;
        }
        Ok(())
    }
}
