//! What goes wrong with Kerberos, told apart by what an operator does about it.
//!
//! GSS-API's own codes do not tell enough, and the mechanism's codes are numbered anew on their way through SPNEGO: what
//! is left are the words of MIT's libraries. They are English unless a program chooses a language, which ours does not.

use crate::Account;
use libgssapi::error::Error;
use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum KerberosError {
    #[error("cannot read the keytab {path}")]
    Keytab { path: PathBuf, source: io::Error },
    #[error("cannot replace the tickets in {path}")]
    Tickets { path: PathBuf, source: io::Error },
    #[error("the keytab {keytab} has no key of {principal}")]
    NotInKeytab { keytab: PathBuf, principal: String },
    #[error("the KDC does not know this host's principal {principal}")]
    UnknownHere { principal: String },
    #[error("the KDC has another key of {principal} than the keytab {keytab}")]
    OldKey { keytab: PathBuf, principal: String },
    #[error("no KDC answers: {words}")]
    KdcUnreachable { words: String },
    #[error("the KDC does not know {principal}")]
    UnknownPeer { principal: String },
    #[error("the clocks differ by more than Kerberos allows")]
    ClockSkew,
    #[error("the ticket is for a principal or a key that is not in the keytab {keytab}: {words}")]
    OtherService { keytab: PathBuf, words: String },
    #[error("no valid ticket: {words}")]
    NoTicket { words: String },
    /// What both sides must agree on, or the connection is not used.
    #[error("the other side did not agree to {lacking}")]
    Lacking { lacking: &'static str },
    #[error("Kerberos failed: {words}")]
    Other { words: String },
}

impl KerberosError {
    /// What an operator does about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Keytab { .. } | Self::Tickets { .. } => "see that the file is there and belongs to root",
            Self::NotInKeytab { .. } => "export the key with `ktadd`, or correct the principal",
            Self::UnknownHere { .. } => "make the principal with `addprinc -randkey`, or correct it",
            Self::OldKey { .. } => "export the key anew with `ktadd`",
            Self::KdcUnreachable { .. } => "see that the KDC runs and that /etc/krb5.conf names it",
            Self::UnknownPeer { .. } => {
                "make the peer's principal with `addprinc -randkey`, or set `principal` under [peers]"
            }
            Self::ClockSkew => "set the clocks of both hosts and of the KDC by one source",
            Self::OtherService { .. } => "export that host's key anew with `ktadd` on it",
            Self::NoTicket { .. } => "see that the principal is not expired or locked in the KDC",
            Self::Lacking { .. } | Self::Other { .. } => "see that both hosts run Relevo, and the KDC's log",
        }
    }

    /// What a caller may know of why its ticket is not accepted: no paths.
    pub fn for_caller(&self) -> String {
        match self {
            Self::ClockSkew => self.to_string(),
            Self::OtherService { .. } => {
                "the ticket is for a principal or a key that this host does not have".to_owned()
            }
            Self::NoTicket { .. } => "the ticket has expired".to_owned(),
            _ => "the ticket is not accepted".to_owned(),
        }
    }

    /// Why there are no tickets to call with.
    pub(crate) fn of_own_ticket(account: &Account, error: &Error) -> Self {
        let words = words(error);
        let principal = account.principal.clone().unwrap_or_default();
        let keytab = account.keytab.clone();
        let has = |part: &str| words.contains(part);
        if has("not found in Kerberos database") {
            Self::UnknownHere { principal }
        } else if has("Preauthentication failed") || has("Decrypt integrity check failed") {
            Self::OldKey { keytab, principal }
        } else if has("No credentials cache found") || has("No key table entry found") {
            // What the library says of a keytab without the principal's key: then only a cache could help.
            Self::NotInKeytab { keytab, principal }
        } else {
            Self::of_kdc(words)
        }
    }

    /// Why there is no ticket for a peer.
    pub(crate) fn of_peers_ticket(principal: &str, error: &Error) -> Self {
        let words = words(error);
        if words.contains("not found in Kerberos database") {
            return Self::UnknownPeer { principal: principal.to_owned() };
        }
        Self::of_kdc(words)
    }

    fn of_kdc(words: String) -> Self {
        let has = |part: &str| words.contains(part);
        if has("Cannot contact any KDC") || has("Cannot find KDC") || has("Cannot resolve") {
            Self::KdcUnreachable { words }
        } else if has("Clock skew too great") {
            Self::ClockSkew
        } else if has("expired") || has("revoked") || has("No Kerberos credentials") {
            Self::NoTicket { words }
        } else {
            Self::Other { words }
        }
    }

    /// Why there are no keys to be called with.
    pub(crate) fn of_own_keys(account: &Account, error: &Error) -> Self {
        let words = words(error);
        let missing = words.contains("No key table entry found") || words.contains("No principal in keytab");
        match &account.principal {
            Some(principal) if missing => {
                Self::NotInKeytab { keytab: account.keytab.clone(), principal: principal.clone() }
            }
            _ => Self::Other { words },
        }
    }

    /// Why a caller's ticket is not accepted.
    pub(crate) fn of_callers_ticket(account: &Account, error: &Error) -> Self {
        let words = words(error);
        let has = |part: &str| words.contains(part);
        if has("Clock skew too great") || has("not yet valid") {
            Self::ClockSkew
        } else if has("keytab") || has("request ticket server") || has("Wrong principal") {
            Self::OtherService { keytab: account.keytab.clone(), words }
        } else if has("expired") {
            Self::NoTicket { words }
        } else {
            Self::Other { words }
        }
    }
}

/// What both layers say, in one line.
pub(crate) fn words(error: &Error) -> String {
    let text = error.to_string().replace('\0', "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
