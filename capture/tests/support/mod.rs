//! A host of its own per test: an embedded libvirt under a short temporary folder, a domain without a guest
//! that starts paused (what a guest would write is written through QEMU's monitor), and a replica that is
//! nothing but bytes.
//!
//! A process can open one embedded root in its life, so every test needs a process of its own: run them with
//! `cargo nextest run`.
#![allow(dead_code)]

use capture::{
    Capture, CaptureError, Consistency, Cut, Disk, DiskFormat, Fault, Folders, Limits, PeerHashes, Prepared,
    Reader,
};
use hypervisor::{Hypervisor, prepare_embedded_root};
use model::{
    CLUSTER_BYTES, Chunk, ChunkContent, ClusterHash, ClusterSet, DeltaId, DiskId, VmId, ZERO_CLUSTER,
    hash_cluster,
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use virt::{connect::Connect, sys};

pub const CLUSTER: u64 = CLUSTER_BYTES;

pub struct Lab {
    pub capture: Capture,
    /// What the peer has: a disk's bytes each.
    pub replica: Vec<Vec<u8>>,
    pub latest: Option<DeltaId>,
    monitor: Option<Connect>,
    dir: TempDir,
}

/// A disk to make: its size and format, and whether it stands on a template.
pub struct NewDisk {
    pub size_bytes: u64,
    pub format: DiskFormat,
    pub on_template: bool,
}

pub fn qcow2(size_bytes: u64) -> NewDisk {
    NewDisk { size_bytes, format: DiskFormat::Qcow2, on_template: false }
}

/// A resync of one disk.
pub fn compare(candidates: Option<ClusterSet>) -> Cut {
    Cut::Compare { candidates: candidates.map(|set| vec![set]), own_allocation: false }
}

/// What one turn sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub data: u64,
    pub zero: u64,
}

impl Lab {
    /// A running (paused) domain with these disks, not yet replicated.
    pub fn new(disks: &[NewDisk]) -> Self {
        let dir = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
        let uri = prepare_embedded_root(&dir.path().join("l")).unwrap();
        let hypervisor = Hypervisor::connect(&uri).unwrap();
        let monitor = Connect::open(Some(&uri)).unwrap();
        let vm = VmId::random();
        let disks: Vec<Disk> =
            disks.iter().enumerate().map(|(n, new)| make_disk(dir.path(), n, new)).collect();
        hypervisor.define(&domain_xml(vm, &disks)).unwrap();
        hypervisor.start_paused(vm).unwrap();
        let folders =
            Folders { state: dir.path().join("state"), spool: dir.path().join("spool"), overlays: None };
        let limits = Limits { spool_bytes_max: 1 << 30, free_bytes_min: 0 };
        let clock = || 1_700_000_000_000;
        let fault = Fault::default();
        let replica = disks.iter().map(|_| vec![]).collect();
        let capture = Capture { hypervisor, vm, disks, folders, limits, clock, fault };
        Self { capture, replica, latest: None, monitor: Some(monitor), dir }
    }

    pub fn hypervisor(&self) -> &Hypervisor {
        &self.capture.hypervisor
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn vm(&self) -> VmId {
        self.capture.vm
    }

    pub fn start(&self) {
        self.hypervisor().start_paused(self.vm()).unwrap();
    }

    pub fn stop(&self) {
        self.hypervisor().destroy(self.vm()).unwrap();
    }

    /// Ends QEMU as a loss of power does, and waits until libvirt has seen it.
    pub fn kill_qemu(&self) {
        let pid = std::fs::read_to_string(self.path("l/run/qemu/t.pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let timeout = Duration::from_secs(60);
        self.hypervisor().wait_for_state(self.vm(), hypervisor::DomainState::ShutOff, timeout).unwrap();
    }

    /// Writes as the guest would, and flushes; `write -z` and `discard` too.
    pub fn io(&self, disk: usize, command: &str) {
        for command in [command, "flush"] {
            let line =
                format!("qemu-io -d /machine/peripheral/virtio-disk{disk}/virtio-backend \"{command}\"");
            let domain = self.monitor.as_ref().unwrap().lookup_domain_by_uuid(self.vm().0).unwrap();
            let answer =
                domain.qemu_monitor_command(&line, sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP).unwrap();
            assert!(!answer.contains("rror") && !answer.contains("fail"), "{command}: {answer}");
        }
    }

    /// What the disk holds there.
    pub fn expect(&self, disk: usize, pattern: u8, offset: u64, length: u64) {
        let path = self.source(&self.capture.disks[disk]);
        let read = format!("read -P {pattern:#x} {offset} {length}");
        let output = Command::new("qemu-io").args(["-U", "-r", "-c", &read, text(&path)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("fail"), "{read} of {}: {said}", path.display());
    }

    pub fn write(&self, disk: usize, pattern: u8, offset: u64, length: u64) {
        self.io(disk, &format!("write -P {pattern:#x} {offset} {length}"));
    }

    /// One whole turn; afterwards the replica's disks must equal the VM's.
    pub fn replicate(&mut self, how: Cut) -> Sent {
        let delta = DeltaId::random();
        self.cut(delta, how).unwrap();
        let sent = self.ship(delta);
        self.assert_equal();
        self.capture.settle(delta).unwrap();
        sent
    }

    pub fn cut(&self, delta: DeltaId, how: Cut) -> Result<Prepared, CaptureError> {
        let base = if matches!(how, Cut::Full) { None } else { self.latest };
        self.capture.cut(delta, base, how, Consistency::Crash)
    }

    /// Reads a delta twice, which must agree, and applies it to the replica.
    pub fn ship(&mut self, delta: DeltaId) -> Sent {
        self.ship_with(delta, || None)
    }

    /// The same where the reader needs the replica's hashes.
    pub fn ship_compared(&mut self, delta: DeltaId) -> Sent {
        let (replica, disks) = (self.replica.clone(), self.capture.disks.clone());
        self.ship_with(delta, || Some(peer_hashes(replica.clone(), &disks)))
    }

    fn ship_with(&mut self, delta: DeltaId, peer: impl Fn() -> Option<PeerHashes>) -> Sent {
        let chunks: Vec<Chunk> = self.read(delta, peer());
        assert_eq!(chunks, self.read(delta, peer()), "the second reading differs");
        let sizes: Vec<u64> =
            self.capture.disks.iter().map(|disk| virtual_size(&self.source(disk))).collect();
        let sent = apply(&mut self.replica, &sizes, &chunks);
        self.latest = Some(delta);
        sent
    }

    fn read(&self, delta: DeltaId, peer: Option<PeerHashes>) -> Vec<Chunk> {
        let reader: Reader = self.capture.reader(delta, peer).unwrap();
        reader.map(Result::unwrap).collect()
    }

    /// The file that a disk stands on now.
    pub fn source(&self, disk: &Disk) -> PathBuf {
        let info = self.hypervisor().domain(self.vm()).unwrap().unwrap();
        let info = info.disks.iter().find(|info| info.target == disk.target).unwrap();
        info.path().unwrap().to_owned()
    }

    pub fn assert_equal(&self) {
        for (disk, bytes) in self.capture.disks.iter().zip(&self.replica) {
            let source = self.source(disk);
            let format = if source == disk.path { disk.format } else { DiskFormat::Qcow2 };
            let raw = self.path("compare.raw");
            qemu_img(&["convert", "-U", "-f", format.name(), "-O", "raw", text(&source), text(&raw)]);
            let truth = std::fs::read(&raw).unwrap();
            assert_eq!(truth.len(), bytes.len(), "size of disk {}", disk.target);
            let differing = truth.chunks(CLUSTER as usize).zip(bytes.chunks(CLUSTER as usize));
            let differing: Vec<usize> =
                differing.enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| index).collect();
            assert_eq!(differing, [0usize; 0], "clusters of disk {} differ from the replica's", disk.target);
        }
    }

    pub fn save_managed(&self) {
        let domain = self.monitor.as_ref().unwrap().lookup_domain_by_uuid(self.vm().0).unwrap();
        domain.managed_save(0).unwrap();
    }

    pub fn snapshot_internal(&self, name: &str) {
        let domain = self.monitor.as_ref().unwrap().lookup_domain_by_uuid(self.vm().0).unwrap();
        domain
            .create_snapshot_xml(&format!("<domainsnapshot><name>{name}</name></domainsnapshot>"), 0)
            .unwrap();
    }

    fn ask_qemu(&self, command: &str, arguments: &Value) -> Value {
        let domain = self.monitor.as_ref().unwrap().lookup_domain_by_uuid(self.vm().0).unwrap();
        let command = json!({ "execute": command, "arguments": arguments }).to_string();
        let answer: Value = serde_json::from_str(&domain.qemu_monitor_command(&command, 0).unwrap()).unwrap();
        assert!(answer["error"].is_null(), "{command}: {answer}");
        answer["return"].clone()
    }

    /// QEMU's topmost node of each disk.
    fn nodes(&self) -> Vec<Value> {
        let devices = self.ask_qemu("query-block", &json!({}));
        devices.as_array().unwrap().iter().map(|device| device["inserted"]["node-name"].clone()).collect()
    }

    /// Gives each disk a bitmap behind libvirt's back.
    pub fn add_bitmaps(&self, name: &str) {
        for node in self.nodes() {
            let bitmap = json!({ "node": node, "name": name, "persistent": true, "granularity": CLUSTER });
            self.ask_qemu("block-dirty-bitmap-add", &bitmap);
        }
    }

    /// What QEMU does in the snapshot of the pending turn; libvirt comes to none of its own.
    pub fn snapshot_unnoted(&self) {
        let journal =
            std::fs::read(self.path("state/capture").join(self.vm().to_string()).join("journal.json"));
        let journal: Value = serde_json::from_slice(&journal.unwrap()).unwrap();
        let overlays = journal["turn"]["disks"].as_array().unwrap().iter().map(|disk| &disk["overlay"]);
        for (number, (node, overlay)) in self.nodes().iter().zip(overlays).enumerate() {
            std::fs::create_dir_all(Path::new(overlay.as_str().unwrap()).parent().unwrap()).unwrap();
            let name = format!("unnoted-{number}");
            let snapshot = json!({ "node-name": node, "snapshot-file": overlay, "snapshot-node-name": name });
            self.ask_qemu("blockdev-snapshot-sync", &snapshot);
        }
    }

    /// Leftovers, but for the overlays that the disks stand on.
    pub fn leftovers_beside_overlays(&self) -> Vec<PathBuf> {
        let standing: Vec<PathBuf> = self.capture.disks.iter().map(|disk| self.source(disk)).collect();
        self.leftovers().into_iter().filter(|path| !standing.contains(path)).collect()
    }

    /// Checkpoints that libvirt lists.
    pub fn checkpoints(&self) -> Vec<String> {
        self.hypervisor().checkpoints(self.vm()).unwrap().into_iter().map(|info| info.name).collect()
    }

    /// Files that a settled turn must not leave: all but journal and digests, in spool and state, and overlays.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let vm = self.vm().to_string();
        let folders = [self.path("spool").join(&vm), self.path("state/capture").join(&vm), self.path("")];
        let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        let files = files.map(|entry| entry.unwrap().path());
        files
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let ours = path.starts_with(&folders[0]) || path.starts_with(&folders[1]);
                let ours = ours || name.starts_with("relevo-");
                ours && name != "journal.json" && !name.ends_with(".digest")
            })
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.capture.hypervisor.destroy(self.capture.vm) {
            eprintln!("cannot stop the test's domain: {error}");
        }
    }
}

fn make_disk(dir: &Path, n: usize, new: &NewDisk) -> Disk {
    let path = dir.join(format!("disk{n}.{}", new.format.name()));
    let size = new.size_bytes.to_string();
    if new.on_template {
        let template = dir.join(format!("template{n}.qcow2"));
        qemu_img(&["create", "-q", "-f", "qcow2", text(&template), &size]);
        let write = ["-c", "write -P 0x77 128k 300k", text(&template)];
        assert!(Command::new("qemu-io").args(write).output().unwrap().status.success());
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", text(&template), "-F", "qcow2", text(&path)]);
    } else {
        qemu_img(&["create", "-q", "-f", new.format.name(), text(&path), &size]);
    }
    let target = format!("vd{}", char::from(b'a' + u8::try_from(n).unwrap()));
    Disk { disk: DiskId::random(), target, path, format: new.format, size_bytes: new.size_bytes }
}

pub fn domain_xml(vm: VmId, disks: &[Disk]) -> String {
    let disks: String = disks
        .iter()
        .map(|disk| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{}' discard='unmap'/>\
                 <source file='{}'/><target dev='{}' bus='virtio'/></disk>",
                disk.format.name(),
                disk.path.display(),
                disk.target
            )
        })
        .collect();
    format!(
        "<domain type='qemu'><name>t</name><uuid>{vm}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{disks}\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    )
}

/// Applies chunks as a replica does; disks grow to their sizes first.
pub fn apply(replica: &mut [Vec<u8>], sizes: &[u64], chunks: &[Chunk]) -> Sent {
    for (bytes, size) in replica.iter_mut().zip(sizes) {
        bytes.resize(usize::try_from(*size).unwrap(), 0);
    }
    let mut sent = Sent::default();
    let mut last = (0, None);
    for chunk in chunks {
        assert!(last < (chunk.disk, Some(chunk.cluster)), "chunks are not in order");
        last = (chunk.disk, Some(chunk.cluster));
        let bytes = &mut replica[usize::from(chunk.disk)];
        let start = (u64::from(chunk.cluster) * CLUSTER) as usize;
        match &chunk.content {
            ChunkContent::Data { bytes: data, hashes } => {
                assert!(data.len() <= 1 << 20);
                let found: Vec<ClusterHash> = data.chunks(CLUSTER as usize).map(hash_cluster).collect();
                assert_eq!(&found, hashes);
                bytes[start..start + data.len()].copy_from_slice(data);
                sent.data += hashes.len() as u64;
            }
            ChunkContent::Zero { count } => {
                let end = (start + *count as usize * CLUSTER as usize).min(bytes.len());
                bytes[start..end].fill(0);
                sent.zero += u64::from(*count);
            }
        }
    }
    sent
}

/// Answers as a peer that has these bytes would.
pub fn peer_hashes(replica: Vec<Vec<u8>>, disks: &[Disk]) -> PeerHashes {
    let ids: Vec<DiskId> = disks.iter().map(|disk| disk.disk).collect();
    Box::new(move |disk, first, count| {
        let index = ids.iter().position(|id| *id == disk).ok_or("no such disk")?;
        let hashes: Vec<ClusterHash> = replica[index].chunks(CLUSTER as usize).map(hash_cluster).collect();
        let hash = |cluster: u32| hashes.get(cluster as usize).copied().unwrap_or(ZERO_CLUSTER);
        Ok((first..first + count).map(hash).collect())
    })
}

pub fn virtual_size(path: &Path) -> u64 {
    let report = qemu_img(&["info", "-U", "--output=json", text(path)]);
    let (_, rest) = report.split_once("\"virtual-size\": ").unwrap();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

pub fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Polls until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
