//! `root/cimv2`: what clients ask of the host before they trust it. From the kernel's own files; what they do not
//! tell is NULL.

use super::{Make, Row, row};
use crate::{
    names::computer,
    schema::CIMV2,
    world::{HostFacts, World},
};
use cim::{DateTime, Instance, ObjectPath};
use std::{collections::BTreeMap, fs, time::SystemTime};

pub const ROWS: &[Row] = &[
    row("Win32_ComputerSystem", Make::Host(|world, _| vec![computer_system(world)])),
    row("Win32_ComputerSystemProduct", Make::Host(product)),
    row("Win32_OperatingSystem", Make::Host(|world, _| vec![operating_system(world)])),
    row("Win32_Processor", Make::Host(|world, _| processors(world))),
    row("Win32_ComputerSystemProcessor", Make::Host(|world, _| processor_links(world))),
    row("Win32_SystemDevices", Make::Never("its subclass Win32_ComputerSystemProcessor has them")),
    row("CIM_DataFile", Make::Never("files are not shown; declared because some clients look for one")),
];

/// A file of the kernel's, without the line's end; none where it cannot be read or is empty.
fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What the firmware's tables say of the machine.
fn firmware(name: &str) -> Option<String> {
    line(&format!("/sys/class/dmi/id/{name}"))
}

/// An entry of `/proc/meminfo`, in KiB.
fn memory_kib(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let entry = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    entry.trim().strip_suffix(" kB")?.parse().ok()
}

fn computer_system(world: &World) -> Instance {
    let processors = cpus();
    Instance::new("Win32_ComputerSystem")
        .with("Name", world.host.as_str())
        .with("Caption", world.host.as_str())
        .with("CreationClassName", "Win32_ComputerSystem")
        .with("DNSHostName", world.host.split('.').next())
        .with("Domain", world.host.split_once('.').map(|(_, domain)| domain))
        .with("Manufacturer", firmware("sys_vendor"))
        .with("Model", firmware("product_name"))
        .with("SystemFamily", firmware("product_family"))
        .with("SystemSKUNumber", firmware("product_sku"))
        .with("NumberOfProcessors", u32::try_from(processors.len()).ok())
        .with("NumberOfLogicalProcessors", processors.iter().map(|cpu| cpu.threads).sum::<u32>())
        .with("TotalPhysicalMemory", memory_kib("MemTotal").map(|kib| kib << 10))
        .with("HypervisorPresent", true)
        .with("Status", "OK")
}

/// Where the firmware's UUID may not be read, the system's own id stands for it, as libvirt can be told to do.
fn product(_: &World, facts: &HostFacts) -> Vec<Instance> {
    let uuid = firmware("product_uuid").or_else(|| line("/etc/machine-id").and_then(|id| dashed(&id)));
    let name = firmware("product_name").unwrap_or_else(|| facts.view.host_name.to_string());
    let product = Instance::new("Win32_ComputerSystemProduct")
        .with("IdentifyingNumber", firmware("product_serial").unwrap_or_default())
        .with("Name", name.as_str())
        .with("Caption", name)
        .with("Vendor", firmware("sys_vendor"))
        .with("SKUNumber", firmware("product_sku"))
        .with("Version", firmware("product_version").unwrap_or_default())
        .with("UUID", uuid.map(|uuid| uuid.to_ascii_uppercase()));
    vec![product]
}

/// 32 digits as a UUID.
fn dashed(digits: &str) -> Option<String> {
    let hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-"))
}

fn operating_system(world: &World) -> Instance {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = os_release(&release);
    let name = release.get("PRETTY_NAME").map_or("Linux", String::as_str);
    let kernel = line("/proc/sys/kernel/osrelease");
    let boot_ms = fs::read_to_string("/proc/stat").ok().and_then(|stat| boot_time_ms(&stat));
    let now_ms =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|now| now.as_millis() as i64);
    Instance::new("Win32_OperatingSystem")
        .with("Name", name)
        .with("Caption", name)
        .with("CreationClassName", "Win32_OperatingSystem")
        .with("CSCreationClassName", "Win32_ComputerSystem")
        .with("CSName", world.host.as_str())
        // 36: LINUX.
        .with("OSType", 36u16)
        .with("Version", kernel.as_deref().and_then(version))
        .with("BuildNumber", kernel)
        .with("LastBootUpTime", boot_ms.map(DateTime::from_unix_ms))
        .with("LocalDateTime", now_ms.map(DateTime::from_unix_ms))
        .with("CurrentTimeZone", 0i16)
        .with("TotalVisibleMemorySize", memory_kib("MemTotal"))
        .with("FreePhysicalMemory", memory_kib("MemAvailable"))
        .with("SizeStoredInPagingFiles", memory_kib("SwapTotal"))
        .with("FreeSpaceInPagingFiles", memory_kib("SwapFree"))
        .with("Status", "OK")
}

/// The first three numbers of the kernel's release: clients read no more, and stumble over more.
fn version(release: &str) -> Option<String> {
    let numbers: Vec<&str> = release
        .split(|char: char| !char.is_ascii_digit())
        .take(3)
        .filter(|number| !number.is_empty())
        .collect();
    (numbers.len() == 3).then(|| numbers.join("."))
}

fn os_release(text: &str) -> BTreeMap<&str, String> {
    let entries = text.lines().filter_map(|line| line.split_once('='));
    entries.map(|(name, value)| (name, value.trim_matches(['"', '\'']).to_owned())).collect()
}

fn boot_time_ms(stat: &str) -> Option<i64> {
    let seconds: i64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(seconds * 1000)
}

/// One socket.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cpu {
    name: String,
    vendor: String,
    cores: u32,
    threads: u32,
    mhz: Option<u32>,
}

fn cpus() -> Vec<Cpu> {
    sockets(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// The sockets in `/proc/cpuinfo`, in the order of their ids.
fn sockets(cpuinfo: &str) -> Vec<Cpu> {
    let mut sockets: BTreeMap<u32, Cpu> = BTreeMap::new();
    for thread in cpuinfo.split("\n\n").filter(|thread| thread.contains("processor")) {
        let entry = |name: &str| {
            let found =
                thread.lines().filter_map(|line| line.split_once(':')).find(|(n, _)| n.trim() == name);
            found.map(|(_, value)| value.trim())
        };
        let number = |name: &str| entry(name)?.parse().ok();
        let cpu = sockets.entry(number("physical id").unwrap_or(0)).or_default();
        cpu.threads += 1;
        cpu.cores = number("cpu cores").unwrap_or(cpu.threads);
        cpu.name = entry("model name").unwrap_or_default().to_owned();
        cpu.vendor = entry("vendor_id").unwrap_or_default().to_owned();
        cpu.mhz = entry("cpu MHz").and_then(|mhz| mhz.parse::<f64>().ok()).map(|mhz| mhz as u32);
    }
    sockets.into_values().collect()
}

fn device_id(index: usize) -> String {
    format!("CPU{index}")
}

fn processors(world: &World) -> Vec<Instance> {
    // 0 x86, 9 x64, 12 ARM64: that of this program is that of the host.
    let architecture = match std::env::consts::ARCH {
        "x86_64" => Some(9u16),
        "aarch64" => Some(12),
        "x86" => Some(0),
        _ => None,
    };
    let processor = |(index, cpu): (usize, Cpu)| {
        Instance::new("Win32_Processor")
            .with("DeviceID", device_id(index))
            .with("CreationClassName", "Win32_Processor")
            .with("SystemCreationClassName", "Win32_ComputerSystem")
            .with("SystemName", world.host.as_str())
            .with("Name", cpu.name.as_str())
            .with("Caption", cpu.name)
            .with("Manufacturer", cpu.vendor)
            .with("Architecture", architecture)
            .with("NumberOfCores", cpu.cores)
            .with("NumberOfLogicalProcessors", cpu.threads)
            .with("ThreadCount", cpu.threads)
            .with("CurrentClockSpeed", cpu.mhz)
            .with("MaxClockSpeed", cpu.mhz)
            .with("ProcessorType", 3u16)
            .with("Status", "OK")
    };
    cpus().into_iter().enumerate().map(processor).collect()
}

fn processor_links(world: &World) -> Vec<Instance> {
    let processor = |index| ObjectPath::class(CIMV2, "Win32_Processor").with("DeviceID", device_id(index));
    let link = |index| {
        Instance::new("Win32_ComputerSystemProcessor")
            .with("GroupComponent", computer(&world.host))
            .with("PartComponent", processor(index))
    };
    (0..cpus().len()).map(link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_three_numbers() {
        assert_eq!(version("6.1.0-18-cloud-amd64").as_deref(), Some("6.1.0"));
        assert_eq!(version("5.15.167.4-wsl2").as_deref(), Some("5.15.167"));
        assert_eq!(version("6.1"), None);
    }

    #[test]
    fn sockets_are_counted_once() {
        let thread = |socket, name| {
            format!(
                "processor\t: 0\nvendor_id\t: V\nmodel name\t: {name}\nphysical id\t: {socket}\ncpu cores\t: 2\ncpu MHz\t: 2100.5\n"
            )
        };
        let text = [thread(0, "A"), thread(1, "B"), thread(0, "A")].join("\n");
        let found = sockets(&text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].threads, found[0].cores, found[0].mhz), (2, 2, Some(2100)));
        assert_eq!((found[1].name.as_str(), found[1].threads), ("B", 1));
    }

    #[test]
    fn small_files_are_read() {
        assert_eq!(
            dashed("0123456789abcdef0123456789abcdef").unwrap(),
            "01234567-89ab-cdef-0123-456789abcdef"
        );
        assert_eq!(dashed("short"), None);
        assert_eq!(os_release("NAME=\"Debian\"\nID=debian\n")["NAME"], "Debian");
        assert_eq!(boot_time_ms("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000_000));
    }
}
