//! Principals: `service/host@REALM` of hosts, `user@REALM` of people.

use crate::{KerberosError, error::words};
use libgssapi::{
    error::Error,
    name::Name,
    oid::{GSS_MECH_KRB5, GSS_NT_KRB5_PRINCIPAL},
};
use std::fmt;

/// A principal as Kerberos writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(pub String);

impl Principal {
    /// Service, host and realm of a service's principal. `None` for any other one, such as a user's, and for one with
    /// quoted characters, which no host's has.
    pub fn service(&self) -> Option<(&str, &str, &str)> {
        if self.0.contains('\\') {
            return None;
        }
        let (name, realm) = self.0.split_once('@')?;
        let (service, host) = name.split_once('/')?;
        let plain = |part: &str| !part.is_empty() && !part.contains(['/', '@']);
        (plain(service) && plain(host) && plain(realm)).then_some((service, host, realm))
    }
}

/// `relevo/a.example` with its realm.
pub(crate) fn whole(text: &str) -> Result<Principal, KerberosError> {
    let name = Name::new(text.as_bytes(), Some(GSS_NT_KRB5_PRINCIPAL));
    of_name(name.and_then(|name| name.canonicalize(Some(GSS_MECH_KRB5))))
}

pub(crate) fn of_name(name: Result<Name, Error>) -> Result<Principal, KerberosError> {
    let text = name.and_then(|name| name.display_name());
    let text = text.map_err(|error| KerberosError::Other { words: words(&error) })?;
    let text = String::from_utf8(text.to_vec());
    text.map(Principal).map_err(|_| KerberosError::Other { words: "a principal is not UTF-8".to_owned() })
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_services_principal_has_a_host() {
        let of = |text: &str| {
            let principal = Principal(text.to_owned());
            principal.service().map(|(service, host, realm)| format!("{service} {host} {realm}"))
        };
        assert_eq!(of("relevo/a.example@EXAMPLE.ORG").as_deref(), Some("relevo a.example EXAMPLE.ORG"));
        let others = ["alice@X", "relevo/a.example", "relevo/a/b@X", "/a@X", "r/@X", "r/a@", "r/a@X@Y"];
        for other in others.into_iter().chain([r"r/a\@b@X", r"r\/x/a@X"]) {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
