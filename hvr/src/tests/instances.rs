//! Instances made from samples.

use super::samples;
use crate::{
    classes::{self, rows},
    instance::finish,
    names,
    schema::{self, CIMV2, V2},
    world::{Scope, Subject},
};
use cim::{Instance, Schema, Value};
use expect_test::{Expect, expect};
use std::collections::HashSet;

fn subjects() -> Vec<Subject> {
    vec![
        Subject::Host(Box::new(samples::facts())),
        Subject::Vm(Box::new(samples::machine())),
        Subject::Vm(Box::new(samples::replica())),
        Subject::Vm(Box::new(samples::test_machine())),
        Subject::Job(Box::new(samples::job())),
        Subject::Vm(Box::new(samples::extended())),
    ]
}

fn schema_of(class: &str) -> Schema {
    let v2 = schema::schema(V2);
    if v2.class(&class.into()).is_some() { v2 } else { schema::schema(CIMV2) }
}

/// What a class has of a subject, whole.
fn made(class: &str, subject: &Subject) -> Vec<Instance> {
    let (schema, world) = (schema_of(class), samples::world());
    let made = rows().filter(|row| row.class == class).flat_map(|row| row.instances(&world, subject));
    made.map(|made| finish(&made, &schema).unwrap()).collect()
}

/// The path and the properties that are known.
fn check(class: &str, subject: &Subject, expected: Expect) {
    let text = |instance: &Instance| {
        let known = instance.properties.iter().filter(|(_, value)| !value.is_null());
        let lines = known.map(|(name, value)| format!("  {name} = {value}\n"));
        format!("{}\n{}", instance.path.as_ref().unwrap(), lines.collect::<String>())
    };
    expected.assert_eq(&made(class, subject).iter().map(text).collect::<String>());
}

#[test]
fn everything_that_is_made_fits_its_class_and_has_a_path_of_its_own() {
    let (v2, cimv2, world) = (schema::schema(V2), schema::schema(CIMV2), samples::world());
    for subject in subjects() {
        let mut paths = HashSet::new();
        for row in rows() {
            let schema = if v2.class(&row.class.into()).is_some() { &v2 } else { &cimv2 };
            for instance in row.instances(&world, &subject) {
                let whole =
                    finish(&instance, schema).unwrap_or_else(|error| panic!("{}: {error}", row.class));
                let path = whole.path.unwrap();
                assert!(paths.insert(path.identity()), "{path} is made twice");
                assert_eq!(schema.resolve(&path).unwrap().identity(), path.identity());
                let read = cim::ObjectPath::parse(&path.to_string()).unwrap();
                assert_eq!(schema.resolve(&read).unwrap().identity(), path.identity(), "{path}");
            }
        }
    }
}

#[test]
fn both_ends_of_every_association_are_there() {
    let v2 = schema::schema(V2);
    let (world, subjects) = (samples::world(), subjects());
    let all: Vec<Instance> = rows()
        .flat_map(|row| subjects.iter().flat_map(|subject| row.instances(&world, subject)))
        .filter(|instance| v2.class(&instance.class).is_some())
        .map(|instance| finish(&instance, &v2).unwrap())
        .collect();
    let there: HashSet<String> = all.iter().filter_map(|it| Some(it.path.as_ref()?.identity())).collect();
    let mut ends = 0;
    for (name, value) in all.iter().flat_map(|instance| &instance.properties) {
        if let Value::Reference(path) = value {
            let resolved = v2.resolve(path).unwrap();
            assert!(there.contains(&resolved.identity()), "{name}: there is no {path}");
            ends += 1;
        }
    }
    assert!(ends > 50);
}

#[test]
fn a_path_leads_to_the_scope_that_makes_its_instance() {
    let world = samples::world();
    for subject in subjects() {
        let scope = match &subject {
            Subject::Host(_) => Scope::Host,
            Subject::Vm(machine) => Scope::Vm(machine.id),
            Subject::Job(view) => Scope::Job(view.job),
        };
        for row in rows() {
            for instance in row.instances(&world, &subject) {
                let path = finish(&instance, &schema_of(row.class)).unwrap().path.unwrap();
                let ids: Vec<model::VmId> = names::uuids(&path);
                let found = match scope {
                    Scope::Host => true,
                    // A recovery point is looked up by its own id.
                    Scope::Vm(vm) => ids.contains(&vm) || path.class.is("Msvm_VirtualSystemSettingData"),
                    Scope::Job(job) => ids.iter().any(|id| id.0 == job.0),
                };
                assert!(found, "{path}");
            }
        }
    }
}

#[test]
fn a_relationship() {
    let primary = Subject::Vm(Box::new(samples::machine()));
    check(
        "Msvm_ReplicationRelationship",
        &primary,
        expect![[r#"
            root\virtualization\v2:Msvm_ReplicationRelationship.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\HVR\\0"
              InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\HVR\0
              ElementName = web
              Name = web
              ReplicationState = 3
              ReplicationHealth = 2
              FailedOverReplicationType = 0
              LastReplicationType = 1
              LastApplicationConsistentReplicationTime = 20260504020005.000000+000
              LastReplicationTime = 20260504031207.000000+000
        "#]],
    );
    let replica = Subject::Vm(Box::new(samples::replica()));
    check(
        "Msvm_ReplicationRelationship",
        &replica,
        expect![[r#"
            root\virtualization\v2:Msvm_ReplicationRelationship.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\HVR\\0"
              InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\HVR\0
              ElementName = web
              Name = web
              ReplicationState = 3
              ReplicationHealth = 2
              FailedOverReplicationType = 3
              LastReplicationType = 1
              LastApplicationConsistentReplicationTime = 20260504020005.000000+000
              LastReplicationTime = 20260504031207.000000+000
              LastApplyTime = 20260504031207.000000+000
        "#]],
    );
}

#[test]
fn a_replica_that_is_forwarded_has_two_relationships() {
    let subject = Subject::Vm(Box::new(samples::extended()));
    let ids = |class: &str, key: &str| -> Vec<String> {
        let made = made(class, &subject);
        made.iter().map(|it| it.get(key).map(ToString::to_string).unwrap_or_default()).collect()
    };
    for class in ["Msvm_ReplicationRelationship", "Msvm_ReplicationSettingData"] {
        let ids = ids(class, "InstanceID");
        let ends: Vec<_> = ids.iter().map(|id| id.split_once("\\HVR").map(|(_, end)| end)).collect();
        assert_eq!(ends, [Some("\\0"), Some("\\1")], "{ids:?}");
    }
    assert_eq!(ids("Msvm_ReplicationRelationship", "ReplicationState"), ["3", "7"]);
    assert_eq!(ids("Msvm_ReplicationSettingData", "PrimaryHostSystem"), ["b.example", "a.example"]);
    assert_eq!(ids("Msvm_ReplicationSettingData", "RecoveryHostSystem"), ["a.example", "x.example"]);
    assert_eq!(ids("Msvm_ReplicationSettingData", "ReplicationInterval"), ["30", "300"]);
    assert_eq!(ids("Msvm_ComputerSystem", "ReplicationMode"), ["2"]);
    assert_eq!(ids("Msvm_ComputerSystem", "ReplicationState"), ["3"], "the VM shows relationship 0");
    let summary = crate::classes::summary(&samples::world(), &samples::extended(), &[]);
    assert_eq!(summary.get("ReplicationStateEx"), Some(&vec![3u16, 7].into()));
    assert_eq!(ids("Msvm_SystemReplicationRelationship", "Dependent").len(), 2);
}

#[test]
fn replication_settings() {
    let primary = Subject::Vm(Box::new(samples::machine()));
    check(
        "Msvm_ReplicationSettingData",
        &primary,
        expect![[r#"
            root\virtualization\v2:Msvm_ReplicationSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\HVR\\0"
              InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\HVR\0
              Caption = Replication Settings
              Description = Virtual Machine Replication Settings Data
              ElementName = web
              VirtualSystemIdentifier = 6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60
              VirtualSystemType = Microsoft:Hyper-V:Replica
              AuthenticationType = 2
              CertificateThumbPrint = 4E3A0C
              CompressionEnabled = TRUE
              BypassProxyServer = FALSE
              RecoveryConnectionPoint = b.example
              RecoveryHostSystem = b.example
              PrimaryConnectionPoint = a.example
              PrimaryHostSystem = a.example
              RecoveryServerPortNumber = 9444
              ReplicateHostKvpItems = TRUE
              ApplicationConsistentSnapshotInterval = 4
              RecoveryHistory = 4
              IncludedDisks = {root\virtualization\v2:Msvm_StorageAllocationSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Disk\\vda"}
              AutoResynchronizeEnabled = TRUE
              AutoResynchronizeIntervalStart = 00000000000000.000000:000
              AutoResynchronizeIntervalEnd = 00000000000000.000000:000
              EnableWriteOrderPreservationAcrossDisks = TRUE
              ReplicationProvider = root\virtualization\v2:Msvm_ReplicationProvider.InstanceID="Microsoft:a.example\\ReplicationProvider\\22391CDC-272C-4DDF-BA88-9BEFB1A0975C",Name="22391CDC-272C-4DDF-BA88-9BEFB1A0975C"
              AdditionalSettings = {"recovery_point_spacing_s":3600}
              ReplicationInterval = 30
        "#]],
    );
}

#[test]
fn the_host_its_vms_and_a_test_vm() {
    for (subject, expected) in
        subjects().into_iter().zip([expect![[r#"
            root\virtualization\v2:Msvm_ComputerSystem.Name="a.example",CreationClassName="Msvm_ComputerSystem"
              Caption = Hosting Computer System
              Description = Microsoft Hosting Computer System
              ElementName = a.example
              Name = a.example
              OperationalStatus = {2}
              HealthState = 5
              EnabledState = 2
              CreationClassName = Msvm_ComputerSystem
              ReplicationMode = 0
        "#]], expect![[r#"
            root\virtualization\v2:Msvm_ComputerSystem.Name="6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60",CreationClassName="Msvm_ComputerSystem"
              Caption = Virtual Machine
              Description = Microsoft Virtual Machine
              ElementName = web
              Name = 6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60
              OperationalStatus = {2}
              HealthState = 5
              EnabledState = 2
              CreationClassName = Msvm_ComputerSystem
              ReplicationState = 3
              ReplicationHealth = 2
              ReplicationMode = 1
              FailedOverReplicationType = 0
              LastReplicationType = 1
              LastApplicationConsistentReplicationTime = 20260504020005.000000+000
              LastReplicationTime = 20260504031207.000000+000
        "#]], expect![[r#"
            root\virtualization\v2:Msvm_ComputerSystem.Name="6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60",CreationClassName="Msvm_ComputerSystem"
              Caption = Virtual Machine
              Description = Microsoft Virtual Machine
              ElementName = web
              Name = 6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60
              OperationalStatus = {2}
              HealthState = 5
              EnabledState = 3
              CreationClassName = Msvm_ComputerSystem
              ReplicationState = 3
              ReplicationHealth = 2
              ReplicationMode = 2
              FailedOverReplicationType = 3
              LastReplicationType = 1
              LastApplicationConsistentReplicationTime = 20260504020005.000000+000
              LastReplicationTime = 20260504031207.000000+000
        "#]], expect![[r#"
            root\virtualization\v2:Msvm_ComputerSystem.Name="0E4D95B7-C1A8-4F36-82EB-6B7F3D20A914",CreationClassName="Msvm_ComputerSystem"
              Caption = Virtual Machine
              Description = Microsoft Virtual Machine
              ElementName = web - Test
              Name = 0E4D95B7-C1A8-4F36-82EB-6B7F3D20A914
              OperationalStatus = {2}
              HealthState = 5
              EnabledState = 2
              CreationClassName = Msvm_ComputerSystem
              ReplicationState = 3
              ReplicationHealth = 2
              ReplicationMode = 3
        "#]]])
    {
        check("Msvm_ComputerSystem", &subject, expected);
    }
}

#[test]
fn settings_of_a_vm_and_of_recovery_points() {
    let replica = Subject::Vm(Box::new(samples::replica()));
    check(
        "Msvm_VirtualSystemSettingData",
        &replica,
        expect![[r#"
            root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60"
              InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60
              Caption = Virtual Machine Settings
              Description = Active settings for the virtual machine
              ElementName = web
              VirtualSystemIdentifier = 6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60
              VirtualSystemType = Microsoft:Hyper-V:System:Realized
              AutomaticStartupAction = 3
              BIOSGUID = {6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60}
            root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:9C81D7E2-4F06-4B3A-95D0-7AE1C2683BF4"
              InstanceID = Microsoft:9C81D7E2-4F06-4B3A-95D0-7AE1C2683BF4
              Caption = Virtual Machine Settings
              Description = Snapshot settings for the virtual machine
              ElementName = web - 2026-05-04T03:12:07Z
              VirtualSystemIdentifier = 6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60
              VirtualSystemType = Microsoft:Hyper-V:Snapshot:Replica:ApplicationConsistent
              CreationTime = 20260504031207.000000+000
              ConfigurationID = 9C81D7E2-4F06-4B3A-95D0-7AE1C2683BF4
              Parent = root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60"
            root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:3F2AC410-9B7D-4E58-A6C1-0D94F7E82B35"
              InstanceID = Microsoft:3F2AC410-9B7D-4E58-A6C1-0D94F7E82B35
              Caption = Virtual Machine Settings
              Description = Snapshot settings for the virtual machine
              ElementName = web - 2026-05-04T03:12:07Z
              VirtualSystemIdentifier = 6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60
              VirtualSystemType = Microsoft:Hyper-V:Snapshot:Replica:Standard
              CreationTime = 20260504031207.000000+000
              ConfigurationID = 3F2AC410-9B7D-4E58-A6C1-0D94F7E82B35
              Parent = root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60"
        "#]],
    );
}

#[test]
fn disks_adapters_processors_and_memory() {
    let vm = Subject::Vm(Box::new(samples::machine()));
    check(
        "Msvm_StorageAllocationSettingData",
        &vm,
        expect![[r#"
            root\virtualization\v2:Msvm_StorageAllocationSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Disk\\vda"
              InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\Disk\vda
              Caption = Hard Disk Image Default Settings
              ElementName = vda
              ResourceType = 31
              ResourceSubType = Microsoft:Hyper-V:Virtual Hard Disk
              HostResource = {/var/lib/libvirt/images/web.qcow2}
              VirtualQuantity = 41943040
              Parent = root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Drive\\vda"
              VirtualQuantityUnits = count(fixed size block)
              VirtualResourceBlockSize = 512
        "#]],
    );
    check(
        "Msvm_SyntheticEthernetPortSettingData",
        &vm,
        expect![[r#"
        root\virtualization\v2:Msvm_SyntheticEthernetPortSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Adapter\\525400123456"
          InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\Adapter\525400123456
          ElementName = Network Adapter
          ResourceType = 10
          ResourceSubType = Microsoft:Hyper-V:Synthetic Ethernet Port
          VirtualQuantity = 1
          Address = 525400123456
          VirtualQuantityUnits = count
          StaticMacAddress = TRUE
    "#]],
    );
    check(
        "Msvm_ProcessorSettingData",
        &vm,
        expect![[r#"
        root\virtualization\v2:Msvm_ProcessorSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Processor"
          InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\Processor
          ElementName = Processor
          ResourceType = 3
          ResourceSubType = Microsoft:Hyper-V:Processor
          VirtualQuantity = 2
          Parent = root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60"
          VirtualQuantityUnits = count
    "#]],
    );
    check(
        "Msvm_MemorySettingData",
        &vm,
        expect![[r#"
            root\virtualization\v2:Msvm_MemorySettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Memory"
              InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\Memory
              ElementName = Memory
              ResourceType = 4
              ResourceSubType = Microsoft:Hyper-V:Memory
              AllocationUnits = byte * 2^20
              VirtualQuantity = 2048
              Limit = 2048
              VirtualQuantityUnits = byte * 2^20
              DynamicMemoryEnabled = FALSE
        "#]],
    );
    let replica = Subject::Vm(Box::new(samples::replica()));
    check(
        "Msvm_StorageAllocationSettingData",
        &replica,
        expect![[r#"
            root\virtualization\v2:Msvm_StorageAllocationSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Disk\\vda"
              InstanceID = Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\Disk\vda
              Caption = Hard Disk Image Default Settings
              ElementName = vda
              ResourceType = 31
              ResourceSubType = Microsoft:Hyper-V:Virtual Hard Disk
              Parent = root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:6F1C2A94-83E5-4C07-9D1B-5A2E8F4B7C60\\Drive\\vda"
              VirtualQuantityUnits = count(fixed size block)
        "#]],
    );
    check("Msvm_MemorySettingData", &replica, expect![[r#""#]]);
}

#[test]
fn a_job_that_failed() {
    check(
        "Msvm_ConcreteJob",
        &Subject::Job(Box::new(samples::job())),
        expect![[r#"
        root\virtualization\v2:Msvm_ConcreteJob.InstanceID="51B7E0D8-6A2F-4C93-B8E4-92D3F0A5C716"
          InstanceID = 51B7E0D8-6A2F-4C93-B8E4-92D3F0A5C716
          Caption = failover
          Description = web
          ElementName = failover
          Name = failover
          OperationalStatus = {2}
          StatusDescriptions = {OK}
          HealthState = 5
          JobStatus = Failed
          TimeSubmitted = 20260504031207.000000+000
          StartTime = 20260504031207.000000+000
          ElapsedTime = 00000000000001.500000:000
          PercentComplete = 40
          DeleteOnCompletion = TRUE
          ErrorCode = 32774
          ErrorDescription = web: revert is under way
          JobState = 10
          TimeOfLastStateChange = 20260504031208.500000+000
          TimeBeforeRemoval = 00000000000500.000000:000
          ErrorSummaryDescription = web: revert is under way
          Cancellable = FALSE
          JobType = 97
    "#]],
    );
}

#[test]
fn the_service_its_settings_and_its_entries() {
    let host = Subject::Host(Box::new(samples::facts()));
    check(
        "Msvm_ReplicationService",
        &host,
        expect![[r#"
        root\virtualization\v2:Msvm_ReplicationService.Name="replicasvc",SystemCreationClassName="Msvm_ComputerSystem",SystemName="a.example",CreationClassName="Msvm_ReplicationService"
          Caption = Hyper-V Replica Service
          Description = Replication Service
          ElementName = Hyper-V Replica Service
          Name = replicasvc
          OperationalStatus = {2}
          Status = OK
          HealthState = 5
          EnabledState = 2
          RequestedState = 12
          EnabledDefault = 2
          SystemCreationClassName = Msvm_ComputerSystem
          SystemName = a.example
          CreationClassName = Msvm_ReplicationService
          Started = TRUE
    "#]],
    );
    check(
        "Msvm_ReplicationServiceSettingData",
        &host,
        expect![[r#"
            root\virtualization\v2:Msvm_ReplicationServiceSettingData.InstanceID="Microsoft:a.example\\HVR\\Service"
              InstanceID = Microsoft:a.example\HVR\Service
              Caption = Replication Service Settings
              Description = Virtual Machine Replication Service Settings Data
              ElementName = Replication Service Settings
              RecoveryServerEnabled = TRUE
              AllowedAuthenticationType = 2
              CertificateThumbPrint = 4E3A0C
              HttpsPort = 9443
              MonitoringStartTime = 00000000090000.000000:000
              MonitoringInterval = 43200
        "#]],
    );
    check(
        "Msvm_ReplicationAuthorizationSettingData",
        &host,
        expect![[r#"
        root\virtualization\v2:Msvm_ReplicationAuthorizationSettingData.InstanceID="Microsoft:a.example\\HVR\\Authorization\\*.example"
          InstanceID = Microsoft:a.example\HVR\Authorization\*.example
          ElementName = *.example
          AllowedPrimaryHostSystem = *.example
          TrustGroup = DEFAULT
          ReplicaStorageLocation = /srv/replicas
    "#]],
    );
}

#[test]
fn a_service_whose_listener_does_not_run_says_so() {
    let mut facts = samples::facts();
    facts.view.replication_address = None;
    let service = &made("Msvm_ReplicationService", &Subject::Host(Box::new(facts)))[0];
    assert_eq!(service.get("OperationalStatus"), Some(&vec![6u16].into()));
}

fn list(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn statistics_and_summary_fit_their_classes() {
    let v2 = schema::schema(V2);
    let mut replication = samples::replication();
    let ended = service::api::IntervalView { network_failed: 7, ..replication.view.interval.clone() };
    replication.last_interval = Some(ended);
    let counted = classes::statistics::statistics(&replication, 1_777_864_327_000);
    let counted: Vec<_> = counted.iter().map(|it| finish(it, &v2).unwrap()).collect();
    let all = |name: &str| counted.iter().map(|it| it.get(name).unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(
        (all("ReplicationMissCount"), all("NetworkFailureCount")),
        (list(&["1", "1"]), list(&["0", "7"]))
    );
    assert_eq!(all("PendingReplicationSize"), ["0", "0"]);
    let whole = classes::summary(&samples::world(), &samples::replica(), &[]);
    assert!(
        finish(&whole, &v2)
            .unwrap()
            .text("TestReplicaSystem")
            .unwrap()
            .contains(&names::guid(samples::TEST_VM))
    );
    let part = classes::summary(&samples::world(), &samples::machine(), &[1, 115]);
    let part: Vec<_> = part.properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(part, ["InstanceID", "ElementName", "ReplicationState"]);
}

#[test]
fn a_network_is_a_switch_with_settings() {
    let host = Subject::Host(Box::new(samples::facts()));
    check(
        "Msvm_VirtualEthernetSwitch",
        &host,
        expect![[r#"
        root\virtualization\v2:Msvm_VirtualEthernetSwitch.Name="5C5F3F2E-8F0B-4F43-9D4E-0A5A3A1C7B11",CreationClassName="Msvm_VirtualEthernetSwitch"
          Caption = Virtual Switch
          Description = Microsoft Virtual Switch
          ElementName = default
          Name = 5C5F3F2E-8F0B-4F43-9D4E-0A5A3A1C7B11
          OperationalStatus = {2}
          HealthState = 5
          EnabledState = 2
          CreationClassName = Msvm_VirtualEthernetSwitch
    "#]],
    );
    check(
        "Msvm_VirtualEthernetSwitchSettingData",
        &host,
        expect![[r#"
        root\virtualization\v2:Msvm_VirtualEthernetSwitchSettingData.InstanceID="Microsoft:5C5F3F2E-8F0B-4F43-9D4E-0A5A3A1C7B11"
          InstanceID = Microsoft:5C5F3F2E-8F0B-4F43-9D4E-0A5A3A1C7B11
          Caption = Virtual Switch Settings
          Description = Microsoft Virtual Switch Settings
          ElementName = default
          VirtualSystemIdentifier = 5C5F3F2E-8F0B-4F43-9D4E-0A5A3A1C7B11
    "#]],
    );
    let links = made("Msvm_SettingsDefineState", &host);
    let settings = &made("Msvm_VirtualEthernetSwitchSettingData", &host)[0];
    assert_eq!(links.len(), 1);
    let linked = links[0].get("SettingData").and_then(Value::as_path).unwrap();
    assert!(linked.matches(settings.path.as_ref().unwrap()));
}
