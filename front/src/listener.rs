//! Where clients connect.

use crate::{
    auth::{self, Authenticator},
    connection::{self, Shared},
    limits::Limits,
    origin::{Origin, Slots},
    service::Service,
    tls::Tls,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener is made of.
pub struct Settings {
    /// `127.0.0.1:5986`, `[::1]:5986`, `host.example:5986`; port 0 is any free one. A name stands for all of its
    /// addresses.
    pub addresses: Vec<String>,
    /// `None`: plain HTTP, on loopback only.
    pub tls: Option<Arc<Tls>>,
    /// What clients are told that they log in to: `WSMAN`.
    pub realm: &'static str,
    pub limits: Limits,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{address} does not resolve")]
    Unresolved { address: String, source: io::Error },
    #[error("{address} can be reached from outside: without TLS, passwords would be readable on the way")]
    PlainBeyondLoopback { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Serves until it is shut down or dropped.
pub struct Listener {
    /// With the ports that were free.
    pub addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

impl Listener {
    /// Listens on all addresses, or on none.
    pub async fn bind(
        settings: Settings,
        authenticator: Arc<Authenticator>,
        service: Arc<dyn Service>,
    ) -> Result<Self, BindError> {
        let Settings { addresses, tls, realm, limits } = settings;
        let mut listeners = vec![];
        for address in resolve(&addresses).await? {
            if tls.is_none() && !address.ip().is_loopback() {
                return Err(BindError::PlainBeyondLoopback { address });
            }
            let listen = |source| BindError::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(listen)?;
            listeners.push((listener.local_addr().map_err(listen)?, listener));
        }
        let shared = Arc::new(Shared {
            challenges: auth::challenges(realm, tls.is_some() && authenticator.takes_tickets()),
            tls,
            authenticator,
            service,
            limits,
            slots: Arc::new(Slots::default()),
            stop: Default::default(),
            abort: Default::default(),
            connections: Default::default(),
            handlers: Default::default(),
        });
        let addresses = listeners.iter().map(|(address, _)| *address).collect();
        for (_, listener) in listeners {
            shared.connections.spawn(accept(listener, shared.clone()));
        }
        Ok(Self { addresses, shared })
    }

    /// Stops listening, lets answers on their way finish ([`Limits::shutdown_time`]), and waits until whatever the
    /// service has begun is done.
    pub async fn shutdown(self) {
        let shared = &self.shared;
        shared.stop.cancel();
        shared.connections.close();
        shared.handlers.close();
        let _ = tokio::time::timeout(shared.limits.shutdown_time, shared.connections.wait()).await;
        shared.abort.cancel();
        shared.connections.wait().await;
        shared.handlers.wait().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

async fn resolve(addresses: &[String]) -> Result<Vec<SocketAddr>, BindError> {
    let mut resolved = vec![];
    for address in addresses {
        let found = tokio::net::lookup_host(address.as_str()).await;
        let found = found.map_err(|source| BindError::Unresolved { address: address.clone(), source })?;
        for address in found {
            if !resolved.contains(&address) {
                resolved.push(address);
            }
        }
    }
    Ok(resolved)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((tcp, from)) => {
                // An IPv4 client of a listener for both comes with an IPv6 address.
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                let Limits { connections_max, connections_per_address_max, .. } = shared.limits;
                let origin = Origin::from(from.ip());
                let Some(slot) = shared.slots.take(origin, connections_max, connections_per_address_max)
                else {
                    tracing::debug!(%from, "too many connections");
                    continue;
                };
                let connection = connection::serve(tcp, from, shared.clone());
                shared.connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
