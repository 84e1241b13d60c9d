//! Cuts on a live or shut-off domain: what changed between two instants, read back as clusters, with the
//! digest that leaves out what the peer has already.
//!
//! A *turn* has three idempotent steps: [`Capture::cut`] fixes a delta durably, [`Capture::reader`] gives
//! its clusters, the same each time, and [`Capture::settle`], after the peer has it on disk, lets the old
//! tracking go. [`Capture::abandon`] gives a turn up. After a crash or a restart [`Capture::recover`] comes
//! first. At every instant the changes since the acknowledged delta are known from the old tracking or
//! the new, or `recover` says that they are not.
//!
//! It knows libvirt through `hypervisor`, QEMU's image tools and image files; it knows no network and no
//! relationship. All calls block.

mod error;
mod fault;
mod turn;

pub use error::{CaptureError, Result};
pub use fault::Fault;
pub use turn::{
    Changed, ChangedSource, Check, Consistency, Cut, Disk, DiskFormat, PeerHashes, Pending, Prepared,
    PreparedDisk, Recovered, Tracking,
};

use hypervisor::Hypervisor;
use model::{Chunk, DeltaId, DiskId, VmId};
use std::path::{Path, PathBuf};

/// Where a host keeps what capturing needs. Folders are made when missing.
#[derive(Clone, Debug)]
pub struct Folders {
    /// `<state>/capture/<vm>/` holds digests and the journal.
    pub state: PathBuf,
    /// `<spool>/<vm>/` holds deltas until they are acknowledged; best a file system of its own.
    pub spool: PathBuf,
    /// `<overlays>/<vm>/` holds overlays; `None`: overlays stand beside their disk, those of block devices
    /// in the spool.
    pub overlays: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What one VM's spool may hold.
    pub spool_bytes_max: u64,
    /// What a cut must leave free in the spool's file system.
    pub free_bytes_min: u64,
}

/// One protected VM on the host that runs it. One call at a time.
#[derive(Clone)]
pub struct Capture {
    pub hypervisor: Hypervisor,
    pub vm: VmId,
    pub disks: Vec<Disk>,
    pub folders: Folders,
    pub limits: Limits,
    /// Milliseconds since 1970, for `cut_at_ms`.
    pub clock: fn() -> i64,
    pub fault: Fault,
}

/// The chunks of one delta: disks in order, clusters ascending, at most 1 MiB of data in each.
pub struct Reader {
    done: bool,
}

impl Iterator for Reader {
    type Item = Result<Chunk>;
    fn next(&mut self) -> Option<Self::Item> {
        self.done.then_some(Err(CaptureError::Stopped { step: "not built" }))
    }
}

const NOT_BUILT: CaptureError = CaptureError::Stopped { step: "not built" };

impl Capture {
    /// Refuses what cannot be captured, with every reason.
    pub fn check(&self) -> Result<Check> {
        Err(NOT_BUILT)
    }

    /// Fixes `delta` durably. Repeated with the same delta it gives the same answer.
    pub fn cut(
        &self,
        _delta: DeltaId,
        _base: Option<DeltaId>,
        _how: Cut,
        _consistency: Consistency,
    ) -> Result<Prepared> {
        Err(NOT_BUILT)
    }

    /// The delta's chunks from the start. `peer` is needed where `needs_peer_hashes` says so. The delta can
    /// be settled after the iterator has returned `None`.
    pub fn reader(&self, _delta: DeltaId, _peer: Option<PeerHashes>) -> Result<Reader> {
        Err(NOT_BUILT)
    }

    /// The peer has `delta` on disk and the caller has recorded that durably.
    pub fn settle(&self, _delta: DeltaId) -> Result<()> {
        Err(NOT_BUILT)
    }

    /// Gives up a turn that was not acknowledged; its changes will be in the next delta.
    pub fn abandon(&self, _delta: DeltaId) -> Result<()> {
        Err(NOT_BUILT)
    }

    /// After the daemon's or the VM's restart. `acknowledged`: the latest delta that the peer has.
    pub fn recover(&self, _acknowledged: Option<DeltaId>) -> Result<Recovered> {
        Err(NOT_BUILT)
    }

    /// What the VM, which is off, wrote since `base`.
    pub fn changed_since(&self, _base: DeltaId) -> Result<Changed> {
        Err(NOT_BUILT)
    }

    /// Brings the digest up to the present content of the disks of a VM that is off, and tags it `delta`.
    pub fn rehash(&self, _delta: DeltaId) -> Result<()> {
        Err(NOT_BUILT)
    }

    /// Writes the digest of `disk` as sums: its clusters that are not zero.
    pub fn sums_of_digest(&self, _disk: DiskId, _path: &Path) -> Result<()> {
        Err(NOT_BUILT)
    }

    /// Makes `relevo-<delta>` the base of tracking of a running VM whose images carry a bitmap of that name.
    pub fn track_from(&self, _delta: DeltaId) -> Result<()> {
        Err(NOT_BUILT)
    }

    /// Removes every trace: checkpoints, bitmaps, overlays, spool, journal. The digest stays.
    pub fn release(&self) -> Result<()> {
        Err(NOT_BUILT)
    }

    /// Where the digest of `disk` lies; a receiver that becomes a sender puts its own there.
    pub fn digest_path(&self, disk: DiskId) -> PathBuf {
        self.state_folder().join(format!("{disk}.digest"))
    }

    fn state_folder(&self) -> PathBuf {
        self.folders.state.join("capture").join(self.vm.to_string())
    }
}
