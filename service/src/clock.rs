//! The one clock of the daemon.

use engine::Context;
use model::WallTime;
use std::time::{Duration, Instant};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A smaller step is a clock that is being set right.
const JUMP_MS: i64 = 30_000;

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// What local time is ahead of UTC, in minutes, summer time included.
pub fn utc_offset_min() -> i32 {
    jiff::Zoned::now().offset().seconds() / 60
}

/// By this host's time zone, as it is set now.
pub fn wall_time() -> WallTime {
    let now = jiff::Zoned::now();
    let day = now.weekday().to_monday_zero_offset().unsigned_abs();
    let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
    WallTime { day, minute }
}

/// Time and chance, for the engine.
pub fn context() -> Context {
    Context { now_ms: now_ms(), utc_offset_min: utc_offset_min(), fresh: uuid::Uuid::new_v4() }
}

/// Sees the clock jump.
#[derive(Debug)]
pub struct Jumps {
    before: (Instant, i64),
}

impl Default for Jumps {
    fn default() -> Self {
        Self { before: (Instant::now(), now_ms()) }
    }
}

impl Jumps {
    /// By how many milliseconds the clock, just read, went otherwise than time did since the last look, if that is
    /// worth a word.
    pub fn look(&mut self, now_ms: i64) -> Option<i64> {
        let now = (Instant::now(), now_ms);
        let before = std::mem::replace(&mut self.before, now);
        jump_ms(before.1, now.1, now.0 - before.0)
    }
}

fn jump_ms(before_ms: i64, after_ms: i64, passed: Duration) -> Option<i64> {
    let by_ms = after_ms - before_ms - i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
    (by_ms.abs() >= JUMP_MS).then_some(by_ms)
}

/// RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| ms.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_jumps_when_it_goes_otherwise_than_time() {
        let passed = Duration::from_secs(5);
        assert_eq!(jump_ms(1_000_000, 1_005_100, passed), None);
        assert_eq!(jump_ms(1_000_000, 1_105_000, passed), Some(100_000));
        assert_eq!(jump_ms(1_000_000, 905_000, passed), Some(-100_000));
    }
}
