//! How instances hang together. An association belongs to the scope that knows both of its ends.

use super::{Make, POINTS, RELATIONSHIP, Row, VM, devices, row};
use crate::{
    names::{self, REPLICATION_SERVICE, SERVICES},
    world::{HostFacts, World},
};
use cim::{Instance, ObjectPath};
use service::{api::JobView, inventory::Machine};

/// `ElementEffects`: the service manages the VM.
const MANAGES: u16 = 5;
/// `ElementEffects` of a job: it affects the VM in ways that are not told apart.
const UNKNOWN_EFFECT: u16 = 0;

pub const ROWS: &[Row] = &[
    row("Msvm_SystemReplicationRelationship", Make::Vm(RELATIONSHIP, system_relationship)),
    row("Msvm_SettingsDefineState", Make::Vm(VM, defined_state)),
    row("Msvm_ElementSettingData", Make::Vm(RELATIONSHIP, settings_of_vm)),
    row("Msvm_ElementSettingData", Make::Host(settings_of_service)),
    row("Msvm_VirtualSystemSettingDataComponent", Make::Vm(VM, components)),
    row("Msvm_SnapshotOfVirtualSystem", Make::Vm(POINTS, snapshots)),
    row("Msvm_MostCurrentSnapshotInBranch", Make::Vm(POINTS, newest_snapshot)),
    row("Msvm_LastAppliedSnapshot", Make::Vm(POINTS, applied_snapshot)),
    row("Msvm_ReplicaSystemDependency", Make::Vm(RELATIONSHIP, test_system)),
    row("Msvm_EthernetPortFailoverSettingDataComponent", Make::Vm(VM, failover_adapters)),
    row("Msvm_HostedService", Make::Host(hosted_services)),
    row("Msvm_ServiceAffectsElement", Make::Host(services_of_host)),
    row("Msvm_ServiceAffectsElement", Make::Vm(RELATIONSHIP, services_of_vm)),
    row("Msvm_AffectedJobElement", Make::Job(affected)),
    row("Msvm_OwningJobElement", Make::Job(owner)),
    row("Msvm_SystemDevice", Make::Vm(VM, system_devices)),
    row("Msvm_ReferencePointOfVirtualSystem", Make::Never("there are no reference points")),
];

fn link(class: &str, one: (&str, ObjectPath), other: (&str, ObjectPath)) -> Instance {
    Instance::new(class).with(one.0, one.1).with(other.0, other.1)
}

fn system_relationship(_: &World, machine: &Machine) -> Vec<Instance> {
    let made = machine.relationships().map(|replication| {
        let relationship = names::relationship(machine.id, replication.view.index);
        link(
            "Msvm_SystemReplicationRelationship",
            ("Antecedent", names::vm(machine.id)),
            ("Dependent", relationship),
        )
    });
    made.collect()
}

fn defined_state(_: &World, machine: &Machine) -> Vec<Instance> {
    let link = |element, settings| {
        link("Msvm_SettingsDefineState", ("ManagedElement", element), ("SettingData", settings))
    };
    let id = machine.id;
    let own = link(names::vm(id), names::system_settings(id));
    let replication = machine.relationships().map(|replication| {
        let index = replication.view.index;
        link(names::relationship(id, index), names::replication_settings(id, index))
    });
    std::iter::once(own).chain(replication).collect()
}

fn settings_link(element: ObjectPath, settings: ObjectPath) -> Instance {
    let ends = (("ManagedElement", element), ("SettingData", settings));
    link("Msvm_ElementSettingData", ends.0, ends.1)
        .with("IsDefault", 0u16)
        .with("IsCurrent", 1u16)
        .with("IsNext", 0u16)
}

/// Clients go from the VM to its replication settings directly.
fn settings_of_vm(_: &World, machine: &Machine) -> Vec<Instance> {
    let id = machine.id;
    let made = machine.relationships().map(|replication| {
        settings_link(names::vm(id), names::replication_settings(id, replication.view.index))
    });
    made.collect()
}

fn settings_of_service(world: &World, facts: &HostFacts) -> Vec<Instance> {
    let host = &world.host;
    let own = names::by_id("Msvm_ReplicationServiceSettingData", names::service_settings_id(host));
    let entries = facts.authorizations.iter().map(|entry| {
        let id = names::authorization_id(host, &entry.host);
        names::by_id("Msvm_ReplicationAuthorizationSettingData", id)
    });
    let service = || names::service(host, REPLICATION_SERVICE);
    std::iter::once(own).chain(entries).map(|settings| settings_link(service(), settings)).collect()
}

fn components(_: &World, machine: &Machine) -> Vec<Instance> {
    let whole = || names::system_settings(machine.id);
    let class = "Msvm_VirtualSystemSettingDataComponent";
    let parts = devices::parts(machine).into_iter();
    parts.map(|part| link(class, ("GroupComponent", whole()), ("PartComponent", part))).collect()
}

fn snapshots(_: &World, machine: &Machine) -> Vec<Instance> {
    let class = "Msvm_SnapshotOfVirtualSystem";
    let points = machine.points.iter().map(|point| names::system_settings(point.point));
    points.map(|point| link(class, ("Antecedent", names::vm(machine.id)), ("Dependent", point))).collect()
}

fn newest_snapshot(_: &World, machine: &Machine) -> Vec<Instance> {
    let newest = machine.points.iter().filter(|point| point.latest);
    let link = |point| {
        let (vm, point) = (names::vm(machine.id), names::system_settings(point));
        link("Msvm_MostCurrentSnapshotInBranch", ("Antecedent", vm), ("Dependent", point))
    };
    newest.map(|point| link(point.point)).collect()
}

fn applied_snapshot(_: &World, machine: &Machine) -> Vec<Instance> {
    let applied = machine.replication.as_ref().and_then(|replication| replication.failed_over);
    let kept = applied.filter(|(applied, _)| machine.points.iter().any(|point| point.point == *applied));
    let link = |point| {
        let (point, vm) = (names::system_settings(point), names::vm(machine.id));
        link("Msvm_LastAppliedSnapshot", ("Antecedent", point), ("Dependent", vm))
    };
    kept.map(|(point, _)| link(point)).into_iter().collect()
}

fn test_system(_: &World, machine: &Machine) -> Vec<Instance> {
    let test = machine.replication.as_ref().and_then(|replication| replication.test_vm);
    let link = |test| {
        let (replica, test) = (names::vm(machine.id), names::vm(test));
        link("Msvm_ReplicaSystemDependency", ("Antecedent", replica), ("Dependent", test))
    };
    test.map(link).into_iter().collect()
}

fn failover_adapters(_: &World, machine: &Machine) -> Vec<Instance> {
    let class = "Msvm_EthernetPortFailoverSettingDataComponent";
    let adapters = devices::adapters(machine).into_iter();
    adapters
        .map(|(adapter, addresses)| link(class, ("GroupComponent", adapter), ("PartComponent", addresses)))
        .collect()
}

fn hosted_services(world: &World, _: &HostFacts) -> Vec<Instance> {
    let host = || names::computer_system(&world.host);
    let services = SERVICES.iter().map(|(class, _)| names::service(&world.host, class));
    services
        .map(|service| link("Msvm_HostedService", ("Antecedent", host()), ("Dependent", service)))
        .collect()
}

fn managed(world: &World, element: &ObjectPath) -> Vec<Instance> {
    let services = SERVICES.iter().map(|(class, _)| names::service(&world.host, class));
    let link = |service| {
        let ends = (("AffectedElement", element.clone()), ("AffectingElement", service));
        link("Msvm_ServiceAffectsElement", ends.0, ends.1).with("ElementEffects", vec![MANAGES])
    };
    services.map(link).collect()
}

fn services_of_host(world: &World, _: &HostFacts) -> Vec<Instance> {
    managed(world, &names::computer_system(&world.host))
}

fn services_of_vm(world: &World, machine: &Machine) -> Vec<Instance> {
    managed(world, &names::vm(machine.id))
}

fn affected(_: &World, view: &JobView) -> Vec<Instance> {
    let link = |vm| {
        let ends = (("AffectedElement", names::vm(vm)), ("AffectingElement", names::job(view.job)));
        link("Msvm_AffectedJobElement", ends.0, ends.1).with("ElementEffects", vec![UNKNOWN_EFFECT])
    };
    view.vm.map(link).into_iter().collect()
}

fn owner(world: &World, view: &JobView) -> Vec<Instance> {
    let service = names::service(&world.host, REPLICATION_SERVICE);
    let ends = (("OwningElement", service), ("OwnedElement", names::job(view.job)));
    vec![link("Msvm_OwningJobElement", ends.0, ends.1)]
}

fn system_devices(world: &World, machine: &Machine) -> Vec<Instance> {
    let devices = super::computer_system::device_paths(world, machine).into_iter();
    let vm = || names::vm(machine.id);
    devices
        .map(|device| link("Msvm_SystemDevice", ("GroupComponent", vm()), ("PartComponent", device)))
        .collect()
}
