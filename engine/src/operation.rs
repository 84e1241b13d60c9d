//! What an operator, or the peer on an operator's behalf, asks of a relationship.

use crate::{Settings, WorkKind};
use model::{DeltaId, HostName};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Begin the first copy.
    StartReplication,
    /// Begin the first copy, into files that are carried over and imported there.
    Export,
    /// Begin this at a later time; what was put off before is forgotten.
    Later {
        at_ms: i64,
        operation: Box<Operation>,
    },
    /// Give up a first copy that is under way, exported or put off.
    CancelStart,
    /// Replicate another set of disks from now on.
    UpdateDisks,
    Suspend,
    Resume,
    Resynchronize,
    /// Stop comparing; the next one begins from the start.
    CancelResynchronize,
    /// Read all of both hosts' disks and send what differs, although nothing says that something should.
    Scrub,
    /// Take over without asking, from this point; `None`: from what is the latest one when it begins.
    Failover {
        point: Option<DeltaId>,
        start: bool,
    },
    /// On the primary: stop the guest, ship the rest, release. With `then_fail_over` the replica is asked to take over.
    /// `keep`: what the VM wrote here last stays a point after the hand-over until an operator drops it.
    Prepare {
        force: bool,
        then_fail_over: Option<bool>,
        #[serde(default)]
        keep: bool,
    },
    /// On the replica: ask the primary to prepare, then take over.
    PlannedFailover {
        start: bool,
    },
    CancelPrepare,
    Revert,
    Commit,
    Reverse,
    /// On a replica that was failed over and forwards: become the primary of the third host, which has `base`, and
    /// leave the former primary behind.
    ChangeToPrimary {
        peer: HostName,
        base: DeltaId,
        settings: Box<Settings>,
    },
    /// On the host to which the VM returns: become the replica of what runs over there. `point`: one of the points
    /// that the peer keeps, as of which the VM is to come home.
    Failback {
        point: Option<DeltaId>,
    },
    /// `None`: as of the point that the failback was begun with, or the latest.
    CompleteFailback {
        point: Option<DeltaId>,
        force: bool,
    },
    CancelFailback,
    /// Asked by the primary: take the copy of its disks that stands here for the bottom of the replica, under
    /// this id.
    Seed {
        id: DeltaId,
    },
    /// Asked by the peer that took over: become its replica.
    Yield,
    /// Asked by the peer that became our replica: feed it. `base`: the state that it has; `point`: one of ours that it
    /// wants first, before what would drop it here.
    Feed {
        base: DeltaId,
        #[serde(default)]
        point: Option<DeltaId>,
    },
}

impl Operation {
    /// The work that carries it out; `None` for those that are done at once.
    pub fn work_kind(&self) -> Option<WorkKind> {
        Some(match self {
            Self::StartReplication => WorkKind::FirstCopy,
            Self::Export => WorkKind::Export,
            Self::UpdateDisks => WorkKind::DiskUpdate,
            Self::Resynchronize => WorkKind::Resync,
            Self::Scrub => WorkKind::Scrub,
            Self::Failover { .. } => WorkKind::Failover,
            Self::Prepare { .. } => WorkKind::Prepare,
            Self::PlannedFailover { .. } => WorkKind::PlannedFailover,
            Self::CancelPrepare => WorkKind::CancelPrepare,
            Self::Revert => WorkKind::Revert,
            Self::Commit => WorkKind::Commit,
            Self::Reverse => WorkKind::Reverse,
            Self::ChangeToPrimary { .. } => WorkKind::ChangeToPrimary,
            Self::Failback { .. } => WorkKind::Failback,
            Self::CompleteFailback { .. } => WorkKind::CompleteFailback,
            Self::Seed { .. } => WorkKind::Seed,
            Self::Yield => WorkKind::Yield,
            Self::Feed { .. } => WorkKind::Feed,
            Self::Later { .. }
            | Self::CancelStart
            | Self::Suspend
            | Self::Resume
            | Self::CancelResynchronize
            | Self::CancelFailback => return None,
        })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::StartReplication => "start replication",
            Self::Export => "export the first copy",
            Self::Later { .. } => "put off",
            Self::CancelStart => "cancel the first copy",
            Self::UpdateDisks => "update the set of disks",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Resynchronize => "resynchronize",
            Self::CancelResynchronize => "cancel resynchronization",
            Self::Scrub => "scrub",
            Self::Failover { .. } => "failover",
            Self::Prepare { .. } => "prepare planned failover",
            Self::PlannedFailover { .. } => "planned failover",
            Self::CancelPrepare => "cancel planned failover",
            Self::Revert => "revert",
            Self::Commit => "commit",
            Self::Reverse => "reverse",
            Self::ChangeToPrimary { .. } => "change to primary",
            Self::Failback { .. } => "failback",
            Self::CompleteFailback { .. } => "complete failback",
            Self::CancelFailback => "cancel failback",
            Self::Seed { .. } => "take the seed",
            Self::Yield => "become replica",
            Self::Feed { .. } => "feed replica",
        }
    }
}
