//! How work goes on: steps that take effect with the record, steps that were carried out, the end.

use crate::{
    Context, Effect, FailedOver, FailoverType, Relationship, Step, StepResult, Token, Work, WorkKind,
    failure::{BUSY_WAIT_MS, GIVEN_UP},
    undo::{is_through, overtaken},
};
use model::{Mode, PointKind, ReplicationState as S};

impl Relationship {
    /// Applies steps of the record until one has to be carried out, or the work has ended.
    pub(crate) fn run_step(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        while !self.rests()
            && let Some(work) = &mut self.work
        {
            if work.waits && self.retry.is_waiting(ctx.now_ms) {
                return;
            }
            work.waits = false;
            if let Some((plan, why)) = overtaken(self)
                && let Some(before) = self.work.as_ref().map(|work| work.before)
            {
                let mut rest = Work::new(WorkKind::Abandon, before, plan);
                rest.failure = Some(why.to_owned());
                self.work = Some(rest);
            }
            let Some(step) = self.work.as_ref().and_then(Work::step).cloned() else {
                self.work_ended(ctx, effects);
                return;
            };
            let forbidden = step.needs_right() && !self.may_run();
            if forbidden && let Some(work) = &mut self.work {
                work.failure.get_or_insert_with(|| "the other host took over".to_owned());
            }
            if step.is_external() && !forbidden && !is_through(self, &step) {
                effects.push(Effect::Run(self.materialize(step)));
                return;
            }
            self.work.iter_mut().for_each(|work| work.at += 1);
            self.take_effect(ctx, step);
        }
    }

    /// A step whose argument is only known when it is reached.
    pub(crate) fn materialize(&self, step: Step) -> Step {
        match step {
            Step::MakeOverlay { point: None, overlay } => Step::MakeOverlay { point: self.latest, overlay },
            other => other,
        }
    }

    pub(crate) fn take_effect(&mut self, ctx: Context, step: Step) {
        match step {
            // Superseded, it stays critical until it is made a replica or gets the token back.
            Step::Set(_) if self.superseded.is_some() && self.mode == Mode::Primary => {}
            Step::Set(state) => self.state = state,
            Step::Become(mode) => {
                self.mode = mode;
                if mode == Mode::Primary && self.superseded.is_some() {
                    self.state = S::Critical;
                }
                if mode == Mode::Replica {
                    self.superseded = None;
                    self.failed_over = None;
                    self.resync = None;
                    self.keeps_last = false;
                }
            }
            Step::Claim(generation) => {
                let generation = self.ahead(generation);
                self.hold(ctx, generation, FailoverType::Unplanned);
            }
            Step::Take => {
                let Token::Offered { generation } = &self.token else { return };
                let generation = generation.clone();
                self.hold(ctx, generation, FailoverType::Planned);
            }
            Step::Release(to) => {
                // Superseded, there is nothing to release: only the own VM is given up.
                if self.token.is_held() {
                    self.token = Token::Released { to: self.ahead(to), withdrawing: None };
                }
                // What was not tracked went with the overlay.
                if self.mode == Mode::Replica {
                    self.resync = None;
                }
                self.superseded = None;
                self.failed_over = None;
                self.wants_running = false;
            }
            Step::Reclaim(generation) => self.token = Token::Held { generation, acknowledged: false },
            Step::Repeer { peer, base, settings } => self.repeer(peer, base, *settings),
            _ => {}
        }
    }

    /// A generation was numbered when its plan was made; the token may have moved since, and never goes back.
    pub(crate) fn ahead(&self, generation: model::Generation) -> model::Generation {
        model::Generation { number: self.token.generation().number + 1, ..generation }
    }

    pub(crate) fn hold(&mut self, ctx: Context, generation: model::Generation, kind: FailoverType) {
        self.taken_from = Some(self.token.generation().owner.clone());
        self.token = Token::Held { generation, acknowledged: false };
        self.superseded = None;
        self.comes_home_as_of = None;
        let Some(work) = &self.work else { return };
        let made = work.plan.iter().find_map(|step| match step {
            Step::MakeOverlay { point, overlay } => Some((*point, *overlay)),
            _ => None,
        });
        if let Some((point, overlay)) = made
            && let Some(point) = point.or(self.latest)
        {
            self.overlays = overlay;
            self.wants_running = work.plan.contains(&Step::StartVm);
            let point_kind = match kind {
                FailoverType::Planned => PointKind::Planned,
                FailoverType::Unplanned => work.point_kind.unwrap_or(PointKind::Regular),
            };
            self.failed_over = Some(FailedOver { point, overlay, kind, point_kind, at_ms: ctx.now_ms });
            // Until the step that tracks, which a VM that is left off does without.
            self.resync = Some("changes since the failover are not tracked".to_owned());
        }
    }

    pub(crate) fn step_done(&mut self, ctx: Context, result: StepResult, effects: &mut Vec<Effect>) {
        let Some(work) = &self.work else { return };
        let Some(step) = work.step().cloned() else { return };
        let kind = work.kind;
        match (&step, &result) {
            // The hand-over is only through when we were told so; a lost message is asked for again.
            (Step::AskPrepare { .. }, _) if !is_through(self, &step) => {
                return self.try_soon(ctx, BUSY_WAIT_MS, "waiting for the other host's hand-over".to_owned());
            }
            (Step::Cut { .. }, StepResult::Cut { frozen }) => self.cut_made(ctx, frozen.clone()),
            (Step::MakeOverlay { .. }, StepResult::Overlay { kind }) => {
                self.work.iter_mut().for_each(|work| work.point_kind = Some(*kind));
            }
            // Durable with the record, before anything is settled.
            (Step::Ship { delta }, StepResult::Bytes { bytes } | StepResult::Scrubbed { bytes, .. }) => {
                if let StepResult::Scrubbed { repaired, .. } = &result {
                    self.note_scrub(*repaired, ctx.now_ms);
                }
                (self.latest, self.peer_latest) = (Some(*delta), Some(*delta));
                let kind = self.work.as_ref().and_then(|work| work.point_kind).unwrap_or(PointKind::Regular);
                self.note_delta(kind, ctx.now_ms);
                self.resync = self.work.as_mut().and_then(|work| work.failure.take());
                self.statistics.sent_bytes += bytes;
                self.statistics.last_cycle_bytes = *bytes;
            }
            (Step::Export { delta }, _) => self.exported = Some(*delta),
            (Step::AskYield, StepResult::Yielded { base }) => {
                let base = *base;
                self.peer_has(base);
            }
            // The later points are gone. (In a reverse, `latest` is the peer's state already.)
            (Step::HidePoints, _) if kind == WorkKind::Commit => {
                self.latest = self.failed_over.as_ref().map(|f| f.point).or(self.latest);
            }
            (Step::SendPoint { point, .. }, _) => {
                let point = *point;
                self.peer_has(point);
                self.peer_latest = Some(point);
                if let StepResult::Bytes { bytes } = result {
                    self.statistics.sent_bytes += bytes;
                }
            }
            (Step::Adopt { id }, _) => self.latest = Some(*id),
            (Step::Track, _) if self.may_run() => self.resync = None,
            (Step::Flatten { .. }, StepResult::TrackingLost { why }) => {
                self.failed_over = None;
                self.resync = Some(why.clone());
            }
            (Step::Flatten { .. }, _) => self.failed_over = None,
            // Superseded while it was being started.
            (Step::StartVm | Step::ResumeVm, _) if !self.may_run() => effects.push(Effect::PauseVm),
            _ => {}
        }
        // A cut that was cleaned up says nothing of why it had to be: that wait goes on.
        if kind != WorkKind::Abandon {
            self.retry.succeeded();
        }
        let work = self.work.as_mut().expect("checked above");
        work.at += 1;
        let cancelled = work.cancelled;
        // A step that ended well although it was asked to stop: what waits goes first, where it can.
        let give_up = kind.is_turn()
            && matches!(work.step(), Some(Step::Ship { .. } | Step::Export { .. }))
            && (cancelled || self.waiting.is_some() || !self.may_send());
        if cancelled && self.may_be_taken_back(ctx) {
            self.take_back(ctx, GIVEN_UP.to_owned(), effects);
        } else if give_up && self.may_rest() {
            self.rest();
        } else if give_up {
            self.give_up_turn(ctx, effects);
        } else {
            self.run_step(ctx, effects);
        }
    }

    /// Notes whether the cut is what it should be. A guest that is off has nothing to freeze: the next cut
    /// asks again.
    fn cut_made(&mut self, ctx: Context, frozen: Option<Result<(), String>>) {
        let Some(work) = &mut self.work else { return };
        work.point_kind = Some(match (work.kind, &frozen) {
            (WorkKind::Prepare, _) => PointKind::Planned,
            (_, Some(Ok(()))) => PointKind::ApplicationConsistent,
            _ => PointKind::Regular,
        });
        let Some(frozen) = frozen else { return };
        let every_ms = i64::from(self.settings.app_consistent_every_s) * 1000;
        self.next_consistent_ms = ctx.now_ms + every_ms;
        self.statistics.consistent_failed += u64::from(frozen.is_err());
        self.statistics.interval.consistent_failed += u64::from(frozen.is_err());
        self.statistics.consistent_failure = frozen.err();
    }

    pub(crate) fn work_ended(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        let Some(work) = self.work.take() else { return };
        match work.kind {
            WorkKind::Cycle
            | WorkKind::FirstCopy
            | WorkKind::Resync
            | WorkKind::Scrub
            | WorkKind::DiskUpdate => {
                let s = &mut self.statistics;
                s.cycles_succeeded += 1;
                s.last_success_ms = Some(ctx.now_ms);
                if let Some(started) = s.cycle_started_ms.take() {
                    s.last_cycle_ms = u64::try_from(ctx.now_ms - started).unwrap_or(0);
                }
                s.interval.succeeded(s.last_cycle_bytes, s.last_cycle_ms);
                if work.kind == WorkKind::Scrub {
                    self.next_cycle_ms = ctx.now_ms + i64::from(self.settings.interval_s) * 1000;
                }
                // Tracking was lost while it was on its way.
                if self.resync.is_some() && self.state == S::Replicating {
                    self.need_resync(ctx);
                }
            }
            WorkKind::Failback if self.state == S::FailbackInProgress && self.was_fed(&work) => {
                self.state = S::FailbackComplete;
            }
            // It compares when it goes on.
            WorkKind::Abandon if self.state == S::ResynchronizeSuspended && !work.cancelled => {}
            WorkKind::Abandon if matches!(self.state, S::DiskUpdateInProgress | S::DiskUpdateCritical) => {}
            WorkKind::Abandon if self.resync.is_some() && self.may_send() && self.mode == Mode::Primary => {
                // A comparison that had begun goes on, whoever began it.
                if work.cancelled {
                    self.state = S::WaitingForResynchronize;
                } else if work.before == S::Resynchronizing {
                    self.state = S::Resynchronizing;
                } else {
                    self.need_resync(ctx);
                }
            }
            _ => {}
        }
        if !work.kind.is_turn() {
            effects.push(Effect::Greet);
        }
        if work.kind != WorkKind::Cycle && work.kind != WorkKind::Flatten {
            let why = self.retry.reason.clone().filter(|_| self.retry.is_waiting(ctx.now_ms));
            let failure = if work.kind == WorkKind::Abandon { why.or(work.failure) } else { work.failure };
            effects.push(Effect::Finished { failure });
        }
    }
}

#[cfg(test)]
mod tests;
