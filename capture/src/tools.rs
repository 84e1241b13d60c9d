//! QEMU's command-line tools, for images that no QEMU has open.

use crate::{
    error::{CaptureError, Result, file_error},
    turn::DiskFormat,
};
use hypervisor::image as images;
use model::CLUSTER_BYTES;
use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Closing a backup's target flushes it: seconds on a slow disk. Far beyond that, something holds it.
const CLOSE_BOUND: Duration = Duration::from_secs(60);
const CLOSE_PAUSE: Duration = Duration::from_millis(1);

/// `qemu-img create` of an overlay on `backing`, of the same size, with clusters of our size.
pub fn create_overlay(overlay: &Path, backing: &Path, format: DiskFormat) -> Result<()> {
    let cluster = format!("cluster_size={CLUSTER_BYTES}");
    let arguments = ["create", "-q", "-f", "qcow2", "-o", &cluster, "-F", format.name(), "-b"];
    let arguments = arguments.map(OsStr::new);
    qemu_img(arguments.into_iter().chain([backing.as_os_str(), overlay.as_os_str()]))
}

/// `qemu-img create` of an empty qcow2.
pub fn create_empty(path: &Path, size_bytes: u64) -> Result<()> {
    let (cluster, size) = (format!("cluster_size={CLUSTER_BYTES}"), size_bytes.to_string());
    let arguments = ["create", "-q", "-f", "qcow2", "-o", &cluster].map(OsStr::new);
    qemu_img(arguments.into_iter().chain([path.as_os_str(), OsStr::new(&size)]))
}

/// Writes all that lies from `top` down to `base` into `base`; the files above keep their content.
pub fn commit(top: &Path, base: &Path) -> Result<()> {
    let arguments = ["commit", "-q", "-d", "-f", "qcow2", "-b"].map(OsStr::new);
    qemu_img(arguments.into_iter().chain([base.as_os_str(), top.as_os_str()]))
}

/// Changes the name of a qcow2's backing file, and nothing else.
pub fn rename_backing(image: &Path, backing: &Path, format: DiskFormat) -> Result<()> {
    let arguments = ["rebase", "-u", "-f", "qcow2", "-F", format.name(), "-b"].map(OsStr::new);
    qemu_img(arguments.into_iter().chain([backing.as_os_str(), image.as_os_str()]))
}

/// Waits until no QEMU has a qcow2 open, so that its tables on disk are whole. libvirt reports the end of a
/// backup before it has closed the target, and until then QEMU keeps new tables in memory: read too early, a
/// delta looks empty. QEMU's own lock on the file is the only sign that holds for every version.
pub fn wait_closed(path: &Path) -> Result<()> {
    let deadline = Instant::now() + CLOSE_BOUND;
    while images::is_open(path).map_err(file_error("open", path))? {
        if Instant::now() > deadline {
            return Err(CaptureError::StillOpen { path: path.to_owned() });
        }
        thread::sleep(CLOSE_PAUSE);
    }
    Ok(())
}

fn qemu_img<'a>(arguments: impl Iterator<Item = &'a OsStr>) -> Result<()> {
    let arguments: Vec<OsString> = arguments.map(OsStr::to_owned).collect();
    let tool = format!("qemu-img {}", arguments[0].display());
    let output = Command::new("qemu-img")
        .args(&arguments)
        .output()
        .map_err(|source| CaptureError::ToolStart { tool: tool.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(CaptureError::Tool { tool, stderr })
}
