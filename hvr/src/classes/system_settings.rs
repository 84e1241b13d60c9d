//! `Msvm_VirtualSystemSettingData`: of VMs, and of the recovery points that a replica keeps.

use super::{Make, POINTS, Row, VM, row};
use crate::{
    instance::datetime,
    names::{guid, instance_id, system_settings},
    world::World,
};
use cim::Instance;
use model::{PointKind, VmId};
use service::{api::PointView, inventory::Machine};

const CLASS: &str = "Msvm_VirtualSystemSettingData";

pub const ROWS: &[Row] = &[
    row(CLASS, Make::Vm(VM, of_vm)),
    row(CLASS, Make::Vm(POINTS, of_points)),
    row(
        "Msvm_VirtualSystemReferencePoint",
        Make::Never("there are no reference points: backups are not made here"),
    ),
];

fn of_vm(_: &World, machine: &Machine) -> Vec<Instance> {
    let Some(view) = &machine.vm else { return vec![] };
    // Always, never, and, where Relevo starts it after it asked the peer: if it ran.
    let startup = match (view.autostart, &machine.replication) {
        (false, _) => 2u16,
        (true, Some(_)) => 3,
        (true, None) => 4,
    };
    let settings = Instance::new(CLASS)
        .with("InstanceID", instance_id(machine.id, ""))
        .with("ElementName", view.name.as_str())
        .with("Caption", "Virtual Machine Settings")
        .with("Description", "Active settings for the virtual machine")
        .with("VirtualSystemIdentifier", guid(machine.id))
        .with("VirtualSystemType", "Microsoft:Hyper-V:System:Realized")
        .with("BIOSGUID", format!("{{{}}}", guid(machine.id)))
        .with("AutomaticStartupAction", startup);
    vec![settings]
}

fn of_points(_: &World, machine: &Machine) -> Vec<Instance> {
    let name = machine.vm.as_ref().map_or("", |view| &view.name);
    machine.points.iter().map(|point| of_point(machine.id, name, point)).collect()
}

fn of_point(vm: VmId, name: &str, point: &PointView) -> Instance {
    let kind = match point.kind {
        PointKind::Regular => "Standard",
        PointKind::ApplicationConsistent => "ApplicationConsistent",
        PointKind::Planned => "PlannedFailover",
    };
    Instance::new(CLASS)
        .with("InstanceID", instance_id(point.point, ""))
        .with("ElementName", format!("{name} - {}", point.cut_at))
        .with("Caption", "Virtual Machine Settings")
        .with("Description", "Snapshot settings for the virtual machine")
        .with("VirtualSystemIdentifier", guid(vm))
        .with("VirtualSystemType", format!("Microsoft:Hyper-V:Snapshot:Replica:{kind}"))
        .with("ConfigurationID", guid(point.point))
        .with("CreationTime", datetime(&point.cut_at))
        .with("Notes", point.note.as_deref().map(|note| vec![note]))
        .with("Parent", system_settings(vm).to_string())
}
