//! What follows from a step that failed: another try, a way back, or going on without it.

use crate::{
    Context, Effect, Operation, Relationship, Step, StepFailure, StepResult, Work, WorkKind,
    undo::{is_through, undo},
};
use model::ReplicationState as S;

/// How long a peer that said `busy` is left alone.
pub(crate) const BUSY_WAIT_MS: i64 = 1000;

/// Why something ended that an operator did not want any more, or that made way for something else.
pub const GIVEN_UP: &str = "given up";

/// How long a peer that refused what cannot be taken back is left alone: an operator has to act there.
pub(crate) const REFUSED_WAIT_MS: i64 = 10_000;

impl Relationship {
    pub(crate) fn step_failed(&mut self, ctx: Context, failure: StepFailure, effects: &mut Vec<Effect>) {
        let Some(work) = &self.work else { return };
        let Some(step) = work.step().cloned() else { return };
        if is_through(self, &step) || step.needs_right() && !self.may_run() {
            return self.step_done(ctx, StepResult::Plain, effects);
        }
        let reason = failure.reason().to_owned();
        let is_turn = work.kind.is_turn();
        if matches!(failure, StepFailure::ResyncNeeded(_)) {
            self.resync = Some(reason.clone());
        }
        if is_turn {
            self.turn_failed(ctx, &step, failure, effects);
            return;
        }
        let cleans_up = work.kind == WorkKind::Abandon;
        if cleans_up && self.retry.attempts > 0 && self.waiting.take().is_some() {
            let reason = format!("the cut before it cannot be cleaned up: {reason}");
            effects.push(Effect::NotBegun { reason });
        }
        if self.work.as_ref().is_some_and(|work| work.kind == WorkKind::Flatten) {
            // Begun again when it is due; nothing of it has to be taken back.
            self.work = None;
            if self.waiting.is_none() {
                self.retry.failed(ctx.now_ms, reason);
            }
            return;
        }
        let peer_has = self.peer_latest.or(self.latest);
        match failure {
            failure if matches!(step, Step::AskFeed { .. }) => {
                self.feed_failed(ctx, &failure, effects);
            }
            StepFailure::Busy(_) => self.try_soon(ctx, BUSY_WAIT_MS, reason),
            StepFailure::ResyncNeeded(_)
                if matches!(step, Step::Cut { .. } | Step::Ship { .. })
                    && self
                        .work
                        .as_mut()
                        .is_some_and(|work| work.compare_instead(model::DeltaId(ctx.fresh), peer_has)) =>
            {
                self.run_step(ctx, effects);
            }
            StepFailure::Recoverable(_) | StepFailure::Unreachable(_) | StepFailure::Superseded
                if matches!(step, Step::AskYield)
                    || undo(self, self.work.as_ref().expect("checked"), ctx.fresh).is_none() =>
            {
                self.try_later(ctx, reason);
            }
            // The VM is there, it only does not run or is not tracked: an operator can start it.
            _ if matches!(step, Step::StartVm | Step::Track) => {
                let work = self.work.as_mut().expect("checked");
                work.failure = Some(format!("cannot {}: {reason}", step.name()));
                work.at += 1;
                if matches!(step, Step::StartVm) {
                    self.wants_running = false;
                    if matches!(self.work.as_ref().and_then(Work::step), Some(Step::Track)) {
                        self.work.as_mut().expect("checked").at += 1;
                    }
                }
                self.run_step(ctx, effects);
            }
            _ => self.take_back(ctx, reason, effects),
        }
    }

    /// Undoes the work under way; what cannot be undone is tried again.
    pub(crate) fn take_back(&mut self, ctx: Context, reason: String, effects: &mut Vec<Effect>) {
        let Some(work) = &self.work else { return };
        let Some(plan) = undo(self, work, ctx.fresh) else {
            return self.try_soon(ctx, REFUSED_WAIT_MS, reason);
        };
        let reason = if work.cancelled { GIVEN_UP.to_owned() } else { reason };
        let (before, guest_ran) = (work.before, work.guest_ran);
        self.wants_running = guest_ran;
        let mut rest = Work::new(WorkKind::Abandon, before, plan);
        rest.failure = Some(reason);
        rest.guest_ran = guest_ran;
        self.work = Some(rest);
        self.run_step(ctx, effects);
    }

    /// The step that failed is tried again after a short wait that does not count as a failure.
    pub(crate) fn try_soon(&mut self, ctx: Context, wait_ms: i64, reason: String) {
        self.retry.later(ctx.now_ms + wait_ms, reason);
        self.work.iter_mut().for_each(|work| work.waits = true);
    }

    /// The step that failed is tried again after a wait that grows.
    pub(crate) fn try_later(&mut self, ctx: Context, reason: String) {
        self.retry.failed(ctx.now_ms, reason);
        self.work.iter_mut().for_each(|work| work.waits = true);
    }

    pub(crate) fn turn_failed(
        &mut self,
        ctx: Context,
        step: &Step,
        failure: StepFailure,
        effects: &mut Vec<Effect>,
    ) {
        let reason = failure.reason().to_owned();
        self.count(&failure);
        let interrupted = matches!(
            failure,
            StepFailure::Cancelled
                | StepFailure::Busy(_)
                | StepFailure::Recoverable(_)
                | StepFailure::Unreachable(_)
        );
        match failure {
            _ if interrupted && self.may_rest() => self.rest(),
            StepFailure::Cancelled => self.give_up_turn(ctx, effects),
            _ if self.waiting.is_some() || !self.may_send() => self.give_up_turn(ctx, effects),
            StepFailure::Busy(_) => self.try_soon(ctx, BUSY_WAIT_MS, reason),
            StepFailure::ResyncNeeded(_) => {
                let kind = self.work.as_ref().map(|work| work.kind);
                if matches!(kind, Some(WorkKind::Resync | WorkKind::DiskUpdate)) {
                    // It compared with a state that the peer is not in: ask, and do not compare as fast as one can.
                    effects.push(Effect::Greet);
                    self.retry.later(ctx.now_ms + BUSY_WAIT_MS, reason);
                }
                let cancelled = self.work.as_ref().is_some_and(|work| work.cancelled);
                let updates = self.state == S::DiskUpdateInProgress && !cancelled;
                self.give_up_turn(ctx, effects);
                if updates {
                    self.state = S::DiskUpdateInProgress;
                }
            }
            StepFailure::NoSpace(_) => {
                // The bitmap keeps accumulating: the next cut holds what this one would have held.
                self.retry.later(ctx.now_ms + i64::from(self.settings.interval_s) * 1000, reason);
                self.give_up_turn(ctx, effects);
            }
            // Superseded, yet it still holds: the peer cannot take deltas as it stands.
            _ if matches!(step, Step::Cut { .. } | Step::TakeDisks)
                || matches!((step, &failure), (Step::AskSeed { .. }, StepFailure::Refused(_)))
                || failure == StepFailure::Superseded =>
            {
                self.retry.failed(ctx.now_ms, reason);
                self.give_up_turn(ctx, effects);
            }
            _ => self.try_later(ctx, reason),
        }
    }

    /// A turn that is given up because something else waits has not failed.
    fn count(&mut self, failure: &StepFailure) {
        if self.waiting.is_some() || !self.token.is_held() {
            return;
        }
        if matches!(failure, StepFailure::Busy(_)) {
            return self.note_wait();
        }
        let s = &mut self.statistics;
        match failure {
            StepFailure::Cancelled => {}
            StepFailure::NoSpace(_) => {
                s.cycles_missed += 1;
                s.interval.missed += 1;
            }
            StepFailure::Unreachable(_) => {
                s.cycles_failed += 1;
                s.interval.network_failed += 1;
            }
            _ => {
                s.cycles_failed += 1;
                s.interval.failed += 1;
            }
        }
    }

    /// A comparison that is suspended while it is sent keeps its place.
    pub(crate) fn may_rest(&self) -> bool {
        let sends = |work: &Work| {
            let ships = matches!(work.step(), Some(Step::Ship { .. }));
            work.kind == WorkKind::Resync && ships && !work.cancelled
        };
        self.waiting == Some(Operation::Suspend) && self.may_send() && self.work.as_ref().is_some_and(sends)
    }

    /// The cut stays, and what the peer has of it: a resume goes on from there.
    pub(crate) fn rest(&mut self) {
        self.waiting = None;
        self.retry.succeeded();
        self.work.iter_mut().for_each(|work| work.waits = true);
        self.state = S::ResynchronizeSuspended;
    }

    /// Is the turn one that waits for an operator to go on.
    pub fn rests(&self) -> bool {
        self.state == S::ResynchronizeSuspended && self.work.as_ref().is_some_and(|work| work.kind.is_turn())
    }

    /// Takes a turn back: its checkpoint's bits merge into the older one, nothing is forgotten.
    pub(crate) fn give_up_turn(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        let Some(work) = &self.work else { return };
        if work.delivered() {
            // Acknowledged already: it has to be settled, whatever waits.
            self.run_step(ctx, effects);
            return;
        }
        let (Some(delta), before) = (work.delta(), work.before) else { return };
        let mut abandon = Work::new(WorkKind::Abandon, before, vec![Step::Abandon { delta }]);
        abandon.failure = Some(GIVEN_UP.to_owned());
        abandon.guest_ran = work.guest_ran;
        abandon.cancelled = work.cancelled;
        let first = matches!(work.kind, WorkKind::FirstCopy | WorkKind::Export);
        // What is left of it waits for an operator, unless an operation only goes first.
        if work.kind == WorkKind::DiskUpdate && self.state == S::DiskUpdateInProgress {
            self.state = S::DiskUpdateCritical;
        }
        self.work = Some(abandon);
        if first && self.state == S::WaitingForInitialReplication {
            self.state = S::Ready;
        }
        self.run_step(ctx, effects);
    }
}
