//! Adoption: the disks of a VM that becomes a replica are its bottom layers where they stand. They are read
//! and never written until a failback merges the layers above down into them.

use crate::{
    error::{LayersError, Result},
    qcow2::BACKING_NAME_BYTES_MAX,
    receive::{DOMAIN_XML, sync_folder},
    store::Store,
};
use catalog::{Expected, Layer, LayerFormat, NewPoint, Point};
use model::{DeltaId, DiskId, PointKind, ZERO_CLUSTER, durable, sums::SumsReader};
use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;

#[derive(Clone, Debug)]
pub struct AdoptedDisk {
    pub disk: DiskId,
    /// Absolute.
    pub path: PathBuf,
    pub format: LayerFormat,
    pub size_bytes: u64,
    /// A finished sums file over the whole disk; moved into the store.
    pub sums: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Adoption {
    /// The point's new id.
    pub delta: DeltaId,
    pub disks: Vec<AdoptedDisk>,
    pub domain_xml: String,
    pub cut_at_ms: i64,
    pub received_at_ms: i64,
    /// Which relationship feeds the replica, and its generation.
    pub index: u16,
    pub generation_number: u64,
    pub generation_nonce: Uuid,
    pub note: String,
}

impl Store {
    /// Makes the VM's own disks the first point of an empty store. After a crash it can be called again:
    /// the sums are removed from where they were only when the point is in the catalog.
    pub fn adopt(&self, adoption: &Adoption) -> Result<Point> {
        let delta = adoption.delta;
        let mut layers = vec![];
        for disk in &adoption.disks {
            layers.push(self.adopt_disk(delta, disk)?);
        }
        let xml = self.folder.join(format!("{delta}.{DOMAIN_XML}"));
        durable::replace_file(&xml, adoption.domain_xml.as_bytes()).map_err(LayersError::io(xml))?;
        sync_folder(&self.folder)?;
        sync_folder(self.folder.parent().unwrap_or(Path::new("/")))?;
        self.step("adopt: sums durable")?;
        let expected = Expected {
            index: adoption.index,
            generation_number: adoption.generation_number,
            generation_nonce: adoption.generation_nonce,
            base: None,
        };
        let point = NewPoint {
            delta,
            kind: PointKind::Regular,
            cut_at_ms: adoption.cut_at_ms,
            received_at_ms: adoption.received_at_ms,
            note: adoption.note.clone(),
            json: "{}".to_owned(),
        };
        let committed = self.catalog.commit_point(self.vm, &expected, &point, &layers);
        if committed.is_err() {
            self.discard(delta)?;
        }
        let point = committed?;
        self.step("adopt: recorded")?;
        for disk in &adoption.disks {
            durable::remove(&disk.sums).map_err(LayersError::io(&disk.sums))?;
        }
        Ok(point)
    }

    fn adopt_disk(&self, delta: DeltaId, disk: &AdoptedDisk) -> Result<Layer> {
        let damaged = |path: &Path, what| LayersError::Damaged { path: path.to_owned(), what };
        let named = disk.path.to_str().is_some_and(|path| path.len() <= BACKING_NAME_BYTES_MAX);
        if !disk.path.is_absolute() || !named {
            return Err(damaged(&disk.path, "an image cannot name this path as its backing file"));
        }
        let length = fs::metadata(&disk.path).map_err(LayersError::io(&disk.path))?.len();
        let mut data_clusters = 0;
        let sums = SumsReader::open(&disk.sums)?;
        if sums.size_bytes != disk.size_bytes {
            return Err(damaged(&disk.sums, "the sums are those of a disk of another size"));
        }
        for entry in sums {
            data_clusters += u64::from(entry?.1 != ZERO_CLUSTER);
        }
        let folder = self.disk_folder(disk.disk);
        // QEMU runs as a user of its own and passes through to the images that libvirt gave it.
        DirBuilder::new().recursive(true).mode(0o711).create(&folder).map_err(LayersError::io(&folder))?;
        let (partial, path) =
            (folder.join(format!("{delta}.sums.partial")), self.sums_path(disk.disk, delta));
        fs::copy(&disk.sums, &partial).map_err(LayersError::io(&partial))?;
        File::open(&partial).and_then(|file| file.sync_all()).map_err(LayersError::io(&partial))?;
        durable::rename(&partial, &path).map_err(LayersError::io(&path))?;
        Ok(Layer {
            disk: disk.disk,
            delta,
            base: None,
            path: disk.path.clone(),
            format: disk.format,
            in_place: true,
            size_bytes: disk.size_bytes,
            data_clusters,
            stored_bytes: length,
        })
    }
}
