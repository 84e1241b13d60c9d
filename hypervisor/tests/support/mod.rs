//! A host of its own per test: an embedded libvirt under a short temporary folder, and domains without a
//! guest. They start paused; what a guest would write is written through QEMU's monitor, below the virtual
//! device and above the block layer that is tested.
//!
//! A process can open one embedded root in its life, so every test needs a process of its own: run them with
//! `cargo nextest run`.
#![allow(dead_code)]

pub mod virsh;

use hypervisor::{Hypervisor, image, prepare_embedded_root};
use model::VmId;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use virt::{connect::Connect, sys};

pub const MIB: u64 = 1 << 20;
pub const CLUSTER: u64 = 64 << 10;

pub struct Host {
    /// `None` only while reconnecting, and while the folder is being removed.
    link: Option<Link>,
    dir: TempDir,
}

struct Link {
    hypervisor: Hypervisor,
    /// For what only tests may do: QEMU's own monitor.
    monitor: Connect,
}

pub struct Disk {
    pub target: &'static str,
    pub path: PathBuf,
}

impl Host {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
        let link = Some(Link::open(&dir));
        Self { link, dir }
    }

    pub fn hypervisor(&self) -> &Hypervisor {
        &self.link().hypervisor
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("connected")
    }

    /// Closes the connection with all that it knows of jobs, and opens another one. Domains run on.
    pub fn reconnect(&mut self) {
        self.link = None;
        self.link = Some(Link::open(&self.dir));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new qcow2 of 4 MiB.
    pub fn image(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        qemu_img(&["create", "-q", "-f", "qcow2", text(&path), "4M"]);
        path
    }

    /// A new qcow2 on top of another.
    pub fn overlay(&self, name: &str, backing: &Path) -> PathBuf {
        let path = self.path(name);
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", text(backing), "-F", "qcow2", text(&path)]);
        path
    }

    /// Defines a domain with these disks (virtio, qcow2) and starts it paused.
    pub fn run(&self, name: &str, disks: &[Disk]) -> VmId {
        let vm = self.hypervisor().define(&domain_xml(name, VmId::random(), disks)).unwrap();
        self.hypervisor().start_paused(vm).unwrap();
        vm
    }

    /// Writes `length` bytes of `pattern` to the n-th virtio disk as its guest would, and flushes.
    pub fn write(&self, vm: VmId, disk: usize, pattern: u8, offset: u64, length: u64) {
        let answer = self.qemu_io(vm, disk, &format!("write -P {pattern:#x} {offset} {length}"));
        assert!(!answer.contains("rror") && !answer.contains("fail"), "the guest's write failed: {answer}");
        self.qemu_io(vm, disk, "flush");
    }

    fn qemu_io(&self, vm: VmId, disk: usize, command: &str) -> String {
        let command =
            format!("qemu-io -d /machine/peripheral/virtio-disk{disk}/virtio-backend \"{command}\"");
        self.human_monitor(vm, &command)
    }

    pub fn human_monitor(&self, vm: VmId, command: &str) -> String {
        let domain = self.link().monitor.lookup_domain_by_uuid(vm.0).unwrap();
        domain.qemu_monitor_command(command, sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP).unwrap()
    }

    pub fn snapshot_internal(&self, vm: VmId, name: &str) {
        let domain = self.link().monitor.lookup_domain_by_uuid(vm.0).unwrap();
        let xml = format!("<domainsnapshot><name>{name}</name></domainsnapshot>");
        domain.create_snapshot_xml(&xml, 0).unwrap();
    }

    /// Saves the domain's memory to libvirt's managed save image and stops it.
    pub fn save(&self, vm: VmId) {
        self.link().monitor.lookup_domain_by_uuid(vm.0).unwrap().managed_save(0).unwrap();
    }

    /// The process that libvirt started for the domain.
    pub fn pid(&self, name: &str) -> i32 {
        let path = self.path("l/run/qemu").join(format!("{name}.pid"));
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Runs one push backup to its end and gives the spool files, in the order of `targets`.
    pub fn backup(&self, vm: VmId, since: Option<&str>, new: Option<&str>, targets: &[&str]) -> Vec<PathBuf> {
        let attempt = uuid::Uuid::new_v4();
        let spools: Vec<_> = targets.iter().map(|target| self.path(&format!("{attempt}-{target}"))).collect();
        let pairs: Vec<_> = targets.iter().copied().zip(spools.iter().map(PathBuf::as_path)).collect();
        self.hypervisor().backup_begin(vm, since, new, &pairs).unwrap();
        let outcome = self.hypervisor().wait_backup(vm).unwrap();
        assert!(outcome.success, "{outcome:?}");
        spools.iter().for_each(|spool| wait_closed(spool));
        spools
    }
}

impl Link {
    fn open(dir: &TempDir) -> Self {
        let uri = prepare_embedded_root(&dir.path().join("l")).unwrap();
        let hypervisor = Hypervisor::connect(&uri).unwrap();
        Self { hypervisor, monitor: Connect::open(Some(&uri)).unwrap() }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        for info in link.hypervisor.domains().unwrap_or_default() {
            if let Err(error) = link.hypervisor.destroy(info.vm) {
                eprintln!("cannot stop {}: {error}", info.name);
            }
        }
    }
}

pub fn domain_xml(name: &str, vm: VmId, disks: &[Disk]) -> String {
    let disks: String = disks
        .iter()
        .map(|Disk { target, path }| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
                 <source file='{}'/><target dev='{target}' bus='virtio'/></disk>",
                path.display()
            )
        })
        .collect();
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{vm}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{disks}\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    )
}

pub fn disk(target: &'static str, path: &Path) -> Disk {
    Disk { target, path: path.to_owned() }
}

pub fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// libvirt reports the end of a backup before QEMU has closed its target, and until then its tables are not whole.
pub fn wait_closed(spool: &Path) {
    eventually("closed", || !image::is_open(spool).unwrap());
}

/// Clusters that the qcow2 at `path` itself holds data for.
pub fn own_clusters(path: &Path) -> Vec<u64> {
    let report = qemu_img(&["map", "-U", "--output=json", "-f", "qcow2", text(path)]);
    let extents: serde_json::Value = serde_json::from_str(&report).unwrap();
    let own = extents.as_array().unwrap().iter().filter(|e| e["depth"] == 0 && e["data"] == true);
    own.flat_map(|extent| {
        let (start, length) = (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
        start / CLUSTER..(start + length).div_ceil(CLUSTER)
    })
    .collect()
}

/// Whether `length` bytes at `offset` of the chain at `path` all are `pattern`.
pub fn holds(path: &Path, pattern: u8, offset: u64, length: u64) -> bool {
    let command = format!("read -P {pattern:#x} {offset} {length}");
    let output =
        Command::new("qemu-io").args(["-U", "-r", "-f", "qcow2", "-c", &command, text(path)]).output();
    let output = output.unwrap();
    output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("verification failed")
}

/// Polls until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
