//! What a domain needs of the host that is to run it, asked before anything is done.

use crate::{Error, Hypervisor, Result, error, xml};
use std::fs;
use virt::error::ErrorNumber;
use xmltree::Element;

/// What this host has not, and the domain needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// The emulator, its machine type or the way of virtualization; libvirt's words.
    Machine(String),
    /// More memory than RAM and swap together: the kernel refuses it to QEMU at its start.
    Memory { needed_bytes: u64, host_bytes: u64 },
}

impl Hypervisor {
    /// What keeps a domain with this definition from running here; `None`: nothing that could be told before.
    pub fn lacks(&self, definition: &str) -> Result<Option<Lacking>> {
        let root = xml::parse(definition)?;
        let needed_bytes = memory_bytes(&root);
        let host_bytes = host_memory_bytes();
        if let (Some(needed_bytes), Some(host_bytes)) = (needed_bytes, host_bytes)
            && needed_bytes > host_bytes
        {
            return Ok(Some(Lacking::Memory { needed_bytes, host_bytes }));
        }
        let kind = root.get_child("os").and_then(|os| os.get_child("type"));
        let of_type = |name| kind.and_then(|kind| xml::attribute(kind, name));
        let emulator = root.get_child("devices").and_then(|devices| devices.get_child("emulator"));
        let emulator = emulator.and_then(Element::get_text);
        let asked = self.connection().domain_capabilities(
            emulator.as_deref(),
            of_type("arch"),
            of_type("machine"),
            xml::attribute(&root, "type"),
            0,
        );
        match asked {
            Ok(_) => Ok(None),
            Err(source) if is_about_the_domain(&source) => {
                Ok(Some(Lacking::Machine(source.message().to_owned())))
            }
            Err(source) => Err(Error::Capabilities { source }),
        }
    }
}

/// And not about the connection, or the host's state.
fn is_about_the_domain(source: &virt::error::Error) -> bool {
    [ErrorNumber::InvalidArg, ErrorNumber::ConfigUnsupported, ErrorNumber::NoSupport]
        .into_iter()
        .any(|number| error::is(source, number))
}

/// libvirt writes KiB; what people write has its unit beside it.
fn memory_bytes(root: &Element) -> Option<u64> {
    let memory = root.get_child("memory")?;
    let count: u64 = memory.get_text()?.trim().parse().ok()?;
    let unit = match xml::attribute(memory, "unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    count.checked_mul(unit)
}

/// RAM and swap.
fn host_memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((kib("MemTotal")? + kib("SwapTotal")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_its_unit() {
        let of = |text: &str| memory_bytes(&xml::parse(&format!("<domain>{text}</domain>")).unwrap());
        assert_eq!(of("<memory>4</memory>"), Some(4096));
        assert_eq!(of("<memory unit='GiB'>2</memory>"), Some(2 << 30));
        assert_eq!(of("<memory unit='MB'> 3 </memory>"), Some(3_000_000));
        assert_eq!(of("<memory unit='elephants'>1</memory>"), None);
        assert_eq!(of("<memory unit='TiB'>99999999</memory>"), None);
        assert!(host_memory_bytes().unwrap() > 64 << 20);
    }
}
