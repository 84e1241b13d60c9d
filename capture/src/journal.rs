//! The sender's journal: one JSON file per VM, replaced whole and durably, so that it shows either the
//! step before or the step after.
//!
//! ```text
//!            cut                    read to its end (Full, Compare)          settle
//!  (none) ────────▶ Begun ─▶ Ready ─────────────────────────────────▶ Read ────────▶ (none), settled
//!                     │        │                                       │
//!                     ▼        ▼                                       ▼
//!                  undone   abandon                                 abandon
//! ```
//!
//! An incremental delta is `Read` as soon as it is ready: its manifest is made by the cut. `Begun` is written
//! before the first change to the VM and names every file that the cut will make, so that whoever finds it
//! knows what to undo. The manifest and the like lie in `<state>/capture/<vm>/<delta>/`.

use crate::{
    error::{CaptureError, Result, file_error},
    image::Image,
    turn::{DiskFormat, Prepared, Tracking},
};
use model::{AttemptId, ClusterSet, DeltaId, DiskId, Repaired, durable};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// The delta that tracking counts from: the last settled one.
    pub settled: Option<DeltaId>,
    /// Sizes of the disks at the settled cut.
    #[serde(default)]
    pub sizes: Vec<(DiskId, u64)>,
    pub turn: Option<Turn>,
    /// Rolling overlays, bottom first; the last one is what the VM writes to.
    #[serde(default)]
    pub overlays: Vec<OverlaySet>,
}

/// The overlays that one cut put on all disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlaySet {
    pub disks: Vec<(DiskId, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub delta: DeltaId,
    pub base: Option<DeltaId>,
    pub attempt: AttemptId,
    pub kind: Kind,
    pub tracking: Tracking,
    pub stage: Stage,
    pub disks: Vec<TurnDisk>,
    /// The answer of the cut, from [`Stage::Ready`] on; without the small files, which lie in the turn's folder.
    pub prepared: Option<Prepared>,
    /// What a disk's topmost file itself holds is compared, too.
    #[serde(default)]
    pub own_allocation: bool,
    /// Nothing that is known of the disks is believed.
    #[serde(default)]
    pub scrubs: bool,
    /// The VM stood on its overlays, which are being committed back: where it does not any more, they are stale.
    #[serde(default)]
    pub taking_back: bool,
    /// What a scrub found, from [`Stage::Read`] on.
    #[serde(default)]
    pub repaired: Repaired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Incremental,
    Full,
    Compare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Begun,
    Ready,
    Read,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnDisk {
    pub disk: DiskId,
    pub size_bytes: u64,
    /// The image that holds the delta's content.
    pub read: PathBuf,
    pub read_format: DiskFormat,
    /// The image is read without its backing file.
    pub alone: bool,
    /// An overlay that this turn puts on the disk.
    pub overlay: Option<PathBuf>,
    pub hashes: Hashes,
}

/// Where a disk's hashes go and what settling makes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hashes {
    /// The sums of what is sent; the digest describes the base and takes them over.
    Apply,
    /// The sums of what is sent; there is no digest that they would complete.
    Sums,
    /// The sums of what was looked at; with them the digest, which describes another state, describes this
    /// one.
    Patch,
    /// A digest of the whole disk, which replaces the old one.
    Replace,
}

impl Journal {
    /// An absent journal is an empty one.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(file_error("read", path)(source)),
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |source| CaptureError::JournalDamaged { path: path.to_owned(), source };
        let version = serde_json::from_slice::<Versioned>(&bytes).map_err(damaged)?.version;
        if version > VERSION {
            return Err(CaptureError::JournalNewer { path: path.to_owned(), version });
        }
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).expect("plain data is JSON");
        durable::replace_file(path, &bytes).map_err(file_error("write", path))
    }

    /// What the overlays hold of a disk. All of them must be immutable: called before the new ones count.
    pub fn touched(&self, disk: DiskId) -> Result<ClusterSet> {
        let mut touched = ClusterSet::new();
        for path in self.overlays.iter().filter_map(|set| set.path(disk)) {
            touched.union(&Image::open_alone(path)?.touched()?);
        }
        Ok(touched)
    }

    /// The turn of `delta`.
    pub fn turn(&self, delta: DeltaId) -> Option<&Turn> {
        self.turn.as_ref().filter(|turn| turn.delta == delta)
    }
}

impl OverlaySet {
    pub fn path(&self, disk: DiskId) -> Option<&Path> {
        self.disks.iter().find(|(id, _)| *id == disk).map(|(_, path)| path.as_path())
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self { version: VERSION, settled: None, sizes: vec![], turn: None, overlays: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_back_and_a_newer_or_damaged_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.json");
        assert_eq!(Journal::load(&path).unwrap(), Journal::default());
        let journal = Journal { settled: Some(DeltaId::random()), ..Journal::default() };
        journal.save(&path).unwrap();
        assert_eq!(Journal::load(&path).unwrap(), journal);
        fs::write(&path, br#"{"version":2,"news":[]}"#).unwrap();
        assert!(matches!(Journal::load(&path), Err(CaptureError::JournalNewer { version: 2, .. })));
        fs::write(&path, b"{").unwrap();
        assert!(matches!(Journal::load(&path), Err(CaptureError::JournalDamaged { .. })));
    }
}
