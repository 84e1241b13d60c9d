//! Passwords that were right a short while ago, so that not every request costs a slow hash. Kept as keyed hashes
//! under a key that never leaves the process.

use crate::origin::Origin;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long a password counts as right without being checked again.
const TRUST: Duration = Duration::from_secs(5 * 60);
/// Bounds memory; more users at work from more places than a host has.
const ENTRIES_MAX: usize = 4096;

/// A user's name and password as sent from one origin.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Proof([u8; 32]);

pub(crate) struct Verified {
    key: [u8; 32],
    entries: HashMap<Proof, Entry>,
}

struct Entry {
    until: Instant,
    /// Of the users' file: another one may have another password.
    generation: u64,
}

impl Verified {
    pub fn new() -> Self {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).expect("the system has random numbers");
        Self { key, entries: HashMap::new() }
    }

    /// The origin is part of it: while a user's name is locked, the password is not to be guessed against what
    /// others proved.
    pub fn proof(&self, origin: Origin, user: &str, password: &str) -> Proof {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&origin.bytes());
        hasher.update(&(user.len() as u64).to_le_bytes());
        hasher.update(user.as_bytes());
        hasher.update(password.as_bytes());
        Proof(hasher.finalize().into())
    }

    pub fn contains(&self, proof: &Proof, generation: u64, now: Instant) -> bool {
        self.entries.get(proof).is_some_and(|entry| entry.generation == generation && now < entry.until)
    }

    pub fn insert(&mut self, proof: Proof, generation: u64, now: Instant) {
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| entry.generation == generation && now < entry.until);
        }
        if self.entries.len() < ENTRIES_MAX {
            self.entries.insert(proof, Entry { until: now + TRUST, generation });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn origin(last: u8) -> Origin {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)).into()
    }

    #[test]
    fn a_proof_is_of_one_origin_user_password_reading_and_time() {
        let now = Instant::now();
        let mut verified = Verified::new();
        let proof = verified.proof(origin(1), "anna", "secret");
        verified.insert(proof, 0, now);
        assert!(verified.contains(&proof, 0, now + TRUST / 2));
        assert!(!verified.contains(&proof, 0, now + TRUST));
        assert!(!verified.contains(&proof, 1, now));
        for (origin, user, password) in
            [(origin(2), "anna", "secret"), (origin(1), "annas", "ecret"), (origin(1), "anna", "Secret")]
        {
            let other = verified.proof(origin, user, password);
            assert!(!verified.contains(&other, 0, now));
        }
        assert!(proof != Verified::new().proof(origin(1), "anna", "secret"));
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut verified = Verified::new();
        for number in 0..2 * ENTRIES_MAX {
            let proof = verified.proof(origin(1), "anna", &number.to_string());
            verified.insert(proof, 0, now);
        }
        assert_eq!(verified.entries.len(), ENTRIES_MAX);
        let proof = verified.proof(origin(1), "anna", "later");
        verified.insert(proof, 0, now + TRUST);
        assert!(verified.contains(&proof, 0, now + TRUST));
        assert_eq!(verified.entries.len(), 1);
    }
}
