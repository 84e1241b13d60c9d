//! What instances are called: keys, paths, and the way back from a path to what it names.

use crate::schema::{CIMV2, V2};
use cim::{ObjectPath, Value};
use model::{DeltaId, JobId, VmId};
use std::{fmt::Display, str::FromStr};

pub const COMPUTER_SYSTEM: &str = "Msvm_ComputerSystem";
pub const REPLICATION_SERVICE: &str = "Msvm_ReplicationService";
pub const MANAGEMENT_SERVICE: &str = "Msvm_VirtualSystemManagementService";
pub const SNAPSHOT_SERVICE: &str = "Msvm_VirtualSystemSnapshotService";

/// The services of a host, each with the value of its key `Name`.
pub const SERVICES: &[(&str, &str)] =
    &[(REPLICATION_SERVICE, "replicasvc"), (MANAGEMENT_SERVICE, "vmms"), (SNAPSHOT_SERVICE, "vssnapsvc")];

/// The CLSID by which clients know Hyper-V's own replication provider.
pub const PROVIDER: &str = "22391CDC-272C-4DDF-BA88-9BEFB1A0975C";

/// A UUID as Hyper-V writes it.
pub fn guid(id: impl Display) -> String {
    id.to_string().to_ascii_uppercase()
}

/// `Microsoft:<GUID>`, with what follows it.
pub fn instance_id(id: impl Display, rest: &str) -> String {
    format!("Microsoft:{}{rest}", guid(id))
}

pub fn class(name: &str) -> ObjectPath {
    ObjectPath::class(V2, name)
}

/// A VM, by its UUID.
pub fn vm(id: VmId) -> ObjectPath {
    computer_system(&guid(id))
}

/// A VM or the host, by the key `Name`.
pub fn computer_system(name: &str) -> ObjectPath {
    class(COMPUTER_SYSTEM).with("CreationClassName", COMPUTER_SYSTEM).with("Name", name)
}

/// One of [`SERVICES`].
pub fn service(host: &str, class: &str) -> ObjectPath {
    let name = SERVICES.iter().find(|(known, _)| *known == class).map_or("", |(_, name)| name);
    self::class(class)
        .with("SystemCreationClassName", COMPUTER_SYSTEM)
        .with("SystemName", host)
        .with("CreationClassName", class)
        .with("Name", name)
}

/// An instance of a class whose one key is InstanceID.
pub fn by_id(class: &str, instance_id: impl Into<String>) -> ObjectPath {
    self::class(class).with("InstanceID", instance_id.into())
}

pub fn relationship(vm: VmId, index: u16) -> ObjectPath {
    by_id("Msvm_ReplicationRelationship", relationship_id(vm, index))
}

pub fn replication_settings(vm: VmId, index: u16) -> ObjectPath {
    by_id("Msvm_ReplicationSettingData", relationship_id(vm, index))
}

/// 0: the primary relationship; 1: the extended one, from a replica to a third host.
pub fn relationship_id(vm: VmId, index: u16) -> String {
    instance_id(vm, &format!("\\HVR\\{index}"))
}

pub fn system_settings(id: impl Display) -> ObjectPath {
    by_id("Msvm_VirtualSystemSettingData", instance_id(id, ""))
}

pub fn service_settings_id(host: &str) -> String {
    format!("Microsoft:{host}\\HVR\\Service")
}

pub fn authorization_id(host: &str, pattern: &str) -> String {
    format!("Microsoft:{host}\\HVR\\Authorization\\{pattern}")
}

pub fn provider_id(host: &str) -> String {
    format!("Microsoft:{host}\\ReplicationProvider\\{PROVIDER}")
}

pub fn provider(host: &str) -> ObjectPath {
    by_id("Msvm_ReplicationProvider", provider_id(host)).with("Name", PROVIDER)
}

pub fn job(id: JobId) -> ObjectPath {
    by_id("Msvm_ConcreteJob", guid(id))
}

/// The host in `root/cimv2`.
pub fn computer(host: &str) -> ObjectPath {
    ObjectPath::class(CIMV2, "Win32_ComputerSystem").with("Name", host)
}

/// Whose VM, point or job a path speaks of: the UUIDs in its keys, those of referred paths too.
pub fn uuids<T: FromStr + PartialEq>(path: &ObjectPath) -> Vec<T> {
    let mut found = vec![];
    for (_, value) in path.bindings() {
        match value {
            Value::Reference(referred) => found.extend(uuids(referred)),
            Value::String(text) => found.extend(uuid(text)),
            _ => {}
        }
    }
    found
}

/// The UUID in an `InstanceID`, or in a `Name` that is nothing else.
pub fn uuid<T: FromStr>(text: &str) -> Option<T> {
    let text = match text.split_once(':') {
        Some((vendor, rest)) if vendor.eq_ignore_ascii_case("Microsoft") => rest,
        _ => text,
    };
    text.split('\\').next()?.parse().ok()
}

/// The point that a reference to settings names.
pub fn point(path: &ObjectPath) -> Option<DeltaId> {
    uuid(path.key("InstanceID")?.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_names_is_found_again() {
        let id: VmId = "6f1c2a94-83e5-4c07-9d1b-5a2e8f4b7c60".parse().unwrap();
        for path in [vm(id), relationship(id, 0), replication_settings(id, 1), system_settings(id)] {
            assert_eq!(uuids::<VmId>(&path), [id], "{path}");
            let read: ObjectPath = path.to_string().parse().unwrap();
            assert_eq!(uuids::<VmId>(&read), [id], "{path}");
        }
        let disk = by_id("Msvm_StorageAllocationSettingData", instance_id(id, "\\Disk\\vda"));
        assert_eq!(uuids::<VmId>(&disk), [id]);
        assert_eq!(relationship_id(id, 0), "Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\HVR\\0");
        let link = class("Msvm_SystemReplicationRelationship")
            .with("Antecedent", vm(id))
            .with("Dependent", relationship(id, 1));
        assert_eq!(uuids::<VmId>(&link), [id, id]);
    }

    #[test]
    fn a_host_is_no_uuid() {
        assert_eq!(uuids::<VmId>(&computer_system("a.example")), []);
        assert_eq!(uuids::<VmId>(&by_id("X", authorization_id("a.example", "*"))), []);
    }
}
