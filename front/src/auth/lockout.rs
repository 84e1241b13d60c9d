//! Lock-out against guessing: who failed often waits, twice as long after each further failure.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// The first wait.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// How long after the last failure, or the end of the wait, all is forgotten.
const MEMORY: Duration = Duration::from_secs(60 * 60);
/// Bounds memory. Whoever failed least is forgotten first, so that a flood of new names frees nobody who waits.
const ENTRIES_MAX: usize = 4096;

/// The failures of users, or of addresses.
#[derive(Debug)]
pub(crate) struct Lockout<K> {
    /// Failures that cost nothing.
    free: u32,
    entries: HashMap<K, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    /// The end of the wait; the time of the last failure if there is none.
    until: Instant,
}

impl<K: Eq + Hash + Clone> Lockout<K> {
    pub fn new(free: u32) -> Self {
        Self { free, entries: HashMap::new() }
    }

    /// How long `key` has still to wait.
    pub fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let until = self.entries.get(key)?.until;
        until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure. Only failures of those who need not wait come here.
    pub fn fail(&mut self, key: &K, now: Instant) {
        if !self.entries.contains_key(key) && self.entries.len() >= ENTRIES_MAX {
            self.forget(now);
        }
        let entry = self.entries.entry(key.clone()).or_insert(Entry { failures: 0, until: now });
        if is_over(entry, now) {
            entry.failures = 0;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.until = now + wait_after(entry.failures, self.free);
    }

    /// Forgets the failures of one who proved to be right.
    pub fn clear(&mut self, key: &K) {
        self.entries.remove(key);
    }

    fn forget(&mut self, now: Instant) {
        self.entries.retain(|_, entry| !is_over(entry, now));
        if self.entries.len() >= ENTRIES_MAX {
            let least = self.entries.iter().min_by_key(|(_, entry)| (entry.failures, entry.until));
            if let Some(key) = least.map(|(key, _)| key.clone()) {
                self.entries.remove(&key);
            }
        }
    }
}

fn is_over(entry: &Entry, now: Instant) -> bool {
    now.saturating_duration_since(entry.until) >= MEMORY
}

fn wait_after(failures: u32, free: u32) -> Duration {
    match failures.checked_sub(free + 1) {
        None => Duration::ZERO,
        Some(doublings) => WAIT_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(WAIT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let start = Instant::now();
        let mut lockout = Lockout::new(3);
        let mut now = start;
        let mut waits = vec![];
        for _ in 0..16 {
            lockout.fail(&"anna", now);
            let wait = lockout.wait(&"anna", now).unwrap_or_default();
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(lockout.wait(&"anna", now), None);
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
        assert_eq!(lockout.wait(&"bert", now), None);
    }

    #[test]
    fn time_and_a_proof_forget() {
        let now = Instant::now();
        let mut lockout = Lockout::new(0);
        lockout.fail(&1, now);
        lockout.fail(&1, now);
        lockout.clear(&1);
        assert_eq!(lockout.wait(&1, now), None);
        lockout.fail(&2, now);
        lockout.fail(&2, now);
        lockout.fail(&2, now + MEMORY + WAIT_MIN * 2);
        assert_eq!(lockout.wait(&2, now + MEMORY + WAIT_MIN * 2), Some(WAIT_MIN));
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_frees_nobody() {
        let now = Instant::now();
        let mut lockout = Lockout::new(3);
        for _ in 0..10 {
            lockout.fail(&u32::MAX, now);
        }
        for name in 0..10_000 {
            lockout.fail(&name, now);
        }
        assert_eq!(lockout.entries.len(), ENTRIES_MAX);
        assert!(lockout.wait(&u32::MAX, now).is_some());
    }
}
