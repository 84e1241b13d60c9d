//! The transition: one event, the new record, the effects. The caller persists the record before it
//! carries the effects out.

use crate::{
    Context, Effect, Event, Operation, Refusal, Relationship, Step, Token, Work, WorkKind,
    learn::learn,
    plan::{self, plan},
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
            Event::Done(result) => self.step_done(ctx, result, &mut effects),
            Event::Failed(failure) => self.step_failed(ctx, failure, &mut effects),
            Event::Withdraw(instead) => {
                if self.may_run() || instead.number < self.token.generation().number {
                    return Err(Refusal::Because("the hand-over was taken already"));
                }
                self.token = Token::Elsewhere { generation: instead };
            }
            Event::Heard(standing) => {
                let running = self.wants_running && self.may_run();
                effects.extend(learn(self, ctx, &standing, running));
                if !self.retry.was_answered {
                    self.end_wait(ctx, &mut effects);
                }
            }
            Event::PointReceived(delta) => {
                self.latest = Some(delta);
                self.state = match self.state {
                    S::WaitingForInitialReplication => S::Replicating,
                    S::FailbackInProgress => S::FailbackComplete,
                    other => other,
                };
                self.statistics.last_success_ms = Some(ctx.now_ms);
                self.statistics.cycles_succeeded += 1;
            }
            Event::TrackingLost(reason) => {
                if self.mode == Mode::Primary && self.latest.is_some() {
                    // The cut under way may have been made before: it does not make up for this.
                    if let Some(turn) = self.work.as_mut().filter(|work| work.kind.is_turn()) {
                        turn.failure = Some(reason.clone());
                    }
                    self.resync = Some(reason);
                    if matches!(self.state, S::Replicating) && self.work.is_none() {
                        let auto = self.settings.auto_resynchronize;
                        self.state = if auto { S::Resynchronizing } else { S::WaitingForResynchronize };
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
                if self.may_run() && self.work.is_none() && self.superseded.is_none() {
                    self.wants_running = running;
                }
            }
            Event::Tick => {
                if self.retry.until_ms.is_some_and(|until| ctx.now_ms >= until) {
                    self.end_wait(ctx, &mut effects);
                }
            }
        }
        self.go_on(ctx, &mut effects);
        Ok(effects)
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
        let turn =
            self.work.as_ref().is_some_and(|work| work.kind.is_turn() || work.kind == WorkKind::Flatten);
        // It ends by itself and soon, unless something keeps it from ending.
        let cleans_up = self.work.as_ref().is_some_and(|work| work.kind == WorkKind::Abandon && !work.waits);
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
        if (turn || cleans_up) && self.waiting.is_some() && !matches!(operation, Operation::Resume) {
            return Err(Refusal::Busy { work: self.waiting.as_ref().map_or("", Operation::name) });
        }
        if cleans_up {
            self.waiting = Some(operation);
            return Ok(());
        }
        if turn && !matches!(operation, Operation::Resume) {
            self.waiting = Some(operation);
            if self.work.as_ref().is_some_and(|work| work.waits) {
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

    fn begin(&mut self, ctx: Context, operation: Operation, effects: &mut Vec<Effect>) {
        match &operation {
            Operation::Suspend => {
                let to =
                    if self.state == S::Resynchronizing { S::ResynchronizeSuspended } else { S::Suspended };
                self.resume_to = Some(self.state);
                self.state = to;
                effects.push(Effect::Finished { failure: None });
            }
            Operation::Resume => {
                self.end_wait(ctx, effects);
                self.next_cycle_ms = ctx.now_ms;
                self.state = match self.state {
                    S::WaitingForResynchronize | S::ResynchronizeSuspended => S::Resynchronizing,
                    S::Suspended | S::Critical if self.resync.is_some() && self.mode == Mode::Primary => {
                        S::Resynchronizing
                    }
                    S::Suspended | S::Critical => self.resume_to.take().unwrap_or(S::Replicating),
                    other => other,
                };
                effects.push(Effect::Finished { failure: None });
            }
            Operation::Resynchronize => {
                self.retry.succeeded();
                self.resync.get_or_insert_with(|| "asked for".to_owned());
                self.state = S::Resynchronizing;
            }
            Operation::CancelResynchronize => {
                self.state = S::WaitingForResynchronize;
                effects.push(Effect::Finished { failure: None });
            }
            Operation::CancelFailback => {
                let fed = self.state == S::FailbackComplete;
                self.state = if fed { S::Replicating } else { S::WaitingForInitialReplication };
                effects.push(Effect::Finished { failure: None });
            }
            _ => {
                let Some(mut work) = plan(self, &operation, ctx.fresh) else { return };
                work.guest_ran = self.wants_running;
                match &operation {
                    Operation::StartReplication => self.state = S::WaitingForInitialReplication,
                    Operation::Feed { base } => self.peer_has(*base),
                    Operation::Prepare { .. } => self.wants_running = false,
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
                Err(refusal) => effects.push(Effect::Finished { failure: Some(refusal.to_string()) }),
            }
            return;
        }
        if self.retry.is_waiting(ctx.now_ms) {
            return;
        }
        let delta = DeltaId(ctx.fresh);
        let work = match (&self.token, self.state) {
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
            (Token::Held { .. }, S::Replicating) if self.flatten_is_due() => {
                let overlay = self.failed_over.as_ref().map_or(0, |f| f.overlay);
                Work::new(WorkKind::Flatten, self.state, vec![Step::Flatten { overlay }])
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
        self.work = Some(work);
        self.run_step(ctx, effects);
    }

    /// The overlay is merged down once the peer has a delta of ours: until then its allocation is the
    /// last resort for finding out what changed.
    fn flatten_is_due(&self) -> bool {
        self.failed_over.as_ref().is_some_and(|f| self.latest != Some(f.point))
    }

    fn schedule_next(&mut self, now_ms: i64) {
        let interval = i64::from(self.settings.interval_s) * 1000;
        let due = self.next_cycle_ms;
        if due > 0 && now_ms >= due + interval {
            self.statistics.cycles_missed += u64::try_from((now_ms - due) / interval).unwrap_or(0);
        }
        self.next_cycle_ms =
            if due > 0 && now_ms < due + interval { due + interval } else { now_ms + interval };
    }
}
