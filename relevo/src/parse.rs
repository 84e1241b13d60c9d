//! Durations, sizes and rates as operators type them. Strict: whole numbers with a known unit, because
//! `1.5h` or `200M` mean different things to different people. The texts complete the command line
//! parser's "invalid value `…` for `--option`", so they say what is allowed and do not repeat the value.

use model::{BandwidthWindow, bandwidth::UNITS};
use service::api::Window;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Seconds between two cycles: at most twelve hours.
pub const INTERVAL_S_MAX: u32 = 43_200;
/// Recovery points beside the latest.
pub const HISTORY_MAX: u8 = 24;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "expected a duration: a whole number of seconds, or with s, m, h or d, such as 30, 30s, 5m or 1h"
    )]
    Duration,
    #[error("expected {min} to {max} seconds ({max_text})")]
    DurationRange { min: u32, max: u32, max_text: &'static str },
    #[error("expected a whole number from 0 to {HISTORY_MAX}")]
    History,
    #[error(
        "expected a rate in bytes: a whole number with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, \
         such as 200MiB/s or 50MB/s"
    )]
    Rate,
    #[error(
        "expected a time and a rate, such as 08:00-18:00 = 20MiB/s, mon-fri 08:00-18:00 = 20MiB/s or \
         sat,sun 00:00-24:00 = unlimited"
    )]
    BandwidthWindow,
    #[error("expected a rate above zero; `relevo suspend` stops a replication")]
    RateZero,
    #[error("expected `on` or `off`")]
    OnOrOff,
    #[error(
        "expected a time: `+` and a duration, such as +8h, or RFC 3339, such as 2026-05-04T22:00:00+02:00"
    )]
    Time,
    #[error("expected a part of the day, such as 18:30-06:00; 00:00-00:00 is all of it")]
    Window,
    #[error("the number is too large")]
    TooLarge,
}

/// Seconds between two cycles.
pub fn interval_s(text: &str) -> Result<u32, ParseError> {
    bounded_s(text, INTERVAL_S_MAX, "12 hours")
}

/// Seconds between two application-consistent points; 0: none are made.
pub fn app_consistent_s(text: &str) -> Result<u32, ParseError> {
    if duration_s(text) == Ok(0) { Ok(0) } else { interval_s(text) }
}

/// Seconds between two fire drills or scrubs; 0: none.
pub fn period_s(text: &str) -> Result<u32, ParseError> {
    if text == "never" || duration_s(text) == Ok(0) { Ok(0) } else { spacing_s(text) }
}

pub fn on_or_off(text: &str) -> Result<bool, ParseError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ParseError::OnOrOff),
    }
}

/// Seconds between two recovery points that are kept.
pub fn spacing_s(text: &str) -> Result<u32, ParseError> {
    bounded_s(text, u32::MAX, "136 years")
}

pub fn history(text: &str) -> Result<u8, ParseError> {
    let digits = digits_only(text).ok_or(ParseError::History)?;
    digits.parse().ok().filter(|count| *count <= HISTORY_MAX).ok_or(ParseError::History)
}

/// Bytes per second; the `/s` may be left out.
pub fn bandwidth_bytes_per_s(text: &str) -> Result<u64, ParseError> {
    match size_bytes(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err(ParseError::RateZero),
        rate => Ok(rate),
    }
}

/// Milliseconds since 1970: a time as such, or a while from now.
pub fn time_ms(text: &str) -> Result<i64, ParseError> {
    let now = OffsetDateTime::now_utc();
    let time = match text.strip_prefix('+') {
        Some(while_) => {
            let seconds = i64::try_from(duration_s(while_)?).map_err(|_| ParseError::TooLarge)?;
            now.checked_add(time::Duration::seconds(seconds)).ok_or(ParseError::TooLarge)?
        }
        None => OffsetDateTime::parse(text, &Rfc3339).map_err(|_| ParseError::Time)?,
    };
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| ParseError::TooLarge)
}

/// A part of the day: `18:30-06:00`.
pub fn window(text: &str) -> Result<Window, ParseError> {
    let (start, end) = text.split_once('-').ok_or(ParseError::Window)?;
    Ok(Window { start_min: of_day_min(start)?, end_min: of_day_min(end)? })
}

fn of_day_min(text: &str) -> Result<u16, ParseError> {
    let part = |text: &str, end: u16| {
        let digits = digits_only(text).filter(|digits| digits.len() <= 2);
        digits
            .and_then(|digits| digits.parse::<u16>().ok())
            .filter(|number| *number < end)
            .ok_or(ParseError::Window)
    };
    let (hours, minutes) = text.split_once(':').ok_or(ParseError::Window)?;
    Ok(part(hours, 24)? * 60 + part(minutes, 60)?)
}

/// A limit of the bandwidth: always, or at some times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    Always(u64),
    At(BandwidthWindow),
}

pub fn limit(text: &str) -> Result<Limit, ParseError> {
    if text.contains('=') {
        return text.parse().map(Limit::At).map_err(|_| ParseError::BandwidthWindow);
    }
    bandwidth_bytes_per_s(text).map(Limit::Always)
}

/// The one outside of windows; the last that was given.
pub fn always(limits: &[Limit]) -> Option<u64> {
    limits.iter().rev().find_map(|limit| if let Limit::Always(rate) = limit { Some(*rate) } else { None })
}

pub fn windows(limits: &[Limit]) -> Vec<BandwidthWindow> {
    let windows =
        limits.iter().filter_map(|limit| if let Limit::At(window) = limit { Some(window) } else { None });
    windows.cloned().collect()
}

fn bounded_s(text: &str, max: u32, max_text: &'static str) -> Result<u32, ParseError> {
    let range = ParseError::DurationRange { min: 1, max, max_text };
    match duration_s(text) {
        Ok(seconds) => u32::try_from(seconds).ok().filter(|s| (1..=max).contains(s)).ok_or(range),
        Err(ParseError::TooLarge) => Err(range),
        Err(error) => Err(error),
    }
}

fn duration_s(text: &str) -> Result<u64, ParseError> {
    let (number, unit) = number_and_unit(text).ok_or(ParseError::Duration)?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(ParseError::Duration),
    };
    scaled(number, seconds)
}

fn size_bytes(text: &str) -> Result<u64, ParseError> {
    let (number, unit) = number_and_unit(text).ok_or(ParseError::Rate)?;
    let (_, bytes) = *UNITS.iter().find(|(name, _)| *name == unit).ok_or(ParseError::Rate)?;
    scaled(number, bytes)
}

/// Splits `30s` into `30` and `s`; there has to be a digit first.
fn number_and_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn digits_only(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

fn scaled(digits: &str, unit: u64) -> Result<u64, ParseError> {
    let number = digits.parse::<u64>().map_err(|_| ParseError::TooLarge)?;
    number.checked_mul(unit).ok_or(ParseError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        for (text, seconds) in [("30", 30), ("30s", 30), ("5m", 300), ("1h", 3600), ("12h", 43_200)] {
            assert_eq!(interval_s(text), Ok(seconds), "{text}");
        }
        assert_eq!(spacing_s("1d"), Ok(86_400));
        for text in ["", "s", "-1", "+1", "1.5h", "1 h", "1H", "1ms", "1h30m", "٣", "0x10"] {
            assert_eq!(interval_s(text), Err(ParseError::Duration), "{text}");
        }
    }

    #[test]
    fn what_is_done_from_time_to_time_may_never_be_done() {
        assert_eq!(["30d", "0", "0s", "never"].map(period_s), [Ok(2_592_000), Ok(0), Ok(0), Ok(0)]);
        assert_eq!(period_s("seldom"), Err(ParseError::Duration));
    }

    #[test]
    fn an_interval_is_one_second_to_twelve_hours() {
        assert_eq!(interval_s("1"), Ok(1));
        for text in ["0", "43201", "13h", "99999999999999999999", "18446744073709551615d"] {
            assert_eq!(
                interval_s(text).unwrap_err().to_string(),
                "expected 1 to 43200 seconds (12 hours)",
                "{text}"
            );
        }
    }

    #[test]
    fn a_history_is_at_most_24_points() {
        assert_eq!(history("0"), Ok(0));
        assert_eq!(history("24"), Ok(24));
        for text in ["25", "256", "", "-1", "+1", "4h"] {
            assert_eq!(history(text), Err(ParseError::History), "{text}");
        }
    }

    #[test]
    fn rates_name_their_unit() {
        for (text, rate) in
            [("200MiB/s", 200 << 20), ("1GiB", 1 << 30), ("50MB/s", 50_000_000), ("8kB/s", 8000), ("1B/s", 1)]
        {
            assert_eq!(bandwidth_bytes_per_s(text), Ok(rate), "{text}");
        }
        for text in ["", "200", "200M", "1.5GiB", "100Mbit/s", "100mb/s", "1 GiB", "1GiB/m", "1GiB/s/s"] {
            assert_eq!(bandwidth_bytes_per_s(text), Err(ParseError::Rate), "{text}");
        }
        assert_eq!(bandwidth_bytes_per_s("0MB/s"), Err(ParseError::RateZero));
        assert_eq!(bandwidth_bytes_per_s("99999999999TiB/s"), Err(ParseError::TooLarge));
    }

    #[test]
    fn a_time_is_a_while_from_now_or_says_its_offset() {
        assert_eq!(time_ms("1970-01-01T02:00:01+02:00"), Ok(1000));
        let now = time_ms("+0s").unwrap();
        let hour = time_ms("+1h").unwrap() - now;
        assert!((3_600_000..3_660_000).contains(&hour), "{hour}");
        for text in ["", "tomorrow", "22:00", "2026-05-04", "2026-05-04T22:00:00"] {
            assert_eq!(time_ms(text), Err(ParseError::Time), "{text}");
        }
        assert_eq!(time_ms("+"), Err(ParseError::Duration));
        assert_eq!(time_ms("+99999999999999d"), Err(ParseError::TooLarge));
    }

    #[test]
    fn a_window_has_two_times_of_the_day() {
        assert_eq!(window("18:30-06:00"), Ok(Window { start_min: 1110, end_min: 360 }));
        assert_eq!(window("0:00-0:00"), Ok(Window::default()));
        for text in
            ["", "18:30", "18:30-", "24:00-06:00", "18:60-06:00", "1830-0600", "+1:00-02:00", "18:30-06:00-"]
        {
            assert_eq!(window(text), Err(ParseError::Window), "{text}");
        }
    }

    #[test]
    fn a_limit_is_for_always_or_for_some_times() {
        let limits =
            ["1MB/s", "08:00-18:00 = 2MB/s", "3MB/s", "sat 00:00-24:00=unlimited"].map(|t| limit(t).unwrap());
        assert_eq!(always(&limits), Some(3_000_000));
        assert_eq!(
            windows(&limits).iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["08:00-18:00 = 2MB/s", "sat 00:00-24:00 = unlimited"]
        );
        assert_eq!(always(&limits[1..2]), None);
        assert_eq!(limit("8-18=2MB/s"), Err(ParseError::BandwidthWindow));
        assert_eq!(limit("0MB/s"), Err(ParseError::RateZero));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,12}") {
            let _ = (window(&text), time_ms(&text), interval_s(&text), spacing_s(&text), history(&text), bandwidth_bytes_per_s(&text));
        }
    }
}
