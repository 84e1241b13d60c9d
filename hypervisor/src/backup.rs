//! Push-mode backup of a running domain into local qcow2 files: one call cuts all disks at one instant.

use crate::{BlockJobKind, Error, Hypervisor, Result, checkpoint, error, ffi, requests};
use model::VmId;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use virt::error::ErrorNumber;

/// How often a waiter looks for itself whether the job still exists, should its event be lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A cancelled job ends with the request that it has under way.
const JOB_END_MAX: Duration = Duration::from_secs(60);
const JOB_LOOK_EVERY: Duration = Duration::from_millis(5);
/// libvirt says whose a job is within milliseconds.
const JOB_OWNED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOutcome {
    /// False when any disk failed, or the job was aborted, or QEMU died: nothing in the targets counts.
    pub success: bool,
    pub error: Option<String>,
    /// Bytes that the job processed, over all disks.
    pub bytes: u64,
}

impl Hypervisor {
    /// Starts a backup of `targets` (disk target, spool path), which must be all the disks that the
    /// checkpoints cover; other disks are left out. With `incremental`, only what changed since that
    /// checkpoint is copied; `new_checkpoint` is created at the same instant. The spool files are made by
    /// libvirt (qcow2, backing file the live disk); one that exists is refused.
    ///
    /// A lost bitmap is [`Error::CheckpointLost`], a backup that runs [`Error::BackupRunning`]. When the call fails
    /// no job of its own runs and `new_checkpoint` does not exist.
    pub fn backup_begin(
        &self,
        vm: VmId,
        incremental: Option<&str>,
        new_checkpoint: Option<&str>,
        targets: &[(&str, &Path)],
    ) -> Result<()> {
        self.refuse_backup_running(vm)?;
        let domain = self.lookup(vm)?;
        let all = self.targets(&domain, vm)?;
        let backup = requests::backup(incremental, targets, &all)?;
        let names: Vec<&str> = targets.iter().map(|(target, _)| *target).collect();
        let record = new_checkpoint.map(|name| requests::checkpoint(name, &names, &all)).transpose()?;
        // Reading without KEEP drops what libvirt remembers of an earlier job: from here on an outcome,
        // by event or by statistics, belongs to this job.
        let _ = ffi::completed_job(&domain, 0);
        self.inner.bus.forget_backup(vm);
        ffi::backup_begin(&domain, &backup, record.as_deref()).map_err(|source| match incremental {
            Some(name)
                if error::is(&source, ErrorNumber::CheckpointInconsistent)
                    || error::is(&source, ErrorNumber::NoDomainCheckpoint) =>
            {
                checkpoint::failed("back up from", vm, name, source)
            }
            _ if domain.is_active() == Ok(false) => Error::NotRunning { vm },
            _ => Error::Call { what: "begin a backup of", vm, source },
        })
    }

    /// Waits for the end of the backup, however long it takes ([`Self::abort_backup`] ends it). Also finds
    /// the outcome of one that ran or ended while nobody was connected. Takes the outcome: a second call
    /// is [`Error::NoBackup`].
    pub fn wait_backup(&self, vm: VmId) -> Result<BackupOutcome> {
        let mut ended = false;
        loop {
            if let Some(outcome) = self.inner.bus.take_backup(vm, LOOK_EVERY) {
                if let Ok(domain) = self.lookup(vm) {
                    let _ = ffi::completed_job(&domain, 0);
                }
                return Ok(outcome);
            }
            if self.inner.bus.closed() {
                return Err(Error::ConnectionClosed);
            }
            if ended {
                return self.remembered_backup(vm);
            }
            ended = !self.backup_running(vm)?;
        }
    }

    pub fn backup_running(&self, vm: VmId) -> Result<bool> {
        Ok(self.backup_files(vm)?.is_some())
    }

    /// The files that a running backup writes, whoever began it; `None` when there is no backup.
    pub fn backup_files(&self, vm: VmId) -> Result<Option<Vec<PathBuf>>> {
        let domain = self.lookup(vm)?;
        match ffi::backup_xml(&domain) {
            Ok(text) => requests::backup_files(&text).map(Some),
            Err(error)
                if error::is(&error, ErrorNumber::NoDomainBackup)
                    || error::is(&error, ErrorNumber::OperationInvalid) =>
            {
                Ok(None)
            }
            Err(source) => Err(Error::Call { what: "ask for a backup of", vm, source }),
        }
    }

    /// libvirt waits half a minute for the other backup's end, and names it as a lock then.
    pub(crate) fn refuse_backup_running(&self, vm: VmId) -> Result<()> {
        if self.backup_running(vm)? { Err(Error::BackupRunning { vm }) } else { Ok(()) }
    }

    /// Asks a running backup to end; [`Self::wait_backup`] tells when it has. The checkpoint that it made
    /// stays listed: deleting it gives its bits back to the older one. False when no backup ran.
    pub fn abort_backup(&self, vm: VmId) -> Result<bool> {
        if !self.backup_running(vm)? {
            return Ok(false);
        }
        let domain = self.lookup(vm)?;
        match ffi::abort_job(&domain) {
            Ok(()) => Ok(true),
            Err(error) if error::is(&error, ErrorNumber::OperationInvalid) => Ok(false),
            Err(source) => Err(Error::Call { what: "abort the backup of", vm, source }),
        }
    }

    /// Ends the jobs of an earlier backup that QEMU still has on these disks, and waits until they are over. A libvirtd
    /// that was killed within [`Self::backup_begin`] has forgotten the backup and not its jobs; libvirt 9.0 takes the
    /// end of one for that of the next backup, and can crash.
    pub fn end_backup_jobs(&self, vm: VmId, targets: &[&str]) -> Result<()> {
        for target in targets {
            let since = Instant::now();
            let mut asked = false;
            while self.block_job(vm, target)?.is_some_and(|job| job.kind == BlockJobKind::Backup) {
                // Another program's, that just begins: libvirt has the jobs before it has the backup.
                if self.backup_running(vm)? {
                    return Ok(());
                }
                if since.elapsed() > JOB_END_MAX {
                    let reason = Some("the job of an earlier backup does not end".to_owned());
                    return Err(Error::BlockJobFailed { vm, target: (*target).to_owned(), reason });
                }
                if since.elapsed() > JOB_OWNED_WITHIN && !std::mem::replace(&mut asked, true) {
                    // Refused where it is about to end by itself.
                    let _ = self.abort_block_job(vm, target);
                }
                std::thread::sleep(JOB_LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// What libvirt remembers of the last job, until it is asked without KEEP or the domain stops.
    fn remembered_backup(&self, vm: VmId) -> Result<BackupOutcome> {
        let domain = self.lookup(vm)?;
        if !self.is_active(vm)? {
            let error = Some("the virtual machine stopped".to_owned());
            return Ok(BackupOutcome { success: false, error, bytes: 0 });
        }
        let job = ffi::completed_job(&domain, 0).map_err(|source| Error::Call {
            what: "read job statistics of",
            vm,
            source,
        })?;
        job.filter(|job| job.backup).map(|job| job.outcome).ok_or(Error::NoBackup { vm })
    }
}
