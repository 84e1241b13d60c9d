//! What two hosts say to each other about one VM. Every message and every answer carries how its host
//! stands, so that both learn of a token that moved as soon as they meet. All requests are idempotent.

use engine::{OfferAnswer, Operation, Settings, Standing};
use model::{DeltaId, DiskId, Generation, HostName, PointKind, VmId};
use serde::{Deserialize, Serialize};
use text::SetText;
use transport::Mark;

/// The id of the failure that the answering host has no relationship for the VM.
pub const UNKNOWN_HERE: &str = "unknown-here";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    pub from: HostName,
    pub vm: Option<VmId>,
    pub standing: Option<Standing>,
    pub request: PeerRequest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerRequest {
    /// Just how we stand.
    Greet,
    /// May we replicate to you, and you to us.
    Probe,
    /// Make the replica's record for a VM that is about to be protected.
    Create {
        name: String,
        settings: Settings,
        disks: Vec<PeerDisk>,
        /// By a host that is a replica itself, and forwards what it receives.
        #[serde(default)]
        extended: bool,
        /// Take the seed that stands there, and call it this.
        #[serde(default)]
        seed: Option<DeltaId>,
    },
    /// Does a seed for a VM with these disks stand there.
    FindSeed { disks: Vec<PeerDisk> },
    /// A delta is ready.
    Offer {
        delta: DeltaId,
        base: Option<DeltaId>,
        /// The last one before a hand-over: the VM is off, and waits for nobody.
        #[serde(default)]
        last: bool,
    },
    /// Could you run the VM, as your latest point has it: before its guest is shut down for that.
    MayTakeOver,
    /// We want back what we released to you.
    Withdraw { instead: Generation },
    /// Begin this, on an operator's behalf. `changes`: what the asking host wrote, whose disks stand at the base.
    Operate { operation: Operation, changes: Option<OwnChanges> },
    /// Which of the points that you keep since you took the VM over begins with these digits.
    FindPoint { text: String },
    /// The relationship's settings are these from now on.
    Configure { settings: Settings },
    /// Hashes of your latest state.
    Hashes { disk: DiskId, first: u32, count: u32 },
    /// The same, read from the disks: what is not as recorded gets a hash that nothing has.
    ReadHashes { disk: DiskId, first: u32, count: u32 },
}

/// What a host wrote to its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnChanges {
    /// The state from which on, which the other host may know; `None`: there is none.
    pub since: Option<DeltaId>,
    pub disks: Vec<(DiskId, SetText)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerDisk {
    pub disk: DiskId,
    pub target: String,
    pub size_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub standing: Option<Standing>,
    /// The multi-step operation under way, and how the last one failed.
    pub work: Option<String>,
    pub last_failure: Option<String>,
    pub result: PeerResult,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerResult {
    Done,
    Offer {
        answer: OfferAnswer,
        mark: Mark,
    },
    Probe {
        authorized_for: Option<String>,
        version: String,
        /// The answering host's clock; hosts before 0.1 do not tell it.
        #[serde(default)]
        now_ms: Option<i64>,
    },
    Hashes {
        hashes: Vec<String>,
    },
    Point {
        point: DeltaId,
    },
    /// We are your replica now; `base` is the state of our disks, `changes` what we wrote beyond what was
    /// acknowledged.
    Yielded {
        base: DeltaId,
        changes: OwnChanges,
    },
    Refused {
        failure: crate::api::Failure,
    },
}

/// What a delta's header carries beside the frames.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeltaExtra {
    pub from: HostName,
    pub standing: Standing,
    pub cut_at_ms: i64,
    pub kind: PointKind,
    pub domain_xml: String,
    pub small_files: Vec<(String, SetText)>,
    /// Where the delta's disks are in the machine: how the receiver learns of one that was added.
    #[serde(default)]
    pub targets: Vec<(DiskId, String)>,
}

pub mod text {
    //! Bytes in JSON: hexadecimal, run-length-free; the sets are small or rare.

    use model::ClusterSet;
    use serde::{Deserialize, Serialize};

    /// Bytes as hexadecimal text.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct SetText(pub String);

    impl SetText {
        pub fn of_bytes(bytes: &[u8]) -> Self {
            Self(hex(bytes))
        }

        pub fn bytes(&self) -> Option<Vec<u8>> {
            unhex(&self.0)
        }

        pub fn of_set(set: &ClusterSet) -> Self {
            Self(hex(&set.to_bytes()))
        }

        pub fn set(&self) -> Option<ClusterSet> {
            ClusterSet::from_bytes(&unhex(&self.0)?)
        }
    }

    pub fn hex(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            text.push(DIGITS[usize::from(byte >> 4)] as char);
            text.push(DIGITS[usize::from(byte & 15)] as char);
        }
        text
    }

    pub fn unhex(text: &str) -> Option<Vec<u8>> {
        let digit = |byte: u8| (byte as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let pairs = text.as_bytes().chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return None;
        }
        pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
    }
}
