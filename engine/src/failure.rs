//! What follows from a step that failed: another try, a way back, or going on without it.

use crate::{
    Context, Effect, Relationship, Step, StepFailure, StepResult, Work, WorkKind,
    undo::{is_through, undo},
};
use model::ReplicationState as S;

/// How long a peer that said `busy` is left alone.
pub(crate) const BUSY_WAIT_MS: i64 = 1000;

/// How long a peer that refused what cannot be taken back is left alone: an operator has to act there.
const REFUSED_WAIT_MS: i64 = 10_000;

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
        if self.work.as_ref().is_some_and(|work| work.kind == WorkKind::Flatten) {
            // Begun again when it is due; nothing of it has to be taken back.
            self.work = None;
            if self.waiting.is_none() {
                self.retry.failed(ctx.now_ms, reason);
            }
            return;
        }
        match failure {
            StepFailure::Busy(_) => self.try_soon(ctx, BUSY_WAIT_MS, reason),
            StepFailure::Recoverable(_) | StepFailure::Superseded
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
                } else {
                    self.resync = Some("changes since the failover are not tracked".to_owned());
                }
                self.run_step(ctx, effects);
            }
            _ => match undo(self, self.work.as_ref().expect("checked"), ctx.fresh) {
                Some(plan) => {
                    let work = self.work.as_mut().expect("checked");
                    let before = work.before;
                    self.wants_running = work.guest_ran;
                    let guest_ran = work.guest_ran;
                    *work = Work::new(WorkKind::Abandon, before, plan);
                    work.failure = Some(reason);
                    work.guest_ran = guest_ran;
                    self.run_step(ctx, effects);
                }
                None => self.try_soon(ctx, REFUSED_WAIT_MS, reason),
            },
        }
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
        match failure {
            StepFailure::Cancelled => self.give_up_turn(ctx, effects),
            _ if self.waiting.is_some() || !self.token.is_held() => self.give_up_turn(ctx, effects),
            StepFailure::Busy(_) => self.try_soon(ctx, BUSY_WAIT_MS, reason),
            StepFailure::ResyncNeeded(_) => {
                self.statistics.cycles_failed += 1;
                self.give_up_turn(ctx, effects);
            }
            StepFailure::NoSpace(_) => {
                // The bitmap keeps accumulating: the next cut holds what this one would have held.
                self.statistics.cycles_missed += 1;
                self.retry.later(ctx.now_ms + i64::from(self.settings.interval_s) * 1000, reason);
                self.give_up_turn(ctx, effects);
            }
            // Superseded, yet it still holds: the peer cannot take deltas as it stands.
            _ if matches!(step, Step::Cut { .. }) || failure == StepFailure::Superseded => {
                self.statistics.cycles_failed += 1;
                self.retry.failed(ctx.now_ms, reason);
                self.give_up_turn(ctx, effects);
            }
            _ => {
                self.statistics.cycles_failed += 1;
                self.try_later(ctx, reason);
            }
        }
    }

    /// Takes a turn back: its checkpoint's bits merge into the older one, nothing is forgotten.
    pub(crate) fn give_up_turn(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        let Some(work) = &self.work else { return };
        if work.passed(|step| matches!(step, Step::Ship { .. })) {
            // Acknowledged already: it has to be settled, whatever waits.
            self.run_step(ctx, effects);
            return;
        }
        let (Some(delta), before) = (work.delta(), work.before) else { return };
        let mut abandon = Work::new(WorkKind::Abandon, before, vec![Step::Abandon { delta }]);
        abandon.failure = Some("given up".to_owned());
        abandon.guest_ran = work.guest_ran;
        let first = work.kind == WorkKind::FirstCopy;
        self.work = Some(abandon);
        if first && self.state == S::WaitingForInitialReplication {
            self.state = S::Ready;
        }
        self.run_step(ctx, effects);
    }
}
