//! After the daemon's or the VM's restart: what was begun is finished or undone, what nobody owns is swept,
//! and tracking is believed only where it is seen to be there.

use crate::{
    Capture, Pending, Recovered, Tracking,
    error::{CaptureError, Result},
    journal::{Journal, Stage, Turn},
    live::describe,
    places::{CHECKPOINT_PREFIX, checkpoint_name},
    qsd,
};
use hypervisor::{checkpoint_record, image as images};
use model::DeltaId;

impl Capture {
    /// After the daemon's or the VM's restart. `acknowledged`: the latest delta that the peer has on disk.
    /// [`crate::CaptureError::Away`] if the VM may run on another host: nothing was touched then.
    pub fn recover(&self, acknowledged: Option<DeltaId>) -> Result<Recovered> {
        self.make_folders()?;
        qsd::end_orphan(&self.storage_daemon_pid_path())?;
        self.refuse_away()?;
        let mut journal = self.journal()?;
        if let Some(turn) = &journal.turn
            && turn.stage == Stage::Read
            && acknowledged == Some(turn.delta)
        {
            self.settle(turn.delta)?;
            journal = self.journal()?;
        }
        let pending = self.recover_turn(&mut journal)?;
        let why = match self.tracking() {
            Tracking::Bitmap => self.recover_bitmaps(&journal, acknowledged)?,
            Tracking::RollingOverlay => self.recover_overlays(&journal)?,
        };
        let next_base = journal.turn.as_ref().map(|turn| turn.delta);
        let why = why.or_else(|| match (journal.settled, acknowledged, next_base) {
            (_, _, Some(_)) => None,
            (Some(settled), Some(acknowledged), None) if settled == acknowledged => None,
            (None, ..) => Some("nothing was tracked".into()),
            (Some(settled), acknowledged, None) => {
                let has = acknowledged.map_or("nothing".into(), |id| id.to_string());
                Some(format!("tracked since {settled}, but the peer has {has}"))
            }
        });
        self.sweep(&journal)?;
        Ok(Recovered { pending, tracking_intact: why.is_none(), why })
    }

    /// Undoes a turn whose cut does not stand.
    fn recover_turn(&self, journal: &mut Journal) -> Result<Option<Pending>> {
        let Some(turn) = journal.turn.clone() else { return Ok(None) };
        let mut ready_to_send = turn.stage != Stage::Begun && self.is_readable(&turn);
        if ready_to_send {
            match self.require_still(&turn) {
                // Ours, in giving it up, or somebody else's doing.
                Err(CaptureError::Disturbed { .. }) => ready_to_send = false,
                still => still?,
            }
        }
        if !ready_to_send {
            self.take_back(journal)?;
        }
        Ok(Some(Pending { delta: turn.delta, base: turn.base, ready_to_send }))
    }

    fn is_readable(&self, turn: &Turn) -> bool {
        turn.disks.iter().all(|disk| disk.open().is_ok())
    }

    /// Reconciles libvirt's checkpoints with the bitmaps; the reason if the one that the next delta counts
    /// from is lost.
    fn recover_bitmaps(&self, journal: &Journal, acknowledged: Option<DeltaId>) -> Result<Option<String>> {
        let pending = journal.turn.as_ref().map(|turn| turn.delta);
        let wanted: Vec<DeltaId> = journal.settled.into_iter().chain(pending).collect();
        let live = self.is_live()?;
        let names: Vec<String> = wanted.iter().map(|delta| checkpoint_name(*delta)).collect();
        for checkpoint in self.hypervisor.checkpoints(self.vm)? {
            if checkpoint.name.starts_with(CHECKPOINT_PREFIX) && !names.contains(&checkpoint.name) {
                self.drop_checkpoint(&checkpoint.name)?;
            }
        }
        if !live {
            self.sweep_bitmaps(&names)?;
        }
        let mut lost = None;
        for delta in wanted {
            let problem = if live { self.checkpoint_live(delta)? } else { self.checkpoint_offline(delta)? };
            // While a turn is pending, the next delta counts from its own checkpoint.
            let counts = pending.or(acknowledged) == Some(delta);
            lost = lost.or(problem.filter(|_| counts));
        }
        Ok(lost)
    }

    /// Makes a checkpoint of a running VM usable, or deletes it and says why it is lost.
    pub(crate) fn checkpoint_live(&self, delta: DeltaId) -> Result<Option<String>> {
        let name = checkpoint_name(delta);
        let usable = match self.hypervisor.checkpoint_size(self.vm, &name) {
            Ok(_) => return Ok(None),
            Err(hypervisor::Error::NoSuchCheckpoint { .. }) => {
                let record = checkpoint_record(&name, None, &self.targets(), (self.clock)() / 1000)?;
                self.hypervisor.redefine_checkpoint(self.vm, &record, true)
            }
            Err(error) => Err(error),
        };
        let Err(error) = usable else { return Ok(None) };
        // A VM that is just being migrated to this host lets nobody look, for as long as that takes.
        if error.is_timeout() {
            return Err(error.into());
        }
        self.drop_checkpoint(&name)?;
        Ok(Some(describe(&error)))
    }

    /// The same for a VM that is off: the images' word counts.
    fn checkpoint_offline(&self, delta: DeltaId) -> Result<Option<String>> {
        let name = checkpoint_name(delta);
        for disk in &self.disks {
            let bitmap = images::bitmaps(&disk.path)?.into_iter().find(|bitmap| bitmap.name == name);
            let problem = match bitmap {
                None => "missing",
                Some(bitmap) if bitmap.in_use => "inconsistent",
                Some(_) => continue,
            };
            self.drop_checkpoint(&name)?;
            return Ok(Some(format!("disk {}: the bitmap of checkpoint {name} is {problem}", disk.target)));
        }
        self.record_checkpoint(delta)?;
        Ok(None)
    }

    /// Removes bitmaps of ours that no checkpoint needs, and inconsistent ones: they would break a migration.
    pub(crate) fn sweep_bitmaps(&self, keep: &[String]) -> Result<()> {
        for disk in &self.disks {
            for bitmap in images::bitmaps(&disk.path)? {
                if bitmap.name.starts_with(CHECKPOINT_PREFIX)
                    && (bitmap.in_use || !keep.contains(&bitmap.name))
                {
                    images::remove_bitmap(&disk.path, &bitmap.name)?;
                }
            }
        }
        Ok(())
    }

    /// Rolling overlays are there as long as the disks stand on the active one.
    fn recover_overlays(&self, journal: &Journal) -> Result<Option<String>> {
        let Some(active) = journal.overlays.last() else { return Ok(Some("there are no overlays".into())) };
        let domain = self.domain()?;
        for disk in &self.disks {
            let source = self.source(&domain, disk)?;
            if active.path(disk.disk) != Some(source) {
                return Ok(Some(format!("disk {} stands on {}", disk.target, source.display())));
            }
        }
        Ok(None)
    }
}
