//! Overlays, adoption in place, the commit of a failover, hashes.

mod support;

use layers::{
    AdoptedDisk, Adoption, Files, LayerFormat, LayersError, NODE_LEAVES, OverlayKind, Step, node_hash,
    overlay_clusters,
};
use model::{
    DeltaId, Digest, ZERO_CLUSTER, hash_cluster,
    sums::{SumsReader, SumsWriter},
};
use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};
use support::{CLUSTER, Change, Replica, assert_same, qemu_img_check, qemu_reads, run};

const MIB: u64 = 1 << 20;

fn data(first: u32, count: u32, fill: u8) -> Change {
    Change::Data { first, count, fill }
}

fn three_points() -> (Replica, Vec<DeltaId>) {
    let mut replica = Replica::new(&[4 * MIB, MIB]);
    replica.receive(&[vec![data(0, 30, 1)], vec![data(0, 16, 2)]]).unwrap();
    replica.receive(&[vec![data(8, 8, 3)], vec![Change::Zero { first: 4, count: 4 }]]).unwrap();
    replica.receive(&[vec![data(12, 40, 4)], vec![Change::Grow(MIB), data(20, 2, 5)]]).unwrap();
    let points = replica.store.points().unwrap().iter().map(|point| point.delta).collect();
    (replica, points)
}

/// A guest's write into an overlay, by QEMU.
fn guest_writes(image: &Path, offset: u64, length: u64, pattern: u8) {
    let command = format!("write -P {pattern} {offset} {length}");
    run("qemu-io", &["-f", "qcow2", "-c", &command, image.to_str().unwrap()]);
}

/// As the commit of a failover does with a VM that is off.
fn merge_into(bottom: &Path, overlay: &Path) {
    let [bottom, overlay] = [bottom, overlay].map(|path| path.to_str().unwrap());
    run("qemu-img", &["commit", "-q", "-f", "qcow2", "-d", "-b", bottom, overlay]);
}

/// Merges what a disk's overlay shows into the disk's layer of this point; gives its file.
fn merge_down(replica: &Replica, overlay: &[layers::OverlayDisk], index: usize, point: DeltaId) -> PathBuf {
    let top = file_of(replica, overlay, index);
    let bottom = top.with_file_name(format!("{point}.qcow2"));
    merge_into(&bottom, &top);
    bottom
}

fn not_cancelled() -> AtomicBool {
    AtomicBool::new(false)
}

/// The overlay's file on this disk of the replica.
fn file_of(replica: &Replica, disks: &[layers::OverlayDisk], index: usize) -> PathBuf {
    disks.iter().find(|overlay| overlay.disk == replica.disks[index]).unwrap().path.clone()
}

#[test]
fn a_test_vm_writes_without_the_points_changing_and_leaves_nothing() {
    let (replica, points) = three_points();
    let files = replica.files();
    let overlay = replica.store.make_overlay(OverlayKind::Test, points[1], 1, None).unwrap();
    let again = replica.store.make_overlay(OverlayKind::Test, points[1], 1, None).unwrap();
    assert_eq!(overlay, again);
    let other = replica.store.make_overlay(OverlayKind::Test, points[2], 1, None);
    assert!(matches!(other, Err(LayersError::OverlayExists { .. })));
    let path = file_of(&replica, &overlay, 0);
    assert_same(&qemu_reads(&path), &replica.points[&points[1]][0], "a fresh overlay");
    guest_writes(&path, 3 << 16, 70_000, 0x77);
    assert_eq!(overlay_clusters(&path).unwrap().iter().collect::<Vec<_>>(), [3, 4]);
    replica.check(true);
    assert!(replica.store.recover().unwrap().removed.is_empty());
    replica.store.drop_overlay(OverlayKind::Test, 1).unwrap();
    replica.store.drop_overlay(OverlayKind::Test, 1).unwrap();
    assert_eq!(replica.files(), files);
    assert!(replica.catalog.pins(replica.vm).unwrap().is_empty());
}

#[test]
fn a_failover_overlay_records_what_changes_in_its_bitmap() {
    let (replica, points) = three_points();
    let overlay = replica.store.make_overlay(OverlayKind::Failover, points[2], 1, Some("relevo-1")).unwrap();
    for disk in &overlay {
        let info = run("qemu-img", &["info", "--output=json", disk.path.to_str().unwrap()]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let bitmap = &info["format-specific"]["data"]["bitmaps"][0];
        assert_eq!(
            (bitmap["name"].as_str(), bitmap["granularity"].as_u64()),
            (Some("relevo-1"), Some(65536))
        );
        assert_eq!(bitmap["flags"], serde_json::json!(["auto"]));
        qemu_img_check(&disk.path);
    }
}

#[test]
fn a_crash_while_an_overlay_is_made_leaves_none_of_it_or_all_of_it() {
    for step in ["overlay: file created", "overlay: file durable", "overlay: recorded"] {
        let (mut replica, points) = three_points();
        let files = replica.files();
        replica.reopen(Some(std::sync::Arc::new(move |at| at == step)));
        replica.store.make_overlay(OverlayKind::Failover, points[1], 1, Some("b")).unwrap_err();
        replica.reopen(None);
        replica.store.recover().unwrap();
        if step == "overlay: recorded" {
            assert_eq!(replica.store.overlay(OverlayKind::Failover, 1).unwrap().len(), 2);
        } else {
            assert_eq!(replica.files(), files, "{step}");
        }
        let overlay = replica.store.make_overlay(OverlayKind::Failover, points[1], 1, Some("b")).unwrap();
        overlay.iter().for_each(|disk| qemu_img_check(&disk.path));
    }
}

#[test]
fn committing_a_failover_drops_what_came_later_and_leaves_a_chain_that_qemu_merges() {
    let (replica, points) = three_points();
    let disk = replica.disks[0];
    let overlay = replica.store.make_overlay(OverlayKind::Failover, points[1], 1, Some("b")).unwrap();
    guest_writes(&file_of(&replica, &overlay, 0), 60 << 16, 4 << 16, 0x55);
    guest_writes(&file_of(&replica, &overlay, 1), 0, 512, 0x66);
    let mut expected = replica.points[&points[1]].clone();
    expected[0][60 * CLUSTER..64 * CLUSTER].fill(0x55);
    expected[1][..512].fill(0x66);

    let later = replica.store.clusters_after(points[1], disk).unwrap();
    assert_eq!(later.iter().collect::<Vec<_>>(), (12..52).collect::<Vec<_>>());
    assert!(matches!(
        replica.store.drop_layers_after(points[1]),
        Err(LayersError::StillVisible { delta }) if delta == points[2]
    ));
    replica.store.hide_all_but(points[1]).unwrap();
    replica.store.drop_layers_after(points[1]).unwrap();
    assert!(!replica.files().iter().any(|file| file.contains(&points[2].to_string())));

    let mut merged = vec![];
    for (index, expected) in expected.iter().enumerate() {
        let bottom = merge_down(&replica, &overlay, index, points[0]);
        assert_same(&qemu_reads(&bottom), expected, "the merged disk");
        qemu_img_check(&bottom);
        // Broken off here and done again, the overlay still shows the same.
        assert_same(&qemu_reads(&file_of(&replica, &overlay, index)), expected, "the overlay");
        assert_eq!(merge_down(&replica, &overlay, index, points[0]), bottom);
        merged.push(bottom);
    }
    replica.store.forget_all(Files::RemoveExcept(merged)).unwrap();
    assert!(replica.store.points().unwrap().is_empty());
    assert_eq!(replica.files().len(), 2, "{:?}", replica.files());
    // They are a VM's disks now: recovery must not take them for its own.
    assert!(replica.store.recover().unwrap().removed.is_empty());
    assert_eq!(replica.files().len(), 2);
}

#[test]
fn dropping_waits_for_those_who_use_the_points() {
    let (replica, points) = three_points();
    let reader = replica.store.reader(points[1], replica.disks[0]).unwrap();
    replica.store.make_overlay(OverlayKind::Test, points[2], 1, None).unwrap();
    replica.store.hide_all_but(points[0]).unwrap();
    let drop_later = || replica.store.drop_layers_after(points[0]);
    assert!(matches!(drop_later(), Err(LayersError::Pinned { delta, .. }) if delta == points[2]));
    replica.store.drop_overlay(OverlayKind::Test, 1).unwrap();
    assert!(matches!(drop_later(), Err(LayersError::Pinned { .. })));
    drop(reader);
    drop_later().unwrap();
    assert!(!replica.files().iter().any(|file| file.contains(&points[2].to_string())));
}

#[test]
fn a_crash_while_forgetting_keeps_the_vms_disk() {
    for n in 0..6 {
        let (mut replica, points) = three_points();
        let overlay = replica.store.make_overlay(OverlayKind::Failover, points[2], 1, None).unwrap();
        let keep: Vec<_> = overlay.iter().map(|disk| disk.path.clone()).collect();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let fault = move |_| count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == n;
        replica.reopen(Some(std::sync::Arc::new(fault)));
        replica.store.forget_all(Files::RemoveExcept(keep.clone())).unwrap_err();
        replica.reopen(None);
        replica.store.recover().unwrap();
        assert!(keep.iter().all(|path| path.exists()));
        replica.store.forget_all(Files::RemoveExcept(keep.clone())).unwrap();
        assert_eq!(replica.files().len(), 2);
    }
}

/// The VM's own disk, made by QEMU, and its sums.
fn own_disk(folder: &Path, format: &str, content: &[u8]) -> (PathBuf, PathBuf) {
    let (raw, disk, sums) = (folder.join("raw"), folder.join(format!("vm.{format}")), folder.join("sums"));
    std::fs::write(&raw, content).unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", format, raw.to_str().unwrap(), disk.to_str().unwrap()]);
    let mut writer = SumsWriter::create(&sums, content.len() as u64).unwrap();
    for (cluster, bytes) in (0..).zip(content.chunks(CLUSTER)) {
        if hash_cluster(bytes) != ZERO_CLUSTER {
            writer.push(cluster, hash_cluster(bytes)).unwrap();
        }
    }
    writer.finish().unwrap();
    (disk, sums)
}

#[test]
fn an_adopted_disk_is_a_bottom_that_only_a_failback_writes() {
    for format in [LayerFormat::Qcow2, LayerFormat::Raw] {
        let mut replica = Replica::new(&[2 * MIB]);
        replica.change(&[vec![data(2, 20, 9)]]);
        let folder = tempfile::tempdir().unwrap();
        let (path, sums) = own_disk(folder.path(), &format.to_string(), &replica.now[0]);
        // It was the bottom of a replica once.
        let earlier = DeltaId::random();
        let (made, path) = (path, folder.path().join(format!("{earlier}.{format}")));
        std::fs::rename(made, &path).unwrap();
        let adoption = Adoption {
            delta: DeltaId::random(),
            disks: vec![AdoptedDisk {
                disk: replica.disks[0],
                path: path.clone(),
                format,
                size_bytes: 2 * MIB,
                sums: sums.clone(),
            }],
            domain_xml: "<domain/>".into(),
            cut_at_ms: 0,
            received_at_ms: 0,
            index: 0,
            generation_number: replica.generation.number,
            generation_nonce: replica.generation.nonce,
            note: "what a.example wrote and never shipped".into(),
        };
        let own = std::fs::read(&path).unwrap();
        let point = replica.store.adopt(&adoption).unwrap();
        assert!(!sums.exists());
        replica.committed(point.delta);
        replica.check(true);

        let again = replica.store.begin(replica.incoming(earlier)).err();
        assert!(matches!(again, Some(LayersError::PointExists { .. })), "it would be written over");

        replica.receive(&[vec![data(0, 4, 1), Change::Grow(MIB)]]).unwrap();
        let latest = replica.receive(&[vec![data(40, 8, 2), Change::Zero { first: 5, count: 3 }]]).unwrap();
        let points = replica.store.points().unwrap();
        replica.store.hide(&[points[0].delta, points[1].delta]).unwrap();
        let step = replica.store.coalesce_step(&not_cancelled()).unwrap();
        assert_eq!(step, Step::Merged { older: points[1].delta, newer: points[2].delta });
        assert_eq!(replica.store.coalesce_step(&not_cancelled()).unwrap(), Step::Nothing);
        replica.check(true);
        replica.check_images_except_own();
        let report = replica.store.verify(latest.delta, &mut |_, _| {}, &not_cancelled()).unwrap();
        assert_eq!((report.mismatch_count, report.clusters), (0, 48));
        assert_eq!(std::fs::read(&path).unwrap(), own, "the VM's own disk was written");

        let overlay = replica.store.make_overlay(OverlayKind::Failover, latest.delta, 1, None).unwrap();
        guest_writes(&overlay[0].path, 512, 512, 0x11);
        replica.now[0][512..1024].fill(0x11);
        merge_into(&path, &overlay[0].path);
        assert_same(&read_as(&path, format), &replica.now[0], "the disk that came home");
        replica.store.forget_all(Files::RemoveExcept(vec![])).unwrap();
        assert!(path.exists() && replica.files().is_empty());
    }
}

fn read_as(path: &Path, format: LayerFormat) -> Vec<u8> {
    match format {
        LayerFormat::Raw => std::fs::read(path).unwrap(),
        LayerFormat::Qcow2 => qemu_reads(path),
    }
}

#[test]
fn an_adoption_that_is_refused_or_broken_off_keeps_the_sums() {
    let (mut replica, _) = three_points();
    let folder = tempfile::tempdir().unwrap();
    let (path, sums) = own_disk(folder.path(), "qcow2", &vec![1; 2 * MIB as usize]);
    let disk = AdoptedDisk {
        disk: replica.disks[0],
        path,
        format: LayerFormat::Qcow2,
        size_bytes: 2 * MIB,
        sums: sums.clone(),
    };
    let adoption = Adoption {
        delta: DeltaId::random(),
        disks: vec![disk],
        domain_xml: String::new(),
        cut_at_ms: 0,
        received_at_ms: 0,
        index: 0,
        generation_number: replica.generation.number,
        generation_nonce: replica.generation.nonce,
        note: String::new(),
    };
    let files = replica.files();
    // The store is not empty.
    assert!(matches!(replica.store.adopt(&adoption), Err(LayersError::CommitRefused(_))));
    assert_eq!(replica.files(), files);
    replica.store.forget_all(Files::RemoveExcept(vec![])).unwrap();
    replica.reopen(Some(std::sync::Arc::new(|step| step == "adopt: sums durable")));
    replica.store.adopt(&adoption).unwrap_err();
    replica.reopen(None);
    replica.store.recover().unwrap();
    assert!(replica.files().is_empty() && SumsReader::open(&sums).is_ok());
    replica.store.adopt(&adoption).unwrap();
}

#[test]
fn node_and_leaf_hashes_and_the_digest_describe_the_point() {
    let nodes = 3;
    let size = (nodes * u64::from(NODE_LEAVES) - 5) * CLUSTER as u64 + 512;
    let mut replica = Replica::new(&[size]);
    let last = (size / CLUSTER as u64) as u32;
    let point = replica.receive(&[vec![data(7, 2, 1), data(last, 1, 2)]]).unwrap();
    let disk = replica.disks[0];
    let leaves: Vec<_> = replica.now[0].chunks(CLUSTER).map(hash_cluster).collect();
    let expected: Vec<_> = leaves.chunks(NODE_LEAVES as usize).map(node_hash).collect();
    assert_eq!(replica.store.node_hashes(point.delta, disk).unwrap(), expected);
    let found = replica.store.leaf_hashes(point.delta, disk, &[0, 2]).unwrap();
    assert_eq!(found[0], (0, leaves[..NODE_LEAVES as usize].to_vec()));
    assert_eq!(found[1], (2, leaves[2 * NODE_LEAVES as usize..].to_vec()));

    let path = replica.dir.path().join("digest");
    replica.store.digest_into(point.delta, disk, &path).unwrap();
    let digest = Digest::open(&path).unwrap().unwrap();
    assert_eq!((digest.state(), digest.size_bytes()), (Some(point.delta), size));
    assert_eq!(digest.read(0, digest.clusters()).unwrap(), leaves);
}

#[test]
fn verification_finds_a_wrong_cluster_a_wrong_hole_and_stops_when_cancelled() {
    let (replica, points) = three_points();
    let clean = replica.store.verify(points[2], &mut |_, _| {}, &not_cancelled()).unwrap();
    assert_eq!((clean.mismatch_count, clean.clusters), (0, 64 + 32));
    assert!(clean.bytes < 96 * CLUSTER as u64, "holes were read");
    let mut last = (0, 0);
    replica.store.verify(points[2], &mut |done, total| last = (done, total), &not_cancelled()).unwrap();
    assert_eq!(last, (96, 96));
    let cancelled = replica.store.verify(points[2], &mut |_, _| {}, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(LayersError::Cancelled)));

    // Somebody writes to the lowest layer: once below other data, once where no point has any.
    let chain = replica.store.chain(points[0]).unwrap();
    let (_, layers) = chain.iter().find(|(disk, _)| *disk == replica.disks[0]).unwrap();
    guest_writes(&layers[0].path, 9 << 16, 512, 0xee);
    guest_writes(&layers[0].path, 63 << 16, 512, 0xee);
    let report = |point| replica.store.verify(point, &mut |_, _| {}, &not_cancelled()).unwrap();
    let clusters = |point| report(point).mismatches.iter().map(|m| m.cluster).collect::<Vec<_>>();
    assert_eq!(clusters(points[0]), [9, 63]);
    assert_eq!(clusters(points[1]), [63]);

    // Who compares hears of no hash that it could have.
    let disk = replica.disks[0];
    let differing = |point: DeltaId| {
        let recorded = replica.store.leaf_hashes(point, disk, &[0]).unwrap().remove(0).1;
        let read = replica.store.read_leaf_hashes(point, disk, 0).unwrap();
        assert_eq!(read.len(), recorded.len());
        let pairs = (0_u32..).zip(recorded.iter().zip(&read));
        pairs.filter(|(_, (recorded, read))| recorded != read).map(|(cluster, _)| cluster).collect::<Vec<_>>()
    };
    assert_eq!(differing(points[0]), [9, 63]);
    assert_eq!(differing(points[1]), [63]);
    assert_eq!(replica.store.read_leaf_hashes(points[0], disk, 7).unwrap(), Vec::<model::ClusterHash>::new());
}
