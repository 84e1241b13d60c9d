//! What a relationship did within one monitoring interval, and the clock's jumps that would put its work off.

use crate::Relationship;
use serde::{Deserialize, Serialize};

/// The longest wait of a retry: a later end comes from a clock that went back.
const RETRY_MAX_MS: i64 = 30 * 60_000;

/// The counters of a monitoring interval; on a replica only those of what arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// 0: before the first boundary that was seen.
    pub began_ms: i64,
    /// `None`: it goes on.
    pub ended_ms: Option<i64>,
    pub succeeded: u64,
    pub missed: u64,
    /// Those for which the peer could not be reached or the stream was cut are beside them.
    pub failed: u64,
    pub network_failed: u64,
    pub consistent_failed: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    /// From the cut's begin until all was settled.
    pub latency_ms: u64,
    pub latency_ms_max: u64,
}

impl Interval {
    pub(crate) fn succeeded(&mut self, bytes: u64, latency_ms: u64) {
        self.succeeded += 1;
        self.bytes += bytes;
        self.bytes_max = self.bytes_max.max(bytes);
        self.latency_ms += latency_ms;
        self.latency_ms_max = self.latency_ms_max.max(latency_ms);
    }
}

impl Relationship {
    /// Ends the interval under way, which stays readable as the last one.
    pub fn close_interval(&mut self, now_ms: i64) {
        let next = Interval { began_ms: now_ms, ..Interval::default() };
        let mut ended = std::mem::replace(&mut self.statistics.interval, next);
        ended.ended_ms = Some(now_ms);
        self.statistics.last_interval = Some(ended);
    }

    /// The clock was set, by so much: what is reckoned from it moves along; when something happened stays.
    pub fn follow_clock(&mut self, by_ms: i64) {
        let moved = |at: i64| if at > 0 { at.saturating_add(by_ms).max(1) } else { at };
        self.next_cycle_ms = moved(self.next_cycle_ms);
        self.next_consistent_ms = moved(self.next_consistent_ms);
        self.retry.until_ms = self.retry.until_ms.map(moved);
        self.statistics.cycle_started_ms = self.statistics.cycle_started_ms.map(moved);
    }

    /// A clock that went back while nobody looked puts nothing off for longer than it would have waited.
    pub(crate) fn mind_the_clock(&mut self, now_ms: i64) {
        let latest = |every_s: u32| now_ms + i64::from(every_s) * 1000;
        self.next_cycle_ms = self.next_cycle_ms.min(latest(self.settings.interval_s));
        self.next_consistent_ms = self.next_consistent_ms.min(latest(self.settings.app_consistent_every_s));
        self.next_scrub_ms = self.next_scrub_ms.min(latest(self.settings.scrub_every_s));
        self.retry.until_ms = self.retry.until_ms.map(|until| until.min(now_ms + RETRY_MAX_MS));
    }

    /// Is something put off for longer than anything is: the clock went back.
    pub fn waits_too_long(&self, now_ms: i64) -> bool {
        let mut minded = (self.next_cycle_ms, self.retry.until_ms);
        minded.0 = minded.0.min(now_ms + i64::from(self.settings.interval_s) * 1000);
        minded.1 = minded.1.map(|until| until.min(now_ms + RETRY_MAX_MS));
        minded != (self.next_cycle_ms, self.retry.until_ms)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Event, Token, testing};
    use model::{Mode, ReplicationState as S};

    #[test]
    fn a_clock_that_goes_back_a_day_puts_the_next_cycle_off_for_an_interval_at_most() {
        const DAY_MS: i64 = 86_400_000;
        let token = Token::Held { generation: testing::generation(1, "a", 1), acknowledged: true };
        let mut r = testing::record(Mode::Primary, S::Replicating, token);
        r.next_cycle_ms = 2 * DAY_MS;
        r.retry.until_ms = Some(2 * DAY_MS);
        assert!(!r.waits_too_long(2 * DAY_MS - 30_000) && r.waits_too_long(DAY_MS));
        r.apply(testing::context(DAY_MS), Event::Tick).unwrap();
        assert_eq!((r.next_cycle_ms, r.retry.until_ms), (DAY_MS + 30_000, Some(DAY_MS + 30 * 60_000)));
        assert!(!r.waits_too_long(DAY_MS));
    }

    #[test]
    fn a_clock_that_is_set_under_a_cycle_makes_it_neither_late_nor_long() {
        const YEAR_MS: i64 = 365 * 86_400_000;
        let token = Token::Held { generation: testing::generation(1, "a", 1), acknowledged: true };
        let mut r = testing::record(Mode::Primary, S::Replicating, token);
        let began_ms = 2 * YEAR_MS;
        (r.next_cycle_ms, r.statistics.cycle_started_ms) = (began_ms, Some(began_ms));
        for by_ms in [YEAR_MS, -2 * YEAR_MS] {
            r.follow_clock(by_ms);
        }
        r.schedule_next(began_ms - YEAR_MS + 5);
        assert_eq!((r.statistics.cycles_missed, r.next_cycle_ms), (0, began_ms - YEAR_MS + 30_000));
        assert_eq!(r.statistics.cycle_started_ms, Some(began_ms - YEAR_MS));
    }

    #[test]
    fn whoever_sends_again_was_not_late_while_the_other_host_sent() {
        let held = |n| Token::Held { generation: testing::generation(n, "a", 1), acknowledged: true };
        let mut r = testing::record(Mode::Replica, S::Recovered, held(2));
        r.next_cycle_ms = 1_000;
        r.apply(testing::context(500_000), Event::Tick).unwrap();
        r.schedule_next(600_000);
        assert_eq!((r.statistics.cycles_missed, r.next_cycle_ms), (0, 630_000));
    }

    #[test]
    fn an_interval_that_ends_stays_readable_and_the_next_begins_from_nothing() {
        let token = Token::Held { generation: testing::generation(1, "a", 1), acknowledged: true };
        let mut r = testing::record(Mode::Primary, S::Replicating, token);
        r.statistics.interval.succeeded(10, 3);
        r.statistics.interval.succeeded(30, 1);
        r.close_interval(1000);
        let ended = r.statistics.last_interval.clone().unwrap();
        assert_eq!((ended.succeeded, ended.bytes, ended.bytes_max), (2, 40, 30));
        assert_eq!((ended.latency_ms, ended.latency_ms_max, ended.ended_ms), (4, 3, Some(1000)));
        assert_eq!((r.statistics.interval.began_ms, r.statistics.interval.succeeded), (1000, 0));
    }
}
