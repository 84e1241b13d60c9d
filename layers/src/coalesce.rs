//! Coalescing: the layers of a hidden point are merged into those of the point after it, one pair of
//! points a step, oldest first.
//!
//! ```text
//!  hidden       no row          the older point is no longer offered
//!  copying      row `copying`   the newer layers' clusters are written into the older ones' files; the
//!                               points above see the newer layers only
//!  renaming     row `renaming`  the older files hold everything; each is renamed over the newer one
//!  recorded     no row          the older point is gone, the newer one sits where it sat
//! ```
//!
//! A merge that a crash or an error ended while copying is undone as far as it can be noticed: clusters that
//! it took and did not use are given back. One that ended while renaming is completed.

use crate::{
    error::{LayersError, Result},
    forward::BOOKMARK,
    qcow2::{Editor, Map},
    store::Store,
};
use catalog::{Layer, Merge, MergeStage, Overlay, OverlayKind, Point};
use model::{
    CLUSTER_BYTES, DeltaId, DiskId, ZERO_CLUSTER,
    clusters::cluster_length,
    durable, hash_cluster,
    sums::{Merged, SumsReader, SumsWriter},
};
use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// No hidden point is left below a visible one, or only the VM's own disks, which are never written.
    Nothing,
    /// Two points became one.
    Merged { older: DeltaId, newer: DeltaId },
    /// Given up because of `cancel` or because somebody waits for the files.
    Cancelled,
    /// There are hidden points, all of them below one that is in use.
    Blocked { by: DeltaId },
}

/// How far a merge had come when it was cancelled: somebody who takes the files for a moment, again and
/// again, must not keep a long merge from ever ending. Not durable: after a crash copying starts over.
#[derive(Debug)]
pub(crate) struct Copied {
    older: DeltaId,
    newer: DeltaId,
    /// The first cluster that is still to be copied.
    next: HashMap<DiskId, u64>,
}

/// Bytes copied at once.
const RUN_BYTES: usize = 1 << 20;

impl Store {
    /// Hides points durably. The latest is refused: it is what the next delta builds on. So is one that the VM runs
    /// on: what it writes belongs to that point until it is committed or reverted.
    pub fn hide(&self, deltas: &[DeltaId]) -> Result<()> {
        let _layers = self.lock_layers()?;
        let failed_over =
            |overlay: &Overlay| overlay.kind == OverlayKind::Failover && deltas.contains(&overlay.delta);
        if let Some(overlay) = self.catalog.overlays(self.vm)?.into_iter().find(failed_over) {
            let reason = "the VM was failed over to it".to_owned();
            return Err(LayersError::Pinned { delta: overlay.delta, reason });
        }
        let latest = self.latest()?;
        if let Some(latest) = latest.filter(|latest| deltas.contains(&latest.delta)) {
            return Err(LayersError::HidesLatest { delta: latest.delta });
        }
        Ok(self.catalog.hide_points(self.vm, deltas)?)
    }

    /// Merges the oldest hidden point that may be merged into the one after it.
    pub fn coalesce_step(&self, cancel: &AtomicBool) -> Result<Step> {
        let _layers = self.lock_layers()?;
        let points = self.catalog.points(self.vm)?;
        let in_use = self.highest_in_use(&points)?;
        let bookmarks = self.bookmarks()?;
        let (older, newer) = match candidate(&points, &self.catalog.layers(self.vm)?, &bookmarks, in_use) {
            Candidate::None => return Ok(Step::Nothing),
            Candidate::Blocked(by) => return Ok(Step::Blocked { by }),
            Candidate::Pair(older, newer) => (older, newer),
        };
        let merge = Merge { older, newer, stage: MergeStage::Copying };
        self.catalog.save_merge(self.vm, &merge)?;
        self.step("merge: copying recorded")?;
        for disk in self.disks(newer)? {
            match self.copy_disk(&merge, disk, cancel) {
                Err(LayersError::Cancelled) => {
                    self.catalog.delete_merge(self.vm)?;
                    return Ok(Step::Cancelled);
                }
                copied => copied?,
            }
        }
        let merge = Merge { stage: MergeStage::Renaming, ..merge };
        self.catalog.save_merge(self.vm, &merge)?;
        self.step("merge: renaming recorded")?;
        self.rename_merged(&merge)?;
        Ok(Step::Merged { older, newer })
    }

    /// Ends what an earlier merge has left unfinished; whether it was completed. The lock is the caller's.
    pub(crate) fn settle_merge(&self) -> Result<bool> {
        let Some(merge) = self.catalog.merge(self.vm)? else { return Ok(false) };
        if merge.stage == MergeStage::Renaming {
            self.rename_merged(&merge)?;
            return Ok(true);
        }
        for disk in self.disks(merge.older)? {
            let older = self.image(disk, merge.older);
            let mut editor = Editor::open(&older).map_err(LayersError::io(&older))?;
            editor.reclaim().map_err(LayersError::io(&older))?;
            editor.commit(&|step| self.io_step(step)).map_err(LayersError::io(&older))?;
        }
        self.catalog.delete_merge(self.vm)?;
        Ok(false)
    }

    /// The highest point whose chain must not be written: it and all below are left alone.
    fn highest_in_use(&self, points: &[Point]) -> Result<Option<(u64, DeltaId)>> {
        let pins = self.catalog.pins(self.vm)?;
        let pins = pins.iter().filter(|pin| pin.reason != BOOKMARK);
        let mut in_use: Vec<DeltaId> = pins.map(|pin| pin.delta).collect();
        in_use.extend(self.held());
        let highest = points.iter().rev().find(|point| in_use.contains(&point.delta));
        Ok(highest.map(|point| (point.sequence, point.delta)))
    }

    fn copy_disk(&self, merge: &Merge, disk: DiskId, cancel: &AtomicBool) -> Result<()> {
        if self.merge_layer(disk, merge.older)?.is_none() {
            return Ok(());
        }
        let (older, newer) = (self.image(disk, merge.older), self.image(disk, merge.newer));
        let mut from = Map::open(&newer).map_err(LayersError::io(&newer))?;
        let mut into = Editor::open(&older).map_err(LayersError::io(&older))?;
        let sums = SumsReader::open(&self.sums_path(disk, merge.newer))?;
        let size_bytes = sums.size_bytes;
        let done = self.copied(merge, disk);
        into.grow(size_bytes).map_err(LayersError::io(&older))?;
        let commit =
            |into: &mut Editor| into.commit(&|step| self.io_step(step)).map_err(LayersError::io(&older));
        // A hidden point may itself be half overwritten by a merge that was given up. What differs from its
        // sums there is masked by the point after it, and a cluster may be gone for the same reason.
        let intact = self.point(merge.newer)?.visible;
        let mut run = Run { checked: intact, ..Run::default() };
        for entry in sums {
            let (cluster, hash) = entry?;
            if u64::from(cluster) < done {
                continue;
            }
            self.step("merge: cluster")?;
            if cancel.load(Ordering::Relaxed) || self.is_awaited() {
                run.copy(&from, &mut into, &newer, &older)?;
                commit(&mut into)?;
                self.set_copied(merge, disk, u64::from(cluster));
                return Err(LayersError::Cancelled);
            }
            let offset = match hash {
                ZERO_CLUSTER => None,
                _ => from.data_offset(cluster).map_err(LayersError::io(&newer))?,
            };
            if offset.is_none() && hash != ZERO_CLUSTER && intact {
                return Err(LayersError::Corrupt { path: newer.clone(), cluster });
            }
            match offset {
                None => into.zero(cluster).map_err(LayersError::io(&older))?,
                Some(offset) => {
                    let length = cluster_length(size_bytes, cluster);
                    if !run.extend(cluster, offset, length, hash) {
                        run.copy(&from, &mut into, &newer, &older)?;
                        run.extend(cluster, offset, length, hash);
                    }
                }
            }
            if into.batch_is_full() {
                run.copy(&from, &mut into, &newer, &older)?;
                commit(&mut into)?;
            }
        }
        run.copy(&from, &mut into, &newer, &older)?;
        commit(&mut into)?;
        self.set_copied(merge, disk, u64::MAX);
        self.merge_sums(merge, disk, size_bytes)
    }

    fn merge_sums(&self, merge: &Merge, disk: DiskId, size_bytes: u64) -> Result<()> {
        let mut merged = SumsWriter::create(&self.merged_sums(disk, merge.newer), size_bytes)?;
        let both = [self.sums_path(disk, merge.older), self.sums_path(disk, merge.newer)];
        for entry in Merged::open(&both)? {
            let (cluster, hash) = entry?;
            merged.push(cluster, hash)?;
        }
        merged.finish()?;
        self.step("merge: sums merged")
    }

    fn copied(&self, merge: &Merge, disk: DiskId) -> u64 {
        let copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        let same = copied.as_ref().filter(|c| (c.older, c.newer) == (merge.older, merge.newer));
        same.and_then(|copied| copied.next.get(&disk).copied()).unwrap_or(0)
    }

    fn set_copied(&self, merge: &Merge, disk: DiskId, next: u64) {
        let mut copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        if copied.as_ref().is_none_or(|c| (c.older, c.newer) != (merge.older, merge.newer)) {
            *copied = Some(Copied { older: merge.older, newer: merge.newer, next: HashMap::new() });
        }
        copied.as_mut().expect("just set").next.insert(disk, next);
    }

    fn rename_merged(&self, merge: &Merge) -> Result<()> {
        let mut layers = vec![];
        for disk in self.disks(merge.newer)? {
            let newer = self.merge_layer(disk, merge.newer)?.expect("the point has this disk");
            let Some(older) = self.merge_layer(disk, merge.older)? else {
                layers.push(newer);
                continue;
            };
            let sums = self.sums_path(disk, merge.newer);
            rename_if_there(self.merged_sums(disk, merge.newer), &sums)?;
            self.step("merge: sums renamed")?;
            rename_if_there(self.image(disk, merge.older), &self.image(disk, merge.newer))?;
            self.step("merge: layer renamed")?;
            let mut data_clusters = 0;
            for entry in SumsReader::open(&sums)? {
                data_clusters += u64::from(entry?.1 != ZERO_CLUSTER);
            }
            let image = self.image(disk, merge.newer);
            let stored_bytes = fs::metadata(&image).map_err(LayersError::io(&image))?.len();
            layers.push(Layer { base: older.base, data_clusters, stored_bytes, ..newer });
        }
        self.catalog.finish_merge(self.vm, merge, &layers)?;
        // The newer point's name stands for another file now.
        *self.copied.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.step("merge: recorded")?;
        self.remove_files_of(merge.older)
    }

    fn merge_layer(&self, disk: DiskId, delta: DeltaId) -> Result<Option<Layer>> {
        let layers = self.catalog.layers(self.vm)?;
        Ok(layers.into_iter().find(|layer| layer.disk == disk && layer.delta == delta))
    }

    fn image(&self, disk: DiskId, delta: DeltaId) -> PathBuf {
        self.disk_folder(disk).join(format!("{delta}.qcow2"))
    }

    fn merged_sums(&self, disk: DiskId, newer: DeltaId) -> PathBuf {
        self.disk_folder(disk).join(format!("{newer}.sums.merged"))
    }
}

enum Candidate {
    None,
    Blocked(DeltaId),
    Pair(DeltaId, DeltaId),
}

/// The oldest hidden point above the highest one in use, with the point after it. Points after the last
/// visible one are not merged: they are there to be dropped.
fn candidate(
    points: &[Point],
    layers: &[Layer],
    bookmarks: &[DeltaId],
    in_use: Option<(u64, DeltaId)>,
) -> Candidate {
    let last_visible = points.iter().rposition(|point| point.visible).unwrap_or(0);
    let mut blocked = Candidate::None;
    for pair in points.get(..=last_visible).unwrap_or_default().windows(2) {
        let in_place = layers.iter().any(|layer| layer.delta == pair[0].delta && layer.in_place);
        if pair[0].visible || in_place || bookmarks.contains(&pair[0].delta) {
            continue;
        }
        match in_use {
            Some((sequence, by)) if pair[0].sequence <= sequence => blocked = Candidate::Blocked(by),
            _ => return Candidate::Pair(pair[0].delta, pair[1].delta),
        }
    }
    blocked
}

/// Clusters that lie side by side in both disk and file.
#[derive(Default)]
struct Run {
    first: u32,
    offset: u64,
    bytes: u64,
    hashes: Vec<model::ClusterHash>,
    checked: bool,
}

impl Run {
    /// Adds a cluster if it continues the run.
    fn extend(&mut self, cluster: u32, offset: u64, length: u64, hash: model::ClusterHash) -> bool {
        let next = self.first + self.hashes.len() as u32;
        if self.hashes.is_empty() {
            (self.first, self.offset) = (cluster, offset);
        } else if cluster != next || offset != self.offset + self.bytes || self.bytes as usize >= RUN_BYTES {
            return false;
        }
        self.bytes += length;
        self.hashes.push(hash);
        true
    }

    /// Copies the run and empties it. The older point's content is about to be given up, so what takes its
    /// place is checked first.
    fn copy(&mut self, from: &Map, into: &mut Editor, newer: &PathBuf, older: &PathBuf) -> Result<()> {
        let mut bytes = vec![0; self.bytes as usize];
        if bytes.is_empty() {
            return Ok(());
        }
        from.read(&mut bytes, self.offset).map_err(LayersError::io(newer))?;
        let clusters = bytes.chunks(CLUSTER_BYTES as usize).zip(&self.hashes);
        let rotten = |(bytes, hash): (&[u8], &model::ClusterHash)| hash_cluster(bytes) != *hash;
        if let Some(index) = clusters.into_iter().position(rotten).filter(|_| self.checked) {
            return Err(LayersError::Corrupt { path: newer.clone(), cluster: self.first + index as u32 });
        }
        into.data(self.first, &bytes).map_err(LayersError::io(older))?;
        *self = Self { checked: self.checked, ..Self::default() };
        Ok(())
    }
}

fn rename_if_there(from: PathBuf, to: &std::path::Path) -> Result<()> {
    if from.try_exists().map_err(LayersError::io(&from))? {
        durable::rename(&from, to).map_err(LayersError::io(from))?;
    }
    Ok(())
}
