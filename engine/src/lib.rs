//! What a host decides about its relationships: who may run a VM, which multi-step operation is under way
//! and at which step, when to cut again. Pure: an event and the time go in, effects come out. The caller
//! persists the record, then carries the effects out, then reports back.
//!
//! The engine knows no clock, no file, no socket, no task.

pub mod apply;
pub mod begin;
pub mod event;
mod failback;
mod failure;
pub mod forward;
mod interval;
pub mod learn;
pub mod operation;
mod permit;
pub mod plan;
mod progress;
pub mod relationship;
pub mod retry;
mod scrub;
pub mod standing;
#[cfg(test)]
mod testing;
pub mod token;
pub mod undo;

pub use begin::Scheduled;
pub use event::{Context, Effect, Event, Refusal, StepFailure, StepResult};
pub use failure::GIVEN_UP;
pub use forward::Upstream;
pub use interval::Interval;
pub use operation::Operation;
pub use plan::{CutKind, Step, Work, WorkKind};
pub use relationship::{FailedOver, FailoverType, Relationship, Settings, Statistics, Superseded, Window};
pub use standing::{OfferAnswer, Standing};
pub use token::Token;
