//! What instances are made from: the host, its VMs, its jobs, as plain data.

use crate::{instance::interval, refusals::Refusals};
use cim::{DateTime, Error};
use futures::{StreamExt, stream::BoxStream};
use model::{Authentication, HostName, JobId, VmId};
use service::{
    Host,
    api::{AuthorizationView, Command, Failure, HostView, JobView, Reply, Request},
    config::Dirs,
    inventory::{self, Machine, NetworkView, Parts},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

/// VMs that are looked at together: what an enumeration holds in memory.
const TOGETHER: usize = 32;

/// What everything refers to.
#[derive(Debug)]
pub struct World {
    /// The host's name, as it stands in keys.
    pub host: String,
    pub dirs: Dirs,
    /// Read when it is asked for.
    pub thumbprint: OnceLock<Option<String>>,
    /// Ports of peers that are not reached at the usual one.
    pub peer_ports: BTreeMap<(HostName, Authentication), u16>,
    /// Whether this host has a principal.
    pub has_kerberos: bool,
}

/// The host itself.
#[derive(Clone, Debug, PartialEq)]
pub struct HostFacts {
    pub view: HostView,
    pub authorizations: Vec<AuthorizationView>,
    pub networks: Vec<NetworkView>,
}

/// Where an instance lives: what it is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Host,
    Vm(VmId),
    Job(JobId),
}

/// What is known of a scope.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    Host(Box<HostFacts>),
    Vm(Box<Machine>),
    Job(Box<JobView>),
}

impl World {
    pub fn of(host: &Host) -> World {
        let peer_ports = host.config.peers.iter().flat_map(|(name, peer)| {
            let ports = [
                (Authentication::Certificate, &peer.address),
                (Authentication::Kerberos, &peer.kerberos_address),
            ];
            ports
                .into_iter()
                .filter_map(|(by, address)| Some(((name.clone(), by), port(address.as_deref()?)?)))
        });
        World {
            host: host.name.to_string(),
            dirs: host.dirs.clone(),
            thumbprint: OnceLock::new(),
            peer_ports: peer_ports.collect(),
            has_kerberos: host.kerberos.is_some(),
        }
    }

    /// The SHA-1 thumbprint of the host's certificate, in capitals.
    pub fn thumbprint(&self) -> Option<String> {
        let read = || Some(service::certs::own(&self.dirs)?.sha1.to_ascii_uppercase());
        self.thumbprint.get_or_init(read).clone()
    }

    /// The port at which this host reaches a peer.
    pub fn peer_port(&self, peer: &HostName, by: Authentication) -> u16 {
        let usual = match by {
            Authentication::Certificate => service::config::PORT,
            Authentication::Kerberos => service::config::KERBEROS_PORT,
        };
        self.peer_ports.get(&(peer.clone(), by)).copied().unwrap_or(usual)
    }
}

/// The port of `10.0.0.2:9443`, `[::1]:9443`, `name:9443`; none where the address has none.
pub fn port(address: &str) -> Option<u16> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Some(address.port());
    }
    let (name, port) = address.rsplit_once(':')?;
    if name.contains(':') { None } else { port.parse().ok() }
}

/// Asks the host.
pub async fn ask(host: &Arc<Host>, command: Command) -> Result<Reply, Failure> {
    service::execute(host, &Request { command, dry_run: false, wait: false }).await
}

pub async fn host_facts(host: &Arc<Host>) -> Result<HostFacts, Failure> {
    let unexpected = || Failure::new(service::api::ErrorKind::Failed, "failed", "an answer of another kind");
    let Reply::Host(view) = ask(host, Command::Host).await? else { return Err(unexpected()) };
    let Reply::Authorizations(authorizations) = ask(host, Command::AuthorizeList).await? else {
        return Err(unexpected());
    };
    Ok(HostFacts { view, authorizations, networks: inventory::networks(host).await })
}

/// One VM; none where there is no such VM.
pub async fn machine(host: &Arc<Host>, id: VmId, parts: Parts) -> Result<Option<Machine>, Failure> {
    Ok(inventory::machines(host, vec![id], parts).await?.pop())
}

/// One after the other, [`TOGETHER`] at a time.
pub fn machines(
    host: Arc<Host>,
    ids: Vec<VmId>,
    parts: Parts,
) -> BoxStream<'static, Result<Machine, Failure>> {
    let chunks: Vec<Vec<VmId>> = ids.chunks(TOGETHER).map(<[VmId]>::to_vec).collect();
    let look = move |ids| {
        let host = host.clone();
        async move { inventory::machines(&host, ids, parts).await }
    };
    let flat = |looked: Result<Vec<Machine>, Failure>| {
        let each = match looked {
            Ok(machines) => machines.into_iter().map(Ok).collect(),
            Err(failure) => vec![Err(failure)],
        };
        futures::stream::iter(each)
    };
    futures::stream::iter(chunks).then(look).flat_map(flat).boxed()
}

/// The host's jobs, and the calls that were refused lately.
pub async fn jobs(host: &Arc<Host>, refusals: &Refusals) -> Vec<JobView> {
    let mut jobs = match ask(host, Command::JobList).await {
        Ok(Reply::Jobs(jobs)) => jobs,
        _ => vec![],
    };
    jobs.extend(refusals.all());
    jobs
}

pub async fn job(host: &Arc<Host>, refusals: &Refusals, job: JobId) -> Option<JobView> {
    match ask(host, Command::JobShow { job }).await {
        Ok(Reply::Job(view)) => Some(*view),
        _ => refusals.find(job),
    }
}

/// `TimeBeforeRemoval` of a job: how long it can be asked for after its end.
pub fn time_before_removal() -> DateTime {
    interval(300.0)
}

/// A failure where there is no return code to say it with.
pub fn error(failure: &Failure) -> Error {
    Error::new(crate::errors::codes(failure).status, &failure.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port() {
        assert_eq!(port("10.0.0.2:9444"), Some(9444));
        assert_eq!(port("[::1]:9444"), Some(9444));
        assert_eq!(port("b.example:1"), Some(1));
        for without in ["10.0.0.2", "::1", "b.example", "fe80::1"] {
            assert_eq!(port(without), None, "{without}");
        }
    }
}
