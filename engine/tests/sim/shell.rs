//! The daemon's part, in the real one's order: apply, persist, carry out, report; and what it asks of the
//! peer. It may die between any two of these.

use super::{
    disk::{Clusters, difference},
    reality::Outcome,
    world::{A, Answer, B, Body, Check, F, Flight, Message, World, summary},
};
use engine::{
    Effect, Event, OfferAnswer, Operation, Refusal, Relationship, Step, StepFailure, StepResult, Token,
};
use model::{DeltaId, Generation, Mode, PointKind};
use rand::Rng;

/// How an event was taken.
pub enum Taken {
    Well,
    Refused(Refusal),
    /// The daemon is down, or died of it.
    NotAtAll,
}

impl World {
    pub fn apply(&mut self, host: usize, event: Event) -> Check<Taken> {
        let ctx = self.context();
        let Some(before) = self.hosts[host].live.clone() else { return Ok(Taken::NotAtAll) };
        let mut after = before.clone();
        let effects = match after.apply(ctx, event.clone()) {
            Ok(effects) => effects,
            Err(_) if after != before => return Err(format!("refused, yet changed: {event:?}")),
            Err(refusal) => {
                self.note(format!("{}: {event:?} refused: {refusal}", Self::name(host)));
                return Ok(Taken::Refused(refusal));
            }
        };
        if !matches!(event, Event::Heard(_) | Event::Tick) || after != before {
            self.note(format!("{}: {} -> {}", Self::name(host), brief(&event), summary(&after)));
        }
        if self.chance(self.faults.crash) {
            self.crash(host, "before the record");
            return Ok(Taken::NotAtAll);
        }
        self.check_transition(host, &before, &after)?;
        self.hosts[host].record = after.clone();
        self.hosts[host].live = Some(after);
        if self.chance(self.faults.crash) {
            self.crash(host, "before the effects");
            return Ok(Taken::NotAtAll);
        }
        for effect in effects {
            self.carry_out_effect(host, effect)?;
        }
        if host == B {
            self.follow(false)?;
        }
        Ok(Taken::Well)
    }

    fn carry_out_effect(&mut self, host: usize, effect: Effect) -> Check {
        match effect {
            Effect::Run(step) => {
                if let Some(flight) = &self.hosts[host].flight {
                    return Err(format!("two steps at once: {flight:?} and {step:?}"));
                }
                self.hosts[host].flight = Some(Flight::ToDo(step));
            }
            Effect::CancelStep => {
                let stops: bool = self.rng.random();
                let flight = &mut self.hosts[host].flight;
                if stops && matches!(flight, Some(Flight::ToDo(_) | Flight::Asked(..))) {
                    *flight = Some(Flight::Ended(Err(StepFailure::Cancelled)));
                }
            }
            Effect::PauseVm => self.hosts[host].reality.pause(),
            Effect::Greet => {
                self.request(host, Body::Greet);
            }
            Effect::Finished { failure } => self.hosts[host].finished.push(failure),
            Effect::NotBegun { reason } => self.hosts[host].finished.push(Some(reason)),
        }
        Ok(())
    }

    /// Starts the daemon from what it persisted, the record's written form included.
    pub fn start(&mut self, host: usize) -> Check {
        if self.hosts[host].live.is_some() || self.hosts[host].gone {
            return Ok(());
        }
        if host == F {
            return self.start(B);
        }
        let text = serde_json::to_string(&self.hosts[host].record).map_err(|error| error.to_string())?;
        let record: Relationship = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if record != self.hosts[host].record {
            return Err("the record changes when it is written and read".into());
        }
        let (newest, latest) = (self.hosts[host].reality.newest(), record.latest);
        let is_replica = record.mode.is_replica() && record.failed_over.is_none() && !record.is_occupied();
        self.hosts[host].live = Some(record);
        // A point can be durable one event before the record knows.
        if is_replica
            && newest != latest
            && let Some(newest) = newest
        {
            self.apply(host, Event::PointReceived { delta: newest, kind: PointKind::Regular })?;
        }
        let reality = &self.hosts[host].reality;
        let tracks = reality.spool.as_ref().map_or(reality.tracking.is_some(), |spool| spool.since.is_some());
        let primary = self.hosts[host].record.mode == Mode::Primary && host != F;
        if primary && !tracks && reality.domain.is_some() {
            self.apply(host, Event::TrackingLost("changes were not tracked".into()))?;
        }
        self.apply(host, Event::Started)?;
        self.autostart(host);
        if host == B { self.start_forwarding() } else { Ok(()) }
    }

    /// After the host's own start the daemon starts the VM that should run.
    pub fn autostart(&mut self, host: usize) {
        let Some(live) = &self.hosts[host].live else { return };
        if live.may_run()
            && live.wants_running
            && live.work.is_none()
            && let Some(domain) = &mut self.hosts[host].reality.domain
            && !domain.running
        {
            domain.running = true;
        }
    }

    /// Does what the engine asked for last.
    pub fn carry_out(&mut self, host: usize) -> Check {
        let Some(live) = self.hosts[host].live.clone() else { return Ok(()) };
        let Some(Flight::ToDo(step)) = &self.hosts[host].flight else { return Ok(()) };
        let step = step.clone();
        if let Some(body) = self.question(host, &live, &step) {
            let id = self.request(host, body);
            self.hosts[host].flight = Some(Flight::Asked(id, step));
            return Ok(());
        }
        let outcome = if needs_right(&step) && !live.may_run() {
            Err(StepFailure::Superseded)
        } else if self.chance(self.faults.step) && !matches!(step, Step::Settle { .. } | Step::Abandon { .. })
        {
            self.spoil(&step)
        } else {
            self.check_settle(host, &step)?;
            self.check_hide(host, &live, &step)?;
            if host == F || self.forwards_still(host, &step) {
                let outcome = self.forward_step(host, &live, &step);
                self.note(format!("{}: {} -> {outcome:?}", Self::name(host), step.name()));
                self.hosts[host].flight = Some(Flight::Ended(outcome));
                return Ok(());
            }
            self.leave_third(host, &step);
            self.hosts[host].reality.carry_out(&live, &step, &mut self.truth)?
        };
        self.note(format!("{}: {} -> {outcome:?}", Self::name(host), step.name()));
        self.hosts[host].flight = Some(Flight::Ended(outcome));
        Ok(())
    }

    fn spoil(&mut self, step: &Step) -> Outcome {
        let kinds = match step {
            Step::Cut { .. } => 3,
            Step::StartVm | Step::Track | Step::StopGuest { .. } | Step::MakeOverlay { .. } => 4,
            _ => 1,
        };
        let reason = || format!("cannot {}", step.name());
        Err(match self.rng.random_range(0..kinds) {
            0 => StepFailure::Recoverable(reason()),
            1 => StepFailure::NoSpace(reason()),
            2 => StepFailure::Fatal(reason()),
            _ => StepFailure::Refused(reason()),
        })
    }

    pub fn report(&mut self, host: usize) -> Check {
        if self.hosts[host].live.is_none() || !matches!(self.hosts[host].flight, Some(Flight::Ended(_))) {
            return Ok(());
        }
        if self.chance(self.faults.crash) {
            self.crash(host, "before the report");
            return Ok(());
        }
        let Some(Flight::Ended(outcome)) = self.hosts[host].flight.take() else { return Ok(()) };
        let event = match outcome {
            Ok(result) => Event::Done(result),
            Err(failure) => Event::Failed(failure),
        };
        self.apply(host, event).map(|_| ())
    }

    /// What the peer is asked on behalf of a step.
    fn question(&self, host: usize, live: &Relationship, step: &Step) -> Option<Body> {
        let reality = &self.hosts[host].reality;
        Some(match step {
            Step::TellRelease => Body::Greet,
            Step::Ship { delta } => Body::Offer { delta: *delta, base: base_of(live, *delta) },
            Step::TellWithdraw { instead } => Body::Withdraw(instead.clone()),
            Step::AskPrepare { force, keep } => {
                Body::Ask(Operation::Prepare { force: *force, then_fail_over: None, keep: *keep }, None)
            }
            Step::AskFailover { start } => {
                Body::Ask(Operation::Failover { point: Some(live.latest?), start: *start }, None)
            }
            Step::AskSeed { id } => Body::Ask(Operation::Seed { id: *id }, None),
            Step::AskYield => Body::Ask(Operation::Yield, None),
            Step::AskFeed { base, point } => {
                let operation = Operation::Feed { base: *base, point: *point };
                Body::Ask(operation, reality.own_changes.clone())
            }
            Step::SendPoint { point, base } => Body::Offer { delta: *point, base: Some(*base) },
            _ => return None,
        })
    }

    pub fn request(&mut self, from: usize, body: Body) -> u64 {
        let id = self.next_request();
        let standing = self.standing(from);
        let to = self.peer_of(from);
        self.post(Message::Request { from, to, id, standing, body });
        id
    }

    pub fn standing(&self, host: usize) -> engine::Standing {
        let there = &self.hosts[host];
        let runs = self.hosts[Self::place(host)].reality.runs();
        there.live.as_ref().unwrap_or(&there.record).standing(runs)
    }

    pub fn post(&mut self, message: Message) {
        if !self.partitioned && !self.chance(self.faults.lost) {
            self.network.push(message);
        }
    }

    /// Nothing came back in time.
    pub fn time_out(&mut self, host: usize) {
        if let Some(Flight::Asked(..)) = &self.hosts[host].flight {
            let failure = StepFailure::Recoverable("no answer".into());
            self.hosts[host].flight = Some(Flight::Ended(Err(failure)));
        }
    }

    pub fn deliver(&mut self, index: usize) -> Check {
        let message = self.network.swap_remove(index);
        if self.chance(self.faults.repeated) {
            let again = match &message {
                Message::Request { from, to, id, standing, body } => Message::Request {
                    from: *from,
                    to: *to,
                    id: *id,
                    standing: standing.clone(),
                    body: body.clone(),
                },
                Message::Reply { to, id, standing, answer } => {
                    Message::Reply { to: *to, id: *id, standing: standing.clone(), answer: answer.clone() }
                }
            };
            self.network.push(again);
        }
        match message {
            Message::Request { from, to, id, standing, body } => match self.addressed(from, to) {
                Some(actor) => self.requested(actor, from, id, standing, body),
                None => self.heard_from_former_peer(from, to, id, standing),
            },
            Message::Reply { to, id, standing, answer } => self.answered(to, id, standing, answer),
        }
    }

    /// As the service answers, which looks into its store, too.
    fn considered(
        &self,
        host: usize,
        live: &Relationship,
        generation: &Generation,
        delta: DeltaId,
        base: Option<DeltaId>,
    ) -> OfferAnswer {
        let answer = live.consider(generation, delta, base);
        let has = self.hosts[host].reality.points.iter().any(|point| point.delta == delta);
        if has && answer == OfferAnswer::Send { OfferAnswer::Have } else { answer }
    }

    fn requested(
        &mut self,
        host: usize,
        from: usize,
        id: u64,
        standing: engine::Standing,
        body: Body,
    ) -> Check {
        if self.hosts[host].live.is_none() {
            return Ok(());
        }
        self.hear(host, standing.clone())?;
        let Some(live) = self.hosts[host].live.clone() else { return Ok(()) };
        let answer = match body {
            Body::Greet => Answer::Fine,
            Body::Offer { delta, base } => {
                Answer::Offer(self.considered(host, &live, &standing.generation, delta, base))
            }
            Body::Delta { delta, base, clusters, content } => {
                let answer = self.considered(host, &live, &standing.generation, delta, base);
                if answer == OfferAnswer::Send {
                    self.hosts[host].reality.receive(delta, base, &content, clusters)?;
                    if self.chance(self.faults.crash) {
                        self.crash(host, "before a received point is known");
                        return Ok(());
                    }
                    self.apply(host, Event::PointReceived { delta, kind: PointKind::Regular })?;
                    Answer::Offer(OfferAnswer::Have)
                } else {
                    Answer::Offer(answer)
                }
            }
            Body::Withdraw(instead) => match self.apply(host, Event::Withdraw(instead))? {
                Taken::Refused(refusal) => Answer::Refused(refusal),
                _ => Answer::Fine,
            },
            Body::Ask(operation, changes) => self.asked(host, &live, &standing, operation, changes)?,
        };
        if self.hosts[host].live.is_some() {
            let standing = self.standing(host);
            self.post(Message::Reply { to: from, id, standing, answer });
        }
        Ok(())
    }

    fn asked(
        &mut self,
        host: usize,
        live: &Relationship,
        theirs: &engine::Standing,
        operation: Operation,
        changes: Option<super::reality::Changes>,
    ) -> Check<Answer> {
        if let Err(refusal) = live.may_be_asked(theirs, &operation) {
            return Ok(Answer::Refused(refusal));
        }
        let yields = matches!(operation, Operation::Yield);
        match self.apply(host, Event::Operation(operation))? {
            Taken::Refused(refusal) => return Ok(Answer::Refused(refusal)),
            Taken::NotAtAll => return Ok(Answer::Fine),
            Taken::Well => {}
        }
        if changes.is_some() {
            self.hosts[host].reality.peer_changes = changes;
        }
        let there = &self.hosts[host];
        Ok(match there.live.as_ref().filter(|_| yields).and_then(Relationship::yielded) {
            Some(base) => Answer::Yielded {
                base,
                changes: there.reality.own_changes.clone().filter(|changes| changes.state == base),
            },
            None => Answer::Fine,
        })
    }

    fn answered(&mut self, host: usize, id: u64, standing: engine::Standing, answer: Answer) -> Check {
        if self.hosts[host].live.is_none() {
            return Ok(());
        }
        let is_primary = standing.mode == Mode::Primary;
        self.hear(host, standing)?;
        let Some(Flight::Asked(asked, step)) = &self.hosts[host].flight else { return Ok(()) };
        let step = step.clone();
        if *asked != id {
            return Ok(());
        }
        let Some(live) = &self.hosts[host].live else { return Ok(()) };
        let busy = || Err(StepFailure::Busy("not through yet".into()));
        let outcome = match (&step, answer) {
            (Step::Ship { delta }, Answer::Offer(OfferAnswer::Send)) => {
                let (delta, base) = (*delta, base_of(live, *delta));
                return self.send_delta(host, delta, base, step);
            }
            (Step::SendPoint { point, base }, Answer::Offer(OfferAnswer::Send)) => {
                return self.send_kept_point(host, *point, *base, &step);
            }
            (Step::Ship { .. } | Step::SendPoint { .. }, Answer::Offer(answer)) => shipped(&answer),
            (Step::TellRelease, _) if matches!(live.token, Token::Released { .. }) => Ok(StepResult::Plain),
            (Step::AskYield, Answer::Yielded { base, changes }) => {
                self.hosts[host].reality.peer_changes = changes;
                Ok(StepResult::Yielded { base })
            }
            (Step::AskYield, Answer::Fine) => busy(),
            (Step::AskFeed { point: Some(_), .. }, Answer::Fine) if !is_primary => busy(),
            (Step::AskSeed { .. }, Answer::Fine) if live.peer_latest.is_none() => busy(),
            (_, Answer::Refused(Refusal::Busy { .. })) => busy(),
            (_, Answer::Refused(refusal)) => Err(StepFailure::Refused(refusal.to_string())),
            _ => Ok(StepResult::Plain),
        };
        self.note(format!("{}: {} answered: {outcome:?}", Self::name(host), step.name()));
        self.hosts[host].flight = Some(Flight::Ended(outcome));
        Ok(())
    }

    /// An operator carries the peer's exported copy over and has it imported.
    pub fn import(&mut self, host: usize) -> Check {
        if ![A, B].contains(&host) {
            return Ok(());
        }
        let (Some(live), Some((delta, content))) =
            (&self.hosts[host].live, self.hosts[1 - host].reality.files)
        else {
            return Ok(());
        };
        if live.consider(live.token.generation(), delta, None) != OfferAnswer::Send {
            return Ok(());
        }
        self.note(format!("{}: imports {delta}", Self::name(host)));
        self.hosts[host].reality.receive(delta, None, &content, Clusters::ALL)?;
        if self.chance(self.faults.crash) {
            self.crash(host, "before an imported point is known");
            return Ok(());
        }
        self.apply(host, Event::PointReceived { delta, kind: PointKind::Regular }).map(|_| ())
    }

    /// What of a point differs from what the peer has, as both know by their hashes.
    fn send_kept_point(&mut self, host: usize, delta: DeltaId, base: DeltaId, step: &Step) -> Check {
        let content_of = |host: usize, delta| {
            let points = &self.hosts[host].reality.points;
            points.iter().find(|point| point.delta == delta).map(|point| (point.visible, point.content))
        };
        let theirs = content_of(self.peer_of(host), base);
        let (Some((true, content)), Some((_, theirs))) = (content_of(host, delta), theirs) else {
            let gone = StepFailure::Recoverable("it is gone".into());
            self.hosts[host].flight = Some(Flight::Ended(Err(gone)));
            return Ok(());
        };
        let clusters = difference(&theirs, &content);
        let id = self.request(host, Body::Delta { delta, base: Some(base), clusters, content });
        self.hosts[host].flight = Some(Flight::Asked(id, step.clone()));
        Ok(())
    }

    fn send_delta(&mut self, host: usize, delta: DeltaId, base: Option<DeltaId>, step: Step) -> Check {
        if host == F {
            return self.send_point(delta, base, step);
        }
        let spool = self.hosts[host].reality.spool.as_ref().filter(|spool| spool.delta == delta);
        let spool = spool.ok_or("a delta is shipped that is not in the spool")?;
        let (clusters, content): (Clusters, _) = (spool.clusters, spool.content);
        let id = self.request(host, Body::Delta { delta, base, clusters, content });
        self.hosts[host].flight = Some(Flight::Asked(id, step));
        Ok(())
    }
}

fn shipped(answer: &OfferAnswer) -> Outcome {
    Err(match answer {
        OfferAnswer::Have => return Ok(StepResult::Bytes { bytes: 1 }),
        OfferAnswer::Busy | OfferAnswer::Send => StepFailure::Busy("busy".into()),
        OfferAnswer::Suspended => StepFailure::Recoverable("suspended over there".into()),
        OfferAnswer::ResyncNeeded { .. } => StepFailure::ResyncNeeded("stands elsewhere".into()),
        OfferAnswer::StaleGeneration | OfferAnswer::FailedOverUncommitted => StepFailure::Superseded,
    })
}

/// The base on which the work under way made this delta.
pub fn base_of(r: &Relationship, delta: DeltaId) -> Option<DeltaId> {
    r.work.as_ref()?.plan.iter().find_map(|step| match step {
        Step::Cut { delta: cut, base, .. } if *cut == delta => *base,
        _ => None,
    })
}

fn needs_right(step: &Step) -> bool {
    matches!(step, Step::DefineOwn | Step::DefineOverlay | Step::StartVm | Step::ResumeVm)
}

fn brief(event: &Event) -> String {
    match event {
        Event::Heard(theirs) => format!(
            "heard {:?} {} {}/{} latest {:?}",
            theirs.token, theirs.generation, theirs.mode, theirs.state, theirs.latest
        ),
        other => format!("{other:?}"),
    }
}
