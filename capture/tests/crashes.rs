//! A turn is stopped at each of its steps, as the death of the daemon would; a fresh `Capture` recovers, and
//! the replica must come out equal without a resync. And QEMU is killed: a resync sends what differs.

mod support;

use capture::{CaptureError, Cut, DiskFormat, Fault};
use model::DeltaId;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use support::{CLUSTER, Lab, NewDisk, Sent, compare, qcow2};

const MIB: u64 = 1 << 20;

/// What is done when the fault strikes.
#[derive(Clone, Copy, PartialEq)]
enum Doing {
    Cutting,
    Settling,
    GivingUp,
}

/// Runs one turn that stops at `step`, recovers, and brings the replica up to date.
fn crash(lab: &mut Lab, doing: Doing, how: &Cut, step: &'static str) {
    let before = lab.latest;
    let struck = Arc::new(AtomicBool::new(false));
    let fault = {
        let struck = Arc::clone(&struck);
        Fault::new(move |at| at == step && !struck.swap(true, Ordering::SeqCst))
    };
    let delta = DeltaId::random();
    if doing == Doing::Cutting {
        lab.capture.fault = fault.clone();
        let stopped = lab.cut(delta, how.clone());
        assert!(matches!(stopped, Err(CaptureError::Stopped { .. })), "{step}: {stopped:?}");
    } else {
        lab.cut(delta, how.clone()).unwrap();
        lab.capture.fault = fault.clone();
    }
    if doing == Doing::Settling {
        lab.ship(delta);
        let stopped = lab.capture.settle(delta);
        assert!(matches!(stopped, Err(CaptureError::Stopped { .. })), "{step}: {stopped:?}");
    }
    if doing == Doing::GivingUp {
        let stopped = lab.capture.abandon(delta);
        assert!(matches!(stopped, Err(CaptureError::Stopped { .. })), "{step}: {stopped:?}");
    }
    assert!(struck.load(Ordering::SeqCst), "{step} was never reached");
    lab.capture.fault = Fault::default();
    let acknowledged = if doing == Doing::Settling { Some(delta) } else { before };
    let recovered = lab.capture.recover(acknowledged).unwrap();
    if let Some(pending) = recovered.pending.as_ref().filter(|pending| pending.ready_to_send) {
        assert_eq!(pending.delta, delta, "{step}");
        lab.cut(delta, how.clone()).unwrap();
        lab.ship(delta);
        lab.capture.settle(delta).unwrap();
    } else if before.is_none() && doing != Doing::Settling {
        lab.replicate(Cut::Full);
    } else {
        assert!(recovered.tracking_intact, "{step}: {recovered:?}");
    }
    lab.replicate(Cut::Incremental);
    assert_eq!(lab.leftovers_beside_overlays(), Vec::<std::path::PathBuf>::new(), "{step}");
}

#[test]
fn an_incremental_turn_of_a_running_vm_survives_a_crash_at_every_step() {
    let mut lab = Lab::new(&[qcow2(2 * MIB), qcow2(2 * MIB)]);
    lab.write(0, 1, 0, MIB);
    lab.replicate(Cut::Full);
    let steps = [
        (Doing::Cutting, "begun"),
        (Doing::Cutting, "backup begun"),
        (Doing::Cutting, "cut"),
        (Doing::Cutting, "manifest"),
        (Doing::Cutting, "ready"),
        (Doing::Settling, "digests settled"),
        (Doing::Settling, "old tracking dropped"),
        (Doing::Settling, "settled"),
        (Doing::GivingUp, "taken off"),
        (Doing::GivingUp, "given up"),
    ];
    for (pattern, (doing, step)) in (2..).zip(steps) {
        lab.write(0, pattern, u64::from(pattern) * CLUSTER, 100 << 10);
        lab.write(1, pattern, 0, CLUSTER);
        crash(&mut lab, doing, &Cut::Incremental, step);
        assert_eq!(lab.checkpoints().len(), 1);
    }
}

#[test]
fn an_incremental_turn_of_a_vm_that_is_off_survives_a_crash_at_every_step() {
    let mut lab = Lab::new(&[qcow2(2 * MIB), qcow2(2 * MIB)]);
    lab.replicate(Cut::Full);
    let steps = [
        (Doing::Cutting, "begun"),
        (Doing::Cutting, "copied offline"),
        (Doing::Cutting, "cut"),
        (Doing::Cutting, "ready"),
        (Doing::Settling, "old tracking dropped"),
        (Doing::GivingUp, "taken off"),
    ];
    for (pattern, (doing, step)) in (2..).zip(steps) {
        lab.start();
        lab.write(0, pattern, u64::from(pattern) * CLUSTER, 100 << 10);
        lab.write(1, pattern, 0, CLUSTER);
        lab.stop();
        crash(&mut lab, doing, &Cut::Incremental, step);
        assert_eq!(lab.checkpoints().len(), 1);
    }
}

#[test]
fn a_first_copy_survives_a_crash_at_every_step() {
    let steps = [
        (Doing::Cutting, "begun", true),
        (Doing::Cutting, "checkpoint made", true),
        (Doing::Cutting, "cut", true),
        (Doing::Cutting, "ready", true),
        (Doing::Settling, "one overlay committed", true),
        (Doing::Settling, "overlays committed", true),
        (Doing::GivingUp, "one overlay committed", true),
        (Doing::Cutting, "bitmaps added", false),
        (Doing::Cutting, "overlays created", false),
        (Doing::Cutting, "cut", false),
        (Doing::Settling, "one overlay committed", false),
        (Doing::Settling, "overlays committed", false),
        (Doing::GivingUp, "one overlay committed", false),
    ];
    let mut lab = Lab::new(&[qcow2(2 * MIB), qcow2(2 * MIB)]);
    for (pattern, (doing, step, live)) in (1..).zip(steps) {
        lab.write(0, pattern, u64::from(pattern) * CLUSTER, 100 << 10);
        lab.capture.release().unwrap();
        lab.latest = None;
        lab.replica.iter_mut().for_each(Vec::clear);
        if !live {
            lab.stop();
        }
        crash(&mut lab, doing, &Cut::Full, step);
        if !live {
            lab.start();
        }
        for disk in &lab.capture.disks {
            assert_eq!(lab.source(disk), disk.path, "{step}");
        }
    }
}

#[test]
fn rolling_overlays_survive_a_crash_at_every_step() {
    let raw = NewDisk { size_bytes: 2 * MIB, format: DiskFormat::Raw, on_template: false };
    let mut lab = Lab::new(&[raw, qcow2(2 * MIB)]);
    lab.replicate(Cut::Full);
    let steps = [
        (Doing::Cutting, "begun", true),
        (Doing::Cutting, "cut", true),
        (Doing::Cutting, "ready", true),
        (Doing::Settling, "one overlay committed", true),
        (Doing::Settling, "pile committed", true),
        (Doing::Settling, "settled", true),
        (Doing::GivingUp, "given up", true),
        (Doing::Cutting, "overlays created", false),
        (Doing::Cutting, "cut", false),
        (Doing::Settling, "one overlay committed", false),
        (Doing::Settling, "pile committed", false),
    ];
    for (pattern, (doing, step, live)) in (2..).zip(steps) {
        lab.write(0, pattern, u64::from(pattern) * CLUSTER, 100 << 10);
        lab.write(1, pattern, 0, CLUSTER);
        if !live {
            lab.stop();
        }
        crash(&mut lab, doing, &Cut::Incremental, step);
        if !live {
            lab.start();
        }
    }
}

#[test]
fn after_qemu_was_killed_a_resync_by_digest_sends_only_what_differs() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.write(0, 0x11, 0, 2 * MIB);
    lab.replicate(Cut::Full);
    lab.write(0, 0x12, 0, CLUSTER);
    lab.write(0, 0x11, CLUSTER, CLUSTER);
    lab.io(0, "write -z 128k 64k");
    lab.kill_qemu();
    let recovered = lab.capture.recover(lab.latest).unwrap();
    assert!(!recovered.tracking_intact, "{recovered:?}");
    assert_eq!(lab.checkpoints(), Vec::<String>::new());
    assert!(matches!(lab.cut(DeltaId::random(), Cut::Incremental), Err(CaptureError::NotTracked { .. })));
    lab.start();
    assert_eq!(lab.replicate(compare(None)), Sent { data: 1, zero: 1 });
    lab.write(0, 0x13, 0, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });
}

#[test]
fn qemu_killed_while_a_first_copy_is_read_loses_nothing() {
    let mut lab = Lab::new(&[qcow2(2 * MIB), qcow2(2 * MIB)]);
    lab.write(0, 0x11, 0, MIB);
    let delta = DeltaId::random();
    lab.cut(delta, Cut::Full).unwrap();
    lab.write(0, 0x12, 0, CLUSTER);
    lab.write(1, 0x13, 0, CLUSTER);
    lab.kill_qemu();
    let recovered = lab.capture.recover(None).unwrap();
    assert!(recovered.pending.is_some_and(|pending| pending.ready_to_send));
    lab.ship(delta);
    lab.capture.settle(delta).unwrap();
    assert!(lab.capture.recover(Some(delta)).unwrap().tracking_intact);
    assert_eq!(lab.replicate(Cut::Incremental).data, 2);
    lab.start();
    lab.write(1, 0x14, 0, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
}

#[test]
fn a_storage_daemon_that_outlived_us_is_ended_and_costs_nothing() {
    let mut lab = Lab::new(&[qcow2(2 * MIB)]);
    lab.replicate(Cut::Full);
    lab.write(0, 0x21, 0, CLUSTER);
    lab.stop();
    let pid_file = lab.path("state/capture").join(lab.vm().to_string()).join("storage-daemon.pid");
    let node = format!(
        "driver=qcow2,node-name=d,file.driver=file,file.filename={}",
        lab.capture.disks[0].path.display()
    );
    let mut orphan = std::process::Command::new("qemu-storage-daemon")
        .args(["--blockdev", &node, "--pidfile", support::text(&pid_file)])
        .spawn()
        .unwrap();
    support::eventually("the storage daemon holds the disk", || pid_file.exists());
    let reaper = std::thread::spawn(move || orphan.wait().unwrap());
    let recovered = lab.capture.recover(lab.latest).unwrap();
    assert!(recovered.tracking_intact, "{recovered:?}");
    assert!(reaper.join().unwrap().success());
    lab.start();
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
}
