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
use model::Authentication;
use service::api::{Command, ServiceChange};

const TEST_CONNECTION: u16 = 115;
/// `HttpPort`, as the class has it.
const HTTP_PORT_UNSET: i128 = 80;
const DAY_MS: u64 = 86_400_000;
const MONITORING_INTERVAL_S: std::ops::RangeInclusive<u32> = 3600..=604_800;

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
        note: "AuthenticationType 1 (Kerberos) 32770 where the host has no principal",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "GetSystemCertificates",
        role: Role::Reader,
        how: How::Works(certificates),
        note: "those that the host has keys of, the one that it shows first",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ModifyServiceSettings",
        role: Role::Administrator,
        how: How::Works(modify),
        note: "all without a restart: RecoveryServerEnabled, MonitoringInterval, MonitoringStartTime, HttpsPort, HttpPort \
               (32770 where the host has no principal; a port that is taken 32774), CertificateThumbPrint (of those that \
               GetSystemCertificates lists; one that is none of this host's 32773). Another AllowedAuthenticationType \
               32770: the configuration file sets it, from a restart on",
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
        super::settings::check_port(&wanted, &to, Authentication::Certificate, &world)?;
        let authentication = wanted.change.authentication.unwrap_or_default();
        let bypass_proxy = wanted.change.bypass_proxy.unwrap_or(false);
        let command = Command::TestConnection { to, authentication, bypass_proxy };
        call.in_background(None, "test connection", TEST_CONNECTION, command)
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
        let change = change(&given, &classes::service_settings(world, &facts))?;
        call.run(Command::ConfigureService { change }).await
    }
    .boxed()
}

fn change(given: &Instance, own: &Instance) -> Result<ServiceChange, Refusal> {
    check_authentication(given, own)?;
    let start = match given.get("MonitoringStartTime") {
        Some(Value::DateTime(at)) => {
            let ms =
                at.to_interval_ms().or_else(|| u64::try_from(at.to_unix_ms()?).ok().map(|ms| ms % DAY_MS));
            let ms = ms.filter(|ms| *ms < DAY_MS);
            let ms =
                ms.ok_or_else(|| invalid(format!("MonitoringStartTime {at}: it is a time of the day")))?;
            u32::try_from(ms / 1000).ok()
        }
        _ => None,
    };
    let interval = given.get("MonitoringInterval").and_then(Value::as_i128);
    let interval = interval.map(|it| u32::try_from(it).unwrap_or(u32::MAX));
    if let Some(bad) = interval.filter(|it| !MONITORING_INTERVAL_S.contains(it)) {
        return Err(invalid(format!("MonitoringInterval {bad}: allowed are 3600 to 604800")));
    }
    Ok(ServiceChange {
        recovery_server: given.get("RecoveryServerEnabled").and_then(Value::as_bool),
        monitoring_interval_s: interval,
        monitoring_start_s: start,
        port: port(given, own, "HttpsPort")?,
        kerberos_port: port(given, own, "HttpPort")?,
        certificate: given
            .text("CertificateThumbPrint")
            .map(|print| print.split_whitespace().collect::<String>())
            .filter(|print| !print.is_empty())
            .filter(|print| {
                !own.text("CertificateThumbPrint").is_some_and(|own| own.eq_ignore_ascii_case(print))
            }),
    })
}

/// The port, if it is to be another one.
fn port(given: &Instance, own: &Instance, name: &str) -> Result<Option<u16>, Refusal> {
    let Some(wanted) = given.get(name).and_then(Value::as_i128) else { return Ok(None) };
    let is = own.get(name).and_then(Value::as_i128);
    // Without a listener there is no port, and the class's default stands in every instance that a client makes.
    if is == Some(wanted) || (is.is_none() && wanted == HTTP_PORT_UNSET) {
        return Ok(None);
    }
    match u16::try_from(wanted) {
        Ok(port @ 1..) => Ok(Some(port)),
        _ => Err(invalid(format!("{name} {wanted}: allowed are 1 to 65535"))),
    }
}

/// Refuses another `AllowedAuthenticationType`; 0, undefined, is what a client's new instance has.
fn check_authentication(given: &Instance, own: &Instance) -> Result<(), Refusal> {
    let name = "AllowedAuthenticationType";
    let number = |instance: &Instance| instance.get(name).and_then(Value::as_i128);
    match (number(given), number(own)) {
        (None | Some(0), _) => Ok(()),
        (wanted, is) if wanted == is => Ok(()),
        (Some(wanted @ 1..=3), is) => Err(unsupported(format!(
            "{name} {wanted}: it is {}; [kerberos] in the configuration file sets it, from a restart on",
            is.unwrap_or_default()
        ))),
        (Some(wanted), _) => Err(invalid(format!("{name} {wanted}: allowed are 1 to 3"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_it_was_is_no_change_and_bad_values_are_named() {
        let own = Instance::new("Msvm_ReplicationServiceSettingData")
            .with("AllowedAuthenticationType", 2u16)
            .with("CertificateThumbPrint", "AB12")
            .with("HttpsPort", 9443u16);
        assert_eq!(change(&own, &own).unwrap(), ServiceChange::default());
        let given = own.clone().with("CertificateThumbPrint", "ab 12").with("HttpsPort", Value::Null);
        let given = given.with("HttpPort", 80u16).with("AllowedAuthenticationType", 0u16);
        assert_eq!(change(&given, &own).unwrap(), ServiceChange::default());
        let given = own.clone().with("HttpsPort", 443u16).with("HttpPort", 8080u16);
        let given = given.with("CertificateThumbPrint", "CD 34");
        let expected = ServiceChange {
            port: Some(443),
            kerberos_port: Some(8080),
            certificate: Some("CD34".into()),
            ..ServiceChange::default()
        };
        assert_eq!(change(&given, &own).unwrap(), expected);
        for (name, value, code) in [
            ("HttpsPort", 0u16, 32773),
            ("HttpPort", 0, 32773),
            ("AllowedAuthenticationType", 3, 32770),
            ("AllowedAuthenticationType", 4, 32773),
        ] {
            let refused = change(&own.clone().with(name, value), &own).unwrap_err();
            assert_eq!(refused.code, code, "{name}");
            assert!(refused.failure.message.starts_with(&format!("{name} {value}: ")));
        }
    }

    #[test]
    fn monitoring_is_an_hour_to_a_week_from_a_time_of_the_day() {
        let own = Instance::new("Msvm_ReplicationServiceSettingData");
        let nine = cim::DateTime::from_interval_ms(9 * 3_600_000);
        let given = Instance::new("Msvm_ReplicationServiceSettingData")
            .with("RecoveryServerEnabled", false)
            .with("MonitoringInterval", 7200u32)
            .with("MonitoringStartTime", nine);
        let expected = ServiceChange {
            recovery_server: Some(false),
            monitoring_interval_s: Some(7200),
            monitoring_start_s: Some(9 * 3600),
            ..ServiceChange::default()
        };
        assert_eq!(change(&given, &own).unwrap(), expected);
        for bad in [3599u32, 604_801] {
            assert_eq!(change(&given.clone().with("MonitoringInterval", bad), &own).unwrap_err().code, 32773);
        }
        let late = cim::DateTime::from_interval_ms(DAY_MS);
        assert_eq!(change(&given.with("MonitoringStartTime", late), &own).unwrap_err().code, 32773);
    }
}
