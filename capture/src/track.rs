//! The ends of tracking: whether a VM can be captured at all, taking up a bitmap that someone else made, and
//! leaving no trace.

use crate::{
    Capture, Check,
    error::{CaptureError, Result},
    places::checkpoint_name,
    spool::{remove, remove_folder},
};
use hypervisor::{DomainInfo, checkpoint_record};
use model::DeltaId;

impl Capture {
    /// Refuses a VM with internal snapshots, and lists every reason why a disk of it cannot be captured.
    pub fn check(&self) -> Result<Check> {
        let domain = self.domain()?;
        self.refuse_snapshots(&domain)?;
        let mut refused = vec![];
        for info in &domain.disks {
            if let Some(reason) = &info.refused {
                refused.push((info.target.clone(), reason.clone()));
            }
        }
        for disk in &self.disks {
            if !domain.disks.iter().any(|info| info.target == disk.target) {
                refused.push((disk.target.clone(), "the domain has no such disk".into()));
            }
        }
        Ok(Check { tracking: self.tracking(), refused })
    }

    pub(crate) fn refuse_uncapturable(&self, domain: &DomainInfo) -> Result<()> {
        self.refuse_snapshots(domain)?;
        for disk in &self.disks {
            if let Some(reason) = self.info(domain, disk)?.refused.clone() {
                return Err(CaptureError::Refused { vm: self.vm, target: disk.target.clone(), reason });
            }
        }
        Ok(())
    }

    /// Reverting to one fails while our bitmaps exist, and leaves the VM off.
    fn refuse_snapshots(&self, domain: &DomainInfo) -> Result<()> {
        if domain.internal_snapshots.is_empty() {
            return Ok(());
        }
        Err(CaptureError::InternalSnapshots { vm: self.vm, names: domain.internal_snapshots.clone() })
    }

    /// Makes `relevo-<delta>` the base of tracking of a running VM whose images carry a bitmap of that name,
    /// added before it started.
    pub fn track_from(&self, delta: DeltaId) -> Result<()> {
        if !self.is_live()? {
            return Err(CaptureError::ShutOff { vm: self.vm });
        }
        self.make_folders()?;
        let mut journal = self.journal()?;
        if let Some(turn) = &journal.turn {
            return Err(CaptureError::TurnPending { pending: turn.delta });
        }
        let name = checkpoint_name(delta);
        let known = self.hypervisor.checkpoints(self.vm)?;
        if !known.iter().any(|checkpoint| checkpoint.name == name) {
            let record = checkpoint_record(&name, None, &self.targets(), (self.clock)() / 1000)?;
            self.hypervisor
                .redefine_checkpoint(self.vm, &record, true)
                .map_err(|error| crate::live::not_tracked(delta, error))?;
        }
        let domain = self.domain()?;
        journal.sizes.clear();
        for disk in &self.disks {
            journal.sizes.push((disk.disk, self.info(&domain, disk)?.size_bytes));
        }
        journal.settled = Some(delta);
        self.save(&journal)
    }

    /// Removes the bitmaps from the disks of a VM that was undefined here to run elsewhere: below an overlay that records
    /// under the same name, libvirt would take them for a part of that chain.
    pub fn forget_bitmaps(&self) -> Result<()> {
        if self.tracking() == crate::Tracking::Bitmap && self.hypervisor.domain(self.vm)?.is_none() {
            self.sweep_bitmaps(&[])?;
        }
        Ok(())
    }

    /// Removes every trace from the VM: checkpoints, bitmaps, overlays, spool, journal. The digest stays: it
    /// tells the difference when the VM is protected again. The disks of one that is not defined here are left alone:
    /// it may run on another host.
    pub fn release(&self) -> Result<()> {
        // Told in the log; the domain may be gone.
        let _ = self.thaw_left_frozen();
        self.refuse_away()?;
        let mut journal = self.journal()?;
        if self.hypervisor.domain(self.vm)?.is_some() {
            self.take_back(&mut journal)?;
            self.take_overlays_off(&mut journal)?;
            if self.tracking() == crate::Tracking::Bitmap {
                self.drop_checkpoints(None)?;
            }
        }
        journal.settled = None;
        journal.turn = None;
        journal.sizes.clear();
        self.save(&journal)?;
        self.sweep(&journal)?;
        remove_folder(&self.spool_folder())?;
        remove(&self.journal_path())
    }
}
