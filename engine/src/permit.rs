//! Which operation is possible in which mode and state, and why not.

use crate::{FailoverType, Operation, Refusal, Relationship};
use model::{Mode, ReplicationState as S};

impl Relationship {
    /// Is this operation possible now? The table of docs/states.md is printed from this match.
    pub fn permit(&self, operation: &Operation) -> Result<(), Refusal> {
        use Mode::{Primary, Replica};
        let allowed = match (operation, self.mode, self.state) {
            (Operation::StartReplication, Primary, S::Ready) => true,
            (Operation::Suspend, Primary, S::Replicating | S::Resynchronizing)
            | (Operation::Suspend, Replica, S::Replicating) => true,
            (Operation::Resume, Primary, S::Replicating | S::WaitingForInitialReplication) => true,
            (Operation::Resume, _, S::Suspended | S::WaitingForResynchronize | S::ResynchronizeSuspended) => {
                true
            }
            (Operation::Resume, _, S::Critical) if self.superseded.is_some() => {
                return Err(Refusal::Because(
                    "the other host took this VM over; bring it home with failback, or let the other host reverse or revert",
                ));
            }
            (Operation::Resume, _, S::Critical) => true,
            (Operation::Resynchronize, Primary, S::Critical) if self.superseded.is_some() => false,
            (
                Operation::Resynchronize,
                Primary,
                S::Replicating | S::Suspended | S::Critical | S::WaitingForResynchronize,
            ) => true,
            (Operation::CancelResynchronize, Primary, S::Resynchronizing | S::ResynchronizeSuspended) => true,
            (Operation::Failover { .. }, Replica, S::Suspended | S::Replicating | S::Critical) => true,
            (Operation::Failover { .. }, Replica, S::FailbackInProgress | S::FailbackComplete) => true,
            // A former primary has a point, its own disk, before the first delta comes back.
            (Operation::Failover { .. }, Replica, S::WaitingForInitialReplication) => self.latest.is_some(),
            (Operation::Prepare { .. }, Primary, S::Replicating) => true,
            (Operation::PlannedFailover { .. }, Replica, S::Replicating) => true,
            (Operation::CancelPrepare, Primary, S::SyncedReplicationComplete) => true,
            (Operation::Revert, Replica, S::Recovered) => true,
            (Operation::Revert, Replica, S::Committed) => self.superseded.is_some(),
            (Operation::Commit | Operation::Reverse, Replica, S::Recovered | S::Committed)
                if self.may_run() && self.superseded.is_some() =>
            {
                return Err(Refusal::Because("both hosts took this VM over: revert on one of them"));
            }
            (Operation::Commit | Operation::Reverse, Replica, S::Recovered | S::Committed)
                if !self.may_run() =>
            {
                return Err(Refusal::Because(
                    "the other host took this VM over: revert here, or reverse there",
                ));
            }
            (Operation::Commit, Replica, S::Recovered) => true,
            (Operation::Reverse, Replica, S::Recovered) if !self.is_planned_failover() => {
                return Err(Refusal::Because("an unplanned failover is committed before it is reversed"));
            }
            (Operation::Reverse, Replica, S::Recovered | S::Committed) => true,
            (
                Operation::Failback,
                Primary,
                S::WaitingForInitialReplication
                | S::Replicating
                | S::Suspended
                | S::Critical
                | S::WaitingForResynchronize,
            ) => {
                if self.may_run() {
                    return Err(Refusal::Because("the VM has not been failed over: it may run here"));
                }
                true
            }
            (Operation::CompleteFailback { .. }, Replica, S::FailbackComplete) => true,
            (Operation::CancelFailback, Replica, S::FailbackInProgress | S::FailbackComplete) => true,
            (Operation::Yield, Primary, _) => {
                if self.may_run() {
                    return Err(Refusal::Because("this host holds the right to run the VM"));
                }
                true
            }
            (Operation::Yield, Replica, S::Recovered | S::Committed) => !self.may_run(),
            (Operation::Feed { .. }, Replica, S::Recovered | S::Committed) => self.may_run(),
            (Operation::Feed { .. }, Primary, S::Replicating | S::WaitingForResynchronize | S::Critical) => {
                self.may_run()
            }
            (
                Operation::Failover { .. } | Operation::Revert | Operation::Commit | Operation::Reverse,
                Primary,
                S::Replicating | S::SyncedReplicationComplete | S::Critical,
            ) => return Err(Refusal::WrongHost),
            (
                Operation::Failback | Operation::CompleteFailback { .. },
                Replica,
                S::Recovered | S::Committed,
            ) => {
                return Err(Refusal::WrongHost);
            }
            _ => false,
        };
        if allowed { Ok(()) } else { Err(Refusal::State { mode: self.mode, state: self.state }) }
    }

    fn is_planned_failover(&self) -> bool {
        self.failed_over.as_ref().is_some_and(|f| f.kind == FailoverType::Planned)
    }

    /// By a peer that did not hear the answer.
    pub(crate) fn is_asked_again(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Yield => self.yielded().is_some(),
            Operation::Feed { base } => {
                self.mode == Mode::Primary && self.may_run() && self.latest == Some(*base)
            }
            _ => false,
        }
    }
}
