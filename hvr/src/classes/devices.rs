//! What a VM is made of: disks, network adapters, processors, memory.

use super::{Make, Row, VM, row, slots};
use crate::{
    names::{by_id, guid, instance_id, system_settings},
    world::World,
};
use cim::{Instance, ObjectPath};
use model::VmId;
use service::{
    api::{DiskView, InterfaceView},
    inventory::Machine,
};

const DISK: &str = "Msvm_StorageAllocationSettingData";
const ADAPTER: &str = "Msvm_SyntheticEthernetPortSettingData";
const CONNECTION: &str = "Msvm_EthernetPortAllocationSettingData";
const FAILOVER: &str = "Msvm_FailoverNetworkAdapterSettingData";
const PROCESSOR: &str = "Msvm_ProcessorSettingData";
const MEMORY: &str = "Msvm_MemorySettingData";

/// The unit in which disks are measured.
const BLOCK_BYTES: u64 = 512;

pub const ROWS: &[Row] = &[
    row(DISK, Make::Vm(VM, |_, machine| each_disk(machine, disk))),
    row(ADAPTER, Make::Vm(VM, |_, machine| each_adapter(machine, adapter))),
    row(CONNECTION, Make::Vm(VM, |_, machine| each_adapter(machine, connection))),
    row(FAILOVER, Make::Vm(VM, |_, machine| each_adapter(machine, failover_addresses))),
    row(PROCESSOR, Make::Vm(VM, processor)),
    row(MEMORY, Make::Vm(VM, memory)),
    row("Msvm_EmulatedEthernetPortSettingData", Make::Never("every adapter is answered as a synthetic one")),
    row("Msvm_SerialPortSettingData", Make::Never("serial ports are not looked at")),
];

fn each_disk(machine: &Machine, make: fn(VmId, &DiskView) -> Instance) -> Vec<Instance> {
    let disks = machine.vm.iter().flat_map(|view| &view.disks);
    disks.map(|disk| make(machine.id, disk)).collect()
}

fn each_adapter(machine: &Machine, make: fn(VmId, &InterfaceView) -> Instance) -> Vec<Instance> {
    let adapters = machine.vm.iter().flat_map(|view| &view.interfaces);
    adapters.map(|adapter| make(machine.id, adapter)).collect()
}

fn disk_id(vm: VmId, target: &str) -> String {
    instance_id(vm, &format!("\\Disk\\{target}"))
}

fn adapter_id(vm: VmId, adapter: &InterfaceView, what: &str) -> String {
    instance_id(vm, &format!("\\{what}\\{}", address(adapter)))
}

/// A MAC address without separators, as Hyper-V writes it.
fn address(adapter: &InterfaceView) -> String {
    adapter.mac.replace(':', "").to_ascii_uppercase()
}

pub fn disk_path(vm: VmId, target: &str) -> ObjectPath {
    by_id(DISK, disk_id(vm, target))
}

/// The target (`vda`) of the VM's disk that this InstanceID names.
pub fn disk_target(vm: VmId, instance_id: &str) -> Option<String> {
    let prefix = disk_id(vm, "");
    let own = instance_id.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(&prefix));
    own.then(|| instance_id[prefix.len()..].to_owned())
}

/// The settings of a VM's parts: what its `Msvm_VirtualSystemSettingData` is joined with.
pub fn parts(machine: &Machine) -> Vec<ObjectPath> {
    let Some(view) = &machine.vm else { return vec![] };
    let id = machine.id;
    let disks = view.disks.iter().map(|disk| disk_path(id, &disk.target));
    let adapters = view.interfaces.iter().flat_map(|adapter| {
        [
            by_id(ADAPTER, adapter_id(id, adapter, "Adapter")),
            by_id(CONNECTION, adapter_id(id, adapter, "Connection")),
        ]
    });
    let processor = machine.vcpus.map(|_| by_id(PROCESSOR, instance_id(id, "\\Processor")));
    let memory = machine.memory_bytes.map(|_| by_id(MEMORY, instance_id(id, "\\Memory")));
    slots::paths(machine).into_iter().chain(disks).chain(adapters).chain(processor).chain(memory).collect()
}

/// Each adapter with its addresses after a failover.
pub fn adapters(machine: &Machine) -> Vec<(ObjectPath, ObjectPath)> {
    let adapters = machine.vm.iter().flat_map(|view| &view.interfaces);
    let pair = |adapter| {
        let addresses = by_id(FAILOVER, adapter_id(machine.id, adapter, "FailoverAdapter"));
        (by_id(ADAPTER, adapter_id(machine.id, adapter, "Adapter")), addresses)
    };
    adapters.map(pair).collect()
}

fn disk(vm: VmId, disk: &DiskView) -> Instance {
    let known = disk.size_bytes > 0;
    Instance::new(DISK)
        .with("InstanceID", disk_id(vm, &disk.target))
        .with("Caption", "Hard Disk Image Default Settings")
        .with("ElementName", disk.target.as_str())
        .with("ResourceType", 31u16)
        .with("ResourceSubType", "Microsoft:Hyper-V:Virtual Hard Disk")
        .with("Parent", slots::drive(vm, &disk.target).map(|drive| drive.to_string()))
        // A replica holds layers, not one file.
        .with(
            "HostResource",
            Some(&disk.path)
                .filter(|path| !path.as_os_str().is_empty())
                .map(|path| vec![path.display().to_string()]),
        )
        .with("VirtualResourceBlockSize", known.then_some(BLOCK_BYTES))
        .with("VirtualQuantity", known.then_some(disk.size_bytes / BLOCK_BYTES))
        .with("VirtualQuantityUnits", "count(fixed size block)")
}

fn adapter(vm: VmId, adapter: &InterfaceView) -> Instance {
    Instance::new(ADAPTER)
        .with("InstanceID", adapter_id(vm, adapter, "Adapter"))
        .with("ElementName", "Network Adapter")
        .with("ResourceType", 10u16)
        .with("ResourceSubType", "Microsoft:Hyper-V:Synthetic Ethernet Port")
        .with("Address", address(adapter))
        .with("StaticMacAddress", true)
        .with("VirtualQuantity", 1u64)
        .with("VirtualQuantityUnits", "count")
}

fn connection(vm: VmId, adapter: &InterfaceView) -> Instance {
    Instance::new(CONNECTION)
        .with("InstanceID", adapter_id(vm, adapter, "Connection"))
        .with("Caption", "Ethernet Switch Port Settings")
        .with("ResourceType", 33u16)
        .with("Parent", by_id(ADAPTER, adapter_id(vm, adapter, "Adapter")).to_string())
        .with("LastKnownSwitchName", adapter.network.clone())
        .with("TestReplicaSwitchName", adapter.test_network.clone())
}

/// The adapter with this `Msvm_EthernetPortAllocationSettingData`, and that as it is.
pub fn connected<'a>(machine: &'a Machine, instance_id: &str) -> Option<(&'a InterfaceView, Instance)> {
    let mut adapters = machine.vm.iter().flat_map(|view| &view.interfaces);
    let is = |own: &Instance| own.text("InstanceID").is_some_and(|own| own.eq_ignore_ascii_case(instance_id));
    adapters.find_map(|adapter| Some((adapter, connection(machine.id, adapter))).filter(|(_, own)| is(own)))
}

pub fn failover_adapter(vm: VmId, adapter: &InterfaceView) -> String {
    adapter_id(vm, adapter, "FailoverAdapter")
}

/// What SetFailoverNetworkAdapterSettings set; NULL where it set nothing.
fn failover_addresses(vm: VmId, adapter: &InterfaceView) -> Instance {
    let instance = Instance::new(FAILOVER).with("InstanceID", failover_adapter(vm, adapter));
    let Some(set) = &adapter.failover else { return instance };
    let has = |v6: bool| set.addresses.iter().any(|address| address.contains(':') == v6);
    let family = match (set.dhcp || has(false), has(true)) {
        (true, true) => 4098u16,
        (true, false) => 4096,
        (false, true) => 4097,
        (false, false) => 0,
    };
    instance
        .with("ProtocolIFType", family)
        .with("DHCPEnabled", set.dhcp)
        .with("IPAddresses", set.addresses.clone())
        .with("Subnets", set.subnets.clone())
        .with("DefaultGateways", set.gateways.clone())
        .with("DNSServers", set.dns.clone())
}

fn processor(_: &World, machine: &Machine) -> Vec<Instance> {
    let made = machine.vcpus.map(|count| {
        Instance::new(PROCESSOR)
            .with("InstanceID", instance_id(machine.id, "\\Processor"))
            .with("ElementName", "Processor")
            .with("ResourceType", 3u16)
            .with("ResourceSubType", "Microsoft:Hyper-V:Processor")
            .with("VirtualQuantity", u64::from(count))
            .with("VirtualQuantityUnits", "count")
            .with("Parent", system_settings(guid(machine.id)).to_string())
    });
    made.into_iter().collect()
}

fn memory(_: &World, machine: &Machine) -> Vec<Instance> {
    let made = machine.memory_bytes.map(|bytes| {
        Instance::new(MEMORY)
            .with("InstanceID", instance_id(machine.id, "\\Memory"))
            .with("ElementName", "Memory")
            .with("ResourceType", 4u16)
            .with("ResourceSubType", "Microsoft:Hyper-V:Memory")
            .with("AllocationUnits", "byte * 2^20")
            .with("VirtualQuantity", bytes >> 20)
            // There is no more to be had: memory is not dynamic.
            .with("Limit", bytes >> 20)
            .with("VirtualQuantityUnits", "byte * 2^20")
            .with("DynamicMemoryEnabled", false)
    });
    made.into_iter().collect()
}
