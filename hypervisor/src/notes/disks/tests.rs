use super::*;
use crate::xml;
use graph::Node;

const ONE: &str = "<disk type='file' device='disk'>\
    <driver name='qemu' type='raw'/>\
    <source file='/base' index='1'>\
      <privateData><nodenames><nodename type='storage' name='libvirt-1-storage'/>\
        <nodename type='format' name='libvirt-1-format'/></nodenames></privateData>\
    </source>\
    <backingStore/><target dev='vda' bus='virtio'/>\
    <privateData><qom name='/machine/peripheral/virtio-disk0/virtio-backend'/></privateData></disk>";

fn graph() -> Graph {
    let mut graph = Graph::default();
    for index in 1..=3 {
        let file = format!("/overlay-{index}").into();
        graph.nodes.insert(format!("libvirt-{index}-format"), Node { file, bitmaps: vec![] });
    }
    graph
}

fn noted(disk: &Element) -> Vec<String> {
    chain(disk)
}

#[test]
fn an_overlay_that_was_not_noted_is_put_on_top_and_a_pivot_takes_it_off() {
    let mut disk = xml::parse(ONE).unwrap();
    let before = xml::write(&disk).unwrap();
    assert_eq!(device(&disk), Some("/machine/peripheral/virtio-disk0/virtio-backend"));
    let real = ["libvirt-2-format", "libvirt-1-format"];
    assert_eq!(compare(&noted(&disk), &real), Some(Difference::OverlayAdded));
    correct(&mut disk, &Difference::OverlayAdded, &graph(), &real);
    assert_eq!(compare(&noted(&disk), &real), None);
    let source = disk.get_child("source").unwrap();
    assert_eq!((attribute(source, "file"), attribute(source, "index")), (Some("/overlay-2"), Some("2")));
    assert_eq!(attribute(disk.get_child("driver").unwrap(), "type"), Some("qcow2"));
    let below = disk.get_child("backingStore").unwrap();
    assert_eq!((attribute(below, "index"), attribute(below, "type")), (Some("1"), Some("file")));
    assert_eq!(attribute(below.get_child("format").unwrap(), "type"), Some("raw"));

    let real = ["libvirt-1-format"];
    assert_eq!(compare(&noted(&disk), &real), Some(Difference::Pivoted));
    correct(&mut disk, &Difference::Pivoted, &graph(), &real);
    assert_eq!(xml::write(&disk).unwrap(), before);
}

#[test]
fn layers_that_were_committed_below_the_top_go() {
    let mut disk = xml::parse(ONE).unwrap();
    for real in [
        vec!["libvirt-2-format", "libvirt-1-format"],
        vec!["libvirt-3-format", "libvirt-2-format", "libvirt-1-format"],
    ] {
        correct(&mut disk, &Difference::OverlayAdded, &graph(), &real);
    }
    let real = ["libvirt-3-format", "libvirt-1-format"];
    assert_eq!(compare(&noted(&disk), &real), Some(Difference::LayersGone));
    correct(&mut disk, &Difference::LayersGone, &graph(), &real);
    assert_eq!(noted(&disk), real);
}

#[test]
fn what_is_not_of_our_making_is_left_alone() {
    let mut disk = xml::parse(ONE).unwrap();
    let before = xml::write(&disk).unwrap();
    for real in [vec![], vec!["operators"], vec!["libvirt-3-format", "libvirt-2-format", "libvirt-1-format"]]
    {
        assert_eq!(compare(&noted(&disk), &real), Some(Difference::Unknown), "{real:?}");
        correct(&mut disk, &Difference::Unknown, &graph(), &real);
    }
    assert_eq!(xml::write(&disk).unwrap(), before);
    let nameless = xml::parse("<disk><source file='/x'/></disk>").unwrap();
    assert_eq!(compare(&noted(&nameless), &["libvirt-1-format"]), Some(Difference::Unknown));
}
