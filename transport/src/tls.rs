//! Who we are to peers, and who they are to us: TLS 1.3, certificates on both sides.

use ::aws_lc_rs::digest;
use model::HostName;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::{Arc, RwLock};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a host shows (its chain and key) and whom it believes (the authorities).
#[derive(Debug)]
pub struct TlsIdentity {
    /// The host's certificate first. Empty: a client that shows none, which every Relevo host refuses.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Option<PrivateKeyDer<'static>>,
    pub authorities: Vec<CertificateDer<'static>>,
}

/// The other end of an accepted connection, as its certificate or its ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The DNS names of the certificate; names with a wildcard in them are nobody's identity and left out. Or the host
    /// in the principal.
    pub names: Vec<HostName>,
    pub credential: Credential,
}

/// What a peer showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Certificate {
        /// SHA-256, 64 hexadecimal digits.
        thumbprint: String,
    },
    /// `relevo/a.example@REALM`
    Principal(String),
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("there is no certificate authority to believe")]
    NoAuthority,
    #[error("the certificate authority cannot be used")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the host's certificate and key cannot be used")]
    Identity(#[source] rustls::Error),
}

/// The identity in use, replaceable at run time.
#[derive(Debug)]
pub struct Tls {
    configs: RwLock<Configs>,
}

/// One identity as both ends use it.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    pub client: Arc<ClientConfig>,
    /// `None` without a certificate of our own.
    pub server: Option<Arc<ServerConfig>>,
    /// Counts reloads, so that a pooled connection of an old identity is told apart.
    pub generation: u64,
}

impl Tls {
    pub fn new(identity: TlsIdentity) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { configs: RwLock::new(configs(identity, 0)?) }))
    }

    /// Connections made from now on use `identity`; those that exist go on with theirs until they close. On
    /// an error the old identity stays.
    pub fn reload(&self, identity: TlsIdentity) -> Result<(), TlsError> {
        let generation = self.current().generation + 1;
        let configs = configs(identity, generation)?;
        *self.configs.write().expect("no code panics under this lock") = configs;
        Ok(())
    }

    pub(crate) fn current(&self) -> Configs {
        self.configs.read().expect("no code panics under this lock").clone()
    }
}

fn configs(identity: TlsIdentity, generation: u64) -> Result<Configs, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in identity.authorities {
        roots.add(authority).map_err(|source| TlsError::Authority(source.into()))?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoAuthority);
    }
    let roots = Arc::new(roots);
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let authority = |source| TlsError::Authority(Box::new(source));

    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(authority)?;
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Identity)?
        .with_webpki_verifier(verifier);
    let Some(key) = identity.key.filter(|_| !identity.chain.is_empty()) else {
        return Ok(Configs { client: Arc::new(client.with_no_client_auth()), server: None, generation });
    };
    let mut client =
        client.with_client_auth_cert(identity.chain.clone(), key.clone_key()).map_err(TlsError::Identity)?;
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would go on with a certificate that was replaced or has expired.
    client.resumption = rustls::client::Resumption::disabled();

    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().map_err(authority)?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Identity)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, key)
        .map_err(TlsError::Identity)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.send_tls13_tickets = 0;
    Ok(Configs { client: Arc::new(client), server: Some(Arc::new(server)), generation })
}

/// Reads a verified certificate. One that cannot be read has no names.
pub(crate) fn peer(certificate: &CertificateDer<'_>) -> Peer {
    let thumbprint = thumbprint(&digest::SHA256, certificate);
    let names = X509Certificate::from_der(certificate).map_or(Vec::new(), |(_, certificate)| {
        dns_names(&certificate).iter().filter_map(|name| name.parse().ok()).collect()
    });
    Peer { names, credential: Credential::Certificate { thumbprint } }
}

/// The digest of a certificate in hexadecimal digits.
pub(crate) fn thumbprint(algorithm: &'static digest::Algorithm, certificate: &[u8]) -> String {
    digest::digest(algorithm, certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The DNS names among the subject's alternative names, as written.
pub(crate) fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}
