//! Virtual switches: the networks of the host's libvirt.

use super::{Make, Row, row};
use crate::{
    names,
    world::{HostFacts, World},
};
use cim::{Instance, ObjectPath};
use service::inventory::NetworkView;

const SWITCH: &str = "Msvm_VirtualEthernetSwitch";
const SETTINGS: &str = "Msvm_VirtualEthernetSwitchSettingData";

pub const ROWS: &[Row] = &[
    row(SWITCH, Make::Host(|_, facts| facts.networks.iter().map(switch).collect())),
    row(SETTINGS, Make::Host(|_, facts| facts.networks.iter().map(settings).collect())),
    row("Msvm_SettingsDefineState", Make::Host(defined_state)),
];

fn path(network: &NetworkView) -> ObjectPath {
    names::class(SWITCH).with("CreationClassName", SWITCH).with("Name", names::guid(&network.uuid))
}

/// Enabled (2) while the network runs, disabled (3) otherwise.
fn switch(network: &NetworkView) -> Instance {
    Instance::new(SWITCH)
        .with("CreationClassName", SWITCH)
        .with("Name", names::guid(&network.uuid))
        .with("ElementName", network.name.as_str())
        .with("Caption", "Virtual Switch")
        .with("Description", "Microsoft Virtual Switch")
        .with("EnabledState", if network.active { 2u16 } else { 3 })
        .with("OperationalStatus", vec![2u16])
        .with("HealthState", 5u16)
}

fn settings(network: &NetworkView) -> Instance {
    Instance::new(SETTINGS)
        .with("InstanceID", names::instance_id(&network.uuid, ""))
        .with("ElementName", network.name.as_str())
        .with("Caption", "Virtual Switch Settings")
        .with("Description", "Microsoft Virtual Switch Settings")
        .with("VirtualSystemIdentifier", names::guid(&network.uuid))
}

fn defined_state(_: &World, facts: &HostFacts) -> Vec<Instance> {
    let link = |network: &NetworkView| {
        let settings = names::by_id(SETTINGS, names::instance_id(&network.uuid, ""));
        Instance::new("Msvm_SettingsDefineState")
            .with("ManagedElement", path(network))
            .with("SettingData", settings)
    };
    facts.networks.iter().map(link).collect()
}
