//! Who we are to peers, and who they are to us.

use model::HostName;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// What a host shows (its chain and key) and whom it believes (the authorities).
#[derive(Debug)]
pub struct TlsIdentity {
    /// The host's certificate first. Empty: a client that shows none.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Option<PrivateKeyDer<'static>>,
    pub authorities: Vec<CertificateDer<'static>>,
}

/// The other end of an accepted connection, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The DNS names of the certificate, wildcards left out.
    pub names: Vec<HostName>,
    /// SHA-256 of the certificate, 64 hexadecimal digits.
    pub thumbprint: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the host's certificate and key cannot be used")]
    Identity(#[source] rustls::Error),
}

/// The identity in use, replaceable at run time.
#[derive(Debug)]
pub struct Tls {}

impl Tls {
    pub fn new(identity: TlsIdentity) -> Result<Arc<Self>, TlsError> {
        let _ = identity;
        unimplemented!()
    }

    /// Connections made from now on use `identity`; those that exist go on with theirs.
    pub fn reload(&self, identity: TlsIdentity) -> Result<(), TlsError> {
        let _ = identity;
        unimplemented!()
    }
}
