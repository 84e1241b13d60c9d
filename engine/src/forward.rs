//! Extended replication: a replica forwards the points that it received to a third host.
//!
//! Relationship 1 has a record and an owner of its own. It sends, as a primary does, but what it sends is
//! not cut: a turn forwards the newest point of this host, under the point's own id, so that a state has one
//! name on all hosts. It needs no right to run the VM and has none: its token is a copy of the one in
//! relationship 0, which hears what the third host says of it, and decides.

use crate::{
    CutKind, Effect, Operation, Refusal, Relationship, Settings, Step, Superseded, Token, Work, WorkKind,
    event::Context, plan::turn,
};
use model::{DeltaId, HostName, Mode, ReplicationState as S};
use serde::{Deserialize, Serialize};

/// What the relationship that forwards has to know of relationship 0 on the same host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub token: Token,
    /// The newest point, where it may be forwarded.
    pub source: Option<DeltaId>,
}

impl Relationship {
    /// Relationship 0, told to relationship 1.
    pub fn upstream(&self) -> Upstream {
        Upstream { token: self.token.clone(), source: self.forwardable() }
    }

    /// The newest point, as long as points are received and none is about to be dropped. What runs here after a
    /// failover is no point.
    pub fn forwardable(&self) -> Option<DeltaId> {
        let drops = |step: &Step| matches!(step, Step::HidePoints | Step::Promote | Step::Adopt { .. });
        let ends = self.work.as_ref().is_some_and(|work| work.plan.iter().any(drops));
        self.latest.filter(|_| self.mode == Mode::Replica && self.state != S::Committed && !ends)
    }

    /// To whom a revert gives the right to run the VM back: to the peer, or past it to the host from which it was
    /// taken.
    pub(crate) fn gives_back_to(&self) -> HostName {
        match (self.mode, &self.superseded, &self.taken_from) {
            (Mode::ExtendedReplica, Some(superseded), _) => superseded.by.owner.clone(),
            (Mode::ExtendedReplica, None, Some(from)) => from.clone(),
            _ => self.peer.clone(),
        }
    }

    /// Takes note of relationship 0. When the third host has taken the VM over, nothing is forwarded until it
    /// gives the right back.
    pub(crate) fn follow(&mut self, ctx: Context, upstream: Upstream, effects: &mut Vec<Effect>) {
        if self.token != upstream.token {
            effects.push(Effect::Greet);
        }
        self.token = upstream.token;
        self.source = upstream.source;
        let by = self.token.generation();
        let taken = by.owner == self.peer;
        if taken && self.superseded.is_none() {
            self.superseded = Some(Superseded { by: by.clone(), at_ms: ctx.now_ms, was_running: false });
            if self.state != S::Suspended {
                self.state = S::Critical;
            }
        } else if !taken && self.superseded.take().is_some() && self.state == S::Critical {
            self.state = if self.latest.is_some() { S::Replicating } else { S::Ready };
        }
        if self.source.is_some() && self.superseded.is_none() {
            return;
        }
        match self.work.as_ref().filter(|work| work.kind.is_turn()) {
            Some(turn) if turn.waits => self.give_up_turn(ctx, effects),
            Some(_) => effects.push(Effect::CancelStep),
            None => {}
        }
    }

    /// Another host, to which points were forwarded, is the peer from now on. The former one hears no more than who
    /// may run the VM.
    pub(crate) fn repeer(&mut self, peer: HostName, base: DeltaId, settings: Settings) {
        if self.peer == peer {
            return;
        }
        let former = std::mem::replace(&mut self.peer, peer);
        self.former_peers.push(former);
        self.former_peers.retain(|host| *host != self.peer);
        self.former_peers.dedup();
        self.settings = settings;
        self.peer_latest = None;
        self.peer_has(base);
    }

    /// Begins the turn that is due, if there is something new to forward.
    pub(crate) fn forward(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        let Some(source) = self.source else { return };
        let kind = match self.state {
            S::Replicating if self.resync.is_some() => WorkKind::Resync,
            S::Resynchronizing => WorkKind::Resync,
            S::Replicating if ctx.now_ms >= self.next_cycle_ms => WorkKind::Cycle,
            _ => return,
        };
        // A state has one name: the third host would take nothing under the name of what it has.
        if [self.peer_latest, self.latest].contains(&Some(source)) {
            if kind == WorkKind::Cycle {
                self.latest = Some(source);
                self.next_cycle_ms = ctx.now_ms + i64::from(self.settings.interval_s) * 1000;
            }
            return;
        }
        let work = if kind == WorkKind::Resync {
            self.state = S::Resynchronizing;
            turn(kind, S::Resynchronizing, source, self.peer_latest.or(self.latest))
        } else {
            self.schedule_next(ctx.now_ms);
            turn(kind, S::Replicating, source, self.latest)
        };
        self.statistics.cycle_started_ms = Some(ctx.now_ms);
        self.work = Some(work);
        self.run_step(ctx, effects);
    }

    /// The first copy; to a host that has points of the VM already, what differs from the newest of them.
    pub(crate) fn first_forward(&self) -> Option<Work> {
        let mut work = turn(WorkKind::FirstCopy, self.state, self.source?, self.peer_latest);
        if self.peer_latest.is_some()
            && let Some(Step::Cut { how, .. }) = work.plan.first_mut()
        {
            *how = CutKind::Compare;
        }
        Some(work)
    }

    /// Why an operation is not one of a relationship that forwards.
    pub(crate) fn permit_forwarding(&self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::StartReplication if self.source.is_none() => {
                Err(Refusal::Because("this host has no recovery point to forward"))
            }
            Operation::Resume | Operation::Resynchronize if self.superseded.is_some() => {
                Err(Refusal::Because("the extended replica took this VM over: revert the failover there"))
            }
            Operation::StartReplication
            | Operation::Suspend
            | Operation::Resume
            | Operation::Resynchronize
            | Operation::CancelStart
            | Operation::CancelResynchronize => Ok(()),
            Operation::Later { operation, .. } => self.permit_forwarding(operation),
            // It only forwards what this replica received.
            _ => Err(Refusal::State { mode: self.mode, state: self.state }),
        }
    }
}

#[cfg(test)]
mod tests;
