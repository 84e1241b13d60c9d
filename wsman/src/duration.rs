//! `xs:duration` and `xs:dateTime`, to and from CIM's datetime and milliseconds.

use cim::{DateTime, Interval, Timestamp};
use std::fmt::Write;

const DAY_MS: u64 = 86_400_000;

/// Milliseconds of `PnDTnHnMn.nS`; years and months, which have no length of their own, and negative durations are
/// none.
pub fn parse_duration(text: &str) -> Option<u64> {
    let text = text.trim().strip_prefix('P')?;
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    if date.is_empty() && time.is_empty() || text.ends_with('T') {
        return None;
    }
    let total = add_fields(0, date, &[('D', DAY_MS)])?;
    add_fields(total, time, &[('H', 3_600_000), ('M', 60_000), ('S', 1000)])
}

fn add_fields(mut total: u64, mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    for (unit, unit_ms) in units {
        let Some((number, rest)) = text.split_once(*unit) else { continue };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if number.is_empty() || !digits(whole) || !digits(fraction) || (*unit != 'S' && number.contains('.'))
        {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let milliseconds: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
        total = total.checked_add(whole.checked_mul(*unit_ms)?)?.checked_add(milliseconds)?;
        text = rest;
    }
    text.is_empty().then_some(total)
}

/// `PnDTnHnMn.nS`, at least `PT0S`.
pub fn duration(ms: u64) -> String {
    let mut text = "P".to_owned();
    if ms >= DAY_MS {
        _ = write!(text, "{}D", ms / DAY_MS);
    }
    let of_day = ms % DAY_MS;
    if of_day == 0 && ms > 0 {
        return text;
    }
    text.push('T');
    for (unit, unit_ms, modulus) in [('H', 3_600_000, 24), ('M', 60_000, 60)] {
        let count = of_day / unit_ms % modulus;
        if count > 0 {
            _ = write!(text, "{count}{unit}");
        }
    }
    let (seconds, fraction) = (of_day / 1000 % 60, of_day % 1000);
    match fraction {
        0 if seconds == 0 && of_day > 0 => {}
        0 => _ = write!(text, "{seconds}S"),
        _ => _ = write!(text, "{seconds}.{}S", format!("{fraction:03}").trim_end_matches('0')),
    }
    text
}

/// What the text of a datetime says: CIM's 25 characters, `xs:dateTime`, `xs:date` or `xs:duration`.
pub fn parse_datetime(text: &str) -> Option<DateTime> {
    let text = text.trim();
    if let Ok(datetime) = text.parse() {
        return Some(datetime);
    }
    if text.starts_with('P') {
        return parse_duration(text).map(DateTime::from_interval_ms);
    }
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b"-T:.Z+".contains(&byte));
    if !plain(text) || text.len() < 10 {
        return None;
    }
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix('T').unwrap_or(rest);
    let split = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(split);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let time = if time.is_empty() { "00:00:00" } else { time };
    let offset: i32 = match zone.get(1..).and_then(|it| it.split_once(':')) {
        Some((hours, minutes)) => hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?,
        None => 0,
    };
    let sign = if zone.starts_with('-') { '-' } else { '+' };
    let digits = |text: &str, separator: char| text.split(separator).collect::<String>();
    let fraction: String = format!("{fraction:0<6}").chars().take(6).collect();
    format!("{}{}.{fraction}{sign}{offset:03}", digits(date, '-'), digits(time, ':')).parse().ok()
}

/// The element of DSP0230 that holds a datetime: `cim:Datetime`, `cim:Interval`, or `cim:CIM_DateTime` where parts
/// of it are unknown.
pub fn datetime_element(datetime: &DateTime) -> String {
    match datetime {
        DateTime::Timestamp(it) => timestamp(it).map(|text| format!("<cim:Datetime>{text}</cim:Datetime>")),
        DateTime::Interval(it) => interval(it).map(|text| format!("<cim:Interval>{text}</cim:Interval>")),
    }
    .unwrap_or_else(|| format!("<cim:CIM_DateTime>{datetime}</cim:CIM_DateTime>"))
}

fn timestamp(it: &Timestamp) -> Option<String> {
    let (year, month, day) = (it.year?, it.month?, it.day?);
    let (hour, minute, second) = (it.hour?, it.minute?, it.second?);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if it.microseconds.value > 0 {
        text += format!(".{:06}", it.microseconds.value).trim_end_matches('0');
    }
    match it.offset_minutes? {
        0 => text.push('Z'),
        offset => {
            let sign = if offset < 0 { '-' } else { '+' };
            let minutes = offset.unsigned_abs();
            _ = write!(text, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
    }
    Some(text)
}

fn interval(it: &Interval) -> Option<String> {
    let (days, hours, minutes, seconds) = (it.days?, it.hours?, it.minutes?, it.seconds?);
    let mut text = format!("P{days}DT{hours}H{minutes}M{seconds}");
    if it.microseconds.value > 0 {
        text += format!(".{:06}", it.microseconds.value).trim_end_matches('0');
    }
    Some(text + "S")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_of_clients_are_read() {
        for (text, ms) in [
            ("PT60.000S", 60_000),
            ("PT1M30S", 90_000),
            ("PT30.0000001S", 30_000),
            ("P1DT2H3M4.5S", 93_784_500),
            ("PT.5S", 500),
            ("P2D", 2 * DAY_MS),
        ] {
            assert_eq!(parse_duration(text), Some(ms), "{text}");
        }
        for text in
            ["", "P", "PT", "P1DT", "PT1", "1S", "-PT1S", "P1Y", "PT1S1M", "PT1.5M", "P99999999999999999D"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(duration(0), "PT0S");
        assert_eq!(duration(600_000), "PT10M");
        assert_eq!(duration(90_500), "PT1M30.5S");
    }

    #[test]
    fn datetimes_of_clients_are_read() {
        for text in [
            "2026-11-20T10:00:00Z",
            "2026-11-20T10:00:00",
            "2026-11-20T11:00:00.000+01:00",
            "20261120100000.000000+000",
        ] {
            let datetime = parse_datetime(text).unwrap();
            assert_eq!(datetime.to_unix_ms(), Some(1_795_168_800_000), "{text}");
        }
        assert_eq!(parse_datetime("P1DT2H").unwrap().to_interval_ms(), Some(93_600_000));
        assert_eq!(parse_datetime("2026-11-20").unwrap().to_string(), "20261120000000.000000+000");
        for text in
            ["", "now", "2026-11-20T25:00:00Z", "2026-1-2T10:00:00Z", "é026-11-20T1", "2026-11-20T10:00:00+x"]
        {
            assert_eq!(parse_datetime(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ms in 0u64..100_000_000 * DAY_MS, unix_ms in -62_135_596_800_000i64..253_402_300_799_999) {
            prop_assert_eq!(parse_duration(&duration(ms)), Some(ms));
            for datetime in [DateTime::from_interval_ms(ms), DateTime::from_unix_ms(unix_ms)] {
                let element = datetime_element(&datetime);
                let text = element.split(['<', '>']).nth(2).unwrap();
                prop_assert_eq!(parse_datetime(text), Some(datetime));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-0-9TZP:.+DHMS]{0,40}|\\PC{0,20}") {
            _ = (parse_duration(&text), parse_datetime(&text));
        }
    }
}
