//! What a receiver sees of a delta: verified chunks, each with the mark behind it, then the end.

use crate::{
    decode::Decoder,
    frame::{DISK_BYTES_MAX, DecodeError},
    header::{DeltaHeader, Mark},
};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use model::Chunk;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Chunks that wait for the handler. With one in the decoder and what HTTP and TLS hold, a delta takes less
/// than 16 MiB however slow the disk is; then the sender waits.
const CHUNKS_QUEUED: usize = 8;
/// A header is a list of disks and the caller's extra, which may hold a domain's XML.
pub(crate) const HEADER_BYTES_MAX: usize = 16 << 20;
const DISKS_MAX: usize = 1024;
/// A sender may wait that long for its own disk or its bandwidth limit. Dead links are found by TCP.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// What a sender may still send after it got its answer early.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
const MAGIC: &[u8; 8] = b"RLVODLTA";
const PREFIX_BYTES: usize = 12;

/// The next thing that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Up to 1 MiB of consecutive clusters, or a run of zeroes. `mark`: the place in the stream right after
    /// it. Once this chunk and all before it are fsynced, the stream can resume from there.
    Chunk { chunk: Chunk, mark: Mark },
    /// The delta is complete: counts and chain agree with the sender's. Nothing follows.
    End(Totals),
}

/// What a complete delta amounts to, frames before the header's `from` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The end of the stream.
    pub mark: Mark,
    /// Bytes of data clusters before compression; zero runs count nothing. Of a resumed stream, the part
    /// before `from` is the sender's word.
    pub data_bytes: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("the sender's stream ended after {frames} frames, before its end frame")]
    Truncated { frames: u64 },
    #[error("the connection broke after {frames} frames: {problem}")]
    Cut { frames: u64, problem: String },
    #[error("the sender was silent for {seconds} s after {frames} frames")]
    Silent { frames: u64, seconds: u64 },
    #[error("the stream is damaged")]
    Damaged(#[from] DecodeError),
    #[error("this host is shutting down")]
    ShuttingDown,
    /// The stream was read past its end or its first error.
    #[error("the stream is over")]
    Over,
}

/// A delta as it arrives. Dropping it tells the sender to stop.
#[derive(Debug)]
pub struct ChunkStream {
    received: mpsc::Receiver<Result<Received, ReceiveError>>,
}

impl ChunkStream {
    /// Waits for the next chunk. Cancel-safe. After `End` or an error the stream is over. All chunks before an
    /// error are whole and verified, and their marks good to resume from.
    pub async fn next(&mut self) -> Result<Received, ReceiveError> {
        self.received.recv().await.unwrap_or(Err(ReceiveError::Over))
    }

    /// As [`Self::next`], for a writer on a thread of its own; panics inside an async task.
    pub fn blocking_next(&mut self) -> Result<Received, ReceiveError> {
        self.received.blocking_recv().unwrap_or(Err(ReceiveError::Over))
    }
}

/// Why a delta's header is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the body does not begin with a delta's header")]
    NotADelta,
    #[error("the header of {0} bytes is too long")]
    TooLong(usize),
    #[error("the header cannot be understood: {0}")]
    Json(serde_json::Error),
    #[error("the header names {0} disks, more than allowed")]
    Disks(usize),
    #[error("a disk of {0} bytes is larger than allowed")]
    DiskSize(u64),
    #[error("the mark to start from has no frames but a chain")]
    Mark,
    #[error("the body ended or broke inside the header")]
    Cut,
}

/// The bytes that open a delta's body.
pub(crate) fn header_bytes(header: &DeltaHeader) -> Result<Bytes, serde_json::Error> {
    let json = serde_json::to_vec(header)?;
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + json.len());
    bytes.extend_from_slice(MAGIC);
    let length = u32::try_from(json.len()).map_err(serde::ser::Error::custom)?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&json);
    Ok(bytes.freeze())
}

/// Reads a delta's header from the front of its body, and returns what follows in the same read.
pub(crate) async fn read_header<B>(body: &mut B) -> Result<(DeltaHeader, Bytes), HeaderError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = BytesMut::new();
    let length = loop {
        if read.len() >= PREFIX_BYTES {
            if &read[..8] != MAGIC {
                return Err(HeaderError::NotADelta);
            }
            let length = u32::from_le_bytes(read[8..12].try_into().expect("four")) as usize;
            if length > HEADER_BYTES_MAX {
                return Err(HeaderError::TooLong(length));
            }
            if read.len() >= PREFIX_BYTES + length {
                break length;
            }
        }
        let frame = body.frame().await.and_then(Result::ok).ok_or(HeaderError::Cut)?;
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data);
        }
    };
    read.advance(PREFIX_BYTES);
    let header: DeltaHeader = serde_json::from_slice(&read.split_to(length)).map_err(HeaderError::Json)?;
    check_header(&header)?;
    Ok((header, read.freeze()))
}

fn check_header(header: &DeltaHeader) -> Result<(), HeaderError> {
    if header.disks.len() > DISKS_MAX {
        return Err(HeaderError::Disks(header.disks.len()));
    }
    if let Some(disk) = header.disks.iter().find(|disk| disk.size_bytes > DISK_BYTES_MAX) {
        return Err(HeaderError::DiskSize(disk.size_bytes));
    }
    if header.from.frames == 0 && header.from != Mark::START {
        return Err(HeaderError::Mark);
    }
    Ok(())
}

/// Connects a body to a [`ChunkStream`]. The future moves the bytes; it ends with the stream, and after the
/// handler let go of it drains what is on its way, so that the sender hears the answer and not a reset.
pub(crate) fn receive<B>(
    header: &DeltaHeader,
    first: Bytes,
    body: B,
    cut: CancellationToken,
) -> std::io::Result<(ChunkStream, impl Future<Output = ()> + Send + use<B>)>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: std::fmt::Display + Send,
{
    let sizes = header.disks.iter().map(|disk| disk.size_bytes).collect();
    let decoder = Decoder::new(header.from, sizes)?;
    let (sender, received) = mpsc::channel(CHUNKS_QUEUED);
    let pump = async move {
        let mut body = body;
        let outcome = tokio::select! {
            outcome = pump(decoder, first, &mut body, &sender) => outcome,
            () = cut.cancelled() => Err(ReceiveError::ShuttingDown),
        };
        let drained = match outcome {
            Ok(()) => true,
            Err(error) => {
                let drained = !matches!(error, ReceiveError::ShuttingDown | ReceiveError::Cut { .. });
                // Fails only when the handler let go already.
                let _ = sender.send(Err(error)).await;
                drained
            }
        };
        drop(sender);
        if drained {
            drain(body, cut).await;
        }
    };
    Ok((ChunkStream { received }, pump))
}

/// `Ok` when the handler has all or wants no more.
async fn pump<B>(
    mut decoder: Decoder,
    mut input: Bytes,
    body: &mut B,
    to: &mpsc::Sender<Result<Received, ReceiveError>>,
) -> Result<(), ReceiveError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    // The end is told only when the body ends with it.
    let mut end = None;
    loop {
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(totals @ Received::End(_))) => end = Some(totals),
                Ok(Some(received)) => {
                    if to.send(Ok(received)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => break,
                Err(error) => return give_up(decoder, to, error.into()).await,
            }
        }
        let frames = decoder.mark().frames;
        let next = tokio::select! {
            next = tokio::time::timeout(SILENCE_MAX, body.frame()) => next,
            () = to.closed() => return Ok(()),
        };
        let error = match next {
            Err(_) => ReceiveError::Silent { frames, seconds: SILENCE_MAX.as_secs() },
            Ok(Some(Ok(frame))) => {
                input = frame.into_data().unwrap_or_default();
                continue;
            }
            Ok(Some(Err(error))) => ReceiveError::Cut { frames, problem: error.to_string() },
            Ok(None) => match end {
                Some(totals) => {
                    let _ = to.send(Ok(totals)).await;
                    return Ok(());
                }
                None => ReceiveError::Truncated { frames },
            },
        };
        return give_up(decoder, to, error).await;
    }
}

/// Hands on what is verified before the error, so that a resumed stream starts behind it.
async fn give_up(
    mut decoder: Decoder,
    to: &mpsc::Sender<Result<Received, ReceiveError>>,
    error: ReceiveError,
) -> Result<(), ReceiveError> {
    if let Some(received) = decoder.flush() {
        let _ = to.send(Ok(received)).await;
    }
    Err(error)
}

/// Throws away what is still on its way, within bounds.
pub(crate) async fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B, cut: CancellationToken) {
    let drain = async {
        let mut drained = 0;
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, |data| data.len() as u64);
            if drained > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(DRAIN_TIME_MAX, drain) => {}
        () = cut.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, DeltaDisk, PROTOCOL, fault::frames};
    use futures::{poll, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use model::{CLUSTER_BYTES, ChunkContent, DeltaId, DiskId, VmId, hash_cluster};
    use std::{cell::Cell, convert::Infallible, pin::pin, sync::atomic::AtomicUsize, sync::atomic::Ordering};

    fn header(clusters: u64) -> DeltaHeader {
        let disk = DeltaDisk { disk: DiskId::random(), size_bytes: clusters * CLUSTER_BYTES };
        DeltaHeader {
            protocol: PROTOCOL,
            vm: VmId::random(),
            delta: DeltaId::random(),
            base: None,
            disks: vec![disk],
            from: Mark::START,
            extra: serde_json::Value::Null,
        }
    }

    #[tokio::test]
    async fn at_most_16_mib_are_taken_for_a_handler_that_takes_none() {
        let clusters = 1024;
        let chunk = |cluster: u32| {
            let bytes = vec![cluster as u8 | 1; CLUSTER_BYTES as usize];
            let hashes = vec![hash_cluster(&bytes)];
            Chunk { disk: 0, cluster, content: ChunkContent::Data { bytes, hashes } }
        };
        let frames = frames(&(0..clusters).map(chunk).collect::<Vec<_>>(), Compression::Off).unwrap();
        let taken = std::sync::Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let pieces = frames.into_iter().map(move |frame| {
            count.fetch_add(frame.len(), Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(frame))
        });
        let body = StreamBody::new(stream::iter(pieces));
        let header = header(u64::from(clusters));
        let (mut chunks, pump) = receive(&header, Bytes::new(), body, CancellationToken::new()).unwrap();
        let mut pump = pin!(pump);
        // Until it gets no further, whatever share of the processor the runtime gives it at once.
        let before = Cell::new(usize::MAX);
        while before.replace(taken.load(Ordering::Relaxed)) != taken.load(Ordering::Relaxed) {
            assert!(poll!(&mut pump).is_pending());
            tokio::task::yield_now().await;
        }
        let taken = taken.load(Ordering::Relaxed);
        assert!((8 << 20..=16 << 20).contains(&taken), "{taken}");

        // The rest comes when it is asked for.
        let mut received = 0;
        let all = async {
            while let Received::Chunk { chunk, .. } = chunks.next().await.unwrap() {
                received += chunk.count();
            }
        };
        tokio::join!(pump, all);
        assert_eq!(received, clusters);
        assert!(matches!(chunks.next().await, Err(ReceiveError::Over)));
    }
}
