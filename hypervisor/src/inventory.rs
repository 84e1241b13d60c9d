//! What there is: domains, their disks, and which of them cannot be replicated and why.

use crate::{
    Error, Hypervisor, ImageLayer, Result,
    image::{self, Chain},
    xml,
};
use model::VmId;
use std::{
    fmt,
    path::{Path, PathBuf},
};
use virt::{domain::Domain, sys};
use xmltree::Element;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    pub vm: VmId,
    pub name: String,
    pub state: DomainState,
    /// Defined, not only running.
    pub persistent: bool,
    pub autostart: bool,
    pub memory_bytes: u64,
    pub vcpus: u32,
    pub disks: Vec<DiskInfo>,
    pub interfaces: Vec<InterfaceInfo>,
    pub nvram: Option<PathBuf>,
    pub tpm: Option<TpmInfo>,
    /// `None`: no agent channel; otherwise whether an agent is connected to it.
    pub guest_agent: Option<bool>,
    pub has_managed_save: bool,
    /// Names of snapshots inside the images; reverting to one breaks bitmaps.
    pub internal_snapshots: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    Running,
    Paused,
    ShuttingDown,
    ShutOff,
    Crashed,
    /// Suspended to memory by the guest.
    Suspended,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// `vda`, `sdb`, …
    pub target: String,
    pub bus: String,
    pub device: DiskDevice,
    pub source: DiskSource,
    pub format: String,
    /// As the guest sees it; 0 when the image cannot be described.
    pub size_bytes: u64,
    /// Below the disk's own file, top first.
    pub backing_chain: Vec<ImageLayer>,
    pub read_only: bool,
    pub transient: bool,
    pub shareable: bool,
    /// Why a disk that should be replicated cannot be. Never set for those that need not be.
    pub refused: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDevice {
    Disk,
    Cdrom,
    Floppy,
    Lun,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    File(PathBuf),
    Block(PathBuf),
    /// An empty drive.
    None,
    /// In words: `a network disk`.
    Other(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    pub mac: String,
    /// libvirt's type: `network`, `bridge`, `direct`, `user`, …
    pub kind: String,
    /// The network, bridge or device that it is plugged into.
    pub network: Option<String>,
    /// The host's side (`vnet3`), while it runs.
    pub target: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmInfo {
    pub version: String,
    /// The folder of an emulated TPM's state. `None`: a device of the host, or a place we do not know.
    pub state: Option<PathBuf>,
}

impl DiskInfo {
    /// Whether the guest can write to it, so that it belongs to a replica.
    pub fn is_replicated(&self) -> bool {
        matches!(self.device, DiskDevice::Disk | DiskDevice::Lun) && !self.read_only
    }

    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            DiskSource::File(path) | DiskSource::Block(path) => Some(path),
            DiskSource::None | DiskSource::Other(_) => None,
        }
    }
}

impl DomainState {
    pub(crate) fn from_libvirt(state: sys::virDomainState) -> Self {
        match state {
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => Self::Running,
            sys::VIR_DOMAIN_PAUSED => Self::Paused,
            sys::VIR_DOMAIN_SHUTDOWN => Self::ShuttingDown,
            sys::VIR_DOMAIN_SHUTOFF => Self::ShutOff,
            sys::VIR_DOMAIN_CRASHED => Self::Crashed,
            sys::VIR_DOMAIN_PMSUSPENDED => Self::Suspended,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for DomainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShuttingDown => "shutting down",
            Self::ShutOff => "shut off",
            Self::Crashed => "crashed",
            Self::Suspended => "suspended",
            Self::Other => "in a state of its own",
        })
    }
}

impl Hypervisor {
    /// All domains, running or not. Runs `qemu-img` once per disk; one that vanishes meanwhile is left out.
    pub fn domains(&self) -> Result<Vec<DomainInfo>> {
        let domains = self.inner.connection.list_all_domains(0).map_err(|source| Error::List { source })?;
        let mut infos = vec![];
        for domain in &domains {
            match self.describe(domain, image::chain) {
                Ok(info) => infos.push(info),
                Err(error) if self.lookup_optional(vm_id(domain)?)?.is_some() => return Err(error),
                Err(_) => {}
            }
        }
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    /// Runs `qemu-img` once per disk.
    pub fn domain(&self, vm: VmId) -> Result<Option<DomainInfo>> {
        self.lookup_optional(vm)?.map(|domain| self.describe(&domain, image::chain)).transpose()
    }

    /// As [`Self::domain`], without a look into the images of a VM that runs: the sizes are QEMU's, backing
    /// chains are empty, and what only an image tells refuses no disk.
    pub fn outline(&self, vm: VmId) -> Result<Option<DomainInfo>> {
        let Some(domain) = self.lookup_optional(vm)? else { return Ok(None) };
        if !self.is_active(vm)? {
            return self.describe(&domain, image::chain).map(Some);
        }
        let fail = |source| Error::Call { what: "look at a disk of", vm, source };
        let size = |path: &Path, _: &str| {
            let info = domain.block_info(path.to_str().unwrap_or_default(), 0).map_err(fail)?;
            Ok(Chain { size_bytes: info.capacity, layers: vec![], unsupported: None })
        };
        self.describe(&domain, size).map(Some)
    }

    /// As [`Self::domain`], without a look into any image: sizes are 0, backing chains empty, and what only an
    /// image tells refuses no disk. For those who ask about many domains at once.
    pub fn sketch(&self, vm: VmId) -> Result<Option<DomainInfo>> {
        let unseen = |_: &Path, _: &str| Ok(Chain { size_bytes: 0, layers: vec![], unsupported: None });
        self.lookup_optional(vm)?.map(|domain| self.describe(&domain, unseen)).transpose()
    }

    /// The ids of all domains, running or not.
    pub fn ids(&self) -> Result<Vec<VmId>> {
        let domains = self.inner.connection.list_all_domains(0).map_err(|source| Error::List { source })?;
        domains.iter().map(vm_id).collect()
    }

    /// The domain's snapshots that lie inside its images; none where there is no such domain.
    pub fn internal_snapshots(&self, vm: VmId) -> Result<Vec<String>> {
        let Some(domain) = self.lookup_optional(vm)? else { return Ok(vec![]) };
        let fail = |source| Error::Call { what: "look at", vm, source };
        let found = domain.list_all_snapshots(sys::VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL).map_err(fail)?;
        Ok(found.iter().filter_map(|snapshot| snapshot.name().ok()).collect())
    }

    /// The domain with this name, or this UUID.
    pub fn find(&self, name_or_uuid: &str) -> Result<Option<VmId>> {
        let domains = self.inner.connection.list_all_domains(0).map_err(|source| Error::List { source })?;
        let wanted = name_or_uuid.parse::<VmId>().ok();
        let mut found = None;
        for domain in &domains {
            let vm = vm_id(domain)?;
            if domain.name().is_ok_and(|name| name == name_or_uuid) {
                return Ok(Some(vm));
            }
            found = found.or((Some(vm) == wanted).then_some(vm));
        }
        Ok(found)
    }

    /// `chain` describes an image, by its path and format.
    fn describe(&self, domain: &Domain, chain: impl Fn(&Path, &str) -> Result<Chain>) -> Result<DomainInfo> {
        let vm = vm_id(domain)?;
        let fail = |source| Error::Call { what: "look at", vm, source };
        let root = xml::parse(&self.domain_xml(domain, vm, false)?)?;
        let (state, _) = domain.state().map_err(fail)?;
        let persistent = domain.is_persistent().map_err(fail)?;
        let snapshots = domain.list_all_snapshots(sys::VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL).map_err(fail)?;
        let devices = root.get_child("devices");
        let devices = |name: &'static str| devices.into_iter().flat_map(move |d| xml::elements(d, name));
        Ok(DomainInfo {
            vm,
            name: domain.name().map_err(fail)?,
            state: DomainState::from_libvirt(state.to_raw()),
            persistent,
            autostart: persistent && domain.autostart().map_err(fail)?,
            memory_bytes: root.get_child("memory").map_or(0, memory_bytes),
            vcpus: xml::child_text(&root, "vcpu").and_then(|text| text.parse().ok()).unwrap_or(0),
            disks: devices("disk").map(|element| disk(element, &chain)).collect(),
            interfaces: devices("interface").map(interface).collect(),
            nvram: root.get_child("os").and_then(|os| os.get_child("nvram")).and_then(nvram),
            tpm: devices("tpm").next().map(|tpm| self.tpm(vm, tpm)),
            guest_agent: devices("channel").find_map(guest_agent),
            has_managed_save: domain.has_managed_save(0).map_err(fail)?,
            internal_snapshots: snapshots.iter().filter_map(|snapshot| snapshot.name().ok()).collect(),
        })
    }

    /// Where libvirt keeps the state of the emulated TPM of a domain with this definition; `None`: it has none,
    /// or in a place that we do not know.
    pub fn tpm_state(&self, xml: &str) -> Result<Option<PathBuf>> {
        let root = xml::parse(xml)?;
        let tpm = root.get_child("devices").and_then(|devices| xml::elements(devices, "tpm").next());
        let vm = xml::vm(xml)?;
        Ok(tpm.and_then(|tpm| self.tpm(vm, tpm).state))
    }

    fn tpm(&self, vm: VmId, tpm: &Element) -> TpmInfo {
        let backend = tpm.get_child("backend");
        let attribute = |name| backend.and_then(|backend| xml::attribute(backend, name));
        let version = attribute("version").unwrap_or("2.0").to_owned();
        let base = match (self.uri(), crate::embedded_root(self.uri())) {
            (_, Some(root)) => Some(root.join("lib/swtpm")),
            ("qemu:///system", None) => Some(PathBuf::from("/var/lib/libvirt/swtpm")),
            _ => None,
        };
        let folder = if version == "1.2" { "tpm1.2" } else { "tpm2" };
        let emulated = attribute("type") == Some("emulator");
        let state = base.filter(|_| emulated).map(|base| base.join(vm.to_string()).join(folder));
        TpmInfo { version, state }
    }
}

fn vm_id(domain: &Domain) -> Result<VmId> {
    domain.uuid().map(VmId).map_err(|source| Error::List { source })
}

fn disk(disk: &Element, chain: impl Fn(&Path, &str) -> Result<Chain>) -> DiskInfo {
    let attribute = |child, name| disk.get_child(child).and_then(|child| xml::attribute(child, name));
    let text = |child, name| attribute(child, name).unwrap_or_default().to_owned();
    let has = |child| disk.get_child(child).is_some();
    let mut info = DiskInfo {
        target: text("target", "dev"),
        bus: text("target", "bus"),
        device: match xml::attribute(disk, "device") {
            Some("cdrom") => DiskDevice::Cdrom,
            Some("floppy") => DiskDevice::Floppy,
            Some("lun") => DiskDevice::Lun,
            _ => DiskDevice::Disk,
        },
        source: disk_source(disk),
        format: attribute("driver", "type").unwrap_or("raw").to_owned(),
        size_bytes: 0,
        backing_chain: vec![],
        read_only: has("readonly"),
        transient: has("transient"),
        shareable: has("shareable"),
        refused: None,
    };
    let encrypted = has("encryption")
        || disk.get_child("source").is_some_and(|source| source.get_child("encryption").is_some());
    let unsupported = match info.path().map(|path| chain(path, &info.format)) {
        Some(Ok(chain)) => {
            info.size_bytes = chain.size_bytes;
            info.backing_chain = chain.layers.into_iter().skip(1).collect();
            chain.unsupported
        }
        Some(Err(error)) => Some(error.to_string()),
        None => None,
    };
    if info.is_replicated() {
        info.refused = refusal(&info, encrypted).or(unsupported);
    }
    info
}

fn disk_source(disk: &Element) -> DiskSource {
    let kind = xml::attribute(disk, "type").unwrap_or("file");
    let source = |name| disk.get_child("source").and_then(|source| xml::attribute(source, name));
    match (kind, source("file"), source("dev")) {
        ("file", Some(path), _) => DiskSource::File(path.into()),
        ("block", _, Some(path)) => DiskSource::Block(path.into()),
        ("file" | "block", None, None) => DiskSource::None,
        ("network", ..) => DiskSource::Other("a network disk".into()),
        ("volume", ..) => DiskSource::Other("a volume of a storage pool".into()),
        ("vhostuser", ..) => DiskSource::Other("a vhost-user disk".into()),
        (kind, ..) => DiskSource::Other(format!("a disk of type {kind}")),
    }
}

/// Why what the XML says of the disk keeps it from being replicated.
fn refusal(disk: &DiskInfo, encrypted: bool) -> Option<String> {
    let what = match &disk.source {
        DiskSource::Other(kind) => return Some(format!("it is {kind}")),
        DiskSource::None => "it has no source",
        _ if disk.device == DiskDevice::Lun => "it is a passed-through LUN",
        _ if disk.bus == "sd" => "QEMU cannot run block jobs on the SD bus",
        _ if disk.transient => "it is transient: its changes are thrown away",
        _ if disk.shareable => "it is shareable: other machines may write to it",
        _ if encrypted => "it is encrypted",
        _ => return None,
    };
    Some(what.to_owned())
}

fn interface(interface: &Element) -> InterfaceInfo {
    let attribute = |child, name| interface.get_child(child).and_then(|child| xml::attribute(child, name));
    let network = ["network", "bridge", "dev"].iter().find_map(|name| attribute("source", name));
    InterfaceInfo {
        mac: attribute("mac", "address").unwrap_or_default().to_owned(),
        kind: xml::attribute(interface, "type").unwrap_or_default().to_owned(),
        network: network.map(str::to_owned),
        target: attribute("target", "dev").map(str::to_owned),
    }
}

/// Since libvirt 8.5 the path may be in a `source` element.
fn nvram(nvram: &Element) -> Option<PathBuf> {
    let source = nvram.get_child("source").and_then(|source| xml::attribute(source, "file"));
    source.map(PathBuf::from).or_else(|| xml::text(nvram).map(PathBuf::from))
}

fn guest_agent(channel: &Element) -> Option<bool> {
    let target = channel.get_child("target")?;
    let agent = xml::attribute(target, "name")?.starts_with("org.qemu.guest_agent.");
    agent.then(|| xml::attribute(target, "state") == Some("connected"))
}

fn memory_bytes(memory: &Element) -> u64 {
    let count = xml::text(memory).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // libvirt itself always writes KiB.
    let unit = match xml::attribute(memory, "unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => 1 << 10,
    };
    count.saturating_mul(unit)
}
