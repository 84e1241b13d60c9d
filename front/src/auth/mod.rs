//! Who sends a request: Basic authentication against the users' file, the connection's certificate, or a ticket
//! (`negotiate`).
//!
//! ```text
//! address waits? ─yes─▶ locked
//!   │no
//! proved lately? ─yes─▶ admitted
//!   │no
//! (one at a time) name waits? ─yes─▶ locked
//!   │no
//! argon2 ─right─▶ admitted, the name's failures forgotten
//!   └────wrong─▶ refused, counted for the name and for the address
//! ```
//!
//! A name that nobody has takes the same way, against a hash that nothing fits. Passwords are checked one at a time:
//! guesses sent side by side are all counted before the next is looked at, clients that log in side by side cost one
//! hash, and the memory is that of one.

mod basic;
mod lockout;
mod negotiate;
mod verified;

use crate::{
    origin::Origin,
    tls::ClientCertificate,
    users::{Memory, PasswordHash, UsersFile},
};
use basic::{Credentials, credentials};
use cim::Role;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use kerberos::Account;
use lockout::Lockout;
pub(crate) use negotiate::{Negotiated, Negotiation};
use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use verified::{Proof, Verified};

/// A user's slips before the first wait.
const USER_FAILURES_FREE: u32 = 5;
/// Many users can be behind one address.
const ADDRESS_FAILURES_FREE: u32 = 20;

/// The time, for waits and proofs: `Instant::now` outside of tests.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Who may log in, and who tried lately. One for all listeners.
pub struct Authenticator {
    users: UsersFile,
    clock: Clock,
    /// Where the keys for tickets are; `None`: they are not taken.
    tickets: Option<Account>,
    /// What the passwords of unknown users are compared with.
    nobody: PasswordHash,
    /// Held while a password is checked.
    turn: Arc<tokio::sync::Mutex<Memory>>,
    attempts: Mutex<Attempts>,
}

struct Attempts {
    users: Lockout<String>,
    addresses: Lockout<Origin>,
    verified: Verified,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admitted {
        user: String,
        role: Role,
    },
    /// Nobody whom we know, for whatever reason.
    Refused,
    Locked {
        wait: Duration,
    },
}

/// One attempt with a password.
struct Attempt {
    user: String,
    password: String,
    proof: Proof,
    origin: Origin,
}

impl Authenticator {
    pub fn new(users: UsersFile, clock: Clock) -> Arc<Self> {
        Self::with_tickets(users, clock, None)
    }

    /// Takes tickets, too, for the principals in the keytab of `tickets`.
    pub fn with_tickets(users: UsersFile, clock: Clock, tickets: Option<Account>) -> Arc<Self> {
        let attempts = Attempts {
            users: Lockout::new(USER_FAILURES_FREE),
            addresses: Lockout::new(ADDRESS_FAILURES_FREE),
            verified: Verified::new(),
        };
        let (nobody, turn) = (PasswordHash::nobody(), Arc::default());
        Arc::new(Self { users, clock, tickets, nobody, turn, attempts: Mutex::new(attempts) })
    }

    /// Whether it is of any use to ask a client for a certificate.
    pub(crate) fn wants_certificates(&self) -> bool {
        self.users.current().users.any_certificate()
    }

    pub(crate) async fn authenticate(
        self: &Arc<Self>,
        headers: &HeaderMap,
        address: IpAddr,
        certificate: Option<&ClientCertificate>,
    ) -> Verdict {
        match credentials(headers.get(AUTHORIZATION)) {
            Credentials::Basic { user, password } => self.password(user, password, address).await,
            Credentials::Certificate => self.certificate(certificate),
            Credentials::Unreadable => Verdict::Refused,
        }
    }

    fn certificate(&self, certificate: Option<&ClientCertificate>) -> Verdict {
        let users = self.users.current().users;
        match certificate.and_then(|certificate| users.by_certificate(certificate)) {
            Some((name, user)) => Verdict::Admitted { user: name.to_owned(), role: user.role },
            None => Verdict::Refused,
        }
    }

    async fn password(self: &Arc<Self>, user: String, password: String, address: IpAddr) -> Verdict {
        let origin = Origin::from(address);
        let proof = self.attempts().verified.proof(origin, &user, &password);
        let attempt = Attempt { user, password, proof, origin };
        if let Some(verdict) = self.without_hashing(&attempt) {
            return verdict;
        }
        let mut memory = self.turn.clone().lock_owned().await;
        let this = self.clone();
        // On a thread of its own, to its end even if the client goes away: what was tried is counted.
        let checked = tokio::task::spawn_blocking(move || {
            let verdict = this.by_hash(&attempt, &mut memory);
            drop(memory);
            if verdict == Verdict::Refused {
                let known = this.users.current().users.get(&attempt.user).is_some();
                // A name that nobody has may be a password in the wrong field.
                let user = if known { attempt.user.as_str() } else { "(unknown)" };
                tracing::warn!(?user, %address, "a password was refused");
            }
            verdict
        });
        checked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot check a password");
            Verdict::Refused
        })
    }

    /// What can be said at once.
    fn without_hashing(&self, attempt: &Attempt) -> Option<Verdict> {
        let current = self.users.current();
        let now = (self.clock)();
        let attempts = self.attempts();
        if let Some(wait) = attempts.addresses.wait(&attempt.origin, now) {
            return Some(Verdict::Locked { wait });
        }
        if !attempts.verified.contains(&attempt.proof, current.generation, now) {
            return None;
        }
        let user = current.users.get(&attempt.user)?;
        Some(Verdict::Admitted { user: attempt.user.clone(), role: user.role })
    }

    fn by_hash(&self, attempt: &Attempt, memory: &mut Memory) -> Verdict {
        // Others had their turn in the meantime.
        if let Some(verdict) = self.without_hashing(attempt) {
            return verdict;
        }
        if let Some(wait) = self.attempts().users.wait(&attempt.user, (self.clock)()) {
            return Verdict::Locked { wait };
        }
        let current = self.users.current();
        let user = current.users.get(&attempt.user);
        let hash = user.and_then(|user| user.password.as_ref());
        let right = hash.unwrap_or(&self.nobody).verify(&attempt.password, memory) && hash.is_some();

        let now = (self.clock)();
        let mut attempts = self.attempts();
        match user.filter(|_| right) {
            Some(user) => {
                attempts.users.clear(&attempt.user);
                attempts.verified.insert(attempt.proof, current.generation, now);
                Verdict::Admitted { user: attempt.user.clone(), role: user.role }
            }
            None => {
                attempts.users.fail(&attempt.user, now);
                attempts.addresses.fail(&attempt.origin, now);
                Verdict::Refused
            }
        }
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().expect("no code panics under this lock")
    }
}

/// What a 401 offers, each scheme in a header of its own: clients read no lists.
pub(crate) fn challenges(realm: &'static str, with_tickets: bool) -> Vec<HeaderValue> {
    let basic = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
    let negotiate = with_tickets.then(|| HeaderValue::from_static(kerberos::negotiate::SCHEME));
    let basic = HeaderValue::try_from(basic).expect("realms are plain words of ours");
    negotiate.into_iter().chain([basic]).collect()
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("users", &self.users).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
