//! The frozen base of a first copy or a resync where bitmaps track: an overlay on every disk lets the VM go
//! on (or start) while the files beneath stand still and are read directly.
//!
//! A checkpoint is made first, so that whatever is written from then on is in its bitmap: in the base until
//! the overlay is there, in the overlay afterwards, and in the base again once the overlay is committed back.

use crate::{
    Capture, Consistency, Disk, DiskFormat,
    cut::Moment,
    error::{CaptureError, Result, file_error},
    image::Image,
    journal::Turn,
    places::{CHECKPOINT_PREFIX, checkpoint_name, make_folder},
    spool, tools,
};
use hypervisor::{image, overlay::Overlay, xml};
use model::durable;
use std::{ops::ControlFlow, path::Path, time::Duration};

/// QEMU writes to the file below until the snapshot is done, and what it wrote to the overlay last may have got its time
/// before.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

impl Capture {
    pub(crate) fn freeze_live(&self, turn: &Turn, consistency: Consistency) -> Result<Moment> {
        self.hypervisor.create_checkpoint(self.vm, &checkpoint_name(turn.delta), &self.targets())?;
        self.fault.at("checkpoint made")?;
        self.put_overlays_live(turn, consistency)
    }

    /// One snapshot over all disks.
    pub(crate) fn put_overlays_live(&self, turn: &Turn, consistency: Consistency) -> Result<Moment> {
        let overlays = self.overlays(turn)?;
        for (_, path) in &overlays {
            make_parent(path)?;
        }
        self.consistently(consistency, || {
            Ok(self.hypervisor.snapshot_external(self.vm, &overlays, Overlay::Create)?)
        })
    }

    pub(crate) fn freeze_offline(&self, turn: &Turn) -> Result<Moment> {
        let name = checkpoint_name(turn.delta);
        for disk in &self.disks {
            if !image::bitmaps(&disk.path)?.iter().any(|bitmap| bitmap.name == name) {
                image::add_bitmap(&disk.path, &name)?;
            }
        }
        self.fault.at("bitmaps added")?;
        self.put_overlays_offline(turn, |disk, overlay| {
            // Older tracking must not miss what is written above it.
            for bitmap in image::bitmaps(disk)? {
                if bitmap.name.starts_with(CHECKPOINT_PREFIX) && !bitmap.in_use {
                    image::add_bitmap(overlay, &bitmap.name)?;
                }
            }
            Ok(())
        })?;
        self.record_checkpoint(turn.delta)?;
        Ok(Moment { cut_at_ms: (self.clock)(), application_consistent: None, dirty_bytes: 0 })
    }

    /// Makes overlays on what the disks stand on now and defines the domain on them. `dress` sees each
    /// (file below, overlay) before it counts.
    pub(crate) fn put_overlays_offline(
        &self,
        turn: &Turn,
        dress: impl Fn(&Path, &Path) -> Result<()>,
    ) -> Result<()> {
        let before = self.hypervisor.xml(self.vm, true)?;
        let mut text = before.clone();
        for ((target, overlay), disk) in self.overlays(turn)?.into_iter().zip(&turn.disks) {
            make_parent(overlay)?;
            spool::remove(overlay)?;
            tools::create_overlay(overlay, &disk.read, disk.read_format)?;
            dress(&disk.read, overlay)?;
            sync_file(overlay)?;
            text = xml::set_disk_source(&text, target, overlay, DiskFormat::Qcow2.name())?;
        }
        self.fault.at("overlays created")?;
        if self.is_live()? {
            return Err(CaptureError::Running { vm: self.vm });
        }
        self.hypervisor.define(&text)?;
        // It may have started between the look and the definition, on the disks that are to stand still.
        if self.is_live()? {
            let domain = self.domain()?;
            let stands = |(target, overlay): &(&str, &Path)| {
                domain.disks.iter().any(|disk| disk.target == *target && disk.path() == Some(*overlay))
            };
            if !self.overlays(turn)?.iter().all(stands) {
                self.hypervisor.define(&before)?;
                return Err(CaptureError::Running { vm: self.vm });
            }
        }
        Ok(())
    }

    /// After a loss of power within a snapshot the definition names what lies below the overlays, for it is written
    /// last, and the VM wrote to these. Defines it on them, where they hold something; true where it stands on them.
    /// Where the disk below was written to since, somebody has committed them meanwhile, and they are stale. Of a running
    /// VM libvirt's word counts; its definition is made to say the same.
    pub(crate) fn stand_on_what_was_written(&self, turn: &Turn) -> Result<bool> {
        if self.is_live()? {
            let domain = self.domain()?;
            let mut standing = false;
            for (disk, entry) in self.disks.iter().zip(&turn.disks) {
                if entry.overlay.as_deref() == Some(self.source(&domain, disk)?) {
                    self.hypervisor.define_after_commit(self.vm, &disk.target, &entry.read)?;
                    standing = true;
                }
            }
            return Ok(standing);
        }
        let placed =
            || turn.disks.iter().filter_map(|disk| Some((disk.read.as_path(), disk.overlay.as_deref()?)));
        let written = placed().any(|(_, overlay)| holds_data(overlay));
        let stale = placed().any(|(below, overlay)| was_written_after(below, overlay));
        if !written || stale {
            return Ok(false);
        }
        let before = self.hypervisor.xml(self.vm, true)?;
        let mut text = before.clone();
        for (target, overlay) in self.overlays(turn)? {
            text = xml::set_disk_source(&text, target, overlay, DiskFormat::Qcow2.name())?;
        }
        if text != before {
            tracing::warn!(vm = %self.vm, delta = %turn.delta, "the VM wrote to overlays that its definition did not name");
            self.hypervisor.define(&text)?;
        }
        Ok(true)
    }

    fn overlays<'a>(&'a self, turn: &'a Turn) -> Result<Vec<(&'a str, &'a Path)>> {
        let pair = |disk: &'a crate::journal::TurnDisk| {
            let overlay = disk.overlay.as_deref().ok_or(CaptureError::UnknownDelta { delta: turn.delta })?;
            Ok((self.disk(disk.disk)?.target.as_str(), overlay))
        };
        turn.disks.iter().map(pair).collect()
    }

    /// Commits a turn's overlays back and removes them. Finishes what an earlier call left, and does nothing
    /// where it was done.
    pub(crate) fn commit_back(&self, turn: &Turn) -> Result<()> {
        if turn.disks.iter().all(|disk| disk.overlay.is_none()) {
            return Ok(());
        }
        let live = self.is_live()?;
        let domain = self.domain()?;
        let mut standing = vec![];
        for (disk, entry) in self.disks.iter().zip(&turn.disks) {
            let Some(overlay) = &entry.overlay else { continue };
            if self.source(&domain, disk)? == overlay {
                standing.push((disk, overlay.as_path()));
            }
        }
        if live {
            for (disk, overlay) in standing {
                self.hypervisor
                    .commit_active(self.vm, &disk.target, Some(&disk.path), |_| ControlFlow::Continue(()))?;
                self.fault.at("one overlay committed")?;
                tracing::debug!(vm = %self.vm, overlay = %overlay.display(), "committed back");
            }
        } else {
            self.commit_offline(&standing)?;
        }
        self.fault.at("overlays committed")?;
        self.require_free(turn.disks.iter().filter_map(|entry| entry.overlay.as_ref()))?;
        for (disk, entry) in self.disks.iter().zip(&turn.disks) {
            let Some(overlay) = &entry.overlay else { continue };
            if live {
                self.hypervisor.define_after_commit(self.vm, &disk.target, overlay)?;
            }
            // Whatever libvirt says of it: a file that QEMU has open may hold what the guest wrote.
            if overlay.exists() {
                tools::wait_closed(overlay)?;
            }
            spool::remove(overlay)?;
        }
        Ok(())
    }

    /// Commits the overlays that a VM which is off stands on, and has it stand on its disks. They are locked meanwhile:
    /// who starts the VM after its overlay was committed does not write to it.
    pub(crate) fn commit_offline(&self, standing: &[(&Disk, &Path)]) -> Result<()> {
        if standing.is_empty() {
            return Ok(());
        }
        let mut text = self.hypervisor.xml(self.vm, true)?;
        for (disk, overlay) in standing {
            tools::commit(overlay, &disk.path)?;
            sync_file(&disk.path)?;
            self.fault.at("one overlay committed")?;
            text = xml::set_disk_source(&text, &disk.target, &disk.path, disk.format.name())?;
        }
        let mut locks = vec![];
        for (_, overlay) in standing {
            let lock = image::lock(overlay).map_err(file_error("lock", overlay))?;
            // Whoever was faster may have written to it: it is committed another time.
            locks.push(lock.ok_or(CaptureError::Running { vm: self.vm })?);
        }
        if self.is_live()? {
            return Err(CaptureError::Running { vm: self.vm });
        }
        self.hypervisor.define(&text)?;
        Ok(())
    }
}

/// One that was never finished holds nothing.
fn holds_data(overlay: &Path) -> bool {
    Image::open_alone(overlay).and_then(|image| image.touched()).is_ok_and(|touched| !touched.is_empty())
}

/// Regular files only: a device's node does not tell when it was written to.
fn was_written_after(below: &Path, overlay: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let times = modified(below).zip(modified(overlay));
    times.is_some_and(|(below, overlay)| below > overlay + CLOSED_WITHIN)
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), make_folder)
}

/// Makes a file that a tool wrote durable, with its name.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .and_then(|()| durable::sync_parent(path))
        .map_err(file_error("sync", path))
}
