//! What a VM that is off changed, and its digest brought up to what its disks hold.

use crate::{
    Capture, Changed, ChangedSource, Disk, DiskFormat, Tracking,
    error::{CaptureError, Result, file_error},
    image::{Image, RUN_CLUSTERS},
    journal::Journal,
    places::make_folder,
    spool::remove_folder,
};
use model::{
    ClusterSet, DeltaId, Digest, DiskId, ZERO_CLUSTER, clusters::cluster_count, durable, sums::SumsWriter,
};
use std::path::Path;

/// Hashes of a digest read at once.
const HASHES_AT_ONCE: u32 = 4096;

impl Capture {
    /// Reads the disks of the VM, which is off, once: what was written since `base`, and beside it the digest of
    /// what they hold now, which gets the tag `now`. The old digest stays until [`Self::keep_stock`].
    pub fn take_stock(&self, base: Option<DeltaId>, now: DeltaId) -> Result<Changed> {
        self.require_off()?;
        self.make_folders()?;
        make_folder(&self.turn_folder(now))?;
        let journal = self.journal()?;
        let tracked = self.tracked_since(&journal, base)?;
        let mut source = if tracked.is_some() { ChangedSource::Tracking } else { ChangedSource::Digest };
        let mut disks = vec![];
        for (index, disk) in self.disks.iter().enumerate() {
            let image = self.present(&journal, disk)?;
            let known = self.digest_at(disk, base)?;
            let mut changed =
                tracked.as_ref().map_or_else(ClusterSet::new, |tracked| tracked[index].1.clone());
            if tracked.is_none() && known.is_none() {
                source = ChangedSource::Everything;
                changed.insert_run(0, cluster_count(image.size_bytes()));
            }
            let mut present = Digest::create(&self.new_digest_path(now, disk.disk), image.size_bytes())?;
            read_hashes(&image, &mut present, known.as_ref(), &mut changed)?;
            present.set_state(Some(now))?;
            disks.push((disk.disk, changed));
        }
        Ok(Changed { disks, source })
    }

    /// Puts the digests of [`Self::take_stock`] in the place of the old ones. Where a restart has swept them, the
    /// disks are read again.
    pub fn keep_stock(&self, now: DeltaId) -> Result<()> {
        self.require_off()?;
        let journal = self.journal()?;
        for disk in &self.disks {
            let (new, path) = (self.new_digest_path(now, disk.disk), self.digest_path(disk.disk));
            if Digest::open(&new)?.is_some_and(|digest| digest.state() == Some(now)) {
                durable::rename(&new, &path).map_err(file_error("rename", &new))?;
            } else if self.digest_at(disk, Some(now))?.is_none() {
                let image = self.present(&journal, disk)?;
                // The old content goes with the first hash, and with it the old tag.
                let mut digest = Digest::create(&path, image.size_bytes())?;
                read_hashes(&image, &mut digest, None, &mut ClusterSet::new())?;
                digest.set_state(Some(now))?;
            }
        }
        remove_folder(&self.turn_folder(now))
    }

    /// `None`: nothing tells but the disks themselves.
    fn tracked_since(
        &self,
        journal: &Journal,
        base: Option<DeltaId>,
    ) -> Result<Option<Vec<(DiskId, ClusterSet)>>> {
        let Some(base) = base else { return Ok(None) };
        match self.changed_by_tracking(journal, base) {
            Ok(disks) => Ok(Some(disks)),
            Err(CaptureError::NotTracked { why, .. }) => {
                tracing::info!(vm = %self.vm, why, "comparing the disks with the digest");
                Ok(None)
            }
            Err(error) => Err(error),
        }
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

/// Hashes an image into `present`, and adds to `changed` the clusters whose content is not what `known` says. What
/// a shrunk disk lost is not listed.
fn read_hashes(
    image: &Image,
    present: &mut Digest,
    known: Option<&Digest>,
    changed: &mut ClusterSet,
) -> Result<()> {
    let (mut first, end) = (0, cluster_count(image.size_bytes()));
    while first < end {
        let count = RUN_CLUSTERS.min(end - first);
        let hashes = image.hashes(first, count, image.size_bytes())?;
        if hashes.iter().any(|hash| *hash != ZERO_CLUSTER) {
            present.write(first, &hashes)?;
        }
        if let Some(known) = known {
            for ((cluster, hash), known) in (first..).zip(&hashes).zip(known.read(first, count)?) {
                if *hash != known {
                    changed.insert(cluster);
                }
            }
        }
        first += count;
    }
    Ok(())
}
