//! The transition: one event, the new record, the effects. The caller persists the record before it
//! carries the effects out.

use crate::{
    Context, Effect, Event, FailedOver, FailoverType, Operation, Refusal, Relationship, Step, StepFailure,
    StepResult, Token, Work, WorkKind,
    learn::learn,
    plan::{self, is_through, overtaken, plan, undo},
};
use model::{DeltaId, Mode, PointKind, ReplicationState as S};

/// How long a peer that said `busy` is left alone.
const BUSY_WAIT_MS: i64 = 1000;

/// How long a peer that refused what cannot be taken back is left alone: an operator has to act there.
const REFUSED_WAIT_MS: i64 = 10_000;

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
                        self.state = S::WaitingForResynchronize;
                    }
                }
                // What follows from it begins with the next event: a starting daemon says this first, and
                // then has everything that is under way started at once.
                return Ok(effects);
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
        if let Some(work) = &self.work
            && !turn
        {
            let retrying = matches!(operation, Operation::Resume);
            if retrying {
                self.end_wait(ctx, effects);
                return Ok(());
            }
            return Err(Refusal::Busy { work: work.kind.name() });
        }
        self.permit(&operation)?;
        if turn && self.waiting.is_some() && !matches!(operation, Operation::Resume) {
            return Err(Refusal::Busy { work: self.waiting.as_ref().map_or("", Operation::name) });
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

    /// By a peer that did not hear the answer.
    fn is_asked_again(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Yield => self.yielded().is_some(),
            Operation::Feed { base } => {
                self.mode == Mode::Primary && self.may_run() && self.latest == Some(*base)
            }
            _ => false,
        }
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
    fn peer_has(&mut self, base: DeltaId) {
        let ours = self.failed_over.as_ref().map(|f| f.point).or(self.latest);
        if ours != Some(base) {
            self.resync = Some("the other host's disks differ since the failover".to_owned());
        }
        self.latest = Some(base);
    }

    /// Applies steps of the record until one has to be carried out, or the work has ended.
    fn run_step(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        while let Some(work) = &mut self.work {
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
    fn materialize(&self, step: Step) -> Step {
        match step {
            Step::MakeOverlay { point: None, overlay } => Step::MakeOverlay { point: self.latest, overlay },
            other => other,
        }
    }

    fn take_effect(&mut self, ctx: Context, step: Step) {
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
                self.superseded = None;
                self.failed_over = None;
                self.wants_running = false;
            }
            Step::Reclaim(generation) => self.token = Token::Held { generation, acknowledged: false },
            _ => {}
        }
    }

    /// A generation was numbered when its plan was made; the token may have moved since, and never goes back.
    fn ahead(&self, generation: model::Generation) -> model::Generation {
        model::Generation { number: self.token.generation().number + 1, ..generation }
    }

    fn hold(&mut self, ctx: Context, generation: model::Generation, kind: FailoverType) {
        self.token = Token::Held { generation, acknowledged: false };
        self.superseded = None;
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
                FailoverType::Unplanned => PointKind::Regular,
            };
            self.failed_over = Some(FailedOver { point, overlay, kind, point_kind, at_ms: ctx.now_ms });
        }
    }

    fn step_done(&mut self, ctx: Context, result: StepResult, effects: &mut Vec<Effect>) {
        let Some(work) = &self.work else { return };
        let Some(step) = work.step().cloned() else { return };
        let kind = work.kind;
        match (&step, &result) {
            // The hand-over is only through when we were told so; a lost message is asked for again.
            (Step::AskPrepare { .. }, _) if !is_through(self, &step) => {
                return self.try_soon(ctx, BUSY_WAIT_MS, "waiting for the other host's hand-over".to_owned());
            }
            // Durable with the record, before anything is settled.
            (Step::Ship { delta }, StepResult::Bytes { bytes }) => {
                self.latest = Some(*delta);
                self.resync = self.work.as_mut().and_then(|work| work.failure.take());
                self.statistics.sent_bytes += bytes;
                self.statistics.last_cycle_bytes = *bytes;
            }
            (Step::AskYield, StepResult::Yielded { base }) => {
                let base = *base;
                self.peer_has(base);
            }
            // The later points are gone. (In a reverse, `latest` is the peer's state already.)
            (Step::HidePoints, _) if kind == WorkKind::Commit => {
                self.latest = self.failed_over.as_ref().map(|f| f.point).or(self.latest);
            }
            (Step::Adopt { id }, _) => self.latest = Some(*id),
            (Step::Flatten { .. }, _) => self.failed_over = None,
            // Superseded while it was being started.
            (Step::StartVm | Step::ResumeVm, _) if !self.may_run() => effects.push(Effect::PauseVm),
            _ => {}
        }
        self.retry.succeeded();
        let work = self.work.as_mut().expect("checked above");
        work.at += 1;
        // A step that ended well although it was asked to stop: what waits goes first, where it can.
        let give_up = kind.is_turn()
            && matches!(work.step(), Some(Step::Ship { .. }))
            && (self.waiting.is_some() || !self.token.is_held());
        if give_up {
            self.give_up_turn(ctx, effects);
        } else {
            self.run_step(ctx, effects);
        }
    }

    fn step_failed(&mut self, ctx: Context, failure: StepFailure, effects: &mut Vec<Effect>) {
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
    fn try_soon(&mut self, ctx: Context, wait_ms: i64, reason: String) {
        self.retry.later(ctx.now_ms + wait_ms, reason);
        self.work.iter_mut().for_each(|work| work.waits = true);
    }

    /// The step that failed is tried again after a wait that grows.
    fn try_later(&mut self, ctx: Context, reason: String) {
        self.retry.failed(ctx.now_ms, reason);
        self.work.iter_mut().for_each(|work| work.waits = true);
    }

    fn turn_failed(&mut self, ctx: Context, step: &Step, failure: StepFailure, effects: &mut Vec<Effect>) {
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
    fn give_up_turn(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
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

    fn work_ended(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        let Some(work) = self.work.take() else { return };
        match work.kind {
            WorkKind::Cycle | WorkKind::FirstCopy | WorkKind::Resync => {
                self.statistics.cycles_succeeded += 1;
                self.statistics.last_success_ms = Some(ctx.now_ms);
                if let Some(started) = self.statistics.cycle_started_ms.take() {
                    self.statistics.last_cycle_ms = u64::try_from(ctx.now_ms - started).unwrap_or(0);
                }
            }
            WorkKind::Abandon if self.resync.is_some() && self.may_run() && self.mode == Mode::Primary => {
                let auto = self.settings.auto_resynchronize;
                self.state = if auto { S::Resynchronizing } else { S::WaitingForResynchronize };
            }
            WorkKind::TakeBack => self.superseded = None,
            _ => {}
        }
        if !work.kind.is_turn() {
            effects.push(Effect::Greet);
        }
        if work.kind != WorkKind::Cycle && work.kind != WorkKind::Flatten {
            effects.push(Effect::Finished { failure: work.failure });
        }
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
                Ok(()) => self.begin(ctx, operation, effects),
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
