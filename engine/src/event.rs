//! What goes into the engine and what comes out.

use crate::{Operation, Standing, Upstream, plan::Step};
use model::{DeltaId, PointKind, Repaired, ReplicationState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Time and chance, which the engine does not have.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub now_ms: i64,
    /// What the host's local time is ahead of UTC.
    pub utc_offset_min: i32,
    /// A random id that was never used before.
    pub fresh: Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The daemon has started, or the record was made: go on where it stands.
    Started,
    Operation(Operation),
    /// An operator does not want the turn any more that this operation became, or waits for.
    Cancel(Operation),
    /// The step that the last [`Effect::Run`] named has ended.
    Done(StepResult),
    Failed(StepFailure),
    /// The peer wants back what it released, under this newer generation. Accepting is a promise to
    /// refuse the older one; refused once it was taken.
    Withdraw(model::Generation),
    /// The peer said, or answered, how it stands.
    Heard(Standing),
    /// Another host than the peer said how it stands: one that this host forwards to, or a former peer. What
    /// it knows of the right to run the VM counts, and nothing else.
    HeardBeyond(Standing),
    /// Extended: relationship 0 of the VM stands like this.
    Upstream(Upstream),
    /// A point became durable here.
    PointReceived {
        delta: DeltaId,
        kind: PointKind,
    },
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
    /// A shipped delta: bytes of data.
    Bytes {
        bytes: u64,
    },
    /// A shipped scrub: bytes of data, and what of it nobody had written.
    Scrubbed {
        bytes: u64,
        repaired: Repaired,
    },
    /// A cut. `frozen`: were the guest's file systems frozen at it, or why not; `None`: there was nothing to
    /// ask, or nobody to be asked.
    Cut {
        frozen: Option<Result<(), String>>,
    },
    /// An overlay on a point of this kind.
    Overlay {
        kind: PointKind,
    },
    /// A peer that became our replica: the state that it has.
    Yielded {
        base: DeltaId,
    },
    /// Done, but deltas cannot simply go on.
    TrackingLost {
        why: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepFailure {
    /// A full disk over there, a tool that failed: worth another try.
    Recoverable(String),
    /// No route, no answer, a cut stream: worth another try, too.
    Unreachable(String),
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
            | Self::Unreachable(reason)
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
    /// Tell the peer how we stand.
    Greet,
    /// The operation under way has ended; `None`: well.
    Finished { failure: Option<String> },
    /// An operation that waited, or was put off, will not begin.
    NotBegun { reason: String },
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
