//! Verification: a point is read through its chain and every cluster compared with its hash.

use crate::{
    error::{LayersError, Result},
    read::PointReader,
    store::Store,
};
use model::{
    CLUSTER_BYTES, ClusterHash, DeltaId, DiskId, ZERO_CLUSTER, clusters::cluster_count, hash_cluster,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// Mismatches that a report lists; the rest are counted.
pub const MISMATCHES_LISTED_MAX: usize = 1000;

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
    /// a hash has to be zero.
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
            self.verify_disk(delta, disk, &reader, &mut report, cancel, &mut |done| progress(done, total))?;
        }
        Ok(report)
    }

    fn verify_disk(
        &self,
        delta: DeltaId,
        disk: DiskId,
        reader: &PointReader,
        report: &mut VerifyReport,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let count = cluster_count(reader.size_bytes);
        let mut hashes = self.hashes(delta, disk)?.peekable();
        let mut first = 0;
        while first < count {
            if cancel.load(Ordering::Relaxed) {
                return Err(LayersError::Cancelled);
            }
            let next = match hashes.peek() {
                Some(Ok((cluster, _))) => (*cluster).min(count),
                Some(Err(_)) => first,
                None => count,
            };
            let hole = if first < next { hole_clusters(reader, first, next)? } else { 0 };
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
                compare(reader, disk, first, &expected, report)?;
                first += run;
            }
            progress(report.clusters);
        }
        Ok(())
    }
}

/// Whole clusters from `first` on, before `end`, that are known to be zero without reading them.
fn hole_clusters(reader: &PointReader, first: u32, end: u32) -> Result<u32> {
    let start = u64::from(first) * CLUSTER_BYTES;
    let length = (u64::from(end) * CLUSTER_BYTES).min(reader.size_bytes) - start;
    let mut zero = 0;
    while zero < length {
        match reader.is_hole(start + zero, length - zero)? {
            (true, more) => zero = zero.saturating_add(more.max(1)),
            (false, _) => break,
        }
    }
    Ok(if zero >= length { end - first } else { (zero / CLUSTER_BYTES) as u32 })
}

fn compare(
    reader: &PointReader,
    disk: DiskId,
    first: u32,
    expected: &[ClusterHash],
    report: &mut VerifyReport,
) -> Result<()> {
    let start = u64::from(first) * CLUSTER_BYTES;
    let length = (expected.len() as u64 * CLUSTER_BYTES).min(reader.size_bytes - start);
    let mut bytes = vec![0; length as usize];
    reader.read(start, &mut bytes)?;
    report.clusters += expected.len() as u64;
    report.bytes += length;
    for ((cluster, bytes), expected) in (first..).zip(bytes.chunks(CLUSTER_BYTES as usize)).zip(expected) {
        if hash_cluster(bytes) != *expected {
            report.mismatch_count += 1;
            if report.mismatches.len() < MISMATCHES_LISTED_MAX {
                report.mismatches.push(Mismatch { disk, cluster });
            }
        }
    }
    Ok(())
}
