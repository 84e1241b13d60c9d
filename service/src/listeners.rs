//! What lets the other hosts in: a listener for certificates and one for tickets. Each can be moved to another port
//! while the host serves.

use crate::{
    api::{ErrorKind, Failure},
    host::Host,
    link::Link,
    service_settings::ServiceSettings,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use transport::{Security, Server};

#[derive(Default)]
pub struct Listeners(Mutex<Open>);

/// `None`: not listening.
#[derive(Default)]
pub struct Open {
    tls: Option<Server>,
    kerberos: Option<Server>,
}

impl Listeners {
    /// Where hosts with certificates, and those with tickets, are listened to.
    pub fn addresses(&self) -> (Option<String>, Option<String>) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = |server: &Option<Server>| server.as_ref().map(|server| server.local_addr.to_string());
        (address(&open.tls), address(&open.kerberos))
    }

    /// Takes these in place of those that are open; the others are what it answers.
    fn replace(&self, with: Open) -> Open {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let put = |slot: &mut Option<Server>, server: Option<Server>| match server {
            Some(server) => slot.replace(server),
            None => None,
        };
        Open { tls: put(&mut open.tls, with.tls), kerberos: put(&mut open.kerberos, with.kerberos) }
    }

    pub async fn shutdown(&self) {
        let open = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        open.shutdown().await;
    }
}

impl Open {
    async fn shutdown(self) {
        futures::future::join_all(self.tls.into_iter().chain(self.kerberos).map(Server::shutdown)).await;
    }
}

/// Listens where the service's settings say, or else the configuration. Call inside a tokio runtime.
pub fn open(host: &Arc<Host>) -> Result<(), Failure> {
    let settings = host.service_settings();
    let chosen = |configured: SocketAddr, port: Option<u16>, security: Security, key: &str| {
        if let Some(port) = port {
            match bind(host, SocketAddr::new(configured.ip(), port), security.clone()) {
                Ok(server) => return Ok(server),
                // Who cannot be reached cannot be told of another port.
                Err(failure) => tracing::warn!(message = failure.message, "listening as configured instead"),
            }
        }
        bind(host, configured, security)
            .map_err(|failure| failure.hint(format!("{key} in the configuration sets the address")))
    };
    let config = &host.config;
    let mut open = Open {
        tls: Some(chosen(config.replication, settings.port, host.tls.clone().into(), "`replication`")?),
        kerberos: None,
    };
    if let Some(kerberos) = &host.kerberos {
        let key = "`listen` under [kerberos]";
        let server = chosen(config.kerberos.listen, settings.kerberos_port, kerberos.clone().into(), key)?;
        open.kerberos = Some(server);
    }
    host.listeners.replace(open);
    Ok(())
}

/// Listeners on the ports of `settings` where these are not those of `host`. Until they are [taken](take), nobody is
/// answered otherwise than before.
pub fn prepare(host: &Arc<Host>, settings: &ServiceSettings) -> Result<Open, Failure> {
    let before = host.service_settings();
    let mut open = Open::default();
    let config = &host.config;
    let ports = |port: Option<u16>, configured: SocketAddr| port.unwrap_or(configured.port());
    if ports(settings.port, config.replication) != ports(before.port, config.replication) {
        let address = SocketAddr::new(config.replication.ip(), ports(settings.port, config.replication));
        open.tls = Some(bind(host, address, host.tls.clone())?);
    }
    let listen = config.kerberos.listen;
    if ports(settings.kerberos_port, listen) != ports(before.kerberos_port, listen)
        && let Some(kerberos) = &host.kerberos
    {
        let address = SocketAddr::new(listen.ip(), ports(settings.kerberos_port, listen));
        open.kerberos = Some(bind(host, address, kerberos.clone())?);
    }
    Ok(open)
}

/// From now on these are the host's. What is being received over the old ones is cut, and resumed over these.
pub fn take(host: &Arc<Host>, prepared: Open) {
    let old = host.listeners.replace(prepared);
    host.tasks.spawn(old.shutdown());
}

fn bind(host: &Arc<Host>, address: SocketAddr, security: impl Into<Security>) -> Result<Server, Failure> {
    let link = Arc::new(Link { host: host.clone() });
    let server = Server::bind(address, security, link).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::AddrInUse => ErrorKind::InUse,
            std::io::ErrorKind::PermissionDenied => ErrorKind::AccessDenied,
            _ => ErrorKind::Failed,
        };
        Failure::new(kind, "listen", format!("cannot listen on {address}: {error}"))
    })?;
    tracing::info!(address = %server.local_addr, "listening for hosts");
    Ok(server)
}
