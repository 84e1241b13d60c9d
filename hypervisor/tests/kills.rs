//! libvirt is killed between what QEMU did to a running domain's disks and its note of it: what the next one finds has
//! to be what QEMU has, and no byte may be lost.

mod support;

use hypervisor::{BlockJobKind, Error, Hypervisor, Overlay, image, prepare_embedded_root};
use model::VmId;
use std::{
    io::{BufRead, BufReader, Write},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    path::PathBuf,
};
use support::{CLUSTER, disk, domain_xml, holds, qemu_img, text, virsh::Virsh};

const DISK_BYTES: u64 = 16 << 20;

struct Field {
    /// Goes with all that is in it.
    dir: tempfile::TempDir,
    uri: String,
    disks: [(&'static str, PathBuf); 2],
}

impl Field {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
        let uri = prepare_embedded_root(&dir.path().join("l")).unwrap();
        let disks = ["vda", "vdb"].map(|target| (target, dir.path().join(format!("{target}.qcow2"))));
        for (_, path) in &disks {
            qemu_img(&["create", "-q", "-f", "qcow2", text(path), &DISK_BYTES.to_string()]);
        }
        let xml = domain_xml("cut", VmId::random(), &[disk("vda", &disks[0].1), disk("vdb", &disks[1].1)]);
        let definition = dir.path().join("domain.xml");
        std::fs::write(&definition, xml).unwrap();
        let field = Self { dir, uri, disks };
        let mut virsh = Virsh::open(&field.uri);
        let answer = virsh.ask(&format!("define {}; start --paused cut; domstate cut", text(&definition)));
        assert!(answer.contains("paused"), "{answer}");
        virsh.kill();
        field
    }

    fn open(&self) -> Virsh {
        Virsh::open(&self.uri)
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.dir.path().join("l/run/qemu/cut.pid")).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse::<u32>() {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

/// Writes a cluster to both disks as the guest would, and flushes. Its pattern tells the round.
fn write(round: u64) -> String {
    let (pattern, offset) = (round % 255 + 1, round % (DISK_BYTES / CLUSTER) * CLUSTER);
    let io = |disk: u32, command: &str| {
        let device = format!("/machine/peripheral/virtio-disk{disk}/virtio-backend");
        format!("qemu-monitor-command cut --hmp 'qemu-io -d {device} \"{command}\"'\n")
    };
    let write = format!("write -P {pattern} {offset} {CLUSTER}");
    [0, 1].map(|disk| io(disk, &write) + &io(disk, "flush")).concat()
}

/// libvirt's note on the domain and the domain's definition, as they were when it was killed.
struct Notes([(PathBuf, String); 2]);

impl Field {
    fn notes(&self) -> Notes {
        let paths = ["l/run/qemu/cut.xml", "l/etc/qemu/cut.xml"].map(|name| self.dir.path().join(name));
        Notes(paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())))
    }

    /// Puts an overlay on `vda`; its path.
    fn snapshot(&self, virsh: &mut Virsh) -> PathBuf {
        let path = self.dir.path().join("overlay");
        let made = virsh.ask(&format!(
            "snapshot-create-as cut --disk-only --no-metadata --diskspec vda,file={} --diskspec vdb,snapshot=no",
            text(&path)
        ));
        assert!(!made.contains("error"), "{made}");
        path
    }

    fn connect(&self) -> (Hypervisor, VmId) {
        let hypervisor = Hypervisor::connect(&self.uri).unwrap();
        let vm = hypervisor.find("cut").unwrap().unwrap();
        assert!(hypervisor.is_active(vm).unwrap());
        (hypervisor, vm)
    }
}

impl Notes {
    fn put_back(&self) {
        for (path, text) in &self.0 {
            std::fs::write(path, text).unwrap();
        }
    }
}

fn stands_on(hypervisor: &Hypervisor, vm: VmId) -> [PathBuf; 2] {
    [false, true].map(|defined| {
        let xml = hypervisor.xml(vm, defined).unwrap();
        hypervisor::xml::disk_source(&xml, "vda").unwrap().unwrap().0
    })
}

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

#[test]
fn an_overlay_that_libvirt_was_killed_before_noting_is_not_lost() {
    let field = Field::new();
    let mut virsh = field.open();
    let before = field.notes();
    let overlay = field.snapshot(&mut virsh);
    virsh.ask(&write(0));
    virsh.kill();
    before.put_back();

    let (hypervisor, vm) = field.connect();
    assert_eq!(stands_on(&hypervisor, vm), [overlay.clone(), overlay.clone()]);
    let again = field.dir.path().join("again");
    hypervisor.snapshot_external(vm, &[("vda", &again)], Overlay::Create).unwrap();
    let base = &field.disks[0].1;
    hypervisor.commit_active(vm, "vda", Some(base), |_| GO_ON).unwrap();
    assert_eq!(stands_on(&hypervisor, vm), [base.clone(), base.clone()]);
    assert!(holds(base, 1, 0, CLUSTER));
    assert!(!image::is_open(&overlay).unwrap() && !image::is_open(&again).unwrap());
}

#[test]
fn a_pivot_that_libvirt_was_killed_before_noting_is_believed_and_its_bitmaps_are_not() {
    let field = Field::new();
    let mut virsh = field.open();
    virsh.ask("checkpoint-create-as cut c");
    let overlay = field.snapshot(&mut virsh);
    virsh.ask(&write(0));
    virsh.ask("blockcommit cut vda --active --wait");
    let ready = field.notes();
    assert!(ready.0[0].1.contains("<mirror "));
    virsh.ask("blockjob cut vda --pivot");
    virsh.kill();
    ready.put_back();

    let (hypervisor, vm) = field.connect();
    let base = &field.disks[0].1;
    assert_eq!(stands_on(&hypervisor, vm), [base.clone(), base.clone()]);
    assert!(holds(base, 1, 0, CLUSTER));
    // libvirt may have died before the overlay's bits went into the disk's.
    let size = hypervisor.checkpoint_size(vm, "c");
    assert!(matches!(size, Err(Error::BitmapGone { .. } | Error::CheckpointLost { .. })), "{size:?}");
    assert_eq!(hypervisor.block_job(vm, "vda").unwrap(), None);
    std::fs::remove_file(&overlay).unwrap();
    hypervisor.snapshot_external(vm, &[("vda", &overlay)], Overlay::Create).unwrap();
    hypervisor.commit_active(vm, "vda", Some(base), |_| GO_ON).unwrap();
}

#[test]
fn a_commit_that_libvirt_was_killed_before_noting_is_completed() {
    let field = Field::new();
    let mut virsh = field.open();
    let overlay = field.snapshot(&mut virsh);
    virsh.ask(&write(0));
    virsh.ask("blockcommit cut vda --active --wait");
    virsh.kill();
    // As it was when the job was begun: noted as new, and not where it goes.
    let Notes([(path, note), _]) = field.notes();
    let (head, rest) = note.split_once("<mirror ").unwrap();
    let (_, tail) = rest.split_once("</mirror>").unwrap();
    let note = format!("{head}{tail}").replace(" mirror='yes'", "").replace(" state='ready'", " state='new'");
    std::fs::write(path, note).unwrap();

    let (hypervisor, vm) = field.connect();
    let job = hypervisor.block_job(vm, "vda").unwrap().unwrap();
    assert_eq!(job.kind, BlockJobKind::ActiveCommit);
    // libvirt 9.0 would die of it.
    assert!(matches!(hypervisor.abort_block_job(vm, "vda"), Err(Error::BlockJobFailed { .. })));
    let base = &field.disks[0].1;
    hypervisor.commit_active(vm, "vda", Some(base), |_| GO_ON).unwrap();
    assert_eq!(stands_on(&hypervisor, vm), [base.clone(), base.clone()]);
    assert!(holds(base, 1, 0, CLUSTER) && !image::is_open(&overlay).unwrap());
}

#[test]
fn a_commit_that_was_called_off_when_libvirt_was_killed_is_no_pivot() {
    let field = Field::new();
    let mut virsh = field.open();
    let overlay = field.snapshot(&mut virsh);
    virsh.ask("blockcommit cut vda --active --wait");
    virsh.kill();
    // libvirt's own way to call a commit off, which ends without an error. It is killed before it notes that.
    let Notes([(_, note), _]) = field.notes();
    let between = |text: &str, from: &str, to: char| {
        text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).unwrap().0.to_owned()
    };
    let job = between(&note, "<blockjob name='", '\'');
    let mut monitor = UnixStream::connect(between(&note, "<monitor path='", '\'')).unwrap();
    let mut answers = BufReader::new(monitor.try_clone().unwrap()).lines().map(Result::unwrap);
    monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}").unwrap();
    let cancel = format!("{{\"execute\":\"block-job-cancel\",\"arguments\":{{\"device\":\"{job}\"}}}}");
    monitor.write_all(cancel.as_bytes()).unwrap();
    assert!(answers.any(|line| line.contains("\"concluded\"")));
    drop((monitor, answers));

    let (hypervisor, vm) = field.connect();
    assert_eq!(stands_on(&hypervisor, vm), [overlay.clone(), overlay.clone()]);
    assert_eq!(hypervisor.block_job(vm, "vda").unwrap(), None);
    let base = &field.disks[0].1;
    hypervisor.commit_active(vm, "vda", Some(base), |_| GO_ON).unwrap();
    assert!(!image::is_open(&overlay).unwrap());
}
