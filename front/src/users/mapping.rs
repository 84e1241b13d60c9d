//! Which certificates a user logs in with: `sha256:HEX`, `sha1:HEX`, `name:NAME`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A thumbprint names one certificate, whoever signed it. A name is believed only in a certificate that the
/// configured authorities signed: a DNS name, mail address or user principal name of the subject's alternative
/// names, or its common name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CertificateMapping {
    /// 64 hexadecimal digits, lower case.
    Sha256(String),
    /// 40 hexadecimal digits, lower case: what Windows shows as the thumbprint.
    Sha1(String),
    /// Lower case.
    Name(String),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MappingError {
    #[error("a certificate is named by sha256:HEX, sha1:HEX or name:NAME, not by {text:?}")]
    Kind { text: String },
    #[error("a {kind} thumbprint has {digits} hexadecimal digits, unlike {text:?}")]
    Thumbprint { kind: &'static str, digits: usize, text: String },
    #[error("{name:?} is nobody's name")]
    Name { name: String },
}

impl FromStr for CertificateMapping {
    type Err = MappingError;

    /// Thumbprints may have colons and spaces between the digits, as other tools print them.
    fn from_str(text: &str) -> Result<Self, MappingError> {
        match text.split_once(':') {
            Some(("sha256", digits)) => thumbprint("sha256", 64, digits).map(Self::Sha256),
            Some(("sha1", digits)) => thumbprint("sha1", 40, digits).map(Self::Sha1),
            Some(("name", name)) if name.trim().is_empty() || name.contains('*') => {
                Err(MappingError::Name { name: name.to_owned() })
            }
            Some(("name", name)) => Ok(Self::Name(name.trim().to_lowercase())),
            _ => Err(MappingError::Kind { text: text.to_owned() }),
        }
    }
}

fn thumbprint(kind: &'static str, digits: usize, text: &str) -> Result<String, MappingError> {
    let hex: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    if hex.len() != digits || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(MappingError::Thumbprint { kind, digits, text: text.to_owned() });
    }
    Ok(hex.to_ascii_lowercase())
}

impl fmt::Display for CertificateMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256:{hex}"),
            Self::Sha1(hex) => write!(f, "sha1:{hex}"),
            Self::Name(name) => write!(f, "name:{name}"),
        }
    }
}

impl TryFrom<String> for CertificateMapping {
    type Error = MappingError;

    fn try_from(text: String) -> Result<Self, MappingError> {
        text.parse()
    }
}

impl From<CertificateMapping> for String {
    fn from(mapping: CertificateMapping) -> Self {
        mapping.to_string()
    }
}
