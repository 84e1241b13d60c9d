//! The test guest: `target/guest/vmlinuz`, `target/guest/initrd.gz` and `target/guest/initrd-agent.gz`.
//!
//! Debian's cloud kernel, taken out of its package without installing it, and an initramfs of busybox, a
//! few modules and the writer (`testkit/guest/`). The larger one has Debian's qemu-guest-agent too, with the
//! libraries that it is linked with. Built again only when an input's content changed. All files are renamed into
//! place, so that a guest that is just starting never sees half of one.

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

const AGENT_PACKAGE: &str = "qemu-guest-agent";

/// What [`build`] makes.
const FILES: [&str; 3] = ["vmlinuz", "initrd.gz", "initrd-agent.gz"];

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
    let agent = unpacked(&dir, "agent", || Ok(AGENT_PACKAGE.to_owned()))?.join("usr/sbin/qemu-ga");
    let busybox = busybox()?;
    let sources = root.join("testkit/guest");
    let inputs = [
        busybox.clone(),
        sources.join("init"),
        sources.join("writer.rs"),
        sources.join("agent.rs"),
        sources.join("freeze-hook"),
        agent.clone(),
        root.join("testkit/src/oracle/history.rs"),
    ];
    let key = key(&kernel, &inputs)?;
    let key_file = dir.join("key");
    let built = FILES.iter().all(|name| dir.join(name).exists());
    if built && fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    println!("building the test guest in {}", dir.display());
    let work = dir.join(format!("work-{}", process::id()));
    let assembled = assemble(&kernel, &busybox, &sources, &work);
    let done = assembled.and_then(|()| add_agent(&agent, &sources, &work)).and_then(|()| {
        for name in FILES {
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
    pack(&tree, "initrd.gz")
}

/// An archive of `tree`, beside it.
fn pack(tree: &Path, name: &str) -> Result<()> {
    let script = format!("set -o pipefail; find . | cpio --quiet -o -H newc | gzip -1 > ../{name}");
    run(Command::new("bash").args(["-c", &script]).current_dir(tree))
}

/// Makes `work/initrd-agent.gz`: the kernel unpacks archives that follow each other into one file system.
fn add_agent(agent: &Path, sources: &Path, work: &Path) -> Result<()> {
    let tree = work.join("agent");
    for folder in ["lib64", "lib/x86_64-linux-gnu", "agent"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy(agent, tree.join("agent/qemu-ga"))?;
    let hook = tree.join("agent/freeze-hook");
    fs::copy(sources.join("freeze-hook"), &hook)?;
    fs::set_permissions(hook, fs::Permissions::from_mode(0o755))?;
    for library in libraries(agent)? {
        let name = library.file_name().context("a library has a name")?;
        let folder = if library.starts_with("/lib64") { "lib64" } else { "lib/x86_64-linux-gnu" };
        fs::copy(&library, tree.join(folder).join(name))?;
    }
    pack(&tree, "agent.gz")?;
    let mut both = fs::read(work.join("initrd.gz"))?;
    both.extend(fs::read(work.join("agent.gz"))?);
    Ok(fs::write(work.join("initrd-agent.gz"), both)?)
}

/// The shared libraries of a program, and its loader. They are those of QEMU itself, which is installed.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = output(Command::new("ldd").arg(program))?;
    if let Some(missing) = said.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), missing.trim());
    }
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(said.lines().filter_map(path).collect())
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// The kernel unpacked in `dir/kernel`, fetched from Debian once.
fn kernel(dir: &Path) -> Result<Kernel> {
    let unpacked = unpacked(dir, "kernel", kernel_package)?;
    let image = fs::read_dir(unpacked.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .with_context(|| format!("no kernel in {}", unpacked.display()))?;
    Ok(Kernel { image, modules: unpacked.join("lib/modules") })
}

/// A package of Debian, unpacked in `dir/name`, fetched once and never installed.
fn unpacked(dir: &Path, name: &str, package: fn() -> Result<String>) -> Result<PathBuf> {
    let unpacked = dir.join(name);
    if !unpacked.exists() {
        let work = dir.join(format!("fetch-{}", process::id()));
        fs::create_dir_all(&work)?;
        let done = fetch(&work, package).and_then(|()| match fs::rename(work.join("tree"), &unpacked) {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            other => Ok(other?),
        });
        fs::remove_dir_all(&work)?;
        done.with_context(|| format!("cannot fetch the guest's {name}"))?;
    }
    Ok(unpacked)
}

/// Downloads and unpacks a package in `work/tree`; with fresh package lists if it fails with those at hand.
fn fetch(work: &Path, package: fn() -> Result<String>) -> Result<()> {
    let download = || download(work, &package()?);
    download().or_else(|_| setup::update_lists().and_then(|()| download()))?;
    let archive = fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    run(Command::new("dpkg").arg("-x").arg(archive).arg(work.join("tree")))
}

/// The package that the meta package depends on.
fn kernel_package() -> Result<String> {
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL_META_PACKAGE]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("apt knows no dependency of {KERNEL_META_PACKAGE}"))?;
    Ok(package.to_owned())
}

fn download(work: &Path, package: &str) -> Result<()> {
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
