//! The network addresses that a VM gets in its guest after a failover: kept per adapter, checked when they are set,
//! applied through the guest agent.

pub mod apply;
pub mod plan;

use crate::{
    api::{AdapterAddresses, ErrorKind, Failure},
    host::{Host, document},
};
use model::VmId;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// Stands from a failover until the addresses are applied, or could not be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Due;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub applied: bool,
    /// What was done, or why it was not.
    pub message: String,
}

/// What is set for the VM's adapters.
pub fn set(host: &Host, vm: VmId) -> Vec<AdapterAddresses> {
    host.document(vm, document::ADDRESSES).ok().flatten().unwrap_or_default()
}

/// The networks into which adapters go in a test failover here, by MAC address in lower case; none: as configured.
pub fn test_networks(host: &Host, vm: VmId) -> BTreeMap<String, String> {
    host.document(vm, document::TEST_NETWORKS).ok().flatten().unwrap_or_default()
}

/// The VM was failed over to this host: once it runs, its guest gets what is set.
pub fn become_due(host: &Host, vm: VmId) -> Result<(), Failure> {
    host.drop_document(vm, document::ADDRESSES_OUTCOME)?;
    if set(host, vm).is_empty() { Ok(()) } else { host.put_document(vm, document::ADDRESSES_DUE, &Due) }
}

pub fn is_due(host: &Host, vm: VmId) -> bool {
    host.document::<Due>(vm, document::ADDRESSES_DUE).ok().flatten().is_some()
}

pub fn outcome(host: &Host, vm: VmId) -> Option<Outcome> {
    host.document(vm, document::ADDRESSES_OUTCOME).ok().flatten()
}

/// Gives the guest what is set, under a job, and notes how it ended. Broken off by the daemon's end, it stays due.
pub fn apply_now(host: &Host, vm: VmId, name: &str) -> Result<(), Failure> {
    let (job, _) = host.jobs.begin(Some((vm, name)), "apply failover addresses", JOB_TYPE);
    let adapters: Result<Vec<_>, Failure> =
        set(host, vm).iter().map(|set| Ok((set.mac.clone(), read(set)?))).collect();
    let guest = apply::Guest { hypervisor: &host.hypervisor, vm, cancel: &host.shutdown };
    let result =
        adapters.map_err(|failure| failure.message).and_then(|adapters| apply::apply(&guest, &adapters));
    if host.shutdown.is_cancelled() {
        return Ok(());
    }
    let (applied, message) = match &result {
        Ok(message) | Err(message) => (result.is_ok(), message.clone()),
    };
    if applied {
        tracing::info!(vm = %name, message, "the guest has its addresses");
    } else {
        tracing::warn!(vm = %name, message, "the guest does not have its addresses");
    }
    host.jobs.end(
        job,
        result.map_err(|why| Failure::new(ErrorKind::Failed, "addresses", format!("{name}: {why}"))),
    );
    host.put_document(vm, document::ADDRESSES_OUTCOME, &Outcome { applied, message })?;
    host.drop_document(vm, document::ADDRESSES_DUE)
}

/// Hyper-V has no number for it; 92 is that of other settings.
const JOB_TYPE: u16 = 92;

/// As at Hyper-V.
const GATEWAYS_MAX: usize = 5;

/// An address with the length of its subnet's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub address: IpAddr,
    pub prefix: u8,
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What one adapter gets, as parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// IPv4 by DHCP.
    pub dhcp: bool,
    pub subnets: Vec<Subnet>,
    pub gateways: Vec<IpAddr>,
    pub dns: Vec<IpAddr>,
}

/// Reads what was set for an adapter; a refusal names what is wrong with which value.
pub fn read(set: &AdapterAddresses) -> Result<Wanted, Failure> {
    let AdapterAddresses { mac, dhcp, addresses, subnets, gateways, dns } = set;
    let refuse =
        |why: String| Failure::new(ErrorKind::InvalidParameter, "addresses", format!("{mac}: {why}"));
    let ips = |name: &str, texts: &[String]| -> Result<Vec<IpAddr>, Failure> {
        let parse = |text: &String| {
            text.parse().map_err(|_| refuse(format!("{name} {text:?} is not an IPv4 or IPv6 address")))
        };
        texts.iter().map(parse).collect()
    };
    let ip = ips("IPAddresses", addresses)?;
    if subnets.len() != addresses.len() {
        return Err(refuse(format!(
            "Subnets has {} values and IPAddresses {}: each address has its subnet",
            subnets.len(),
            addresses.len()
        )));
    }
    let subnet = |(address, text): (&IpAddr, &String)| {
        let prefix = prefix(*address, text).ok_or_else(|| {
            refuse(format!("Subnets {text:?} is no mask or prefix length for the address {address}"))
        })?;
        Ok(Subnet { address: *address, prefix })
    };
    let subnets = ip.iter().zip(subnets).map(subnet).collect::<Result<Vec<_>, Failure>>()?;
    let gateways = ips("DefaultGateways", gateways)?;
    if gateways.len() > GATEWAYS_MAX {
        return Err(refuse(format!(
            "DefaultGateways has {} values: allowed are {GATEWAYS_MAX}",
            gateways.len()
        )));
    }
    if *dhcp && let Some(address) = ip.iter().find(|address| address.is_ipv4()) {
        return Err(refuse(format!("IPAddresses {address}: with DHCP there is no other IPv4 address")));
    }
    if let Some(bad) = ip.iter().find(|ip| ip.is_unspecified() || ip.is_multicast() || ip.is_loopback()) {
        return Err(refuse(format!("IPAddresses {bad} is no address that an adapter can have")));
    }
    let lone = |gateway: &&IpAddr| {
        let dhcp_gives = *dhcp && gateway.is_ipv4();
        !dhcp_gives && !ip.iter().any(|own| own.is_ipv4() == gateway.is_ipv4())
    };
    if let Some(gateway) = gateways.iter().find(lone) {
        return Err(refuse(format!("DefaultGateways {gateway}: no address of its family is set")));
    }
    Ok(Wanted { dhcp: *dhcp, subnets, gateways, dns: ips("DNSServers", dns)? })
}

/// `24`, `/24`, `255.255.255.0`, `64`.
fn prefix(address: IpAddr, text: &str) -> Option<u8> {
    let length = text.trim_start_matches('/').parse().ok();
    match (address, length) {
        (IpAddr::V4(_), Some(length @ 1..=32)) | (IpAddr::V6(_), Some(length @ 1..=128)) => Some(length),
        (IpAddr::V4(_), None) => {
            let mask = u32::from(text.parse::<std::net::Ipv4Addr>().ok()?);
            let ones = mask.leading_ones();
            (ones > 0 && mask.checked_shl(ones).unwrap_or(0) == 0)
                .then(|| u8::try_from(ones).expect("at most 32"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[(&str, &str)], gateways: &[&str]) -> AdapterAddresses {
        AdapterAddresses {
            mac: "52:54:00:00:00:01".into(),
            addresses: addresses.iter().map(|(address, _)| (*address).to_owned()).collect(),
            subnets: addresses.iter().map(|(_, subnet)| (*subnet).to_owned()).collect(),
            gateways: gateways.iter().map(|gateway| (*gateway).to_owned()).collect(),
            ..AdapterAddresses::default()
        }
    }

    #[test]
    fn addresses_of_both_families_have_masks_or_prefixes() {
        let read = read(&set(
            &[("10.0.0.5", "255.255.255.0"), ("10.0.1.5", "22"), ("fd00::5", "64")],
            &["10.0.0.1", "fd00::1"],
        ));
        let shown: Vec<_> = read.unwrap().subnets.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.5/24", "10.0.1.5/22", "fd00::5/64"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        let five = ["10.0.0.1"; 6];
        for (set, told) in [
            (set(&[("10.0.0", "24")], &[]), "IPAddresses \"10.0.0\""),
            (set(&[("10.0.0.5", "255.0.255.0")], &[]), "Subnets \"255.0.255.0\""),
            (set(&[("10.0.0.5", "33")], &[]), "Subnets \"33\""),
            (set(&[("fd00::5", "255.255.255.0")], &[]), "Subnets"),
            (set(&[("10.0.0.5", "24")], &five), "DefaultGateways has 6 values: allowed are 5"),
            (set(&[("10.0.0.5", "24")], &["fd00::1"]), "no address of its family"),
            (set(&[("127.0.0.1", "8")], &[]), "no address that an adapter can have"),
            (AdapterAddresses { subnets: vec![], ..set(&[("10.0.0.5", "24")], &[]) }, "Subnets has 0 values"),
            (AdapterAddresses { dhcp: true, ..set(&[("10.0.0.5", "24")], &[]) }, "with DHCP"),
            (AdapterAddresses { dns: vec!["dns.example".into()], ..set(&[], &[]) }, "DNSServers"),
        ] {
            let failure = read(&set).unwrap_err();
            assert!(failure.message.contains(told), "{}", failure.message);
            assert_eq!(failure.kind, ErrorKind::InvalidParameter);
        }
    }
}
