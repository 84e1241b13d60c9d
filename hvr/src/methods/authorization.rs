//! Authorization entries: AddAuthorizationEntry and its like.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{invalid, unsupported},
};
use crate::{names::REPLICATION_SERVICE, world};
use cim::{Instance, Role};
use futures::{FutureExt, future::BoxFuture};
use service::api::{Command, ErrorKind, Failure};

const ENTRY: &str = "Msvm_ReplicationAuthorizationSettingData";

pub const METHODS: &[Method] = &[
    Method {
        class: REPLICATION_SERVICE,
        name: "AddAuthorizationEntry",
        role: Role::Administrator,
        how: How::Works(add),
        note: "TrustGroup is DEFAULT where it is not given",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ModifyAuthorizationEntry",
        role: Role::Administrator,
        how: How::Works(modify),
        note: "",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "RemoveAuthorizationEntry",
        role: Role::Administrator,
        how: How::Works(remove),
        note: "",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "SetAuthorizationEntry",
        role: Role::Administrator,
        how: How::Works(bind),
        note: "members of the entry's TrustGroup feed this replica, or begin one from this copy; 32775 on a primary",
    },
];

fn add<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let entry = call.required_embedded("AuthorizationEntry", ENTRY)?;
        if exists(call, entry.text("AllowedPrimaryHostSystem").unwrap_or_default()).await? {
            let message = "there is an entry for this host already; ModifyAuthorizationEntry changes it";
            return Err(Failure::new(ErrorKind::AlreadyExists, "authorization-exists", message).into());
        }
        call.run(authorize(&entry)?).await
    }
    .boxed()
}

fn modify<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let entry = call.required_embedded("AuthorizationEntry", ENTRY)?;
        let host = entry.text("AllowedPrimaryHostSystem").unwrap_or_default();
        if !exists(call, host).await? {
            let message = format!("there is no entry for {host:?}");
            return Err(Failure::new(ErrorKind::NotFound, "authorization-unknown", message).into());
        }
        call.run(authorize(&entry)?).await
    }
    .boxed()
}

fn remove<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let host = call.text("AllowedPrimaryHostSystem");
        let host = host.ok_or_else(|| invalid("AllowedPrimaryHostSystem is missing"))?.to_owned();
        call.run(Command::AuthorizeRemove { host }).await
    }
    .boxed()
}

fn bind<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let vm = call.vm_argument("ComputerSystem")?;
        let entry = call.required_embedded("AuthorizationEntry", ENTRY)?;
        let host = entry.text("AllowedPrimaryHostSystem").filter(|text| !text.is_empty());
        let host = host.ok_or_else(|| invalid("AllowedPrimaryHostSystem is missing"))?.to_owned();
        call.run(Command::AuthorizeVm { host, vm: vm.to_string() }).await
    }
    .boxed()
}

async fn exists(call: &Call<'_>, host: &str) -> Result<bool, Refusal> {
    let facts = world::host_facts(&call.hvr.host).await?;
    Ok(facts.authorizations.iter().any(|entry| entry.host.eq_ignore_ascii_case(host)))
}

fn authorize(entry: &Instance) -> Result<Command, Refusal> {
    let text = |name: &str| entry.text(name).filter(|text| !text.is_empty());
    let missing = |name: &str, what: &str| invalid(format!("{name} is missing: {what}"));
    let host = text("AllowedPrimaryHostSystem");
    let storage = text("ReplicaStorageLocation");
    let host = host.ok_or_else(|| missing("AllowedPrimaryHostSystem", "a host name, *.domain, or *"))?;
    let storage = storage.ok_or_else(|| missing("ReplicaStorageLocation", "a folder of this host"))?;
    if storage.contains('\\') {
        return Err(unsupported(format!(
            "ReplicaStorageLocation {storage:?}: an absolute path with / is allowed"
        )));
    }
    Ok(Command::Authorize {
        host: host.to_owned(),
        storage: storage.into(),
        trust_group: text("TrustGroup").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_needs_a_host_and_a_folder() {
        let entry = Instance::new(ENTRY).with("AllowedPrimaryHostSystem", "*.example");
        assert_eq!(authorize(&entry).unwrap_err().code, 32773);
        let entry = entry.with("ReplicaStorageLocation", "/srv/replicas");
        let Ok(Command::Authorize { host, storage, trust_group }) = authorize(&entry) else { panic!() };
        assert_eq!(
            (host.as_str(), storage.to_str(), trust_group),
            ("*.example", Some("/srv/replicas"), None)
        );
    }
}
