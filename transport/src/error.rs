//! What can go wrong between two hosts, told apart by what an operator does about it.

use model::HostName;
use serde_json::Value;

/// The link to a peer does not work. `host` is who was meant, `address` what was tried.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{host} does not resolve")]
    NameUnresolved { host: HostName, address: String },
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer's handler said no.
    #[error("{host} refused: {answer}")]
    Refused { host: HostName, answer: Value },
    #[error("the request to {host} cannot be written as JSON")]
    Request { host: HostName, source: serde_json::Error },
    /// The peer's answer is not what this call expects.
    #[error("the answer of {host} cannot be understood")]
    Answer { host: HostName, source: serde_json::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer's handler said no.
    #[error("{host} refused the delta: {answer}")]
    Refused { host: HostName, answer: Value },
    /// What the source yields now is not what the receiver has: start again from [`crate::Mark::START`].
    #[error("the delta differs from what {host} received before frame {frames}; send it from the start")]
    ChainMismatch { host: HostName, frames: u64 },
    #[error("cannot read the delta for {host}")]
    Source { host: HostName, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("sending to {host} was cancelled")]
    Cancelled { host: HostName },
}
