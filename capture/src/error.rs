//! What can fail while a delta is cut, read or settled. A variant names what failed and where; the cause
//! hangs on it as its source.

use model::{DeltaId, DiskId, VmId, digest::DigestError, sums::SumsError};
use std::{io, path::PathBuf};

pub type Result<T, E = CaptureError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("cannot {what} {path}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot read image {path}")]
    Image { path: PathBuf, source: io::Error },
    #[error("{tool} failed: {stderr}")]
    Tool { tool: String, stderr: String },
    #[error("cannot run {tool}")]
    ToolStart { tool: String, source: io::Error },
    #[error("QEMU does not close {path}")]
    StillOpen { path: PathBuf },
    #[error("journal {path} is not one of ours or damaged")]
    JournalDamaged { path: PathBuf, source: serde_json::Error },
    #[error("journal {path} has version {version}, newer than this program knows")]
    JournalNewer { path: PathBuf, version: u32 },
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Sums(#[from] SumsError),
    #[error("vm {vm} does not exist here")]
    NoSuchVm { vm: VmId },
    #[error("disk {target} of vm {vm} is not in the domain")]
    NoSuchDisk { vm: VmId, target: String },
    #[error("disk {target} of vm {vm} is at {found}, not at {expected}")]
    DiskMoved { vm: VmId, target: String, expected: PathBuf, found: String },
    #[error("vm {vm} has internal snapshots: {}", names.join(", "))]
    InternalSnapshots { vm: VmId, names: Vec<String> },
    #[error("disk {target} of vm {vm} cannot be captured: {reason}")]
    Refused { vm: VmId, target: String, reason: String },
    #[error("the delta needs {needed_bytes} bytes in {path}, of which {free_bytes} are free")]
    SpoolFull { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    /// Nothing tells what changed since `base`: resync with [`crate::Cut::Compare`].
    #[error("changes since {base} are not tracked: {why}")]
    NotTracked { base: DeltaId, why: String },
    #[error("delta {pending} is neither settled nor abandoned")]
    TurnPending { pending: DeltaId },
    #[error("delta {delta} is not in the journal")]
    UnknownDelta { delta: DeltaId },
    #[error("delta {delta} was not read to its end")]
    NotRead { delta: DeltaId },
    /// The digest does not describe the base and no hashes of the peer were given.
    #[error("disk {disk}: nothing to compare with for delta {delta}")]
    NoReference { delta: DeltaId, disk: DiskId },
    #[error("the peer's hashes of disk {disk} cannot be had")]
    PeerHashes { disk: DiskId, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the peer gave {given} hashes of disk {disk} where {asked} were asked for")]
    PeerHashesCount { disk: DiskId, asked: u32, given: usize },
    #[error("there is no digest {path}")]
    NoDigest { path: PathBuf },
    #[error("disk {disk} shrank from {before_bytes} to {now_bytes} bytes")]
    Shrunk { disk: DiskId, before_bytes: u64, now_bytes: u64 },
    #[error("the backup job of delta {delta} failed: {why}")]
    BackupFailed { delta: DeltaId, why: String },
    /// What was read is of no single instant.
    #[error(
        "delta {delta}: somebody committed the overlay under disk {target} of vm {vm} while the disk was read"
    )]
    Disturbed { delta: DeltaId, vm: VmId, target: String },
    /// What its images hold, and what their bitmaps say, is in somebody else's hands.
    #[error("vm {vm} is not here now: {why}. Replication goes on when it runs here again")]
    Away { vm: VmId, why: String },
    #[error("vm {vm} is running: this needs it shut off")]
    Running { vm: VmId },
    #[error("vm {vm} is shut off: this needs it running")]
    ShutOff { vm: VmId },
    /// A test's [`crate::Fault`] stopped here.
    #[error("stopped at {step}")]
    Stopped { step: &'static str },
}

/// Turns an I/O error into [`CaptureError::File`].
pub(crate) fn file_error(
    what: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(io::Error) -> CaptureError {
    let path = path.to_owned();
    move |source| CaptureError::File { what, path, source }
}
