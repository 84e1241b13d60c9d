//! Who this host is in its realm, and which principal is which host.

use crate::tls::{Credential, Peer};
use kerberos::{Account, Initiator, KerberosError, Principal};
use model::HostName;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// MIT's libraries ask each KDC three times, for up to eight seconds.
const TICKET_TIME_MAX: Duration = Duration::from_secs(30);

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct KerberosOptions {
    /// `SERVICE/HOST`, with or without `@REALM`.
    pub principal: String,
    pub keytab: PathBuf,
    /// For tickets; ours alone.
    pub folder: PathBuf,
    /// Whose principals are hosts; empty: those of our own realm.
    pub realms: Vec<String>,
    /// Principals of hosts that are not our service's at that host in our realm.
    pub peers: BTreeMap<HostName, String>,
}

/// This host's principal, and the principals of others.
#[derive(Debug)]
pub struct Kerberos {
    pub(crate) account: Account,
    service: String,
    realm: String,
    realms: Vec<String>,
    peers: BTreeMap<HostName, Principal>,
}

#[derive(Debug, thiserror::Error)]
pub enum RealmError {
    #[error(transparent)]
    Kerberos(#[from] KerberosError),
    #[error("{principal} is not a host's principal: expected SERVICE/HOST or SERVICE/HOST@REALM")]
    NotAHost { principal: String },
}

impl RealmError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Kerberos(error) => error.hint(),
            Self::NotAHost { .. } => "correct the principal in the configuration",
        }
    }
}

impl Kerberos {
    /// Checks the principal and its key. Tickets of an earlier run are thrown away.
    pub fn new(options: KerberosOptions) -> Result<Arc<Self>, RealmError> {
        let KerberosOptions { principal, keytab, folder, mut realms, peers } = options;
        let account = Account { principal: Some(principal.clone()), keytab, folder };
        let own = account.check()?.expect("one was given");
        let Some((service, _, realm)) = own.service() else {
            return Err(RealmError::NotAHost { principal });
        };
        let (service, realm) = (service.to_owned(), realm.to_owned());
        if realms.is_empty() {
            realms.push(realm.clone());
        }
        let mut whole = BTreeMap::new();
        for (host, principal) in peers {
            let text =
                if principal.contains('@') { principal.clone() } else { format!("{principal}@{realm}") };
            let text = Principal(text);
            if text.service().is_none() {
                return Err(RealmError::NotAHost { principal });
            }
            whole.insert(host, text);
        }
        account.forget_tickets()?;
        Ok(Arc::new(Self { account, service, realm, realms, peers: whole }))
    }

    /// The principal that is to answer when `host` is called.
    pub(crate) fn principal_of(&self, host: &HostName) -> Principal {
        let usual = || Principal(format!("{}/{host}@{}", self.service, self.realm));
        self.peers.get(host).cloned().unwrap_or_else(usual)
    }

    /// The host whose principal calls. `None`: nobody's. A host whose principal is configured has no other.
    pub(crate) fn host_of(&self, principal: &Principal) -> Option<HostName> {
        let configured = self.peers.iter().find(|(_, theirs)| *theirs == principal);
        if let Some((host, _)) = configured {
            return Some(host.clone());
        }
        let (service, host, realm) = principal.service()?;
        if service != self.service || !self.realms.iter().any(|ours| ours == realm) {
            return None;
        }
        host.parse().ok().filter(|host| !self.peers.contains_key(host))
    }

    /// As [`Self::host_of`], for a handler.
    pub(crate) fn peer(&self, principal: Principal) -> Option<Peer> {
        let host = self.host_of(&principal)?;
        Some(Peer { names: vec![host], credential: Credential::Principal(principal.0) })
    }

    /// A ticket for `host`, and the first token made of it.
    pub(crate) async fn ticket(&self, host: &HostName) -> Result<(Initiator, Vec<u8>), KerberosError> {
        let (account, target) = (self.account.clone(), self.principal_of(host));
        let asked = tokio::task::spawn_blocking(move || Initiator::begin(&account, &target.0));
        match tokio::time::timeout(TICKET_TIME_MAX, asked).await {
            Ok(Ok(ticket)) => ticket,
            Ok(Err(_)) => {
                Err(KerberosError::Other { words: "the thread that asked the KDC stopped".to_owned() })
            }
            Err(_) => Err(KerberosError::KdcUnreachable {
                words: format!("no answer within {} s", TICKET_TIME_MAX.as_secs()),
            }),
        }
    }

    /// A peer refused our ticket: its key may be another one by now.
    pub(crate) fn forget_tickets(&self) {
        if let Err(error) = self.account.forget_tickets() {
            tracing::warn!(%error, "old tickets stay");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kerberos(realms: &[&str], peers: &[(&str, &str)]) -> Kerberos {
        Kerberos {
            account: Account { principal: None, keytab: PathBuf::new(), folder: PathBuf::new() },
            service: "relevo".to_owned(),
            realm: "X.ORG".to_owned(),
            realms: realms.iter().map(|realm| (*realm).to_owned()).collect(),
            peers: peers
                .iter()
                .map(|(host, principal)| (host.parse().unwrap(), Principal((*principal).to_owned())))
                .collect(),
        }
    }

    #[test]
    fn a_principal_is_the_host_that_it_names_and_no_other() {
        let ours = kerberos(&["X.ORG", "Y.ORG"], &[("c.example", "hvr/cc.example@Z.ORG")]);
        let host =
            |principal: &str| ours.host_of(&Principal(principal.to_owned())).map(|host| host.to_string());
        assert_eq!(host("relevo/a.example@X.ORG").as_deref(), Some("a.example"));
        assert_eq!(host("relevo/a.example@Y.ORG").as_deref(), Some("a.example"));
        assert_eq!(host("hvr/cc.example@Z.ORG").as_deref(), Some("c.example"));
        let strangers = [
            "relevo/a.example@Z.ORG",
            "HTTP/a.example@X.ORG",
            "relevo/c.example@X.ORG",
            "alice@X.ORG",
            "relevo/10.0.0.1@X.ORG",
            "relevo/*.example@X.ORG",
        ];
        for stranger in strangers {
            assert_eq!(host(stranger), None, "{stranger}");
        }
        assert_eq!(ours.principal_of(&"a.example".parse().unwrap()).0, "relevo/a.example@X.ORG");
        assert_eq!(ours.principal_of(&"c.example".parse().unwrap()).0, "hvr/cc.example@Z.ORG");
    }
}
