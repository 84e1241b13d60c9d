//! VMs with a raw disk: deltas by rolling overlays, running, shut off and killed.

mod support;

use capture::{Cut, DiskFormat, Tracking};
use model::DeltaId;
use support::{CLUSTER, Lab, NewDisk, Sent, qcow2};

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
    assert_eq!(lab.capture.changed_since(lab.latest.unwrap()).unwrap().disks[1].1.len(), 1);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    lab.capture.release().unwrap();
    assert_eq!(overlays(&lab), 0);
    lab.assert_equal();
    for disk in &lab.capture.disks {
        assert_eq!(lab.source(disk), disk.path);
    }
    lab.start();
}
