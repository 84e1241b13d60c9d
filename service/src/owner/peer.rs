//! What the other host asks of an owner: deltas, the hand-over, the other half of an operation.

use super::*;
use crate::{
    arrivals,
    commands::{home, ready},
    steps::Trust,
};

impl Owner {
    pub(super) async fn commit(
        &mut self,
        delta: DeltaId,
        sealed: layers::Sealed,
        generation: &Generation,
        base: Option<DeltaId>,
    ) -> Result<(), OfferAnswer> {
        match self.record.consider(generation, delta, base) {
            OfferAnswer::Send => {}
            other => return Err(other),
        }
        let ours = self.record.token.generation().clone();
        let host = self.host.clone();
        let (vm, kind) = (self.record.vm, sealed.kind());
        let committed = blocking(move || {
            let store = host.store(vm)?;
            store
                .commit(sealed, 0, ours.number, ours.nonce, now_ms())
                .map_err(|error| Failure::internal("commit the point", &error))
        })
        .await;
        match committed {
            Ok(_) => {
                self.apply(Event::PointReceived { delta, kind }).await;
                Ok(())
            }
            Err(failure) => {
                tracing::error!(vm = %self.record.name, %failure, "cannot commit a point");
                Err(OfferAnswer::Busy)
            }
        }
    }

    pub(super) async fn answer(&mut self, message: Message) -> Answer {
        let generation = message.standing.as_ref().map(|standing| standing.generation.clone());
        let standing = message.standing.clone();
        if let Some(standing) = message.standing {
            self.hear(standing).await;
        }
        let generation = generation.unwrap_or_else(|| self.record.token.generation().clone());
        let result = match message.request {
            PeerRequest::Offer { delta, base, last } => {
                let long = standing.as_ref().filter(|_| !last).map(|theirs| arrivals::is_long(theirs, base));
                self.offered(&generation, delta, base, long).await
            }
            PeerRequest::Withdraw { instead } => match self.withdraw(instead).await {
                Ok(()) => PeerResult::Done,
                Err(refusal) => PeerResult::Refused {
                    failure: Failure::new(ErrorKind::InvalidState, "taken", refusal.to_string()),
                },
            },
            PeerRequest::Operate { operation, changes } => {
                self.operate_for_peer(standing.as_ref(), operation, changes.as_ref()).await
            }
            PeerRequest::Hashes { disk, first, count } => {
                self.hashes(disk, first, count, Trust::Record).await
            }
            PeerRequest::ReadHashes { disk, first, count } => {
                self.hashes(disk, first, count, Trust::Nothing).await
            }
            PeerRequest::MayTakeOver => {
                let (host, record) = (self.host.clone(), self.record.clone());
                match blocking(move || ready::point_is_ready(&host, &record, None)).await {
                    Ok(()) => PeerResult::Done,
                    Err(failure) => PeerResult::Refused { failure },
                }
            }
            PeerRequest::FindPoint { text } => {
                let (host, record) = (self.host.clone(), self.record.clone());
                match blocking(move || home::find(&host, &record, &text)).await {
                    Ok(point) => PeerResult::Point { point },
                    Err(failure) => PeerResult::Refused { failure },
                }
            }
            PeerRequest::Configure { settings } => {
                self.record.configure(settings, now_ms());
                self.persist();
                PeerResult::Done
            }
            PeerRequest::Greet
            | PeerRequest::Create { .. }
            | PeerRequest::FindSeed { .. }
            | PeerRequest::Probe => PeerResult::Done,
        };
        let running = self.is_running().await;
        // A comparison that rests until an operator resumes it is nothing to wait for.
        let work = self
            .record
            .work
            .as_ref()
            .filter(|_| self.record.state != ReplicationState::ResynchronizeSuspended);
        Answer {
            standing: Some(self.record.standing(running)),
            work: work.map(|work| work.kind.name().to_owned()),
            last_failure: self.last_failure.clone(),
            result,
        }
    }

    pub(super) async fn withdraw(&mut self, instead: Generation) -> Result<(), Refusal> {
        let context = self.context();
        let before = self.record.clone();
        match self.record.apply(context, Event::Withdraw(instead)) {
            Ok(effects) => {
                self.persist();
                self.carry_out(effects).await;
                Ok(())
            }
            Err(refusal) => {
                self.record = before;
                Err(refusal)
            }
        }
    }

    /// Is there a recovery point of this name.
    async fn keeps(&self, delta: DeltaId) -> bool {
        let (host, vm) = (self.host.clone(), self.record.vm);
        let points = blocking(move || host.catalog.points(vm)).await;
        points.is_ok_and(|points| points.iter().any(|point| point.delta == delta))
    }

    /// `long`: a transfer that has to wait for a place, a first copy or a comparison among them.
    pub(super) async fn offered(
        &self,
        generation: &Generation,
        delta: DeltaId,
        base: Option<DeltaId>,
        long: Option<bool>,
    ) -> PeerResult {
        let mut answer = self.record.consider(generation, delta, base);
        // An older point by that name: a replica that was failed over to it offers it to a third host that has later
        // ones, too. What follows it is compared with those.
        if answer == OfferAnswer::Send && self.keeps(delta).await {
            answer = OfferAnswer::Have;
        }
        let is_receiving = || self.host.owner(self.record.vm).is_some_and(|owner| owner.is_receiving());
        let may_enter = |long| self.host.arrivals.may_enter(self.record.vm, long, Instant::now());
        // What is being sealed may be a point in a moment: it is neither wanted again nor given up.
        if answer == OfferAnswer::Send && (is_receiving() || !long.is_none_or(may_enter)) {
            answer = OfferAnswer::Busy;
        }
        let mut mark = Mark::START;
        if answer == OfferAnswer::Send {
            let (host, vm) = (self.host.clone(), self.record.vm);
            mark = blocking(move || steps::receiving_mark(&host, vm, delta)).await.unwrap_or(Mark::START);
        }
        PeerResult::Offer { answer, mark }
    }

    pub(super) async fn operate_for_peer(
        &mut self,
        theirs: Option<&Standing>,
        operation: Operation,
        changes: Option<&OwnChanges>,
    ) -> PeerResult {
        if let Some(done) = self.done_for_peer(&operation) {
            return done;
        }
        if let (Operation::Feed { base, .. }, Some(changes)) = (&operation, changes)
            && let Err(failure) = steps::record_peer_changes(&self.host, self.record.vm, *base, changes)
        {
            return PeerResult::Refused { failure };
        }
        if let Some(theirs) = theirs
            && let Err(refusal) = self.record.may_be_asked(theirs, &operation)
        {
            return PeerResult::Refused { failure: refused(&self.record, &operation, &refusal) };
        }
        // A peer that has it already needs it here no more.
        if let Operation::Feed { point: Some(point), .. } = &operation
            && theirs.is_none_or(|theirs| theirs.latest != Some(*point))
            && self.record.work.is_none()
        {
            let (host, record, text) = (self.host.clone(), self.record.clone(), point.to_string());
            if let Err(failure) = blocking(move || home::find(&host, &record, &text)).await {
                return PeerResult::Refused { failure };
            }
        }
        let turning = self.record.work.as_ref().is_some_and(|work| work.kind.is_turn());
        if matches!(operation, Operation::Prepare { .. })
            && turning
            && self.record.state == ReplicationState::Resynchronizing
        {
            let message = format!("{} is still comparing", self.host.name);
            return PeerResult::Refused { failure: Failure::new(ErrorKind::InUse, "busy", message) };
        }
        if matches!(operation, Operation::Prepare { .. }) && self.is_away().await {
            let message =
                format!("{} was migrated from {} to another host", self.record.name, self.host.name);
            let failure = Failure::new(ErrorKind::InvalidState, "migrated", message);
            return PeerResult::Refused {
                failure: failure.hint("migrate it back first, or shut it down there"),
            };
        }
        let kind = operation.work_kind();
        let running = self.record.work.as_ref().map(|work| work.kind);
        if running.is_some() && running == kind {
            return PeerResult::Done;
        }
        if self.record.waiting.as_ref() == Some(&operation) {
            return PeerResult::Done;
        }
        self.last_failure = None;
        // What stops the guest of this host can be seen and cancelled here, whoever asked for it.
        let context = self.context();
        let begins = self.record.admits(context, &operation).is_ok();
        let stops = begins && matches!(operation, Operation::Prepare { .. });
        let job = stops.then(|| self.new_job(&operation));
        match self.operate(operation, job).await {
            Ok(()) => PeerResult::Done,
            Err(failure) => {
                if let Some(job) = job {
                    self.host.jobs.end(job, Err(failure.clone()));
                }
                PeerResult::Refused { failure }
            }
        }
    }

    /// An operation that the peer asks for again, and that is through.
    pub(super) fn done_for_peer(&self, operation: &Operation) -> Option<PeerResult> {
        let r = &self.record;
        match operation {
            Operation::Yield => {
                let base = r.yielded()?;
                Some(match steps::own_changes(&self.host, r.vm) {
                    Ok(changes) => PeerResult::Yielded { base, changes },
                    Err(failure) => PeerResult::Refused { failure },
                })
            }
            Operation::Feed { base, point }
                if r.mode == Mode::Primary && r.latest == Some(point.unwrap_or(*base)) =>
            {
                Some(PeerResult::Done)
            }
            Operation::Prepare { .. } if matches!(r.token, engine::Token::Released { .. }) => {
                Some(PeerResult::Done)
            }
            Operation::Failover { point, .. }
                if r.failed_over.as_ref().is_some_and(|f| point.is_none_or(|point| f.point == point))
                    && r.work.is_none() =>
            {
                Some(PeerResult::Done)
            }
            _ => None,
        }
    }

    pub(super) async fn hashes(&self, disk: DiskId, first: u32, count: u32, trust: Trust) -> PeerResult {
        let (host, vm, latest) = (self.host.clone(), self.record.vm, self.record.latest);
        match blocking(move || steps::hashes(&host, vm, latest, disk, (first, count), trust)).await {
            Ok(hashes) => PeerResult::Hashes { hashes },
            Err(failure) => PeerResult::Refused { failure },
        }
    }
}
