//! The certificate files of a host: `ca.pem`, `ca.key`, `host.pem`, `host.key` in one folder. The authority's
//! key exists on one host only; others get their key and certificate from it as a bundle. `host` is what the host
//! shows; other pairs, `NAME.pem` with `NAME.key`, lie in the folder to be chosen instead.

use crate::tls::{TlsIdentity, dns_names, thumbprint};
use aws_lc_rs::digest;
use model::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use serde::Serialize;
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

const AUTHORITY: &str = "ca";
const HOST: &str = "host";
const CA_DAYS: i64 = 3653;
const HOST_DAYS: i64 = 731;
/// Certificates are valid a little before they are made: the peer's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::minutes(5);

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot access {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} does not exist")]
    Absent { path: PathBuf },
    #[error("{path} exists already; it is not replaced, because every certificate it signed would be lost")]
    AuthorityExists { path: PathBuf },
    #[error("{dir} already trusts another authority than the bundle's; remove ca.pem there to change it")]
    OtherAuthority { dir: PathBuf },
    #[error("{what} cannot be read as PEM: {problem}")]
    Damaged { what: String, problem: &'static str },
    #[error("the key does not belong to the certificate")]
    OtherKey,
    #[error("the certificate was not signed by the authority that comes with it")]
    NotSigned,
    #[error("{name} names no certificate: letters, digits and - are allowed, `ca` and `host` are taken")]
    Name { name: String },
    #[error("no certificate here has the thumbprint {thumbprint}")]
    Unknown { thumbprint: String },
    #[error("{path} is no certificate of {host} by an authority of {authorities}, or not valid now")]
    Unsuitable { path: PathBuf, host: HostName, authorities: PathBuf },
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
}

/// What an operator wants to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    pub path: PathBuf,
    pub subject: String,
    pub sans: Vec<String>,
    pub issuer: String,
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Thumbprints in hexadecimal digits, lower case.
    pub sha256: String,
    pub sha1: String,
    /// Of `authority`, `client`, `server`.
    pub purpose: Vec<String>,
}

/// Makes an authority in `dir` (`ca.pem`, `ca.key`), valid for ten years from `now`. Refuses to replace one.
pub fn init_ca(dir: &Path, now: OffsetDateTime) -> Result<(), CertificateError> {
    let fail = |source| CertificateError::Io { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    for path in [dir.join("ca.key"), dir.join("ca.pem")] {
        if path.try_exists().map_err(fail)? {
            return Err(CertificateError::AuthorityExists { path });
        }
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Two authorities must not look alike: verification finds an issuer by its name.
    let id = &blake3::hash(key.public_key_raw()).to_hex()[..8];
    params.distinguished_name = common_name(&format!("Relevo authority {id}"));
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(CA_DAYS);
    let certificate = params.self_signed(&key)?;
    write(&dir.join("ca.key"), key.serialize_pem().as_bytes(), 0o600)?;
    write(&dir.join("ca.pem"), certificate.pem().as_bytes(), 0o644)
}

/// A key and certificate for `host`, signed by the authority in `dir`, valid for two years from `now`: one PEM
/// text of key, certificate and authority. It is a secret.
pub fn issue(dir: &Path, host: &HostName, now: OffsetDateTime) -> Result<String, CertificateError> {
    let authority = read(&dir.join("ca.pem"))?;
    let authority_key = KeyPair::from_pem(&read(&dir.join("ca.key"))?)?;
    let issuer = Issuer::from_ca_cert_pem(&authority, authority_key)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([host.as_str().to_owned()])?;
    params.distinguished_name = common_name(host.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(HOST_DAYS);
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(key.serialize_pem() + &certificate.pem() + &authority)
}

/// Writes a bundle to `path`, mode 0600.
pub fn write_bundle(path: &Path, bundle: &str) -> Result<(), CertificateError> {
    write(path, bundle.as_bytes(), 0o600)
}

/// Puts a bundle's parts into `dir`, replacing the host's certificate and key. An authority that is there
/// already must be the bundle's.
pub fn install(bundle: &str, dir: &Path) -> Result<(), CertificateError> {
    install_pair(bundle, dir, HOST)
}

/// As [`install`], beside the certificate that the host shows: as `NAME.pem` and `NAME.key`.
pub fn install_beside(bundle: &str, dir: &Path, name: &str) -> Result<(), CertificateError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || [AUTHORITY, HOST].contains(&name) || !name.chars().all(fits) {
        return Err(CertificateError::Name { name: name.to_owned() });
    }
    install_pair(bundle, dir, name)
}

fn install_pair(bundle: &str, dir: &Path, name: &str) -> Result<(), CertificateError> {
    let identity = parse_bundle(bundle)?;
    let fail = |source| CertificateError::Io { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    let ca_path = dir.join("ca.pem");
    if ca_path.try_exists().map_err(fail)? {
        if !certificates(&ca_path)?.contains(&identity.authorities[0]) {
            return Err(CertificateError::OtherAuthority { dir: dir.to_owned() });
        }
    } else {
        write_block(&ca_path, bundle, "CERTIFICATE", 1, 0o644)?;
    }
    // The old key with the new certificate is refused by `load`, so a crash between the two is seen; the bundle
    // is installed again then.
    write_block(&key_path(dir, name), bundle, "PRIVATE KEY", 0, 0o600)?;
    write_block(&pem_path(dir, name), bundle, "CERTIFICATE", 0, 0o644)
}

/// Of each certificate with a key in `dir` its DER form; the one that the host shows is the first.
pub fn own(dir: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    names(dir)?.iter().map(|name| Ok(certificates(&pem_path(dir, name))?.swap_remove(0))).collect()
}

/// From now on the host shows the certificate with this thumbprint (SHA-1 or SHA-256, hexadecimal digits of any case).
/// It must be `host`'s, signed by an authority of `dir`, and valid `now`. The one that was shown so far stays, as
/// `host-` and the beginning of its thumbprint.
pub fn choose(dir: &Path, print: &str, host: &HostName, now: OffsetDateTime) -> Result<(), CertificateError> {
    let wanted = print.to_ascii_lowercase();
    let prints = |der: &[u8]| [thumbprint_sha1(der), thumbprint(&digest::SHA256, der)];
    let mut found = None;
    for name in names(dir)? {
        let chain = certificates(&pem_path(dir, &name))?;
        if prints(&chain[0]).contains(&wanted) {
            found = Some((name, chain));
            break;
        }
    }
    let (name, chain) = found.ok_or_else(|| CertificateError::Unknown { thumbprint: print.to_owned() })?;
    check_suits(dir, &name, &chain, host, now)?;
    if name == HOST {
        return Ok(());
    }
    if let Ok(shown) = certificates(&pem_path(dir, HOST)) {
        copy_pair(dir, HOST, &format!("{HOST}-{}", &thumbprint_sha1(&shown[0])[..8]))?;
    }
    // As with `install`: a crash between the two files is seen by `load`, and both pairs are still there.
    copy_pair(dir, &name, HOST)
}

fn check_suits(
    dir: &Path,
    name: &str,
    chain: &[CertificateDer<'static>],
    host: &HostName,
    now: OffsetDateTime,
) -> Result<(), CertificateError> {
    let path = pem_path(dir, name);
    check_key(&private_key(&key_path(dir, name))?, &chain[0])?;
    let authorities = pem_path(dir, AUTHORITY);
    let unsuitable = || CertificateError::Unsuitable {
        path: path.clone(),
        host: host.clone(),
        authorities: authorities.clone(),
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(&authorities)? {
        roots.add(authority).map_err(|_| unsuitable())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|_| unsuitable())?;
    let server = ServerName::try_from(host.as_str().to_owned()).map_err(|_| unsuitable())?;
    let now_s = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_s));
    verifier.verify_server_cert(&chain[0], &chain[1..], &server, &[], at).map(drop).map_err(|_| unsuitable())
}

fn copy_pair(dir: &Path, from: &str, to: &str) -> Result<(), CertificateError> {
    write(&key_path(dir, to), read(&key_path(dir, from))?.as_bytes(), 0o600)?;
    write(&pem_path(dir, to), read(&pem_path(dir, from))?.as_bytes(), 0o644)
}

/// Of the pairs in `dir`, `host` first.
fn names(dir: &Path) -> Result<Vec<String>, CertificateError> {
    let fail = |source| CertificateError::Io { path: dir.to_owned(), source };
    let mut names = vec![];
    for entry in fs::read_dir(dir).map_err(fail)? {
        let file = entry.map_err(fail)?.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(".pem")).filter(|name| *name != AUTHORITY);
        names.extend(name.filter(|name| key_path(dir, name).exists()).map(str::to_owned));
    }
    names.sort_by_key(|name| (name != HOST, name.clone()));
    Ok(names)
}

fn pem_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pem"))
}

fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

fn thumbprint_sha1(der: &[u8]) -> String {
    thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY, der)
}

/// The certificates in `dir`: authorities first, then the one that the host shows, then others with a key. Files that
/// do not exist are left out.
pub fn show(dir: &Path) -> Result<Vec<CertificateView>, CertificateError> {
    let mut views = vec![];
    let others = names(dir).unwrap_or_default().into_iter().filter(|name| name != HOST);
    for name in [AUTHORITY.to_owned(), HOST.to_owned()].into_iter().chain(others) {
        let path = pem_path(dir, &name);
        match certificates(&path) {
            Ok(found) => {
                for certificate in found {
                    views.push(view(&path, &certificate)?);
                }
            }
            Err(CertificateError::Absent { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(views)
}

/// What [`crate::Tls`] needs, from `dir`: everything must be there and fit together.
pub fn load(dir: &Path) -> Result<TlsIdentity, CertificateError> {
    let chain = certificates(&dir.join("host.pem"))?;
    let key = private_key(&key_path(dir, HOST))?;
    check_key(&key, &chain[0])?;
    Ok(TlsIdentity { chain, key: Some(key), authorities: certificates(&dir.join("ca.pem"))? })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(read(path)?.as_bytes()).map_err(|_| damaged(path, "no private key"))
}

fn parse_bundle(bundle: &str) -> Result<TlsIdentity, CertificateError> {
    let damaged = |problem| CertificateError::Damaged { what: "the bundle".to_owned(), problem };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
    let mut certificates = certificates.map_err(|_| damaged("broken certificate"))?;
    if certificates.len() != 2 {
        return Err(damaged("expected two certificates, the host's and its authority's"));
    }
    let key = PrivateKeyDer::from_pem_slice(bundle.as_bytes()).map_err(|_| damaged("no private key"))?;
    let authority = certificates.pop().expect("two");
    check_key(&key, &certificates[0])?;
    check_signed(&certificates[0], &authority)?;
    Ok(TlsIdentity { chain: certificates, key: Some(key), authorities: vec![authority] })
}

/// Verifies as a peer would, at a time when the certificate is valid.
fn check_signed(
    host: &CertificateDer<'static>,
    authority: &CertificateDer<'static>,
) -> Result<(), CertificateError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|_| CertificateError::NotSigned)?;
    let (_, parsed) = X509Certificate::from_der(host).map_err(|_| CertificateError::NotSigned)?;
    let name = dns_names(&parsed).into_iter().find_map(|name| ServerName::try_from(name).ok());
    let from_s = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|_| CertificateError::NotSigned)?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(from_s));
    name.and_then(|name| verifier.verify_server_cert(host, &[], &name, &[], at).ok())
        .map(drop)
        .ok_or(CertificateError::NotSigned)
}

fn check_key(key: &PrivateKeyDer<'static>, certificate: &CertificateDer<'_>) -> Result<(), CertificateError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let pair = rustls::sign::CertifiedKey::from_der(
        vec![certificate.clone().into_owned()],
        key.clone_key(),
        &provider,
    );
    pair.map(drop).map_err(|_| CertificateError::OtherKey)
}

fn view(path: &Path, der: &CertificateDer<'_>) -> Result<CertificateView, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| damaged(path, "broken certificate"))?;
    let usage = certificate.extended_key_usage().ok().flatten();
    let purposes = [
        ("authority", certificate.is_ca()),
        ("client", usage.as_ref().is_some_and(|usage| usage.value.client_auth)),
        ("server", usage.as_ref().is_some_and(|usage| usage.value.server_auth)),
    ];
    Ok(CertificateView {
        path: path.to_owned(),
        subject: certificate.subject().to_string(),
        sans: dns_names(&certificate),
        issuer: certificate.issuer().to_string(),
        not_before: certificate.validity().not_before.to_datetime(),
        not_after: certificate.validity().not_after.to_datetime(),
        sha256: thumbprint(&digest::SHA256, der),
        sha1: thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY, der),
        purpose: purposes.iter().filter(|(_, is)| *is).map(|(name, _)| (*name).to_owned()).collect(),
    })
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(read(path)?.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(damaged(path, "no certificate")),
        Err(_) => Err(damaged(path, "broken certificate")),
    }
}

fn damaged(path: &Path, problem: &'static str) -> CertificateError {
    CertificateError::Damaged { what: path.display().to_string(), problem }
}

fn read(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CertificateError::Absent { path: path.to_owned() },
        io::ErrorKind::InvalidData => damaged(path, "not a text"),
        _ => CertificateError::Io { path: path.to_owned(), source },
    })
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), CertificateError> {
    model::durable::replace_file_with_mode(path, content, mode)
        .map_err(|source| CertificateError::Io { path: path.to_owned(), source })
}

fn write_block(
    path: &Path,
    bundle: &str,
    label: &str,
    index: usize,
    mode: u32,
) -> Result<(), CertificateError> {
    let text = block(bundle, label, index).ok_or(CertificateError::Damaged {
        what: "the bundle".to_owned(),
        problem: "expected a PKCS #8 key and two certificates",
    })?;
    write(path, format!("{text}\n").as_bytes(), mode)
}

/// The PEM block number `index` with this label, as it stands in `text`.
fn block<'a>(text: &'a str, label: &str, index: usize) -> Option<&'a str> {
    let end = format!("-----END {label}-----");
    let (start, _) = text.match_indices(&format!("-----BEGIN {label}-----")).nth(index)?;
    let length = text[start..].find(&end)? + end.len();
    Some(&text[start..start + length])
}
