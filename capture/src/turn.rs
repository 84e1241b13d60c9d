//! The words of a turn: what is asked for, what is prepared, what recovery finds. Plain data.

use model::{ClusterHash, ClusterSet, DeltaId, DiskId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    Qcow2,
    Raw,
}

impl DiskFormat {
    /// QEMU's name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A protected disk. `path` is where the disk stands by itself: overlays that a cut puts on top are this
/// crate's business, and the caller goes on giving the same path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub disk: DiskId,
    /// The domain's name for it: `vda`.
    pub target: String,
    pub path: PathBuf,
    pub format: DiskFormat,
    /// Virtual size.
    pub size_bytes: u64,
}

/// How the changes of a VM are tracked between cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tracking {
    /// All disks are qcow2: checkpoints' bitmaps.
    Bitmap,
    /// A disk is raw or a block device: a new overlay at each cut, whose allocation is the next delta.
    RollingOverlay,
}

/// What a cut is to hold.
#[derive(Clone, Debug)]
pub enum Cut {
    /// What changed since the base.
    Incremental,
    /// Everything that is not zero. No base.
    Full,
    /// What differs from the base: from the digest where that describes the base, else from the hashes
    /// that the reader is given. `candidates` (one per disk, in the disks' order) restrict what may differ.
    /// With `own_allocation` the digest may describe another state than the base: one since which nothing
    /// changed but the candidates and what each disk's topmost file itself holds. That is so after a
    /// failover, whose overlay is that file.
    Compare { candidates: Option<Vec<ClusterSet>>, own_allocation: bool },
    /// What differs from the hashes that the reader is given, whatever digest and tracking say: all of every disk is
    /// read. What was written since the base has to be tracked, so that the rest can be told from it.
    Scrub,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    Crash,
    /// Ask the guest agent to freeze the file systems; see [`Prepared::application_consistent`].
    Application {
        freeze_timeout_s: u32,
    },
}

/// Result of [`crate::Capture::cut`]; the same again when the step is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub delta: DeltaId,
    pub base: Option<DeltaId>,
    pub disks: Vec<PreparedDisk>,
    /// The domain's inactive XML at the cut, with the disks' own paths.
    pub domain_xml: String,
    /// (`nvram`, bytes), (`tpm2-00.permall`, bytes): crash-consistent copies.
    pub small_files: Vec<(String, Vec<u8>)>,
    pub cut_at_ms: i64,
    /// Bytes of data clusters to be sent; `None` where that is known only after reading.
    pub bytes: Option<u64>,
    /// `Ok` if the guest's file systems were frozen at the cut, else why not; `None` if not asked for.
    pub application_consistent: Option<Result<(), String>>,
    /// [`crate::Capture::reader`] must be given the peer's hashes.
    pub needs_peer_hashes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedDisk {
    pub disk: DiskId,
    pub size_bytes: u64,
    /// Clusters to be sent as data; `None` where that is known only after reading.
    pub data_clusters: Option<u64>,
    pub zero_clusters: Option<u64>,
}

/// Asks the peer for the hashes of `count` clusters of its latest state of a disk, from the first one on.
/// Clusters past the peer's end of the disk are [`model::ZERO_CLUSTER`].
pub type PeerHashes = Box<
    dyn FnMut(DiskId, u32, u32) -> Result<Vec<ClusterHash>, Box<dyn std::error::Error + Send + Sync>> + Send,
>;

/// A turn that was begun before a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub delta: DeltaId,
    pub base: Option<DeltaId>,
    /// The cut stands and [`crate::Capture::reader`] gives its chunks. Otherwise it was undone.
    pub ready_to_send: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub pending: Option<Pending>,
    /// The next cut can be [`Cut::Incremental`] from the acknowledged delta; else [`Cut::Compare`].
    pub tracking_intact: bool,
    /// Why tracking is not intact.
    pub why: Option<String>,
}

/// What a disk of a VM that is off changed since a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// One per disk, in the disks' order.
    pub disks: Vec<(DiskId, ClusterSet)>,
    pub source: ChangedSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedSource {
    /// The bitmaps or overlays: the VM was stopped cleanly.
    Tracking,
    /// The disks were read and compared with the digest.
    Digest,
    /// Neither was usable: everything may have changed.
    Everything,
}

/// Result of [`crate::Capture::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub tracking: Tracking,
    /// (target, reason) for each disk that cannot be captured; empty is good.
    pub refused: Vec<(String, String)>,
}
