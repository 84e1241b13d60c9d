//! What a scrub found to differ although both hosts believed otherwise, and sent anew.

use serde::{Deserialize, Serialize};

/// Counts of clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The primary's disk is not what was sent, and no write was recorded.
    pub changed_on_primary: u64,
    /// The primary's disk is what was sent, and the replica has something else.
    pub damaged_on_replica: u64,
}

impl Repaired {
    pub fn total(self) -> u64 {
        self.changed_on_primary + self.damaged_on_replica
    }

    pub fn add(&mut self, other: Self) {
        self.changed_on_primary += other.changed_on_primary;
        self.damaged_on_replica += other.damaged_on_replica;
    }
}
