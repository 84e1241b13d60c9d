//! How two hosts prove to each other who they are.

use serde::{Deserialize, Serialize};

/// `AuthenticationType`, of a relationship.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authentication {
    /// TLS with certificates on both sides.
    #[default]
    Certificate,
    /// Tickets of one realm, or of realms that trust each other; HTTP with every byte sealed.
    Kerberos,
}
