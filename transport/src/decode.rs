//! Bytes of frames back to chunks. Pure: no I/O. Input may be cut anywhere.
//!
//! Everything is checked before it is believed, and nothing is allocated on the word of the input: memory is
//! one chunk and one encoded cluster, whatever arrives. After an error the decoder is not used again.

use crate::{
    frame::{CHUNK_CLUSTERS, Codec, DecodeError, FrameHeader, HEADER_BYTES, Kind, end_content},
    header::Mark,
    stream::{Received, Totals},
};
use bytes::{Buf, Bytes};
use model::{CLUSTER_BYTES, Chunk, ChunkContent, ClusterHash, hash_cluster};
use zstd::bulk::Decompressor;

const CHUNK_BYTES: usize = CHUNK_CLUSTERS * CLUSTER_BYTES as usize;

pub struct Decoder {
    sizes: Vec<u64>,
    mark: Mark,
    data_bytes: Option<u64>,
    state: State,
    /// Bytes of the header or of the encoded content read so far.
    partial: Vec<u8>,
    run: Run,
    decompressor: Decompressor<'static>,
}

enum State {
    Header,
    /// The header passed its checks; `after`: the mark once the content has, too.
    Content {
        header: FrameHeader,
        after: Mark,
    },
    Ended,
}

/// Verified consecutive clusters on their way to becoming one chunk.
struct Run {
    disk: u16,
    cluster: u32,
    /// The first `verified` of them are; the rest is the cluster being read.
    bytes: Vec<u8>,
    verified: usize,
    hashes: Vec<ClusterHash>,
}

impl Decoder {
    /// `from`: where the stream starts. `sizes`: the disks' sizes in bytes, as a checked header gives them.
    pub fn new(from: Mark, sizes: Vec<u64>) -> std::io::Result<Self> {
        Ok(Self {
            sizes,
            mark: from,
            // What was sent before a mark is not known here; only the sender counts it.
            data_bytes: (from.frames == 0).then_some(0),
            state: State::Header,
            partial: Vec::with_capacity(CLUSTER_BYTES as usize),
            run: Run { disk: 0, cluster: 0, bytes: Vec::new(), verified: 0, hashes: Vec::new() },
            decompressor: Decompressor::new()?,
        })
    }

    /// Takes from `input` what makes the next item; `None` when all of it is used up and more is needed.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Received>, DecodeError> {
        loop {
            match self.state {
                State::Header => {
                    if !take(&mut self.partial, HEADER_BYTES, input) {
                        return Ok(None);
                    }
                    let bytes = self.partial[..].try_into().expect("taken whole");
                    let header = FrameHeader::from_bytes(bytes, self.mark.frames)?;
                    let after = header.check(&self.mark, &self.sizes)?;
                    self.partial.clear();
                    self.state = State::Content { header, after };
                    // The run ends before a frame that does not continue it.
                    if !self.run.continues_with(&header)
                        && let Some(received) = self.flush()
                    {
                        return Ok(Some(received));
                    }
                }
                State::Content { header, after } => {
                    if !self.read_content(&header, input)? {
                        return Ok(None);
                    }
                    self.state = if header.kind == Kind::End { State::Ended } else { State::Header };
                    if let Some(received) = self.complete(&header, after)? {
                        return Ok(Some(received));
                    }
                }
                State::Ended if input.has_remaining() => {
                    return Err(DecodeError::AfterEnd { count: input.remaining() });
                }
                State::Ended => return Ok(None),
            }
        }
    }

    /// What is verified but waits for more of its run. For when no more will come.
    pub fn flush(&mut self) -> Option<Received> {
        if self.run.hashes.is_empty() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.run.bytes);
        bytes.truncate(std::mem::take(&mut self.run.verified));
        if bytes.len() < CHUNK_BYTES / 2 {
            bytes.shrink_to_fit();
        }
        let hashes = std::mem::take(&mut self.run.hashes);
        let content = ChunkContent::Data { bytes, hashes };
        let chunk = Chunk { disk: self.run.disk, cluster: self.run.cluster, content };
        Some(Received::Chunk { chunk, mark: self.mark })
    }

    /// Whether the end frame was seen.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Frames verified, for messages.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Reads the frame's content: stored clusters straight into the run, all else into `partial`. True when
    /// it is whole.
    fn read_content(&mut self, header: &FrameHeader, input: &mut Bytes) -> Result<bool, DecodeError> {
        if header.kind == Kind::Data && header.codec == Codec::Stored {
            self.run.start(header);
            let whole = self.run.verified + header.length as usize;
            return Ok(take(&mut self.run.bytes, whole, input));
        }
        if !take(&mut self.partial, header.encoded as usize, input) {
            return Ok(false);
        }
        if header.kind == Kind::Data {
            self.run.start(header);
            self.decompress(header)?;
        }
        Ok(true)
    }

    fn decompress(&mut self, header: &FrameHeader) -> Result<(), DecodeError> {
        let bad = || DecodeError::BadCompression {
            frame: self.mark.frames,
            disk: header.disk,
            offset: header.offset(),
        };
        let bytes = &mut self.run.bytes;
        let before = bytes.len();
        bytes.resize(before + header.length as usize, 0);
        let written =
            self.decompressor.decompress_to_buffer(&self.partial, &mut bytes[before..]).map_err(|_| bad())?;
        if written != header.length as usize { Err(bad()) } else { Ok(()) }
    }

    /// Verifies a whole frame and moves the mark over it.
    fn complete(&mut self, header: &FrameHeader, after: Mark) -> Result<Option<Received>, DecodeError> {
        let received = match header.kind {
            Kind::Data => {
                let content = &self.run.bytes[self.run.verified..];
                // Zeroes travel as zero frames only, so that one content has one chain.
                if hash_cluster(content) != header.hash || header.hash == model::ZERO_CLUSTER {
                    return Err(DecodeError::WrongHash {
                        frame: self.mark.frames,
                        disk: header.disk,
                        offset: header.offset(),
                    });
                }
                self.run.hashes.push(header.hash);
                self.run.verified = self.run.bytes.len();
                self.data_bytes = self.data_bytes.map(|bytes| bytes + u64::from(header.length));
                self.mark = after;
                if self.run.hashes.len() == CHUNK_CLUSTERS { self.flush() } else { None }
            }
            Kind::Zero => {
                self.mark = after;
                let content = ChunkContent::Zero { count: header.length };
                let chunk = Chunk { disk: header.disk, cluster: header.cluster, content };
                Some(Received::Chunk { chunk, mark: self.mark })
            }
            Kind::End => Some(Received::End(self.complete_end(header)?)),
        };
        self.partial.clear();
        Ok(received)
    }

    fn complete_end(&mut self, header: &FrameHeader) -> Result<Totals, DecodeError> {
        let said = u64::from_le_bytes(self.partial[8..16].try_into().expect("eight"));
        let data_bytes = self.data_bytes.unwrap_or(said);
        let expected = end_content(&self.mark, data_bytes);
        if self.partial[..] != expected || hash_cluster(&expected) != header.hash {
            return Err(DecodeError::WrongEnd { frames: self.mark.frames });
        }
        Ok(Totals { mark: self.mark, data_bytes })
    }
}

impl Run {
    fn continues_with(&self, header: &FrameHeader) -> bool {
        let next = u64::from(self.cluster) + self.hashes.len() as u64;
        header.kind == Kind::Data && header.disk == self.disk && u64::from(header.cluster) == next
    }

    /// Prepares an empty run for its first cluster.
    fn start(&mut self, header: &FrameHeader) {
        if self.hashes.is_empty() && self.bytes.is_empty() {
            self.disk = header.disk;
            self.cluster = header.cluster;
            self.bytes.reserve_exact(CHUNK_BYTES);
            self.hashes.reserve_exact(CHUNK_CLUSTERS);
        }
    }
}

/// Moves bytes from `input` until `to` holds `whole`; true when it does.
fn take(to: &mut Vec<u8>, whole: usize, input: &mut Bytes) -> bool {
    let count = (whole - to.len()).min(input.len());
    to.extend_from_slice(&input[..count]);
    input.advance(count);
    to.len() == whole
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("mark", &self.mark).finish_non_exhaustive()
    }
}
