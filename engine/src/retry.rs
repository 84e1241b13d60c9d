//! Back-off after recoverable failures: 1, 2, 4, 8, 10 minutes, then every 30. An operator's `resume` ends
//! any wait, a peer that calls the wait for a peer that did not answer.

use serde::{Deserialize, Serialize};

const STEPS_MINUTES: [i64; 5] = [1, 2, 4, 8, 10];
const THEN_MINUTES: i64 = 30;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Failures in a row.
    pub attempts: u32,
    pub until_ms: Option<i64>,
    /// The peer answered, only not as hoped: hearing of it again is no reason to ask again. Without this two
    /// hosts that wait for each other would ask as fast as the network carries it.
    #[serde(default)]
    pub was_answered: bool,
    /// What failed last, for the operator.
    pub reason: Option<String>,
}

impl Retry {
    pub fn failed(&mut self, now_ms: i64, reason: String) {
        let minutes = STEPS_MINUTES.get(self.attempts as usize).copied().unwrap_or(THEN_MINUTES);
        self.attempts += 1;
        self.until_ms = Some(now_ms + minutes * 60_000);
        self.was_answered = false;
        self.reason = Some(reason);
    }

    /// A wait that does not count as a failure.
    pub fn later(&mut self, until_ms: i64, reason: String) {
        self.until_ms = Some(until_ms);
        self.was_answered = true;
        self.reason = Some(reason);
    }

    pub fn end_wait(&mut self) {
        self.until_ms = None;
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub fn is_waiting(&self, now_ms: i64) -> bool {
        self.until_ms.is_some_and(|until| now_ms < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_when_asked() {
        let mut retry = Retry::default();
        let mut minutes = vec![];
        for _ in 0..8 {
            retry.failed(0, "no route".into());
            minutes.push(retry.until_ms.unwrap() / 60_000);
        }
        assert_eq!(minutes, [1, 2, 4, 8, 10, 30, 30, 30]);
        retry.end_wait();
        assert!(!retry.is_waiting(0));
        assert_eq!(retry.attempts, 8);
    }

    #[test]
    fn a_call_ends_the_wait_for_a_silent_peer_only() {
        let mut retry = Retry::default();
        retry.failed(0, "no route".into());
        assert!(!retry.was_answered && retry.is_waiting(59_999) && !retry.is_waiting(60_000));
        retry.later(5_000, "busy".into());
        assert!(retry.was_answered && retry.is_waiting(4_999) && !retry.is_waiting(5_000));
        assert_eq!(retry.attempts, 1, "a short wait is no failure");
        retry.failed(0, "no route".into());
        assert!(!retry.was_answered);
        retry.succeeded();
        assert_eq!(retry, Retry::default());
    }
}
