//! Where tracking begins and ends: pre-flight, hashes from the peer, a VM that comes home, release.

mod support;

use capture::{CaptureError, ChangedSource, Cut, Tracking};
use model::{ClusterSet, DeltaId, Digest, sums::SumsReader};
use std::ops::ControlFlow;
use support::{CLUSTER, Lab, Sent, compare, qcow2, qemu_img, text};

const MIB: u64 = 1 << 20;

#[test]
fn without_a_digest_the_peers_hashes_are_compared_and_build_one() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.write(0, 0x11, 0, 2 * MIB);
    lab.replicate(Cut::Full);
    std::fs::remove_file(lab.capture.digest_path(lab.capture.disks[0].disk)).unwrap();
    lab.write(0, 0x12, 0, CLUSTER);
    let delta = DeltaId::random();
    let prepared = lab.cut(delta, compare(None)).unwrap();
    assert!(prepared.needs_peer_hashes);
    assert!(matches!(lab.capture.reader(delta, None), Err(CaptureError::NoReference { .. })));
    assert!(matches!(lab.capture.settle(delta), Err(CaptureError::NotRead { .. })));
    assert_eq!(lab.ship_compared(delta), Sent { data: 1, zero: 0 });
    lab.assert_equal();
    lab.capture.settle(delta).unwrap();
    let digest = Digest::open(&lab.capture.digest_path(lab.capture.disks[0].disk)).unwrap().unwrap();
    assert_eq!(digest.state(), Some(delta));
    lab.write(0, 0x11, CLUSTER, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent::default());
}

/// As an operator's `virsh blockcommit` does.
fn commit_behind_its_back(lab: &Lab) {
    let disk = &lab.capture.disks[0];
    let go_on = |_| ControlFlow::Continue(());
    lab.hypervisor().commit_active(lab.vm(), &disk.target, Some(&disk.path), go_on).unwrap();
}

#[test]
fn what_was_read_to_its_end_is_known_also_while_it_is_read_again() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.write(0, 0x11, 0, 2 * MIB);
    let delta = DeltaId::random();
    lab.cut(delta, Cut::Full).unwrap();
    lab.ship(delta);
    // The peer's answer was lost, and it refuses a second stream of what it has.
    let mut again = lab.capture.reader(delta, None).unwrap();
    again.next().unwrap().unwrap();
    // Nor does one count that came to its end on what was not to be read any more.
    commit_behind_its_back(&lab);
    lab.write(0, 0x22, 0, CLUSTER);
    let last = lab.capture.reader(delta, None).unwrap().last().unwrap();
    assert!(matches!(last, Err(CaptureError::Disturbed { .. })), "{last:?}");
    lab.capture.settle(delta).unwrap();
    drop(again);
    let digest = Digest::open(&lab.capture.digest_path(lab.capture.disks[0].disk)).unwrap().unwrap();
    let truth: Vec<_> = lab.replica[0].chunks(CLUSTER as usize).map(model::hash_cluster).collect();
    assert_eq!((digest.state(), digest.read(0, 64).unwrap()), (Some(delta), truth));
    lab.io(0, "write -z 0 64k");
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 0, zero: 1 });
}

#[test]
fn an_overlay_that_somebody_else_commits_spoils_what_is_read_below_it() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.write(0, 0x11, 0, MIB);
    let delta = DeltaId::random();
    lab.cut(delta, Cut::Full).unwrap();
    commit_behind_its_back(&lab);
    let last = lab.capture.reader(delta, None).unwrap().last().unwrap();
    assert!(matches!(last, Err(CaptureError::Disturbed { .. })), "{last:?}");
    assert!(matches!(lab.capture.settle(delta), Err(CaptureError::NotRead { .. })));
    lab.capture.abandon(delta).unwrap();
    lab.replicate(Cut::Full);
}

#[test]
fn a_digest_that_a_crash_damaged_does_not_keep_a_delta_from_being_settled() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.replicate(Cut::Full);
    lab.write(0, 0x11, 0, CLUSTER);
    let delta = DeltaId::random();
    lab.cut(delta, Cut::Incremental).unwrap();
    lab.ship(delta);
    let digest = lab.capture.digest_path(lab.capture.disks[0].disk);
    std::fs::OpenOptions::new().write(true).open(&digest).unwrap().set_len(100).unwrap();
    lab.capture.settle(delta).unwrap();
    lab.write(0, 0x12, 0, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });
}

#[test]
fn a_vm_whose_state_is_saved_is_left_as_it_is() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.replicate(Cut::Full);
    lab.write(0, 0x11, 0, CLUSTER);
    let is_away = |result| matches!(result, Err(CaptureError::Away { why, .. }) if why.contains("saved"));
    lab.save_managed();
    assert!(is_away(lab.cut(DeltaId::random(), Cut::Incremental).map(drop)));
    lab.start();
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });

    let pending = DeltaId::random();
    lab.cut(pending, compare(None)).unwrap();
    let overlay = lab.source(&lab.capture.disks[0]);
    lab.save_managed();
    assert!(is_away(lab.capture.abandon(pending)));
    assert!(is_away(lab.capture.recover(lab.latest).map(drop)));
    assert!(overlay.exists(), "the saved state stands on it");
    lab.start();
    lab.capture.abandon(pending).unwrap();
    lab.replicate(compare(None));
}

#[test]
fn only_candidates_are_compared_where_they_are_given() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.replicate(Cut::Full);
    lab.write(0, 0x21, 0, 4 * CLUSTER);
    let candidates: ClusterSet = [1, 2, 40].into_iter().collect();
    let delta = DeltaId::random();
    lab.cut(delta, compare(Some(candidates))).unwrap();
    assert_eq!(lab.ship(delta), Sent { data: 2, zero: 0 });
    lab.capture.abandon(delta).unwrap();
    for disk in &lab.capture.disks {
        assert_eq!(lab.source(disk), disk.path);
    }
}

#[test]
fn after_a_failover_the_digest_of_the_point_is_patched_with_what_was_looked_at() {
    let mut lab = Lab::new(&[qcow2(4 * MIB)]);
    lab.write(0, 0x11, 0, MIB);
    lab.replicate(Cut::Full);
    // The peer's latest is another state: it has a cluster that was dropped here.
    lab.latest = Some(DeltaId::random());
    lab.replica[0][40 * CLUSTER as usize..41 * CLUSTER as usize].fill(0xee);
    lab.write(0, 0x12, 5 * CLUSTER, CLUSTER);
    let delta = DeltaId::random();
    let candidates = Some(vec![[40].into_iter().collect()]);
    let prepared = lab.cut(delta, Cut::Compare { candidates, own_allocation: true }).unwrap();
    assert!(prepared.needs_peer_hashes);
    assert_eq!(lab.ship_compared(delta), Sent { data: 1, zero: 1 });
    lab.assert_equal();
    lab.capture.settle(delta).unwrap();
    lab.write(0, 0x12, 5 * CLUSTER, CLUSTER);
    lab.write(0, 0x13, 6 * CLUSTER, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental), Sent { data: 1, zero: 0 });
    let digest = Digest::open(&lab.capture.digest_path(lab.capture.disks[0].disk)).unwrap().unwrap();
    let truth: Vec<_> = lab.replica[0].chunks(CLUSTER as usize).map(model::hash_cluster).collect();
    assert_eq!((digest.state(), digest.read(0, 64).unwrap()), (lab.latest, truth));
}

#[test]
fn a_vm_that_is_off_knows_what_it_wrote_by_bitmap_or_by_digest() {
    let mut lab = Lab::new(&[qcow2(4 * MIB), qcow2(MIB + 512)]);
    lab.write(0, 0x31, 0, MIB);
    lab.replicate(Cut::Full);
    let base = lab.latest.unwrap();
    lab.write(0, 0x32, 0, CLUSTER);
    lab.write(1, 0x32, MIB, 512);
    let home = DeltaId::random();
    assert!(matches!(lab.capture.take_stock(Some(base), home), Err(CaptureError::Running { .. })));
    lab.stop();
    let by_bitmap = lab.capture.take_stock(Some(base), home).unwrap();
    assert_eq!(by_bitmap.source, ChangedSource::Tracking);
    let clusters: Vec<Vec<u32>> = by_bitmap.disks.iter().map(|(_, set)| set.iter().collect()).collect();
    assert_eq!(clusters, [vec![0], vec![16]]);
    lab.start();
    lab.kill_qemu();
    lab.capture.recover(lab.latest).unwrap();
    let by_digest = lab.capture.take_stock(Some(base), home).unwrap();
    assert_eq!((by_digest.source, &by_digest.disks), (ChangedSource::Digest, &by_bitmap.disks));
    let other = lab.capture.take_stock(Some(DeltaId::random()), home).unwrap();
    assert_eq!((other.source, other.disks[0].1.len()), (ChangedSource::Everything, 64));

    let disk = lab.capture.disks[0].disk;
    let digest = || Digest::open(&lab.capture.digest_path(disk)).unwrap().unwrap();
    assert_eq!(digest().state(), Some(base), "until it is kept, the old one can tell the difference again");
    lab.capture.keep_stock(home).unwrap();
    let kept = digest().read(0, 64).unwrap();
    assert_eq!(digest().state(), Some(home));
    // A restart sweeps what was taken and not kept: the disks are read again.
    let again = DeltaId::random();
    lab.capture.take_stock(Some(home), again).unwrap();
    lab.capture.recover(Some(base)).unwrap();
    lab.capture.keep_stock(again).unwrap();
    assert_eq!((digest().state(), digest().read(0, 64).unwrap()), (Some(again), kept));
    let sums = lab.path("sums");
    lab.capture.sums_of_digest(disk, &sums).unwrap();
    assert_eq!(SumsReader::clusters(&sums).unwrap().iter().collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
    assert_eq!(lab.capture.take_stock(Some(again), DeltaId::random()).unwrap().disks[0].1.len(), 0);
}

#[test]
fn a_bitmap_that_was_added_before_the_start_is_taken_up() {
    let mut lab = Lab::new(&[qcow2(2 * MIB)]);
    lab.write(0, 0x41, 0, MIB);
    lab.stop();
    let point = DeltaId::random();
    let bottom = lab.capture.disks[0].path.clone();
    let overlay = lab.path("failover-1.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", text(&bottom), "-F", "qcow2", text(&overlay)]);
    qemu_img(&["bitmap", "--add", "-g", "65536", text(&overlay), &format!("relevo-{point}")]);
    lab.capture.disks[0].path = overlay;
    let xml = support::domain_xml(lab.vm(), &lab.capture.disks);
    lab.hypervisor().define(&xml).unwrap();
    assert!(matches!(lab.capture.track_from(point), Err(CaptureError::ShutOff { .. })));
    lab.start();
    lab.capture.track_from(point).unwrap();
    lab.replica[0] = vec![0x41; MIB as usize];
    lab.latest = Some(point);
    lab.write(0, 0x42, MIB / 2, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    lab.write(0, 0x43, MIB, CLUSTER);
    assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    assert!(matches!(lab.capture.track_from(DeltaId::random()), Err(CaptureError::NotTracked { .. })));
}

#[test]
fn a_checkpoint_list_that_libvirt_lost_is_told_again() {
    let mut lab = Lab::new(&[qcow2(2 * MIB)]);
    lab.replicate(Cut::Full);
    for live in [false, true] {
        lab.write(0, if live { 0x51 } else { 0x52 }, 0, CLUSTER);
        lab.stop();
        let xml = lab.hypervisor().xml(lab.vm(), true).unwrap();
        lab.hypervisor().undefine(lab.vm()).unwrap();
        lab.hypervisor().define(&xml).unwrap();
        assert_eq!(lab.checkpoints().len(), 0);
        if live {
            lab.start();
        }
        let recovered = lab.capture.recover(lab.latest).unwrap();
        assert!(recovered.tracking_intact, "{recovered:?}");
        if !live {
            lab.start();
        }
        assert_eq!(lab.replicate(Cut::Incremental).data, 1);
    }
}

#[test]
fn another_acknowledged_delta_than_the_tracked_one_means_resync() {
    let mut lab = Lab::new(&[qcow2(2 * MIB)]);
    lab.replicate(Cut::Full);
    let recovered = lab.capture.recover(Some(DeltaId::random())).unwrap();
    assert!(!recovered.tracking_intact);
    assert!(recovered.why.unwrap().contains("the peer has"));
}

#[test]
fn release_leaves_the_vm_as_it_was() {
    let mut lab = Lab::new(&[qcow2(2 * MIB)]);
    let before = lab.hypervisor().xml(lab.vm(), true).unwrap();
    for live in [true, false] {
        lab.latest = None;
        lab.replica[0].clear();
        lab.replicate(Cut::Full);
        lab.cut(DeltaId::random(), Cut::Full).unwrap();
        if !live {
            lab.stop();
        }
        lab.capture.release().unwrap();
        assert_eq!(lab.checkpoints(), Vec::<String>::new());
        assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
        assert_eq!(lab.hypervisor().xml(lab.vm(), true).unwrap(), before);
    }
    let report = qemu_img(&["info", text(&lab.capture.disks[0].path)]);
    assert!(!report.contains("relevo-"), "{report}");
}

#[test]
fn internal_snapshots_and_uncapturable_disks_are_named() {
    let lab = Lab::new(&[qcow2(2 * MIB)]);
    let check = lab.capture.check().unwrap();
    assert_eq!((check.tracking, check.refused.len()), (Tracking::Bitmap, 0));
    lab.snapshot_internal("before-update");
    let refused = lab.capture.check();
    assert!(
        matches!(refused, Err(CaptureError::InternalSnapshots { ref names, .. }) if names == &["before-update"])
    );
    assert!(matches!(lab.cut(DeltaId::random(), Cut::Full), Err(CaptureError::InternalSnapshots { .. })));
}
