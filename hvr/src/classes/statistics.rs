//! `Msvm_ReplicationStatistics`: answered by methods only; nothing enumerates it.

use super::{Make, Row, row};
use crate::{instance::datetime, names};
use cim::{DateTime, Instance};
use model::Mode;
use service::inventory::Replication;

pub const ROWS: &[Row] =
    &[row("Msvm_ReplicationStatistics", Make::Never("GetReplicationStatistics(Ex) answer it"))];

/// The counters of a relationship, up to now. What it does not count is NULL.
pub fn statistics(replication: &Replication, now_ms: i64) -> Instance {
    let view = &replication.view;
    let primary = view.mode == Mode::Primary;
    let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Instance::new("Msvm_ReplicationStatistics")
        .with("InstanceID", names::relationship_id(view.vm))
        .with("StartStatisticTime", replication.statistics_since.as_deref().and_then(datetime))
        .with("EndStatisticTime", DateTime::from_unix_ms(now_ms))
        .with("ReplicationSuccessCount", small(view.cycles_succeeded))
        .with("ReplicationSize", primary.then_some(view.sent_bytes))
        .with("ReplicationMissCount", primary.then(|| small(view.cycles_missed)))
        .with("ReplicationFailureCount", primary.then(|| small(view.cycles_failed)))
        .with("ReplicationHealth", u32::from(view.health.number()))
}
