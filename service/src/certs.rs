//! Certificates as commands: a small authority, host bundles, and what is installed. Works on files, with
//! or without a running daemon.

use crate::{
    api::{ErrorKind, Failure, error::chain},
    config::Dirs,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use model::HostName;
use std::path::Path;
use time::OffsetDateTime;
use transport::certs::{self, CertificateView};

fn fail(doing: &str, error: &certs::CertificateError) -> Failure {
    let kind = match error {
        certs::CertificateError::Absent { .. } => ErrorKind::NotFound,
        certs::CertificateError::Name { .. }
        | certs::CertificateError::Unknown { .. }
        | certs::CertificateError::Unsuitable { .. } => ErrorKind::InvalidParameter,
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

/// With a name: beside the certificate that the host shows, to be chosen ([`choose`]).
pub fn install(dirs: &Dirs, bundle: &Path, beside: Option<&str>) -> Result<Vec<CertificateView>, Failure> {
    let text = std::fs::read_to_string(bundle).map_err(|error| {
        Failure::new(
            ErrorKind::NotFound,
            "bundle",
            format!("cannot read bundle {}: {error}", bundle.display()),
        )
    })?;
    let installed = match beside {
        Some(name) => certs::install_beside(&text, &dirs.certs, name),
        None => certs::install(&text, &dirs.certs),
    };
    installed.map_err(|error| fail("install the bundle", &error))?;
    show(dirs)
}

/// Makes the host show the certificate with this thumbprint from its next start, or reload, on.
pub fn choose(dirs: &Dirs, thumbprint: &str, host: &HostName) -> Result<(), Failure> {
    certs::choose(&dirs.certs, thumbprint, host, OffsetDateTime::now_utc()).map_err(|error| {
        fail("use another certificate", &error).hint("`relevo cert show` lists those that are here")
    })
}

/// The certificates that the host has keys of, the one that it shows first: base64 of their DER form, without line
/// breaks.
pub fn encoded(dirs: &Dirs) -> Result<Vec<String>, Failure> {
    let own = certs::own(&dirs.certs).map_err(|error| fail("read the certificates", &error))?;
    Ok(own.iter().map(|der| BASE64_STANDARD.encode(der)).collect())
}

/// What the host shows.
pub fn own(dirs: &Dirs) -> Option<CertificateView> {
    let views = certs::show(&dirs.certs).ok()?;
    views.into_iter().find(|view| view.path.ends_with("host.pem"))
}

/// When the host's own certificate ends, in milliseconds since 1970; `None` where that cannot be read.
pub fn own_ends_ms(dirs: &Dirs) -> Option<i64> {
    i64::try_from(own(dirs)?.not_after.unix_timestamp_nanos() / 1_000_000).ok()
}

pub fn show(dirs: &Dirs) -> Result<Vec<CertificateView>, Failure> {
    certs::show(&dirs.certs).map_err(|error| {
        fail("read the certificates", &error)
            .hint("`relevo cert init`, `relevo cert issue HOST --out BUNDLE`, `relevo cert install BUNDLE`")
    })
}
