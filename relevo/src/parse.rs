//! Durations, sizes and rates as operators type them. Strict: whole numbers with a known unit, because
//! `1.5h` or `200M` mean different things to different people. The texts complete the command line
//! parser's "invalid value `…` for `--option`", so they say what is allowed and do not repeat the value.

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
    #[error("expected a rate above zero; `relevo suspend` stops a replication")]
    RateZero,
    #[error("the number is too large")]
    TooLarge,
}

/// Seconds between two cycles.
pub fn interval_s(text: &str) -> Result<u32, ParseError> {
    bounded_s(text, INTERVAL_S_MAX, "12 hours")
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
    let bytes = match unit {
        "B" => 1,
        "kB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(ParseError::Rate),
    };
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

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,12}") {
            let _ = (interval_s(&text), spacing_s(&text), history(&text), bandwidth_bytes_per_s(&text));
        }
    }
}
