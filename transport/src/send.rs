//! A delta on its way out: a thread that reads, one that encodes, and a body that hands on what they make as
//! fast as the limiters allow. The queues between them are bounded; each stage waits for the next.

use crate::{
    client::{Client, SendOptions, Target},
    connect::RequestBody,
    encode::{BATCH_BYTES, Compression, EncodeError, Encoder},
    error::SendError,
    header::{DeltaHeader, Mark},
    limit::Limiter,
    stream::header_bytes,
};
use bytes::Bytes;
use futures::{Stream, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use model::{Chunk, HostName};
use serde_json::Value;
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::client::Progress;

/// Chunks read ahead, up to 1 MiB each.
const CHUNKS_QUEUED: usize = 4;
/// Batches encoded ahead. Long enough to tell a full queue from an empty one, see [`Encoder::observe_queue`].
const BATCHES_QUEUED: usize = 8;

/// Why there are no more batches.
enum Failure {
    Source(Box<dyn std::error::Error + Send + Sync>),
    Encode(EncodeError),
}

type Batches = mpsc::Receiver<Result<Bytes, Failure>>;

pub(crate) async fn send_delta<E>(
    client: &Client,
    to: Target<'_>,
    header: &DeltaHeader,
    source: impl Iterator<Item = Result<Chunk, E>> + Send + 'static,
    options: SendOptions,
) -> Result<Value, SendError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let host = || to.host.clone();
    let prefix = header_bytes(header).map_err(|source| SendError::Header { host: host(), source })?;
    let cancel = options.cancel.clone();
    let mut batches = start(source, header.from, &options);

    // The first batch comes before the connection: a resumed delta whose beginning differs is found without
    // bothering the peer.
    let first = tokio::select! {
        first = batches.recv() => first,
        () = cancel.cancelled() => return Err(SendError::Cancelled { host: host() }),
    };
    let first = match first {
        Some(Ok(first)) => first,
        Some(Err(failure)) => return Err(failure.into_error(to.host)),
        None => return Err(stopped(to.host)),
    };
    // Whatever ends this future ends the body: a delta that is refused early is not sent to its end.
    let stop = CancellationToken::new();
    let _stop_with_us = stop.clone().drop_guard();
    let (failed, mut failure) = mpsc::channel(1);
    let body = Outgoing {
        pieces: VecDeque::from([prefix, first]),
        batches,
        failed,
        limiters: options.limiters,
        progress: options.progress,
        stop,
    };
    let body: RequestBody = StreamBody::new(body.into_stream()).boxed_unsync();
    let answer = tokio::select! {
        answer = client.post(to, "/delta", body) => answer,
        () = cancel.cancelled() => return Err(SendError::Cancelled { host: host() }),
    };
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(answer)) => Err(SendError::Refused { host: host(), answer }),
        // Our own failure cut the stream; what the peer makes of that is noise.
        Err(link) => {
            Err(failure.try_recv().map_or(link.into(), |failure: Failure| failure.into_error(to.host)))
        }
    }
}

/// Starts the threads that read and encode.
fn start<E>(
    source: impl Iterator<Item = Result<Chunk, E>> + Send + 'static,
    from: Mark,
    options: &SendOptions,
) -> Batches
where
    E: std::error::Error + Send + Sync + 'static,
{
    let (chunk_sender, chunks) = mpsc::channel(CHUNKS_QUEUED);
    let (batch_sender, batches) = mpsc::channel(BATCHES_QUEUED);
    tokio::task::spawn_blocking(move || {
        for chunk in source {
            let chunk = chunk.map_err(|error| Failure::Source(error.into()));
            let over = chunk.is_err();
            if chunk_sender.blocking_send(chunk).is_err() || over {
                return;
            }
        }
    });
    let (compression, progress) = (options.compression, options.progress.clone());
    tokio::task::spawn_blocking(move || {
        if let Err(failure) = encode(chunks, &batch_sender, from, compression, &progress) {
            let _ = batch_sender.blocking_send(Err(failure));
        }
    });
    batches
}

/// `Ok` when all is encoded or nobody wants it any more.
fn encode(
    mut chunks: mpsc::Receiver<Result<Chunk, Failure>>,
    to: &mpsc::Sender<Result<Bytes, Failure>>,
    from: Mark,
    compression: Compression,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut encoder = Encoder::new(from, compression).map_err(Failure::Encode)?;
    let mut pace = Pace { since: Instant::now(), bytes: 0, bytes_per_s: 0.0 };
    while let Some(chunk) = chunks.blocking_recv() {
        encoder.push(&chunk?).map_err(Failure::Encode)?;
        progress.frames.store(encoder.mark().frames, Relaxed);
        progress.raw_bytes.store(encoder.data_bytes(), Relaxed);
        if let Some(batch) = encoder.take_batch() {
            let queued = to.max_capacity() - to.capacity();
            pace.count(batch.len());
            encoder.observe_queue(queued as f32 / to.max_capacity() as f32, pace.bytes_per_s);
            if to.blocking_send(Ok(batch.into())).is_err() {
                return Ok(());
            }
        }
    }
    let last = encoder.finish().map_err(Failure::Encode)?;
    let _ = to.blocking_send(Ok(last.into()));
    Ok(())
}

/// How fast batches go, over the last queue's length of them: a single one tells of its moment only.
struct Pace {
    since: Instant,
    bytes: usize,
    bytes_per_s: f64,
}

impl Pace {
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= BATCHES_QUEUED * BATCH_BYTES {
            self.bytes_per_s = self.bytes as f64 / self.since.elapsed().as_secs_f64();
            (self.since, self.bytes) = (Instant::now(), 0);
        }
    }
}

/// The body of the request.
struct Outgoing {
    pieces: VecDeque<Bytes>,
    batches: Batches,
    failed: mpsc::Sender<Failure>,
    limiters: Vec<Arc<Limiter>>,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl Outgoing {
    fn into_stream(self) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
        stream::unfold(self, async |mut outgoing| {
            let stop = outgoing.stop.clone();
            let piece = tokio::select! {
                piece = outgoing.next() => piece?,
                () = stop.cancelled() => Err(io::Error::other("the sender stopped")),
            };
            Some((piece.map(Frame::data), outgoing))
        })
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.pieces.is_empty() {
            match self.batches.recv().await? {
                Ok(batch) => self.pieces.push_back(batch),
                Err(failure) => {
                    let _ = self.failed.try_send(failure);
                    return Some(Err(io::Error::other("the delta cannot be read")));
                }
            }
        }
        let mut piece = self.pieces.pop_front()?;
        let most = self.limiters.iter().map(|limiter| limiter.piece_bytes()).min().unwrap_or(usize::MAX);
        if piece.len() > most {
            self.pieces.push_front(piece.split_off(most));
        }
        for limiter in &self.limiters {
            limiter.take(piece.len()).await;
        }
        self.progress.sent_bytes.fetch_add(piece.len() as u64, Relaxed);
        Some(Ok(piece))
    }
}

impl Failure {
    fn into_error(self, to: &HostName) -> SendError {
        let host = to.clone();
        match self {
            Self::Source(source) => SendError::Source { host, source },
            Self::Encode(EncodeError::ChainMismatch { frames }) => SendError::ChainMismatch { host, frames },
            Self::Encode(source) => SendError::Encode { host, source },
        }
    }
}

fn stopped(to: &HostName) -> SendError {
    SendError::Source { host: to.clone(), source: "the thread that reads it stopped".into() }
}
