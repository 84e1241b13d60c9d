//! The oracle against a real guest under a real QEMU: killed, booted again, frozen, powered down.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use testkit::{
    GuestSpec, TempRoot,
    oracle::{Log, Verdict, check, read_log},
    poll, poll_for,
    qemu::{self, Qemu},
};

/// A guest boots in seconds; a machine busy with other guests takes its time.
const BOUND: Duration = Duration::from_secs(120);

/// A qcow2 disk on a backing file and a raw disk that ends within a cluster.
fn disks(root: &TempRoot) -> [(PathBuf, &'static str); 2] {
    let paths = [root.join("a.qcow2"), root.join("b.raw")];
    let base = root.join("base.qcow2");
    let tail = (10 << 20) + 5 * 512;
    create(&["-f", "qcow2"], &base, &((32u64 << 20) + 512).to_string());
    create(&["-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2"], &paths[0], "");
    create(&["-f", "raw"], &paths[1], &tail.to_string());
    let [a, b] = paths;
    [(a, "qcow2"), (b, "raw")]
}

fn create(options: &[&str], path: &Path, size: &str) {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q"]).args(options).arg(path).args(Some(size).filter(|size| !size.is_empty()));
    assert!(command.status().unwrap().success());
}

/// Waits until the writer has acknowledged `acks` ops.
fn run_until(spec: &GuestSpec, acks: u64) -> Log {
    let log = poll_for(BOUND, || {
        let log = read_log(&spec.serial).unwrap();
        assert_eq!(log.error, None);
        (log.acks >= acks).then_some(log)
    });
    log.unwrap_or_else(|| panic!("{:?}", read_log(&spec.serial)))
}

fn power_down(mut guest: Qemu) {
    guest.power_down().unwrap();
    let status = guest.ended(BOUND).expect("the guest reacts to its power button").unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_killed_guest_leaves_a_prefix_and_goes_on_from_it() {
    let root = TempRoot::new().unwrap();
    let disks = disks(&root);
    let images = [&disks[0].0, &disks[1].0];
    let mut spec = GuestSpec::new("killed", &disks, &root.join("serial.log"));
    spec.writer.ops_per_s = 200.0;
    spec.writer.area_mib = 1;
    let checked = || -> Verdict {
        // The log is complete by now: nothing of it lags behind what is on the disks.
        let log = read_log(&spec.serial).unwrap();
        let verdict = check(&images).unwrap();
        verdict.at_least(log.last_ack).unwrap();
        assert_eq!(verdict.epochs.len(), log.boots);
        verdict
    };

    let guest = qemu::start(&spec, root.path()).unwrap();
    run_until(&spec, 150);
    guest.kill().unwrap();
    let first = checked();
    assert!(first.n >= 150);

    let guest = qemu::start(&spec, root.path()).unwrap();
    run_until(&spec, first.n + 100);
    guest.kill().unwrap();
    let second = checked();
    assert_eq!(second.epochs[..1], first.epochs[..]);
    assert!(second.n > first.n);

    let guest = qemu::start(&spec, root.path()).unwrap();
    run_until(&spec, second.n + 20);
    power_down(guest);
    let last = checked();
    assert!(!last.torn);
    let log = read_log(&spec.serial).unwrap();
    assert!(log.stopped);
    assert_eq!(log.last_ack.unwrap().n, last.n);

    // The oracle sees what it should see: without its overlay the first disk is older than the second.
    check(&[&root.join("base.qcow2"), &disks[1].0]).unwrap_err();
}

#[test]
fn a_frozen_guest_holds_a_whole_number_of_ops() {
    let root = TempRoot::new().unwrap();
    let disks = disks(&root);
    let images = [&disks[0].0, &disks[1].0];
    let mut spec = GuestSpec::new("frozen", &disks, &root.join("serial.log"));
    spec.agent = testkit::guest::Agent::Writer;
    spec.writer.ops_per_s = 200.0;
    let guest = qemu::start(&spec, root.path()).unwrap();
    run_until(&spec, 30);

    guest.execute_in_guest("guest-fsfreeze-freeze").unwrap();
    assert!(poll(BOUND, || read_log(&spec.serial).unwrap().frozen));
    let frozen = read_log(&spec.serial).unwrap();
    let verdict = check(&images).unwrap();
    assert!(!verdict.torn);
    assert_eq!(verdict.n, frozen.last_ack.unwrap().n);
    verdict.at_least(frozen.last_ack).unwrap();

    guest.execute_in_guest("guest-fsfreeze-thaw").unwrap();
    run_until(&spec, frozen.acks + 10);
    power_down(guest);
    check(&images).unwrap().at_least(read_log(&spec.serial).unwrap().last_ack).unwrap();
}

#[test]
fn a_guest_that_is_told_to_stop_idles_until_it_is_powered_down() {
    let root = TempRoot::new().unwrap();
    let disk = root.join("a.qcow2");
    create(&["-f", "qcow2"], &disk, &(8 << 20).to_string());
    let mut spec = GuestSpec::new("idle", &[(disk.clone(), "qcow2")], &root.join("serial.log"));
    spec.writer.ops_per_s = 1000.0;
    spec.writer.bytes_per_op = 256 << 10;
    spec.writer.ack_every = 5;
    spec.writer.ops_max = Some(20);
    let guest = qemu::start(&spec, root.path()).unwrap();
    assert!(poll(BOUND, || read_log(&spec.serial).unwrap().idle));
    power_down(guest);
    let log = read_log(&spec.serial).unwrap();
    assert_eq!((log.acks, log.last_ack.unwrap().n, log.error), (4, 20, None));
    assert!(check(&[&disk]).unwrap().n >= 20);
}
