//! An operator: one who presses any button at any time, and one who brings everything in order.

use super::world::{A, B, Check, Faults, Flight, World};
use engine::{Event, Operation, Token};
use model::{DeltaId, Mode, ReplicationState as S};
use rand::{Rng, seq::IndexedRandom};

/// Rounds in which everything must have come in order once faults stop.
const ROUNDS_MAX: usize = 60;

impl World {
    /// Mostly something that is possible now: refusals are quickly had.
    pub fn any_operation(&mut self, host: usize) -> Operation {
        for _ in 0..12 {
            let operation = self.draw_operation(host);
            let possible = self.hosts[host].record.permit(&operation).is_ok();
            let usual = !matches!(
                operation,
                Operation::Suspend
                    | Operation::Resynchronize
                    | Operation::CancelResynchronize
                    | Operation::Resume
            );
            if possible && usual {
                return operation;
            }
        }
        self.draw_operation(host)
    }

    /// Cancels the job of what is under way.
    pub fn cancel(&mut self, host: usize) -> Check {
        let under_way = self.hosts[host].record.work.as_ref().map(|work| work.kind);
        let force = self.rng.random();
        let operations = [
            Operation::StartReplication,
            Operation::Export,
            Operation::UpdateDisks,
            Operation::Resynchronize,
            Operation::Scrub,
            Operation::Prepare { force, then_fail_over: None, keep: false },
            Operation::Reverse,
        ];
        match operations.into_iter().find(|operation| operation.work_kind() == under_way) {
            Some(operation) => self.apply(host, Event::Cancel(operation)).map(drop),
            None => Ok(()),
        }
    }

    fn draw_operation(&mut self, host: usize) -> Operation {
        if let Some(operation) = self.draw_third(host) {
            return operation;
        }
        let points: Vec<DeltaId> = self.hosts[host].reality.points.iter().map(|point| point.delta).collect();
        let chosen = points.choose(&mut self.rng).copied();
        let point = chosen.unwrap_or(DeltaId(uuid::Uuid::nil()));
        let start = self.rng.random_range(0..5) > 0;
        let force = self.rng.random();
        match self.rng.random_range(0..21) {
            0 => Operation::StartReplication,
            20 => Operation::Scrub,
            1 => Operation::Suspend,
            2 | 3 => Operation::Resume,
            4 if force => Operation::CancelResynchronize,
            4 => Operation::Resynchronize,
            5 => Operation::Failover { point: Some(point).filter(|_| force), start },
            6 => Operation::Prepare { force, then_fail_over: None, keep: false },
            7 => Operation::Prepare { force, then_fail_over: Some(start), keep: false },
            8 => Operation::PlannedFailover { start },
            9 => Operation::CancelPrepare,
            10 => Operation::Revert,
            11 => Operation::Commit,
            12 => Operation::Reverse,
            13 => Operation::Failback { point: self.point_of_peer(host).filter(|_| force) },
            14 => Operation::CompleteFailback { point: chosen.filter(|_| force), force },
            15 => Operation::Export,
            16 => Operation::CancelStart,
            17 => {
                let what = if force { Operation::StartReplication } else { Operation::Resynchronize };
                Operation::Later { at_ms: self.now_ms + 50_000, operation: Box::new(what) }
            }
            18 => Operation::UpdateDisks,
            _ => Operation::CancelFailback,
        }
    }

    /// Mostly one that is there.
    fn point_of_peer(&mut self, host: usize) -> Option<DeltaId> {
        let points = &self.hosts[Self::place(self.peer_of(host))].reality.points;
        let points: Vec<DeltaId> = points.iter().map(|point| point.delta).collect();
        points.choose(&mut self.rng).copied()
    }

    /// What brings a world without work under way nearer to plain replication.
    fn remedy(&mut self) -> Option<(usize, Operation)> {
        let either = self.rng.random();
        for host in if either { [A, B] } else { [B, A] } {
            let r = &self.hosts[host].record;
            let rests = r.state == S::ResynchronizeSuspended;
            if (r.work.is_some() && !rests) || r.waiting.is_some() {
                continue;
            }
            let operation = match (r.mode, r.state, &r.token) {
                (Mode::Primary, S::Ready, _) => Operation::StartReplication,
                // Nothing came of what was exported.
                (Mode::Primary, S::WaitingForInitialReplication, Token::Held { .. }) if either => {
                    Operation::CancelStart
                }
                (Mode::Primary, S::DiskUpdateCritical, Token::Held { .. }) => Operation::Resume,
                (_, S::Suspended | S::WaitingForResynchronize | S::ResynchronizeSuspended, _) => {
                    Operation::Resume
                }
                (Mode::Primary, S::SyncedReplicationComplete, Token::Released { .. }) if either => {
                    Operation::CancelPrepare
                }
                (Mode::Replica, S::Recovered | S::Committed, Token::Held { .. })
                    if r.superseded.is_some() =>
                {
                    if host == A {
                        Operation::Revert
                    } else {
                        continue;
                    }
                }
                (Mode::Replica, S::Recovered, Token::Held { .. }) if self.is_planned(host) => {
                    Operation::Reverse
                }
                (Mode::Replica, S::Recovered, Token::Held { .. }) => {
                    if self.rng.random() {
                        Operation::Commit
                    } else {
                        Operation::Revert
                    }
                }
                (Mode::Replica, S::Committed, Token::Held { .. }) => Operation::Reverse,
                (
                    Mode::Replica,
                    S::WaitingForInitialReplication
                    | S::Replicating
                    | S::FailbackInProgress
                    | S::FailbackComplete
                    | S::Critical,
                    Token::Offered { .. },
                ) => Operation::Failover { point: Some(r.latest?), start: true },
                (Mode::Replica, S::FailbackComplete, _) if either => {
                    Operation::CompleteFailback { point: None, force: true }
                }
                (Mode::Replica, S::FailbackComplete, _) => Operation::CancelFailback,
                (Mode::Primary, S::Critical, Token::Elsewhere { .. })
                    if self.hosts[1 - host].record.mode == Mode::Primary =>
                {
                    Operation::Failback { point: None }
                }
                (Mode::Replica, S::Recovered, _) => Operation::Revert,
                _ => continue,
            };
            return Some((host, operation));
        }
        None
    }

    fn is_planned(&self, host: usize) -> bool {
        let failed_over = self.hosts[host].record.failed_over.as_ref();
        failed_over.is_some_and(|f| f.kind == engine::FailoverType::Planned)
    }

    /// Lets everything run, without faults, until nothing is left to do.
    pub fn settle_down(&mut self) -> Check {
        for _ in 0..100 {
            let mut moved = false;
            while !self.network.is_empty() {
                self.deliver(0)?;
                self.check()?;
                moved = true;
            }
            for host in 0..self.hosts.len() {
                moved |= self.hosts[host].flight.is_some();
                self.carry_out(host)?;
                self.check()?;
                if self.network.is_empty() {
                    self.time_out(host);
                }
                let ended = matches!(self.hosts[host].flight, Some(Flight::Ended(_)));
                if ended {
                    self.report(host)?;
                    self.check()?;
                }
            }
            if !moved {
                return Ok(());
            }
        }
        Ok(())
    }

    pub fn tick(&mut self, milliseconds: i64) -> Check {
        self.now_ms += milliseconds;
        for host in 0..self.hosts.len() {
            self.apply(host, Event::Tick)?;
        }
        Ok(())
    }

    /// After faults have stopped and an operator attends to it, replication stands again.
    pub fn heal(&mut self) -> Check {
        self.faults = Faults::NONE;
        self.partitioned = false;
        for host in [A, B] {
            self.start(host)?;
        }
        for round in 0..ROUNDS_MAX {
            self.settle_down()?;
            if self.is_settled() {
                return Ok(());
            }
            if let Some((host, operation)) = self.remedy() {
                self.note(format!("{}: remedy {operation:?}", Self::name(host)));
                self.apply(host, Event::Operation(operation))?;
                self.settle_down()?;
            }
            // Long waits of the retry are to end too.
            self.tick(if round % 8 == 7 { 1_800_000 } else { 31_000 })?;
            for host in [A, B] {
                self.request(host, super::world::Body::Greet);
            }
        }
        Err("it did not come in order".into())
    }
}
