//! `Msvm_SummaryInformation`: what GetSummaryInformation answers; nothing enumerates it.

use super::{Make, Row, computer_system, row};
use crate::{
    names::{self, guid, instance_id},
    world::World,
};
use cim::{Instance, Name, Value};
use service::inventory::Machine;

pub const ROWS: &[Row] = &[
    row("Msvm_SummaryInformation", Make::Never("GetSummaryInformation answers it")),
    row("Msvm_SummaryInformationBase", Make::Never("GetSummaryInformation answers its subclass")),
];

/// Request codes and the properties that they ask for; codes of what is not known here are left out.
const REQUESTS: &[(u32, &[&str])] = &[
    (0, &["Name"]),
    (1, &["ElementName"]),
    (4, &["NumberOfProcessors"]),
    (9, &["VirtualSwitchNames"]),
    (100, &["EnabledState"]),
    (104, &["Heartbeat"]),
    (109, &["HealthState"]),
    (110, &["OperationalStatus"]),
    (114, &["ReplicationMode"]),
    (115, &["ReplicationState"]),
    (116, &["ReplicationHealth", "TestReplicaSystem"]),
    (118, &["ReplicationStateEx"]),
    (119, &["ReplicationHealthEx"]),
    (122, &["ReplicationProviderId"]),
];

/// The summary of a VM: with the properties that were asked for, or all where nothing in particular was.
pub fn summary(world: &World, machine: &Machine, requested: &[u32]) -> Instance {
    let whole = whole(world, machine);
    if requested.is_empty() {
        return whole;
    }
    let asked = REQUESTS.iter().filter(|(code, _)| requested.contains(code));
    let mut wanted: Vec<Name> = asked.flat_map(|(_, names)| *names).map(|name| Name::from(*name)).collect();
    wanted.push("InstanceID".into());
    whole.only(&wanted)
}

fn whole(world: &World, machine: &Machine) -> Instance {
    let summary = Instance::new("Msvm_SummaryInformation")
        .with("InstanceID", instance_id(machine.id, ""))
        .with("Name", guid(machine.id))
        .with("HostComputerSystemName", world.host.as_str())
        .with("NumberOfProcessors", machine.vcpus.and_then(|count| u16::try_from(count).ok()))
        .with("ReplicationMode", computer_system::mode(machine).number());
    let summary = match &machine.vm {
        Some(view) => summary
            .with("ElementName", view.name.as_str())
            .with("EnabledState", computer_system::enabled_state(&view.power_state))
            .with("HealthState", 5u16)
            .with("OperationalStatus", vec![2u16])
            .with("Heartbeat", view.guest_agent.map(|answers| if answers { 2u16 } else { 12 }))
            .with("VirtualSwitchNames", networks(machine))
            .with("ReplicationState", view.replication_state.number())
            .with("ReplicationHealth", view.health.number()),
        None => summary,
    };
    let Some(replication) = &machine.replication else { return summary };
    let states: Vec<u16> = machine.relationships().map(|each| each.view.state_number).collect();
    let healths: Vec<u16> = machine.relationships().map(|each| each.view.health.number()).collect();
    let providers: Vec<&str> = machine.relationships().map(|_| names::PROVIDER).collect();
    summary
        .with("ReplicationStateEx", states)
        .with("ReplicationHealthEx", healths)
        .with("ReplicationProviderId", providers)
        .with("TestReplicaSystem", replication.test_vm.map(|test| names::vm(test).to_string()))
}

fn networks(machine: &Machine) -> Value {
    let cards = machine.vm.iter().flat_map(|view| &view.interfaces);
    cards.filter_map(|card| card.network.clone()).collect::<Vec<_>>().into()
}
