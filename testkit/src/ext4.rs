//! Disks with a file system that the guest mounts: whether a point holds it as one that was frozen, or as one that was
//! written to.

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path, process::Command};

/// A qcow2 with an empty ext4.
pub fn make(path: &Path, bytes: u64) -> Result<()> {
    let raw = path.with_extension("raw");
    fs::File::create(&raw)?.set_len(bytes)?;
    run("mke2fs", &["-q", "-t", "ext4", &raw.to_string_lossy()])?;
    run("qemu-img", &["convert", "-O", "qcow2", &raw.to_string_lossy(), &path.to_string_lossy()])?;
    fs::remove_file(&raw)?;
    Ok(())
}

/// Does the file system in this image have to be recovered from its journal: was it written to when the image was made.
/// Fails where one that has not is damaged.
pub fn needs_recovery(image: &Path) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let raw = folder.path().join("raw");
    let raw = raw.to_string_lossy();
    run("qemu-img", &["convert", "-U", "-O", "raw", &image.to_string_lossy(), &raw])?;
    let needs = run("dumpe2fs", &["-h", &raw])?.contains("needs_recovery");
    if !needs {
        run("e2fsck", &["-f", "-n", &raw])?;
    }
    Ok(needs)
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
