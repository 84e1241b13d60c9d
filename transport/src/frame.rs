//! The layout of one frame and the chain that binds frames together. Pure: no I/O, no compression.
//!
//! A frame is 40 bytes of header, little-endian, and then its encoded bytes:
//!
//! ```text
//!  0  u8   kind      0xD1 data, 0xD2 zero run, 0xDE end
//!  1  u8   codec     0 stored, 1 zstd
//!  2  u16  disk      index in the delta header's list
//!  4  u32  cluster   the only cluster of a data frame, the first of a zero run
//!  8  u32  length    data and end: bytes before encoding; zero run: clusters
//! 12  u32  encoded   bytes that follow this header
//! 16  [16] hash      128 bits of BLAKE3 of the bytes before encoding; zeroes for a zero run
//! 32  [8]  link      the first bytes of the chain value after this frame
//! ```
//!
//! The chain value after a frame is the BLAKE3 of the value before it and of what the frame *says*: kind, disk,
//! cluster, length, hash. How it is compressed does not enter, so a stream that is resumed at another level
//! agrees. Because a value follows from the one before it alone, a receiver can go on from a stored
//! [`Mark`]; because each frame carries its link, a frame that is lost, repeated or moved is found at once.

use crate::header::Mark;
use model::{CLUSTER_BYTES, ClusterHash, ZERO_CLUSTER, clusters};

pub const HEADER_BYTES: usize = 40;
/// Length of an end frame's content: u64 frames, u64 data bytes, 32 bytes chain.
pub const END_BYTES: usize = 48;
/// Clusters in one decoded chunk: 1 MiB makes large requests for the writer.
pub const CHUNK_CLUSTERS: usize = 16;

const CLUSTER_USIZE: usize = CLUSTER_BYTES as usize;
/// No disk is larger: clusters are counted in 32 bits.
pub const DISK_BYTES_MAX: u64 = u32::MAX as u64 * CLUSTER_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Data = 0xD1,
    Zero = 0xD2,
    End = 0xDE,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    Stored = 0,
    Zstd = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: Kind,
    pub codec: Codec,
    pub disk: u16,
    pub cluster: u32,
    /// Bytes before encoding; clusters in a zero run.
    pub length: u32,
    pub encoded: u32,
    pub hash: ClusterHash,
    pub link: [u8; 8],
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("frame {frame} has the unknown kind {kind:#04x}")]
    UnknownKind { frame: u64, kind: u8 },
    #[error("frame {frame} has the unknown codec {codec}")]
    UnknownCodec { frame: u64, codec: u8 },
    #[error("frame {frame} is for disk {disk}, the delta has {disks}")]
    UnknownDisk { frame: u64, disk: u16, disks: usize },
    #[error("frame {frame}: {count} clusters from {cluster} are outside disk {disk} of {size_bytes} bytes")]
    OutsideDisk { frame: u64, disk: u16, cluster: u32, count: u32, size_bytes: u64 },
    #[error("frame {frame} of disk {disk} at offset {offset} has a length of {length}, {encoded} encoded")]
    BadLength { frame: u64, disk: u16, offset: u64, length: u32, encoded: u32 },
    #[error(
        "frame {frame} of disk {disk} at offset {offset} is out of order, repeated, or its header damaged"
    )]
    BrokenChain { frame: u64, disk: u16, offset: u64 },
    #[error("frame {frame} of disk {disk} at offset {offset} does not decompress")]
    BadCompression { frame: u64, disk: u16, offset: u64 },
    #[error("frame {frame} of disk {disk} at offset {offset} differs from its hash")]
    WrongHash { frame: u64, disk: u16, offset: u64 },
    #[error("the end frame does not agree with the {frames} frames before it")]
    WrongEnd { frames: u64 },
    #[error("{count} bytes follow the end frame")]
    AfterEnd { count: usize },
}

impl FrameHeader {
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = self.codec as u8;
        bytes[2..4].copy_from_slice(&self.disk.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.encoded.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.hash);
        bytes[32..].copy_from_slice(&self.link);
        bytes
    }

    /// `frame`: its number, for the error.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES], frame: u64) -> Result<Self, DecodeError> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let kind = match bytes[0] {
            0xD1 => Kind::Data,
            0xD2 => Kind::Zero,
            0xDE => Kind::End,
            kind => return Err(DecodeError::UnknownKind { frame, kind }),
        };
        let codec = match bytes[1] {
            0 => Codec::Stored,
            1 => Codec::Zstd,
            codec => return Err(DecodeError::UnknownCodec { frame, codec }),
        };
        Ok(Self {
            kind,
            codec,
            disk: u16::from_le_bytes([bytes[2], bytes[3]]),
            cluster: u32_at(4),
            length: u32_at(8),
            encoded: u32_at(12),
            hash: bytes[16..32].try_into().expect("sixteen"),
            link: bytes[32..40].try_into().expect("eight"),
        })
    }

    /// Offset in its disk.
    pub fn offset(&self) -> u64 {
        u64::from(self.cluster) * CLUSTER_BYTES
    }

    /// The place in the stream after this frame, as the fields other than `link` say.
    pub fn advance(&self, before: &Mark) -> Mark {
        advance(before, self.kind, self.disk, self.cluster, self.length, &self.hash)
    }

    /// Checks everything that does not need the content, so that nothing is allocated for a lie.
    /// `sizes`: the disks' sizes in bytes, each at most [`DISK_BYTES_MAX`].
    pub fn check(&self, before: &Mark, sizes: &[u64]) -> Result<Mark, DecodeError> {
        let frame = before.frames;
        let lengths_hold = match self.kind {
            Kind::End => self.check_end(),
            Kind::Data | Kind::Zero => self.check_place(frame, sizes)?,
        };
        if !lengths_hold {
            let Self { disk, length, encoded, .. } = *self;
            return Err(DecodeError::BadLength { frame, disk, offset: self.offset(), length, encoded });
        }
        let after = self.advance(before);
        if after.chain[..8] != self.link {
            return Err(DecodeError::BrokenChain { frame, disk: self.disk, offset: self.offset() });
        }
        Ok(after)
    }

    fn check_end(&self) -> bool {
        self.disk == 0
            && self.cluster == 0
            && self.codec == Codec::Stored
            && self.length as usize == END_BYTES
            && self.encoded as usize == END_BYTES
    }

    fn check_place(&self, frame: u64, sizes: &[u64]) -> Result<bool, DecodeError> {
        let Self { disk, cluster, length, encoded, .. } = *self;
        let Some(size_bytes) = sizes.get(usize::from(disk)).copied() else {
            return Err(DecodeError::UnknownDisk { frame, disk, disks: sizes.len() });
        };
        let count = if self.kind == Kind::Zero { length } else { 1 };
        if u64::from(cluster) + u64::from(count) > u64::from(clusters::cluster_count(size_bytes)) {
            return Err(DecodeError::OutsideDisk { frame, disk, cluster, count, size_bytes });
        }
        Ok(match self.kind {
            Kind::Zero => {
                length > 0 && encoded == 0 && self.codec == Codec::Stored && self.hash == ZERO_CLUSTER
            }
            _ => {
                u64::from(length) == clusters::cluster_length(size_bytes, cluster)
                    && match self.codec {
                        Codec::Stored => encoded == length,
                        // A sender stores what does not shrink.
                        Codec::Zstd => encoded > 0 && encoded < length,
                    }
            }
        })
    }
}

/// The chain's step.
pub fn advance(before: &Mark, kind: Kind, disk: u16, cluster: u32, length: u32, hash: &ClusterHash) -> Mark {
    let mut said = [0; 59];
    said[..32].copy_from_slice(&before.chain);
    said[32] = kind as u8;
    said[33..35].copy_from_slice(&disk.to_le_bytes());
    said[35..39].copy_from_slice(&cluster.to_le_bytes());
    said[39..43].copy_from_slice(&length.to_le_bytes());
    said[43..].copy_from_slice(hash);
    Mark { frames: before.frames + 1, chain: *blake3::hash(&said).as_bytes() }
}

/// The content of the end frame behind `last`.
pub fn end_content(last: &Mark, data_bytes: u64) -> [u8; END_BYTES] {
    let mut content = [0; END_BYTES];
    content[..8].copy_from_slice(&last.frames.to_le_bytes());
    content[8..16].copy_from_slice(&data_bytes.to_le_bytes());
    content[16..].copy_from_slice(&last.chain);
    content
}

/// The most bytes that zstd may take for a cluster before it is stored instead: saving less than a tenth is
/// not worth the receiver's time.
pub fn compressed_bytes_max(length: usize) -> usize {
    length.min(CLUSTER_USIZE) * 9 / 10
}
