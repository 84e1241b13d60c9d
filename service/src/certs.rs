//! Certificates as commands: a small authority, host bundles, and what is installed. Works on files, with
//! or without a running daemon.

use crate::{
    api::{ErrorKind, Failure, error::chain},
    config::Dirs,
};
use model::HostName;
use std::path::Path;
use time::OffsetDateTime;
use transport::certs::{self, CertificateView};

fn fail(doing: &str, error: &certs::CertificateError) -> Failure {
    let kind = match error {
        certs::CertificateError::Absent { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    };
    Failure::new(kind, "certificate", format!("cannot {doing}: {}", chain(error)))
}

/// Makes this host a small certificate authority.
pub fn init(dirs: &Dirs) -> Result<(), Failure> {
    certs::init_ca(&dirs.certs, OffsetDateTime::now_utc())
        .map_err(|error| fail("make a certificate authority", &error))
}

/// A bundle (key, certificate, authority) for `host`, written to `out` with mode 0600.
pub fn issue(dirs: &Dirs, host: &HostName, out: &Path) -> Result<(), Failure> {
    let bundle = certs::issue(&dirs.certs, host, OffsetDateTime::now_utc()).map_err(|error| {
        fail("issue a certificate", &error).hint("`relevo cert init` makes an authority on this host first")
    })?;
    certs::write_bundle(out, &bundle).map_err(|error| fail("write the bundle", &error))
}

pub fn install(dirs: &Dirs, bundle: &Path) -> Result<Vec<CertificateView>, Failure> {
    let text = std::fs::read_to_string(bundle).map_err(|error| {
        Failure::new(
            ErrorKind::NotFound,
            "bundle",
            format!("cannot read bundle {}: {error}", bundle.display()),
        )
    })?;
    certs::install(&text, &dirs.certs).map_err(|error| fail("install the bundle", &error))?;
    show(dirs)
}

/// The host's certificate as base64 of its DER form, without line breaks. Empty where none is installed.
pub fn encoded(dirs: &Dirs) -> Result<Vec<String>, Failure> {
    let path = dirs.certs.join("host.pem");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            return Err(Failure::new(ErrorKind::Failed, "certificate", message));
        }
    };
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("-----END").next());
    Ok(blocks.map(|block| block.split_whitespace().collect()).collect())
}

pub fn show(dirs: &Dirs) -> Result<Vec<CertificateView>, Failure> {
    certs::show(&dirs.certs).map_err(|error| {
        fail("read the certificates", &error)
            .hint("`relevo cert init`, `relevo cert issue HOST --out BUNDLE`, `relevo cert install BUNDLE`")
    })
}
