//! `Msvm_ReplicationStatistics`: answered by methods only; nothing enumerates it.

use super::{Make, Row, row};
use crate::{instance::datetime, names};
use cim::{DateTime, Instance};
use model::Mode;
use service::{api::IntervalView, inventory::Replication};

pub const ROWS: &[Row] =
    &[row("Msvm_ReplicationStatistics", Make::Never("GetReplicationStatistics(Ex) answer it"))];

/// The counters of the monitoring interval under way, and of the one before it.
pub fn statistics(replication: &Replication, now_ms: i64) -> Vec<Instance> {
    let under_way = &replication.view.interval;
    std::iter::once(under_way)
        .chain(&replication.last_interval)
        .map(|it| of(replication, it, now_ms))
        .collect()
}

/// What a replica does not count is NULL.
fn of(replication: &Replication, interval: &IntervalView, now_ms: i64) -> Instance {
    let view = &replication.view;
    let primary = view.mode == Mode::Primary;
    let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let counted = |count: u64| primary.then(|| small(count));
    let until = interval.until.as_deref().and_then(datetime);
    Instance::new("Msvm_ReplicationStatistics")
        .with("InstanceID", names::relationship_id(view.vm, view.index))
        .with("StartStatisticTime", interval.since.as_deref().and_then(datetime))
        .with("EndStatisticTime", until.or_else(|| Some(DateTime::from_unix_ms(now_ms))))
        .with("ReplicationSuccessCount", small(interval.succeeded))
        .with("ReplicationSize", primary.then_some(interval.sent_bytes))
        .with("MaxReplicationSize", primary.then_some(interval.sent_bytes_max))
        .with("ReplicationLatency", counted(interval.latency_ms.div_ceil(1000)))
        .with("MaxReplicationLatency", counted(interval.latency_ms_max.div_ceil(1000)))
        .with("ReplicationMissCount", counted(interval.missed))
        .with("NetworkFailureCount", counted(interval.network_failed))
        .with("ReplicationFailureCount", counted(interval.failed))
        .with("ApplicationConsistentSnapshotFailureCount", counted(interval.app_consistent_failed))
        .with("PendingReplicationSize", replication.pending_bytes)
        .with("LastTestFailoverTime", view.last_test_at.as_deref().and_then(datetime))
        .with("ReplicationHealth", u32::from(view.health.number()))
}
