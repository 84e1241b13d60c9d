//! The XML that checkpoint, backup and snapshot calls take and give. Built as trees, never by pasting text,
//! so that a path with an ampersand stays a path.

use crate::{Error, Result, xml};
use std::path::{Path, PathBuf};
use xmltree::{Element, XMLNode};

/// A checkpoint named `name` over `targets`; the domain's other disks (of `all`) are left out.
pub(crate) fn checkpoint(name: &str, targets: &[&str], all: &[String]) -> Result<String> {
    let mut root = Element::new("domaincheckpoint");
    root.children.push(text("name", name));
    let disks = all.iter().map(|target| {
        let kind = if targets.contains(&target.as_str()) { "bitmap" } else { "no" };
        element("disk", &[("name", target), ("checkpoint", kind)], vec![])
    });
    root.children.push(element("disks", &[], disks.collect()));
    xml::write(&root)
}

/// The record of a checkpoint whose bitmaps, of the same name, stand in the images already: for
/// [`crate::Hypervisor::redefine_checkpoint`]. `parent` is the next older checkpoint that libvirt knows;
/// `created_s` is in seconds since 1970 and orders nothing.
pub fn checkpoint_record(
    name: &str,
    parent: Option<&str>,
    targets: &[&str],
    created_s: i64,
) -> Result<String> {
    let mut root = Element::new("domaincheckpoint");
    root.children.push(text("name", name));
    if let Some(parent) = parent {
        root.children.push(element("parent", &[], vec![text("name", parent)]));
    }
    root.children.push(text("creationTime", &created_s.to_string()));
    let disks = targets.iter().map(|target| {
        element("disk", &[("name", target), ("checkpoint", "bitmap"), ("bitmap", name)], vec![])
    });
    root.children.push(element("disks", &[], disks.collect()));
    xml::write(&root)
}

pub(crate) fn backup(incremental: Option<&str>, targets: &[(&str, &Path)], all: &[String]) -> Result<String> {
    let mut root = Element::new("domainbackup");
    root.attributes.insert("mode".into(), "push".into());
    if let Some(checkpoint) = incremental {
        root.children.push(text("incremental", checkpoint));
    }
    let mut disks = vec![];
    for target in all {
        let Some((_, path)) = targets.iter().find(|(name, _)| name == target) else {
            disks.push(element("disk", &[("name", target), ("backup", "no")], vec![]));
            continue;
        };
        let children = vec![
            element("target", &[("file", path_text(path)?)], vec![]),
            element("driver", &[("type", "qcow2")], vec![]),
        ];
        disks.push(element("disk", &[("name", target), ("backup", "yes"), ("type", "file")], children));
    }
    root.children.push(element("disks", &[], disks));
    xml::write(&root)
}

/// The files that a backup copies to, or keeps what the guest overwrites in while somebody else reads.
pub(crate) fn backup_files(text: &str) -> Result<Vec<PathBuf>> {
    let root = xml::parse(text)?;
    let disks = root.get_child("disks").into_iter().flat_map(|disks| xml::elements(disks, "disk"));
    let file = |disk: &Element| {
        let target = disk.get_child("target").or_else(|| disk.get_child("scratch"))?;
        xml::attribute(target, "file").map(PathBuf::from)
    };
    Ok(disks.filter_map(file).collect())
}

pub(crate) fn snapshot(overlays: &[(&str, &Path)], all: &[String]) -> Result<String> {
    let mut root = Element::new("domainsnapshot");
    let mut disks = vec![];
    for target in all {
        let Some((_, path)) = overlays.iter().find(|(name, _)| name == target) else {
            disks.push(element("disk", &[("name", target), ("snapshot", "no")], vec![]));
            continue;
        };
        let children = vec![
            element("driver", &[("type", "qcow2")], vec![]),
            element("source", &[("file", path_text(path)?)], vec![]),
        ];
        let attributes = [("name", target.as_str()), ("snapshot", "external"), ("type", "file")];
        disks.push(element("disk", &attributes, children));
    }
    root.children.push(element("disks", &[], disks));
    xml::write(&root)
}

pub(crate) fn checkpoint_name(text: &str) -> Result<String> {
    let root = xml::parse(text)?;
    xml::child_text(&root, "name").ok_or_else(|| unexpected("a checkpoint without a name"))
}

pub(crate) fn checkpoint_parent(text: &str) -> Result<Option<String>> {
    let root = xml::parse(text)?;
    Ok(root.get_child("parent").and_then(|parent| xml::child_text(parent, "name")))
}

/// Target and bytes of each disk that the checkpoint covers; no bytes where QEMU has no bitmap of it.
pub(crate) fn checkpoint_sizes(text: &str) -> Result<Vec<(String, Option<u64>)>> {
    let root = xml::parse(text)?;
    let Some(disks) = root.get_child("disks") else { return Ok(vec![]) };
    let covered = xml::elements(disks, "disk")
        .filter(|disk| disk.attributes.get("checkpoint").is_some_and(|kind| kind == "bitmap"));
    covered
        .map(|disk| {
            let name = disk.attributes.get("name").ok_or_else(|| unexpected("a disk without a name"))?;
            let size = disk.attributes.get("size").and_then(|size| size.parse().ok());
            Ok((name.clone(), size))
        })
        .collect()
}

fn unexpected(what: &str) -> Error {
    Error::XmlUnexpected { what: what.to_owned() }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| unexpected(&format!("the path {} is not UTF-8", path.display())))
}

fn element(name: &str, attributes: &[(&str, &str)], children: Vec<XMLNode>) -> XMLNode {
    let mut element = Element::new(name);
    element.attributes = attributes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    element.children = children;
    XMLNode::Element(element)
}

fn text(name: &str, content: &str) -> XMLNode {
    element(name, &[], vec![XMLNode::Text(content.to_owned())])
}
