//! What there is: domains, their disks, and which of them cannot be replicated and why.

use crate::{
    Error, Hypervisor, ImageLayer, Result,
    image::{self, Chain},
    xml,
};
use model::VmId;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use virt::{
    domain::{
        Domain, DomainShutoffReason as ShutOffReason, DomainStateEnum, DomainStateReason,
        DomainStateReasonEnum,
    },
    enumutil::Enum,
    sys,
};
use xmltree::Element;

/// How long a QEMU may take from closing its images to its end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

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

/// What was read of domains' XML last, and of which: libvirt writes it faster than it is read.
#[derive(Default)]
pub(crate) struct Sketches(Mutex<HashMap<VmId, (u64, DomainInfo)>>);

impl Sketches {
    /// What was read of this text, if it is the domain's last one.
    fn get(&self, vm: VmId, print: u64) -> Option<DomainInfo> {
        let sketches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sketches.get(&vm).filter(|(known, _)| *known == print).map(|(_, info)| info.clone())
    }

    fn put(&self, print: u64, info: DomainInfo) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(info.vm, (print, info));
    }

    fn retain(&self, is_there: impl Fn(VmId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|vm, _| is_there(*vm));
    }
}

/// Of a domain's XML. The text itself is not kept: it may hold a console's password.
fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    Running,
    Paused,
    ShuttingDown,
    ShutOff,
    /// Off here because it was live-migrated away: it may run on another host.
    Migrated,
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

/// What a definition tells of a domain that need not exist here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    pub memory_bytes: u64,
    pub vcpus: u32,
    pub interfaces: Vec<InterfaceInfo>,
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
    /// Of what `virDomainGetState` says.
    pub(crate) fn from_libvirt((state, reason): (DomainStateEnum, DomainStateReasonEnum)) -> Self {
        let migrated = Enum::Known(DomainStateReason::Shutoff(Enum::Known(ShutOffReason::Migrated)));
        match state.to_raw() {
            sys::VIR_DOMAIN_SHUTOFF if reason == migrated => Self::Migrated,
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
            Self::Migrated => "migrated to another host",
            Self::Crashed => "crashed",
            Self::Suspended => "suspended",
            Self::Other => "in a state of its own",
        })
    }
}

impl Hypervisor {
    /// All domains, running or not. Runs `qemu-img` once per disk; one that vanishes meanwhile is left out.
    pub fn domains(&self) -> Result<Vec<DomainInfo>> {
        let domains = self.connection().list_all_domains(0).map_err(|source| Error::List { source })?;
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
        let began = Instant::now();
        loop {
            let Some(domain) = self.lookup_optional(vm)? else { return Ok(None) };
            if !self.is_active(vm)? {
                return self.describe(&domain, image::chain).map(Some);
            }
            let fail = |source| Error::Call { what: "look at a disk of", vm, source };
            let size = |path: &Path, _: &str| {
                let info = domain.block_info(path.to_str().unwrap_or_default(), 0).map_err(fail)?;
                Ok(Chain { size_bytes: info.capacity, layers: vec![], unsupported: None })
            };
            let info = self.describe(&domain, size)?;
            // A QEMU that ends has closed its images before libvirt takes note: to libvirt they have no bytes then.
            let is_unknown =
                |disk: &&DiskInfo| disk.is_replicated() && disk.path().is_some() && disk.size_bytes == 0;
            let unknown = info.disks.iter().find(is_unknown);
            match unknown {
                None => return Ok(Some(info)),
                Some(disk) if began.elapsed() > ENDS_WITHIN => {
                    return Err(Error::NoSize { vm, target: disk.target.clone() });
                }
                Some(_) => thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// As [`Self::domain`], without a look into any image: sizes are 0, backing chains empty, and what only an
    /// image tells refuses no disk. For those who ask about many domains at once.
    pub fn sketch(&self, vm: VmId) -> Result<Option<DomainInfo>> {
        let sketches = &self.inner.sketches;
        let Some(domain) = self.lookup_optional(vm)? else {
            sketches.retain(|known| known != vm);
            return Ok(None);
        };
        let text = self.domain_xml(&domain, vm, false)?;
        let print = fingerprint(&text);
        if let Some(known) = sketches.get(vm, print) {
            return self.with_state(&domain, known).map(Some);
        }
        let unseen = |_: &Path, _: &str| Ok(Chain { size_bytes: 0, layers: vec![], unsupported: None });
        let read = self.read(vm, &text, unseen)?;
        sketches.put(print, read.clone());
        self.with_state(&domain, read).map(Some)
    }

    /// The ids of all domains, running or not.
    pub fn ids(&self) -> Result<Vec<VmId>> {
        let domains = self.connection().list_all_domains(0).map_err(|source| Error::List { source })?;
        let ids: HashSet<VmId> = domains.iter().map(vm_id).collect::<Result<_>>()?;
        self.inner.sketches.retain(|vm| ids.contains(&vm));
        Ok(ids.into_iter().collect())
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
        let domains = self.connection().list_all_domains(0).map_err(|source| Error::List { source })?;
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
        let info = self.read(vm, &self.domain_xml(domain, vm, false)?, chain)?;
        self.with_state(domain, info)
    }

    /// What the domain's XML tells. All else is as it is where there is nothing to tell.
    fn read(&self, vm: VmId, text: &str, chain: impl Fn(&Path, &str) -> Result<Chain>) -> Result<DomainInfo> {
        let root = xml::parse(text)?;
        let devices = root.get_child("devices");
        let devices = |name: &'static str| devices.into_iter().flat_map(move |d| xml::elements(d, name));
        Ok(DomainInfo {
            vm,
            name: xml::child_text(&root, "name").unwrap_or_default(),
            state: DomainState::Other,
            persistent: false,
            autostart: false,
            memory_bytes: memory(&root),
            vcpus: vcpus(&root),
            disks: devices("disk").map(|element| disk(element, &chain)).collect(),
            interfaces: devices("interface").map(interface).collect(),
            nvram: root.get_child("os").and_then(|os| os.get_child("nvram")).and_then(nvram),
            tpm: devices("tpm").next().map(|tpm| self.tpm(vm, tpm)),
            guest_agent: devices("channel").find_map(guest_agent),
            has_managed_save: false,
            internal_snapshots: vec![],
        })
    }

    /// With what the XML does not tell.
    fn with_state(&self, domain: &Domain, info: DomainInfo) -> Result<DomainInfo> {
        let fail = |source| Error::Call { what: "look at", vm: info.vm, source };
        let state = self.read_state(info.vm, domain).map_err(fail)?;
        let persistent = domain.is_persistent().map_err(fail)?;
        let snapshots = domain.list_all_snapshots(sys::VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL).map_err(fail)?;
        Ok(DomainInfo {
            state,
            persistent,
            autostart: persistent && domain.autostart().map_err(fail)?,
            has_managed_save: domain.has_managed_save(0).map_err(fail)?,
            internal_snapshots: snapshots.iter().filter_map(|snapshot| snapshot.name().ok()).collect(),
            ..info
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

/// What a domain with this definition has.
pub fn hardware(xml: &str) -> Result<Hardware> {
    let root = xml::parse(xml)?;
    let devices = root.get_child("devices").into_iter();
    let interfaces = devices.flat_map(|devices| xml::elements(devices, "interface")).map(interface);
    Ok(Hardware { memory_bytes: memory(&root), vcpus: vcpus(&root), interfaces: interfaces.collect() })
}

fn memory(root: &Element) -> u64 {
    root.get_child("memory").map_or(0, memory_bytes)
}

fn vcpus(root: &Element) -> u32 {
    xml::child_text(root, "vcpu").and_then(|text| text.parse().ok()).unwrap_or(0)
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
