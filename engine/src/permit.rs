//! Which operation is possible in which mode and state, and why not.

use crate::{FailoverType, Operation, Refusal, Relationship};
use model::{Mode, ReplicationState as S};

/// What a primary can do only as long as it sends what runs here.
fn sends(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::StartReplication
            | Operation::Export
            | Operation::CancelStart
            | Operation::UpdateDisks
            | Operation::Suspend
            | Operation::Resume
            | Operation::Resynchronize
            | Operation::CancelResynchronize
            | Operation::Scrub
            | Operation::Prepare { .. }
    )
}

impl Relationship {
    /// Is this operation possible now? The table of docs/states.md is printed from this match.
    pub fn permit(&self, operation: &Operation) -> Result<(), Refusal> {
        use Mode::{Primary, Replica};
        if self.is_extended() {
            self.permit_forwarding(operation)?;
        }
        let mode = if self.mode == Mode::ExtendedReplica { Replica } else { self.mode };
        if mode == Primary && !self.may_send() && self.state != S::Critical && sends(operation) {
            return Err(Refusal::State { mode: self.mode, state: self.state });
        }
        let allowed = match (operation, mode, self.state) {
            (Operation::Failover { point: None, .. }, Replica, _) if self.latest.is_none() => false,
            (Operation::PlannedFailover { .. }, _, S::Replicating) if self.mode == Mode::ExtendedReplica => {
                return Err(Refusal::Because(
                    "the other host is a replica itself: only an unplanned failover is possible here",
                ));
            }
            (Operation::Reverse, _, S::Recovered | S::Committed) if self.mode == Mode::ExtendedReplica => {
                return Err(Refusal::Because(
                    "the other host is a replica itself: unprotect this VM on it, then protect it from here",
                ));
            }
            (Operation::StartReplication, Primary, S::Ready) => true,
            (Operation::Export, Primary, S::Ready) if self.seed.is_some() => {
                return Err(Refusal::Because("the replica has a seed: start onto it"));
            }
            (Operation::Export, Primary, S::Ready) => true,
            (Operation::Later { operation, .. }, Primary, _) => {
                matches!(**operation, Operation::StartReplication | Operation::Resynchronize)
                    && self.permit(operation).is_ok()
            }
            (Operation::CancelStart, Primary, S::WaitingForInitialReplication) => true,
            (Operation::CancelStart, Primary, S::Ready) => self.scheduled.is_some(),
            (Operation::Suspend, Primary, S::Replicating | S::Resynchronizing)
            | (Operation::Suspend, Replica, S::Replicating) => true,
            (Operation::Resume, Primary, S::Replicating | S::WaitingForInitialReplication) => true,
            (Operation::Resume, Primary, S::DiskUpdateInProgress | S::DiskUpdateCritical) => true,
            (Operation::UpdateDisks, Primary, S::Replicating | S::DiskUpdateCritical) => true,
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
            (Operation::CancelResynchronize, Primary, _) => {
                self.scheduled.as_ref().is_some_and(|it| it.operation == Operation::Resynchronize)
            }
            (Operation::Scrub, Primary, S::Replicating) if self.resync.is_some() => {
                return Err(Refusal::Because("the disks are about to be compared anyway"));
            }
            (Operation::Scrub, Primary, S::Replicating) if self.failed_over.is_some() => {
                return Err(Refusal::Because("the failover overlay is not merged down yet"));
            }
            (Operation::Scrub, Primary, S::Replicating) => true,
            (Operation::Scrub, Replica, S::Replicating) => return Err(Refusal::WrongHost),
            (Operation::Failover { .. }, Replica, S::Suspended | S::Replicating | S::Critical) => true,
            (Operation::Failover { .. }, Replica, S::FailbackInProgress | S::FailbackComplete) => true,
            // A former primary has a point, its own disk, before the first delta comes back.
            (Operation::Failover { .. }, Replica, S::WaitingForInitialReplication) => {
                self.latest.is_some() && self.latest != self.seed
            }
            (Operation::Seed { .. }, Replica, S::WaitingForInitialReplication) => self.latest.is_none(),
            // What is compared already is given up for it: its own cut compares.
            (Operation::Prepare { .. }, Primary, S::Replicating | S::Resynchronizing) => true,
            (Operation::PlannedFailover { .. }, Replica, S::Replicating) => true,
            (Operation::CancelPrepare, Primary, S::SyncedReplicationComplete) => true,
            (Operation::Revert, Replica, S::Recovered) => true,
            (Operation::Revert, Replica, S::Committed) => self.superseded.is_some(),
            (
                Operation::Commit | Operation::Reverse | Operation::ChangeToPrimary { .. },
                Replica,
                S::Recovered | S::Committed,
            ) if self.may_run() && self.superseded.is_some() => {
                return Err(Refusal::Because("both hosts took this VM over: revert on one of them"));
            }
            (
                Operation::Commit | Operation::Reverse | Operation::ChangeToPrimary { .. },
                Replica,
                S::Recovered | S::Committed,
            ) if !self.may_run() => {
                return Err(Refusal::Because(
                    "the other host took this VM over: revert here, or reverse there",
                ));
            }
            (Operation::Commit, Replica, S::Recovered) => true,
            (Operation::Reverse, Replica, S::Recovered) if !self.is_planned_failover() => {
                return Err(Refusal::Because("an unplanned failover is committed before it is reversed"));
            }
            (Operation::Reverse, Replica, S::Recovered | S::Committed) => true,
            (Operation::ChangeToPrimary { .. }, Replica, S::Recovered) => {
                return Err(Refusal::Because(
                    "a failover is committed before the third host becomes the replica",
                ));
            }
            (Operation::ChangeToPrimary { .. }, _, S::Committed) => self.mode == Mode::Replica,
            (
                Operation::Failback { .. },
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
            (Operation::Feed { point, .. }, Replica, S::Recovered)
                if point.is_some() && *point == self.seed =>
            {
                return Err(Refusal::Because("a seed is no recovery point"));
            }
            (Operation::Feed { point: Some(_), .. }, Replica, S::Committed)
            | (Operation::Feed { point: Some(_), .. }, Primary, _) => {
                return Err(Refusal::Because(
                    "the recovery points that this host kept when it took the VM over are gone",
                ));
            }
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
                Operation::Failback { .. } | Operation::CompleteFailback { .. },
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
            Operation::Seed { id } => self.seed == Some(*id),
            Operation::Yield => self.yielded().is_some(),
            Operation::Feed { base, point } => {
                self.mode == Mode::Primary && self.may_run() && self.latest == Some(point.unwrap_or(*base))
            }
            _ => false,
        }
    }
}
