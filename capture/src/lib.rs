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

mod bitmap;
mod changed;
mod cut;
mod error;
mod fault;
mod finish;
mod freeze;
mod frozen;
mod image;
mod journal;
mod live;
mod offline;
mod places;
mod qsd;
mod reader;
mod recover;
mod rolling;
mod spool;
mod tools;
mod track;
mod turn;

pub use error::{CaptureError, Result};
pub use fault::Fault;
pub use reader::Reader;
pub use spool::Pressure;
pub use turn::{
    Changed, ChangedSource, Check, Consistency, Cut, Disk, DiskFormat, PeerHashes, Pending, Prepared,
    PreparedDisk, Recovered, Tracking,
};

use hypervisor::Hypervisor;
use model::VmId;
use std::path::PathBuf;

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
