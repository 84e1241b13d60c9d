//! Views of the host's VMs, relationships and points.

use crate::{
    addresses,
    api::{
        AdapterAddresses, DiskView, DrillView, Failure, InterfaceView, IntervalView, PointView,
        RelationshipView, ScrubView, VmView,
    },
    bandwidth,
    clock::{now_ms, rfc3339},
    commands::{drill, seed::Seed, test::TestVm},
    health,
    host::{Host, document},
    owner::OwnerHandle,
    upkeep,
};
use hypervisor::{DomainInfo, DomainState, InterfaceInfo, inventory::Hardware};
use model::{DeltaId, Health, Mode, ReplicationState, VmId};

pub fn vms(host: &Host) -> Result<Vec<VmView>, Failure> {
    let domains = host.hypervisor.domains().map_err(|e| Failure::internal("list the VMs", &e))?;
    let health = |owner: &OwnerHandle| health::worst(&health::issues(host, owner));
    let health_of = |vm| host.owner(vm).as_ref().map_or(Health::NotApplicable, health);
    let mut views: Vec<_> = domains.iter().map(|domain| vm(host, domain, health_of(domain.vm))).collect();
    for owner in host.all_owners() {
        if !views.iter().any(|view| view.vm == owner.vm) {
            let cards = point_hardware(host, owner.vm).interfaces;
            views.push(without_domain(host, &owner, health(&owner), &cards));
        }
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(views)
}

pub fn vm(host: &Host, domain: &DomainInfo, health: Health) -> VmView {
    let owner = host.owner(domain.vm);
    let record = owner.as_ref().map(OwnerHandle::record);
    let records = host.disks(domain.vm).unwrap_or_default();
    let disks: Vec<_> = domain
        .disks
        .iter()
        .filter(|disk| disk.is_replicated())
        .map(|disk| {
            let known = records.iter().find(|record| record.target == disk.target);
            DiskView {
                target: disk.target.clone(),
                disk: known.map(|record| record.disk),
                path: disk.path().map(ToOwned::to_owned).unwrap_or_default(),
                format: disk.format.clone(),
                // A domain that was only sketched does not tell it.
                size_bytes: known.map_or(0, |record| record.size_bytes).max(disk.size_bytes),
                replicated: known.is_some(),
                obstacle: disk.refused.clone(),
            }
        })
        .collect();
    let mut obstacles: Vec<_> = disks
        .iter()
        .filter_map(|disk| disk.obstacle.as_ref().map(|why| format!("{}: {why}", disk.target)))
        .collect();
    if !domain.internal_snapshots.is_empty() {
        obstacles.push(format!("internal snapshots: {}", domain.internal_snapshots.join(", ")));
    }
    let autostart = host.document::<bool>(domain.vm, crate::host::document::AUTOSTART).ok().flatten();
    // As Hyper-V has it: a VM that was marked waits as a replica for its primary.
    let seed = owner.is_none() && host.document::<Seed>(domain.vm, document::SEED).ok().flatten().is_some();
    let (mode, state) = match &record {
        Some(record) => (record.mode, record.state),
        None if seed => (Mode::Replica, ReplicationState::WaitingForInitialReplication),
        None => (Mode::None, ReplicationState::Disabled),
    };
    VmView {
        vm: domain.vm,
        name: domain.name.clone(),
        power_state: power_state(domain.state).to_owned(),
        mode,
        replication_state: state,
        health,
        peer: record.map(|record| record.peer),
        autostart: domain.autostart || autostart == Some(true),
        guest_agent: domain.guest_agent,
        disks,
        interfaces: interfaces(host, domain.vm, &domain.interfaces),
        obstacles,
    }
}

/// A replica that is not defined, with the network cards that it has at its newest point.
pub fn without_domain(host: &Host, owner: &OwnerHandle, health: Health, cards: &[InterfaceInfo]) -> VmView {
    let record = owner.record();
    let disks = host.disks(record.vm).unwrap_or_default().into_iter().map(|disk| DiskView {
        target: disk.target,
        disk: Some(disk.disk),
        path: disk.path.unwrap_or_default(),
        format: disk.format,
        size_bytes: disk.size_bytes,
        replicated: true,
        obstacle: None,
    });
    VmView {
        vm: record.vm,
        name: record.name.clone(),
        power_state: "replica".to_owned(),
        mode: record.mode,
        replication_state: record.state,
        health,
        peer: Some(record.peer.clone()),
        autostart: false,
        guest_agent: None,
        disks: disks.collect(),
        interfaces: interfaces(host, record.vm, cards),
        obstacles: vec![],
    }
}

fn interfaces(host: &Host, vm: VmId, cards: &[InterfaceInfo]) -> Vec<InterfaceView> {
    let set: Vec<AdapterAddresses> =
        host.document(vm, document::ADDRESSES).ok().flatten().unwrap_or_default();
    let test_networks = addresses::test_networks(host, vm);
    let view = |card: &InterfaceInfo| InterfaceView {
        test_network: test_networks.get(&card.mac.to_ascii_lowercase()).cloned(),
        mac: card.mac.clone(),
        network: card.network.clone(),
        failover: set.iter().find(|set| set.mac.eq_ignore_ascii_case(&card.mac)).cloned(),
    };
    cards.iter().map(view).collect()
}

/// The addresses of the VM's cards, in lower case.
pub fn macs(host: &Host, vm: VmId) -> Vec<String> {
    let domain = host.hypervisor.sketch(vm).ok().flatten();
    let cards = domain.map_or_else(|| point_hardware(host, vm).interfaces, |domain| domain.interfaces);
    cards.into_iter().map(|card| card.mac.to_ascii_lowercase()).collect()
}

/// What the VM had at the newest point.
pub fn point_hardware(host: &Host, vm: VmId) -> Hardware {
    let newest = || {
        let store = host.store(vm).ok()?;
        let text = crate::steps::domain_xml(&store, store.latest().ok()??.delta).ok()?;
        hypervisor::inventory::hardware(&text).ok()
    };
    newest().unwrap_or_default()
}

fn power_state(state: DomainState) -> &'static str {
    match state {
        DomainState::Running => "running",
        DomainState::Paused => "paused",
        DomainState::ShutOff => "shut off",
        DomainState::Migrated => "migrated",
        DomainState::Crashed => "crashed",
        _ => "in transition",
    }
}

pub fn relationship(host: &Host, owner: &OwnerHandle) -> RelationshipView {
    let snapshot = owner.snapshot();
    let r = &snapshot.record;
    let issues = health::issues(host, owner);
    let points = if r.mode.is_replica() { points(host, r.vm).unwrap_or_default() } else { vec![] };
    let newest = points.iter().find(|point| point.latest).cloned();
    let power = host.hypervisor.state(r.vm).ok().flatten();
    let now = now_ms();
    // The primary knows the age of what was acknowledged; the replica that of what it holds.
    let forwarded = r.latest.filter(|_| r.is_extended()).and_then(|latest| cut_at_ms(host, r.vm, latest));
    let rpo_s = match (&newest, forwarded.or(r.statistics.last_success_ms)) {
        (Some(point), _) => Some(point.age_s),
        (None, Some(at)) if r.latest.is_some() => Some((now - at).max(0) as f64 / 1000.0),
        _ => None,
    };
    let activity = match &r.work {
        Some(work) => {
            let stage = snapshot.progress.stage();
            format!("{}: {}", work.kind.name(), if stage.is_empty() { "waiting" } else { &stage })
        }
        None => String::new(),
    };
    let worst = health::worst(&issues);
    // To be seen, and nothing that the engine knows: replication goes on, and a failover can begin.
    use ReplicationState::{Committed, FailoverInProgress, FireDrill, Recovered};
    let state = match r.state {
        state @ (FailoverInProgress | Recovered | Committed) => state,
        _ if drill::is_under_way(host, r.vm) => FireDrill,
        state => state,
    };
    RelationshipView {
        vm: r.vm,
        index: r.index,
        name: r.name.clone(),
        mode: r.mode,
        peer: r.peer.clone(),
        state,
        state_number: state.number(),
        health: worst,
        issues,
        generation: r.token.generation().clone(),
        may_run: r.may_run(),
        power_state: power.map_or("replica", power_state).to_owned(),
        interval_s: r.settings.interval_s,
        history: r.settings.history,
        history_every_s: r.settings.history_every_s,
        tiers: r.settings.tiers.clone(),
        bandwidth_bytes_per_s: r.settings.bandwidth_bytes_per_s,
        bandwidth_windows: r.settings.bandwidth_windows.clone(),
        bandwidth_now_bytes_per_s: bandwidth::now(host, &r.settings),
        app_consistent_every_s: r.settings.app_consistent_every_s,
        last_app_consistent_at: r.statistics.last_consistent_ms.map(rfc3339),
        app_consistent_failures: r.statistics.consistent_failed,
        last_kind: r.statistics.last_kind,
        authentication: r.settings.authentication,
        rpo_s,
        points: u32::try_from(points.len()).unwrap_or(u32::MAX),
        newest_point: newest,
        cycles_succeeded: r.statistics.cycles_succeeded,
        cycles_missed: r.statistics.cycles_missed,
        cycles_failed: r.statistics.cycles_failed,
        cycles_waited: r.statistics.cycles_waited,
        last_cycle_bytes: r.statistics.last_cycle_bytes,
        last_cycle_ms: r.statistics.last_cycle_ms,
        sent_bytes: r.statistics.sent_bytes,
        interval: interval(&r.statistics.interval),
        last_drill: drill::last(host, r.vm).map(|drill| DrillView {
            at: rfc3339(drill.at_ms),
            point: drill.point,
            passed: drill.passed,
            message: drill.message,
        }),
        scrub: ScrubView {
            every_s: r.settings.scrub_every_s,
            last_at: r.statistics.last_scrub_ms.map(rfc3339),
            changed_on_primary: r.statistics.repaired.changed_on_primary,
            damaged_on_replica: r.statistics.repaired.damaged_on_replica,
        },
        last_test_at: host.document(r.vm, document::LAST_TEST).ok().flatten().map(rfc3339),
        no_backup: no_backup(owner, r, worst),
        activity,
        job: snapshot.job,
        retry_in_s: r.retry.until_ms.filter(|until| *until > now).map(|until| (until - now) as f64 / 1000.0),
        failover_network: addresses::outcome(host, r.vm).map(|outcome| outcome.message),
        test_vm: host.document::<TestVm>(r.vm, document::TEST).ok().flatten().map(|test| test.name),
    }
}

/// When a point that is kept here, hidden or not, was cut on the primary.
fn cut_at_ms(host: &Host, vm: VmId, delta: DeltaId) -> Option<i64> {
    let points = host.catalog.points(vm).ok()?;
    points.into_iter().find(|point| point.delta == delta).map(|point| point.cut_at_ms)
}

pub fn interval(interval: &engine::Interval) -> IntervalView {
    IntervalView {
        since: (interval.began_ms > 0).then(|| rfc3339(interval.began_ms)),
        until: interval.ended_ms.map(rfc3339),
        succeeded: interval.succeeded,
        missed: interval.missed,
        failed: interval.failed,
        network_failed: interval.network_failed,
        app_consistent_failed: interval.consistent_failed,
        sent_bytes: interval.bytes,
        sent_bytes_max: interval.bytes_max,
        latency_ms: interval.latency_ms,
        latency_ms_max: interval.latency_ms_max,
    }
}

/// A copy of a replica's files is worth nothing while they are being written or merged, and nothing on which to rely
/// while something is wrong with them.
fn no_backup(owner: &OwnerHandle, r: &engine::Relationship, health: Health) -> Option<String> {
    use ReplicationState as S;
    let why = match r.state {
        _ if !r.mode.is_replica() || r.is_extended() => return None,
        S::WaitingForInitialReplication => "the first copy is not complete",
        S::FailoverInProgress | S::FailbackInProgress => "a failover or failback is under way",
        _ if r.work.is_some() => "an operation is under way",
        _ if owner.is_receiving() => "a delta is being received",
        _ if upkeep::is_running(r.vm) => "points are being merged",
        _ if health == Health::Critical => "replication is in a critical state",
        _ => return None,
    };
    Some(why.to_owned())
}

pub fn points(host: &Host, vm: VmId) -> Result<Vec<PointView>, Failure> {
    let store = host.store(vm)?;
    let mut points = store.points().map_err(|e| Failure::internal("read the points", &e))?;
    let record = host.owner(vm).map(|owner| owner.record());
    let seed = record.as_ref().and_then(|record| record.seed);
    points.retain(|point| Some(point.delta) != seed);
    let reasons = record.map(|r| layers::reasons(&points, &upkeep::policy(&r.settings))).unwrap_or_default();
    let kept_for = |delta: DeltaId| {
        let reasons = reasons.iter().find(|(point, _)| *point == delta);
        reasons.map(|(_, reasons)| reasons.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    let layers = host.catalog.layers(vm).map_err(|e| Failure::internal("read the layers", &e))?;
    let now = now_ms();
    let last = points.len().saturating_sub(1);
    Ok(points
        .iter()
        .enumerate()
        .map(|(index, point)| PointView {
            point: point.delta,
            sequence: point.sequence,
            kind: point.kind,
            latest: index == last,
            cut_at: rfc3339(point.cut_at_ms),
            received_at: rfc3339(point.received_at_ms),
            age_s: (now - point.cut_at_ms).max(0) as f64 / 1000.0,
            stored_bytes: layers
                .iter()
                .filter(|layer| layer.delta == point.delta)
                .map(|layer| layer.stored_bytes)
                .sum(),
            kept_for: kept_for(point.delta),
            note: (!point.note.is_empty()).then(|| point.note.clone()),
        })
        .collect())
}

/// `14 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}
