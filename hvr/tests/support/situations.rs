//! Relationships put into a state without a second host: the record as it would have come about, with what it rests
//! on, real layers and domains. What waits for the other host, which is silent, is inert.

#![allow(dead_code, reason = "each test file uses its part")]

use super::support::{DISK_BYTES, Stage, domain, vm_path};
use engine::{
    Context, FailedOver, FailoverType, Operation, Relationship, Scheduled, Settings, Step, Superseded, Token,
    Work, WorkKind, plan,
};
use layers::{Incoming, IncomingDisk};
use model::{
    CLUSTER_BYTES, Chunk, ChunkContent, DeltaId, DiskId, Generation, Mode, PointKind, ReplicationState as S,
    VmId, hash_cluster,
};
use service::{DiskRecord, document};
use std::path::PathBuf;
use uuid::Uuid;

/// The silent hosts: nobody listens there.
pub const CONFIG: &str = "[peers.\"b.example\"]\naddress = \"127.0.0.1:1\"\n\
                          [peers.\"c.example\"]\naddress = \"127.0.0.1:1\"\n";

/// Long after any test has ended.
const NEVER_MS: i64 = i64::MAX / 4;

/// The situations that a VM can be in on one host: how this host stands to it, and the number of the state. In brackets
/// what makes a difference within one state.
pub const ALL: &[&str] = &[
    "none",
    "primary 1",
    "primary 1 (scheduled)",
    "primary 1 (seeded)",
    "primary 2",
    "primary 2 (taken over)",
    "primary 3",
    "primary 3 (taken over)",
    "primary 4",
    "primary 7",
    "primary 7 (taken over)",
    "primary 8",
    "primary 8 (taken over)",
    "primary 9",
    "primary 9 (taken over)",
    "primary 10",
    "primary 11",
    "primary 15",
    "primary 16",
    "replica 2",
    "replica 3",
    "replica 5 (planned)",
    "replica 5 (unplanned)",
    "replica 6 (planned)",
    "replica 6 (unplanned)",
    "replica 6 (forwards)",
    "replica 7",
    "replica 8",
    "replica 12",
    "replica 13",
    "replica 14",
    "replica 21",
    "extended replica 2",
    "extended replica 3",
    "extended replica 5",
    "extended replica 6",
    "extended replica 7",
    "extended replica 8",
    "extended replica 12",
    "forwards 1",
    "forwards 2",
    "forwards 3",
    "forwards 7",
    "forwards 8",
    "forwards 9",
    "forwards 10",
    "forwards 11",
];

/// The number of the state in a situation's name; 0 where there is no relationship.
pub fn state(situation: &str) -> u16 {
    situation.split(' ').find_map(|word| word.parse().ok()).unwrap_or(0)
}

/// The index of the relationship that the situation is about.
pub fn index(situation: &str) -> u16 {
    u16::from(situation.starts_with("forwards"))
}

/// Puts a new VM into a situation.
pub async fn make(stage: &Stage, situation: &str) -> VmId {
    let vm = VmId::random();
    let number = state(situation);
    let state = S::ALL.iter().copied().find(|state| state.number() == number).unwrap();
    match situation.split(' ').next().unwrap() {
        "none" => stage.define_as(vm, &vm.to_string()).await,
        "primary" => primary(stage, vm, state, situation).await,
        "replica" => replica(stage, vm, Mode::Replica, state, situation).await,
        "extended" => replica(stage, vm, Mode::ExtendedReplica, state, situation).await,
        _ => forwards(stage, vm, state).await,
    }
    vm
}

fn settings() -> Settings {
    Settings {
        interval_s: 43_200,
        history: 4,
        history_every_s: 1,
        auto_resynchronize: true,
        ..Settings::default()
    }
}

/// Nothing becomes due by itself.
fn inert(record: &mut Relationship) {
    record.next_cycle_ms = NEVER_MS;
    record.retry.later(NEVER_MS, "the other host is silent".to_owned());
}

/// A turn that has cut, and cannot ship.
fn waiting_turn(record: &mut Relationship, kind: WorkKind) {
    let delta = record.source.unwrap_or_else(DeltaId::random);
    let mut work = plan::turn(kind, record.state, delta, record.latest);
    (work.at, work.waits) = (1, true);
    if kind == WorkKind::FirstCopy {
        work.before = S::Ready;
    }
    record.work = Some(work);
}

/// The first copy's job, which is followed.
fn copying(stage: &Stage, record: &Relationship) {
    let (job, _) = stage.host.jobs.begin(Some((record.vm, &record.name)), "first copy", 94);
    let link = serde_json::json!({ "job": job, "operation": Operation::StartReplication });
    stage.host.put_document(record.vm, document::JOB[usize::from(record.index)], &link).unwrap();
}

async fn primary(stage: &Stage, vm: VmId, state: S, situation: &str) {
    let (host, name) = (&stage.host, vm.to_string());
    let peer: model::HostName = "b.example".parse().unwrap();
    let mut record = Relationship::primary(vm, name.clone(), host.name.clone(), peer.clone(), settings());
    inert(&mut record);
    record.state = state;
    record.wants_running = false;
    record.latest = (state != S::Ready).then(DeltaId::random);
    record.seed = situation.ends_with("(seeded)").then(DeltaId::random);
    let later = Scheduled { at_ms: NEVER_MS, operation: Operation::StartReplication };
    record.scheduled = situation.ends_with("(scheduled)").then_some(later);
    match state {
        S::WaitingForInitialReplication => {
            record.latest = None;
            waiting_turn(&mut record, WorkKind::FirstCopy);
            copying(stage, &record);
        }
        S::Resynchronizing => waiting_turn(&mut record, WorkKind::Resync),
        S::DiskUpdateInProgress => waiting_turn(&mut record, WorkKind::DiskUpdate),
        S::SyncedReplicationComplete => {
            let to = Generation { number: 2, owner: peer.clone(), nonce: Uuid::new_v4() };
            record.token = Token::Released { to, withdrawing: None };
        }
        S::WaitingForResynchronize | S::ResynchronizeSuspended => record.resync = Some("asked for".into()),
        _ => {}
    }
    if situation.ends_with("(taken over)") {
        let by = Generation { number: 2, owner: peer, nonce: Uuid::new_v4() };
        record.token = Token::Elsewhere { generation: by.clone() };
        if state == S::Critical {
            record.superseded = Some(Superseded { by, at_ms: 0, was_running: true });
        }
        record.work = None;
    }
    let disk = stage.make_disk(&name);
    host.save_disks(vm, &[disk_record(Some(disk.clone()))]).unwrap();
    if let (S::SyncedReplicationComplete, Some(latest)) = (state, record.latest) {
        // What the last delta before the hand-over left behind.
        let capture = host.capture(vm).unwrap();
        capture.take_stock(None, latest).unwrap();
        capture.keep_stock(latest).unwrap();
    }
    adopt(stage, record).await;
    // A primary that has handed its VM over has undefined it. One that is resumed would find at once that nothing was
    // tracked, and compare.
    let resumed = ["primary 7", "primary 8"].contains(&situation);
    if state != S::SyncedReplicationComplete && !resumed {
        stage.host.hypervisor.define(&domain(vm, &name, 64, &disk)).unwrap();
    }
}

fn disk_record(path: Option<PathBuf>) -> DiskRecord {
    DiskRecord {
        disk: DiskId::random(),
        target: "vda".into(),
        size_bytes: DISK_BYTES,
        path,
        format: "qcow2".into(),
    }
}

/// The record of a replica with its storage, and as many points as the state has.
fn replica_record(stage: &Stage, vm: VmId, mode: Mode, state: S) -> Relationship {
    let host = &stage.host;
    let peer: model::HostName = "b.example".parse().unwrap();
    let generation = Generation::first(peer.clone());
    let mut record =
        Relationship::replica(vm, vm.to_string(), host.name.clone(), peer, settings(), generation);
    record.mode = mode;
    record.state = state;
    inert(&mut record);
    let storage = stage.root().join("replicas");
    std::fs::create_dir_all(&storage).unwrap();
    let disk = disk_record(None);
    host.put_document(vm, document::STORAGE, &storage).unwrap();
    host.save_disks(vm, std::slice::from_ref(&disk)).unwrap();
    host.save(&record).unwrap();
    for _ in 0..if state == S::WaitingForInitialReplication { 0 } else { 2 } {
        record.latest = Some(receive(stage, &record, disk.disk));
    }
    record
}

/// Receives a point with one cluster of data.
fn receive(stage: &Stage, record: &Relationship, disk: DiskId) -> DeltaId {
    let (vm, delta) = (record.vm, DeltaId::random());
    let store = stage.host.store(vm).unwrap();
    let now_ms = i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis(),
    )
    .unwrap();
    let incoming = Incoming {
        delta,
        base: record.latest,
        disks: vec![IncomingDisk { disk, size_bytes: DISK_BYTES }],
        cut_at_ms: now_ms,
        kind: PointKind::Regular,
        domain_xml: domain(vm, &record.name, 64, &stage.root().join("elsewhere.qcow2")),
        small_files: vec![],
    };
    let bytes = vec![7; usize::try_from(CLUSTER_BYTES).unwrap()];
    let hashes = vec![hash_cluster(&bytes)];
    let mut writer = store.begin(incoming).unwrap();
    writer.write(&Chunk { disk: 0, cluster: 0, content: ChunkContent::Data { bytes, hashes } }).unwrap();
    let sealed = writer.seal().unwrap();
    let generation = record.token.generation();
    store.commit(sealed, 0, generation.number, generation.nonce, now_ms).unwrap();
    delta
}

async fn replica(stage: &Stage, vm: VmId, mode: Mode, state: S, situation: &str) {
    let failed_over = matches!(state, S::Recovered | S::Committed);
    let own = match state {
        S::FireDrill => S::Replicating,
        _ if failed_over => S::Replicating,
        state => state,
    };
    let mut record = replica_record(stage, vm, mode, own);
    if situation.ends_with("(planned)") {
        let by = Generation { number: 2, owner: stage.host.name.clone(), nonce: Uuid::new_v4() };
        record.token = Token::Offered { generation: by };
    }
    if state == S::FailoverInProgress {
        failing_over(&mut record);
    }
    let extends = situation.ends_with("(forwards)").then(|| record.clone());
    adopt(stage, record).await;
    if let Some(record) = extends {
        adopt(stage, forwarding(&record, S::Replicating)).await;
    }
    if failed_over {
        operate(stage, vm, true).await;
    }
    if state == S::Committed {
        operate(stage, vm, false).await;
    }
    if state == S::FireDrill {
        // The drill has made its test VM, and waits for its sign of life.
        let test = serde_json::json!({ "vm": VmId::random(), "name": format!("{vm} - Test"),
            "point": DeltaId::random(), "overlay": 1 });
        stage.host.put_document(vm, document::TEST, &test).unwrap();
        stage.host.put_document(vm, document::DRILLING, &true).unwrap();
    }
}

/// A failover that has taken the VM over, and waits for libvirt.
fn failing_over(record: &mut Relationship) {
    let context = Context { now_ms: 0, utc_offset_min: 0, fresh: Uuid::new_v4() };
    let point = record.latest.unwrap();
    let mut work: Work =
        plan::plan(record, &Operation::Failover { point: Some(point), start: false }, context.fresh).unwrap();
    work.at = work.plan.iter().position(|step| *step == Step::DefineOverlay).unwrap();
    work.waits = true;
    let generation = Generation { number: 2, owner: record.host.clone(), nonce: Uuid::new_v4() };
    record.token = Token::Held { generation, acknowledged: false };
    record.overlays = 1;
    record.failed_over = Some(FailedOver {
        point,
        overlay: 1,
        kind: FailoverType::Unplanned,
        point_kind: PointKind::Regular,
        at_ms: 0,
    });
    record.work = Some(work);
}

/// Fails the replica over, or commits that, by its owner.
async fn operate(stage: &Stage, vm: VmId, fails_over: bool) {
    let (service, method) =
        (stage.service().await, if fails_over { "InitiateFailover" } else { "CommitFailover" });
    let result = stage.call(&service, method, &[("ComputerSystem", vm_path(vm).into())]).await;
    let ended = stage.ended(&super::support::job(&result)).await;
    assert_eq!(super::support::number(&ended, "JobState"), 7, "{method}: {ended:?}");
}

/// Relationship 1 of a replica.
fn forwarding(replica: &Relationship, state: S) -> Relationship {
    let mut record = Relationship::extended(replica, "c.example".parse().unwrap(), settings());
    inert(&mut record);
    record.state = state;
    record.latest = record.source.filter(|_| state != S::Ready);
    record
}

async fn forwards(stage: &Stage, vm: VmId, state: S) {
    let mut replica = replica_record(stage, vm, Mode::Replica, S::Replicating);
    if state == S::Critical {
        let generation = Generation { number: 2, owner: "c.example".parse().unwrap(), nonce: Uuid::new_v4() };
        replica.token = Token::Elsewhere { generation };
    }
    let mut record = forwarding(&replica, state);
    match state {
        S::Critical => {
            let by = replica.token.generation().clone();
            record.superseded = Some(Superseded { by, at_ms: 0, was_running: false });
        }
        S::WaitingForInitialReplication => {
            record.latest = None;
            waiting_turn(&mut record, WorkKind::FirstCopy);
            copying(stage, &record);
        }
        S::Resynchronizing => waiting_turn(&mut record, WorkKind::Resync),
        S::WaitingForResynchronize | S::ResynchronizeSuspended => record.resync = Some("asked for".into()),
        _ => {}
    }
    adopt(stage, replica).await;
    adopt(stage, record).await;
}

/// Takes a record in, and waits until its owner has looked at it.
async fn adopt(stage: &Stage, record: Relationship) {
    let owner = stage.host.adopt(record).unwrap();
    owner.amend(|_| {}).await.unwrap();
}
