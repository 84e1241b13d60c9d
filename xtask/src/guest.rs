//! The test guest: `target/guest/vmlinuz` and `target/guest/initrd.gz`.
//!
//! Debian's cloud kernel, taken out of its package without installing it, and an initramfs of busybox, a
//! few modules and the writer (`testkit/guest/`). Built again only when an input's content changed. Both
//! files are renamed into place, so that a guest that is just starting never sees half of one.

use crate::{output, run, setup};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    hash::{DefaultHasher, Hasher},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command},
};

/// Names the package of the current kernel in its `Depends`.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";

/// In the order of loading: each after what it needs.
const MODULES: [&str; 12] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "failover",
    "net_failover",
    "virtio_net",
    // The power button and the device that reports it.
    "button",
    "evdev",
];

pub fn build(root: &Path) -> Result<()> {
    let dir = root.join("target/guest");
    fs::create_dir_all(&dir)?;
    let kernel = kernel(&dir)?;
    let busybox = busybox()?;
    let sources = root.join("testkit/guest");
    let inputs = [
        busybox.clone(),
        sources.join("init"),
        sources.join("writer.rs"),
        sources.join("agent.rs"),
        root.join("testkit/src/oracle/history.rs"),
    ];
    let key = key(&kernel, &inputs)?;
    let key_file = dir.join("key");
    let built = dir.join("vmlinuz").exists() && dir.join("initrd.gz").exists();
    if built && fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    println!("building the test guest in {}", dir.display());
    let work = dir.join(format!("work-{}", process::id()));
    let done = assemble(&kernel, &busybox, &sources, &work).and_then(|()| {
        for name in ["vmlinuz", "initrd.gz"] {
            fs::rename(work.join(name), dir.join(name))?;
        }
        Ok(fs::write(&key_file, key)?)
    });
    fs::remove_dir_all(&work)?;
    done
}

/// Makes `work/vmlinuz` and `work/initrd.gz`.
fn assemble(kernel: &Kernel, busybox: &Path, sources: &Path, work: &Path) -> Result<()> {
    let tree = work.join("tree");
    for folder in ["bin", "lib", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy(&kernel.image, work.join("vmlinuz"))?;
    fs::copy(busybox, tree.join("bin/busybox"))?;
    for module in MODULES {
        let from = find(&kernel.modules, &format!("{module}.ko"))?
            .with_context(|| format!("no module {module} in {}", kernel.modules.display()))?;
        fs::copy(from, tree.join(format!("lib/{module}.ko")))?;
    }
    fs::write(tree.join("lib/order"), MODULES.join("\n") + "\n")?;
    fs::copy(sources.join("init"), tree.join("init"))?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    run(Command::new("rustc")
        .args(["-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "--edition", "2024", "-o"])
        .arg(tree.join("writer"))
        .arg(sources.join("writer.rs")))?;
    let pack = "set -o pipefail; find . | cpio --quiet -o -H newc | gzip -1 > ../initrd.gz";
    run(Command::new("bash").args(["-c", pack]).current_dir(&tree))
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// The kernel unpacked in `dir/kernel`, fetched from Debian once.
fn kernel(dir: &Path) -> Result<Kernel> {
    let unpacked = dir.join("kernel");
    if !unpacked.exists() {
        let work = dir.join(format!("fetch-{}", process::id()));
        fs::create_dir_all(&work)?;
        let done = fetch_kernel(&work).and_then(|()| match fs::rename(work.join("tree"), &unpacked) {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            other => Ok(other?),
        });
        fs::remove_dir_all(&work)?;
        done.context("cannot fetch the guest's kernel")?;
    }
    let image = fs::read_dir(unpacked.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .with_context(|| format!("no kernel in {}", unpacked.display()))?;
    Ok(Kernel { image, modules: unpacked.join("lib/modules") })
}

/// Downloads and unpacks the package in `work/tree`; with fresh package lists if it fails with those at hand.
fn fetch_kernel(work: &Path) -> Result<()> {
    download(work).or_else(|_| setup::update_lists().and_then(|()| download(work)))?;
    let archive = fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    run(Command::new("dpkg").arg("-x").arg(archive).arg(work.join("tree")))
}

/// Downloads the package that the meta package depends on.
fn download(work: &Path) -> Result<()> {
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL_META_PACKAGE]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("apt knows no dependency of {KERNEL_META_PACKAGE}"))?;
    println!("downloading {package}");
    // apt drops its privileges to fetch, and cannot do so into a private folder: that is not worth a warning.
    run(Command::new("apt-get")
        .args(["download", "-q", "-o", "APT::Sandbox::User=root", package])
        .current_dir(work))
}

/// A static busybox: it must run where no library is.
fn busybox() -> Result<PathBuf> {
    for path in ["/bin/busybox", "/usr/bin/busybox"] {
        // ldd fails on a static program.
        if Path::new(path).exists() && output(Command::new("ldd").arg(path)).is_err() {
            return Ok(path.into());
        }
    }
    bail!("no static busybox: install busybox-static");
}

/// Names the content of all inputs.
fn key(kernel: &Kernel, inputs: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    hasher.write(kernel.image.to_string_lossy().as_bytes());
    hasher.write(MODULES.join(" ").as_bytes());
    hasher.write(output(Command::new("rustc").arg("--version"))?.as_bytes());
    for input in inputs {
        hasher.write(&fs::read(input).with_context(|| format!("cannot read {}", input.display()))?);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The first file of that name below `dir`.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
