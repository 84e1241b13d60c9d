//! `Msvm_ReplicationAuthorizationSettingData`: which hosts may replicate to this one.

use super::{Make, Row, row};
use crate::{
    names,
    world::{HostFacts, World},
};
use cim::Instance;
use service::api::AuthorizationView;

pub const ROWS: &[Row] = &[row("Msvm_ReplicationAuthorizationSettingData", Make::Host(entries))];

fn entries(world: &World, facts: &HostFacts) -> Vec<Instance> {
    facts.authorizations.iter().map(|entry| self::entry(world, entry)).collect()
}

/// Hyper-V leaves InstanceID NULL although it is the key; ours names the entry.
fn entry(world: &World, entry: &AuthorizationView) -> Instance {
    Instance::new("Msvm_ReplicationAuthorizationSettingData")
        .with("InstanceID", names::authorization_id(&world.host, &entry.host))
        .with("ElementName", entry.host.as_str())
        .with("AllowedPrimaryHostSystem", entry.host.as_str())
        .with("TrustGroup", entry.trust_group.as_str())
        .with("ReplicaStorageLocation", entry.storage.display().to_string())
}
