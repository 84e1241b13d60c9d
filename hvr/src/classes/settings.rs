//! `Msvm_ReplicationSettingData` as it is answered. What of it clients may set is in `methods/settings.rs`.

use super::{Make, Row, VM, row};
use crate::{
    classes::devices::disk_path,
    instance::interval,
    names::{guid, relationship_id},
    world::World,
};
use cim::{Instance, Value};
use model::Mode;
use serde::{Deserialize, Serialize};
use service::inventory::{Machine, Replication};

pub const ROWS: &[Row] = &[row("Msvm_ReplicationSettingData", Make::Vm(VM, settings))];

/// `AdditionalSettings`, as JSON: what Hyper-V does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdditionalSettings {
    /// Seconds between recovery points beside the latest; an hour at Hyper-V.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_point_spacing_s: Option<u32>,
    /// 0 lifts the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<u64>,
}

fn settings(world: &World, machine: &Machine) -> Vec<Instance> {
    let made = machine.replication.as_ref().map(|replication| of_relationship(world, machine, replication));
    made.into_iter().collect()
}

fn of_relationship(world: &World, machine: &Machine, replication: &Replication) -> Instance {
    let view = &replication.view;
    let primary = view.mode == Mode::Primary;
    let (from, to) = if primary {
        (world.host.as_str(), view.peer.as_str())
    } else {
        (view.peer.as_str(), world.host.as_str())
    };
    let additional = AdditionalSettings {
        recovery_point_spacing_s: Some(view.history_every_s),
        bandwidth_bytes_per_s: view.bandwidth_bytes_per_s,
    };
    Instance::new("Msvm_ReplicationSettingData")
        .with("InstanceID", relationship_id(machine.id))
        .with("Caption", "Replication Settings")
        .with("Description", "Virtual Machine Replication Settings Data")
        .with("ElementName", view.name.as_str())
        .with("VirtualSystemIdentifier", guid(machine.id))
        .with("VirtualSystemType", "Microsoft:Hyper-V:Replica")
        .with("AuthenticationType", 2u16)
        .with("CertificateThumbPrint", world.thumbprint().filter(|_| primary))
        .with("CompressionEnabled", true)
        .with("PrimaryConnectionPoint", from)
        .with("PrimaryHostSystem", from)
        .with("RecoveryConnectionPoint", to)
        .with("RecoveryHostSystem", to)
        .with("RecoveryServerPortNumber", primary.then(|| world.peer_port(&view.peer)))
        .with("ReplicateHostKvpItems", false)
        .with("ApplicationConsistentSnapshotInterval", 0u16)
        .with("RecoveryHistory", u16::from(view.history))
        .with("ReplicationInterval", u16::try_from(view.interval_s).ok())
        .with("IncludedDisks", included_disks(machine))
        .with("AutoResynchronizeEnabled", replication.auto_resynchronize)
        // At any time of the day.
        .with("AutoResynchronizeIntervalStart", interval(0.0))
        .with("AutoResynchronizeIntervalEnd", interval(0.0))
        .with("EnableWriteOrderPreservationAcrossDisks", true)
        .with("ReplicationProvider", crate::names::provider(&world.host).to_string())
        .with("AdditionalSettings", serde_json::to_string(&additional).ok())
}

/// The disks by the paths of their `Msvm_StorageAllocationSettingData`.
fn included_disks(machine: &Machine) -> Value {
    let Some(view) = &machine.vm else { return Value::Null };
    let replicated = view.disks.iter().filter(|disk| disk.replicated);
    let paths: Vec<_> = replicated.map(|disk| disk_path(machine.id, &disk.target).to_string()).collect();
    paths.into()
}
