//! The token of the right to run a VM (ARCHITECTURE.md, rule 1).

use crate::HostName;
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt};
use uuid::Uuid;

/// Who may run a VM: a number that grows with every passing of the right, the host that owns it, and a
/// random id that tells two hosts apart that took the same number without knowing of each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub number: u64,
    pub owner: HostName,
    pub nonce: Uuid,
}

/// How another host's generation relates to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    Same,
    /// Theirs is newer: we are superseded.
    Theirs,
    /// Ours is newer: they are superseded.
    Ours,
    /// Equal numbers, different random ids: an operator has to decide.
    Conflict,
}

impl Generation {
    pub fn first(owner: HostName) -> Self {
        Self { number: 1, owner, nonce: Uuid::new_v4() }
    }

    pub fn next(&self, owner: HostName) -> Self {
        Self { number: self.number + 1, owner, nonce: Uuid::new_v4() }
    }

    pub fn against(&self, theirs: &Self) -> Precedence {
        match self.number.cmp(&theirs.number) {
            Ordering::Less => Precedence::Theirs,
            Ordering::Greater => Precedence::Ours,
            Ordering::Equal if self.nonce == theirs.nonce => Precedence::Same,
            Ordering::Equal => Precedence::Conflict,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.number, self.owner)
    }
}
