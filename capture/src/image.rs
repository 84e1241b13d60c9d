//! Image files, read-only: which clusters a file holds itself, and what clusters read as.
//!
//! Read through `imago`, which takes no locks: everything opened here is a spool file, or an image that a
//! cut has frozen, or one of a VM that is off.

use crate::{
    error::{CaptureError, Result, file_error},
    turn::DiskFormat,
};
use imago::{
    FormatAccess, FormatDriverBuilder, Mapping, PermissiveImplicitOpenGate, ShallowMapping, file::File,
    qcow2::Qcow2, raw::Raw,
};
use model::{CLUSTER_BYTES, ClusterHash, ClusterSet, ZERO_CLUSTER, clusters::cluster_length, hash_cluster};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Clusters read at once: 1 MiB.
pub const RUN_CLUSTERS: u32 = 16;

pub struct Image {
    path: PathBuf,
    access: FormatAccess<File>,
    /// A raw file, to ask it for holes.
    raw: Option<std::fs::File>,
}

impl Image {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A qcow2 without what lies below it: clusters that it does not hold read as zeroes.
    pub fn open_alone(path: &Path) -> Result<Self> {
        let builder = Qcow2::<File>::builder_path(path).backing(None).data_file(None);
        let image = builder
            .open(PermissiveImplicitOpenGate::default())
            .map_err(|source| image_error(path, source))?;
        Ok(Self { path: path.to_owned(), access: FormatAccess::new(image), raw: None })
    }

    /// An image as the guest sees it, backing files included.
    pub fn open_chain(path: &Path, format: DiskFormat) -> Result<Self> {
        let fail = |source| image_error(path, source);
        let (access, raw) = match format {
            DiskFormat::Qcow2 => {
                let image = Qcow2::<File>::builder_path(path).open(PermissiveImplicitOpenGate::default());
                (FormatAccess::new(image.map_err(fail)?), None)
            }
            DiskFormat::Raw => {
                let image = Raw::<File>::builder_path(path).open(PermissiveImplicitOpenGate::default());
                let raw = std::fs::File::open(path).map_err(file_error("open", path))?;
                (FormatAccess::new(image.map_err(fail)?), Some(raw))
            }
        };
        Ok(Self { path: path.to_owned(), access, raw })
    }

    pub fn size_bytes(&self) -> u64 {
        self.access.size()
    }

    /// The clusters that this file's own tables allocate, explicit zeroes included. A cluster of ours that
    /// is allocated in part only counts: an image may have smaller clusters.
    pub fn touched(&self) -> Result<ClusterSet> {
        let mut touched = ClusterSet::new();
        let (mut offset, size) = (0, self.size_bytes());
        while offset < size {
            let (mapping, length) =
                self.access.get_shallow_mapping(offset, size - offset).map_err(|e| self.fail(e))?;
            let length = length.min(size - offset);
            if length == 0 {
                return Err(self.fail(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            let absent = matches!(
                mapping,
                ShallowMapping::Indirect { .. } | ShallowMapping::Zero { explicit: false, .. }
            );
            if !absent {
                let (first, last) = (offset / CLUSTER_BYTES, (offset + length - 1) / CLUSTER_BYTES);
                touched.insert_run(index(first), index(last - first) + 1);
            }
            offset += length;
        }
        Ok(touched)
    }

    /// Whether the image's tables or the file's holes say that these clusters are zeroes.
    pub fn is_hole(&self, first: u32, count: u32) -> Result<bool> {
        let mut offset = u64::from(first) * CLUSTER_BYTES;
        let end = (offset + u64::from(count) * CLUSTER_BYTES).min(self.size_bytes());
        if let Some(raw) = &self.raw {
            return Ok(!has_data(raw, offset, end));
        }
        while offset < end {
            let (mapping, length) =
                self.access.get_mapping(offset, end - offset).map_err(|e| self.fail(e))?;
            match mapping {
                Mapping::Zero { .. } if length > 0 => offset += length,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Bytes and hashes of `count` clusters, the disk's last one at its true length.
    pub fn read(&self, first: u32, count: u32, size_bytes: u64) -> Result<(Vec<u8>, Vec<ClusterHash>)> {
        let offset = u64::from(first) * CLUSTER_BYTES;
        let length = (u64::from(count - 1) * CLUSTER_BYTES) + cluster_length(size_bytes, first + count - 1);
        let mut bytes = vec![0; usize::try_from(length).expect("a run is at most a few MiB")];
        self.access.read(&mut bytes, offset).map_err(|e| self.fail(e))?;
        let hashes = bytes.chunks(CLUSTER_BYTES as usize).map(hash_cluster).collect();
        Ok((bytes, hashes))
    }

    /// Hashes alone, holes not read.
    pub fn hashes(&self, first: u32, count: u32, size_bytes: u64) -> Result<Vec<ClusterHash>> {
        if self.is_hole(first, count)? {
            return Ok(vec![ZERO_CLUSTER; count as usize]);
        }
        self.read(first, count, size_bytes).map(|(_, hashes)| hashes)
    }

    fn fail(&self, source: io::Error) -> CaptureError {
        image_error(&self.path, source)
    }
}

fn image_error(path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Image { path: path.to_owned(), source }
}

/// File systems and devices that cannot tell have data everywhere.
fn has_data(file: &std::fs::File, offset: u64, end: u64) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data < end,
        Err(rustix::io::Errno::NXIO) => false,
        Err(_) => true,
    }
}

fn index(cluster: u64) -> u32 {
    u32::try_from(cluster).expect("a disk is at most 256 TiB")
}

/// Consecutive clusters of a set, in runs of at most [`RUN_CLUSTERS`].
pub fn runs(clusters: &ClusterSet) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut clusters = clusters.iter().peekable();
    std::iter::from_fn(move || {
        let first = clusters.next()?;
        let mut count = 1;
        while count < RUN_CLUSTERS && clusters.next_if_eq(&(first + count)).is_some() {
            count += 1;
        }
        Some((first, count))
    })
}
