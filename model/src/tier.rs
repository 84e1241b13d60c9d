//! A tier of recovery points that are kept: so many, so far apart. `24x1h`, `7x1d`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Points of all tiers of a relationship together: chains of layers have a bound.
pub const TIER_POINTS_MAX: u32 = 40;

const UNITS: [(&str, u32); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tier {
    /// 1 to [`TIER_POINTS_MAX`].
    pub count: u32,
    /// At least 1.
    pub every_s: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no tier of points: write it such as 24x1h or 7x1d (how many, how far apart), with at most {TIER_POINTS_MAX} points"
)]
pub struct TierError(String);

impl FromStr for Tier {
    type Err = TierError;

    fn from_str(text: &str) -> Result<Self, TierError> {
        parse(text).ok_or_else(|| TierError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Tier> {
    let number = |digits: &str| -> Option<u32> {
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (count, every) = text.split_once('x')?;
    let (name, unit_s) = UNITS.iter().find(|(name, _)| every.ends_with(name))?;
    let every_s = number(every.strip_suffix(name)?)?.checked_mul(*unit_s)?;
    let count = number(count)?;
    ((1..=TIER_POINTS_MAX).contains(&count) && every_s > 0).then_some(Tier { count, every_s })
}

impl Tier {
    /// `1h`, `7d`: the distance, in the largest unit that is exact.
    pub fn every(self) -> String {
        let (name, unit_s) =
            UNITS.iter().find(|(_, unit_s)| self.every_s.is_multiple_of(*unit_s)).unwrap_or(&("s", 1));
        format!("{}{name}", self.every_s / unit_s)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.count, self.every())
    }
}

impl TryFrom<String> for Tier {
    type Error = TierError;

    fn try_from(text: String) -> Result<Self, TierError> {
        text.parse()
    }
}

impl From<Tier> for String {
    fn from(tier: Tier) -> Self {
        tier.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tier_is_how_many_and_how_far_apart() {
        assert_eq!("24x1h".parse(), Ok(Tier { count: 24, every_s: 3600 }));
        assert_eq!("4x7d".parse(), Ok(Tier { count: 4, every_s: 7 * 86_400 }));
        assert_eq!("2x90s".parse::<Tier>().unwrap().to_string(), "2x90s");
        assert_eq!("2x120m".parse::<Tier>().unwrap().to_string(), "2x2h");
        for text in [
            "",
            "24",
            "x1h",
            "24x",
            "0x1h",
            "41x1h",
            "24x0h",
            "24x1",
            "24x1w",
            "+2x1h",
            "2x99999999d",
            "2x1hh",
        ] {
            assert!(text.parse::<Tier>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_tier_is_read_as_it_was_shown(count in 1..=TIER_POINTS_MAX, every_s in 1u32..) {
            let tier = Tier { count, every_s };
            prop_assert_eq!(tier.to_string().parse::<Tier>().unwrap(), tier);
        }
    }
}
