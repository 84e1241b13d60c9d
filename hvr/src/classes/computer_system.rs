//! `Msvm_ComputerSystem`: the host and its VMs, and what tells that a guest answers.

use super::{Make, Row, VM, relationship::with_state, row};
use crate::{
    names::{COMPUTER_SYSTEM, class, guid},
    world::{HostFacts, World},
};
use cim::{Instance, ObjectPath};
use model::Mode;
use service::inventory::Machine;

pub const ROWS: &[Row] = &[
    row(COMPUTER_SYSTEM, Make::Host(host)),
    row(COMPUTER_SYSTEM, Make::Vm(VM, vm)),
    row("Msvm_HeartbeatComponent", Make::Vm(VM, heartbeat)),
    row("Msvm_ShutdownComponent", Make::Vm(VM, shutdown)),
];

fn host(world: &World, _: &HostFacts) -> Vec<Instance> {
    let host = Instance::new(COMPUTER_SYSTEM)
        .with("CreationClassName", COMPUTER_SYSTEM)
        .with("Name", world.host.as_str())
        .with("ElementName", world.host.as_str())
        .with("Caption", "Hosting Computer System")
        .with("Description", "Microsoft Hosting Computer System")
        .with("EnabledState", 2u16)
        .with("OperationalStatus", vec![2u16])
        .with("HealthState", 5u16)
        .with("ReplicationMode", Mode::None.number());
    vec![host]
}

fn vm(_: &World, machine: &Machine) -> Vec<Instance> {
    let Some(view) = &machine.vm else { return vec![] };
    let vm = Instance::new(COMPUTER_SYSTEM)
        .with("CreationClassName", COMPUTER_SYSTEM)
        .with("Name", guid(machine.id))
        .with("ElementName", view.name.as_str())
        .with("Caption", "Virtual Machine")
        .with("Description", "Microsoft Virtual Machine")
        .with("EnabledState", enabled_state(&view.power_state))
        .with("OperationalStatus", vec![2u16])
        .with("HealthState", 5u16)
        .with("ReplicationState", view.replication_state.number())
        .with("ReplicationHealth", view.health.number())
        .with("ReplicationMode", mode(machine).number());
    let vm = match &machine.replication {
        Some(replication) => with_state(vm, replication),
        None => vm,
    };
    vec![vm]
}

/// A test VM is one as long as its replica knows it.
pub fn mode(machine: &Machine) -> Mode {
    match (&machine.replication, machine.test_of) {
        (Some(replication), _) => replication.view.mode,
        (None, Some(_)) => Mode::TestReplica,
        // Not replicated yet: none, or marked as a seed.
        (None, None) => machine.vm.as_ref().map_or(Mode::None, |view| view.mode),
    }
}

/// `EnabledState` of a VM: 2 runs, 3 off, 9 paused, 0 where it is between two of them. What crashed is off, and so
/// is a replica that is not defined, and what was live-migrated away.
pub fn enabled_state(power_state: &str) -> u16 {
    match power_state {
        "running" => 2,
        "shut off" | "migrated" | "crashed" | "replica" => 3,
        "paused" => 9,
        _ => 0,
    }
}

/// The keys of a device are its first properties.
const DEVICE_KEYS: usize = 4;

fn device(machine: &Machine, class: &str, name: &str) -> Instance {
    Instance::new(class)
        .with("SystemCreationClassName", COMPUTER_SYSTEM)
        .with("SystemName", guid(machine.id))
        .with("CreationClassName", class)
        .with("DeviceID", format!("Microsoft:{}\\{name}", guid(machine.id)))
        .with("ElementName", name)
}

/// Present while the VM runs and has a channel for the guest agent: 2 it answers, 12 it does not.
fn heartbeat(_: &World, machine: &Machine) -> Vec<Instance> {
    let running = machine.vm.as_ref().filter(|view| view.power_state == "running");
    let answers = running.and_then(|view| view.guest_agent);
    let made = answers.map(|answers| {
        device(machine, "Msvm_HeartbeatComponent", "Heartbeat")
            .with("OperationalStatus", vec![if answers { 2u16 } else { 12 }])
    });
    made.into_iter().collect()
}

/// Present while the VM runs: the guest is asked to shut down as by its power button.
fn shutdown(_: &World, machine: &Machine) -> Vec<Instance> {
    let running = machine.vm.as_ref().is_some_and(|view| view.power_state == "running");
    let made = running.then(|| device(machine, "Msvm_ShutdownComponent", "Shutdown"));
    made.into_iter().collect()
}

/// The devices that are present now.
pub fn device_paths(world: &World, machine: &Machine) -> Vec<ObjectPath> {
    let devices = heartbeat(world, machine).into_iter().chain(shutdown(world, machine));
    let path = |device: Instance| {
        device
            .properties
            .iter()
            .take(DEVICE_KEYS)
            .fold(class(device.class.as_str()), |path, (name, value)| path.with(name, value.clone()))
    };
    devices.map(path).collect()
}
