//! The service itself: its settings, its certificates, whether another host answers.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{invalid, unsupported},
};
use crate::{
    classes,
    names::{MANAGEMENT_SERVICE, REPLICATION_SERVICE, SNAPSHOT_SERVICE},
    world::{self, World},
};
use cim::{Instance, Role, Value};
use futures::{FutureExt, future::BoxFuture};
use service::api::Command;

const TEST_CONNECTION: u16 = 115;

/// What `RequestStateChange`, `StartService` and `StopService` of a service answer: not supported.
const SERVICE_NOT_SUPPORTED: u32 = 1;

const fn unchangeable(class: &'static str, name: &'static str) -> Method {
    let why = "the service runs as long as the daemon does";
    Method { class, name, role: Role::Administrator, how: How::Refused(SERVICE_NOT_SUPPORTED, why), note: "" }
}

pub const METHODS: &[Method] = &[
    Method {
        class: REPLICATION_SERVICE,
        name: "TestReplicationConnection",
        role: Role::Operator,
        how: How::Works(test_connection),
        note: "AuthenticationType 1 (Kerberos) 32770",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "GetSystemCertificates",
        role: Role::Reader,
        how: How::Works(certificates),
        note: "the host's own certificate",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ModifyServiceSettings",
        role: Role::Administrator,
        how: How::Works(modify),
        note: "0 where nothing would change; a change 32770: the configuration file sets listener and certificate",
    },
    unchangeable(REPLICATION_SERVICE, "RequestStateChange"),
    unchangeable(REPLICATION_SERVICE, "StartService"),
    unchangeable(REPLICATION_SERVICE, "StopService"),
    unchangeable(MANAGEMENT_SERVICE, "RequestStateChange"),
    unchangeable(MANAGEMENT_SERVICE, "StartService"),
    unchangeable(MANAGEMENT_SERVICE, "StopService"),
    unchangeable(SNAPSHOT_SERVICE, "RequestStateChange"),
    unchangeable(SNAPSHOT_SERVICE, "StartService"),
    unchangeable(SNAPSHOT_SERVICE, "StopService"),
];

fn test_connection<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let to = call.text("RecoveryConnectionPoint");
        let to = to.ok_or_else(|| invalid("RecoveryConnectionPoint is missing: the name of a host"))?;
        let to = to.parse().map_err(|error| invalid(format!("RecoveryConnectionPoint: {error}")))?;
        let mut asked = Instance::new("Msvm_ReplicationSettingData");
        for name in
            ["RecoveryServerPortNumber", "AuthenticationType", "CertificateThumbPrint", "BypassProxyServer"]
        {
            asked.set(name, call.value(name).cloned().unwrap_or(Value::Null));
        }
        let world = call.hvr.world().await;
        let any = model::VmId::random();
        let wanted = super::settings::read(&asked, any, &world, call.schema)?;
        super::settings::check_port(&wanted, &to, &world)?;
        call.in_background(None, "test connection", TEST_CONNECTION, Command::TestConnection { to })
    }
    .boxed()
}

fn certificates<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let encoded = service::certs::encoded(&call.hvr.host.dirs)?;
        Ok(Answer::done().with("EncodedCertificates", encoded))
    }
    .boxed()
}

fn modify<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let given = call.required_embedded("SettingData", "Msvm_ReplicationServiceSettingData")?;
        let facts = world::host_facts(&call.hvr.host).await?;
        let world: &World = &*call.hvr.world().await;
        unchanged(&given, &classes::service_settings(world, &facts))?;
        Ok(Answer::done())
    }
    .boxed()
}

/// Refuses the first property that differs. What is not known here has no value to differ from: its class's default
/// stands in every instance that a client makes.
fn unchanged(given: &Instance, own: &Instance) -> Result<(), Refusal> {
    let fixed = ["RecoveryServerEnabled", "AllowedAuthenticationType", "CertificateThumbPrint", "HttpsPort"];
    for name in fixed {
        let (Some(wanted), Some(value)) = (given.get(name), own.get(name)) else { continue };
        let same = wanted.is_null() || wanted.to_string().eq_ignore_ascii_case(&value.to_string());
        if !same {
            return Err(unsupported(format!(
                "{name} {wanted}: it is {value}; the configuration file sets it"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_change_nothing_are_accepted_and_others_named() {
        let own = Instance::new("Msvm_ReplicationServiceSettingData")
            .with("RecoveryServerEnabled", true)
            .with("CertificateThumbPrint", "AB12")
            .with("HttpsPort", 9443u16);
        assert!(unchanged(&own, &own).is_ok());
        let given = own.clone().with("CertificateThumbPrint", "ab12").with("HttpsPort", Value::Null);
        assert!(unchanged(&given, &own).is_ok());
        let refused = unchanged(&own.clone().with("HttpsPort", 443u16), &own).unwrap_err();
        assert_eq!(refused.code, 32770);
        assert!(refused.failure.message.contains("HttpsPort 443: it is 9443"));
    }
}
