//! What an operator, or the peer on an operator's behalf, asks of a relationship.

use model::DeltaId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Begin the first copy.
    StartReplication,
    Suspend,
    Resume,
    Resynchronize,
    /// Stop comparing; the next one begins from the start.
    CancelResynchronize,
    /// Take over without asking. `latest`: the point is the latest one, and `planned` says that the peer
    /// has released the token.
    Failover {
        point: DeltaId,
        start: bool,
    },
    /// On the primary: stop the guest, ship the rest, release. With `then_fail_over` the replica is asked to take over.
    Prepare {
        force: bool,
        then_fail_over: Option<bool>,
    },
    /// On the replica: ask the primary to prepare, then take over.
    PlannedFailover {
        start: bool,
    },
    CancelPrepare,
    Revert,
    Commit,
    Reverse,
    /// On the host to which the VM returns: become the replica of what runs over there.
    Failback,
    CompleteFailback {
        point: Option<DeltaId>,
        force: bool,
    },
    CancelFailback,
    /// Asked by the peer that took over: become its replica.
    Yield,
    /// Asked by the peer that became our replica: feed it. `base`: the state that it has.
    Feed {
        base: DeltaId,
    },
}

impl Operation {
    pub fn name(&self) -> &'static str {
        match self {
            Self::StartReplication => "start replication",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Resynchronize => "resynchronize",
            Self::CancelResynchronize => "cancel resynchronization",
            Self::Failover { .. } => "failover",
            Self::Prepare { .. } => "prepare planned failover",
            Self::PlannedFailover { .. } => "planned failover",
            Self::CancelPrepare => "cancel planned failover",
            Self::Revert => "revert",
            Self::Commit => "commit",
            Self::Reverse => "reverse",
            Self::Failback => "failback",
            Self::CompleteFailback { .. } => "complete failback",
            Self::CancelFailback => "cancel failback",
            Self::Yield => "become replica",
            Self::Feed { .. } => "feed replica",
        }
    }
}
