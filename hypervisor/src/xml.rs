//! Editing domain XML: pure functions from text to text. What they do not understand they keep; elements
//! keep their order, attributes are sorted. Give them the definition (`Hypervisor::xml(vm, true)`) unless
//! said otherwise.

use crate::{Error, Result};
use model::VmId;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;
use xmltree::{Element, EmitterConfig, XMLNode};

/// What a test copy of a domain is called and where it is plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCopy {
    pub name: String,
    pub vm: VmId,
    pub networks: NetworkChoice,
    /// Of single cards, by the original's MAC address in lower case: the libvirt networks that they go into, whatever
    /// `networks` says.
    pub adapters: BTreeMap<String, String>,
    /// The copy's own NVRAM file, made by the caller; without, libvirt makes one from the template.
    pub nvram: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkChoice {
    /// Every card stays in the machine, its cable out.
    Unplug,
    /// Every card goes into this libvirt network.
    One(String),
    /// By the network, bridge or device that the card was in; cards in others are unplugged.
    Map(BTreeMap<String, String>),
}

/// Targets (`vda`, …) of all disks, drives for removable media included.
pub fn disk_targets(xml: &str) -> Result<Vec<String>> {
    let root = parse(xml)?;
    let Some(devices) = root.get_child("devices") else { return Ok(vec![]) };
    Ok(elements(devices, "disk").filter_map(|disk| disk_target(disk).map(str::to_owned)).collect())
}

/// Points a disk at the file or block device `path` of this format, whatever it was before. What was known of its backing
/// chain goes: libvirt reads it from the file.
pub fn set_disk_source(xml: &str, target: &str, path: &Path, format: &str) -> Result<String> {
    let path = path.to_str().ok_or_else(|| unexpected(format!("path {} is not UTF-8", path.display())))?;
    let device = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let (kind, attribute) = if device { ("block", "dev") } else { ("file", "file") };
    edit_disk(xml, target, |disk| {
        drop_children(disk, &["backingStore", "mirror"]);
        disk.attributes.insert("type".into(), kind.into());
        child_mut(disk, "driver").attributes.insert("type".into(), format.into());
        let source = child_mut(disk, "source");
        // Seclabels and the like stay; what names or cuts up the old source goes.
        drop_children(source, &["slices", "reservations", "host"]);
        source.attributes.retain(|name, _| name == "startupPolicy");
        source.attributes.insert(attribute.into(), path.into());
    })
}

/// The file or block device that a disk stands on, and its format; `None` where it is neither, or there is none.
pub fn disk_source(xml: &str, target: &str) -> Result<Option<(PathBuf, String)>> {
    let root = parse(xml)?;
    let Some(disk) = find_disk(&root, target) else { return Ok(None) };
    let source = disk.get_child("source");
    let path = source.and_then(|source| attribute(source, "file").or_else(|| attribute(source, "dev")));
    let format = disk.get_child("driver").and_then(|driver| attribute(driver, "type")).unwrap_or("raw");
    Ok(path.map(|path| (path.into(), format.to_owned())))
}

/// Whether libvirt knows where the disk's copy or commit goes.
pub fn has_mirror(xml: &str, target: &str) -> Result<bool> {
    Ok(find_disk(&parse(xml)?, target).is_some_and(|disk| disk.get_child("mirror").is_some()))
}

fn find_disk<'a>(root: &'a Element, target: &str) -> Option<&'a Element> {
    let devices = root.get_child("devices")?;
    elements(devices, "disk").find(|disk| disk_target(disk) == Some(target))
}

/// Takes a disk out of the machine, or the medium out of a drive for removable media.
pub fn leave_out(xml: &str, target: &str) -> Result<String> {
    edit(xml, |root| {
        let Some(devices) = root.get_mut_child("devices") else { return };
        devices.children.retain_mut(|child| match child.as_mut_element() {
            Some(disk) if disk.name == "disk" && disk_target(disk) == Some(target) => {
                drop_children(disk, &["source", "backingStore"]);
                matches!(attribute(disk, "device"), Some("cdrom" | "floppy"))
            }
            _ => true,
        });
    })
}

pub fn name(xml: &str) -> Result<String> {
    child_text(&parse(xml)?, "name").ok_or_else(|| unexpected("a domain without a name".into()))
}

pub fn vm(xml: &str) -> Result<VmId> {
    let uuid = child_text(&parse(xml)?, "uuid").and_then(|text| text.parse().ok());
    uuid.ok_or_else(|| unexpected("a domain without a UUID".into()))
}

pub fn set_name(xml: &str, name: &str) -> Result<String> {
    edit(xml, |root| set_text(root, "name", name))
}

/// Sets the domain's UUID, also where its SMBIOS table repeats it.
pub fn set_vm(xml: &str, vm: VmId) -> Result<String> {
    edit(xml, |root| set_vm_in(root, vm))
}

/// Gives a domain that has a generation id a new one, so that its guest knows that time went back. One
/// without keeps none: it would be a new device in the guest.
pub fn set_new_genid(xml: &str) -> Result<String> {
    edit(xml, set_new_genid_in)
}

/// Removes what libvirt makes up for one run and reports in a running domain's XML.
pub fn remove_managed_parts(xml: &str) -> Result<String> {
    edit(xml, |root| {
        root.attributes.remove("id");
        root.children.retain(|child| {
            let seclabel = child.as_element().filter(|element| element.name == "seclabel");
            seclabel.is_none_or(|label| attribute(label, "type") != Some("dynamic"))
        });
        let Some(devices) = root.get_mut_child("devices") else { return };
        for device in devices.children.iter_mut().filter_map(XMLNode::as_mut_element) {
            device.children.retain(|child| {
                let alias = child.as_element().filter(|element| element.name == "alias");
                // Aliases that a user gave begin with `ua-`.
                alias.is_none_or(|a| attribute(a, "name").is_some_and(|name| name.starts_with("ua-")))
            });
            drop_children(device, &["backingStore", "mirror"]);
            if let Some(source) = device.get_mut_child("source") {
                source.attributes.remove("index");
                source.attributes.remove("portid");
            }
            match device.name.as_str() {
                "interface" => drop_children(device, &["target"]),
                "channel" => {
                    if let Some(target) = device.get_mut_child("target") {
                        target.attributes.remove("state");
                    }
                }
                "console" | "serial" => {
                    device.attributes.remove("tty");
                }
                _ => {}
            }
        }
    })
}

/// Plugs cards that were in a network, bridge or device named on the left into the libvirt network on the
/// right; the others stay as they are.
pub fn rename_networks(xml: &str, names: &BTreeMap<String, String>) -> Result<String> {
    edit(xml, |root| {
        let Some(devices) = root.get_mut_child("devices") else { return };
        let devices = devices.children.iter_mut().filter_map(XMLNode::as_mut_element);
        for interface in devices.filter(|device| device.name == "interface") {
            let source = interface.get_child("source");
            let was =
                source.and_then(|s| ["network", "bridge", "dev"].iter().find_map(|name| attribute(s, name)));
            let Some(network) = was.and_then(|was| names.get(was)).cloned() else { continue };
            drop_children(interface, &["source", "virtualport", "vlan"]);
            interface.attributes.insert("type".into(), "network".into());
            child_mut(interface, "source").attributes.insert("network".into(), network);
        }
    })
}

/// Gives a domain whose processor is of a model (or mode: `host-passthrough`, `host-model`) named on the left the one on
/// the right. What the old one had beyond its model goes with it.
pub fn rename_cpu(xml: &str, names: &BTreeMap<String, String>) -> Result<String> {
    const MODES: [&str; 3] = ["host-passthrough", "host-model", "maximum"];
    edit(xml, |root| {
        let Some(cpu) = root.get_mut_child("cpu") else { return };
        let mode = attribute(cpu, "mode").filter(|mode| MODES.contains(mode)).map(str::to_owned);
        let Some(was) = mode.or_else(|| child_text(cpu, "model")) else { return };
        let Some(name) = names.get(&was) else { return };
        drop_children(cpu, &["model", "vendor", "feature"]);
        // These belong to a model, or to a mode.
        cpu.attributes.retain(|key, _| !matches!(key.as_str(), "match" | "check" | "migratable"));
        if MODES.contains(&name.as_str()) {
            cpu.attributes.insert("mode".into(), name.clone());
        } else {
            cpu.attributes.insert("mode".into(), "custom".into());
            cpu.attributes.insert("match".into(), "exact".into());
            let model = child_mut(cpu, "model");
            model.attributes.insert("fallback".into(), "forbid".into());
            model.children = vec![XMLNode::Text(name.clone())];
        }
    })
}

/// Points a domain with UEFI variables at the file that holds them; one without stays without.
pub fn set_nvram(xml: &str, path: &Path) -> Result<String> {
    edit(xml, |root| {
        if let Some(nvram) = root.get_mut_child("os").and_then(|os| os.get_mut_child("nvram")) {
            nvram.attributes.remove("type");
            nvram.children = vec![XMLNode::Text(path.to_string_lossy().into_owned())];
        }
    })
}

/// The definition of a second machine that can run beside the first, on any host: its own name, UUID,
/// generation id, MACs and NVRAM, cards as chosen, and nothing that belongs to one machine at a time
/// (passed-through devices, shared folders, fixed ports and sockets). Its disks are still the first one's:
/// follow with [`set_disk_source`].
pub fn for_test_copy(xml: &str, copy: &TestCopy) -> Result<String> {
    edit(xml, |root| {
        set_text(root, "name", &copy.name);
        set_vm_in(root, copy.vm);
        set_new_genid_in(root);
        if let Some(nvram) = root.get_mut_child("os").and_then(|os| os.get_mut_child("nvram")) {
            nvram.children.clear();
            nvram.attributes.remove("type");
            if let Some(path) = &copy.nvram {
                nvram.children.push(XMLNode::Text(path.to_string_lossy().into_owned()));
            }
        }
        let Some(devices) = root.get_mut_child("devices") else { return };
        devices.children.retain(|child| child.as_element().is_none_or(may_be_copied));
        for device in devices.children.iter_mut().filter_map(XMLNode::as_mut_element) {
            match device.name.as_str() {
                "interface" => replug(device, copy),
                "serial" | "console" | "parallel" | "channel" => unshare_character_device(device, copy.vm),
                "graphics" => {
                    let attributes = &mut device.attributes;
                    attributes.retain(|name, _| {
                        !matches!(name.as_str(), "port" | "tlsPort" | "websocket" | "socket")
                    });
                    attributes.insert("autoport".into(), "yes".into());
                }
                "vsock" => {
                    let cid = child_mut(device, "cid");
                    cid.attributes = [("auto".into(), "yes".into())].into_iter().collect();
                }
                _ => {}
            }
        }
    })
}

fn may_be_copied(device: &Element) -> bool {
    match device.name.as_str() {
        "hostdev" | "filesystem" | "shmem" | "redirdev" | "lease" => false,
        "memory" => device.get_child("source").is_none_or(|source| source.get_child("path").is_none()),
        _ => true,
    }
}

fn replug(interface: &mut Element, copy: &TestCopy) {
    let source = interface.get_child("source");
    let was = source.and_then(|s| ["network", "bridge", "dev"].iter().find_map(|name| attribute(s, name)));
    let mac = interface.get_child("mac").and_then(|mac| attribute(mac, "address"));
    let own = mac.and_then(|mac| copy.adapters.get(&mac.to_ascii_lowercase()));
    let network = own.cloned().or_else(|| match &copy.networks {
        NetworkChoice::Unplug => None,
        NetworkChoice::One(network) => Some(network.clone()),
        NetworkChoice::Map(map) => was.and_then(|was| map.get(was)).cloned(),
    });
    let was_passed_through = matches!(attribute(interface, "type"), Some("hostdev" | "vdpa" | "vhostuser"));
    // These say how the old network reaches the card.
    drop_children(
        interface,
        &["source", "target", "virtualport", "vlan", "filterref", "ip", "route", "script"],
    );
    if was_passed_through {
        drop_children(interface, &["driver", "backend"]);
        interface.attributes.remove("managed");
    }
    let mac = child_mut(interface, "mac");
    let address = new_mac(attribute(mac, "address").unwrap_or_default());
    mac.attributes.insert("address".into(), address);
    if let Some(network) = network {
        interface.attributes.insert("type".into(), "network".into());
        child_mut(interface, "source").attributes.insert("network".into(), network);
    } else {
        // A user network needs nothing of the host; with its cable out nothing passes.
        interface.attributes.insert("type".into(), "user".into());
        child_mut(interface, "link").attributes.insert("state".into(), "down".into());
    }
}

/// A random address with the same maker's prefix.
fn new_mac(old: &str) -> String {
    let prefix =
        old.get(..8).filter(|prefix| prefix.split(':').all(|part| u8::from_str_radix(part, 16).is_ok()));
    let random = Uuid::new_v4();
    let [a, b, c, ..] = random.as_bytes();
    format!("{}:{a:02x}:{b:02x}:{c:02x}", prefix.unwrap_or("52:54:00"))
}

/// Files get a name of the copy's own, sockets are libvirt's choice again.
fn unshare_character_device(device: &mut Element, vm: VmId) {
    for name in ["source", "log"] {
        if let Some(file) = device.get_mut_child(name) {
            for attribute in ["path", "file"] {
                if let Some(path) = file.attributes.get_mut(attribute).filter(|path| path.starts_with('/')) {
                    *path = format!("{path}.{vm}");
                }
            }
        }
    }
    match attribute(device, "type") {
        Some("unix") if device.name == "channel" => drop_children(device, &["source"]),
        Some("file") => {}
        Some("unix" | "tcp" | "udp" | "dev" | "pipe") => {
            drop_children(device, &["source", "protocol"]);
            device.attributes.insert("type".into(), "pty".into());
        }
        Some("pty") => {
            drop_children(device, &["source"]);
            device.attributes.remove("tty");
        }
        _ => {}
    }
}

fn set_vm_in(root: &mut Element, vm: VmId) {
    set_text(root, "uuid", &vm.to_string());
    // libvirt refuses a domain whose SMBIOS table names another UUID.
    let system = root.get_mut_child("sysinfo").and_then(|info| info.get_mut_child("system"));
    let entries = system.into_iter().flat_map(|s| s.children.iter_mut().filter_map(XMLNode::as_mut_element));
    for entry in entries.filter(|entry| attribute(entry, "name") == Some("uuid")) {
        entry.children = vec![XMLNode::Text(vm.to_string())];
    }
}

fn set_new_genid_in(root: &mut Element) {
    if root.get_child("genid").is_some() {
        set_text(root, "genid", &Uuid::new_v4().to_string());
    }
}

fn edit(xml: &str, change: impl FnOnce(&mut Element)) -> Result<String> {
    let mut root = parse(xml)?;
    if root.name != "domain" {
        return Err(unexpected(format!("a {} where a domain was expected", root.name)));
    }
    change(&mut root);
    write(&root)
}

fn edit_disk(xml: &str, target: &str, change: impl FnOnce(&mut Element)) -> Result<String> {
    let mut found = false;
    let edited = edit(xml, |root| {
        let devices = root.get_mut_child("devices").into_iter();
        let mut disks = devices.flat_map(|d| d.children.iter_mut().filter_map(XMLNode::as_mut_element));
        if let Some(disk) = disks.find(|e| e.name == "disk" && disk_target(e) == Some(target)) {
            change(disk);
            found = true;
        }
    })?;
    if found { Ok(edited) } else { Err(unexpected(format!("no disk {target} in the domain"))) }
}

fn disk_target(disk: &Element) -> Option<&str> {
    disk.get_child("target").and_then(|target| attribute(target, "dev"))
}

fn drop_children(element: &mut Element, names: &[&str]) {
    element.children.retain(|child| child.as_element().is_none_or(|e| !names.contains(&e.name.as_str())));
}

/// The child of this name, made if it is not there.
fn child_mut<'a>(element: &'a mut Element, name: &str) -> &'a mut Element {
    if element.get_child(name).is_none() {
        element.children.push(XMLNode::Element(Element::new(name)));
    }
    element.get_mut_child(name).expect("made above")
}

fn set_text(root: &mut Element, name: &str, content: &str) {
    child_mut(root, name).children = vec![XMLNode::Text(content.to_owned())];
}

fn unexpected(what: String) -> Error {
    Error::XmlUnexpected { what }
}

pub(crate) fn parse(text: &str) -> Result<Element> {
    Element::parse(text.as_bytes()).map_err(|source| Error::XmlSyntax { source })
}

pub(crate) fn write(root: &Element) -> Result<String> {
    let mut bytes = vec![];
    let config =
        EmitterConfig::new().write_document_declaration(false).perform_indent(true).pad_self_closing(false);
    root.write_with_config(&mut bytes, config).map_err(|source| Error::XmlWrite { source })?;
    String::from_utf8(bytes).map_err(|_| unexpected("text that is not UTF-8".into()))
}

/// Child elements of this name.
pub(crate) fn elements<'a>(parent: &'a Element, name: &'a str) -> impl Iterator<Item = &'a Element> + 'a {
    parent.children.iter().filter_map(XMLNode::as_element).filter(move |element| element.name == name)
}

pub(crate) fn attribute<'a>(element: &'a Element, name: &str) -> Option<&'a str> {
    element.attributes.get(name).map(String::as_str)
}

pub(crate) fn text(element: &Element) -> Option<String> {
    element.get_text().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

pub(crate) fn child_text(parent: &Element, name: &str) -> Option<String> {
    parent.get_child(name).and_then(text)
}

#[cfg(test)]
mod tests;
