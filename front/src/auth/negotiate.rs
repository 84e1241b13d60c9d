//! Tickets (RFC 4559, MS-WSMV 2.2.1): clients exchange tokens once, and the connection is theirs from then on.
//!
//! Over TLS only. On plain connections clients of WS-Management seal each message besides (MS-WSMV 2.2.9.1), which is
//! not done here. TLS's channel is not bound into the tokens: clients that bind it are taken as those that do not.

use super::{Authenticator, Verdict};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use kerberos::{Acceptor, KerberosError, Principal, negotiate};
use std::{
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

/// How far one connection is.
#[derive(Debug, Default)]
pub(crate) struct Negotiation(Mutex<Stage>);

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Strange,
    /// It owes another token.
    Begun(Acceptor),
    Known {
        principal: Principal,
        until: Instant,
    },
}

/// What a request is by its ticket.
pub(crate) struct Negotiated {
    pub verdict: Verdict,
    /// `WWW-Authenticate` of the answer: proves to the client who we are, or asks for its next token.
    pub answer: Option<HeaderValue>,
}

impl Negotiation {
    fn set(&self, stage: Stage) -> Stage {
        std::mem::replace(&mut self.0.lock().expect("no code panics under this lock"), stage)
    }
}

impl Authenticator {
    /// Whether a 401 is to offer it.
    pub(crate) fn takes_tickets(&self) -> bool {
        self.tickets.is_some()
    }

    /// `None`: neither this request nor an earlier one of the connection came with a ticket.
    pub(crate) async fn negotiate(
        &self,
        negotiation: &Negotiation,
        headers: &HeaderMap,
        address: IpAddr,
    ) -> Option<Negotiated> {
        let account = self.tickets.as_ref()?;
        let Some(value) = headers.get(AUTHORIZATION) else { return self.of_earlier(negotiation) };
        let token = negotiate::read(value.as_bytes())?;
        let begun = match negotiation.set(Stage::Strange) {
            Stage::Begun(acceptor) => Some(acceptor),
            _ => None,
        };
        let account = account.clone();
        let stepped = tokio::task::spawn_blocking(move || step(begun, &account, &token)).await;
        let refused = |answer| Some(Negotiated { verdict: Verdict::Refused, answer });
        match stepped {
            Ok(Ok((Stepped::Known(principal, good_for), answer))) => {
                let verdict = self.verdict(&principal);
                if verdict == Verdict::Refused {
                    tracing::warn!(%principal, %address, "a ticket was refused: this principal is nobody's");
                    return refused(None);
                }
                negotiation.set(Stage::Known { principal, until: (self.clock)() + good_for });
                Some(Negotiated { verdict, answer })
            }
            Ok(Ok((Stepped::More(acceptor), answer))) => {
                negotiation.set(Stage::Begun(acceptor));
                refused(answer)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, %address, "a ticket was refused");
                refused(None)
            }
            Err(error) => {
                tracing::error!(%error, "cannot check a ticket");
                refused(None)
            }
        }
    }

    /// The user is looked up each time: one that was removed is out at once.
    fn of_earlier(&self, negotiation: &Negotiation) -> Option<Negotiated> {
        let stage = negotiation.0.lock().expect("no code panics under this lock");
        let Stage::Known { principal, until } = &*stage else { return None };
        let verdict = if (self.clock)() < *until { self.verdict(principal) } else { Verdict::Refused };
        Some(Negotiated { verdict, answer: None })
    }

    fn verdict(&self, principal: &Principal) -> Verdict {
        match self.users.current().users.by_principal(principal) {
            Some((name, user)) => Verdict::Admitted { user: name.to_owned(), role: user.role },
            None => Verdict::Refused,
        }
    }
}

enum Stepped {
    More(Acceptor),
    Known(Principal, Duration),
}

/// One token. Keys are read from the keytab at the first one.
fn step(
    begun: Option<Acceptor>,
    account: &kerberos::Account,
    token: &[u8],
) -> Result<(Stepped, Option<HeaderValue>), KerberosError> {
    let mut acceptor = begun.map_or_else(|| Acceptor::new(account), Ok)?;
    let answer = acceptor.step(token)?;
    let answer = answer.map(|token| HeaderValue::try_from(negotiate::write(&token)).expect("base64"));
    if !acceptor.is_complete() {
        return Ok((Stepped::More(acceptor), answer));
    }
    let (principal, good_for) = acceptor.caller()?;
    Ok((Stepped::Known(principal, good_for), answer))
}
