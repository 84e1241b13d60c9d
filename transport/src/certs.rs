//! The certificate files of a host: `ca.pem`, `ca.key`, `host.pem`, `host.key` in one folder.

use crate::tls::TlsIdentity;
use model::HostName;
use serde::Serialize;
use std::{
    io,
    path::{Path, PathBuf},
};
use time::OffsetDateTime;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot access {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} does not exist")]
    Absent { path: PathBuf },
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
    /// Thumbprints: hexadecimal digits, SHA-1 in upper case as other tools show it.
    pub sha256: String,
    pub sha1: String,
    /// `authority`, `client`, `server`.
    pub purpose: Vec<String>,
}

/// Makes an authority in `dir` (`ca.pem`, `ca.key`), valid for ten years from `now`. Refuses to replace one.
pub fn init_ca(dir: &Path, now: OffsetDateTime) -> Result<(), CertificateError> {
    let _ = (dir, now);
    unimplemented!()
}

/// A key and certificate for `host`, signed by the authority in `dir`, valid for two years: one PEM text with
/// key, certificate and authority. It is a secret.
pub fn issue(dir: &Path, host: &HostName, now: OffsetDateTime) -> Result<String, CertificateError> {
    let _ = (dir, host, now);
    unimplemented!()
}

/// Writes a bundle to `path`, mode 0600.
pub fn write_bundle(path: &Path, bundle: &str) -> Result<(), CertificateError> {
    let _ = (path, bundle);
    unimplemented!()
}

/// Puts a bundle's parts into `dir`.
pub fn install(bundle: &str, dir: &Path) -> Result<(), CertificateError> {
    let _ = (bundle, dir);
    unimplemented!()
}

/// The certificates in `dir`: authorities first, then the host's.
pub fn show(dir: &Path) -> Result<Vec<CertificateView>, CertificateError> {
    let _ = dir;
    unimplemented!()
}

/// What [`crate::Tls`] needs, from `dir`.
pub fn load(dir: &Path) -> Result<TlsIdentity, CertificateError> {
    let _ = dir;
    unimplemented!()
}
