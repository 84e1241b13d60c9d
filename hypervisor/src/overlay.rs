//! External overlays on a running domain, and committing them back.
//!
//! An active commit ends in a pivot: the domain goes on in the base, and the overlay's file is left over
//! for the caller to delete. Bitmaps follow in both directions.

use crate::{Error, Event, Hypervisor, Result, events::BlockJobStatus, ffi, requests, xml};
use model::VmId;
use std::{
    ops::ControlFlow,
    path::Path,
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};
use virt::{domain::Domain, error::ErrorNumber, sys};

/// How often a running job's progress is reported, and its existence checked should an event be lost.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How late the event of a job's end may be: the thread that delivers it shares the processors with everything else.
const EVENT_LATE_MAX: Duration = Duration::from_secs(10);

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
        self.refuse_backup_running(vm)?;
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
    /// pivots to it. Such a commit that an earlier process left is taken up where it is. `progress` is called at
    /// least once with what is done; `Break` cancels, and the domain stays where it was. The overlay's file is the
    /// caller's to delete.
    pub fn commit_active(
        &self,
        vm: VmId,
        target: &str,
        base: Option<&Path>,
        mut progress: impl FnMut(BlockJob) -> ControlFlow<()>,
    ) -> Result<()> {
        let domain = self.lookup(vm)?;
        let events = self.events();
        if self.take_up(&domain, vm, target, &events, &mut progress)? {
            return Ok(());
        }
        let base = base.map(Path::to_string_lossy);
        ffi::block_commit(&domain, target, base.as_deref(), None, sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
            .map_err(|source| disk_error("commit", vm, target, source))?;
        self.follow(vm, target, &events, BlockJobStatus::Ready, progress)?;
        ffi::block_job_abort(&domain, target, sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
            .map_err(|source| disk_error("pivot", vm, target, source))
    }

    /// Brings a commit of the active layer to its pivot that an earlier process left. False when there was none, or
    /// it ended without.
    fn take_up(
        &self,
        domain: &Domain,
        vm: VmId,
        target: &str,
        events: &Receiver<Event>,
        progress: &mut impl FnMut(BlockJob) -> ControlFlow<()>,
    ) -> Result<bool> {
        let stands_on = || xml::disk_source(&self.domain_xml(domain, vm, false)?, target);
        let before = stands_on()?;
        while let Some(job) = self.block_job(vm, target)? {
            if job.kind != BlockJobKind::ActiveCommit {
                return Ok(false);
            }
            if progress(job).is_break() {
                self.abort_block_job(vm, target)?;
                return Err(Error::BlockJobCancelled { vm, target: target.to_owned() });
            }
            match ffi::block_job_abort(domain, target, sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT) {
                Ok(()) => return Ok(true),
                Err(source) if crate::error::is(&source, ErrorNumber::BlockCopyActive) => {
                    // Not ready yet, and the event that it is may have gone to the earlier process.
                    let _ = events.recv_timeout(LOOK_EVERY);
                }
                Err(_) if self.block_job(vm, target)?.is_none() => break,
                Err(source) => return Err(disk_error("pivot", vm, target, source)),
            }
        }
        Ok(stands_on()? != before)
    }

    /// Makes the definition of a running domain name the file that the domain has, where it names `stale`: libvirt
    /// writes it after a commit, and may have died in between. Without this the next start would be from `stale`.
    pub fn define_after_commit(&self, vm: VmId, target: &str, stale: &Path) -> Result<()> {
        let domain = self.lookup(vm)?;
        let (running, defined) = (self.domain_xml(&domain, vm, false)?, self.domain_xml(&domain, vm, true)?);
        let Some((path, format)) = xml::disk_source(&running, target)? else { return Ok(()) };
        let names_stale = xml::disk_source(&defined, target)?.is_some_and(|(named, _)| named == stale);
        if names_stale && path != stale {
            tracing::warn!(%vm, target, stale = %stale.display(), "the definition named what was committed");
            self.define(&xml::set_disk_source(&defined, target, &path, &format)?)?;
        }
        Ok(())
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
        let Some(job) = self.block_job(vm, target)? else { return Ok(false) };
        // A libvirt that died when it had begun the commit and not noted it: libvirt 9.0 would crash.
        if job.kind == BlockJobKind::ActiveCommit
            && !xml::has_mirror(&self.domain_xml(&domain, vm, false)?, target)?
        {
            let reason = "libvirt has half forgotten it: it can be completed, and not be ended".to_owned();
            return Err(Error::BlockJobFailed { vm, target: target.to_owned(), reason: Some(reason) });
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
        let mut gone_since = None;
        loop {
            match step(self.block_job(vm, target)?, last, wanted, &mut gone_since, EVENT_LATE_MAX) {
                Step::Reached => return Ok(()),
                Step::Failed(reason) => return Err(failed(reason)),
                Step::Under(job) if progress(job).is_break() => {
                    self.abort_block_job(vm, target)?;
                    return Err(Error::BlockJobCancelled { vm, target: target.to_owned() });
                }
                Step::Under(_) | Step::Gone => {}
            }
            match events.recv_timeout(LOOK_EVERY) {
                Ok(Event::BlockJob { vm: of, disk, status }) if of == vm && disk == target => {
                    last = Some(status);
                }
                Ok(Event::ConnectionClosed) => return Err(Error::ConnectionClosed),
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// Where a job that is followed stands.
#[derive(Debug, PartialEq)]
enum Step {
    Under(BlockJob),
    /// Its event has not come yet.
    Gone,
    Reached,
    Failed(&'static str),
}

/// An end that an event reports counts only once the job is seen to be gone: it may be the late end of the disk's
/// previous job. The event of a job that is gone may be late, too.
fn step(
    job: Option<BlockJob>,
    last: Option<BlockJobStatus>,
    wanted: BlockJobStatus,
    gone_since: &mut Option<Instant>,
    late_max: Duration,
) -> Step {
    if let Some(job) = job {
        *gone_since = None;
        let is_ready = last == Some(BlockJobStatus::Ready) && wanted == BlockJobStatus::Ready;
        return if is_ready { Step::Reached } else { Step::Under(job) };
    }
    match last {
        Some(BlockJobStatus::Completed) if wanted == BlockJobStatus::Completed => Step::Reached,
        Some(BlockJobStatus::Failed) => Step::Failed("QEMU reported an error"),
        Some(BlockJobStatus::Cancelled) => Step::Failed("it was cancelled from outside"),
        Some(_) => Step::Failed("it ended without becoming ready"),
        None if gone_since.get_or_insert_with(Instant::now).elapsed() > late_max => {
            Step::Failed("it vanished without an event")
        }
        None => Step::Gone,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_gone_has_time_to_tell_how_it_ended() {
        let job = BlockJob { kind: BlockJobKind::Commit, done_bytes: 1, end_bytes: 2 };
        let late_max = Duration::from_secs(3600);
        let mut gone_since = None;
        let mut look = |job, last, late_max| {
            let wanted = BlockJobStatus::Completed;
            step(job, last, wanted, &mut gone_since, late_max)
        };
        // However long it runs without an event.
        for _ in 0..3 {
            assert_eq!(look(Some(job), None, Duration::ZERO), Step::Under(job));
        }
        assert_eq!(look(None, None, late_max), Step::Gone);
        assert_eq!(look(None, None, late_max), Step::Gone);
        assert_eq!(look(None, Some(BlockJobStatus::Completed), late_max), Step::Reached);
        assert_eq!(look(None, None, Duration::ZERO), Step::Failed("it vanished without an event"));
        // The end of the job before it.
        assert_eq!(look(Some(job), Some(BlockJobStatus::Completed), late_max), Step::Under(job));
        assert_eq!(
            look(None, Some(BlockJobStatus::Ready), late_max),
            Step::Failed("it ended without becoming ready")
        );
    }
}
