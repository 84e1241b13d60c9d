//! The spool: room for a delta before it is cut, and what a turn leaves behind.
//!
//! A spool that fills up while a backup copies could fail a guest's write. So the delta's size is asked
//! first, and the cut is not begun unless that and a fifth more fit.

use crate::{
    Capture, Limits,
    error::{CaptureError, Result, file_error},
    journal::{Journal, Turn},
    places::make_folder,
};
use model::{DeltaId, durable};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// What the cuts that are being made on this host, of whichever VM, may yet write into the spool.
static PROMISED_BYTES: Mutex<u64> = Mutex::new(0);

/// Room in the spool for one delta, kept free of other VMs' deltas as long as this lives.
#[derive(Debug)]
pub struct Room {
    pub delta_bytes: u64,
    promised_bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        *PROMISED_BYTES.lock().unwrap_or_else(PoisonError::into_inner) -= self.promised_bytes;
    }
}

/// Refuses a delta of `delta_bytes` that `folder` has no room for. What others were promised there is not free, even
/// where they have begun to write it.
pub fn require_room(folder: &Path, delta_bytes: u64, limits: Limits) -> Result<Room> {
    let mut promised = PROMISED_BYTES.lock().unwrap_or_else(PoisonError::into_inner);
    let free = free_bytes(folder)?.saturating_sub(limits.free_bytes_min).saturating_sub(*promised);
    let quota = limits.spool_bytes_max.saturating_sub(used_bytes(folder)?);
    let needed_bytes = delta_bytes.saturating_add(delta_bytes / 5);
    let free_bytes = free.min(quota);
    if needed_bytes > free_bytes {
        return Err(CaptureError::SpoolFull { path: folder.to_owned(), needed_bytes, free_bytes });
    }
    *promised += needed_bytes;
    Ok(Room { delta_bytes, promised_bytes: needed_bytes })
}

fn free_bytes(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|errno| file_error("ask for the free space of", folder)(errno.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Overlays of ours that stand on a VM's disks and have become too large to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Where they lie.
    pub folder: PathBuf,
    pub used_bytes: u64,
    /// What they may hold there: the spool's quota, or half of the room that there would be without them,
    /// because writing them back may take as much again.
    pub allowed_bytes: u64,
}

fn used_bytes(folder: &Path) -> Result<u64> {
    let fail = || file_error("list", folder);
    let mut used = 0;
    for entry in fs::read_dir(folder).map_err(fail())? {
        used += entry.and_then(|entry| entry.metadata()).map_err(fail())?.blocks() * 512;
    }
    Ok(used)
}

impl Capture {
    pub(crate) fn make_folders(&self) -> Result<()> {
        make_folder(&self.state_folder())?;
        make_folder(&self.spool_folder())
    }

    /// The pressure of the overlays that stand on the disks, once they hold four fifths of what they may. They
    /// are then to be taken back, with [`Self::abandon`] or [`Self::release`], before the guest's writes fail.
    pub fn pressure(&self) -> Result<Option<Pressure>> {
        let journal = self.journal()?;
        let piled = journal.overlays.iter().flat_map(|set| set.disks.iter().map(|(_, path)| path));
        let turn = journal.turn.iter().flat_map(|turn| turn.disks.iter().filter_map(|d| d.overlay.as_ref()));
        let mut folders: BTreeMap<&Path, BTreeSet<&PathBuf>> = BTreeMap::new();
        for path in piled.chain(turn) {
            folders.entry(path.parent().unwrap_or(path)).or_default().insert(path);
        }
        for (folder, overlays) in folders {
            // One that is not made yet, or not there any more, holds nothing.
            let size = |path: &&PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
            let used_bytes: u64 = overlays.iter().map(size).sum();
            let floor = self.limits.free_bytes_min;
            let room = (free_bytes(folder)? + used_bytes).saturating_sub(floor) / 2;
            let allowed_bytes = room.min(self.limits.spool_bytes_max);
            if used_bytes > 0 && used_bytes > allowed_bytes / 5 * 4 {
                return Ok(Some(Pressure { folder: folder.to_owned(), used_bytes, allowed_bytes }));
            }
        }
        Ok(None)
    }

    /// Removes a turn's spool files and its folder. The journal does not name it any more.
    pub(crate) fn remove_turn_files(&self, turn: &Turn) -> Result<()> {
        for disk in &turn.disks {
            remove(&self.spool_path(turn.attempt, disk.disk))?;
        }
        remove_folder(&self.turn_folder(turn.delta))
    }

    /// Removes what no turn of the journal owns: a crash came between the journal and the files.
    pub(crate) fn sweep(&self, journal: &Journal) -> Result<Vec<PathBuf>> {
        let mut removed = vec![];
        let attempt = journal.turn.as_ref().map(|turn| turn.attempt.to_string());
        let overlays: Vec<&PathBuf> =
            journal.overlays.iter().flat_map(|set| set.disks.iter().map(|(_, path)| path)).collect();
        for path in entries(&self.spool_folder())? {
            let owned =
                attempt.as_ref().is_some_and(|id| name(&path).to_string_lossy().contains(id.as_str()));
            if !owned && !overlays.contains(&&path) && path.extension().is_some_and(|e| e == "qcow2") {
                remove(&path)?;
                removed.push(path);
            }
        }
        for path in entries(&self.state_folder())? {
            let id = name(&path).to_string_lossy().parse::<DeltaId>();
            if path.is_dir() && id.is_ok_and(|id| journal.turn(id).is_none()) {
                remove_folder(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

fn name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_owned()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(file_error("list", folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(source) => Err(file_error("list", folder)(source)),
    }
}

pub fn remove(path: &Path) -> Result<()> {
    durable::remove(path).map_err(file_error("remove", path))
}

pub fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => durable::sync_parent(path).map_err(file_error("remove", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(file_error("remove", path)(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_that_exceeds_the_quota_or_the_floor_is_refused_with_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { spool_bytes_max: 1000, free_bytes_min: 0 };
        drop(require_room(dir.path(), 800, limits).unwrap());
        let refused = require_room(dir.path(), 900, limits);
        assert!(matches!(refused, Err(CaptureError::SpoolFull { needed_bytes: 1080, free_bytes: 1000, .. })));
        let floor = Limits { spool_bytes_max: u64::MAX, free_bytes_min: u64::MAX };
        assert!(matches!(
            require_room(dir.path(), 1, floor),
            Err(CaptureError::SpoolFull { free_bytes: 0, .. })
        ));
    }

    #[test]
    fn room_is_promised_once() {
        let dir = tempfile::tempdir().unwrap();
        let all = Limits { spool_bytes_max: u64::MAX, free_bytes_min: 0 };
        let half = free_bytes(dir.path()).unwrap() / 2;
        let room = require_room(dir.path(), half, all).unwrap();
        assert!(matches!(require_room(dir.path(), half, all), Err(CaptureError::SpoolFull { .. })));
        drop(room);
        require_room(dir.path(), half, all).unwrap();
    }
}
