//! What a receiver sees of a delta: verified chunks, each with the mark behind it, then the end.

use crate::header::Mark;
use model::Chunk;

/// The next thing that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Up to 1 MiB of consecutive clusters, or a run of zeroes. `mark`: the place in the stream right after
    /// it. Once this chunk and all before it are fsynced, the stream can resume from there.
    Chunk { chunk: Chunk, mark: Mark },
    /// The delta is complete: counts and chain agree with the sender's. Nothing follows.
    End(Totals),
}

/// What a complete delta amounts to, frames before `from` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The end of the stream.
    pub mark: Mark,
    /// Bytes of data clusters before compression; zero runs count nothing.
    pub data_bytes: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("the stream was cut: {reason}")]
    Cut { reason: String },
}

/// A delta as it arrives. Dropping it tells the sender to stop.
#[derive(Debug)]
pub struct ChunkStream {
    received: tokio::sync::mpsc::Receiver<Result<Received, ReceiveError>>,
}

impl ChunkStream {
    /// Waits for the next chunk. Cancel-safe. After `End` or an error the stream is over.
    pub async fn next(&mut self) -> Result<Received, ReceiveError> {
        self.received.recv().await.unwrap_or(Err(ReceiveError::Cut { reason: String::new() }))
    }

    /// As [`Self::next`], for a writer on a thread of its own; panics inside an async task.
    pub fn blocking_next(&mut self) -> Result<Received, ReceiveError> {
        self.received.blocking_recv().unwrap_or(Err(ReceiveError::Cut { reason: String::new() }))
    }
}
