//! A disk in libvirt's note, told anew: what lies on what, top first, by QEMU's names of the nodes.

use super::graph::{self, Graph};
use crate::xml::{attribute, elements};
use xmltree::{Element, XMLNode};

/// How QEMU's chain differs from the note's.
#[derive(Debug, PartialEq, Eq)]
pub enum Difference {
    /// A snapshot was made and not noted.
    OverlayAdded,
    /// A commit's pivot was not noted: the bitmaps of what it was committed into may lack what was committed.
    Pivoted,
    /// A commit below the top was not noted.
    LayersGone,
    /// Not of our making.
    Unknown,
}

/// What the note says that a disk stands on; empty where it names no nodes.
pub fn chain(disk: &Element) -> Vec<String> {
    let mut names = vec![];
    let mut level = Some(disk);
    while let Some(holder) = level {
        let Some(source) = holder.get_child("source") else { break };
        let Some(name) = format_node(source) else { return vec![] };
        names.push(name.to_owned());
        level = holder.get_child("backingStore");
    }
    names
}

/// The disk's device in QEMU's object tree.
pub fn device(disk: &Element) -> Option<&str> {
    attribute(disk.get_child("privateData")?.get_child("qom")?, "name")
}

pub fn target(disk: &Element) -> Option<&str> {
    attribute(disk.get_child("target")?, "dev")
}

fn format_node(source: &Element) -> Option<&str> {
    let names = source.get_child("privateData")?.get_child("nodenames")?;
    let node = elements(names, "nodename").find(|node| attribute(node, "type") == Some("format"))?;
    attribute(node, "name")
}

/// Compares what the note says with what QEMU says.
pub fn compare(noted: &[String], real: &[&str]) -> Option<Difference> {
    let is = |a: &[String], b: &[&str]| a.iter().map(String::as_str).eq(b.iter().copied());
    match (noted, real) {
        ([], _) | (_, []) => Some(Difference::Unknown),
        _ if is(noted, real) => None,
        (_, [_, below @ ..]) if is(noted, below) => Some(Difference::OverlayAdded),
        _ if noted.len() > real.len() && is(&noted[noted.len() - real.len()..], real) => {
            Some(Difference::Pivoted)
        }
        ([top, .., bottom], [real_top, .., real_bottom])
            if top == real_top
                && bottom == real_bottom
                && real.iter().all(|node| noted.iter().any(|noted| noted == node)) =>
        {
            Some(Difference::LayersGone)
        }
        _ => Some(Difference::Unknown),
    }
}

/// Makes the note say what QEMU says.
pub fn correct(disk: &mut Element, difference: &Difference, graph: &Graph, real: &[&str]) {
    match difference {
        Difference::OverlayAdded => put_on_top(disk, real[0], graph),
        Difference::Pivoted => {
            while chain(disk).first().is_some_and(|top| top != real[0]) {
                take_top_off(disk);
            }
        }
        Difference::LayersGone => drop_layers(disk, real),
        Difference::Unknown => {}
    }
}

fn put_on_top(disk: &mut Element, node: &str, graph: &Graph) {
    let (Some(index), Some(file)) = (graph::index(node), graph.nodes.get(node).map(|node| &node.file)) else {
        return;
    };
    let mut below = Element::new("backingStore");
    let mut format = Element::new("format");
    let old_format = disk.get_child("driver").and_then(|driver| attribute(driver, "type")).map(str::to_owned);
    format.attributes.extend(old_format.map(|old| ("type".to_owned(), old)));
    below.children.push(XMLNode::Element(format));
    below.attributes.extend(attribute(disk, "type").map(|kind| ("type".to_owned(), kind.to_owned())));
    if let Some(mut source) = disk.take_child("source") {
        below.attributes.extend(source.attributes.remove("index").map(|index| ("index".to_owned(), index)));
        below.children.push(XMLNode::Element(source));
    }
    below.children.extend(disk.take_child("backingStore").map(XMLNode::Element));
    let mut names = Element::new("nodenames");
    for kind in ["storage", "format"] {
        let mut name = Element::new("nodename");
        name.attributes.insert("type".to_owned(), kind.to_owned());
        name.attributes.insert("name".to_owned(), format!("libvirt-{index}-{kind}"));
        names.children.push(XMLNode::Element(name));
    }
    let mut private = Element::new("privateData");
    private.children.push(XMLNode::Element(names));
    let mut source = Element::new("source");
    source.attributes.insert("file".to_owned(), file.to_string_lossy().into_owned());
    source.attributes.insert("index".to_owned(), index.to_string());
    source.children.push(XMLNode::Element(private));
    disk.attributes.insert("type".to_owned(), "file".to_owned());
    if let Some(driver) = disk.get_mut_child("driver") {
        driver.attributes.insert("type".to_owned(), "qcow2".to_owned());
    }
    insert_after_driver(disk, [source, below]);
}

fn take_top_off(disk: &mut Element) {
    disk.take_child("source");
    let Some(mut below) = disk.take_child("backingStore") else { return };
    let Some(mut source) = below.take_child("source") else { return };
    source.attributes.extend(below.attributes.remove("index").map(|index| ("index".to_owned(), index)));
    disk.attributes.extend(below.attributes.remove("type").map(|kind| ("type".to_owned(), kind)));
    let format = below.get_child("format").and_then(|format| attribute(format, "type")).map(str::to_owned);
    if let (Some(driver), Some(format)) = (disk.get_mut_child("driver"), format) {
        driver.attributes.insert("type".to_owned(), format);
    }
    let rest = below.take_child("backingStore").unwrap_or_else(|| Element::new("backingStore"));
    insert_after_driver(disk, [source, rest]);
}

fn drop_layers(holder: &mut Element, real: &[&str]) {
    while let Some(below) = holder.get_mut_child("backingStore") {
        let gone = below.get_child("source").and_then(format_node).is_some_and(|node| !real.contains(&node));
        if !gone {
            return drop_layers(below, real);
        }
        let rest = below.take_child("backingStore").unwrap_or_else(|| Element::new("backingStore"));
        *below = rest;
    }
}

/// Where libvirt writes them.
fn insert_after_driver(disk: &mut Element, new: [Element; 2]) {
    let driver =
        disk.children.iter().position(|child| child.as_element().is_some_and(|e| e.name == "driver"));
    let at = driver.map_or(0, |at| at + 1);
    disk.children.splice(at..at, new.map(XMLNode::Element));
}

#[cfg(test)]
mod tests;
