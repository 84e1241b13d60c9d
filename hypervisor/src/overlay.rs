//! External overlays on a running domain, and committing them back.
//!
//! An active commit ends in a pivot: the domain goes on in the base, and the overlay's file is left over
//! for the caller to delete. Bitmaps follow in both directions.

use crate::{Error, Event, Hypervisor, Result, events::BlockJobStatus, ffi, requests};
use model::VmId;
use std::{ops::ControlFlow, path::Path, sync::mpsc::Receiver, time::Duration};
use virt::{error::ErrorNumber, sys};

/// How often a running job's progress is reported, and its existence checked should an event be lost.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whether QEMU makes the overlay's file or finds one prepared by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    Create,
    /// A qcow2 whose backing file is the disk's present file.
    Reuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockJob {
    pub kind: BlockJobKind,
    pub done_bytes: u64,
    /// May grow while the guest writes.
    pub end_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockJobKind {
    Pull,
    Copy,
    Commit,
    ActiveCommit,
    Backup,
    Other,
}

impl Hypervisor {
    /// Puts an overlay (absolute path) on each disk named, all at one instant, and on no other; the files
    /// beneath are immutable from then on. libvirt keeps no record of the snapshot.
    pub fn snapshot_external(&self, vm: VmId, overlays: &[(&str, &Path)], mode: Overlay) -> Result<()> {
        let domain = self.lookup(vm)?;
        let xml = requests::snapshot(overlays, &self.targets(&domain, vm)?)?;
        let mut flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA;
        if mode == Overlay::Reuse {
            flags |= sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;
        }
        domain.create_snapshot_xml(&xml, flags).map(drop).map_err(|source| Error::Call {
            what: "put overlays on the disks of",
            vm,
            source,
        })
    }

    /// Commits the disk's active layer, and all layers between, into `base` (without: the bottom), and
    /// pivots to it. `progress` is called at least once with what is done; `Break` cancels, and the domain
    /// stays where it was. The overlay's file is the caller's to delete.
    pub fn commit_active(
        &self,
        vm: VmId,
        target: &str,
        base: Option<&Path>,
        progress: impl FnMut(BlockJob) -> ControlFlow<()>,
    ) -> Result<()> {
        let domain = self.lookup(vm)?;
        let events = self.events();
        let base = base.map(Path::to_string_lossy);
        ffi::block_commit(&domain, target, base.as_deref(), None, sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
            .map_err(|source| disk_error("commit", vm, target, source))?;
        self.follow(vm, target, &events, BlockJobStatus::Ready, progress)?;
        ffi::block_job_abort(&domain, target, sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
            .map_err(|source| disk_error("pivot", vm, target, source))
    }

    /// Commits the layers from `top` down into `base`, both below the active layer, which stays.
    /// `progress` as in [`Self::commit_active`].
    pub fn commit_layers(
        &self,
        vm: VmId,
        target: &str,
        top: &Path,
        base: &Path,
        progress: impl FnMut(BlockJob) -> ControlFlow<()>,
    ) -> Result<()> {
        let domain = self.lookup(vm)?;
        let events = self.events();
        let (top, base) = (top.to_string_lossy(), base.to_string_lossy());
        ffi::block_commit(&domain, target, Some(&base), Some(&top), 0)
            .map_err(|source| disk_error("commit", vm, target, source))?;
        self.follow(vm, target, &events, BlockJobStatus::Completed, progress)
    }

    /// The block job that works on a disk, if any: also one that an earlier process left.
    pub fn block_job(&self, vm: VmId, target: &str) -> Result<Option<BlockJob>> {
        let domain = self.lookup(vm)?;
        ffi::block_job(&domain, target)
            .map_err(|source| disk_error("look for a block job on", vm, target, source))
    }

    /// Ends a block job without a pivot and waits for its end. False when there was none.
    pub fn abort_block_job(&self, vm: VmId, target: &str) -> Result<bool> {
        let domain = self.lookup(vm)?;
        if self.block_job(vm, target)?.is_none() {
            return Ok(false);
        }
        match ffi::block_job_abort(&domain, target, 0) {
            Ok(()) => Ok(true),
            Err(_) if self.block_job(vm, target)?.is_none() => Ok(false),
            Err(source) => Err(disk_error("abort the block job on", vm, target, source)),
        }
    }

    /// Follows the job to `wanted`: an active commit to `Ready`, another one to `Completed`.
    fn follow(
        &self,
        vm: VmId,
        target: &str,
        events: &Receiver<Event>,
        wanted: BlockJobStatus,
        mut progress: impl FnMut(BlockJob) -> ControlFlow<()>,
    ) -> Result<()> {
        let failed = |reason: &str| Error::BlockJobFailed {
            vm,
            target: target.to_owned(),
            reason: Some(reason.into()),
        };
        let mut last = None;
        let mut waited_in_vain = false;
        loop {
            // An end that an event reports counts only once the job is seen to be gone: it may be the late
            // end of the disk's previous job.
            match (self.block_job(vm, target)?, last) {
                (Some(job), last) => {
                    if last == Some(BlockJobStatus::Ready) && wanted == BlockJobStatus::Ready {
                        return Ok(());
                    }
                    if progress(job).is_break() {
                        self.abort_block_job(vm, target)?;
                        return Err(Error::BlockJobCancelled { vm, target: target.to_owned() });
                    }
                }
                (None, Some(BlockJobStatus::Completed)) if wanted == BlockJobStatus::Completed => {
                    return Ok(());
                }
                (None, Some(BlockJobStatus::Failed)) => return Err(failed("QEMU reported an error")),
                (None, Some(BlockJobStatus::Cancelled)) => {
                    return Err(failed("it was cancelled from outside"));
                }
                (None, Some(_)) => return Err(failed("it ended without becoming ready")),
                (None, None) if waited_in_vain => return Err(failed("it vanished without an event")),
                (None, None) => {}
            }
            match events.recv_timeout(LOOK_EVERY) {
                Ok(Event::BlockJob { vm: of, disk, status }) if of == vm && disk == target => {
                    last = Some(status);
                }
                Ok(Event::ConnectionClosed) => return Err(Error::ConnectionClosed),
                Ok(_) => {}
                Err(_) => waited_in_vain = true,
            }
        }
    }
}

fn disk_error(what: &'static str, vm: VmId, target: &str, source: virt::error::Error) -> Error {
    let target = target.to_owned();
    if crate::error::is(&source, ErrorNumber::InvalidArg) && source.message().contains("not found in domain")
    {
        return Error::NoSuchDisk { vm, target };
    }
    Error::Disk { what, vm, target, source }
}
