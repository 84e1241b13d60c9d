//! Whose certificate may replicate to this host, and where its replicas go. Pure.

use model::HostName;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// The trust group of hosts that are not told apart.
pub const DEFAULT_TRUST_GROUP: &str = "DEFAULT";

/// `Msvm_ReplicationAuthorizationSettingData.AllowedPrimaryHostSystem`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// `a.example.com`
    Exact(HostName),
    /// `*.example.com`: any one label in front of this domain.
    FirstLabel(HostName),
    /// `*`, for the trust group `DEFAULT` only.
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    pub host: HostPattern,
    pub trust_group: String,
    /// Folder for the replicas of these hosts.
    pub storage: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthorization {
    #[error("`{0}` is not a host pattern: expected a DNS name, `*.` and a domain, or `*`")]
    Pattern(String),
    #[error("`*` is allowed for the trust group `DEFAULT` only, not for `{0}`")]
    AnyOutsideDefault(String),
    #[error("the trust group of `{0}` is empty")]
    NoTrustGroup(HostPattern),
}

impl Authorization {
    /// Checks what the parts cannot tell alone.
    pub fn new(host: HostPattern, trust_group: &str, storage: PathBuf) -> Result<Self, InvalidAuthorization> {
        if trust_group.trim().is_empty() {
            return Err(InvalidAuthorization::NoTrustGroup(host));
        }
        if host == HostPattern::Any && !trust_group.eq_ignore_ascii_case(DEFAULT_TRUST_GROUP) {
            return Err(InvalidAuthorization::AnyOutsideDefault(trust_group.to_owned()));
        }
        Ok(Self { host, trust_group: trust_group.to_owned(), storage })
    }
}

impl HostPattern {
    pub fn matches(&self, name: &HostName) -> bool {
        match self {
            Self::Exact(host) => host == name,
            Self::FirstLabel(domain) => {
                name.as_str().split_once('.').is_some_and(|(_, rest)| rest == domain.as_str())
            }
            Self::Any => true,
        }
    }

    /// Higher is more specific. Two patterns of equal rank that match one name are equal.
    fn rank(&self) -> u8 {
        match self {
            Self::Exact(_) => 2,
            Self::FirstLabel(_) => 1,
            Self::Any => 0,
        }
    }
}

/// The most specific authorization that matches one of `names`: exact, then the first label, then any; among
/// equals the first. `None`: none of these names may replicate to this host, and neither may a peer without
/// names, whatever the entries say.
pub fn authorize<'a>(entries: &'a [Authorization], names: &[HostName]) -> Option<&'a Authorization> {
    let matching = entries.iter().filter(|entry| names.iter().any(|name| entry.host.matches(name)));
    // `max_by_key` takes the last of equals.
    matching.rev().max_by_key(|entry| entry.host.rank())
}

impl FromStr for HostPattern {
    type Err = InvalidAuthorization;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |_| InvalidAuthorization::Pattern(text.to_owned());
        match text.strip_prefix('*') {
            Some("") => Ok(Self::Any),
            Some(rest) => match rest.strip_prefix('.') {
                Some(domain) => domain.parse().map(Self::FirstLabel).map_err(invalid),
                None => Err(InvalidAuthorization::Pattern(text.to_owned())),
            },
            None => text.parse().map(Self::Exact).map_err(invalid),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::FirstLabel(domain) => write!(f, "*.{domain}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidAuthorization;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(patterns: &[&str]) -> Vec<Authorization> {
        let entry = |pattern: &&str| {
            Authorization::new(pattern.parse().unwrap(), "DEFAULT", PathBuf::from(pattern)).unwrap()
        };
        patterns.iter().map(entry).collect()
    }

    fn check(patterns: &[&str], names: &[&str], expected: Option<&str>) {
        let entries = entries(patterns);
        let names: Vec<HostName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let found = authorize(&entries, &names).map(|entry| entry.host.to_string());
        assert_eq!(found.as_deref(), expected, "{patterns:?} {names:?}");
    }

    #[test]
    fn the_most_specific_pattern_wins_in_any_order() {
        check(&["*", "*.example.com", "a.example.com"], &["A.example.com"], Some("a.example.com"));
        check(&["a.example.com", "*.example.com", "*"], &["a.example.com"], Some("a.example.com"));
        check(&["*", "*.example.com"], &["b.example.com"], Some("*.example.com"));
        check(&["*", "*.example.com"], &["b.example.org"], Some("*"));
        check(&["a.x.de", "*.y.de"], &["b.y.de", "a.x.de"], Some("a.x.de"));
    }

    #[test]
    fn a_wildcard_stands_for_exactly_the_first_label() {
        check(&["*.example.com"], &["a.b.example.com"], None);
        check(&["*.example.com"], &["example.com"], None);
        check(&["*.example.com"], &["aexample.com"], None);
        check(&["example.com"], &["a.example.com"], None);
    }

    #[test]
    fn a_peer_without_names_or_match_is_not_authorized() {
        check(&["*"], &[], None);
        check(&[], &["a.example.com"], None);
    }

    #[test]
    fn bad_patterns_and_any_outside_the_default_group_are_refused() {
        for bad in ["", "*a", "a.*", "*.", "**", "*.*.com", "10.0.0.1"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert_eq!(
            Authorization::new(HostPattern::Any, "blue", PathBuf::new()),
            Err(InvalidAuthorization::AnyOutsideDefault("blue".into()))
        );
        assert!(Authorization::new("a.x".parse().unwrap(), " ", PathBuf::new()).is_err());
    }
}
