//! VMs with a raw disk: deltas by rolling overlays, running, shut off and killed.

mod support;

use capture::{CaptureError, Cut, DiskFormat, Fault, Tracking};
use model::DeltaId;
use support::{CLUSTER, Lab, NewDisk, Sent, qcow2, qemu_img, text};

const MIB: u64 = 1 << 20;

fn lab() -> Lab {
    let raw = NewDisk { size_bytes: 2 * MIB + 1024, format: DiskFormat::Raw, on_template: false };
    let lab = Lab::new(&[raw, qcow2(2 * MIB)]);
    assert_eq!(lab.capture.tracking(), Tracking::RollingOverlay);
    lab
}

/// The one overlay per disk that tracks.
fn overlays(lab: &Lab) -> usize {
    lab.leftovers().len()
}

#[test]
fn a_raw_disk_is_replicated_by_overlays_that_are_committed_once_acknowledged() {
    let mut lab = lab();
    lab.write(0, 0x11, 0, MIB);
    lab.write(0, 0x12, 2 * MIB, 1024);
    assert_eq!(lab.replicate(Cut::Full), Sent { data: 17, zero: 0 });
    for pattern in 0x21..0x24 {
        lab.write(0, pattern, MIB, 4096);
        lab.write(1, pattern, 0, CLUSTER);
        lab.io(0, "write -z 0 64k");
        let sent = lab.replicate(Cut::Incremental);
        assert_eq!(sent.data, 2);
        assert_eq!(overlays(&lab), 2);
    }
    assert_eq!(lab.replicate(Cut::Incremental), Sent::default());
}

#[test]
fn a_given_up_delta_and_a_killed_qemu_lose_nothing() {
    let mut lab = lab();
    lab.replicate(Cut::Full);
    lab.write(0, 0x31, 0, CLUSTER);
    let given_up = DeltaId::random();
    lab.cut(given_up, Cut::Incremental).unwrap();
    lab.write(0, 0x32, MIB, CLUSTER);
    lab.capture.abandon(given_up).unwrap();
    lab.kill_qemu();
    lab.start();
    let recovered = lab.capture.recover(lab.latest).unwrap();
    assert!(recovered.tracking_intact, "{recovered:?}");
    lab.write(1, 0x33, 0, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental).data, 3);
    assert_eq!(overlays(&lab), 2);
}

#[test]
fn a_vm_that_is_off_rolls_on_and_is_released_as_it_was() {
    let mut lab = lab();
    lab.stop();
    lab.replicate(Cut::Full);
    lab.start();
    lab.write(0, 0x41, 0, CLUSTER);
    lab.stop();
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    lab.start();
    lab.write(1, 0x42, 0, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    lab.write(1, 0x43, 0, CLUSTER);
    lab.stop();
    assert_eq!(lab.capture.take_stock(lab.latest, DeltaId::random()).unwrap().disks[1].1.len(), 1);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    lab.capture.release().unwrap();
    assert_eq!(overlays(&lab), 0);
    lab.assert_equal();
    for disk in &lab.capture.disks {
        assert_eq!(lab.source(disk), disk.path);
    }
    lab.start();
}

/// As `virsh snapshot-create --disk-only` leaves it.
#[test]
fn an_overlay_on_which_somebodys_snapshot_stands_is_not_removed() {
    let mut lab = lab();
    lab.replicate(Cut::Full);
    lab.write(0, 0x51, 0, CLUSTER);
    lab.stop();
    let target = lab.capture.disks[0].target.clone();
    let (overlay, snapshot) = (lab.source(&lab.capture.disks[0]), lab.path("snapshot"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", text(&overlay), "-F", "qcow2", text(&snapshot)]);
    let stand_on = |image: &std::path::Path| {
        let xml = lab.hypervisor().xml(lab.vm(), true).unwrap();
        let xml = hypervisor::xml::set_disk_source(&xml, &target, image, "qcow2").unwrap();
        lab.hypervisor().define(&xml).unwrap();
    };
    stand_on(&snapshot);
    for _ in 0..2 {
        let refused = lab.capture.release().unwrap_err();
        assert!(
            matches!(&refused, CaptureError::DiskMoved { expected, .. } if *expected == overlay),
            "{refused}"
        );
    }
    assert!(overlay.exists());
    lab.start();
    lab.stop();
    qemu_img(&["commit", "-q", text(&snapshot)]);
    stand_on(&overlay);
    lab.capture.release().unwrap();
    assert_eq!(overlays(&lab), 0);
    assert_eq!(lab.source(&lab.capture.disks[0]), lab.capture.disks[0].path);
    lab.start();
}

#[test]
fn what_was_written_after_a_snapshot_that_the_power_failed_in_is_not_lost() {
    let mut lab = lab();
    lab.replicate(Cut::Full);
    // Also where the disks stand on an overlay of an earlier turn, and where that one is the first.
    for pattern in [0x51, 0x52] {
        lab.write(0, pattern, 0, CLUSTER);
        let delta = DeltaId::random();
        lab.capture.fault = Fault::new(|at| at == "begun");
        assert!(matches!(lab.cut(delta, Cut::Incremental), Err(CaptureError::Stopped { .. })));
        lab.capture.fault = Fault::default();
        lab.snapshot_unnoted();
        lab.write(1, pattern, MIB, CLUSTER);
        lab.kill_qemu();
        assert!(lab.capture.recover(lab.latest).unwrap().tracking_intact);
        lab.capture.abandon(delta).unwrap();
        lab.start();
        lab.expect(1, pattern, MIB, CLUSTER);
        assert_eq!(lab.replicate(Cut::Incremental).data, 2);
    }
}

#[test]
fn an_overlay_that_somebody_committed_while_nobody_looked_is_stale() {
    let mut lab = lab();
    lab.replicate(Cut::Full);
    let delta = DeltaId::random();
    lab.capture.fault = Fault::new(|at| at == "begun");
    assert!(matches!(lab.cut(delta, Cut::Incremental), Err(CaptureError::Stopped { .. })));
    lab.capture.fault = Fault::default();
    let below: Vec<_> = lab.capture.disks.iter().map(|disk| lab.source(disk)).collect();
    lab.snapshot_unnoted();
    lab.write(1, 0x61, MIB, CLUSTER);
    lab.kill_qemu();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    for path in below {
        std::fs::File::options().append(true).open(path).unwrap().set_modified(later).unwrap();
    }
    lab.capture.recover(lab.latest).unwrap();
    lab.start();
    lab.expect(1, 0, MIB, CLUSTER);
}
