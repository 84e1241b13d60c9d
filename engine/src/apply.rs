//! The transition: one event, the new record, the effects. The caller persists the record before it
//! carries the effects out.

use crate::{
    Context, Effect, Event, Operation, Refusal, Relationship, Step, Token, Work, WorkKind,
    failure::GIVEN_UP,
    learn::{learn, learn_beyond},
    plan::{self, plan},
    undo::undo,
};
use model::{DeltaId, Mode, ReplicationState as S};

/// How long a turn that outgrew its room waits for a quieter time: at once it would grow as large again.
const SQUEEZED_WAIT_MS: i64 = 600_000;

impl Relationship {
    /// Refused events change nothing.
    pub fn apply(&mut self, ctx: Context, event: Event) -> Result<Vec<Effect>, Refusal> {
        let mut effects = vec![];
        match event {
            Event::Started => {
                effects.push(Effect::Greet);
                if self.superseded.is_some() && !self.may_run() {
                    effects.push(Effect::PauseVm);
                }
                self.run_step(ctx, &mut effects);
            }
            Event::Operation(operation) => self.operate(ctx, operation, &mut effects)?,
            Event::Cancel(operation) => self.cancel(ctx, &operation, &mut effects),
            Event::Done(result) => self.step_done(ctx, result, &mut effects),
            Event::Failed(failure) => self.step_failed(ctx, failure, &mut effects),
            Event::Withdraw(instead) => {
                if self.may_run() || instead.number < self.token.generation().number {
                    return Err(Refusal::Because("the hand-over was taken already"));
                }
                // It is not ours to give back, and the peer cannot know that.
                let owner = &self.token.generation().owner;
                if ![&self.host, &self.peer].contains(&owner) {
                    return Err(Refusal::Because("a third host took the VM over"));
                }
                self.token = Token::Elsewhere { generation: instead };
            }
            Event::Heard(standing) => {
                let running = self.wants_running && self.may_run();
                if self.is_extended() {
                    // What it says of the right goes to relationship 0.
                    self.peer_latest = standing.latest.filter(|_| standing.mode.is_replica());
                } else {
                    effects.extend(learn(self, ctx, &standing, running));
                }
                if !self.retry.was_answered {
                    self.end_wait(ctx, &mut effects);
                }
                self.hear_of_import(ctx, &standing);
            }
            Event::HeardBeyond(standing) => {
                let running = self.wants_running && self.may_run();
                let before = self.token.clone();
                effects.extend(learn_beyond(self, ctx, &standing, running));
                if self.token != before {
                    effects.push(Effect::Greet);
                }
            }
            Event::Upstream(upstream) => self.follow(ctx, upstream, &mut effects),
            Event::PointReceived { delta, kind } => {
                self.latest = Some(delta);
                self.note_delta(kind, ctx.now_ms);
                self.state = match self.state {
                    S::WaitingForInitialReplication => S::Replicating,
                    // A point that was asked for is here before the peer is ready to go on from it.
                    S::FailbackInProgress if !self.awaits_point() => S::FailbackComplete,
                    other => other,
                };
                self.statistics.last_success_ms = Some(ctx.now_ms);
                self.statistics.cycles_succeeded += 1;
                self.statistics.interval.succeeded += 1;
            }
            Event::TrackingLost(reason) => {
                if self.mode == Mode::Primary && (self.latest.is_some() || self.exported.is_some()) {
                    // The cut under way may have been made before: it does not make up for this.
                    if let Some(turn) = self.work.as_mut().filter(|work| work.kind.is_turn()) {
                        turn.failure = Some(reason.clone());
                    }
                    self.resync = Some(reason);
                    if matches!(self.state, S::Replicating) && self.work.is_none() {
                        self.need_resync(ctx);
                    }
                }
                // What follows from it begins with the next event: a starting daemon says this first, and
                // then has everything that is under way started at once.
                return Ok(effects);
            }
            Event::Squeezed(reason) => {
                if let Some(turn) = self.work.as_ref().filter(|work| work.kind.is_turn()) {
                    if turn.waits {
                        // For a peer, whose call ends the wait as before.
                        self.give_up_turn(ctx, &mut effects);
                    } else {
                        effects.push(Effect::CancelStep);
                        self.retry.later(ctx.now_ms + SQUEEZED_WAIT_MS, reason);
                    }
                }
            }
            Event::Power { running } => {
                // Other work may start and stop it itself.
                let leaves_it = |work: &Work| {
                    let undoes = work.kind == WorkKind::Abandon && !work.plan.contains(&Step::StartVm);
                    work.kind.is_turn() || undoes || work.kind == WorkKind::Flatten
                };
                let by_itself = self.work.as_ref().is_none_or(leaves_it);
                if self.may_run() && by_itself && self.superseded.is_none() {
                    self.wants_running = running;
                }
                // What failed may have failed because of it.
                self.end_wait(ctx, &mut effects);
            }
            Event::Tick => {
                self.mind_the_clock(ctx.now_ms);
                if self.retry.until_ms.is_some_and(|until| ctx.now_ms >= until) {
                    self.end_wait(ctx, &mut effects);
                }
            }
        }
        if self.mode != Mode::Primary || !self.may_send() {
            // Whoever sends again later was not late meanwhile.
            self.next_cycle_ms = 0;
        }
        self.go_on(ctx, &mut effects);
        Ok(effects)
    }

    /// Would this operation be taken now. Nothing changes.
    pub fn admits(&self, ctx: Context, operation: &Operation) -> Result<(), Refusal> {
        self.clone().apply(ctx, Event::Operation(operation.clone())).map(drop)
    }

    fn operate(
        &mut self,
        ctx: Context,
        operation: Operation,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.is_asked_again(&operation) {
            return Ok(());
        }
        if matches!(operation, Operation::CancelFailback) && self.awaits_feed() {
            self.permit(&operation)?;
            self.stop_waiting_for_feed(ctx, effects);
            return Ok(());
        }
        if operation == Operation::CancelPrepare && self.is_not_taken() {
            self.permit(&operation)?;
            self.retry.end_wait();
            self.work = None;
        }
        let turn =
            self.work.as_ref().is_some_and(|work| work.kind.is_turn() || work.kind == WorkKind::Flatten);
        let cleans_up = self.work.as_ref().is_some_and(|work| work.kind == WorkKind::Abandon);
        if let Some(work) = &self.work
            && !turn
            && (!cleans_up || matches!(operation, Operation::Resume))
        {
            let retrying = matches!(operation, Operation::Resume);
            if retrying {
                self.end_wait(ctx, effects);
                return Ok(());
            }
            return Err(Refusal::Busy { work: work.kind.name() });
        }
        self.permit(&operation)?;
        // What waits for the turn to stop was asked before, and must not undo what is asked now.
        if let (Operation::Later { .. }, Some(waiting)) = (&operation, &self.waiting) {
            return Err(Refusal::Busy { work: waiting.name() });
        }
        if let Operation::Later { at_ms, operation } = operation {
            self.scheduled = Some(crate::Scheduled { at_ms, operation: *operation });
            return Ok(());
        }
        if self.is_only_put_off(&operation) {
            self.scheduled = None;
            return Ok(());
        }
        if (turn || cleans_up) && self.waiting.is_some() && !matches!(operation, Operation::Resume) {
            return Err(Refusal::Busy { work: self.waiting.as_ref().map_or("", Operation::name) });
        }
        if cleans_up {
            // One that failed is tried again at once; if it fails again, whoever waits for it is told.
            self.waiting = Some(operation);
            self.end_wait(ctx, effects);
            return Ok(());
        }
        if turn && !matches!(operation, Operation::Resume) {
            self.waiting = Some(operation);
            if self.may_rest() && self.work.as_ref().is_some_and(|work| work.waits) {
                self.rest();
            } else if self.work.as_ref().is_some_and(|work| work.waits) {
                self.retry.end_wait();
                self.give_up_turn(ctx, effects);
            } else {
                effects.push(Effect::CancelStep);
            }
            return Ok(());
        }
        self.begin(ctx, operation, effects);
        Ok(())
    }

    fn cancel(&mut self, ctx: Context, operation: &Operation, effects: &mut Vec<Effect>) {
        if self.waiting.as_ref() == Some(operation) {
            self.waiting = None;
            effects.push(Effect::NotBegun { reason: GIVEN_UP.to_owned() });
            return;
        }
        let taken_back = self.may_be_taken_back(ctx);
        let Some(work) = &mut self.work else { return };
        if operation.work_kind() != Some(work.kind) || !(work.kind.is_turn() || taken_back) {
            return;
        }
        work.cancelled = true;
        let waits = work.waits;
        if *operation == Operation::Scrub {
            self.put_scrub_off(ctx.now_ms);
        }
        if !waits {
            return effects.push(Effect::CancelStep);
        }
        self.retry.end_wait();
        if taken_back {
            self.take_back(ctx, GIVEN_UP.to_owned(), effects);
        } else {
            self.give_up_turn(ctx, effects);
        }
    }

    /// Was the VM handed over to a peer that does not take it, and is asked to again and again.
    fn is_not_taken(&self) -> bool {
        let asks = |work: &Work| work.waits && matches!(work.step(), Some(Step::AskFailover { .. }));
        self.work.as_ref().is_some_and(asks)
    }

    /// A planned failover can be given up, and the guest runs again, until its last delta is on the peer; a reversal
    /// until the peer has become the replica.
    pub(crate) fn may_be_taken_back(&self, ctx: Context) -> bool {
        let kinds = [WorkKind::Prepare, WorkKind::Reverse];
        let work = self.work.as_ref().filter(|work| kinds.contains(&work.kind));
        work.is_some_and(|work| undo(self, work, ctx.fresh).is_some())
    }

    pub(crate) fn begin(&mut self, ctx: Context, operation: Operation, effects: &mut Vec<Effect>) {
        if operation != Operation::Resume {
            self.scheduled = None;
        }
        self.awaits_window = false;
        match &operation {
            Operation::CancelStart => self.cancel_start(),
            Operation::Suspend => {
                let to =
                    if self.state == S::Resynchronizing { S::ResynchronizeSuspended } else { S::Suspended };
                self.resume_to = Some(self.state);
                self.state = to;
            }
            Operation::Resume => {
                if self.rests() {
                    self.state = S::Resynchronizing;
                }
                self.end_wait(ctx, effects);
                self.next_cycle_ms = ctx.now_ms;
                self.state = match self.state {
                    S::WaitingForResynchronize | S::ResynchronizeSuspended => S::Resynchronizing,
                    S::Suspended | S::Critical if self.resync.is_some() && self.mode == Mode::Primary => {
                        S::Resynchronizing
                    }
                    S::DiskUpdateCritical => S::DiskUpdateInProgress,
                    S::Suspended | S::Critical => self.resume_to.take().unwrap_or(S::Replicating),
                    other => other,
                };
            }
            Operation::UpdateDisks => {
                self.retry.succeeded();
                self.state = S::DiskUpdateInProgress;
            }
            Operation::Resynchronize => {
                self.retry.succeeded();
                self.resync.get_or_insert_with(|| "asked for".to_owned());
                self.state = S::Resynchronizing;
            }
            Operation::CancelResynchronize => {
                self.state = S::WaitingForResynchronize;
            }
            Operation::CancelFailback => self.give_failback_up(),
            _ => {
                let Some(mut work) = plan(self, &operation, ctx.fresh) else { return };
                work.guest_ran = self.wants_running;
                match &operation {
                    Operation::StartReplication | Operation::Export => {
                        self.state = S::WaitingForInitialReplication;
                    }
                    Operation::Feed { base, point: None } => self.peer_has(*base),
                    Operation::Seed { id } => self.seed = Some(*id),
                    Operation::Prepare { keep, .. } => {
                        (self.wants_running, self.keeps_last) = (false, *keep);
                    }
                    Operation::Failback { point } => self.comes_home_as_of = *point,
                    _ => {}
                }
                self.retry.succeeded();
                self.work = Some(work);
                self.run_step(ctx, effects);
            }
        }
    }

    /// The peer became our replica in this state.
    pub(crate) fn peer_has(&mut self, base: DeltaId) {
        let ours = self.failed_over.as_ref().map(|f| f.point).or(self.latest);
        if ours != Some(base) {
            self.resync = Some("the other host's disks differ since the failover".to_owned());
        }
        self.latest = Some(base);
    }

    fn end_wait(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        self.retry.end_wait();
        if self.work.as_ref().is_some_and(|work| work.waits) {
            self.run_step(ctx, effects);
        }
    }

    /// Starts what is due when nothing is under way.
    fn go_on(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        if self.work.is_some() {
            return;
        }
        if let Some(operation) = self.waiting.take() {
            match self.permit(&operation) {
                // What only changes the state may make a turn due.
                Ok(()) => {
                    self.begin(ctx, operation, effects);
                    self.go_on(ctx, effects);
                }
                // Given up already with the turn, or complete after all.
                Err(_) if operation == Operation::CancelStart => self.go_on(ctx, effects),
                Err(refusal) => effects.push(Effect::NotBegun { reason: refusal.to_string() }),
            }
            return;
        }
        self.begin_scheduled(ctx, effects);
        if self.work.is_some() {
            return;
        }
        if self.retry.is_waiting(ctx.now_ms) {
            return;
        }
        if self.is_extended() {
            return self.forward(ctx, effects);
        }
        self.reckon_scrub(ctx.now_ms);
        let delta = DeltaId(ctx.fresh);
        let mut work = match (&self.token, self.state) {
            // The other host reverted. What ran here, be it on an overlay, goes on.
            (Token::Offered { .. }, _) if self.mode == Mode::Primary || self.failed_over.is_some() => {
                self.wants_running = self.superseded.as_ref().is_some_and(|s| s.was_running);
                let (define, state) = match self.mode {
                    Mode::Primary => (Step::DefineOwn, S::Replicating),
                    _ => (Step::DefineOverlay, self.state),
                };
                let plan = vec![Step::Take, define, Step::ResumeVm, Step::Set(state)];
                Work::new(WorkKind::TakeBack, self.state, plan)
            }
            _ if self.mode != Mode::Primary => return,
            (Token::Held { .. }, S::Replicating) if self.resync.is_some() => {
                self.state = S::Resynchronizing;
                plan::turn(WorkKind::Resync, S::Resynchronizing, delta, self.peer_latest.or(self.latest))
            }
            (Token::Held { .. }, S::Resynchronizing) => {
                plan::turn(WorkKind::Resync, S::Resynchronizing, delta, self.peer_latest.or(self.latest))
            }
            (Token::Held { .. }, S::DiskUpdateInProgress) => {
                plan::disk_update(delta, self.peer_latest.or(self.latest))
            }
            (Token::Held { .. }, S::Replicating) if self.flatten_is_due() => {
                let overlay = self.failed_over.as_ref().map_or(0, |f| f.overlay);
                Work::new(WorkKind::Flatten, self.state, vec![Step::Flatten { overlay }])
            }
            (Token::Held { .. }, S::Replicating) if self.scrub_is_due(ctx) => {
                plan::turn(WorkKind::Scrub, S::Replicating, delta, self.latest)
            }
            (Token::Held { .. }, S::Replicating) if ctx.now_ms >= self.next_cycle_ms => {
                self.schedule_next(ctx.now_ms);
                plan::turn(WorkKind::Cycle, S::Replicating, delta, self.latest)
            }
            _ => return,
        };
        if work.kind.is_turn() {
            self.statistics.cycle_started_ms = Some(ctx.now_ms);
        }
        work.freezes = work.kind == WorkKind::Cycle
            && self.settings.app_consistent_every_s > 0
            && ctx.now_ms >= self.next_consistent_ms;
        self.work = Some(work);
        self.run_step(ctx, effects);
    }

    /// The overlay is merged down once the peer has a delta of ours: until then its allocation is the
    /// last resort for finding out what changed.
    fn flatten_is_due(&self) -> bool {
        self.failed_over.as_ref().is_some_and(|f| self.latest != Some(f.point))
    }

    pub(crate) fn schedule_next(&mut self, now_ms: i64) {
        let interval = i64::from(self.settings.interval_s) * 1000;
        let due = self.next_cycle_ms;
        if due > 0 && now_ms >= due + interval {
            let missed = u64::try_from((now_ms - due) / interval).unwrap_or(0);
            self.statistics.cycles_missed += missed;
            self.statistics.interval.missed += missed;
        }
        self.next_cycle_ms =
            if due > 0 && now_ms < due + interval { due + interval } else { now_ms + interval };
    }
}
