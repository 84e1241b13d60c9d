//! The addresses that a VM's adapters get in the guest after a failover to this host.

use super::owner;
use crate::{
    addresses,
    api::{AdapterAddresses, ErrorKind, Failure, Reply},
    changes::Change,
    host::{Host, document},
    inventory,
    owner::blocking,
    views,
};
use std::{collections::BTreeMap, sync::Arc};

pub async fn set(host: &Arc<Host>, vm: &str, adapters: Vec<AdapterAddresses>) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let (copy, id) = (host.clone(), owner.vm);
    let macs = blocking(move || views::macs(&copy, id)).await;
    let mut all = addresses::set(host, owner.vm);
    for mut set in adapters {
        set.mac = set.mac.to_ascii_lowercase();
        check_adapter(vm, &set.mac, &macs)?;
        addresses::read(&set)?;
        all.retain(|other| other.mac != set.mac);
        if !set.is_empty() {
            all.push(set);
        }
    }
    host.put_document(owner.vm, document::ADDRESSES, &all)?;
    Ok(Reply::Done {
        message: format!("{}: {} adapters get addresses after a failover", owner.record().name, all.len()),
    })
}

/// The libvirt network into which each adapter goes in a test failover here, by MAC address; `None`: as configured.
pub async fn set_test_networks(
    host: &Arc<Host>,
    vm: &str,
    adapters: BTreeMap<String, Option<String>>,
) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let (copy, id) = (host.clone(), owner.vm);
    let macs = blocking(move || views::macs(&copy, id)).await;
    let known = inventory::networks(host).await;
    let mut all = addresses::test_networks(host, owner.vm);
    for (mac, network) in adapters {
        let mac = mac.to_ascii_lowercase();
        check_adapter(vm, &mac, &macs)?;
        // Where libvirt tells of no network at all, it may not be able to.
        if let Some(network) = network.as_ref().filter(|_| !known.is_empty())
            && !known.iter().any(|known| known.name == *network)
        {
            let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
            let message = format!("there is no network {network:?} here: they are {}", names.join(", "));
            return Err(Failure::new(ErrorKind::InvalidParameter, "network-unknown", message));
        }
        match network {
            Some(network) => all.insert(mac, network),
            None => all.remove(&mac),
        };
    }
    host.put_document(owner.vm, document::TEST_NETWORKS, &all)?;
    host.changes.publish(Change::Vm(owner.vm));
    Ok(Reply::Done {
        message: format!("{}: {} adapters have a network for test failovers", owner.record().name, all.len()),
    })
}

fn check_adapter(vm: &str, mac: &str, macs: &[String]) -> Result<(), Failure> {
    if macs.iter().any(|known| known == mac) {
        return Ok(());
    }
    let message = format!("{vm} has no adapter {mac}: its adapters are {}", macs.join(", "));
    Err(Failure::new(ErrorKind::InvalidParameter, "adapter-unknown", message))
}

/// Once more, where it failed, or after another choice.
pub async fn apply(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    if !record.may_run() {
        let message = format!("{} runs on {}: its guest gets addresses there", record.name, record.peer);
        return Err(Failure::new(ErrorKind::WrongHost, "wrong-host", message));
    }
    addresses::become_due(host, owner.vm)?;
    if !addresses::is_due(host, owner.vm) {
        let message = format!("no addresses are set for {}", record.name);
        return Err(Failure::new(ErrorKind::InvalidState, "no-addresses", message).hint(format!(
            "relevo failover-network {} --adapter MAC --address ADDRESS/PREFIX",
            record.name
        )));
    }
    owner.amend(|_| {}).await?;
    Ok(Reply::Done {
        message: format!("the guest of {} gets its addresses; `relevo job list` shows how", record.name),
    })
}
