//! What a VM that is off changed, and its digest brought up to what its disks hold.

use crate::{
    Capture, Changed, ChangedSource, Disk, DiskFormat, Tracking,
    error::{CaptureError, Result},
    image::{Image, RUN_CLUSTERS},
    journal::Journal,
};
use model::{ClusterSet, DeltaId, Digest, DiskId, ZERO_CLUSTER, clusters::cluster_count, sums::SumsWriter};
use std::path::Path;

/// Hashes of a digest read at once.
const HASHES_AT_ONCE: u32 = 4096;

impl Capture {
    /// What the VM, which is off, wrote since `base`.
    pub fn changed_since(&self, base: DeltaId) -> Result<Changed> {
        self.require_off()?;
        let journal = self.journal()?;
        match self.changed_by_tracking(&journal, base) {
            Ok(disks) => return Ok(Changed { disks, source: ChangedSource::Tracking }),
            Err(CaptureError::NotTracked { why, .. }) => {
                tracing::info!(vm = %self.vm, why, "reading the disks");
            }
            Err(error) => return Err(error),
        }
        let mut disks = vec![];
        let mut source = ChangedSource::Digest;
        for disk in &self.disks {
            let image = self.present(&journal, disk)?;
            let Some(digest) = self.digest_at(disk, Some(base))? else {
                source = ChangedSource::Everything;
                break;
            };
            disks.push((disk.disk, differing(&image, &digest)?));
        }
        if source == ChangedSource::Everything {
            disks.clear();
            for disk in &self.disks {
                let mut all = ClusterSet::new();
                all.insert_run(0, cluster_count(self.present(&journal, disk)?.size_bytes()));
                disks.push((disk.disk, all));
            }
        }
        Ok(Changed { disks, source })
    }

    fn changed_by_tracking(&self, journal: &Journal, base: DeltaId) -> Result<Vec<(DiskId, ClusterSet)>> {
        let pending = journal.turn.as_ref().map(|turn| turn.delta);
        if journal.settled != Some(base) || pending.is_some() {
            let why = "a turn is pending, or another delta is tracked".into();
            return Err(CaptureError::NotTracked { base, why });
        }
        match self.tracking() {
            Tracking::Bitmap => self.dirty_clusters(base),
            Tracking::RollingOverlay if journal.overlays.is_empty() => {
                Err(CaptureError::NotTracked { base, why: "there are no overlays".into() })
            }
            Tracking::RollingOverlay => {
                self.disks.iter().map(|disk| Ok((disk.disk, journal.touched(disk.disk)?))).collect()
            }
        }
    }

    /// Brings the digest up to the present content of the disks of a VM that is off, and tags it `delta`.
    pub fn rehash(&self, delta: DeltaId) -> Result<()> {
        self.require_off()?;
        self.make_folders()?;
        let journal = self.journal()?;
        for disk in &self.disks {
            let image = self.present(&journal, disk)?;
            let size_bytes = image.size_bytes();
            // The old content goes with the first hash, and with it the old tag.
            let mut digest = Digest::create(&self.digest_path(disk.disk), size_bytes)?;
            for_each_run(&image, |first, hashes| {
                if hashes.iter().any(|hash| *hash != ZERO_CLUSTER) {
                    digest.write(first, hashes)?;
                }
                Ok(())
            })?;
            digest.set_state(Some(delta))?;
        }
        Ok(())
    }

    /// Writes the digest of `disk` as sums: its clusters that are not zero.
    pub fn sums_of_digest(&self, disk: DiskId, path: &Path) -> Result<()> {
        let digest_path = self.digest_path(disk);
        let missing = || CaptureError::NoDigest { path: digest_path.clone() };
        let digest = Digest::open(&digest_path)?.ok_or_else(missing)?;
        let mut sums = SumsWriter::create(path, digest.size_bytes())?;
        let mut first = 0;
        while first < digest.clusters() {
            let count = HASHES_AT_ONCE.min(digest.clusters() - first);
            for (cluster, hash) in (first..).zip(digest.read(first, count)?) {
                if hash != ZERO_CLUSTER {
                    sums.push(cluster, hash)?;
                }
            }
            first += count;
        }
        sums.finish()?;
        Ok(())
    }

    fn require_off(&self) -> Result<()> {
        if self.is_live()? { Err(CaptureError::Running { vm: self.vm }) } else { Ok(()) }
    }

    /// What a disk of a VM that is off holds now, overlays of ours included.
    fn present(&self, journal: &Journal, disk: &Disk) -> Result<Image> {
        let turn = journal.turn.as_ref().and_then(|turn| turn.disks.iter().find(|d| d.disk == disk.disk));
        let rolling = journal.overlays.last().and_then(|set| set.path(disk.disk));
        match rolling.or(turn.and_then(|disk| disk.overlay.as_deref()).filter(|path| path.exists())) {
            Some(overlay) => Image::open_chain(overlay, DiskFormat::Qcow2),
            None => Image::open_chain(&disk.path, disk.format),
        }
    }
}

/// The clusters whose content is not what the digest says. What a shrunk disk lost is not listed.
fn differing(image: &Image, digest: &Digest) -> Result<ClusterSet> {
    let mut changed = ClusterSet::new();
    for_each_run(image, |first, hashes| {
        let known = digest.read(first, u32::try_from(hashes.len()).expect("a short run"))?;
        for ((cluster, hash), known) in (first..).zip(hashes).zip(known) {
            if *hash != known {
                changed.insert(cluster);
            }
        }
        Ok(())
    })?;
    Ok(changed)
}

fn for_each_run(image: &Image, mut each: impl FnMut(u32, &[model::ClusterHash]) -> Result<()>) -> Result<()> {
    let (mut first, end) = (0, cluster_count(image.size_bytes()));
    while first < end {
        let count = RUN_CLUSTERS.min(end - first);
        each(first, &image.hashes(first, count, image.size_bytes())?)?;
        first += count;
    }
    Ok(())
}
