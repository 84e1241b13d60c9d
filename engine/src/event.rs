//! What goes into the engine and what comes out.

use crate::{Operation, Standing, plan::Step};
use model::{DeltaId, ReplicationState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Time and chance, which the engine does not have.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub now_ms: i64,
    /// A random id that was never used before.
    pub fresh: Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The daemon has started, or the record was made: go on where it stands.
    Started,
    Operation(Operation),
    /// The step that the last [`Effect::Run`] named has ended.
    Done(StepResult),
    Failed(StepFailure),
    /// The peer wants back what it released, under this newer generation. Accepting is a promise to
    /// refuse the older one; refused once it was taken.
    Withdraw(model::Generation),
    /// The peer said, or answered, how it stands.
    Heard(Standing),
    /// A point became durable here.
    PointReceived(DeltaId),
    /// The tracking of changes was lost (host crash, foreign snapshot): deltas cannot be trusted any more.
    /// A daemon that finds this when it starts says so before [`Event::Started`].
    TrackingLost(String),
    /// The overlays that the turn under way needs have grown too large to stay: it is taken back, and tried
    /// again later.
    Squeezed(String),
    /// The domain was seen running or not.
    Power {
        running: bool,
    },
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepResult {
    Plain,
    /// A cut or a shipped delta: bytes of data.
    Bytes {
        bytes: u64,
    },
    /// A peer that became our replica: the state that it has.
    Yielded {
        base: DeltaId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepFailure {
    /// No route, no answer, cut stream, full disk over there: worth another try.
    Recoverable(String),
    /// The peer asked to come back soon.
    Busy(String),
    /// Not enough room in the spool: this cycle is skipped, nothing is lost.
    NoSpace(String),
    /// The peer's latest state is not our base.
    ResyncNeeded(String),
    /// The peer says that it has a newer generation.
    Superseded,
    /// The caller stopped the step because it was asked to.
    Cancelled,
    /// The peer, the guest or the operator's rules say no: the operation ends, what it began is undone.
    Refused(String),
    /// Needs an operator.
    Fatal(String),
}

impl StepFailure {
    pub fn reason(&self) -> &str {
        match self {
            Self::Recoverable(reason)
            | Self::Busy(reason)
            | Self::NoSpace(reason)
            | Self::ResyncNeeded(reason)
            | Self::Refused(reason)
            | Self::Fatal(reason) => reason,
            Self::Superseded => "the other host took over",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Carry this step out and report [`Event::Done`] or [`Event::Failed`].
    Run(Step),
    /// Ask the running step to stop; it still reports.
    CancelStep,
    /// Superseded: stop the guest's processors at once.
    PauseVm,
    /// The token came back while the VM was paused here.
    ResumeVm,
    /// Tell the peer how we stand.
    Greet,
    /// The operation under way has ended; `None`: well.
    Finished { failure: Option<String> },
}

/// An operation that is not possible now; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not possible in state `{state}` as {mode}")]
    State { mode: model::Mode, state: ReplicationState },
    #[error("{work} is under way")]
    Busy { work: &'static str },
    /// Run it on the other host.
    #[error("runs on the other host")]
    WrongHost,
    #[error("{0}")]
    Because(&'static str),
}
