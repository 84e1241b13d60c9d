//! Overlays: the writable files in which a failed-over or a test VM runs, on top of a point.

use crate::{
    error::{LayersError, Result},
    qemu_img::qemu_img_at_once,
    receive::sync_folder,
    store::Store,
};
use catalog::{Overlay, OverlayKind};
use model::{DeltaId, DiskId, durable};
use std::{ffi::OsString, fs::File, path::PathBuf};

/// QEMU's disks are whole sectors.
const SECTOR_BYTES: u64 = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayDisk {
    pub disk: DiskId,
    pub path: PathBuf,
}

impl Store {
    /// Makes an overlay on each disk of a point and pins the point; with `bitmap`, a persistent dirty
    /// bitmap of 64 KiB is added that records from the first write on. A merge that runs is stopped. Made
    /// again with the same arguments, it answers with what is there.
    pub fn make_overlay(
        &self,
        kind: OverlayKind,
        delta: DeltaId,
        number: u32,
        bitmap: Option<&str>,
    ) -> Result<Vec<OverlayDisk>> {
        let _layers = self.lock_layers()?;
        self.visible_point(delta)?;
        let existing = self.overlay_rows(kind, number)?;
        if let Some(other) = existing.iter().find(|overlay| overlay.delta != delta) {
            return Err(LayersError::OverlayExists { overlay: name(kind, number), delta: other.delta });
        }
        if !existing.is_empty() {
            return Ok(existing.iter().map(|overlay| self.overlay_disk(overlay)).collect());
        }
        let disks = self.disks(delta)?;
        self.make_overlay_files(delta, &disks, &name(kind, number), bitmap)?;
        let path = PathBuf::from(format!("{}.qcow2", name(kind, number)));
        let overlay = |disk| Overlay { kind, number, disk, delta, path: path.clone() };
        let overlays: Vec<_> = disks.into_iter().map(overlay).collect();
        self.catalog.add_overlays(self.vm, &overlays)?;
        self.step("overlay: recorded")?;
        Ok(overlays.iter().map(|overlay| self.overlay_disk(overlay)).collect())
    }

    /// Removes an overlay's files, then its rows and its pin. Nothing may run in it.
    pub fn drop_overlay(&self, kind: OverlayKind, number: u32) -> Result<()> {
        let _layers = self.lock_layers()?;
        for overlay in self.overlay_rows(kind, number)? {
            let path = self.overlay_disk(&overlay).path;
            durable::remove(&path).map_err(LayersError::io(path))?;
            self.step("overlay: file removed")?;
        }
        Ok(self.catalog.delete_overlays(self.vm, kind, number)?)
    }

    /// The files of an overlay; none when there is no such overlay.
    pub fn overlay(&self, kind: OverlayKind, number: u32) -> Result<Vec<OverlayDisk>> {
        Ok(self.overlay_rows(kind, number)?.iter().map(|overlay| self.overlay_disk(overlay)).collect())
    }

    /// Keeps the layers of a point from being written until [`Self::unpin`] with the same words.
    pub fn pin(&self, delta: DeltaId, reason: &str, owner: &str) -> Result<()> {
        let _layers = self.lock_layers()?;
        self.visible_point(delta)?;
        Ok(self.catalog.add_pin(self.vm, delta, reason, owner)?)
    }

    pub fn unpin(&self, reason: &str, owner: &str) -> Result<()> {
        Ok(self.catalog.delete_pins(self.vm, reason, owner)?)
    }

    fn overlay_rows(&self, kind: OverlayKind, number: u32) -> Result<Vec<Overlay>> {
        let mut overlays = self.catalog.overlays(self.vm)?;
        overlays.retain(|overlay| (overlay.kind, overlay.number) == (kind, number));
        Ok(overlays)
    }

    fn overlay_disk(&self, overlay: &Overlay) -> OverlayDisk {
        OverlayDisk { disk: overlay.disk, path: self.disk_folder(overlay.disk).join(&overlay.path) }
    }

    fn make_overlay_files(
        &self,
        delta: DeltaId,
        disks: &[DiskId],
        name: &str,
        bitmap: Option<&str>,
    ) -> Result<()> {
        let partial = |disk: DiskId| self.disk_folder(disk).join(format!("{name}.qcow2.partial"));
        let mut creates = vec![];
        for disk in disks {
            let layers = self.layers_below(delta, *disk)?;
            let top = layers.last().expect("a chain has a layer");
            let (format, size) = (top.format.to_string(), top.size_bytes.next_multiple_of(SECTOR_BYTES));
            // A relative backing name, so that a whole storage folder can be moved. With the size known, the chain
            // below need not be opened for it (-u).
            let create = ["create", "-q", "-u", "-f", "qcow2", "-F"].map(Into::into);
            let arguments: [OsString; 5] = [
                format.into(),
                "-b".into(),
                top.path.clone().into(),
                partial(*disk).into(),
                size.to_string().into(),
            ];
            creates.push(create.into_iter().chain(arguments).collect());
        }
        qemu_img_at_once(creates)?;
        self.step("overlay: file created")?;
        if let Some(bitmap) = bitmap {
            let add = |disk: &DiskId| {
                let add = ["bitmap", "--add", "-g", "65536", "-f", "qcow2"].map(Into::into);
                add.into_iter().chain([partial(*disk).into(), bitmap.into()]).collect()
            };
            qemu_img_at_once(disks.iter().map(add).collect())?;
        }
        for disk in disks {
            let (folder, partial) = (self.disk_folder(*disk), partial(*disk));
            File::open(&partial).and_then(|file| file.sync_all()).map_err(LayersError::io(&partial))?;
            std::fs::rename(&partial, folder.join(format!("{name}.qcow2")))
                .map_err(LayersError::io(&partial))?;
            sync_folder(&folder)?;
            self.step("overlay: file durable")?;
        }
        Ok(())
    }
}

fn name(kind: OverlayKind, number: u32) -> String {
    format!("{kind}-{number}")
}
