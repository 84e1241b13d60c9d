//! `Msvm_ReplicationRelationship`.

use super::{Make, RELATIONSHIP, Row, row};
use crate::{instance::datetime, names, world::World};
use cim::{Instance, Value};
use model::PointKind;
use service::inventory::{Machine, Replication};

pub const ROWS: &[Row] = &[row("Msvm_ReplicationRelationship", Make::Vm(RELATIONSHIP, relationship))];

fn relationship(_: &World, machine: &Machine) -> Vec<Instance> {
    let made = machine.relationships().map(|replication| {
        let view = &replication.view;
        let state = Instance::new("Msvm_ReplicationRelationship")
            .with("InstanceID", names::relationship_id(machine.id, view.index))
            .with("ElementName", view.name.as_str())
            .with("Name", view.name.as_str());
        with_state(state, replication).with("LastApplyTime", received(replication))
    });
    made.collect()
}

/// The properties that relationships have, and that VMs mirror.
pub fn with_state(instance: Instance, replication: &Replication) -> Instance {
    let view = &replication.view;
    let consistent_at = view.last_app_consistent_at.as_deref();
    instance
        .with("ReplicationState", view.state_number)
        .with("ReplicationHealth", view.health.number())
        .with("FailedOverReplicationType", replication.failed_over.map_or(0, |(_, kind)| kind.number()))
        .with("LastReplicationType", view.last_kind.map(PointKind::number))
        .with("LastApplicationConsistentReplicationTime", consistent_at.and_then(datetime))
        .with("LastReplicationTime", replication.last_success_at.as_deref().and_then(datetime))
}

/// A replica's point is received and usable at once.
fn received(replication: &Replication) -> Value {
    let at = replication.last_success_at.as_deref().filter(|_| replication.view.mode.is_replica());
    at.and_then(datetime).into()
}
