//! Our certificate to clients, and theirs to us: TLS 1.2 and 1.3.
//!
//! A client may show a certificate if some user could log in with one. Any is taken whose key the client holds:
//! a thumbprint is trust enough, and a client that shows an unsuitable one without being asked to mean it is better
//! told by a 401 than by a broken handshake. What the certificate is worth is decided after the handshake.

use aws_lc_rs::digest;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::{TLS12, TLS13},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, UnixTime,
    pem::{self, PemObject},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};
use x509_parser::{
    asn1_rs::Any,
    oid_registry::{Oid, asn1_rs::oid},
    prelude::{FromDer, GeneralName, X509Certificate},
};

/// The user principal name of Windows, in an `otherName` (MS-WCCE, 2.2.2.7.5).
const USER_PRINCIPAL_NAME: Oid<'static> = oid!(1.3.6.1.4.1.311.20.2.3);

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Ours first, then what leads to an authority that clients know.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose signature makes us believe the names in a client's certificate. `None`: nobody's; thumbprints only.
    pub client_authorities: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    File { path: PathBuf, source: pem::Error },
    #[error("there is no certificate in {path}")]
    NoCertificate { path: PathBuf },
    #[error("the authorities in {path} cannot be used")]
    Authorities { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{certificate} and {key} cannot be used together")]
    Identity { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// The certificate in use, replaceable at run time.
#[derive(Debug)]
pub struct Tls {
    current: RwLock<Arc<Current>>,
}

#[derive(Debug)]
pub(crate) struct Current {
    /// Asks for a certificate; refuses nobody who has none.
    asking: Arc<ServerConfig>,
    silent: Arc<ServerConfig>,
    /// Judges the chain of a client's certificate.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// A certificate whose key the client holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// Hexadecimal digits, lower case.
    pub sha256: String,
    pub sha1: String,
    /// Empty unless an authority of ours signed it.
    pub names: Vec<String>,
}

impl Tls {
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { current: RwLock::new(Arc::new(read(files)?)) }))
    }

    /// Connections made from now on use these files; those that exist go on. On an error all stays as it was.
    pub fn reload(&self, files: &TlsFiles) -> Result<(), TlsError> {
        let current = Arc::new(read(files)?);
        *self.current.write().expect("no code panics under this lock") = current;
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.read().expect("no code panics under this lock").clone()
    }
}

impl Current {
    pub fn server(&self, ask_for_certificate: bool) -> Arc<ServerConfig> {
        if ask_for_certificate { self.asking.clone() } else { self.silent.clone() }
    }

    /// What the chain that a client has shown is worth; nothing outside of the certificate's time.
    pub fn client(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<ClientCertificate> {
        let (der, intermediates) = chain.split_first()?;
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let now_s = i64::try_from(now.as_secs()).ok()?;
        if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now_s) {
            return None;
        }
        let signed = self
            .clients
            .as_ref()
            .is_some_and(|clients| clients.verify_client_cert(der, intermediates, now).is_ok());
        Some(ClientCertificate {
            sha256: thumbprint(&digest::SHA256, der),
            sha1: thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY, der),
            names: if signed { names(&certificate) } else { vec![] },
        })
    }
}

fn read(files: &TlsFiles) -> Result<Current, TlsError> {
    let provider = Arc::new(provider::default_provider());
    let clients = match &files.client_authorities {
        Some(path) => Some(authorities(path, provider.clone())?),
        None => None,
    };
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::File { path: files.key.clone(), source })?;
    let server = |asking: bool| {
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has ciphers for both");
        let builder = if asking {
            builder.with_client_cert_verifier(Arc::new(AnyCertificate { provider: provider.clone() }))
        } else {
            builder.with_no_client_auth()
        };
        let mut server = builder.with_single_cert(chain.clone(), key.clone_key()).map_err(|source| {
            TlsError::Identity { certificate: files.certificate.clone(), key: files.key.clone(), source }
        })?;
        // No ALPN: without an answer to it every client speaks HTTP/1.1, with one those that offer less break off.
        // A resumed session would go on with a certificate that was taken away from its user.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Arc::new(server))
    };
    Ok(Current { asking: server(true)?, silent: server(false)?, clients })
}

fn authorities(path: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let fail = |source| TlsError::Authorities { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| fail(source.into()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|source| fail(source.into()))
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |source| TlsError::File { path: path.to_owned(), source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(file)?.collect();
    match found.map_err(file)? {
        none if none.is_empty() => Err(TlsError::NoCertificate { path: path.to_owned() }),
        found => Ok(found),
    }
}

fn thumbprint(algorithm: &'static digest::Algorithm, der: &[u8]) -> String {
    digest::digest(algorithm, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The DNS names, mail addresses and user principal names of the subject's alternative names, and its common names.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    alternatives.filter_map(alternative_name).chain(common).map(str::to_owned).collect()
}

fn alternative_name<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some(name),
        GeneralName::OtherName(kind, value) if *kind == USER_PRINCIPAL_NAME => {
            let (_, tagged) = Any::from_der(value).ok()?;
            let (_, name) = <&str>::from_der(tagged.data).ok()?;
            Some(name)
        }
        _ => None,
    }
}

/// Takes any certificate, or none; its key must be the client's.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: a client with a certificate that is known by its thumbprint must not hold it back.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
