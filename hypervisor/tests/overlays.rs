//! Overlays and block commit: the ways besides snapshot and pivot.

mod support;

use hypervisor::{BlockJobKind, Error, Overlay, image};
use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
};
use support::{CLUSTER, Host, MIB, disk, holds, own_clusters, qemu_img, text};

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

#[test]
fn layers_below_the_active_one_are_committed_and_leave_the_chain() {
    let host = Host::new();
    let base = host.image("base.qcow2");
    let vm = host.run("layers", &[disk("vda", &base)]);
    let hypervisor = host.hypervisor();
    let paths = [host.path("o1.qcow2"), host.path("o2.qcow2")];
    for (index, path) in paths.iter().enumerate() {
        host.write(vm, 0, 0x10 + index as u8, index as u64 * MIB, CLUSTER);
        hypervisor.snapshot_external(vm, &[("vda", path.as_path())], Overlay::Create).unwrap();
    }
    assert_eq!(own_clusters(&paths[0]), [16]);
    hypervisor.commit_layers(vm, "vda", &paths[0], &base, |_| GO_ON).unwrap();
    assert!(holds(&base, 0x11, MIB, CLUSTER));
    let info = hypervisor.domain(vm).unwrap().unwrap();
    assert_eq!(info.disks[0].path(), Some(paths[1].as_path()));
    assert_eq!(info.disks[0].backing_chain.iter().map(|l| &l.path).collect::<Vec<_>>(), [&base]);
    assert_eq!(hypervisor.block_job(vm, "vda").unwrap(), None);
    // Again, at once: a late event of the first job must not end the wait for the second.
    host.write(vm, 0, 0x33, 2 * MIB, CLUSTER);
    hypervisor.commit_active(vm, "vda", Some(&base), |_| GO_ON).unwrap();
    assert!(holds(&base, 0x33, 2 * MIB, CLUSTER));
    assert_eq!(hypervisor.domain(vm).unwrap().unwrap().disks[0].path(), Some(base.as_path()));
}

#[test]
fn an_image_is_open_as_long_as_a_qemu_has_it() {
    let host = Host::new();
    let base = host.image("base.qcow2");
    assert!(!image::is_open(&base).unwrap());
    let vm = host.run("open", &[disk("vda", &base)]);
    assert!(image::is_open(&base).unwrap());
    assert!(image::lock(&base).unwrap().is_none());
    host.hypervisor().destroy(vm).unwrap();
    assert!(!image::is_open(&base).unwrap());
    let lock = image::lock(&base).unwrap();
    assert!(lock.is_some() && host.hypervisor().start(vm).is_err(), "it runs on a locked image");
    drop(lock);
    host.hypervisor().start(vm).unwrap();
    host.hypervisor().destroy(vm).unwrap();
    assert!(image::is_open(&host.path("missing")).is_err());
}

#[test]
fn a_prepared_overlay_is_used_and_other_disks_are_left_alone() {
    let host = Host::new();
    let (a, b) = (host.image("a.qcow2"), host.image("b.qcow2"));
    let vm = host.run("reuse", &[disk("vda", &a), disk("vdb", &b)]);
    let prepared = host.path("prepared & ready.qcow2");
    let arguments =
        ["create", "-q", "-u", "-f", "qcow2", "-b", text(&a), "-F", "qcow2", text(&prepared), "4M"];
    qemu_img(&arguments);
    host.hypervisor().snapshot_external(vm, &[("vda", &prepared)], Overlay::Reuse).unwrap();
    let info = host.hypervisor().domain(vm).unwrap().unwrap();
    assert_eq!(info.disks[0].path(), Some(prepared.as_path()));
    assert_eq!(info.disks[1].path(), Some(b.as_path()));
    let unknown = host.hypervisor().commit_active(vm, "vdz", None, |_| GO_ON);
    assert!(matches!(unknown, Err(Error::NoSuchDisk { .. })), "{unknown:?}");
}

#[test]
fn a_cancelled_commit_leaves_the_disk_where_it_was() {
    let host = Host::new();
    let base = host.image("base.qcow2");
    let vm = host.run("cancel", &[disk("vda", &base)]);
    let hypervisor = host.hypervisor();
    let overlay = host.path("overlay.qcow2");
    hypervisor.snapshot_external(vm, &[("vda", &overlay)], Overlay::Create).unwrap();
    host.write(vm, 0, 0x22, 0, CLUSTER);
    let cancelled = hypervisor.commit_active(vm, "vda", None, |_| ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(Error::BlockJobCancelled { .. })), "{cancelled:?}");
    assert_eq!(hypervisor.block_job(vm, "vda").unwrap(), None);
    assert_eq!(hypervisor.domain(vm).unwrap().unwrap().disks[0].path(), Some(overlay.as_path()));
    hypervisor.commit_active(vm, "vda", None, |_| GO_ON).unwrap();
    assert!(holds(&base, 0x22, 0, CLUSTER));
}

#[test]
fn a_job_that_nobody_follows_any_more_is_found_and_ended() {
    let host = Host::new();
    let base = host.image("base.qcow2");
    let vm = host.run("left", &[disk("vda", &base)]);
    let hypervisor = host.hypervisor();
    let overlay = host.path("overlay.qcow2");
    hypervisor.snapshot_external(vm, &[("vda", &overlay)], Overlay::Create).unwrap();
    let left =
        catch_unwind(AssertUnwindSafe(|| hypervisor.commit_active(vm, "vda", None, |_| panic!("gone"))));
    assert!(left.is_err());
    assert_eq!(hypervisor.block_job(vm, "vda").unwrap().unwrap().kind, BlockJobKind::ActiveCommit);
    assert!(hypervisor.commit_layers(vm, "vda", &overlay, &base, |_| GO_ON).is_err(), "one job at a time");
    assert!(hypervisor.abort_block_job(vm, "vda").unwrap());
    assert!(!hypervisor.abort_block_job(vm, "vda").unwrap());
    hypervisor.commit_active(vm, "vda", None, |_| GO_ON).unwrap();
    assert_eq!(hypervisor.domain(vm).unwrap().unwrap().disks[0].path(), Some(base.as_path()));
}

#[test]
fn a_commit_that_nobody_follows_any_more_is_taken_up_and_the_definition_follows() {
    let host = Host::new();
    let base = host.image("base.qcow2");
    let vm = host.run("left", &[disk("vda", &base)]);
    let hypervisor = host.hypervisor();
    let overlay = host.path("overlay.qcow2");
    hypervisor.snapshot_external(vm, &[("vda", &overlay)], Overlay::Create).unwrap();
    host.write(vm, 0, 0x44, 0, CLUSTER);
    let left =
        catch_unwind(AssertUnwindSafe(|| hypervisor.commit_active(vm, "vda", None, |_| panic!("gone"))));
    assert!(left.is_err());
    let stale = hypervisor.xml(vm, true).unwrap();
    hypervisor.commit_active(vm, "vda", None, |_| GO_ON).unwrap();
    assert!(holds(&base, 0x44, 0, CLUSTER));
    assert_eq!(hypervisor.domain(vm).unwrap().unwrap().disks[0].path(), Some(base.as_path()));
    // libvirt died before it had written the definition.
    let named = |xml: &str| hypervisor::xml::disk_source(xml, "vda").unwrap().unwrap().0;
    hypervisor.define(&stale).unwrap();
    assert_eq!(named(&hypervisor.xml(vm, true).unwrap()), overlay);
    hypervisor.define_after_commit(vm, "vda", &overlay).unwrap();
    assert_eq!(named(&hypervisor.xml(vm, true).unwrap()), base);
}
