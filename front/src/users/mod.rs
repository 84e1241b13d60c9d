//! Who may log in, and as what: `users.toml`, mode 0600.
//!
//! ```toml
//! [users.anna]
//! role = "administrator"
//! password = "$argon2id$v=19$m=19456,t=2,p=1$…"
//! certificates = ["sha256:…", "name:anna@example"]
//! principals = ["anna@EXAMPLE.ORG"]
//! ```
//!
//! There is no default user: without the file, or with an empty one, nobody may. A user without a password logs
//! in by certificate or by ticket only.

mod file;
mod mapping;
mod password;

pub use file::{UsersFile, edit, load};
pub use mapping::{CertificateMapping, MappingError};
pub(crate) use password::Memory;
pub use password::{PASSWORD_BYTES_MAX, PASSWORD_CHARACTERS_MIN, PasswordError, PasswordHash};

use crate::tls::ClientCertificate;
use cim::Role;
use kerberos::Principal;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, path::PathBuf};

/// Longest name of a user. Windows allows 20 characters for the name and 255 for the domain before it.
pub const NAME_BYTES_MAX: usize = 288;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    #[serde(default)]
    users: BTreeMap<String, User>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    #[serde(with = "RoleName")]
    pub role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordHash>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateMapping>,
    /// Of Kerberos, with their realms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Role", rename_all = "lowercase")]
enum RoleName {
    Reader,
    Operator,
    Administrator,
}

#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("cannot access {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} can be read by others (mode {mode:03o}); make it 600")]
    ReadableByOthers { path: PathBuf, mode: u32 },
    /// What the TOML parser shows of the file stays out: it may be a password's hash.
    #[error("{path}, line {line}: {problem}")]
    Damaged { path: PathBuf, line: usize, problem: String },
    #[error("{path}: {problem}")]
    Contradictory { path: PathBuf, problem: Box<UsersError> },
    #[error("there is a user {name} already")]
    Exists { name: String },
    #[error("there is no user {name}")]
    Unknown { name: String },
    #[error(
        "a user's name has 1 to {NAME_BYTES_MAX} bytes, no colon and no control character, unlike {name:?}"
    )]
    Name { name: String },
    #[error("{mapping} belongs to {user} already")]
    Mapped { mapping: CertificateMapping, user: String },
    #[error("{user} has no {mapping}")]
    NotMapped { mapping: CertificateMapping, user: String },
    #[error("{principal:?} is not a principal with its realm, such as anna@EXAMPLE.ORG")]
    Principal { principal: String },
    #[error("{principal} belongs to {user} already")]
    PrincipalMapped { principal: String, user: String },
    #[error("{user} has no {principal}")]
    PrincipalNotMapped { principal: String, user: String },
    #[error(transparent)]
    Password(#[from] PasswordError),
}

impl Users {
    /// By name, in the names' order.
    pub fn list(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user))
    }

    pub fn get(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// A user without a password or a certificate until the caller gives one.
    pub fn add(&mut self, name: &str, role: Role) -> Result<(), UsersError> {
        check_name(name)?;
        if self.users.contains_key(name) {
            return Err(UsersError::Exists { name: name.to_owned() });
        }
        self.users
            .insert(name.to_owned(), User { role, password: None, certificates: vec![], principals: vec![] });
        Ok(())
    }

    pub fn set_role(&mut self, name: &str, role: Role) -> Result<(), UsersError> {
        self.user(name)?.role = role;
        Ok(())
    }

    /// `None` takes the password away: only certificates are left.
    pub fn set_password(&mut self, name: &str, password: Option<PasswordHash>) -> Result<(), UsersError> {
        self.user(name)?.password = password;
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), UsersError> {
        self.users.remove(name).map(drop).ok_or_else(|| UsersError::Unknown { name: name.to_owned() })
    }

    /// Lets the certificate log in as `name`. One that belongs to another user already is refused.
    pub fn map(&mut self, name: &str, mapping: CertificateMapping) -> Result<(), UsersError> {
        if let Some(owner) = self.owner(&mapping) {
            return Err(UsersError::Mapped { user: owner.to_owned(), mapping });
        }
        self.user(name)?.certificates.push(mapping);
        Ok(())
    }

    pub fn unmap(&mut self, name: &str, mapping: &CertificateMapping) -> Result<(), UsersError> {
        let certificates = &mut self.user(name)?.certificates;
        let before = certificates.len();
        certificates.retain(|other| other != mapping);
        if certificates.len() == before {
            return Err(UsersError::NotMapped { user: name.to_owned(), mapping: mapping.clone() });
        }
        Ok(())
    }

    /// Lets who has tickets of this principal log in as `name`. One that belongs to another user already is refused.
    pub fn map_principal(&mut self, name: &str, principal: &str) -> Result<(), UsersError> {
        check_principal(principal)?;
        let principal = principal.to_owned();
        if let Some((owner, _)) = self.by_principal(&Principal(principal.clone())) {
            return Err(UsersError::PrincipalMapped { user: owner.to_owned(), principal });
        }
        self.user(name)?.principals.push(principal);
        Ok(())
    }

    pub fn unmap_principal(&mut self, name: &str, principal: &str) -> Result<(), UsersError> {
        let principals = &mut self.user(name)?.principals;
        let before = principals.len();
        principals.retain(|other| other != principal);
        if principals.len() == before {
            let (user, principal) = (name.to_owned(), principal.to_owned());
            return Err(UsersError::PrincipalNotMapped { user, principal });
        }
        Ok(())
    }

    /// Whom a principal stands for; case counts.
    pub(crate) fn by_principal(&self, principal: &Principal) -> Option<(&str, &User)> {
        self.list().find(|(_, user)| user.principals.contains(&principal.0))
    }

    /// Whether it is of any use to ask a client for a certificate.
    pub fn any_certificate(&self) -> bool {
        self.users.values().any(|user| !user.certificates.is_empty())
    }

    /// Whom a certificate stands for: the one who has its thumbprint, else the one who has one of its names. Names
    /// of several users are nobody's.
    pub(crate) fn by_certificate(&self, certificate: &ClientCertificate) -> Option<(&str, &User)> {
        let thumbprints = [
            CertificateMapping::Sha256(certificate.sha256.clone()),
            CertificateMapping::Sha1(certificate.sha1.clone()),
        ];
        let by_thumbprint = thumbprints.iter().find_map(|mapping| self.owner(mapping));
        let owner = by_thumbprint.or_else(|| {
            let mut owners = certificate
                .names
                .iter()
                .filter_map(|name| self.owner(&CertificateMapping::Name(name.to_lowercase())));
            let first = owners.next()?;
            owners.all(|other| other == first).then_some(first)
        })?;
        self.users.get_key_value(owner).map(|(name, user)| (name.as_str(), user))
    }

    fn owner(&self, mapping: &CertificateMapping) -> Option<&str> {
        self.list().find(|(_, user)| user.certificates.contains(mapping)).map(|(name, _)| name)
    }

    fn user(&mut self, name: &str) -> Result<&mut User, UsersError> {
        self.users.get_mut(name).ok_or_else(|| UsersError::Unknown { name: name.to_owned() })
    }

    /// What a file written by hand may get wrong although it is TOML.
    fn check(&self) -> Result<(), UsersError> {
        let mut seen = BTreeMap::new();
        let mut seen_principals = BTreeMap::new();
        for (name, user) in self.list() {
            check_name(name)?;
            for mapping in &user.certificates {
                if let Some(owner) = seen.insert(mapping, name) {
                    return Err(UsersError::Mapped { mapping: mapping.clone(), user: owner.to_owned() });
                }
            }
            for principal in &user.principals {
                check_principal(principal)?;
                if let Some(owner) = seen_principals.insert(principal, name) {
                    let (principal, user) = (principal.clone(), owner.to_owned());
                    return Err(UsersError::PrincipalMapped { principal, user });
                }
            }
        }
        Ok(())
    }
}

/// Without its realm a principal would be somebody else's in another one.
fn check_principal(principal: &str) -> Result<(), UsersError> {
    let parts = principal.rsplit_once('@').filter(|(name, realm)| !name.is_empty() && !realm.is_empty());
    if parts.is_none() || principal.chars().any(|character| character.is_control() || character == ' ') {
        return Err(UsersError::Principal { principal: principal.to_owned() });
    }
    Ok(())
}

/// A colon would end the name in Basic authentication (RFC 7617, section 2).
fn check_name(name: &str) -> Result<(), UsersError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    if !fits || name.chars().any(|character| character == ':' || character.is_control()) {
        return Err(UsersError::Name { name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
