//! Typed identifiers. All are UUIDs, so that nothing has to be renamed when a third host joins;
//! hosts are DNS names.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// A virtual machine: libvirt's domain UUID, the same on every host that holds it.
    VmId
);
uuid_id!(
    /// One disk of a VM, whatever its target name or path is at the moment.
    DiskId
);
uuid_id!(
    /// One delta: an immutable set of changes of all disks of a VM between two cuts. Also names the
    /// layers that it becomes on the replica and the recovery point that these layers complete.
    DeltaId
);
uuid_id!(
    /// A job of this host.
    JobId
);
uuid_id!(
    /// One attempt at a cut: libvirt refuses a spool file that exists, so a repeated cut needs new names.
    AttemptId
);

/// A host's identity: a DNS name in lower case. Its network address may differ.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a host name: expected a DNS name such as b.example (letters, digits, hyphens, dots)")]
pub struct InvalidHostName(String);

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let numeric = name.split('.').all(|part| part.bytes().all(|b| b.is_ascii_digit()));
        if name.len() <= 253 && !numeric && name.split('.').all(label) {
            Ok(Self(name))
        } else {
            Err(InvalidHostName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidHostName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_dns_names_in_lower_case() {
        assert_eq!("B.Example.".parse::<HostName>().unwrap().as_str(), "b.example");
        for bad in ["", "a..b", "-a", "a b", "10.0.0.1", "ä.example", "a/b"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }
}
