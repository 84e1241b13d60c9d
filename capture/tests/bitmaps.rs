//! VMs whose disks are all qcow2: deltas by bitmaps, running and shut off.

mod support;

use capture::{CaptureError, Consistency, Cut, DiskFormat, Fault, Limits};
use model::DeltaId;
use support::{CLUSTER, Lab, NewDisk, Sent, qcow2};

const MIB: u64 = 1 << 20;

fn two_disks() -> [NewDisk; 2] {
    [qcow2(4 * MIB), NewDisk { size_bytes: 3 * MIB + 5120, format: DiskFormat::Qcow2, on_template: true }]
}

#[test]
fn every_delta_makes_the_replica_equal_to_the_running_disks() {
    let mut lab = Lab::new(&two_disks());
    lab.write(0, 0x11, 0, 200 << 10);
    lab.write(1, 0x12, 3 * MIB, 5120);
    let first = lab.replicate(Cut::Full);
    // 4 clusters of the first disk; the template's 5 and the short last one.
    assert_eq!(first, Sent { data: 4 + 5 + 1, zero: 0 });
    assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());

    lab.write(0, 0x21, MIB, 4096);
    lab.write(1, 0x22, 128 << 10, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 2, zero: 0 });

    // Zeroes over data, over nothing, and over the template; a discard; the short last cluster.
    lab.io(0, "write -z 0 64k");
    lab.io(0, "write -z 3M 64k");
    lab.io(1, "write -z 192k 64k");
    lab.io(0, "discard 64k 64k");
    lab.io(1, "write -z 3M 5120");
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 0, zero: 4 });

    assert_eq!(lab.replicate(Cut::Incremental), Sent::default());
    assert_eq!(lab.checkpoints().len(), 1);
    assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_is_written_while_the_first_copy_is_read_is_in_the_next_delta() {
    let mut lab = Lab::new(&two_disks());
    lab.write(0, 0x11, 0, MIB);
    let delta = DeltaId::random();
    lab.cut(delta, Cut::Full).unwrap();
    lab.ship(delta);
    lab.write(0, 0x33, 0, CLUSTER);
    lab.write(1, 0x34, 256 << 10, 4096);
    lab.capture.settle(delta).unwrap();
    assert_eq!(lab.replicate(Cut::Incremental).data, 2);
}

#[test]
fn content_that_came_back_to_what_it_was_is_not_sent() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.write(0, 0xaa, 0, 2 * CLUSTER);
    lab.replicate(Cut::Full);
    lab.write(0, 0xbb, 0, 2 * CLUSTER);
    lab.write(0, 0xaa, 0, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });
}

#[test]
fn a_delta_that_is_given_up_is_in_the_next_one() {
    let mut lab = Lab::new(&two_disks());
    lab.replicate(Cut::Full);
    lab.write(0, 0x41, 0, CLUSTER);
    let given_up = DeltaId::random();
    lab.cut(given_up, Cut::Incremental).unwrap();
    assert!(matches!(lab.cut(DeltaId::random(), Cut::Incremental), Err(CaptureError::TurnPending { .. })));
    lab.write(1, 0x42, 0, CLUSTER);
    lab.capture.abandon(given_up).unwrap();
    lab.capture.abandon(given_up).unwrap();
    assert!(matches!(lab.capture.settle(given_up), Err(CaptureError::UnknownDelta { .. })));
    assert_eq!(lab.replicate(Cut::Incremental).data, 2);
    assert_eq!(lab.checkpoints().len(), 1);
}

#[test]
fn a_repeated_cut_gives_the_same_answer() {
    let mut lab = Lab::new(&two_disks());
    lab.replicate(Cut::Full);
    lab.write(0, 0x41, 0, CLUSTER);
    let delta = DeltaId::random();
    let answer = lab.cut(delta, Cut::Incremental).unwrap();
    lab.write(0, 0x42, MIB, CLUSTER);
    assert_eq!(lab.cut(delta, Cut::Incremental).unwrap(), answer);
    assert_eq!(answer.bytes, Some(CLUSTER));
    assert_eq!(lab.ship(delta).data, 1);
    lab.capture.settle(delta).unwrap();
    lab.capture.settle(delta).unwrap();
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
}

#[test]
fn a_vm_that_is_off_is_cut_and_goes_on_from_there_when_it_runs() {
    let mut lab = Lab::new(&two_disks());
    lab.replicate(Cut::Full);
    lab.write(0, 0x51, 0, 100_000 / 512 * 512);
    lab.io(1, "write -z 128k 64k");
    lab.stop();
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 2, zero: 1 });
    assert_eq!(lab.replicate(Cut::Incremental), Sent::default());
    lab.start();
    let recovered = lab.capture.recover(lab.latest).unwrap();
    assert!(recovered.tracking_intact, "{recovered:?}");
    lab.write(1, 0x52, MIB, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });
    assert_eq!(lab.checkpoints().len(), 1);
}

#[test]
fn the_first_copy_of_a_vm_that_is_off_lets_it_start_meanwhile() {
    let mut lab = Lab::new(&two_disks());
    lab.write(0, 0x61, 0, MIB);
    lab.stop();
    let delta = DeltaId::random();
    lab.cut(delta, Cut::Full).unwrap();
    lab.start();
    lab.ship(delta);
    lab.write(0, 0x62, 2 * MIB, CLUSTER);
    lab.capture.settle(delta).unwrap();
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });

    // And the other way round: begun while it runs, settled when it is off.
    let delta = DeltaId::random();
    lab.cut(delta, Cut::Full).unwrap();
    lab.write(1, 0x63, MIB, CLUSTER);
    lab.replica.iter_mut().for_each(Vec::clear);
    lab.ship(delta);
    lab.stop();
    lab.capture.settle(delta).unwrap();
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });
    assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
    lab.start();
    lab.write(1, 0x64, 0, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });
}

#[test]
fn a_spool_that_is_too_small_changes_nothing() {
    let mut lab = Lab::new(&two_disks());
    lab.replicate(Cut::Full);
    lab.write(0, 0x71, 0, MIB);
    let limits = lab.capture.limits;
    lab.capture.limits = Limits { spool_bytes_max: MIB, ..limits };
    for off in [false, true] {
        if off {
            lab.stop();
        }
        let refused = lab.cut(DeltaId::random(), Cut::Incremental);
        let needed = MIB + MIB / 5;
        assert!(
            matches!(refused, Err(CaptureError::SpoolFull { needed_bytes, .. }) if needed_bytes == needed),
            "{refused:?}"
        );
        assert_eq!(lab.checkpoints().len(), 1);
        assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
    }
    lab.capture.limits = limits;
    assert_eq!(lab.replicate(Cut::Incremental).data, 16);
}

#[test]
fn a_grown_disk_goes_on_and_a_shrunk_one_is_refused() {
    let mut lab = Lab::new(&[qcow2(2 * MIB + 512)]);
    lab.write(0, 0x81, 2 * MIB, 512);
    lab.replicate(Cut::Full);
    lab.stop();
    support::qemu_img(&["resize", "-q", support::text(&lab.capture.disks[0].path), "3M"]);
    lab.start();
    lab.write(0, 0x82, 2 * MIB + CLUSTER, 512);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    lab.write(0, 0x83, 0, 512);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);

    lab.stop();
    support::qemu_img(&["resize", "-q", "--shrink", support::text(&lab.capture.disks[0].path), "2M"]);
    let refused = lab.cut(DeltaId::random(), Cut::Incremental);
    assert!(matches!(refused, Err(CaptureError::Shrunk { now_bytes: 2097152, .. })), "{refused:?}");
}

#[test]
fn an_application_consistent_cut_without_an_agent_says_why_it_is_not() {
    let mut lab = Lab::new(&[qcow2(MIB)]);
    lab.replicate(Cut::Full);
    let delta = DeltaId::random();
    let consistency = Consistency::Application { freeze_timeout_s: 2 };
    let prepared = lab.capture.cut(delta, lab.latest, Cut::Incremental, consistency).unwrap();
    assert!(matches!(prepared.application_consistent, Some(Err(_))), "{prepared:?}");
}

#[test]
fn bitmaps_that_libvirt_was_killed_before_recording_are_not_in_the_way() {
    let mut lab = Lab::new(&two_disks());
    lab.replicate(Cut::Full);
    lab.write(0, 0x91, 0, CLUSTER);
    let delta = DeltaId::random();
    lab.capture.fault = Fault::new(|at| at == "begun");
    assert!(matches!(lab.cut(delta, Cut::Incremental), Err(CaptureError::Stopped { .. })));
    lab.capture.fault = Fault::default();
    lab.add_bitmaps(&format!("relevo-{delta}"));
    lab.cut(delta, Cut::Incremental).unwrap();
    assert_eq!(lab.ship(delta), Sent { data: 1, zero: 0 });
    lab.capture.settle(delta).unwrap();
    assert_eq!(lab.checkpoints(), [format!("relevo-{delta}")]);
}

#[test]
fn what_was_written_after_a_snapshot_that_the_power_failed_in_is_not_lost() {
    let mut lab = Lab::new(&two_disks());
    lab.replicate(Cut::Full);
    for how in [Cut::Full, Cut::Compare { candidates: None, own_allocation: false }] {
        let delta = DeltaId::random();
        lab.capture.fault = Fault::new(|at| at == "checkpoint made");
        assert!(matches!(lab.cut(delta, how.clone()), Err(CaptureError::Stopped { .. })));
        lab.capture.fault = Fault::default();
        lab.snapshot_unnoted();
        lab.write(1, 0xa1, MIB, CLUSTER);
        // Only libvirt died at first, and holds the VM to stand on what lies below.
        if matches!(how, Cut::Full) {
            assert!(lab.capture.recover(lab.latest).is_err());
        }
        lab.kill_qemu();
        // And again after another crash.
        lab.capture.fault = Fault::new(|at| at == "overlays committed");
        assert!(matches!(lab.capture.recover(lab.latest), Err(CaptureError::Stopped { .. })));
        lab.capture.fault = Fault::default();
        lab.start();
        lab.write(1, 0xa2, MIB, 512);
        lab.capture.recover(lab.latest).unwrap();
        lab.expect(1, 0xa2, MIB, 512);
        lab.expect(1, 0xa1, MIB + 512, CLUSTER - 512);
        lab.replicate(Cut::Full);
        assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}
