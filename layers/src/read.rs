//! Reading a point's disk through its chain, with imago: a reader that shares no code with the writer.

use crate::{
    error::{LayersError, Result},
    store::{Hold, LayerRef, Store},
};
use catalog::LayerFormat;
use imago::{
    FormatAccess, FormatDriverBuilder, Mapping, PermissiveImplicitOpenGate, ShallowMapping, file::File,
    qcow2::Qcow2, raw::Raw,
};
use model::{CLUSTER_BYTES, ClusterSet, DeltaId, DiskId};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// One disk of a point, open for reading. Merges stay off its layers while it exists.
pub struct PointReader {
    access: Access,
    path: PathBuf,
    pub size_bytes: u64,
    _hold: Hold,
}

type Access = Arc<FormatAccess<File>>;

impl Store {
    /// Opens a disk of a point.
    pub fn reader(&self, delta: DeltaId, disk: DiskId) -> Result<PointReader> {
        let hold = self.hold(delta)?;
        let layers = self.layers_below(delta, disk)?;
        let top = layers.last().expect("a chain has a layer");
        let size_bytes = top.size_bytes;
        let mut below = None;
        for layer in &layers {
            let layer = LayerRef { path: self.path(layer), format: layer.format };
            let opened = open(&layer, below.take()).map_err(LayersError::io(&layer.path))?;
            below = Some(opened);
        }
        Ok(PointReader { access: below.expect("as above"), path: self.path(top), size_bytes, _hold: hold })
    }

    /// Reads bytes of a disk of a point; what lies past its end reads as zero.
    pub fn read_point(&self, delta: DeltaId, disk: DiskId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.reader(delta, disk)?.read(offset, buffer)
    }
}

impl PointReader {
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.access.read(buffer, offset).map_err(LayersError::io(&self.path))
    }

    /// Whether the bytes at `offset` are known to read as zero without reading them, and for how many of
    /// the next `length` bytes, at least one, the answer holds.
    pub fn is_hole(&self, offset: u64, length: u64) -> Result<(bool, u64)> {
        let (mapping, length) =
            self.access.get_mapping(offset, length).map_err(LayersError::io(&self.path))?;
        match mapping {
            Mapping::Zero { .. } => Ok((true, length)),
            Mapping::Eof { .. } => Ok((true, u64::MAX)),
            _ => Ok((false, length)),
        }
    }

    /// The top file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// `below`: what the image is on top of. Without it a qcow2 file opens whatever its header names, which
/// only a disk of this host's own, adopted in place, can do.
fn open(layer: &LayerRef, below: Option<Access>) -> io::Result<Access> {
    let gate = PermissiveImplicitOpenGate::default();
    match layer.format {
        LayerFormat::Raw => {
            Ok(Arc::new(FormatAccess::new(Raw::<File>::builder_path(&layer.path).open(gate)?)))
        }
        LayerFormat::Qcow2 => {
            let mut builder = Qcow2::<File, Access>::builder_path(&layer.path);
            if below.is_some() {
                builder = builder.backing(below);
            }
            Ok(Arc::new(FormatAccess::new(builder.open(gate)?)))
        }
    }
}

/// The clusters that a qcow2 overlay holds itself: data and explicit zeroes. The VM in it has to be off, or
/// the file may lag behind it.
pub fn overlay_clusters(path: &Path) -> Result<ClusterSet> {
    let fail = || LayersError::io(path);
    let builder = Qcow2::<File, Access>::builder_path(path).backing(None);
    let image = builder.open(PermissiveImplicitOpenGate::default()).map_err(fail())?;
    let access = FormatAccess::new(image);
    let mut clusters = ClusterSet::new();
    let mut offset = 0;
    while offset < access.size() {
        let (mapping, length) = access.get_shallow_mapping(offset, access.size() - offset).map_err(fail())?;
        let allocated = match mapping {
            ShallowMapping::Zero { explicit, .. } => explicit,
            ShallowMapping::Indirect { .. } | ShallowMapping::Eof { .. } => false,
            _ => true,
        };
        let end = offset + length.max(1);
        if allocated {
            let first = offset / CLUSTER_BYTES;
            let count = end.div_ceil(CLUSTER_BYTES) - first;
            clusters.insert_run(first as u32, count as u32);
        }
        offset = end;
    }
    Ok(clusters)
}
