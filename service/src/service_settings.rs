//! Settings of the service that management clients may change while it runs: kept in the catalog, over what the
//! configuration says.

use crate::{
    api::{ErrorKind, Failure, Reply, ServiceChange},
    config::MonitoringConfig,
    host::Host,
    listeners,
};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

const KEY: &str = "service-settings";
const MONITORING_INTERVAL_S: std::ops::RangeInclusive<u32> = 3600..=604_800;
const DAY_S: u32 = 86_400;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSettings {
    /// What other hosts send is refused.
    pub refuses_replicas: bool,
    pub monitoring: Option<MonitoringConfig>,
    /// Where other hosts are let in, if not where the configuration says.
    pub port: Option<u16>,
    pub kerberos_port: Option<u16>,
}

/// What the catalog has; nothing where it has nothing that could be read.
pub fn load(catalog: &catalog::Catalog) -> ServiceSettings {
    let text = catalog.get_meta(KEY).ok().flatten();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl Host {
    pub fn service_settings(&self) -> ServiceSettings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn monitoring(&self) -> MonitoringConfig {
        self.service_settings().monitoring.unwrap_or_else(|| self.config.monitoring.clone())
    }

    /// Refuses where this host does not receive replicas.
    pub fn receives(&self) -> Result<(), Failure> {
        if !self.service_settings().refuses_replicas {
            return Ok(());
        }
        let message = format!("{} does not receive replicas: its recovery server is switched off", self.name);
        Err(Failure::new(ErrorKind::AccessDenied, "recovery-server-off", message)
            .hint(format!("on {}: relevo host --recovery-server on", self.name)))
    }
}

/// All of it, or nothing: what could be refused is tried before anything is kept.
pub fn change(host: &Arc<Host>, change: &ServiceChange) -> Result<Reply, Failure> {
    let mut settings = host.service_settings();
    let monitoring = monitoring(host.monitoring(), change)?;
    settings.monitoring = Some(monitoring).filter(|monitoring| *monitoring != host.config.monitoring);
    if let Some(receives) = change.recovery_server {
        settings.refuses_replicas = !receives;
    }
    let other = |port: u16, configured: SocketAddr| Some(port).filter(|port| *port != configured.port());
    if let Some(port) = change.port {
        settings.port = other(allowed(port)?, host.config.replication);
    }
    if let Some(port) = change.kerberos_port {
        if host.kerberos.is_none() {
            let message = format!("port {port} for Kerberos: this host has no principal");
            return Err(Failure::new(ErrorKind::NotSupported, "no-kerberos", message)
                .hint("`keytab` under [kerberos] in the configuration, and a restart"));
        }
        settings.kerberos_port = other(allowed(port)?, host.config.kerberos.listen);
    }
    let listeners = listeners::prepare(host, &settings)?;
    if let Some(thumbprint) = &change.certificate {
        show(host, thumbprint)?;
    }
    let text = serde_json::to_string(&settings).expect("plain data");
    host.catalog.put_meta(KEY, &text).map_err(|error| Failure::internal("save the settings", &error))?;
    *host.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    listeners::take(host, listeners);
    Ok(Reply::Done { message: "the settings of the service are changed".to_owned() })
}

/// Shows the certificate with this thumbprint from now on, or goes on with the one before.
fn show(host: &Host, thumbprint: &str) -> Result<(), Failure> {
    let before = crate::certs::own(&host.dirs);
    crate::certs::choose(&host.dirs, thumbprint, &host.name)?;
    host.reload_certificates().inspect_err(|_| {
        let back = before.map(|before| crate::certs::choose(&host.dirs, &before.sha1, &host.name));
        if let Some(Ok(())) = back {
            let _ = host.reload_certificates();
        }
    })
}

fn allowed(port: u16) -> Result<u16, Failure> {
    let message = || "port 0: allowed are 1 to 65535".to_owned();
    if port > 0 { Ok(port) } else { Err(Failure::new(ErrorKind::InvalidParameter, "port", message())) }
}

fn monitoring(mut monitoring: MonitoringConfig, change: &ServiceChange) -> Result<MonitoringConfig, Failure> {
    let invalid = |message: String| Failure::new(ErrorKind::InvalidParameter, "monitoring", message);
    if let Some(interval_s) = change.monitoring_interval_s {
        if !MONITORING_INTERVAL_S.contains(&interval_s) {
            return Err(invalid(format!("monitoring interval {interval_s} s: allowed are 3600 to 604800 s")));
        }
        monitoring.interval_s = interval_s;
    }
    if let Some(start_s) = change.monitoring_start_s {
        if start_s >= DAY_S {
            return Err(invalid(format!(
                "monitoring start {start_s} s: it is a time of the day, below 86400 s"
            )));
        }
        monitoring.start_s = start_s;
    }
    Ok(monitoring)
}
