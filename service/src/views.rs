//! Views of the host's VMs, relationships and points.

use crate::{
    api::{DiskView, Failure, InterfaceView, PointView, RelationshipView, VmView},
    clock::{now_ms, rfc3339},
    commands::test::TestVm,
    health,
    host::{Host, document},
    owner::OwnerHandle,
};
use hypervisor::{DomainInfo, DomainState};
use model::{Health, Mode, ReplicationState, VmId};

pub fn vms(host: &Host) -> Result<Vec<VmView>, Failure> {
    let domains = host.hypervisor.domains().map_err(|e| Failure::internal("list the VMs", &e))?;
    let mut views: Vec<_> = domains.iter().map(|domain| vm(host, domain)).collect();
    for owner in host.all_owners() {
        if !views.iter().any(|view| view.vm == owner.vm) {
            views.push(without_domain(host, &owner));
        }
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(views)
}

pub fn vm(host: &Host, domain: &DomainInfo) -> VmView {
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
    VmView {
        vm: domain.vm,
        name: domain.name.clone(),
        power_state: power_state(domain.state).to_owned(),
        mode: record.as_ref().map_or(Mode::None, |record| record.mode),
        replication_state: record.as_ref().map_or(ReplicationState::Disabled, |record| record.state),
        health: owner
            .as_ref()
            .map_or(Health::NotApplicable, |owner| health::worst(&health::issues(host, owner))),
        peer: record.map(|record| record.peer),
        autostart: domain.autostart || autostart == Some(true),
        guest_agent: domain.guest_agent,
        disks,
        interfaces: domain
            .interfaces
            .iter()
            .map(|card| InterfaceView { mac: card.mac.clone(), network: card.network.clone() })
            .collect(),
        obstacles,
    }
}

pub fn without_domain(host: &Host, owner: &OwnerHandle) -> VmView {
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
        health: health::worst(&health::issues(host, owner)),
        peer: Some(record.peer.clone()),
        autostart: false,
        guest_agent: None,
        disks: disks.collect(),
        interfaces: vec![],
        obstacles: vec![],
    }
}

fn power_state(state: DomainState) -> &'static str {
    match state {
        DomainState::Running => "running",
        DomainState::Paused => "paused",
        DomainState::ShutOff => "shut off",
        DomainState::Crashed => "crashed",
        _ => "in transition",
    }
}

pub fn relationship(host: &Host, owner: &OwnerHandle) -> RelationshipView {
    let snapshot = owner.snapshot();
    let r = &snapshot.record;
    let issues = health::issues(host, owner);
    let points = if r.mode == Mode::Replica { points(host, r.vm).unwrap_or_default() } else { vec![] };
    let newest = points.iter().find(|point| point.latest).cloned();
    let power = host.hypervisor.state(r.vm).ok().flatten();
    let now = now_ms();
    // The primary knows the age of what was acknowledged; the replica that of what it holds.
    let rpo_s = match (&newest, r.statistics.last_success_ms) {
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
    RelationshipView {
        vm: r.vm,
        name: r.name.clone(),
        mode: r.mode,
        peer: r.peer.clone(),
        state: r.state,
        state_number: r.state.number(),
        health: health::worst(&issues),
        issues,
        generation: r.token.generation().clone(),
        may_run: r.may_run(),
        power_state: power.map_or("replica", power_state).to_owned(),
        interval_s: r.settings.interval_s,
        history: r.settings.history,
        history_every_s: r.settings.history_every_s,
        bandwidth_bytes_per_s: r.settings.bandwidth_bytes_per_s,
        rpo_s,
        points: u32::try_from(points.len()).unwrap_or(u32::MAX),
        newest_point: newest,
        cycles_succeeded: r.statistics.cycles_succeeded,
        cycles_missed: r.statistics.cycles_missed,
        cycles_failed: r.statistics.cycles_failed,
        last_cycle_bytes: r.statistics.last_cycle_bytes,
        last_cycle_ms: r.statistics.last_cycle_ms,
        sent_bytes: r.statistics.sent_bytes,
        activity,
        job: snapshot.job,
        retry_in_s: r.retry.until_ms.filter(|until| *until > now).map(|until| (until - now) as f64 / 1000.0),
        test_vm: host.document::<TestVm>(r.vm, document::TEST).ok().flatten().map(|test| test.name),
    }
}

pub fn points(host: &Host, vm: VmId) -> Result<Vec<PointView>, Failure> {
    let store = host.store(vm)?;
    let points = store.points().map_err(|e| Failure::internal("read the points", &e))?;
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
