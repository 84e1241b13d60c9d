//! Which hosts may replicate with this one.

use crate::{
    api::{AuthorizationView, ErrorKind, Failure, Reply},
    host::Host,
};
use std::path::Path;
use transport::{HostPattern, authorize::DEFAULT_TRUST_GROUP};

pub fn add(host: &Host, pattern: &str, storage: &Path, trust_group: Option<&str>) -> Result<Reply, Failure> {
    let invalid = |message: String| Failure::new(ErrorKind::InvalidParameter, "authorization", message);
    let parsed: HostPattern = pattern
        .parse()
        .map_err(|error: transport::authorize::InvalidAuthorization| invalid(error.to_string()))?;
    let group = trust_group.unwrap_or(DEFAULT_TRUST_GROUP);
    let entry = transport::Authorization::new(parsed, group, storage.to_owned())
        .map_err(|error| invalid(error.to_string()))?;
    crate::link::writable(storage)?;
    let row = catalog::Authorization {
        host: entry.host.to_string(),
        trust_group: entry.trust_group,
        storage: storage.display().to_string(),
    };
    host.catalog
        .save_authorization(&row)
        .map_err(|error| Failure::internal("save the authorization", &error))?;
    let message = format!("{} may replicate to this host, into {}", row.host, row.storage);
    Ok(Reply::Done { message })
}

pub fn list(host: &Host) -> Result<Reply, Failure> {
    let rows = host.catalog.authorizations().map_err(|e| Failure::internal("read the authorizations", &e))?;
    let views = rows.into_iter().map(|row| AuthorizationView {
        host: row.host,
        trust_group: row.trust_group,
        storage: row.storage.into(),
    });
    Ok(Reply::Authorizations(views.collect()))
}

pub fn remove(host: &Host, pattern: &str) -> Result<Reply, Failure> {
    let rows = host.catalog.authorizations().map_err(|e| Failure::internal("read the authorizations", &e))?;
    if !rows.iter().any(|row| row.host == pattern) {
        return Err(Failure::new(
            ErrorKind::NotFound,
            "authorization-unknown",
            format!("there is no authorization for `{pattern}`"),
        )
        .hint("`relevo authorize --list` shows them"));
    }
    host.catalog
        .delete_authorization(pattern)
        .map_err(|e| Failure::internal("remove the authorization", &e))?;
    Ok(Reply::Done { message: format!("{pattern} may no longer replicate to this host") })
}
