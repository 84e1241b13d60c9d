//! Bringing a VM home: the part of the host to which it returns.
//!
//! ```text
//!  8 ─stop, adopt the disks─▶ 13 ─ask the peer to send─▶ 13 ─a delta is here─▶ 14 ─complete─▶ 3
//!                              │ cancelled, or the peer says no                │ cancelled
//!                              ▼                                               ▼
//!                              2, the peer's replica                           3, the peer's replica
//! ```
//!
//! A failback to one of the peer's own points takes nothing from the peer and stops nothing there: the peer sends that
//! point, as what differs from the disks here, before it becomes the primary and drops its points. Later deltas lie
//! above it, and the VM comes home as of the point that was asked for.

use crate::{
    Context, Effect, Operation, Relationship, Step, StepFailure, Work,
    failure::{BUSY_WAIT_MS, GIVEN_UP, REFUSED_WAIT_MS},
};
use model::ReplicationState as S;

impl Relationship {
    /// Is all that is left of beginning a failback that the peer feeds us.
    pub(crate) fn awaits_feed(&self) -> bool {
        self.work.as_ref().is_some_and(|work| matches!(work.step(), Some(Step::AskFeed { .. })))
    }

    /// The same, of a failback to a point of the peer's: that the point is here is not the end of it.
    pub(crate) fn awaits_point(&self) -> bool {
        let asks = |step: &Step| matches!(step, Step::AskFeed { point: Some(_), .. });
        self.work.as_ref().and_then(|work| work.step()).is_some_and(asks)
    }

    /// Has anything come since the failback began.
    pub(crate) fn was_fed(&self, failback: &Work) -> bool {
        let own = |step: &Step| matches!(step, Step::AskFeed { base, .. } if self.latest == Some(*base));
        !failback.plan.iter().any(own)
    }

    /// The replica that this host has become by the failback is kept.
    pub(crate) fn give_failback_up(&mut self) {
        let fed = self.state == S::FailbackComplete;
        self.state = if fed { S::Replicating } else { S::WaitingForInitialReplication };
        self.comes_home_as_of = None;
    }

    /// The failback is given up as soon as the question that is out has ended.
    pub(crate) fn stop_waiting_for_feed(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        self.waiting = Some(Operation::CancelFailback);
        if self.work.as_ref().is_some_and(|work| work.waits) {
            self.retry.end_wait();
            self.take_back(ctx, GIVEN_UP.to_owned(), effects);
        } else {
            effects.push(Effect::CancelStep);
        }
    }

    /// A peer that does not answer, or does not get through with what it was asked for, is asked again. One that will not
    /// send the point that the VM is to come home as of ends the failback.
    pub(crate) fn feed_failed(&mut self, ctx: Context, failure: &StepFailure, effects: &mut Vec<Effect>) {
        let reason = failure.reason().to_owned();
        if self.waiting == Some(Operation::CancelFailback) {
            return self.take_back(ctx, GIVEN_UP.to_owned(), effects);
        }
        match failure {
            StepFailure::Busy(_) | StepFailure::Cancelled => self.try_soon(ctx, BUSY_WAIT_MS, reason),
            StepFailure::Recoverable(_) | StepFailure::Unreachable(_) | StepFailure::Superseded => {
                self.try_later(ctx, reason);
            }
            _ if self.awaits_point() => {
                self.waiting = Some(Operation::CancelFailback);
                self.take_back(ctx, reason, effects);
            }
            _ => self.try_soon(ctx, REFUSED_WAIT_MS, reason),
        }
    }
}

#[cfg(test)]
mod tests;
