//! Chunks to bytes of frames, in batches. Pure: no I/O.
//!
//! One data frame per cluster, so that a cluster is the unit of hashing and of damage. A cluster of zeroes
//! inside a data chunk becomes a zero frame of one. A zero run stays one frame as its source cut it; a source
//! that cuts runs differently the second time makes another chain and cannot resume.

use crate::{
    frame::{self, Codec, FrameHeader, HEADER_BYTES, Kind, advance},
    header::Mark,
};
use model::{CLUSTER_BYTES, Chunk, ChunkContent, ClusterHash, ZERO_CLUSTER, hash_cluster};
use zstd::zstd_safe::{CCtx, CParameter, ErrorCode, ResetDirective, get_error_name};

/// Bytes in a batch before it is handed on: large writes keep TLS and HTTP cheap.
pub const BATCH_BYTES: usize = 1 << 20;

/// How a sender spends its processor on a narrower stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    Off,
    /// None while the link takes all that we make; harder the longer the queue before it.
    #[default]
    Adaptive,
    /// This zstd level, for every cluster.
    Always(i32),
}

#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The source does not yield what the receiver has up to its mark.
    #[error("the frames before frame {frames} differ from those that the receiver has")]
    ChainMismatch { frames: u64 },
    #[error("the chunk of disk {disk} at cluster {cluster} has {bytes} bytes and {hashes} hashes")]
    BadChunk { disk: u16, cluster: u32, bytes: usize, hashes: usize },
    #[error("cannot set up compression at level {level}: {problem}")]
    Level { level: i32, problem: &'static str },
}

/// Levels that [`Compression::Adaptive`] climbs, cheapest first.
const LADDER: [Option<i32>; 5] = [None, Some(-5), Some(1), Some(3), Some(6)];

/// Twice a gigabit link: compression on one core hardly makes a stream faster than that.
pub const LINK_BYTES_PER_S_MAX: f64 = 250e6;

pub struct Encoder {
    /// Frames before it are counted and checked, not written.
    from: Mark,
    mark: Mark,
    data_bytes: u64,
    batch: Vec<u8>,
    compression: Compression,
    rung: usize,
    context: CCtx<'static>,
    level: Option<i32>,
    scratch: Vec<u8>,
}

impl Encoder {
    pub fn new(from: Mark, compression: Compression) -> Result<Self, EncodeError> {
        let mut context = CCtx::create();
        // The frame header says it already.
        context.set_parameter(CParameter::ContentSizeFlag(false)).map_err(|code| bad_level(0, code))?;
        Ok(Self {
            from,
            mark: Mark::START,
            data_bytes: 0,
            batch: Vec::with_capacity(BATCH_BYTES + CLUSTER_BYTES as usize),
            compression,
            rung: 0,
            context,
            level: None,
            scratch: vec![0; CLUSTER_BYTES as usize],
        })
    }

    /// The place after all that was pushed.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Bytes of data clusters pushed.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Tells how full the queue behind the encoder is, 0 to 1, and how fast bytes left it of late. A long
    /// queue means that what follows is the bottleneck. Where that is a link, time for compression is free;
    /// above [`LINK_BYTES_PER_S_MAX`] it is a processor, the receiver's or our own, and compression would only
    /// take more of it.
    pub fn observe_queue(&mut self, fill: f32, bytes_per_s: f64) {
        if fill <= 0.25 || bytes_per_s > LINK_BYTES_PER_S_MAX {
            self.rung = self.rung.saturating_sub(1);
        } else if fill >= 0.75 {
            self.rung = (self.rung + 1).min(LADDER.len() - 1);
        }
    }

    pub fn push(&mut self, chunk: &Chunk) -> Result<(), EncodeError> {
        match &chunk.content {
            ChunkContent::Zero { count: 0 } => Ok(()),
            ChunkContent::Zero { count } => self.push_zero(chunk.disk, chunk.cluster, *count),
            ChunkContent::Data { bytes, hashes } => {
                if bytes.len().div_ceil(CLUSTER_BYTES as usize) != hashes.len() {
                    return Err(EncodeError::BadChunk {
                        disk: chunk.disk,
                        cluster: chunk.cluster,
                        bytes: bytes.len(),
                        hashes: hashes.len(),
                    });
                }
                self.set_level()?;
                let clusters = bytes.chunks(CLUSTER_BYTES as usize).zip(hashes);
                for (cluster, (bytes, hash)) in (chunk.cluster..).zip(clusters) {
                    if *hash == ZERO_CLUSTER {
                        self.push_zero(chunk.disk, cluster, 1)?;
                    } else {
                        self.push_data(chunk.disk, cluster, bytes, hash)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// A batch, once one is full.
    pub fn take_batch(&mut self) -> Option<Vec<u8>> {
        (self.batch.len() >= BATCH_BYTES).then(|| {
            let next = Vec::with_capacity(BATCH_BYTES + CLUSTER_BYTES as usize);
            std::mem::replace(&mut self.batch, next)
        })
    }

    /// Closes the stream with the end frame and returns what is left to send.
    pub fn finish(mut self) -> Result<Vec<u8>, EncodeError> {
        if self.mark.frames < self.from.frames {
            return Err(EncodeError::ChainMismatch { frames: self.from.frames });
        }
        let content = frame::end_content(&self.mark, self.data_bytes);
        let length = u32::try_from(content.len()).expect("a constant");
        let hash = hash_cluster(&content);
        self.mark = advance(&self.mark, Kind::End, 0, 0, length, &hash);
        self.write_header(Kind::End, Codec::Stored, 0, 0, length, length, hash);
        self.batch.extend_from_slice(&content);
        Ok(self.batch)
    }

    fn push_zero(&mut self, disk: u16, cluster: u32, count: u32) -> Result<(), EncodeError> {
        if self.step(Kind::Zero, disk, cluster, count, &ZERO_CLUSTER)? {
            self.write_header(Kind::Zero, Codec::Stored, disk, cluster, count, 0, ZERO_CLUSTER);
        }
        Ok(())
    }

    fn push_data(
        &mut self,
        disk: u16,
        cluster: u32,
        bytes: &[u8],
        hash: &ClusterHash,
    ) -> Result<(), EncodeError> {
        let length = u32::try_from(bytes.len()).expect("at most a cluster");
        self.data_bytes += u64::from(length);
        if !self.step(Kind::Data, disk, cluster, length, hash)? {
            return Ok(());
        }
        match self.compress(bytes) {
            Some(size) => {
                let encoded = u32::try_from(size).expect("less than a cluster");
                self.write_header(Kind::Data, Codec::Zstd, disk, cluster, length, encoded, *hash);
                self.batch.extend_from_slice(&self.scratch[..size]);
            }
            None => {
                self.write_header(Kind::Data, Codec::Stored, disk, cluster, length, length, *hash);
                self.batch.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Moves the mark over a frame; true when the frame is to be written.
    fn step(
        &mut self,
        kind: Kind,
        disk: u16,
        cluster: u32,
        length: u32,
        hash: &ClusterHash,
    ) -> Result<bool, EncodeError> {
        self.mark = advance(&self.mark, kind, disk, cluster, length, hash);
        if self.mark.frames == self.from.frames && self.mark.chain != self.from.chain {
            return Err(EncodeError::ChainMismatch { frames: self.from.frames });
        }
        Ok(self.mark.frames > self.from.frames)
    }

    fn set_level(&mut self) -> Result<(), EncodeError> {
        let level = match self.compression {
            Compression::Off => None,
            Compression::Adaptive => LADDER[self.rung],
            Compression::Always(level) => Some(level),
        };
        if let Some(level) = level
            && self.level != Some(level)
        {
            // What did not fit into the scratch buffer left the context in the middle of a frame.
            self.context.reset(ResetDirective::SessionOnly).map_err(|code| bad_level(level, code))?;
            self.context
                .set_parameter(CParameter::CompressionLevel(level))
                .map_err(|code| bad_level(level, code))?;
        }
        self.level = level;
        Ok(())
    }

    /// Compresses into the scratch buffer; `None` when it does not pay.
    fn compress(&mut self, bytes: &[u8]) -> Option<usize> {
        self.level?;
        let most = frame::compressed_bytes_max(bytes.len());
        self.context.compress2(&mut self.scratch[..most], bytes).ok()
    }

    #[allow(clippy::too_many_arguments, reason = "one per field of the header")]
    fn write_header(
        &mut self,
        kind: Kind,
        codec: Codec,
        disk: u16,
        cluster: u32,
        length: u32,
        encoded: u32,
        hash: ClusterHash,
    ) {
        let link = self.mark.chain[..8].try_into().expect("eight");
        let header = FrameHeader { kind, codec, disk, cluster, length, encoded, hash, link };
        let bytes: [u8; HEADER_BYTES] = header.to_bytes();
        self.batch.extend_from_slice(&bytes);
    }
}

fn bad_level(level: i32, code: ErrorCode) -> EncodeError {
    EncodeError::Level { level, problem: get_error_name(code) }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("from", &self.from).field("mark", &self.mark).finish_non_exhaustive()
    }
}
