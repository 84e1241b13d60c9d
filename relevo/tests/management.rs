//! The story of a VM through Hyper-V's methods: one host is in this process, with its provider, the other is the
//! program, driven by its command line.

#[path = "../../hvr/tests/support/mod.rs"]
mod provider;

use cim::{Instance, ObjectPath, Provider, Value, embedded};
use hvr::schema::V2;
use model::VmId;
use provider::{Stage, code, job, next, number, out, target, vm_path};
use service::{api::Command, config::Dirs};
use std::{fs, path::Path, process, time::Duration};
use testkit::pair::{Host, Pair};

const BINARY: &str = env!("CARGO_BIN_EXE_relevo");

/// A host of the pair, opened in this process and let into by the other one.
async fn open(host: &Host) -> (Stage, impl Sized) {
    let host = service::daemon::open(&Dirs::new(Some(&host.root))).await.unwrap();
    let server = service::daemon::listen(&host).unwrap();
    service::daemon::start(&host).unwrap();
    (Stage::of(host), server)
}

/// A VM without a system in it: its QEMU runs, and that is enough to replicate it.
fn domain(vm: VmId, folder: &Path) -> String {
    let disk = folder.join("disk.qcow2");
    for (tool, args) in
        [("qemu-img", "create -q -f qcow2 DISK 16M"), ("qemu-io", "-c|write -q -P 7 0 4M|DISK")]
    {
        let separator = if args.contains('|') { '|' } else { ' ' };
        let args = args.split(separator).map(|arg| arg.replace("DISK", disk.to_str().unwrap()));
        assert!(process::Command::new(tool).args(args).status().unwrap().success(), "{tool}");
    }
    format!(
        "<domain type='qemu'><name>web</name><uuid>{vm}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <disk type='file'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
        disk.display()
    )
}

/// Calls a method and waits for its job, which must end well. The return code.
async fn call(stage: &Stage, on: &ObjectPath, method: &str, arguments: &[(&str, Value)]) -> i128 {
    let result = stage.call(on, method, arguments).await;
    if code(&result) == 4096 {
        let ended = stage.ended(&job(&result)).await;
        assert_eq!(number(&ended, "JobState"), 7, "{method}: {:?}", ended.text("ErrorDescription"));
    }
    code(&result)
}

async fn request(stage: &Stage, vm: &ObjectPath, state: u16) -> i128 {
    call(stage, vm, "RequestReplicationStateChange", &[("RequestedState", state.into())]).await
}

async fn run(stage: &Stage, vm: &ObjectPath, state: u16) -> i128 {
    call(stage, vm, "RequestStateChange", &[("RequestedState", state.into())]).await
}

/// Waits, by events, until the relationship is in this state.
async fn state(stage: &Stage, vm: &ObjectPath, wanted: i128) {
    let query =
        "SELECT * FROM __InstanceModificationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ComputerSystem'";
    let mut events = stage.events(query).await;
    while number(&stage.get(vm).await.unwrap(), "ReplicationState") != wanted {
        next(&mut events).await;
    }
}

async fn associated(stage: &Stage, of: &ObjectPath, association: &str) -> Vec<ObjectPath> {
    let query = format!("ASSOCIATORS OF {{{}}} WHERE AssocClass = {association}", of.relative());
    stage.query(&query).await.into_iter().map(|instance| instance.path.unwrap()).collect()
}

fn text(stage: &Stage, instance: &Instance) -> Value {
    let schema = stage.hvr.schema(&V2.into()).unwrap();
    embedded::write(&schema.complete(instance).unwrap(), &schema).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_is_protected_changed_prepared_and_becomes_the_replica() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.b.start().unwrap();
    pair.b.run(&["authorize", "a.example", "--storage", pair.b.storage().to_str().unwrap()]).unwrap();
    let (stage, _server) = open(&pair.a).await;
    let (id, service) = (VmId::random(), stage.service().await);
    let (vm, own) = (vm_path(id), ("ComputerSystem", Value::from(vm_path(id))));
    stage.run(Command::VmDefine { xml: domain(id, &pair.a.root) }).await;
    assert_eq!(run(&stage, &vm, 2).await, 0);

    let entry = Instance::new("Msvm_ReplicationAuthorizationSettingData")
        .with("AllowedPrimaryHostSystem", "b.example")
        .with("ReplicaStorageLocation", pair.a.storage().to_str().unwrap());
    let entry = [("AuthorizationEntry", text(&stage, &entry))];
    assert_eq!(call(&stage, &service, "AddAuthorizationEntry", &entry).await, 0);
    assert_eq!(call(&stage, &service, "AddAuthorizationEntry", &entry).await, 32775, "a second time");
    let to = [("RecoveryConnectionPoint", Value::from("b.example")), ("AuthenticationType", 2u16.into())];
    assert_eq!(call(&stage, &service, "TestReplicationConnection", &to).await, 4096);

    let settings = Instance::new("Msvm_ReplicationSettingData")
        .with("RecoveryConnectionPoint", "b.example")
        .with("AuthenticationType", 2u16)
        .with("ReplicationInterval", 1u16);
    let settings = [own.clone(), ("ReplicationSettingData", text(&stage, &settings))];
    assert_eq!(call(&stage, &service, "CreateReplicationRelationship", &settings).await, 4096);
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationState"), 1, "nothing is copied yet");
    let start = [own.clone(), ("InitialReplicationType", 1u16.into())];
    assert_eq!(call(&stage, &service, "StartReplication", &start).await, 4096);
    state(&stage, &vm, 3).await;

    let mut settings = stage.all("Msvm_ReplicationSettingData").await.remove(0);
    settings.set("RecoveryHistory", 7u16);
    settings.set("AutoResynchronizeEnabled", true);
    let settings = [own.clone(), ("ReplicationSettingData", text(&stage, &settings))];
    assert_eq!(call(&stage, &service, "ModifyReplicationSettings", &settings).await, 4096);
    assert_eq!(pair.b.run(&["status", "web"]).unwrap()[0]["history"], 7, "the replica keeps the points");

    assert_eq!(request(&stage, &vm, 7).await, 0);
    state(&stage, &vm, 7).await;
    assert_eq!(request(&stage, &vm, 3).await, 0);
    assert_eq!(request(&stage, &vm, 4).await, 32775, "it runs");
    // Its plug is pulled: what QEMU tracked is lost, and both hosts compare.
    assert_eq!(run(&stage, &vm, 3).await, 0);
    state(&stage, &vm, 3).await;
    assert_eq!(request(&stage, &vm, 4).await, 4096);
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationState"), 4);
    assert_eq!(run(&stage, &vm, 2).await, 32775, "it was handed over");
    assert_eq!(request(&stage, &vm, 3).await, 4096);
    state(&stage, &vm, 3).await;
    assert_eq!(call(&stage, &service, "Resynchronize", std::slice::from_ref(&own)).await, 4096);

    state(&stage, &vm, 3).await;
    assert_eq!(request(&stage, &vm, 4).await, 4096);
    pair.b.run(&["failover", "web", "--no-start", "--yes"]).unwrap();
    pair.b.run(&["reverse", "web", "--yes"]).unwrap();
    state(&stage, &vm, 3).await;
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationMode"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_tested_failed_over_reverted_committed_and_reversed() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.a.start().unwrap();
    pair.a.run(&["authorize", "b.example", "--storage", pair.a.storage().to_str().unwrap()]).unwrap();
    let (stage, _server) = open(&pair.b).await;
    let storage = pair.b.storage();
    stage.run(Command::Authorize { host: "a.example".into(), storage, trust_group: None }).await;
    let (id, service) = (VmId::random(), stage.service().await);
    let (vm, own) = (vm_path(id), ("ComputerSystem", Value::from(vm_path(id))));
    let xml = pair.root.join("web.xml");
    fs::write(&xml, domain(id, &pair.a.root)).unwrap();
    pair.a.run(&["vm", "define", xml.to_str().unwrap()]).unwrap();
    pair.a.run(&["vm", "start", "web"]).unwrap();

    let points = "SELECT * FROM __InstanceCreationEvent WITHIN 1 WHERE \
                  TargetInstance ISA 'Msvm_VirtualSystemSettingData' \
                  AND TargetInstance.VirtualSystemType = 'Microsoft:Hyper-V:Snapshot:Replica:Standard'";
    let mut points = stage.events(points).await;
    let options = ["--interval", "1", "--history", "24", "--history-every", "1s"];
    pair.a.run(&[&["protect", "web", "--to", "b.example"], &options[..]].concat()).unwrap();
    let first = target(&next(&mut points).await).path.clone().unwrap();
    next(&mut points).await;
    assert!(associated(&stage, &vm, "Msvm_SnapshotOfVirtualSystem").await.contains(&first));
    assert_eq!(run(&stage, &vm, 2).await, 32775, "it runs over there");

    let chosen = ("SnapshotSettingData", Value::from(first.clone()));
    let result = stage.call(&service, "TestReplicaSystem", &[own.clone(), chosen.clone()]).await;
    let test = out(&result, "ResultingSystem").as_path().unwrap().clone();
    stage.ended(&job(&result)).await;
    let view = stage.get(&test).await.unwrap();
    assert_eq!((number(&view, "ReplicationMode"), view.text("ElementName")), (3, Some("web - Test")));
    assert!(associated(&stage, &test, "Msvm_ReplicaSystemDependency").await[0].matches(&vm));
    let management = stage.all("Msvm_VirtualSystemManagementService").await.remove(0).path.unwrap();
    let affected = [("AffectedSystem", Value::from(test.clone()))];
    assert_eq!(run(&stage, &test, 2).await, 0);
    assert_eq!(call(&stage, &management, "DestroySystem", &affected).await, 5, "it runs");
    assert_eq!(run(&stage, &test, 3).await, 0);
    assert_eq!(call(&stage, &management, "DestroySystem", &affected).await, 4096);
    assert!(stage.get(&test).await.is_err());

    assert_eq!(call(&stage, &service, "InitiateFailover", &[own.clone(), chosen]).await, 4096);
    let view = stage.get(&vm).await.unwrap();
    assert_eq!((number(&view, "ReplicationState"), number(&view, "EnabledState")), (5, 3));
    assert_eq!(number(&view, "FailedOverReplicationType"), 1);
    assert_eq!(associated(&stage, &vm, "Msvm_LastAppliedSnapshot").await, [first]);
    assert_eq!(run(&stage, &vm, 2).await, 0);
    let own = std::slice::from_ref(&own);
    assert_eq!(call(&stage, &service, "RevertFailover", own).await, 4096);
    state(&stage, &vm, 3).await;
    assert_eq!(call(&stage, &service, "InitiateFailover", own).await, 4096);
    assert_eq!(call(&stage, &service, "ReverseReplicationRelationship", own).await, 32775, "not committed");
    assert_eq!(call(&stage, &service, "CommitFailover", own).await, 4096);
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationState"), 6);
    assert_eq!(call(&stage, &service, "ReverseReplicationRelationship", own).await, 4096);
    state(&stage, &vm, 3).await;
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationMode"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_primary_gets_its_vm_back() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.b.start().unwrap();
    pair.b.run(&["authorize", "a.example", "--storage", pair.b.storage().to_str().unwrap()]).unwrap();
    let (stage, _server) = open(&pair.a).await;
    let storage = pair.a.storage();
    stage.run(Command::Authorize { host: "b.example".into(), storage, trust_group: None }).await;
    let (id, service) = (VmId::random(), stage.service().await);
    let (vm, own) = (vm_path(id), [("ComputerSystem", Value::from(vm_path(id)))]);
    stage.run(Command::VmDefine { xml: domain(id, &pair.a.root) }).await;
    let protect = Command::Protect {
        vm: id.to_string(),
        to: "b.example".parse().unwrap(),
        interval_s: 1,
        history: 0,
        history_every_s: 3600,
        disks: None,
        bandwidth_bytes_per_s: None,
        auto_resynchronize: true,
        start: true,
    };
    stage.run(protect).await;
    state(&stage, &vm, 3).await;
    assert_eq!(call(&stage, &service, "InitiateFailback", &own).await, 32775, "it may run here");
    pair.b.run(&["failover", "web", "--no-start", "--yes"]).unwrap();
    state(&stage, &vm, 8).await;
    assert_eq!(request(&stage, &vm, 3).await, 32775, "the other host took it over");
    assert_eq!(call(&stage, &service, "InitiateFailback", &own).await, 4096);
    state(&stage, &vm, 14).await;
    // A VM that is off loses its bitmaps with the merge over there: the turn after it compares.
    pair.b.wait_cycles("web", 3, Duration::from_secs(120)).unwrap();
    assert_eq!(call(&stage, &service, "CommitFailover", &own).await, 4096);
    state(&stage, &vm, 3).await;
    let view = stage.get(&vm).await.unwrap();
    assert_eq!((number(&view, "ReplicationMode"), number(&view, "EnabledState")), (1, 2));
}
