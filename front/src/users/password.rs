//! Passwords, kept as argon2id hashes (RFC 9106) in PHC strings.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::{self, PasswordHasher, phc},
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// NIST SP 800-63B, 5.1.1.1.
pub const PASSWORD_CHARACTERS_MIN: usize = 8;
/// More than any password; bounds what a stranger can make us hash.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// What a new hash looks like. That some password has this one is as likely as to guess one that is random.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGtub3dzIGl0IQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// `$argon2id$v=19$m=…,t=…,p=…$salt$hash`. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash(String);

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("a password has at least {PASSWORD_CHARACTERS_MIN} characters")]
    TooShort,
    #[error("a password has at most {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    #[error("a password has no control characters")]
    ControlCharacter,
    #[error("not an argon2id hash")]
    NotAHash,
    #[error("cannot hash a password")]
    Hash(#[source] password_hash::Error),
}

/// What a check works in: as much as the hash asks for, 19 MiB for ours. To be kept, because each thread's heap would
/// keep as much if it were given back.
#[derive(Default)]
pub(crate) struct Memory(Vec<Block>);

impl PasswordHash {
    /// Takes tens of milliseconds and 19 MiB.
    pub fn new(password: &str) -> Result<Self, PasswordError> {
        if password.chars().count() < PASSWORD_CHARACTERS_MIN {
            return Err(PasswordError::TooShort);
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        // Basic authentication cannot carry them (RFC 7617, section 2).
        if password.chars().any(char::is_control) {
            return Err(PasswordError::ControlCharacter);
        }
        let hash = Argon2::default().hash_password(password.as_bytes()).map_err(PasswordError::Hash)?;
        Ok(Self(hash.to_string()))
    }

    /// A hash that no password has, and that costs as much as any.
    pub(crate) fn nobody() -> Self {
        Self(NOBODY.to_owned())
    }

    /// As long as [`PasswordHash::new`], whatever the answer.
    pub(crate) fn verify(&self, password: &str, memory: &mut Memory) -> bool {
        let Some(Parts { params, version, salt, hash }) = parse(&self.0) else { return false };
        memory.0.resize(params.block_count(), Block::default());
        let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
        let mut found = vec![0; hash.len()];
        argon2
            .hash_password_into_with_memory(password.as_bytes(), salt.as_ref(), &mut found, &mut memory.0)
            .is_ok_and(|()| verify_slices_are_equal(&found, hash.as_ref()).is_ok())
    }
}

struct Parts {
    params: Params,
    version: Version,
    salt: phc::Salt,
    hash: phc::Output,
}

fn parse(text: &str) -> Option<Parts> {
    let read = phc::PasswordHash::new(text).ok().filter(|read| read.algorithm == argon2::ARGON2ID_IDENT)?;
    let params = Params::try_from(&read).ok()?;
    let version = read.version.map_or(Some(Version::default()), |version| version.try_into().ok())?;
    Some(Parts { params, version, salt: read.salt?, hash: read.hash? })
}

impl TryFrom<String> for PasswordHash {
    type Error = PasswordError;

    fn try_from(text: String) -> Result<Self, PasswordError> {
        if parse(&text).is_some() { Ok(Self(text)) } else { Err(PasswordError::NotAHash) }
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> Self {
        hash.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_fits_its_password_only_and_in_any_memory() {
        let mut memory = Memory::default();
        let hash = PasswordHash::new("correct horse").unwrap();
        // Made by the reference implementation: echo -n password | argon2 somesalt -id -t 2 -k 256 -p 1
        let other: PasswordHash =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
                .to_owned()
                .try_into()
                .unwrap();
        for _ in 0..2 {
            assert!(hash.verify("correct horse", &mut memory));
            assert!(other.verify("password", &mut memory));
            assert!(!hash.verify("correct house", &mut memory));
            assert!(!other.verify("Password", &mut memory));
        }
    }

    #[test]
    fn nobody_costs_as_much_as_anybody() {
        let new = PasswordHash::new("correct horse").unwrap();
        let [new, nobody] = [&new, &PasswordHash::nobody()].map(|hash| parse(&hash.0).unwrap());
        assert_eq!((new.params, new.hash.len()), (nobody.params, nobody.hash.len()));
        assert_eq!(new.salt.len(), nobody.salt.len());
    }

    #[test]
    fn passwords_that_no_client_could_send_are_refused() {
        assert!(matches!(PasswordHash::new("short"), Err(PasswordError::TooShort)));
        assert!(matches!(PasswordHash::new(&"x".repeat(1025)), Err(PasswordError::TooLong)));
        assert!(matches!(PasswordHash::new("line\nbreaks"), Err(PasswordError::ControlCharacter)));
        assert_eq!(format!("{:?}", PasswordHash::nobody()), "PasswordHash(..)");
    }
}
