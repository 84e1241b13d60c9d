//! How much may be sent, by the time of the day.
//!
//! ```text
//! window  [DAYS] HH:MM-HH:MM = RATE      mon-fri 08:00-18:00 = 20MiB/s
//! DAYS    mon-fri | sat,sun | mon        every day where absent
//! RATE    20MiB/s | unlimited            whole numbers of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB
//! ```
//!
//! Times are local. A window that ends before it begins ends on the next day; its days are those on which it begins. Where
//! windows overlap the first one counts.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

const DAY_MINUTES: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Of sizes and rates, in bytes.
pub const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("B", 1),
];
const UNLIMITED: &str = "unlimited";

/// A time of the week, as clocks on the wall show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallTime {
    /// 0: Monday.
    pub day: u8,
    /// Since midnight.
    pub minute: u16,
}

/// A limit while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BandwidthWindow {
    /// A bit for each day, Monday's the lowest.
    days: u8,
    from_minute: u16,
    until_minute: u16,
    /// `None`: no limit.
    pub bytes_per_s: Option<u64>,
}

/// A limit for each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    pub windows: Vec<BandwidthWindow>,
    /// Outside of the windows; `None`: no limit.
    pub otherwise_bytes_per_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no limit by the time of the day: write it such as `08:00-18:00 = 20MiB/s`, `mon-fri 08:00-18:00 = 20MiB/s` or \
     `sat,sun 00:00-24:00 = unlimited`"
)]
pub struct WindowError(String);

impl Bandwidth {
    /// Bytes per second; `None`: no limit.
    pub fn at(&self, now: WallTime) -> Option<u64> {
        limit(&self.windows, self.otherwise_bytes_per_s, now)
    }
}

/// Bytes per second; `None`: no limit.
pub fn limit(windows: &[BandwidthWindow], otherwise_bytes_per_s: Option<u64>, now: WallTime) -> Option<u64> {
    match windows.iter().find(|window| window.holds(now)) {
        Some(window) => window.bytes_per_s,
        None => otherwise_bytes_per_s,
    }
}

/// The lower one of two limits.
pub fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

impl BandwidthWindow {
    fn holds(&self, now: WallTime) -> bool {
        let begins = |day: u8| self.days >> day & 1 == 1;
        let yesterday = (now.day + 6) % 7;
        if self.from_minute < self.until_minute {
            return begins(now.day) && (self.from_minute..self.until_minute).contains(&now.minute);
        }
        (begins(now.day) && now.minute >= self.from_minute)
            || (begins(yesterday) && now.minute < self.until_minute)
    }
}

impl FromStr for BandwidthWindow {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        parse(text).ok_or_else(|| WindowError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<BandwidthWindow> {
    let (when, rate) = text.split_once('=')?;
    let (days, times) = match when.trim().split_once(' ') {
        Some((days, times)) => (parse_days(days)?, times.trim()),
        None => (0x7f, when.trim()),
    };
    let (from, until) = times.split_once('-')?;
    let (from_minute, until_minute) = (parse_time(from)?, parse_time(until)?);
    let bytes_per_s = match rate.trim() {
        UNLIMITED => None,
        rate => Some(parse_rate(rate)?),
    };
    (from_minute != until_minute && from_minute < DAY_MINUTES).then_some(BandwidthWindow {
        days,
        from_minute,
        until_minute,
        bytes_per_s,
    })
}

/// Days and ranges of days; a range may go on into the next week.
fn parse_days(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + 7 - first) % 7;
        (0..=count).for_each(|offset| days |= 1 << ((first + offset) % 7));
    }
    Some(days)
}

fn parse_time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse().ok())?
    };
    let (hours, minutes): (u16, u16) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

/// Above zero; the `/s` may be left out.
fn parse_rate(text: &str) -> Option<u64> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == &text[digits..])?;
    number.checked_mul(*unit).filter(|rate| *rate > 0)
}

impl fmt::Display for BandwidthWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = days_text(self.days);
        if !days.is_empty() {
            write!(f, "{days} ")?;
        }
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{} = ", time(self.from_minute), time(self.until_minute))?;
        match self.bytes_per_s {
            None => f.write_str(UNLIMITED),
            Some(rate) => {
                let (name, unit) =
                    UNITS.iter().find(|(_, unit)| rate.is_multiple_of(*unit)).unwrap_or(&("B", 1));
                write!(f, "{}{name}/s", rate / unit)
            }
        }
    }
}

/// Runs of days as ranges; nothing for every day.
fn days_text(days: u8) -> String {
    if days == 0x7f {
        return String::new();
    }
    let mut runs: Vec<(usize, usize)> = vec![];
    for day in (0..DAYS.len()).filter(|day| days >> day & 1 == 1) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == day => *last = day,
            _ => runs.push((day, day)),
        }
    }
    let text = |(first, last): &(usize, usize)| match last - first {
        0 => DAYS[*first].to_owned(),
        1 => format!("{},{}", DAYS[*first], DAYS[*last]),
        _ => format!("{}-{}", DAYS[*first], DAYS[*last]),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

impl TryFrom<String> for BandwidthWindow {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        text.parse()
    }
}

impl From<BandwidthWindow> for String {
    fn from(window: BandwidthWindow) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(text: &str) -> BandwidthWindow {
        text.parse().unwrap()
    }

    fn at(day: u8, hours: u16, minutes: u16) -> WallTime {
        WallTime { day, minute: hours * 60 + minutes }
    }

    #[test]
    fn a_window_begins_and_ends_with_its_minutes() {
        let bandwidth =
            Bandwidth { windows: vec![window("08:00-18:00 = 20MiB/s")], otherwise_bytes_per_s: Some(7) };
        for day in 0..7 {
            let limits = [(7, 59), (8, 0), (17, 59), (18, 0)].map(|(h, m)| bandwidth.at(at(day, h, m)));
            assert_eq!(limits, [Some(7), Some(20 << 20), Some(20 << 20), Some(7)]);
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let friday_night = window("fri 22:00-06:00 = unlimited");
        let holds = |day, hour| friday_night.holds(at(day, hour, 0));
        assert!(holds(4, 22) && holds(4, 23) && holds(5, 0) && holds(5, 5));
        assert!(!holds(4, 5) && !holds(4, 21) && !holds(5, 6) && !holds(5, 22));
        let sunday_night = window("sun 23:00-01:00 = 1B/s");
        assert!(sunday_night.holds(at(0, 0, 59)) && !sunday_night.holds(at(6, 0, 59)));
    }

    #[test]
    fn the_first_window_that_holds_counts() {
        let windows =
            ["sat,sun 00:00-24:00 = unlimited", "08:00-18:00 = 1MB/s", "00:00-24:00 = 2MB/s"].map(window);
        let now = |day, hour| limit(&windows, Some(1), at(day, hour, 0));
        assert_eq!((now(5, 12), now(0, 12), now(0, 19)), (None, Some(1_000_000), Some(2_000_000)));
    }

    #[test]
    fn what_is_no_window_is_refused_with_what_one_is() {
        for text in [
            "20MiB/s",
            "08:00-18:00",
            "8-18 = 1MB/s",
            "08:00-08:00 = 1MB/s",
            "24:00-08:00 = 1MB/s",
            "08:00-24:01 = 1MB/s",
            "08:60-09:00 = 1MB/s",
            "08:00-18:00 = 0MB/s",
            "08:00-18:00 = 20M",
            "08:00-18:00 = 1.5GiB/s",
            "08:00-18:00 = 99999999999TiB/s",
            "mo 08:00-18:00 = 1MB/s",
            "mon-x 08:00-18:00 = 1MB/s",
            "08:+0-18:00 = 1MB/s",
        ] {
            let error = text.parse::<BandwidthWindow>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("`{text}`")) && error.contains("mon-fri"), "{error}");
        }
    }

    #[test]
    fn windows_are_shown_as_they_are_written() {
        for text in
            ["mon-fri 08:00-18:00 = 20MiB/s", "sat,sun 00:00-24:00 = unlimited", "22:15-06:00 = 1000KiB/s"]
        {
            assert_eq!(window(text).to_string(), text);
        }
        assert_eq!(window("fri-mon 00:00-01:00=1000B").to_string(), "mon,fri-sun 00:00-01:00 = 1kB/s");
    }

    proptest! {
        #[test]
        fn every_window_is_read_as_it_was_shown(
            days in 1u8..=0x7f, from_minute in 0..DAY_MINUTES, until_minute in 0..=DAY_MINUTES,
            bytes_per_s in proptest::option::of(1..u64::MAX)
        ) {
            prop_assume!(from_minute != until_minute);
            let window = BandwidthWindow { days, from_minute, until_minute, bytes_per_s };
            prop_assert_eq!(window.to_string().parse::<BandwidthWindow>().unwrap(), window);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,30}") {
            let _ = text.parse::<BandwidthWindow>();
        }
    }
}
