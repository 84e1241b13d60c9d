//! Failures of commands. The kind is classified once, here, into everything that a rim needs: an exit
//! code of the command line and a return code of `Msvm_ReplicationService`.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $exit:literal, $cim:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum ErrorKind { $($(#[$doc])* $kind,)* }

        impl ErrorKind {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Exit code of the command line (docs/cli.md).
            pub fn exit_code(self) -> u8 {
                match self { $(Self::$kind => $exit,)* }
            }

            /// Return code of the replication service's methods.
            pub fn return_code(self) -> u32 {
                match self { $(Self::$kind => $cim,)* }
            }
        }
    };
}

kinds! {
    /// Something failed that should not; the message says what.
    Failed, 1, 32768;
    /// A value is out of range or malformed.
    InvalidParameter, 2, 32773;
    /// No such VM, disk, point or job.
    NotFound, 3, 32779;
    /// Not possible in the present state.
    InvalidState, 4, 32775;
    /// Possible, but on another host, which the message names.
    WrongHost, 5, 32775;
    /// It exists already: a VM that is protected, a replica with this UUID.
    AlreadyExists, 6, 32775;
    /// The other host's name does not resolve, or it does not answer.
    PeerUnreachable, 7, 32777;
    /// Certificate or authorization: one host does not let the other in.
    AccessDenied, 8, 32769;
    /// Not enough room on a disk.
    NoSpace, 9, 32768;
    /// The operator cancelled or declined.
    Cancelled, 10, 32768;
    /// `relevo serve` does not answer.
    DaemonUnavailable, 11, 32777;
    /// The configuration file is wrong.
    Configuration, 12, 32773;
    /// This VM or disk cannot be replicated.
    NotSupported, 13, 32770;
    Timeout, 14, 32772;
    /// Another operation has the VM.
    InUse, 15, 32774;
    /// The hosts speak different protocol versions.
    IncompatiblePeer, 16, 32770;
    /// A point's content differs from its hashes.
    Corrupt, 17, 32768;
    /// How a VM stands cannot be told: libvirt, or the other host, does not say it.
    StatusUnknown, 18, 32771;
    /// This host has not the memory to run the VM.
    NoMemory, 19, 32778;
}

/// A command that failed, for the operator: what happened, to which VM, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: ErrorKind,
    /// Names the message independently of its language, such as `vm-unknown`.
    pub id: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(kind: ErrorKind, id: &str, message: impl Into<String>) -> Self {
        Self { kind, id: id.to_owned(), message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An internal error with its chain of sources, in one line.
    pub fn internal(doing: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(ErrorKind::Failed, "failed", format!("cannot {doing}: {}", chain(error)))
    }
}

/// An error with its sources, separated by colons.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
