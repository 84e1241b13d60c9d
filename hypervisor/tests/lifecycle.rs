//! Connecting, inventory, starting and stopping.

mod support;

use hypervisor::{
    Change, DiskDevice, DiskSource, DomainState, Error, Event, Hypervisor, NetworkChoice, TestCopy, xml,
};
use model::VmId;
use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};
use support::{Disk, Host, MIB, disk, domain_xml, qemu_img, text};

const PATIENCE: Duration = Duration::from_secs(60);

/// Another process that has a root open: this one can open it but once.
struct Virsh {
    child: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Virsh {
    fn open(uri: &str) -> Self {
        let mut child = Command::new("virsh")
            .args(["-q", "-c", uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, answers }
    }

    /// Returns once `answer` is printed.
    fn run(&mut self, script: &str, answer: &str) {
        writeln!(self.input, "{script}").unwrap();
        assert!(self.answers.by_ref().map(Result::unwrap).any(|line| line.trim() == answer), "{script}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_root_that_another_process_holds_is_refused_by_name() {
    let dir = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
    let uri = hypervisor::prepare_embedded_root(dir.path()).unwrap();
    let mut other = Virsh::open(&uri);
    other.run("uri", &uri);

    let refused = Hypervisor::connect(&uri).err();
    assert!(matches!(&refused, Some(Error::RootInUse { root, .. }) if root == dir.path()), "{refused:?}");
    other.kill();
    let second = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
    let second = Hypervisor::connect(&hypervisor::prepare_embedded_root(second.path()).unwrap()).err();
    assert!(matches!(second, Some(Error::SecondRoot { .. })), "{second:?}");
}

#[test]
fn a_start_that_was_cut_off_before_its_process_is_forgotten() {
    let dir = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
    let uri = hypervisor::prepare_embedded_root(dir.path()).unwrap();
    let (vm, definition) = (VmId::random(), dir.path().join("domain.xml"));
    std::fs::write(&definition, domain_xml("cut", vm, &[])).unwrap();
    let note = dir.path().join("run/qemu/cut.xml");
    let copy = dir.path().join("copy");
    let mut virsh = Virsh::open(&uri);
    virsh.run(&format!("define {}; start --paused cut; domstate cut", text(&definition)), "paused");
    std::fs::copy(&note, &copy).unwrap();
    virsh.run("destroy cut; domstate cut", "shut off");
    virsh.kill();

    // What libvirt had on disk when it was killed just before QEMU.
    let text = std::fs::read_to_string(&copy).unwrap();
    let (head, tail) = text.split_once("<domstatus ").unwrap();
    let (_, tail) = tail.split_once('>').unwrap();
    let job = "<job type='none' async='start'/>";
    let text = format!("{head}<domstatus state='paused' reason='starting up' pid='0'>{job}{tail}");
    std::fs::write(&note, text).unwrap();

    let hypervisor = Hypervisor::connect(&uri).unwrap();
    assert!(!hypervisor.is_active(vm).unwrap(), "there is no such process");
    hypervisor.start_paused(vm).unwrap();
    assert!(hypervisor.is_active(vm).unwrap());
    hypervisor.destroy(vm).unwrap();
}

#[test]
fn a_backup_that_was_cut_off_before_it_began_is_forgotten() {
    backup_is_forgotten("");
}

#[test]
fn a_backup_that_was_cut_off_while_it_began_is_forgotten() {
    // libvirt itself cannot read that: the state of a disk's job is not optional to it.
    let disk = "<disk name='vda' backup='yes' type='file' index='2'><driver type='qcow2'/></disk>";
    backup_is_forgotten(&format!(
        "<backups><domainbackup mode='push'><disks>{disk}</disks></domainbackup></backups>"
    ));
}

fn backup_is_forgotten(backup: &str) {
    let dir = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
    let uri = hypervisor::prepare_embedded_root(dir.path()).unwrap();
    let (vm, definition) = (VmId::random(), dir.path().join("domain.xml"));
    let disk = Disk { target: "vda", path: dir.path().join("vda.qcow2") };
    qemu_img(&["create", "-q", "-f", "qcow2", text(&disk.path), "4M"]);
    std::fs::write(&definition, domain_xml("cut", vm, &[disk])).unwrap();
    let mut virsh = Virsh::open(&uri);
    virsh.run(&format!("define {}; start --paused cut; domstate cut", text(&definition)), "paused");
    virsh.kill();

    // What libvirt has on disk when it is killed after it has claimed the domain, or before the last disk's job runs.
    let note = dir.path().join("run/qemu/cut.xml");
    let text = std::fs::read_to_string(&note).unwrap();
    let (head, tail) = text.split_once("  <domain ").unwrap();
    let job = "<job type='none' async='backup' phase='none' flags='0x0'/>";
    std::fs::write(&note, format!("{head}{job}{backup}<domain {tail}")).unwrap();

    let hypervisor = Hypervisor::connect(&uri).unwrap();
    assert!(hypervisor.is_active(vm).unwrap());
    let target = dir.path().join("delta");
    hypervisor.backup_begin(vm, None, Some("first"), &[("vda", &target)]).unwrap();
    assert!(hypervisor.wait_backup(vm).unwrap().success);
    hypervisor.destroy(vm).unwrap();
}

#[test]
fn a_commit_that_was_cut_off_at_its_end_does_not_hide_the_domain() {
    let dir = tempfile::Builder::new().prefix("rv").tempdir_in("/tmp").unwrap();
    let uri = hypervisor::prepare_embedded_root(dir.path()).unwrap();
    let (vm, definition) = (VmId::random(), dir.path().join("domain.xml"));
    let disk = Disk { target: "vda", path: dir.path().join("vda.qcow2") };
    qemu_img(&["create", "-q", "-f", "qcow2", text(&disk.path), "4M"]);
    std::fs::write(&definition, domain_xml("cut", vm, &[disk])).unwrap();
    let overlay = dir.path().join("overlay");
    let mut virsh = Virsh::open(&uri);
    virsh.run(&format!("define {}; start --paused cut; domstate cut", text(&definition)), "paused");
    let snapshot =
        format!("snapshot-create-as cut --disk-only --no-metadata --diskspec vda,file={}", text(&overlay));
    virsh.run(&format!("{snapshot}; blockcommit cut vda --active --wait; uri"), &uri);
    virsh.kill();

    // What libvirt had on disk when it was killed while it took note of the end.
    let note = dir.path().join("run/qemu/cut.xml");
    let text = std::fs::read_to_string(&note).unwrap();
    assert!(text.contains("<mirror ") && text.contains(" job='active-commit'"), "{text}");
    std::fs::write(&note, text.replace(" job='active-commit'", " job=''")).unwrap();

    let hypervisor = Hypervisor::connect(&uri).unwrap();
    assert!(hypervisor.is_active(vm).unwrap(), "its QEMU runs");
    hypervisor.abort_block_job(vm, "vda").unwrap();
    hypervisor.destroy(vm).unwrap();
}

#[test]
fn a_domain_lives_and_every_step_is_an_event() {
    let host = Host::new();
    let hypervisor = host.hypervisor().clone();
    let events = hypervisor.events();
    let vm = hypervisor.define(&domain_xml("life", VmId::random(), &[])).unwrap();
    assert_eq!(hypervisor.find("life").unwrap(), Some(vm));
    assert_eq!(hypervisor.find(&vm.to_string()).unwrap(), Some(vm));
    assert_eq!(hypervisor.find("death").unwrap(), None);
    assert!(matches!(hypervisor.pause(vm), Err(Error::NotRunning { .. })));
    let sketched = || hypervisor.sketch(vm).unwrap().map(|info| (info.state, info.autostart, info.vcpus));
    assert_eq!(sketched(), Some((DomainState::ShutOff, false, 1)));
    hypervisor.start_paused(vm).unwrap();
    assert_eq!(sketched(), Some((DomainState::Paused, false, 1)));
    assert_eq!(hypervisor.state(vm).unwrap(), Some(DomainState::Paused));
    hypervisor.resume(vm).unwrap();
    hypervisor.wait_for_state(vm, DomainState::Running, PATIENCE).unwrap();
    hypervisor.pause(vm).unwrap();
    hypervisor.start(vm).unwrap();
    assert!(matches!(hypervisor.undefine(vm), Err(Error::StillThere { .. })));
    hypervisor.set_autostart(vm, true).unwrap();
    assert!(hypervisor.domain(vm).unwrap().unwrap().autostart);
    assert_eq!(sketched(), Some((DomainState::Paused, true, 1)));

    let waiter = std::thread::spawn({
        let hypervisor = hypervisor.clone();
        move || hypervisor.wait_for_state(vm, DomainState::ShutOff, PATIENCE)
    });
    hypervisor.destroy(vm).unwrap();
    waiter.join().unwrap().unwrap();
    hypervisor.destroy(vm).unwrap();
    let short = Duration::from_millis(50);
    let waited = hypervisor.wait_for_state(vm, DomainState::Running, short);
    assert!(matches!(waited, Err(Error::StateTimeout { .. })), "{waited:?}");
    // What was read before is of no use for another definition, nor for none.
    hypervisor.define(&domain_xml("life", vm, &[]).replace("<vcpu>1</vcpu>", "<vcpu>2</vcpu>")).unwrap();
    assert_eq!(sketched(), Some((DomainState::ShutOff, true, 2)));
    hypervisor.undefine(vm).unwrap();
    assert_eq!(sketched(), None);
    hypervisor.undefine(vm).unwrap();
    assert!(matches!(hypervisor.start(vm), Err(Error::NoSuchDomain { .. })));

    let mut seen = vec![];
    while seen.last() != Some(&Change::Undefined) {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::Lifecycle { vm: of, change } if of == vm => seen.push(change),
            _ => {}
        }
    }
    for change in [Change::Defined, Change::Started, Change::Paused, Change::Resumed, Change::Stopped] {
        assert!(seen.contains(&change), "no {change:?} in {seen:?}");
    }
}

#[test]
fn a_start_right_after_a_stop_succeeds() {
    let host = Host::new();
    let a = host.image("a.qcow2");
    let vm = host.run("again", &[disk("vda", &a)]);
    for _ in 0..4 {
        host.hypervisor().destroy(vm).unwrap();
        host.hypervisor().start_paused(vm).unwrap();
    }
    assert!(host.hypervisor().is_active(vm).unwrap());
}

#[test]
fn the_sizes_of_disks_are_known_while_their_vm_ends() {
    let host = Host::new();
    let disks = ["one.qcow2", "two.qcow2"].map(|name| host.image(name));
    let [one, two] = &disks;
    let disks = [Disk { target: "vda", path: one.clone() }, Disk { target: "vdb", path: two.clone() }];
    let hypervisor = host.hypervisor();
    let vm = hypervisor.define(&domain_xml("ends", VmId::random(), &disks)).unwrap();
    for round in 0..8 {
        hypervisor.start_paused(vm).unwrap();
        let looks = || {
            while hypervisor.is_active(vm).unwrap() {
                let info = hypervisor.outline(vm).unwrap().unwrap();
                let sizes: Vec<u64> = info.disks.iter().map(|disk| disk.size_bytes).collect();
                assert_eq!(sizes, [4 * MIB; 2], "round {round}");
            }
        };
        std::thread::scope(|scope| {
            let looking = [scope.spawn(looks), scope.spawn(looks)];
            match round % 2 {
                0 => drop(Command::new("kill").arg(host.pid("ends").to_string()).status().unwrap()),
                _ => hypervisor.destroy(vm).unwrap(),
            }
            looking.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

#[test]
fn the_inventory_names_what_cannot_be_replicated_and_why() {
    let host = Host::new();
    let image = |name: &str, options: &str| {
        let path = host.path(name);
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, text(&path), "4M"]);
        path
    };
    let good = host.image("good.qcow2");
    let over = host.overlay("over.qcow2", &good);
    let raw = host.path("raw.img");
    qemu_img(&["create", "-q", "-f", "raw", text(&raw), "1M"]);
    // Not LUKS: making that measures the processor, which fails on a busy machine.
    let sealed = host.path("sealed.qcow2");
    let secret = "secret,id=s,data=x";
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    qemu_img(&["create", "-q", "--object", secret, "-f", "qcow2", "-o", options, text(&sealed), "1M"]);
    let data_file = format!("data_file={},data_file_raw=on", host.path("data.raw").display());
    let files = [
        ("vda", over.clone(), "qcow2", ""),
        ("vdb", raw, "raw", ""),
        ("vdc", sealed, "qcow2", "encrypted"),
        ("vdd", image("l2.qcow2", "extended_l2=on"), "qcow2", "extended L2"),
        ("vde", image("zstd.qcow2", "compression_type=zstd"), "qcow2", "zstd"),
        ("vdf", image("ext.qcow2", &data_file), "qcow2", "data file"),
        ("vdg", image("old.qcow2", "compat=0.10"), "qcow2", "version 2"),
        ("vdh", host.path("missing.qcow2"), "qcow2", "there is no image"),
    ];
    let mut disks: String = files
        .iter()
        .map(|(target, path, format, _)| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{}'/>\
                 <target dev='{target}' bus='virtio'/></disk>",
                path.display()
            )
        })
        .collect();
    disks += &format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{0}'/>\
         <target dev='vdi' bus='virtio'/><transient/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{0}'/>\
         <target dev='vdj' bus='virtio'/><shareable/></disk>\
         <disk type='network' device='disk'><driver name='qemu' type='raw'/>\
         <source protocol='nbd' name='x'><host name='h' port='1'/></source><target dev='vdk' bus='virtio'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/gone'/>\
         <target dev='vdl' bus='virtio'/><readonly/></disk>\
         <disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <interface type='user'><mac address='52:54:00:01:02:03'/></interface>",
        good.display()
    );
    let definition =
        domain_xml("zoo", VmId::random(), &[]).replace("<devices>", &format!("<devices>{disks}"));
    let vm = host.hypervisor().define(&definition).unwrap();
    let info = host.hypervisor().domain(vm).unwrap().unwrap();
    assert_eq!((info.name.as_str(), info.state, info.persistent), ("zoo", DomainState::ShutOff, true));
    assert_eq!((info.memory_bytes, info.vcpus), (16 * MIB, 1));
    assert_eq!(info.guest_agent, Some(false));
    assert_eq!(info.interfaces[0].mac, "52:54:00:01:02:03");

    let find = |target: &str| info.disks.iter().find(|d| d.target == target).unwrap();
    let first = find("vda");
    assert_eq!((first.path(), first.size_bytes), (Some(over.as_path()), 4 * MIB));
    assert_eq!(first.backing_chain.iter().map(|l| l.path.as_path()).collect::<Vec<_>>(), [good.as_path()]);
    for (target, _, _, reason) in &files {
        match find(target).refused.as_deref() {
            None => assert!(reason.is_empty(), "{target} should be refused: {reason}"),
            Some(text) => assert!(!reason.is_empty() && text.contains(reason), "{target}: {text}"),
        }
    }
    for (target, reason) in [("vdi", "transient"), ("vdj", "shareable"), ("vdk", "network")] {
        assert!(find(target).refused.as_deref().unwrap().contains(reason), "{target}");
    }
    for target in ["vdl", "hda"] {
        assert!(!find(target).is_replicated() && find(target).refused.is_none(), "{target}");
    }
    assert_eq!((find("hda").device, &find("hda").source), (DiskDevice::Cdrom, &DiskSource::None));
}

#[test]
fn a_saved_domain_is_not_undefined_and_an_internal_snapshot_is_seen() {
    let host = Host::new();
    let a = host.image("a.qcow2");
    let vm = host.run("saved", &[disk("vda", &a)]);
    let answer = host.human_monitor(vm, "info status");
    assert!(answer.contains("paused"), "{answer}");
    host.snapshot_internal(vm, "before");
    assert_eq!(host.hypervisor().domain(vm).unwrap().unwrap().internal_snapshots, ["before"]);
    host.save(vm);
    assert!(host.hypervisor().domain(vm).unwrap().unwrap().has_managed_save);
    assert!(matches!(host.hypervisor().undefine(vm), Err(Error::HasManagedSave { .. })));
}

#[test]
fn a_test_copy_runs_beside_its_original() {
    let host = Host::new();
    let a = host.image("a.qcow2");
    let more = "<serial type='file'><source path='SERIAL'/></serial>\
                <interface type='user'><mac address='52:54:00:01:02:03'/></interface>\
                <graphics type='vnc' port='-1' autoport='yes'/>"
        .replace("SERIAL", text(&host.path("serial.log")));
    let original = domain_xml("original", VmId::random(), &[disk("vda", &a)])
        .replace("<devices>", &format!("<genid/><devices>{more}"));
    let vm = host.hypervisor().define(&original).unwrap();
    host.hypervisor().start_paused(vm).unwrap();

    let copy = TestCopy {
        name: "original - Test".into(),
        vm: VmId::random(),
        networks: NetworkChoice::Unplug,
        adapters: [].into(),
        nvram: None,
    };
    let definition = host.hypervisor().xml(vm, true).unwrap();
    let test_disk: Disk = disk("vda", &host.image("test.qcow2"));
    let copied = xml::for_test_copy(&definition, &copy).unwrap();
    let copied = xml::set_disk_source(&copied, test_disk.target, &test_disk.path, "qcow2").unwrap();
    assert_eq!(host.hypervisor().define(&copied).unwrap(), copy.vm);
    host.hypervisor().start_paused(copy.vm).unwrap();
    let names: Vec<_> = host.hypervisor().domains().unwrap().into_iter().map(|d| (d.name, d.state)).collect();
    let paused = DomainState::Paused;
    assert_eq!(names, [("original".to_owned(), paused), ("original - Test".to_owned(), paused)]);
    let genid = |xml: &str| xml.split("<genid>").nth(1).unwrap()[..36].to_owned();
    assert_ne!(genid(&host.hypervisor().xml(copy.vm, true).unwrap()), genid(&definition));
}
