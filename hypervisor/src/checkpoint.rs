//! Checkpoints: libvirt's names for the persistent bitmaps that record what changed since a cut.
//!
//! A checkpoint is two things that can part: libvirt's record of it, and a bitmap of the same name in each
//! disk's qcow2. Undefining, live migration and a lost libvirt state directory lose the record; a QEMU that
//! was killed loses the bitmap.

use crate::{Error, Hypervisor, Result, error, ffi, requests};
use model::VmId;
use virt::{
    error::{Error as VirtError, ErrorNumber},
    sys,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    pub name: String,
    pub parent: Option<String>,
    /// Without the domain's XML: what [`Hypervisor::redefine_checkpoint`] takes.
    pub xml: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSize {
    /// Bytes an incremental backup from here would copy now, per disk target, at the bitmap's granularity.
    pub disks: Vec<(String, u64)>,
    pub total_bytes: u64,
}

/// How a checkpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// With its bitmap, whose bits went to the older checkpoint's.
    Whole,
    /// Only libvirt's record: the domain does not run, or the bitmap of at least one disk is gone. What is
    /// left of it in an image stays there until [`crate::image::remove_bitmap`].
    RecordOnly,
    /// There was none.
    Absent,
}

impl Hypervisor {
    /// Creates a checkpoint over the disks in `targets`, all at one instant; the domain must run.
    pub fn create_checkpoint(&self, vm: VmId, name: &str, targets: &[&str]) -> Result<()> {
        let domain = self.lookup(vm)?;
        let xml = requests::checkpoint(name, targets, &self.targets(&domain, vm)?)?;
        ffi::create_checkpoint(&domain, &xml, 0)
            .map(drop)
            .map_err(|source| failed("create", vm, name, source))
    }

    /// All checkpoints, parents before children. The record's word: their bitmaps may be gone.
    pub fn checkpoints(&self, vm: VmId) -> Result<Vec<CheckpointInfo>> {
        let domain = self.lookup(vm)?;
        let handles = ffi::list_checkpoints(&domain).map_err(|source| Error::Call {
            what: "list checkpoints of",
            vm,
            source,
        })?;
        let info = |handle: ffi::Checkpoint| {
            let xml = handle
                .xml(sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)
                .map_err(|source| failed("describe", vm, &handle.name(), source))?;
            Ok(CheckpointInfo { name: handle.name(), parent: requests::checkpoint_parent(&xml)?, xml })
        };
        handles.into_iter().map(info).collect()
    }

    /// How much changed since checkpoint `name`; the domain must run.
    pub fn checkpoint_size(&self, vm: VmId, name: &str) -> Result<CheckpointSize> {
        let domain = self.lookup(vm)?;
        let handle =
            ffi::lookup_checkpoint(&domain, name).map_err(|source| failed("find", vm, name, source))?;
        let flags = sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN | sys::VIR_DOMAIN_CHECKPOINT_XML_SIZE;
        let text = handle.xml(flags).map_err(|source| failed("size", vm, name, source))?;
        let sized = |(target, bytes): (String, Option<u64>)| match bytes {
            Some(bytes) => Ok((target, bytes)),
            None => Err(Error::BitmapGone { vm, name: name.to_owned(), target }),
        };
        let disks: Vec<_> =
            requests::checkpoint_sizes(&text)?.into_iter().map(sized).collect::<Result<_>>()?;
        Ok(CheckpointSize { total_bytes: disks.iter().map(|(_, bytes)| bytes).sum(), disks })
    }

    /// Tells libvirt again of a checkpoint that it lost, from [`CheckpointInfo::xml`] or
    /// [`crate::checkpoint_record`]. With `validate` the domain must run, and a missing or damaged bitmap is
    /// [`Error::CheckpointLost`]; without, nothing is looked at.
    pub fn redefine_checkpoint(&self, vm: VmId, xml: &str, validate: bool) -> Result<()> {
        let domain = self.lookup(vm)?;
        let mut flags = sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE;
        if validate {
            flags |= sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE;
        }
        let name = requests::checkpoint_name(xml)?;
        ffi::create_checkpoint(&domain, xml, flags)
            .map(drop)
            .map_err(|source| failed("redefine", vm, &name, source))
    }

    /// Deletes a checkpoint and says what of it there was. Where its bitmap is gone or the domain does not
    /// run, the record alone is deleted.
    pub fn delete_checkpoint(&self, vm: VmId, name: &str) -> Result<Deleted> {
        let domain = self.lookup(vm)?;
        let handle = match ffi::lookup_checkpoint(&domain, name) {
            Ok(handle) => handle,
            Err(error) if error::is(&error, ErrorNumber::NoDomainCheckpoint) => return Ok(Deleted::Absent),
            Err(source) => return Err(failed("find", vm, name, source)),
        };
        if self.is_active(vm)? {
            match handle.delete(0) {
                Ok(()) => return Ok(Deleted::Whole),
                Err(error) if bitmap_is_gone(&error) => {
                    tracing::warn!(%vm, name, %error, "deleting the checkpoint's record only");
                }
                Err(source) => return Err(failed("delete", vm, name, source)),
            }
        }
        handle
            .delete(sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
            .map(|()| Deleted::RecordOnly)
            .map_err(|source| failed("delete the record of", vm, name, source))
    }
}

/// Any other failure (a job that runs, say) must not part a live bitmap from its record.
fn bitmap_is_gone(error: &VirtError) -> bool {
    // libvirt has a number for this only when it backs up.
    error::is(error, ErrorNumber::CheckpointInconsistent)
        || error.message().contains("not found in backing chain")
}

pub(crate) fn failed(what: &'static str, vm: VmId, name: &str, source: VirtError) -> Error {
    let name = name.to_owned();
    if error::is(&source, ErrorNumber::NoDomainCheckpoint) {
        Error::NoSuchCheckpoint { vm, name }
    } else if error::is(&source, ErrorNumber::CheckpointInconsistent) {
        Error::CheckpointLost { vm, name, source }
    } else {
        Error::Checkpoint { what, vm, name, source }
    }
}
