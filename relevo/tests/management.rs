//! The story of a VM through Hyper-V's methods: one host is in this process, with its provider, the other is the
//! program, driven by its command line.

#[path = "../../hvr/tests/support/mod.rs"]
mod provider;

use cim::{DateTime, Instance, ObjectPath, Provider, Value, embedded};
use hvr::schema::V2;
use model::VmId;
use provider::{Stage, code, job, next, number, out, target, vm_path};
use rand::RngCore;
use service::{api::Command, config::Dirs};
use std::{
    fs,
    path::Path,
    process,
    time::{Duration, SystemTime},
};
use testkit::{
    kdc::in_realm,
    pair::{Host, Pair},
};

const BINARY: &str = env!("CARGO_BIN_EXE_relevo");

/// A host of the pair, opened in this process and let into by the other one.
async fn open(host: &Host) -> Stage {
    let host = service::daemon::open(&Dirs::new(Some(&host.root))).await.unwrap();
    service::daemon::listen(&host).unwrap();
    service::daemon::start(&host).unwrap();
    Stage::of(host)
}

const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];

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
         <interface type='user'><mac address='{}'/></interface><interface type='user'><mac address='{}'/></interface>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
        disk.display(),
        MACS[0],
        MACS[1],
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

/// The id in the path of a VM.
fn test_id(of: &ObjectPath) -> VmId {
    of.bindings().iter().find_map(|(_, value)| value.as_str()?.parse().ok()).expect("an id")
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
    let stage = open(&pair.a).await;
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
    let mut bound = vec![own.clone()];
    bound.extend(entry.clone());
    assert_eq!(call(&stage, &service, "SetAuthorizationEntry", &bound).await, 0, "it may become a replica");
    let to = [("RecoveryConnectionPoint", Value::from("b.example")), ("AuthenticationType", 2u16.into())];
    assert_eq!(call(&stage, &service, "TestReplicationConnection", &to).await, 4096);

    let settings = Instance::new("Msvm_ReplicationSettingData")
        .with("RecoveryConnectionPoint", "b.example")
        .with("AuthenticationType", 2u16)
        .with("ReplicationInterval", 1u16);
    let settings = [own.clone(), ("ReplicationSettingData", text(&stage, &settings))];
    assert_eq!(call(&stage, &service, "CreateReplicationRelationship", &settings).await, 4096);
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationState"), 1, "nothing is copied yet");
    let start = |way: u16| vec![own.clone(), ("InitialReplicationType", way.into())];
    let later = |ahead_s: i64| {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let at = i64::try_from(at).unwrap() + ahead_s;
        [start(1), vec![("StartTime", DateTime::from_unix_ms(at * 1000).into())]].concat()
    };
    assert_eq!(call(&stage, &service, "StartReplication", &later(-3600)).await, 32773, "it has passed");
    assert_eq!(call(&stage, &service, "StartReplication", &later(8 * 86_400)).await, 32773, "too far ahead");
    assert_eq!(call(&stage, &service, "StartReplication", &later(3600)).await, 0);
    assert_eq!(request(&stage, &vm, 1).await, 4096);
    assert_eq!(request(&stage, &vm, 1).await, 32775, "it is cancelled");
    assert_eq!(call(&stage, &service, "StartReplication", &start(2)).await, 32773, "no folder");
    let nowhere = [start(2), vec![("InitialReplicationExportLocation", "/nowhere".into())]].concat();
    assert_eq!(call(&stage, &service, "StartReplication", &nowhere).await, 32779);
    assert_eq!(call(&stage, &service, "StartReplication", &start(3)).await, 32775, "no seed");
    let import = [own.clone(), ("InitialReplicationImportLocation", "/nowhere".into())];
    assert_eq!(call(&stage, &service, "ImportInitialReplica", &import).await, 32775, "it is the primary");
    let folder = pair.root.join("export");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    let export = [start(2), vec![("InitialReplicationExportLocation", folder.into())]].concat();
    assert_eq!(call(&stage, &service, "StartReplication", &export).await, 4096);
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationState"), 2);
    assert_eq!(request(&stage, &vm, 1).await, 4096);
    assert_eq!(call(&stage, &service, "StartReplication", &start(1)).await, 4096);
    state(&stage, &vm, 3).await;

    let mut settings = stage.all("Msvm_ReplicationSettingData").await.remove(0);
    settings.set("RecoveryHistory", 7u16);
    settings.set("AutoResynchronizeEnabled", true);
    settings.set("CompressionEnabled", false);
    for at in ["AutoResynchronizeIntervalStart", "AutoResynchronizeIntervalEnd"] {
        settings.set(at, DateTime::from_interval_ms(0));
    }
    let settings = [own.clone(), ("ReplicationSettingData", text(&stage, &settings))];
    assert_eq!(call(&stage, &service, "ModifyReplicationSettings", &settings).await, 4096);
    assert_eq!(pair.b.run(&["status", "web"]).unwrap()[0]["history"], 7, "the replica keeps the points");
    let changed = stage.all("Msvm_ReplicationSettingData").await.remove(0);
    assert_eq!(changed.get("CompressionEnabled"), Some(&false.into()));

    assert_eq!(request(&stage, &vm, 7).await, 4096);
    state(&stage, &vm, 7).await;
    assert_eq!(request(&stage, &vm, 3).await, 4096);
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
    let stage = open(&pair.b).await;
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
    // The first of its minute stays for as long as this goes on.
    let options = ["--interval", "1", "--history", "24", "--history-every", "60s"];
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
    let cards = |of: &ObjectPath| {
        let xml = stage.host.hypervisor.xml(test_id(of), true).unwrap();
        (xml.matches("<source network='lab'/>").count(), xml.matches("<link state='down'/>").count())
    };
    assert_eq!(cards(&test), (0, 2), "no network is named");
    assert_eq!(call(&stage, &management, "DestroySystem", &affected).await, 4096);

    let connections = stage.all("Msvm_EthernetPortAllocationSettingData").await;
    let lab = connections[1].clone().with("TestReplicaSwitchName", "lab");
    let lab = [("ResourceSettings", Value::Array(vec![text(&stage, &lab)]))];
    assert_eq!(call(&stage, &management, "ModifyResourceSettings", &lab).await, 0);
    let connections = stage.all("Msvm_EthernetPortAllocationSettingData").await;
    let named: Vec<_> = connections.iter().map(|each| each.text("TestReplicaSwitchName")).collect();
    assert_eq!(named, [None, Some("lab")]);
    let result = stage.call(&service, "TestReplicaSystem", &[own.clone(), chosen.clone()]).await;
    let test = out(&result, "ResultingSystem").as_path().unwrap().clone();
    stage.ended(&job(&result)).await;
    assert_eq!(cards(&test), (1, 1));
    let affected = [("AffectedSystem", Value::from(test.clone()))];
    assert_eq!(call(&stage, &management, "DestroySystem", &affected).await, 4096);
    let renamed = connections[0].clone().with("LastKnownSwitchName", "other");
    let renamed = [("ResourceSettings", Value::Array(vec![text(&stage, &renamed)]))];
    assert_eq!(code(&stage.call(&management, "ModifyResourceSettings", &renamed).await), 32770);
    // As from the command line; this host's is its process.
    let adapters = [(MACS[1].to_uppercase(), None)].into();
    stage.run(Command::SetTestNetworks { vm: "web".into(), adapters }).await;

    let result = stage.call(&service, "TestReplicaSystem", &[own.clone(), chosen.clone()]).await;
    let test = out(&result, "ResultingSystem").as_path().unwrap().clone();
    stage.ended(&job(&result)).await;
    assert_eq!(cards(&test), (0, 2), "as configured again");
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
    let settings = Instance::new("Msvm_ReplicationSettingData").with("ReplicationInterval", 2u16);
    let with_settings = [own[0].clone(), ("ReplicationSettingData", text(&stage, &settings))];
    assert_eq!(call(&stage, &service, "ReverseReplicationRelationship", &with_settings).await, 4096);
    state(&stage, &vm, 3).await;
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationMode"), 1);
    assert_eq!(pair.a.run(&["status", "web"]).unwrap()[0]["interval_s"], 2);
    let settings = stage.all("Msvm_ReplicationSettingData").await.remove(0);
    assert_eq!(number(&settings, "ReplicationInterval"), 2);
}

/// Makes the VM's disk one that does not compress; a cut of a VM that is off holds the image for a moment.
fn fill(folder: &Path) {
    let mut bytes = vec![0; 8 << 20];
    rand::rng().fill_bytes(&mut bytes);
    let raw = folder.join("random.raw");
    fs::write(&raw, &bytes).unwrap();
    let write = format!("write -q -s {} 0 8M", raw.display());
    let written = || {
        let mut tool = process::Command::new("qemu-io");
        tool.args(["-c", &write]).arg(folder.join("disk.qcow2")).status().unwrap().success()
    };
    assert!((0..1000).any(|_| written()), "the image stays locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_and_a_comparison_stop_when_they_are_asked_to() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.b.start().unwrap();
    pair.b.run(&["authorize", "a.example", "--storage", pair.b.storage().to_str().unwrap()]).unwrap();
    let stage = open(&pair.a).await;
    let (id, service) = (VmId::random(), stage.service().await);
    let (vm, own) = (vm_path(id), ("ComputerSystem", Value::from(vm_path(id))));
    stage.run(Command::VmDefine { xml: domain(id, &pair.a.root) }).await;
    fill(&pair.a.root);
    let settings = |bandwidth: u64| {
        let settings = Instance::new("Msvm_ReplicationSettingData")
            .with("RecoveryConnectionPoint", "b.example")
            .with("AdditionalSettings", format!("{{\"bandwidth_bytes_per_s\":{bandwidth}}}"));
        [own.clone(), ("ReplicationSettingData", text(&stage, &settings))]
    };
    // So slow that it would take two minutes.
    assert_eq!(call(&stage, &service, "CreateReplicationRelationship", &settings(64 << 10)).await, 4096);
    assert_eq!(request(&stage, &vm, 1).await, 32775, "no copy has begun");
    let start = [own.clone(), ("InitialReplicationType", 1u16.into())];
    assert_eq!(code(&stage.call(&service, "StartReplication", &start).await), 4096);
    state(&stage, &vm, 2).await;
    assert_eq!(request(&stage, &vm, 9).await, 32775, "this is no comparison");
    assert_eq!(request(&stage, &vm, 1).await, 4096);
    state(&stage, &vm, 1).await;

    assert_eq!(call(&stage, &service, "ModifyReplicationSettings", &settings(0)).await, 4096);
    assert_eq!(call(&stage, &service, "StartReplication", &start).await, 4096);
    state(&stage, &vm, 3).await;
    assert_eq!(request(&stage, &vm, 9).await, 32775, "there is nothing to cancel");
    assert_eq!(request(&stage, &vm, 2).await, 32775, "it runs here, and nowhere else");
    assert_eq!(call(&stage, &service, "ModifyReplicationSettings", &settings(64 << 10)).await, 4096);
    // A cycle that met the disk while it is filled would wait for it, and the comparison with it.
    assert!([0, 4096].contains(&request(&stage, &vm, 7).await));
    state(&stage, &vm, 7).await;
    fill(&pair.a.root);
    let own = std::slice::from_ref(&own);
    assert_eq!(code(&stage.call(&service, "Resynchronize", own).await), 4096);
    state(&stage, &vm, 10).await;
    assert_eq!(request(&stage, &vm, 9).await, 4096);
    state(&stage, &vm, 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_primary_becomes_the_replica() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.b.start().unwrap();
    pair.b.run(&["authorize", "a.example", "--storage", pair.b.storage().to_str().unwrap()]).unwrap();
    let stage = open(&pair.a).await;
    let storage = pair.a.storage();
    stage.run(Command::Authorize { host: "b.example".into(), storage, trust_group: None }).await;
    let id = VmId::random();
    let vm = vm_path(id);
    stage.run(Command::VmDefine { xml: domain(id, &pair.a.root) }).await;
    stage.run(protect(id)).await;
    state(&stage, &vm, 3).await;
    pair.b.run(&["failover", "web", "--no-start", "--yes"]).unwrap();
    state(&stage, &vm, 8).await;
    pair.b.run(&["commit", "web", "--yes"]).unwrap();
    assert!(matches!(request(&stage, &vm, 2).await, 0 | 4096));
    mode(&stage, &vm, 2).await;
    assert!(stage.host.hypervisor.domain(id).unwrap().is_none(), "a replica is not defined");
    pair.b.run(&["reverse", "web", "--yes"]).unwrap();
    state(&stage, &vm, 3).await;
    assert_eq!(number(&stage.get(&vm).await.unwrap(), "ReplicationMode"), 2);
}

/// Waits, by events, until the VM is in this mode.
async fn mode(stage: &Stage, vm: &ObjectPath, wanted: i128) {
    let query =
        "SELECT * FROM __InstanceModificationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ComputerSystem'";
    let mut events = stage.events(query).await;
    while number(&stage.get(vm).await.unwrap(), "ReplicationMode") != wanted {
        next(&mut events).await;
    }
}

/// Every second, with nothing kept but the latest point.
fn protect(id: VmId) -> Command {
    Command::Protect {
        vm: id.to_string(),
        to: "b.example".parse().unwrap(),
        interval_s: 1,
        history: 0,
        history_every_s: 3600,
        tiers: vec![],
        disks: None,
        bandwidth_bytes_per_s: None,
        bandwidth_windows: vec![],
        auto_resynchronize: true,
        app_consistent_every_s: 0,
        authentication: model::Authentication::Certificate,
        resync_window: service::api::Window::default(),
        scrub_every_s: 0,
        compress: true,
        bypass_proxy: false,
        start: true,
        seed: Some(false),
        export: None,
        at_ms: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_primary_gets_its_vm_back() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.b.start().unwrap();
    pair.b.run(&["authorize", "a.example", "--storage", pair.b.storage().to_str().unwrap()]).unwrap();
    let stage = open(&pair.a).await;
    let storage = pair.a.storage();
    stage.run(Command::Authorize { host: "b.example".into(), storage, trust_group: None }).await;
    let (id, service) = (VmId::random(), stage.service().await);
    let (vm, own) = (vm_path(id), [("ComputerSystem", Value::from(vm_path(id)))]);
    stage.run(Command::VmDefine { xml: domain(id, &pair.a.root) }).await;
    stage.run(protect(id)).await;
    state(&stage, &vm, 3).await;
    assert_eq!(call(&stage, &service, "InitiateFailback", &own).await, 32775, "it may run here");
    pair.b.run(&["failover", "web", "--no-start", "--yes"]).unwrap();
    state(&stage, &vm, 8).await;
    assert_eq!(request(&stage, &vm, 3).await, 32775, "the other host took it over");
    let as_of = |point: &str| {
        let identifier = Value::from(format!("Microsoft:{}", point.to_ascii_uppercase()));
        [own[0].clone(), ("RecoveryPointIdentifier", identifier)]
    };
    let unknown = as_of("6f1c2a94-83e5-4c07-9d1b-5a2e8f4b7c60");
    assert_eq!(call(&stage, &service, "InitiateFailback", &unknown).await, 32773);
    let points = pair.b.points("web").unwrap();
    let point = as_of(points[0]["point"].as_str().unwrap());
    assert_eq!(call(&stage, &service, "InitiateFailback", &point).await, 4096);
    state(&stage, &vm, 14).await;
    assert_eq!(call(&stage, &service, "InitiateFailback", &point).await, 32775, "it has come home so far");
    // A VM that is off loses its bitmaps with the merge over there: the turn after it compares.
    pair.b.wait_cycles("web", 3, Duration::from_secs(120)).unwrap();
    assert_eq!(call(&stage, &service, "CommitFailover", &own).await, 4096);
    state(&stage, &vm, 3).await;
    let view = stage.get(&vm).await.unwrap();
    assert_eq!((number(&view, "ReplicationMode"), number(&view, "EnabledState")), (1, 2));
}

#[test]
fn a_relationship_under_kerberos_is_made_shown_and_changed() {
    in_realm("a_relationship_under_kerberos_is_made_shown_and_changed", |kdc| {
        let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
        pair.join(kdc).unwrap();
        pair.b.start().unwrap();
        pair.b.run(&["authorize", "a.example", "--storage", pair.b.storage().to_str().unwrap()]).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(under_kerberos(&pair));
    });
}

async fn under_kerberos(pair: &Pair) {
    let stage = open(&pair.a).await;
    let (id, service) = (VmId::random(), stage.service().await);
    let (vm, own) = (vm_path(id), ("ComputerSystem", Value::from(vm_path(id))));
    stage.run(Command::VmDefine { xml: domain(id, &pair.a.root) }).await;
    assert_eq!(run(&stage, &vm, 2).await, 0);
    let own_settings = stage.all("Msvm_ReplicationServiceSettingData").await.remove(0);
    assert_eq!(number(&own_settings, "AllowedAuthenticationType"), 3);
    assert_eq!(number(&own_settings, "HttpPort"), pair.a.kerberos_port.unwrap().into());

    let to = [
        ("RecoveryConnectionPoint", Value::from("b.example")),
        ("RecoveryServerPortNumber", pair.b.kerberos_port.unwrap().into()),
        ("AuthenticationType", 1u16.into()),
    ];
    assert_eq!(call(&stage, &service, "TestReplicationConnection", &to).await, 4096);
    let settings = Instance::new("Msvm_ReplicationSettingData")
        .with("RecoveryConnectionPoint", "b.example")
        .with("AuthenticationType", 1u16)
        .with("ReplicationInterval", 1u16);
    let settings = [own.clone(), ("ReplicationSettingData", text(&stage, &settings))];
    assert_eq!(call(&stage, &service, "CreateReplicationRelationship", &settings).await, 4096);
    let start = [own.clone(), ("InitialReplicationType", 1u16.into())];
    assert_eq!(call(&stage, &service, "StartReplication", &start).await, 4096);
    state(&stage, &vm, 3).await;
    let mut settings = stage.all("Msvm_ReplicationSettingData").await.remove(0);
    assert_eq!(number(&settings, "AuthenticationType"), 1);
    assert_eq!(number(&settings, "RecoveryServerPortNumber"), pair.b.kerberos_port.unwrap().into());
    assert_eq!(settings.text("CertificateThumbPrint"), None);

    settings.set("AuthenticationType", 2u16);
    settings.set("RecoveryServerPortNumber", 0u16);
    let settings = [own, ("ReplicationSettingData", text(&stage, &settings))];
    assert_eq!(call(&stage, &service, "ModifyReplicationSettings", &settings).await, 4096);
    assert_eq!(pair.b.run(&["status", "web"]).unwrap()[0]["authentication"], "certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_marked_is_the_seed_of_its_replica() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.a.start().unwrap();
    pair.a.run(&["authorize", "b.example", "--storage", pair.a.storage().to_str().unwrap()]).unwrap();
    let stage = open(&pair.b).await;
    let storage = pair.b.storage();
    stage.run(Command::Authorize { host: "a.example".into(), storage, trust_group: None }).await;
    let id = VmId::random();
    let vm = vm_path(id);
    let xml = pair.root.join("web.xml");
    fs::write(&xml, domain(id, &pair.a.root)).unwrap();
    pair.a.run(&["vm", "define", xml.to_str().unwrap()]).unwrap();
    stage.run(Command::VmDefine { xml: domain(id, &pair.b.root) }).await;
    // No compression makes a copy of this small.
    fill(&pair.a.root);
    fs::copy(pair.a.root.join("disk.qcow2"), pair.b.root.join("disk.qcow2")).unwrap();
    assert_eq!(request(&stage, &vm, 7).await, 32775, "it has no relationship");
    assert_eq!(request(&stage, &vm, 2).await, 0);
    let view = stage.get(&vm).await.unwrap();
    assert_eq!((number(&view, "ReplicationMode"), number(&view, "ReplicationState")), (2, 2));
    pair.a.run(&["protect", "web", "--to", "b.example", "--interval", "1", "--seed"]).unwrap();
    state(&stage, &vm, 3).await;
    let sent = pair.a.status("web").unwrap()["sent_bytes"].as_u64().unwrap();
    assert!(sent < 1 << 20, "they are the same, and {sent} bytes were sent");
}

/// Changes the service's settings. The return code.
async fn modify(stage: &Stage, change: impl FnOnce(Instance) -> Instance) -> i128 {
    let settings = stage.all("Msvm_ReplicationServiceSettingData").await.remove(0);
    let given = [("SettingData", text(stage, &change(settings)))];
    code(&stage.call(&stage.service().await, "ModifyServiceSettings", &given).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_listens_elsewhere_and_shows_another_certificate_without_a_restart() {
    let mut pair = Pair::prepare(Path::new(BINARY)).unwrap();
    pair.b.start().unwrap();
    let stage = open(&pair.a).await;
    let storage = pair.a.storage();
    stage.run(Command::Authorize { host: "b.example".into(), storage, trust_group: None }).await;
    let bundle = pair.root.join("spare.bundle");
    let bundle = bundle.to_str().unwrap();
    pair.a.run(&["cert", "issue", "a.example", "--out", bundle]).unwrap();
    pair.a.run(&["cert", "install", bundle, "--beside", "spare"]).unwrap();
    let installed = pair.a.run(&["cert", "show"]).unwrap();
    let spare = installed.as_array().unwrap().last().unwrap()["sha1"].as_str().unwrap().to_owned();
    let listed = stage.call(&stage.service().await, "GetSystemCertificates", &[]).await;
    assert_eq!(out(&listed, "EncodedCertificates").as_array().unwrap().len(), 2);
    let reaches = || pair.b.run(&["host", "--test", "a.example"]).map(drop);
    reaches().unwrap();

    let port = testkit::free_port().unwrap();
    let elsewhere = |settings: Instance| {
        settings.with("HttpsPort", port).with("CertificateThumbPrint", spare.to_uppercase())
    };
    assert_eq!(modify(&stage, elsewhere).await, 0);
    let settings = stage.all("Msvm_ReplicationServiceSettingData").await.remove(0);
    assert_eq!(number(&settings, "HttpsPort"), i128::from(port));
    assert_eq!(settings.text("CertificateThumbPrint"), Some(spare.to_uppercase().as_str()));
    reaches().expect_err("nobody listens where b.example looks for this host");
    assert_eq!(modify(&stage, |settings| settings.with("HttpsPort", pair.a.port)).await, 0);
    reaches().unwrap();

    assert_eq!(
        modify(&stage, |settings| settings.with("HttpsPort", pair.b.port)).await,
        32774,
        "it is taken"
    );
    assert_eq!(modify(&stage, |settings| settings.with("HttpPort", port)).await, 32770, "no principal");
    assert_eq!(modify(&stage, |settings| settings.with("CertificateThumbPrint", "AB12")).await, 32773);
    assert_eq!(modify(&stage, |settings| settings.with("MonitoringInterval", 1u32)).await, 32773);
    let unchanged = stage.all("Msvm_ReplicationServiceSettingData").await.remove(0);
    assert_eq!(number(&unchanged, "HttpsPort"), i128::from(pair.a.port));
    reaches().unwrap();

    // Across a restart, too, by the command line.
    let port = testkit::free_port().unwrap();
    pair.b.run(&["host", "--port", &port.to_string()]).unwrap();
    pair.b.stop();
    pair.b.start().unwrap();
    let address = pair.b.run(&["host"]).unwrap()["replication_address"].clone();
    assert_eq!(address, format!("127.0.0.1:{port}"));
}
