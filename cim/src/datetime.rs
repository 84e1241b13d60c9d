//! CIM's datetime: points in time and intervals in 25 characters, with `*` for digits that are not known
//! (DSP0004, 5.2.4).

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DateTime {
    Timestamp(Timestamp),
    Interval(Interval),
}

/// `yyyymmddHHMMSS.mmmmmm±UTC`; a field that is written in asterisks is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timestamp {
    pub year: Option<u16>,
    pub month: Option<u8>,
    pub day: Option<u8>,
    pub hour: Option<u8>,
    pub minute: Option<u8>,
    pub second: Option<u8>,
    pub microseconds: Microseconds,
    /// East of Greenwich. DSP0004 wants it; WMI writes `***` where it does not know.
    pub offset_minutes: Option<i16>,
}

/// `ddddddddHHMMSS.mmmmmm:000`; a field that is written in asterisks is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interval {
    pub days: Option<u32>,
    pub hours: Option<u8>,
    pub minutes: Option<u8>,
    pub seconds: Option<u8>,
    pub microseconds: Microseconds,
}

/// A fraction of a second of which the first `digits` are known, 0 to 6. The rest of `value` is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Microseconds {
    pub value: u32,
    pub digits: u8,
}

/// A text that is no datetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no datetime: {1}")]
pub struct DateTimeError(String, &'static str);

const MS_PER_DAY: i64 = 86_400_000;

impl DateTime {
    /// The instant in UTC. Years 1 to 9999; beyond them the nearest instant that can be written.
    pub fn from_unix_ms(unix_ms: i64) -> DateTime {
        let (least, most) = (-62_135_596_800_000, 253_402_300_799_999);
        let unix_ms = unix_ms.clamp(least, most);
        let (year, month, day) = civil_from_days(unix_ms.div_euclid(MS_PER_DAY));
        let of_day = unix_ms.rem_euclid(MS_PER_DAY);
        DateTime::Timestamp(Timestamp {
            year: Some(year as u16),
            month: Some(month as u8),
            day: Some(day as u8),
            hour: Some((of_day / 3_600_000) as u8),
            minute: Some((of_day / 60_000 % 60) as u8),
            second: Some((of_day / 1000 % 60) as u8),
            microseconds: Microseconds { value: (of_day % 1000) as u32 * 1000, digits: 6 },
            offset_minutes: Some(0),
        })
    }

    /// The instant of a timestamp whose date is known; parts of the day that are not count as zero, an unknown
    /// offset as UTC. None for intervals.
    pub fn to_unix_ms(&self) -> Option<i64> {
        self.unix_us().map(|us| us.div_euclid(1000))
    }

    /// The interval; at most 99 999 999 days.
    pub fn from_interval_ms(interval_ms: u64) -> DateTime {
        let day = MS_PER_DAY as u64;
        let interval_ms = interval_ms.min(100_000_000 * day - 1);
        DateTime::Interval(Interval {
            days: Some((interval_ms / day) as u32),
            hours: Some((interval_ms / 3_600_000 % 24) as u8),
            minutes: Some((interval_ms / 60_000 % 60) as u8),
            seconds: Some((interval_ms / 1000 % 60) as u8),
            microseconds: Microseconds { value: (interval_ms % 1000) as u32 * 1000, digits: 6 },
        })
    }

    /// The length of an interval, unknown fields counted as zero. None for timestamps.
    pub fn to_interval_ms(&self) -> Option<u64> {
        self.interval_us().map(|us| us / 1000)
    }

    pub(crate) fn unix_us(&self) -> Option<i64> {
        let DateTime::Timestamp(it) = self else { return None };
        let days = days_from_civil(it.year?.into(), it.month?.into(), it.day?.into());
        let part = |field: Option<u8>| i64::from(field.unwrap_or(0));
        let minutes = part(it.hour) * 60 + part(it.minute) - i64::from(it.offset_minutes.unwrap_or(0));
        let seconds = days * 86_400 + minutes * 60 + part(it.second);
        Some(seconds * 1_000_000 + i64::from(it.microseconds.value))
    }

    pub(crate) fn interval_us(&self) -> Option<u64> {
        let DateTime::Interval(it) = self else { return None };
        let part = |field: Option<u8>| u64::from(field.unwrap_or(0));
        let hours = u64::from(it.days.unwrap_or(0)) * 24 + part(it.hours);
        let seconds = (hours * 60 + part(it.minutes)) * 60 + part(it.seconds);
        Some(seconds * 1_000_000 + u64::from(it.microseconds.value))
    }
}

impl FromStr for DateTime {
    type Err = DateTimeError;

    fn from_str(text: &str) -> Result<DateTime, DateTimeError> {
        let error = |why| DateTimeError(text.chars().take(40).collect(), why);
        let bytes = text.as_bytes();
        if bytes.len() != 25 || !text.is_ascii() {
            return Err(error("it has 25 characters"));
        }
        if bytes[14] != b'.' {
            return Err(error("a dot is the 15th character"));
        }
        let digits = || error("a field holds digits, or asterisks only");
        let field = |from: usize, to: usize| field(&text[from..to]).ok_or_else(digits);
        let microseconds = microseconds(&text[15..21]).ok_or_else(digits)?;
        let (hour, minute, second) = (field(8, 10)?, field(10, 12)?, field(12, 14)?);
        let above = |field: Option<u32>, most| field.is_some_and(|it| it > most);
        if above(hour, 23) || above(minute, 59) || above(second, 59) {
            return Err(error("the time of day is out of range"));
        }
        let small = |field: Option<u32>| field.map(|it| it as u8);
        let (hour, minute, second) = (small(hour), small(minute), small(second));
        if bytes[21] == b':' {
            if &text[22..] != "000" {
                return Err(error("an interval ends in :000"));
            }
            let days = field(0, 8)?;
            let interval = Interval { days, hours: hour, minutes: minute, seconds: second, microseconds };
            return Ok(DateTime::Interval(interval));
        }
        let sign = match bytes[21] {
            b'+' => 1,
            b'-' => -1,
            _ => return Err(error("+, - or : is the 22nd character")),
        };
        let (year, month, day) = (field(0, 4)?, field(4, 6)?, field(6, 8)?);
        let longest = month_days(year, month);
        if above(month, 12) || month == Some(0) || day == Some(0) || above(day, longest) {
            return Err(error("there is no such day"));
        }
        Ok(DateTime::Timestamp(Timestamp {
            year: year.map(|it| it as u16),
            month: small(month),
            day: small(day),
            hour,
            minute,
            second,
            microseconds,
            offset_minutes: field(22, 25)?.map(|it| it as i16 * sign),
        }))
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = |field: Option<u8>| digits(field.map(u32::from), 2);
        match self {
            DateTime::Timestamp(it) => {
                write!(f, "{}{}{}", digits(it.year.map(u32::from), 4), small(it.month), small(it.day))?;
                write!(f, "{}{}{}", small(it.hour), small(it.minute), small(it.second))?;
                let sign = if it.offset_minutes.is_some_and(|it| it < 0) { '-' } else { '+' };
                let offset = it.offset_minutes.map(|it| it.unsigned_abs().into());
                write!(f, ".{}{sign}{}", it.microseconds, digits(offset, 3))
            }
            DateTime::Interval(it) => {
                write!(f, "{}{}", digits(it.days, 8), small(it.hours))?;
                write!(f, "{}{}.{}:000", small(it.minutes), small(it.seconds), it.microseconds)
            }
        }
    }
}

impl fmt::Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = usize::from(self.digits);
        write!(f, "{}{}", &format!("{:06}", self.value)[..known], &"******"[known..])
    }
}

fn digits(field: Option<u32>, width: usize) -> String {
    field.map_or_else(|| "*".repeat(width), |it| format!("{it:0width$}"))
}

/// None where the field holds anything but digits or anything but asterisks.
fn field(text: &str) -> Option<Option<u32>> {
    if text.bytes().all(|byte| byte == b'*') {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())
}

fn microseconds(text: &str) -> Option<Microseconds> {
    let known = text.trim_end_matches('*');
    let plain = known.bytes().all(|byte| byte.is_ascii_digit());
    let value = format!("{known:0<6}").parse().ok()?;
    plain.then_some(Microseconds { value, digits: known.len() as u8 })
}

fn month_days(year: Option<u32>, month: Option<u32>) -> u32 {
    let leap = year.is_none_or(|year| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
    match month {
        Some(2) if leap => 29,
        Some(2) => 28,
        Some(4 | 6 | 9 | 11) => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, by years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn an_instant_is_told_in_utc() {
        assert_eq!(DateTime::from_unix_ms(0).to_string(), "19700101000000.000000+000");
        assert_eq!(DateTime::from_unix_ms(1_795_165_200_123).to_string(), "20261120090000.123000+000");
        assert_eq!(parse("20261120100000.123000+060").to_unix_ms(), Some(1_795_165_200_123));
        assert_eq!(parse("20261120******.******+***").to_unix_ms(), Some(1_795_132_800_000));
        assert_eq!(parse("********100000.000000+000").to_unix_ms(), None);
    }

    #[test]
    fn an_interval_is_a_length() {
        let interval = DateTime::from_interval_ms(93_784_500);
        assert_eq!(interval.to_string(), "00000001020304.500000:000");
        assert_eq!(interval.to_interval_ms(), Some(93_784_500));
        assert_eq!(interval.to_unix_ms(), None);
    }

    #[test]
    fn what_is_no_datetime_is_refused() {
        let wrong = [
            "",
            "20261120100000.000000+00",
            "20261320100000.000000+000",
            "20260229100000.000000+000",
            "20261120240000.000000+000",
            "20261120100000,000000+000",
            "2026112010000*.000000+000",
            "20261120100000.0*0000+000",
            "20261120100000.000000:001",
            "20261120100000.000000Z000",
            "２０２６11201000.00000+0",
        ];
        for text in wrong {
            assert!(text.parse::<DateTime>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn instants_come_back(unix_ms in -62_135_596_800_000i64..253_402_300_799_999) {
            let text = DateTime::from_unix_ms(unix_ms).to_string();
            prop_assert_eq!(parse(&text).to_unix_ms(), Some(unix_ms));
        }

        #[test]
        fn intervals_come_back(interval_ms in 0u64..8_640_000_000_000_000) {
            let text = DateTime::from_interval_ms(interval_ms).to_string();
            prop_assert_eq!(parse(&text).to_interval_ms(), Some(interval_ms));
        }

        #[test]
        fn what_is_read_is_written_the_same(
            date in "(20[0-9]{2}|\\*{4})(0[1-9]|\\*\\*)(1[0-9]|\\*\\*)",
            days in "[0-9]{8}|\\*{8}",
            time in "(0[0-9]|\\*\\*){3}\\.([0-9]{6}|[0-9]{3}\\*{3}|\\*{6})",
            offset in "\\+[0-9]{3}|-[0-9]{2}[1-9]|\\+\\*{3}",
        ) {
            for text in [format!("{date}{time}{offset}"), format!("{days}{time}:000")] {
                prop_assert_eq!(parse(&text).to_string(), text);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,30}|[0-9*]{14}\\.[0-9*]{6}[-+:][0-9*]{3}") {
            _ = text.parse::<DateTime>();
        }
    }
}
