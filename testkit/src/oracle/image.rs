//! Reading small parts of disk images, which may be large.
//!
//! Raw images are read directly. What is qcow2 goes through `qemu-img`, which knows backing chains, zero
//! clusters and what else the format has: the oracle must not share a reader with what it judges.

use super::history::Slot;
use serde_json::json;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("no image {path}")]
    Absent { path: PathBuf },
    #[error("cannot read image {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot start qemu-img")]
    Start { source: io::Error },
    #[error("qemu-img cannot read {path}: {said}")]
    Refused { path: PathBuf, said: String },
}

#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    /// `None`: qcow2.
    raw: Option<File>,
    pub size_bytes: u64,
}

impl Image {
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ImageError::Absent { path: path.to_owned() },
            _ => ImageError::Io { path: path.to_owned(), source },
        };
        let file = File::open(path).map_err(fail)?;
        let mut magic = [0; 4];
        if file.read_exact_at(&mut magic, 0).is_ok() && &magic == b"QFI\xfb" {
            let told = qemu_img(path, &["info", "-U", "--output=json", &path.to_string_lossy()])?;
            let size_bytes = serde_json::from_slice(&told)
                .ok()
                .and_then(|told: serde_json::Value| told["virtual-size"].as_u64())
                .ok_or_else(|| ImageError::Refused {
                    path: path.to_owned(),
                    said: "no virtual size".into(),
                })?;
            return Ok(Self { path: path.to_owned(), raw: None, size_bytes });
        }
        let size_bytes = file.metadata().map_err(fail)?.len();
        Ok(Self { path: path.to_owned(), raw: Some(file), size_bytes })
    }

    /// `length` bytes from `offset_bytes`, both multiples of a sector and within the disk.
    pub fn read(&self, offset_bytes: u64, length: u64) -> Result<Vec<u8>, ImageError> {
        let fail = |source| ImageError::Io { path: self.path.clone(), source };
        if let Some(file) = &self.raw {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, offset_bytes).map_err(fail)?;
            return Ok(bytes);
        }
        let dir = tempfile::tempdir().map_err(fail)?;
        let out = dir.path().join("out");
        // A window on the image. (`qemu-img dd` has one, too, but up to QEMU 9 it miscounts when it skips.)
        let file = json!({ "driver": "file", "filename": self.path });
        let image = json!({ "driver": "qcow2", "file": file });
        let window = json!({ "driver": "raw", "offset": offset_bytes, "size": length, "file": image });
        let arguments = ["convert", "-U", "-O", "raw", &format!("json:{window}"), &out.to_string_lossy()];
        qemu_img(&self.path, &arguments)?;
        let bytes = std::fs::read(out).map_err(fail)?;
        if bytes.len() as u64 != length {
            return Err(fail(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes)
    }

    /// The bytes of each of a disk's slots, in two reads: the tiled area, and the disk's end.
    pub fn read_slots(&self, slots: &[Slot]) -> Result<Vec<Vec<u8>>, ImageError> {
        let Some((tail, area)) = slots.split_last() else { return Ok(vec![]) };
        let end = area.last().map_or(0, |slot| slot.offset_bytes + slot.size_bytes);
        let bytes = if end == 0 { vec![] } else { self.read(0, end)? };
        let part = |slot: &Slot| bytes[slot.offset_bytes as usize..][..slot.size_bytes as usize].to_vec();
        let mut all: Vec<Vec<u8>> = area.iter().map(part).collect();
        all.push(self.read(tail.offset_bytes, tail.size_bytes)?);
        Ok(all)
    }
}

/// Runs qemu-img on `path` and returns what it printed.
fn qemu_img(path: &Path, arguments: &[&str]) -> Result<Vec<u8>, ImageError> {
    let output = Command::new("qemu-img").args(arguments).output();
    let output = output.map_err(|source| ImageError::Start { source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ImageError::Refused { path: path.to_owned(), said });
    }
    Ok(output.stdout)
}
