//! `Msvm_ReplicationSettingData` as it is answered. What of it clients may set is in `methods/settings.rs`.

use super::{Make, Row, VM, row};
use crate::{
    classes::devices::disk_path,
    instance::interval,
    names::{guid, relationship_id},
    world::World,
};
use cim::{Instance, Value};
use model::{Authentication, BandwidthWindow, Mode, Tier};
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
    /// Points that are kept besides RecoveryHistory: how many, how far apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_tiers: Option<Vec<Tier>>,
    /// 0 lifts the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Other limits by the time of the day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_windows: Option<Vec<BandwidthWindow>>,
    /// Where ApplicationConsistentSnapshotInterval, in hours, is too coarse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_consistent_interval_s: Option<u32>,
    /// Seconds between two fire drills of the replica; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fire_drill_interval_s: Option<u32>,
    /// Seconds between two scrubs, which read all of both hosts' disks; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_interval_s: Option<u32>,
}

const HOUR_S: u32 = 3600;
/// `AuthenticationType`
pub const KERBEROS: u16 = 1;
pub const CERTIFICATE: u16 = 2;

fn authentication_type(authentication: Authentication) -> u16 {
    match authentication {
        Authentication::Certificate => CERTIFICATE,
        Authentication::Kerberos => KERBEROS,
    }
}

fn settings(world: &World, machine: &Machine) -> Vec<Instance> {
    machine.relationships().map(|replication| of_relationship(world, machine, replication)).collect()
}

fn of_relationship(world: &World, machine: &Machine, replication: &Replication) -> Instance {
    let view = &replication.view;
    let primary = view.mode == Mode::Primary;
    let by_certificate = view.authentication == Authentication::Certificate;
    let (from, to) = if primary {
        (world.host.as_str(), view.peer.as_str())
    } else {
        (view.peer.as_str(), world.host.as_str())
    };
    let snapshots_s = view.app_consistent_every_s;
    let additional = AdditionalSettings {
        recovery_point_spacing_s: Some(view.history_every_s),
        retention_tiers: Some(view.tiers.clone()).filter(|tiers| !tiers.is_empty()),
        bandwidth_bytes_per_s: view.bandwidth_bytes_per_s,
        bandwidth_windows: Some(view.bandwidth_windows.clone()).filter(|windows| !windows.is_empty()),
        fire_drill_interval_s: Some(replication.drill_every_s).filter(|every_s| *every_s > 0),
        scrub_interval_s: Some(view.scrub.every_s).filter(|every_s| *every_s > 0),
        app_consistent_interval_s: Some(snapshots_s).filter(|every_s| every_s % HOUR_S != 0),
    };
    Instance::new("Msvm_ReplicationSettingData")
        .with("InstanceID", relationship_id(machine.id, view.index))
        .with("Caption", "Replication Settings")
        .with("Description", "Virtual Machine Replication Settings Data")
        .with("ElementName", view.name.as_str())
        .with("VirtualSystemIdentifier", guid(machine.id))
        .with("VirtualSystemType", "Microsoft:Hyper-V:Replica")
        .with("AuthenticationType", authentication_type(view.authentication))
        .with("CertificateThumbPrint", world.thumbprint().filter(|_| primary && by_certificate))
        .with("CompressionEnabled", replication.compress)
        .with("BypassProxyServer", replication.bypass_proxy)
        .with("PrimaryConnectionPoint", from)
        .with("PrimaryHostSystem", from)
        .with("RecoveryConnectionPoint", to)
        .with("RecoveryHostSystem", to)
        .with("RecoveryServerPortNumber", primary.then(|| world.peer_port(&view.peer, view.authentication)))
        // The domain's metadata, which is a part of its definition.
        .with("ReplicateHostKvpItems", true)
        .with("ApplicationConsistentSnapshotInterval", u16::try_from(snapshots_s.div_ceil(HOUR_S)).ok())
        .with("RecoveryHistory", u16::from(view.history))
        .with("ReplicationInterval", u16::try_from(view.interval_s).ok())
        .with("IncludedDisks", included_disks(machine))
        .with("AutoResynchronizeEnabled", replication.auto_resynchronize)
        .with("AutoResynchronizeIntervalStart", of_day(replication.resync_window.start_min))
        .with("AutoResynchronizeIntervalEnd", of_day(replication.resync_window.end_min))
        .with("EnableWriteOrderPreservationAcrossDisks", true)
        .with("ReplicationProvider", crate::names::provider(&world.host).to_string())
        .with("AdditionalSettings", serde_json::to_string(&additional).ok())
}

/// A time of the day, as the class has it: an interval since midnight. Two equal ones are the whole day.
fn of_day(minutes: u16) -> cim::DateTime {
    interval(f64::from(minutes) * 60.0)
}

/// The disks by the paths of their `Msvm_StorageAllocationSettingData`.
fn included_disks(machine: &Machine) -> Value {
    let Some(view) = &machine.vm else { return Value::Null };
    let replicated = view.disks.iter().filter(|disk| disk.replicated);
    let paths: Vec<_> = replicated.map(|disk| disk_path(machine.id, &disk.target).to_string()).collect();
    paths.into()
}
