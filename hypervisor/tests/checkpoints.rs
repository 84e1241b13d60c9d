//! Checkpoints and incremental backups of a running domain, and what they survive.

mod support;

use hypervisor::{Deleted, Error, Overlay, checkpoint_record, image};
use std::{ops::ControlFlow, path::Path};
use support::{CLUSTER, Host, MIB, disk, eventually, holds, own_clusters};

#[test]
fn an_incremental_backup_holds_exactly_what_changed_on_both_disks() {
    let host = Host::new();
    let (a, b, c) = (host.image("a.qcow2"), host.image("b.qcow2"), host.image("c.qcow2"));
    let vm = host.run("two", &[disk("vda", &a), disk("vdb", &b), disk("vdc", &c)]);
    let hypervisor = host.hypervisor();
    host.write(vm, 0, 0x11, 0, CLUSTER);
    hypervisor.create_checkpoint(vm, "c0", &["vda", "vdb"]).unwrap();
    host.write(vm, 0, 0x22, MIB, CLUSTER);
    host.write(vm, 1, 0x33, 3 * CLUSTER + 512, 512);
    let size = hypervisor.checkpoint_size(vm, "c0").unwrap();
    assert_eq!(size.disks, [("vda".to_owned(), CLUSTER), ("vdb".to_owned(), CLUSTER)]);
    assert_eq!(size.total_bytes, 2 * CLUSTER);

    let spools = host.backup(vm, Some("c0"), Some("c1"), &["vda", "vdb"]);
    assert_eq!(own_clusters(&spools[0]), [16]);
    assert_eq!(own_clusters(&spools[1]), [3]);
    assert!(holds(&spools[0], 0x22, MIB, CLUSTER));
    assert!(holds(&spools[1], 0x33, 3 * CLUSTER + 512, 512));

    let listed = hypervisor.checkpoints(vm).unwrap();
    let parents: Vec<_> = listed.iter().map(|c| (c.name.as_str(), c.parent.as_deref())).collect();
    assert_eq!(parents, [("c0", None), ("c1", Some("c0"))]);
    assert_eq!(hypervisor.delete_checkpoint(vm, "c0").unwrap(), Deleted::Whole);
    assert_eq!(hypervisor.delete_checkpoint(vm, "c0").unwrap(), Deleted::Absent);
    assert_eq!(hypervisor.checkpoint_size(vm, "c1").unwrap().total_bytes, 0);
    let missing = hypervisor.backup_begin(vm, Some("c0"), None, &[("vda", &host.path("x"))]);
    assert!(matches!(missing, Err(Error::NoSuchCheckpoint { .. })), "{missing:?}");
}

#[test]
fn a_checkpoint_survives_snapshot_commit_and_pivot_with_every_write() {
    let host = Host::new();
    let (a, b) = (host.image("a.qcow2"), host.image("b.qcow2"));
    let vm = host.run("pivot", &[disk("vda", &a), disk("vdb", &b)]);
    let hypervisor = host.hypervisor();
    host.write(vm, 0, 0x11, 0, CLUSTER);
    hypervisor.create_checkpoint(vm, "c0", &["vda", "vdb"]).unwrap();
    host.write(vm, 0, 0x22, MIB, CLUSTER);
    let (over_a, over_b) = (host.path("oa.qcow2"), host.path("ob.qcow2"));
    let overlays = [("vda", over_a.as_path()), ("vdb", over_b.as_path())];
    hypervisor.snapshot_external(vm, &overlays, Overlay::Create).unwrap();
    host.write(vm, 0, 0x33, 2 * MIB, CLUSTER);
    host.write(vm, 1, 0x44, 2 * MIB, CLUSTER);
    assert_eq!(own_clusters(&over_a), [32]);
    assert!(holds(&a, 0, 2 * MIB, CLUSTER), "the base is frozen");
    for target in ["vda", "vdb"] {
        hypervisor.commit_active(vm, target, None, |_| ControlFlow::Continue(())).unwrap();
    }
    let info = hypervisor.domain(vm).unwrap().unwrap();
    assert_eq!(info.disks.iter().map(|d| d.path().unwrap()).collect::<Vec<_>>(), [a.as_path(), b.as_path()]);
    host.write(vm, 0, 0x55, 3 * MIB, CLUSTER);

    let spools = host.backup(vm, Some("c0"), Some("c1"), &["vda", "vdb"]);
    assert_eq!(own_clusters(&spools[0]), [16, 32, 48]);
    assert_eq!(own_clusters(&spools[1]), [32]);
    for (pattern, offset) in [(0x22, MIB), (0x33, 2 * MIB), (0x55, 3 * MIB)] {
        assert!(holds(&spools[0], pattern, offset, CLUSTER), "{pattern:#x}");
    }
}

#[test]
fn a_bitmap_put_into_an_overlay_becomes_a_checkpoint_and_survives_a_commit_to_the_bottom() {
    let host = Host::new();
    let bottom = host.image("bottom.qcow2");
    let middle = host.overlay("middle.qcow2", &bottom);
    let top = host.overlay("top.qcow2", &middle);
    let overlay = host.overlay("failover.qcow2", &top);
    image::add_bitmap(&overlay, "c0").unwrap();
    assert_eq!(image::bitmaps(&overlay).unwrap()[0].granularity_bytes, CLUSTER);

    let vm = host.run("over", &[disk("vda", &overlay)]);
    let hypervisor = host.hypervisor();
    let record = checkpoint_record("c0", None, &["vda"], 1_700_000_000).unwrap();
    hypervisor.redefine_checkpoint(vm, &record, true).unwrap();
    host.write(vm, 0, 0x22, MIB, CLUSTER);
    let spools = host.backup(vm, Some("c0"), None, &["vda"]);
    assert_eq!(own_clusters(&spools[0]), [16]);

    hypervisor.commit_active(vm, "vda", None, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(hypervisor.domain(vm).unwrap().unwrap().disks[0].path(), Some(bottom.as_path()));
    host.write(vm, 0, 0x33, 2 * MIB, CLUSTER);
    let spools = host.backup(vm, Some("c0"), Some("c1"), &["vda"]);
    assert_eq!(own_clusters(&spools[0]), [16, 32]);
    assert!(holds(&spools[0], 0x22, MIB, CLUSTER) && holds(&spools[0], 0x33, 2 * MIB, CLUSTER));
}

#[test]
fn undefining_loses_the_record_and_keeps_the_bitmap() {
    let host = Host::new();
    let a = host.image("a.qcow2");
    let vm = host.run("again", &[disk("vda", &a)]);
    let hypervisor = host.hypervisor();
    hypervisor.create_checkpoint(vm, "c0", &["vda"]).unwrap();
    host.write(vm, 0, 0x22, MIB, CLUSTER);
    let record = hypervisor.checkpoints(vm).unwrap().remove(0).xml;
    hypervisor.destroy(vm).unwrap();
    let definition = hypervisor.xml(vm, true).unwrap();
    hypervisor.undefine(vm).unwrap();
    assert!(hypervisor.domain(vm).unwrap().is_none());
    let bitmaps = image::bitmaps(&a).unwrap();
    assert!(bitmaps[0].name == "c0" && bitmaps[0].enabled && !bitmaps[0].in_use, "{bitmaps:?}");

    hypervisor.define(&definition).unwrap();
    assert_eq!(hypervisor.checkpoints(vm).unwrap(), []);
    let refused = hypervisor.redefine_checkpoint(vm, &record, true);
    assert!(refused.is_err(), "validation needs a running domain");
    hypervisor.redefine_checkpoint(vm, &record, false).unwrap();
    hypervisor.start_paused(vm).unwrap();
    hypervisor.redefine_checkpoint(vm, &record, true).unwrap();
    let spools = host.backup(vm, Some("c0"), Some("c1"), &["vda"]);
    assert_eq!(own_clusters(&spools[0]), [16]);
}

#[test]
fn a_checkpoint_whose_bitmap_died_with_qemu_is_lost_and_its_record_deletable() {
    let host = Host::new();
    let a = host.image("a.qcow2");
    let vm = host.run("killed", &[disk("vda", &a)]);
    let hypervisor = host.hypervisor();
    hypervisor.create_checkpoint(vm, "c0", &["vda"]).unwrap();
    hypervisor.destroy(vm).unwrap();
    hypervisor.start_paused(vm).unwrap();
    hypervisor.create_checkpoint(vm, "c1", &["vda"]).unwrap();
    let pid = host.pid("killed").to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    eventually("libvirt notices", || !hypervisor.is_active(vm).unwrap());

    let bitmaps = image::bitmaps(&a).unwrap();
    assert_eq!(bitmaps.iter().map(|b| (b.name.as_str(), b.in_use)).collect::<Vec<_>>(), [("c0", true)]);
    hypervisor.start_paused(vm).unwrap();
    for name in ["c0", "c1"] {
        let spool = host.path("spool.qcow2");
        let lost = hypervisor.backup_begin(vm, Some(name), None, &[("vda", Path::new(&spool))]);
        assert!(matches!(lost, Err(Error::CheckpointLost { .. })), "{name}: {lost:?}");
    }
    assert_eq!(hypervisor.delete_checkpoint(vm, "c1").unwrap(), Deleted::RecordOnly);
    assert_eq!(hypervisor.delete_checkpoint(vm, "c0").unwrap(), Deleted::Whole);
    assert_eq!(hypervisor.checkpoints(vm).unwrap(), []);
    hypervisor.destroy(vm).unwrap();
    image::remove_bitmap(&a, "c0").unwrap();
    assert_eq!(image::bitmaps(&a).unwrap(), []);
}
