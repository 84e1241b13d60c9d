//! Where things are: this VM's files, and the domain as libvirt has it now.

use crate::{
    Capture, Disk, DiskFormat, Tracking,
    error::{CaptureError, Result, file_error},
    journal::{Journal, Turn},
};
use hypervisor::{DomainInfo, xml};
use model::{AttemptId, DeltaId, DiskId};
use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

/// What our checkpoints' names begin with.
pub const CHECKPOINT_PREFIX: &str = "relevo-";

pub fn checkpoint_name(delta: DeltaId) -> String {
    format!("{CHECKPOINT_PREFIX}{delta}")
}

impl Capture {
    /// Where the digest of `disk` lies; a receiver that becomes a sender puts its own there.
    pub fn digest_path(&self, disk: DiskId) -> PathBuf {
        self.state_folder().join(format!("{disk}.digest"))
    }

    /// How this VM's changes are tracked.
    pub fn tracking(&self) -> Tracking {
        if self.disks.iter().all(|disk| disk.format == DiskFormat::Qcow2 && !is_device(&disk.path)) {
            Tracking::Bitmap
        } else {
            Tracking::RollingOverlay
        }
    }

    pub(crate) fn state_folder(&self) -> PathBuf {
        self.folders.state.join("capture").join(self.vm.to_string())
    }

    pub(crate) fn spool_folder(&self) -> PathBuf {
        self.folders.spool.join(self.vm.to_string())
    }

    /// Holds a turn's manifest: sums, digests, candidates and small files.
    pub(crate) fn turn_folder(&self, delta: DeltaId) -> PathBuf {
        self.state_folder().join(delta.to_string())
    }

    pub(crate) fn sums_path(&self, delta: DeltaId, disk: DiskId) -> PathBuf {
        self.turn_folder(delta).join(format!("{disk}.sums"))
    }

    pub(crate) fn new_digest_path(&self, delta: DeltaId, disk: DiskId) -> PathBuf {
        self.turn_folder(delta).join(format!("{disk}.digest"))
    }

    pub(crate) fn candidates_path(&self, delta: DeltaId, disk: DiskId) -> PathBuf {
        self.turn_folder(delta).join(format!("{disk}.candidates"))
    }

    /// What was written since the base of a scrub.
    pub(crate) fn written_path(&self, delta: DeltaId, disk: DiskId) -> PathBuf {
        self.turn_folder(delta).join(format!("{disk}.written"))
    }

    pub(crate) fn spool_path(&self, attempt: AttemptId, disk: DiskId) -> PathBuf {
        self.spool_folder().join(format!("{attempt}-{disk}.qcow2"))
    }

    pub(crate) fn overlay_path(&self, attempt: AttemptId, disk: &Disk) -> PathBuf {
        let folder = match (&self.folders.overlays, disk.path.parent()) {
            (Some(folder), _) => folder.join(self.vm.to_string()),
            (None, Some(parent)) if !is_device(&disk.path) => parent.to_owned(),
            _ => self.spool_folder(),
        };
        folder.join(format!("relevo-{attempt}-{}.qcow2", disk.disk))
    }

    pub(crate) fn storage_daemon_pid_path(&self) -> PathBuf {
        self.state_folder().join("storage-daemon.pid")
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.state_folder().join("journal.json")
    }

    pub(crate) fn journal(&self) -> Result<Journal> {
        Journal::load(&self.journal_path())
    }

    pub(crate) fn save(&self, journal: &Journal) -> Result<()> {
        make_folder(&self.state_folder())?;
        journal.save(&self.journal_path())
    }

    pub(crate) fn disk(&self, id: DiskId) -> Result<&Disk> {
        self.disks
            .iter()
            .find(|disk| disk.disk == id)
            .ok_or_else(|| CaptureError::NoSuchDisk { vm: self.vm, target: id.to_string() })
    }

    pub(crate) fn targets(&self) -> Vec<&str> {
        self.disks.iter().map(|disk| disk.target.as_str()).collect()
    }

    pub(crate) fn domain(&self) -> Result<DomainInfo> {
        self.hypervisor.domain(self.vm)?.ok_or(CaptureError::NoSuchVm { vm: self.vm })
    }

    pub(crate) fn outline(&self) -> Result<DomainInfo> {
        self.hypervisor.outline(self.vm)?.ok_or(CaptureError::NoSuchVm { vm: self.vm })
    }

    pub(crate) fn is_live(&self) -> Result<bool> {
        Ok(self.hypervisor.is_active(self.vm)?)
    }

    /// Refuses a VM that is off on this host alone: nothing of it may be read as its state, or be changed. One that
    /// is not defined is no business of libvirt's.
    pub(crate) fn refuse_away(&self) -> Result<()> {
        if self.is_live()? {
            return Ok(());
        }
        let away = |why| Err(CaptureError::Away { vm: self.vm, why });
        let Some(domain) = self.hypervisor.sketch(self.vm)? else { return Ok(()) };
        if domain.state == hypervisor::DomainState::Migrated {
            return away("it was migrated to another host".into());
        }
        // It goes on with the images under it as they are now, by the names that they have now.
        if domain.has_managed_save {
            let way_out = "start it, or drop the saved state with `virsh managedsave-remove`";
            return away(format!("its state is saved: {way_out}"));
        }
        for disk in &self.disks {
            let Ok(path) = self.source(&domain, disk) else { continue };
            if hypervisor::image::is_open(path).map_err(file_error("open", path))? {
                return away(format!("it is off, and another program or host has {} open", path.display()));
            }
        }
        Ok(())
    }

    /// The file that a disk of the domain stands on now.
    pub(crate) fn source<'a>(&self, domain: &'a DomainInfo, disk: &Disk) -> Result<&'a Path> {
        self.info(domain, disk)?.path().ok_or_else(|| CaptureError::DiskMoved {
            vm: self.vm,
            target: disk.target.clone(),
            expected: disk.path.clone(),
            found: "nothing".into(),
        })
    }

    pub(crate) fn info<'a>(&self, domain: &'a DomainInfo, disk: &Disk) -> Result<&'a hypervisor::DiskInfo> {
        let missing = || CaptureError::NoSuchDisk { vm: self.vm, target: disk.target.clone() };
        domain.disks.iter().find(|info| info.target == disk.target).ok_or_else(missing)
    }

    /// Refuses a disk that does not stand where it should.
    pub(crate) fn expect_source(&self, domain: &DomainInfo, disk: &Disk, expected: &Path) -> Result<()> {
        let found = self.source(domain, disk)?;
        if found == expected {
            return Ok(());
        }
        Err(CaptureError::DiskMoved {
            vm: self.vm,
            target: disk.target.clone(),
            expected: expected.to_owned(),
            found: found.display().to_string(),
        })
    }

    /// Refuses a delta whose disks were read while something wrote to them below the turn's overlays: somebody else has
    /// committed these.
    pub(crate) fn require_still(&self, turn: &Turn) -> Result<()> {
        if turn.disks.iter().all(|disk| disk.overlay.is_none()) {
            return Ok(());
        }
        let Some(domain) = self.hypervisor.domain(self.vm)? else { return Ok(()) };
        for (disk, entry) in self.disks.iter().zip(&turn.disks) {
            let Some(overlay) = &entry.overlay else { continue };
            let info = self.info(&domain, disk)?;
            let stands_above = info.backing_chain.iter().any(|layer| layer.path == *overlay);
            if info.path() != Some(overlay) && !stands_above {
                let (vm, target) = (self.vm, disk.target.clone());
                return Err(CaptureError::Disturbed { delta: turn.delta, vm, target });
            }
        }
        Ok(())
    }

    /// Refuses to forget overlays on which a disk of the VM stands: something else may have put an image on top of them.
    pub(crate) fn require_free<'a>(&self, overlays: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
        let overlays: Vec<&PathBuf> = overlays.into_iter().collect();
        let domain = self.domain()?;
        for disk in &domain.disks {
            let below = disk.backing_chain.iter().map(|layer| layer.path.as_path());
            let standing =
                disk.path().into_iter().chain(below).find(|path| overlays.iter().any(|it| it == path));
            if let Some(overlay) = standing {
                let top = disk.path().unwrap_or(overlay).display();
                return Err(CaptureError::DiskMoved {
                    vm: self.vm,
                    target: disk.target.clone(),
                    expected: overlay.to_owned(),
                    found: format!("{top}, which stands on that overlay"),
                });
            }
        }
        Ok(())
    }

    /// The domain's inactive XML with the disks' own paths: what the peer is to define one day.
    pub(crate) fn clean_xml(&self, journal: &Journal) -> Result<String> {
        let mut text = self.hypervisor.xml(self.vm, true)?;
        let ours = |turn: &Turn| turn.disks.iter().any(|disk| disk.overlay.is_some());
        if !journal.overlays.is_empty() || journal.turn.as_ref().is_some_and(ours) {
            for disk in &self.disks {
                text = xml::set_disk_source(&text, &disk.target, &disk.path, disk.format.name())?;
            }
        }
        Ok(text)
    }
}

pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(file_error("create folder", path))
}
