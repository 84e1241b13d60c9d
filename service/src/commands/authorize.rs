//! Which hosts may replicate with this one.

use crate::{
    api::{AuthorizationView, ErrorKind, Failure, Reply},
    host::{Host, document},
    owner::blocking,
};
use std::{path::Path, sync::Arc};
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

/// `relevo authorize HOST --vm VM`: the replica, or the VM that is to become one, belongs to the trust group of this
/// entry.
pub async fn bind(host: &Arc<Host>, pattern: &str, vm: &str) -> Result<Reply, Failure> {
    let (host, pattern, vm) = (host.clone(), pattern.to_owned(), vm.to_owned());
    let message = blocking(move || {
        let entries = host.authorizations()?;
        let entry = entries.iter().find(|entry| entry.host.to_string().eq_ignore_ascii_case(&pattern));
        let entry = entry.ok_or_else(|| unknown(&pattern))?;
        let id = match super::owner(&host, &vm) {
            Ok(owner) => {
                let record = owner.record();
                if !record.mode.is_replica() {
                    let message =
                        format!("this host is the {} of {}: nothing is received", record.mode, record.name);
                    return Err(Failure::new(ErrorKind::InvalidState, "not-a-replica", message));
                }
                let lets_in = transport::authorize(&entries, std::slice::from_ref(&record.peer));
                if lets_in.is_none_or(|it| it.trust_group != entry.trust_group) {
                    return Err(Failure::new(
                        ErrorKind::InvalidParameter,
                        "wrong-trust-group",
                        format!(
                            "{}, which feeds {}, is not of the trust group `{}` of {}",
                            record.peer, record.name, entry.trust_group, entry.host
                        ),
                    )
                    .hint("`relevo authorize --list` shows who is of which"));
                }
                owner.vm
            }
            Err(_) => {
                let found = host.hypervisor.find(&vm).map_err(|e| Failure::internal("find the VM", &e))?;
                found.ok_or_else(|| super::unknown_vm(&vm))?
            }
        };
        host.put_document(id, document::TRUST_GROUP, &entry.trust_group)?;
        Ok(format!(
            "{vm} is replicated to this host by hosts of the trust group `{}` only",
            entry.trust_group
        ))
    })
    .await?;
    Ok(Reply::Done { message })
}

pub fn remove(host: &Host, pattern: &str) -> Result<Reply, Failure> {
    let rows = host.catalog.authorizations().map_err(|e| Failure::internal("read the authorizations", &e))?;
    if !rows.iter().any(|row| row.host == pattern) {
        return Err(unknown(pattern));
    }
    host.catalog
        .delete_authorization(pattern)
        .map_err(|e| Failure::internal("remove the authorization", &e))?;
    Ok(Reply::Done { message: format!("{pattern} may no longer replicate to this host") })
}

fn unknown(pattern: &str) -> Failure {
    let message = format!("there is no authorization for `{pattern}`");
    Failure::new(ErrorKind::NotFound, "authorization-unknown", message)
        .hint("`relevo authorize --list` shows them")
}
