//! Backups that end otherwise than well, or while nobody watches.

mod support;

use hypervisor::{Deleted, Error, Event, Hypervisor};
use std::time::Duration;
use support::{CLUSTER, Disk, Host, MIB, disk, eventually, own_clusters, qemu_img, text, wait_closed};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_aborted_backup_loses_nothing() {
    let host = Host::new();
    let a = host.path("a.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&a), "1G"]);
    let vm = host.run("abort", &[Disk { target: "vda", path: a }]);
    let hypervisor = host.hypervisor();
    assert!(!hypervisor.backup_running(vm).unwrap());
    assert!(!hypervisor.abort_backup(vm).unwrap());
    assert!(matches!(hypervisor.wait_backup(vm), Err(Error::NoBackup { .. })));
    hypervisor.create_checkpoint(vm, "c0", &["vda"]).unwrap();
    host.write(vm, 0, 0x22, 0, 512 * MIB);

    let events = hypervisor.events();
    let spool = host.path("spool.qcow2");
    let told = || loop {
        if let Event::JobCompleted { vm: of, backup, outcome } = events.recv_timeout(PATIENCE).unwrap() {
            assert_eq!((of, backup), (vm, true));
            return outcome;
        }
    };
    // A copy can be faster than its abort: then another one is aborted.
    for attempt in 1.. {
        hypervisor.backup_begin(vm, Some("c0"), Some("c1"), &[("vda", &spool)]).unwrap();
        let aborted = hypervisor.abort_backup(vm).unwrap();
        let outcome = hypervisor.wait_backup(vm).unwrap();
        assert_eq!(told(), outcome);
        assert!(aborted || outcome.success, "{outcome:?}");
        if !outcome.success {
            break;
        }
        assert!(attempt < 20, "half a GiB was copied before the abort each time");
        assert_eq!(hypervisor.delete_checkpoint(vm, "c1").unwrap(), Deleted::Whole);
        std::fs::remove_file(&spool).unwrap();
    }
    host.write(vm, 0, 0x33, 600 * MIB, CLUSTER);
    assert_eq!(hypervisor.delete_checkpoint(vm, "c1").unwrap(), Deleted::Whole);
    assert_eq!(hypervisor.checkpoint_size(vm, "c0").unwrap().total_bytes, 512 * MIB + CLUSTER);
    assert!(!spool.exists(), "libvirt removes the spool of an aborted backup");

    hypervisor.backup_begin(vm, Some("c0"), None, &[("vda", &spool)]).unwrap();
    assert!(hypervisor.wait_backup(vm).unwrap().success);
    assert!(spool.exists());
    let taken = hypervisor.backup_begin(vm, Some("c0"), Some("c1"), &[("vda", &spool)]);
    assert!(matches!(taken, Err(Error::Call { .. })), "{taken:?}");
    assert_eq!(hypervisor.checkpoints(vm).unwrap().len(), 1, "a refused backup leaves no checkpoint");
}

#[test]
fn a_backup_that_ended_while_nobody_was_connected_still_tells_its_outcome() {
    let mut host = Host::new();
    let a = host.image("a.qcow2");
    let vm = host.run("alone", &[disk("vda", &a)]);
    host.hypervisor().create_checkpoint(vm, "c0", &["vda"]).unwrap();
    host.write(vm, 0, 0x22, MIB, CLUSTER);
    let spool = host.path("spool.qcow2");
    host.hypervisor().backup_begin(vm, Some("c0"), Some("c1"), &[("vda", &spool)]).unwrap();
    host.reconnect();
    let outcome = host.hypervisor().wait_backup(vm).unwrap();
    assert!(outcome.success, "{outcome:?}");
    wait_closed(&spool);
    assert_eq!(own_clusters(&spool), [16]);
    assert!(matches!(host.hypervisor().wait_backup(vm), Err(Error::NoBackup { .. })));
}

#[test]
fn a_backup_whose_qemu_dies_fails() {
    let host = Host::new();
    // On a machine that stalls the copy may be through before the signal.
    let died = (0..20).find_map(|attempt| {
        let (name, a) = (format!("dies-{attempt}"), host.path(&format!("a-{attempt}.qcow2")));
        qemu_img(&["create", "-q", "-f", "qcow2", text(&a), "1G"]);
        let vm = host.run(&name, &[Disk { target: "vda", path: a }]);
        host.write(vm, 0, 0x22, 0, 512 * MIB);
        let pid = host.pid(&name).to_string();
        let spool = host.path(&format!("spool-{attempt}.qcow2"));
        host.hypervisor().backup_begin(vm, None, None, &[("vda", &spool)]).unwrap();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        let outcome = host.hypervisor().wait_backup(vm).unwrap();
        eprintln!("after SIGKILL of QEMU: {outcome:?}");
        (!outcome.success).then_some(vm)
    });
    let vm = died.expect("a backup that fails");
    eventually("libvirt notices", || !host.hypervisor().is_active(vm).unwrap());
    let refused = host.hypervisor().backup_begin(vm, None, None, &[("vda", &host.path("again.qcow2"))]);
    assert!(matches!(refused, Err(Error::NotRunning { .. })), "{refused:?}");
}

#[test]
fn clones_share_one_connection_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Hypervisor>();
}
