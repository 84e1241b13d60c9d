//! Verification: a point is read through its chain and every cluster compared with its hash.

use crate::{
    error::{LayersError, Result},
    hashes::NODE_LEAVES,
    read::PointReader,
    store::Store,
};
use model::{
    CLUSTER_BYTES, ClusterHash, DeltaId, DiskId, ZERO_CLUSTER, clusters::cluster_count, hash_cluster,
};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// Mismatches that a report lists, at least a whole node's; the rest are counted.
pub const MISMATCHES_LISTED_MAX: usize = NODE_LEAVES as usize;

/// Clusters read at once: 1 MiB.
const RUN_CLUSTERS: u32 = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Compared with their hashes.
    pub clusters: u64,
    /// Read for that; holes need no reading.
    pub bytes: u64,
    pub mismatch_count: u64,
    pub mismatches: Vec<Mismatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub disk: DiskId,
    pub cluster: u32,
}

impl Store {
    /// Reads all disks of a point. `progress` is told (clusters done, clusters in all). A cluster without
    /// a hash has to be zero; one that cannot be read differs.
    pub fn verify(
        &self,
        delta: DeltaId,
        progress: &mut dyn FnMut(u64, u64),
        cancel: &AtomicBool,
    ) -> Result<VerifyReport> {
        let disks = self.disks(delta)?;
        let readers = disks.iter().map(|disk| Ok((*disk, self.reader(delta, *disk)?)));
        let readers = readers.collect::<Result<Vec<_>>>()?;
        let total = readers.iter().map(|(_, reader)| u64::from(cluster_count(reader.size_bytes))).sum();
        let mut report = VerifyReport::default();
        for (disk, reader) in readers {
            let all = 0..cluster_count(reader.size_bytes);
            self.verify_disk(delta, disk, &reader, all, &mut report, &mut |done| {
                progress(done, total);
                !cancel.load(Ordering::Relaxed)
            })?;
        }
        Ok(report)
    }

    /// The hashes of one node's leaves, as [`Store::leaf_hashes`] has them, of what is read from the files. In the
    /// place of a cluster that is not as recorded, or cannot be read, stands a hash that nothing has.
    pub fn read_leaf_hashes(&self, delta: DeltaId, disk: DiskId, node: u32) -> Result<Vec<ClusterHash>> {
        let reader = self.reader(delta, disk)?;
        let nodes = self.leaf_hashes(delta, disk, &[node])?;
        let mut hashes = nodes.into_iter().next().map(|(_, hashes)| hashes).unwrap_or_default();
        let first = node * NODE_LEAVES;
        let clusters = first..first + hashes.len() as u32;
        let mut report = VerifyReport::default();
        self.verify_disk(delta, disk, &reader, clusters, &mut report, &mut |_| true)?;
        for mismatch in report.mismatches {
            let hash = &mut hashes[(mismatch.cluster - first) as usize];
            *hash = hash.map(|byte| !byte);
        }
        Ok(hashes)
    }

    /// `goes_on` is told the clusters done and asked after each run.
    fn verify_disk(
        &self,
        delta: DeltaId,
        disk: DiskId,
        reader: &PointReader,
        clusters: Range<u32>,
        report: &mut VerifyReport,
        goes_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let count = clusters.end;
        let mut hashes = self.hashes_from(delta, disk, clusters.start)?.peekable();
        let mut first = clusters.start;
        while first < count {
            let next = match hashes.peek() {
                Some(Ok((cluster, _))) => (*cluster).min(count),
                Some(Err(_)) => first,
                None => count,
            };
            let hole = if first < next { hole_clusters(reader, first, next) } else { 0 };
            if hole > 0 {
                report.clusters += u64::from(hole);
                first += hole;
            } else {
                let run = RUN_CLUSTERS.min(count - first);
                let mut expected = vec![ZERO_CLUSTER; run as usize];
                while let Some(entry) =
                    hashes.next_if(|entry| entry.as_ref().map_or(true, |(cluster, _)| *cluster < first + run))
                {
                    let (cluster, hash) = entry?;
                    expected[(cluster - first) as usize] = hash;
                }
                compare(reader, disk, first, &expected, report);
                first += run;
            }
            if !goes_on(report.clusters) {
                return Err(LayersError::Cancelled);
            }
        }
        Ok(())
    }
}

/// Whole clusters from `first` on, before `end`, that are known to be zero without reading them.
fn hole_clusters(reader: &PointReader, first: u32, end: u32) -> u32 {
    let start = u64::from(first) * CLUSTER_BYTES;
    let length = (u64::from(end) * CLUSTER_BYTES).min(reader.size_bytes) - start;
    let mut zero = 0;
    while zero < length {
        match reader.is_hole(start + zero, length - zero) {
            Ok((true, more)) => zero = zero.saturating_add(more.max(1)),
            // What cannot be told is found out by reading.
            Ok((false, _)) | Err(_) => break,
        }
    }
    if zero >= length { end - first } else { (zero / CLUSTER_BYTES) as u32 }
}

fn compare(
    reader: &PointReader,
    disk: DiskId,
    first: u32,
    expected: &[ClusterHash],
    report: &mut VerifyReport,
) {
    let start = u64::from(first) * CLUSTER_BYTES;
    let length = (expected.len() as u64 * CLUSTER_BYTES).min(reader.size_bytes - start);
    let mut bytes = vec![0; length as usize];
    let read = reader.read(start, &mut bytes);
    if read.is_err() && expected.len() > 1 {
        for (cluster, expected) in (first..).zip(expected) {
            compare(reader, disk, cluster, std::slice::from_ref(expected), report);
        }
        return;
    }
    if let Err(error) = &read {
        tracing::warn!(%disk, cluster = first, error = error as &dyn std::error::Error, "a cluster of a point cannot be read");
    }
    report.clusters += expected.len() as u64;
    report.bytes += length;
    for ((cluster, bytes), expected) in (first..).zip(bytes.chunks(CLUSTER_BYTES as usize)).zip(expected) {
        if read.is_err() || hash_cluster(bytes) != *expected {
            report.mismatch_count += 1;
            if report.mismatches.len() < MISMATCHES_LISTED_MAX {
                report.mismatches.push(Mismatch { disk, cluster });
            }
        }
    }
}
