//! What two hosts tell each other about one VM: exchanged with every call, so that each learns of a token
//! that moved as soon as they meet.

use crate::{Operation, Refusal, Step, Token, Work};
use model::{DeltaId, Generation, Mode, ReplicationState};
use serde::{Deserialize, Serialize};

/// A host's view of one VM. Idempotent: hearing it twice, late or out of order does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub generation: Generation,
    pub token: TokenKind,
    pub mode: Mode,
    pub state: ReplicationState,
    /// The newest delta that is durable here (replica) or acknowledged (primary).
    pub latest: Option<DeltaId>,
    /// Does the VM run here.
    pub running: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenKind {
    Held,
    Released,
    Offered,
    Elsewhere,
}

/// The replica's answer to an offered delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OfferAnswer {
    /// It is durable here already.
    Have,
    /// Send it; the stream may resume where the receiver's last durable mark stands.
    Send,
    /// Our latest is not your base.
    ResyncNeeded {
        latest: Option<DeltaId>,
    },
    StaleGeneration,
    FailedOverUncommitted,
    /// Later: the chain is full or something has the layers.
    Busy,
    Suspended,
}

impl crate::Relationship {
    /// What the replica answers to `delta` on top of `base`, offered under `generation`. Checked again in
    /// the transaction that makes the point visible.
    pub fn consider(&self, generation: &Generation, delta: DeltaId, base: Option<DeltaId>) -> OfferAnswer {
        use model::generation::Precedence;
        if self.latest == Some(delta) {
            return OfferAnswer::Have;
        }
        let failed_over =
            matches!(self.state, ReplicationState::Recovered | ReplicationState::FailoverInProgress);
        match self.token.generation().against(generation) {
            Precedence::Ours | Precedence::Conflict if failed_over => {
                return OfferAnswer::FailedOverUncommitted;
            }
            Precedence::Ours | Precedence::Conflict => return OfferAnswer::StaleGeneration,
            Precedence::Same | Precedence::Theirs => {}
        }
        // Superseded, it stands on its overlay until it is reverted.
        if self.mode == Mode::ExtendedReplica && self.failed_over.is_some() {
            return OfferAnswer::FailedOverUncommitted;
        }
        if !self.mode.is_replica() || self.may_run() {
            return OfferAnswer::StaleGeneration;
        }
        match self.state {
            ReplicationState::Suspended => OfferAnswer::Suspended,
            _ if self.is_occupied() => OfferAnswer::Busy,
            _ if self.latest != base => OfferAnswer::ResyncNeeded { latest: self.latest },
            _ => OfferAnswer::Send,
        }
    }

    /// Work that needs the points as they are. While the peer is asked to prepare or to feed us, its deltas
    /// are what is waited for.
    pub fn is_occupied(&self) -> bool {
        let asks = |work: &Work| matches!(work.step(), Some(Step::AskPrepare { .. } | Step::AskFeed { .. }));
        self.work.as_ref().is_some_and(|work| !asks(work))
    }

    /// The state in which this host can be fed, once it is the peer's replica: what the peer that asked us to
    /// yield waits for. A failback that only waits to be fed has yielded too.
    pub fn yielded(&self) -> Option<DeltaId> {
        let is_replica = self.mode.is_replica() && !self.may_run() && self.failed_over.is_none();
        self.latest.filter(|_| is_replica && !self.is_occupied())
    }

    /// May the peer, which stands like this, ask for `operation`. A request that was delayed until the token
    /// had moved speaks of a state of affairs that has passed. To be asked after the standing was heard.
    pub fn may_be_asked(&self, theirs: &Standing, operation: &Operation) -> Result<(), Refusal> {
        if self.token.generation() != &theirs.generation {
            return Err(Refusal::Because("it was asked before the right to run the VM moved"));
        }
        // A peer can pass the right on, but only an operator here may take it without being given it.
        let takes = matches!(operation, Operation::Failover { .. });
        if takes && !matches!(self.token, Token::Offered { .. }) {
            return Err(Refusal::Because("the right to run the VM was not offered"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
