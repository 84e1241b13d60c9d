//! Disk images as `qemu-img` sees them. Formats are always given, never probed: a raw disk whose guest
//! wrote a qcow2 header into it must not become one.

use crate::{Error, Result, ffi};
use serde::Deserialize;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// One file of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    pub path: PathBuf,
    /// `qcow2`, `raw`, …
    pub format: String,
}

/// A persistent bitmap in a qcow2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    pub name: String,
    pub granularity_bytes: u64,
    /// A QEMU has it open, or died while it had: in a shut-off image it is inconsistent and of no use
    /// except to be removed.
    pub in_use: bool,
    /// Records writes when the image is next opened.
    pub enabled: bool,
}

/// What a chain of images is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub size_bytes: u64,
    /// Top first, so the disk's own file is the first.
    pub layers: Vec<ImageLayer>,
    /// What in it we cannot read or follow.
    pub unsupported: Option<String>,
}

/// Bitmaps stored in the qcow2 at `path`. While a domain runs on it the file's word is stale: every bitmap is
/// shown as in use, and new ones are not shown at all; ask for the checkpoint's size there.
pub fn bitmaps(path: &Path) -> Result<Vec<BitmapInfo>> {
    let report = info(path, "qcow2", false)?;
    let bitmaps = report.into_iter().next().map(|top| top.details.data.bitmaps).unwrap_or_default();
    let convert = |bitmap: Bitmap| BitmapInfo {
        in_use: bitmap.has("in-use"),
        enabled: bitmap.has("auto"),
        name: bitmap.name,
        granularity_bytes: bitmap.granularity,
    };
    Ok(bitmaps.into_iter().map(convert).collect())
}

/// Whether a QEMU has the image at `path` open, by the locks that QEMU keeps on its images. On a file system
/// without locks: never.
pub fn is_open(path: &Path) -> io::Result<bool> {
    Ok(ffi::is_locked(&File::open(path)?))
}

/// Keeps every QEMU, and every qemu-img that does not force its way, from opening an image.
pub struct ImageLock(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

/// Locks the image at `path`; `None` if a QEMU has it open. On a file system without locks it keeps nobody out.
pub fn lock(path: &Path) -> io::Result<Option<ImageLock>> {
    let file = File::options().read(true).write(true).open(path)?;
    Ok(ffi::lock(&file).then_some(ImageLock(file)))
}

/// Adds an empty, recording bitmap with clusters of 64 KiB to a qcow2 that nothing has open.
pub fn add_bitmap(path: &Path, name: &str) -> Result<()> {
    let granularity = model::CLUSTER_BYTES.to_string();
    run("add a bitmap to", path, &["bitmap", "-f", "qcow2", "--add", "-g", &granularity], &[name]).map(drop)
}

/// Removes a bitmap, inconsistent or not, from a qcow2 that nothing has open. False when there was none.
pub fn remove_bitmap(path: &Path, name: &str) -> Result<bool> {
    if !bitmaps(path)?.iter().any(|bitmap| bitmap.name == name) {
        return Ok(false);
    }
    run("remove a bitmap from", path, &["bitmap", "-f", "qcow2", "--remove"], &[name])?;
    Ok(true)
}

pub(crate) fn chain(path: &Path, format: &str) -> Result<Chain> {
    let report = info(path, format, true)?;
    let Some(top) = report.first() else {
        return Err(Error::Image {
            what: "describe",
            path: path.to_owned(),
            message: "an empty report".into(),
        });
    };
    Ok(Chain {
        size_bytes: top.size_bytes,
        unsupported: report.iter().find_map(ImageReport::unsupported),
        layers: report
            .iter()
            .map(|l| ImageLayer { path: l.filename.clone(), format: l.format.clone() })
            .collect(),
    })
}

#[derive(Deserialize)]
struct ImageReport {
    filename: PathBuf,
    format: String,
    #[serde(rename = "virtual-size")]
    size_bytes: u64,
    #[serde(default)]
    encrypted: bool,
    #[serde(default, rename = "format-specific")]
    details: Details,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default)]
    data: Qcow2,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Qcow2 {
    compat: Option<String>,
    compression_type: Option<String>,
    extended_l2: bool,
    corrupt: bool,
    data_file: Option<String>,
    bitmaps: Vec<Bitmap>,
}

#[derive(Deserialize)]
struct Bitmap {
    name: String,
    granularity: u64,
    #[serde(default)]
    flags: Vec<String>,
}

impl Bitmap {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

impl ImageReport {
    fn unsupported(&self) -> Option<String> {
        let qcow2 = &self.details.data;
        let what = match self.format.as_str() {
            "raw" => return None,
            "qcow2" if self.encrypted => "it is encrypted",
            "qcow2" if qcow2.corrupt => "it is marked corrupt: repair it with qemu-img check -r",
            "qcow2" if qcow2.compat.as_deref() == Some("0.10") => {
                "its format is version 2: qemu-img amend -o compat=1.1 makes it version 3"
            }
            "qcow2" if qcow2.extended_l2 => "it has extended L2 entries",
            "qcow2" if qcow2.data_file.is_some() => "its data is in an external data file",
            "qcow2" if qcow2.compression_type.as_deref() == Some("zstd") => "it is compressed with zstd",
            "qcow2" => return None,
            other => return Some(format!("image {} has the format {other}", self.filename.display())),
        };
        Some(format!("image {}: {what}", self.filename.display()))
    }
}

fn info(path: &Path, format: &str, chain: bool) -> Result<Vec<ImageReport>> {
    // -U: a running QEMU holds the lock, and only headers are read.
    let mut arguments = vec!["info", "-U", "--output=json", "-f", format];
    if chain {
        arguments.push("--backing-chain");
    }
    let output = run("describe", path, &arguments, &[])?;
    let source = |source| Error::ImageReport { path: path.to_owned(), source };
    if chain {
        serde_json::from_slice(&output.stdout).map_err(source)
    } else {
        serde_json::from_slice(&output.stdout).map(|report| vec![report]).map_err(source)
    }
}

/// Runs `qemu-img ARGUMENTS PATH REST`.
fn run(what: &'static str, path: &Path, arguments: &[&str], rest: &[&str]) -> Result<Output> {
    if matches!(path.try_exists(), Ok(false)) {
        return Err(Error::NoSuchImage { path: path.to_owned() });
    }
    let output = Command::new("qemu-img")
        .args(arguments)
        .arg("--")
        .arg(path)
        .args(rest)
        .output()
        .map_err(|source| Error::Spawn { program: "qemu-img", source })?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Error::Image { what, path: path.to_owned(), message })
}
