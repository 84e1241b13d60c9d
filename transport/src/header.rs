//! What comes before the frames of a delta: which delta of which VM, its disks, and where it starts.

use model::{DeltaId, DiskId, VmId};
use serde::{Deserialize, Serialize};

/// The newest protocol version that this build speaks.
pub const PROTOCOL: u16 = 1;

/// The oldest protocol version that this build still speaks.
pub const PROTOCOL_OLDEST: u16 = 1;

/// HTTP header: in a request the version that it is written in, in an answer the versions spoken, newest first.
pub const PROTOCOL_HEADER: &str = "relevo-protocol";

/// Whether this build understands requests written in `version`.
pub fn speaks(version: u16) -> bool {
    (PROTOCOL_OLDEST..=PROTOCOL).contains(&version)
}

/// The versions of this build, newest first, as they stand in [`PROTOCOL_HEADER`].
pub fn spoken() -> String {
    (PROTOCOL_OLDEST..=PROTOCOL).rev().map(|version| version.to_string()).collect::<Vec<_>>().join(", ")
}

/// A place in a delta's stream: the frames before it, and the chain value over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub frames: u64,
    #[serde(with = "hex")]
    pub chain: [u8; 32],
}

impl Mark {
    /// The beginning of every delta.
    pub const START: Self = Self { frames: 0, chain: [0; 32] };
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaHeader {
    /// Version of the frames that follow.
    pub protocol: u16,
    pub vm: VmId,
    pub delta: DeltaId,
    /// The delta that this one builds on; `None` for a first copy.
    pub base: Option<DeltaId>,
    /// In the order that [`model::Chunk::disk`] counts.
    pub disks: Vec<DeltaDisk>,
    /// The stream starts after this mark. The frames before it are not sent again.
    pub from: Mark,
    /// The caller's own.
    #[serde(default)]
    pub extra: serde_json::Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaDisk {
    pub disk: DiskId,
    pub size_bytes: u64,
}

/// 32 bytes as 64 hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let bad = || D::Error::custom("expected 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
        }
        Ok(bytes)
    }
}
