//! Overlays: the writable files in which a failed-over or a test VM runs, on top of a point.

use crate::{
    error::{LayersError, Result},
    qemu_img::qemu_img,
    receive::sync_folder,
    store::Store,
};
use catalog::{Overlay, OverlayKind};
use model::{DeltaId, DiskId, durable};
use std::{fs::File, path::PathBuf};

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
        let mut overlays = vec![];
        for disk in self.disks(delta)? {
            self.make_overlay_file(delta, disk, &name(kind, number), bitmap)?;
            let path = format!("{}.qcow2", name(kind, number)).into();
            overlays.push(Overlay { kind, number, disk, delta, path });
        }
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

    fn make_overlay_file(
        &self,
        delta: DeltaId,
        disk: DiskId,
        name: &str,
        bitmap: Option<&str>,
    ) -> Result<()> {
        let layers = self.layers_below(delta, disk)?;
        let top = layers.last().expect("a chain has a layer");
        let folder = self.disk_folder(disk);
        let (partial, path) =
            (folder.join(format!("{name}.qcow2.partial")), folder.join(format!("{name}.qcow2")));
        // A relative backing name, so that a whole storage folder can be moved.
        let create = ["create", "-q", "-f", "qcow2", "-F"].map(Into::into);
        let format = top.format.to_string();
        let arguments = create.into_iter().chain([
            format.into(),
            "-b".into(),
            top.path.clone().into(),
            partial.clone().into(),
        ]);
        qemu_img(arguments)?;
        self.step("overlay: file created")?;
        if let Some(bitmap) = bitmap {
            let add = ["bitmap", "--add", "-g", "65536", "-f", "qcow2"].map(Into::into);
            qemu_img(add.into_iter().chain([partial.clone().into(), bitmap.into()]))?;
        }
        File::open(&partial).and_then(|file| file.sync_all()).map_err(LayersError::io(&partial))?;
        std::fs::rename(&partial, &path).map_err(LayersError::io(&partial))?;
        sync_folder(&folder)?;
        self.step("overlay: file durable")
    }
}

fn name(kind: OverlayKind, number: u32) -> String {
    format!("{kind}-{number}")
}
