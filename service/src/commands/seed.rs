//! Seeds: copies of a VM's disks that stand on this host before it becomes the VM's replica, so that a first
//! copy only has to send what differs. A VM that an operator marked (restored from a backup, say), or what an
//! earlier replica left behind.
//!
//! The mark lies in the catalog. It is looked at anew when it is used: nothing that was true when it was made
//! is relied on.

use crate::{
    api::{ErrorKind, Failure, Reply, error::chain},
    host::{DiskRecord, Host, document},
    owner::blocking,
    peer::PeerDisk,
};
use engine::Relationship;
use hypervisor::{DomainInfo, DomainState};
use model::VmId;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, sync::Arc};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    pub name: String,
    pub disks: Vec<SeedDisk>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedDisk {
    pub target: String,
    /// The topmost file of the disk's chain.
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: String,
    pub size_bytes: u64,
}

/// `relevo seed VM`: the VM is not to run here, but to become the replica of its namesake on another host.
pub async fn mark(host: &Arc<Host>, vm: &str, forget: bool) -> Result<Reply, Failure> {
    let (host, vm) = (host.clone(), vm.to_owned());
    let message = blocking(move || {
        let found = host.hypervisor.find(&vm).map_err(|e| Failure::internal("find the VM", &e))?;
        let id = found.or_else(|| vm.parse().ok()).ok_or_else(|| super::unknown_vm(&vm))?;
        if forget {
            host.document::<Seed>(id, document::SEED)?.ok_or_else(|| none(&host, id))?;
            host.drop_document(id, document::SEED)?;
            return Ok(format!("{vm} is no seed any more; its disks stay"));
        }
        if let Some(owner) = host.owner(id) {
            let record = owner.record();
            let message = format!("{} is replicated already: this host is its {}", record.name, record.mode);
            return Err(Failure::new(ErrorKind::InvalidState, "already-protected", message));
        }
        let domain = host.hypervisor.domain(id).map_err(|e| Failure::internal("look at the VM", &e))?;
        let seed = of_domain(&domain.ok_or_else(|| super::unknown_vm(&vm))?)?;
        host.put_document(id, document::SEED, &seed)?;
        Ok(format!(
            "{vm} is a seed: where it runs, `relevo protect {vm} --to {} --seed` sends what differs",
            host.name
        ))
    })
    .await?;
    Ok(Reply::Done { message })
}

/// A VM's disks as a seed. Refused is what would not be its disks' content as it stands.
fn of_domain(domain: &DomainInfo) -> Result<Seed, Failure> {
    let name = &domain.name;
    let refuse = |id: &str, message: String| Err(Failure::new(ErrorKind::InvalidState, id, message));
    if domain.state != DomainState::ShutOff {
        return refuse("running", format!("{name} is {}: a seed does not run; shut it down", domain.state));
    }
    if domain.has_managed_save {
        return refuse("managed-save", format!("{name} has a managed-save image, which would be lost"));
    }
    if !domain.internal_snapshots.is_empty() {
        let names = domain.internal_snapshots.join(", ");
        return refuse("internal-snapshots", format!("{name} has snapshots ({names}): delete them first"));
    }
    let mut disks = vec![];
    for disk in domain.disks.iter().filter(|disk| disk.is_replicated()) {
        let why = disk.refused.clone().or_else(|| disk.path().is_none().then(|| "it has no file".to_owned()));
        if let Some(why) = why {
            let message = format!("disk {} of {name}: {why}", disk.target);
            return Err(Failure::new(ErrorKind::NotSupported, "disk-refused", message));
        }
        disks.push(SeedDisk {
            target: disk.target.clone(),
            path: disk.path().map(ToOwned::to_owned).unwrap_or_default(),
            format: if disk.format == "raw" { "raw".to_owned() } else { "qcow2".to_owned() },
            size_bytes: disk.size_bytes,
        });
    }
    Ok(Seed { name: name.clone(), disks })
}

/// What the newest point of a replica that is being given up consists of.
pub fn left_behind(host: &Host, record: &Relationship) -> Result<Option<Seed>, Failure> {
    let (Some(latest), None) = (record.latest, &record.failed_over) else { return Ok(None) };
    let store = host.store(record.vm)?;
    let failed = |e: layers::LayersError| Failure::internal("read the newest point's layers", &e);
    let chains = store.chain(latest).map_err(failed)?;
    let layers = host.catalog.layers(record.vm).map_err(|e| Failure::internal("read the layers", &e))?;
    let disks = host.disks(record.vm)?.into_iter().filter_map(|disk| {
        let (_, chain) = chains.iter().find(|(id, _)| *id == disk.disk)?;
        let layer = layers.iter().find(|layer| layer.disk == disk.disk && layer.delta == latest)?;
        let top = chain.last()?;
        Some(SeedDisk {
            target: disk.target,
            path: top.path.clone(),
            format: crate::steps::takeover::format_name(top.format).to_owned(),
            size_bytes: layer.size_bytes,
        })
    });
    Ok(Some(Seed { name: record.name.clone(), disks: disks.collect() }))
}

/// The seed that stands here for a VM with these disks. Refused where there is none, or where it differs in
/// number or size.
pub fn fitting(host: &Host, vm: VmId, disks: &[PeerDisk]) -> Result<Seed, Failure> {
    let marked: Seed = host.document(vm, document::SEED)?.ok_or_else(|| none(host, vm))?;
    let domain = host.hypervisor.domain(vm).map_err(|e| Failure::internal("look at the seed", &e))?;
    let seed = domain.as_ref().map_or(Ok(marked), of_domain)?;
    let differs = |disk: &str, what: String| {
        let message = format!("the seed of {} on {}: disk {disk}: {what}", seed.name, host.name);
        Failure::new(ErrorKind::InvalidParameter, "seed-differs", message)
            .hint("restore a copy with the same disks, or protect the VM without --seed")
    };
    for disk in disks {
        let target = &disk.target;
        let Some(own) = seed.disks.iter().find(|own| own.target == *target) else {
            return Err(differs(target, "the seed has no such disk".to_owned()));
        };
        if own.size_bytes != disk.size_bytes {
            let what = format!("it has {} bytes, the VM's {}", own.size_bytes, disk.size_bytes);
            return Err(differs(target, what));
        }
        if let Err(error) = std::fs::File::open(&own.path) {
            return Err(differs(target, format!("cannot open {}: {error}", own.path.display())));
        }
    }
    match seed.disks.iter().find(|own| !disks.iter().any(|disk| disk.target == own.target)) {
        Some(extra) => Err(differs(&extra.target, "the VM replicates no such disk".to_owned())),
        None => Ok(seed),
    }
}

fn none(host: &Host, vm: VmId) -> Failure {
    let message = format!("no seed of this VM ({vm}) stands on {}", host.name);
    Failure::new(ErrorKind::InvalidState, "no-seed", message).hint(format!(
        "on {}: `relevo seed VM` marks a VM that is there, with the same UUID, as one",
        host.name
    ))
}

/// The replica's disks, where the seed has them.
pub fn records(seed: Option<&Seed>, disks: &[PeerDisk]) -> Vec<DiskRecord> {
    let record = |disk: &PeerDisk| {
        let own = seed.and_then(|seed| seed.disks.iter().find(|own| own.target == disk.target));
        DiskRecord {
            disk: disk.disk,
            target: disk.target.clone(),
            size_bytes: disk.size_bytes,
            path: own.map(|own| own.path.clone()),
            format: own.map_or_else(|| "qcow2".to_owned(), |own| own.format.clone()),
        }
    };
    disks.iter().map(record).collect()
}

/// Gives a VM back that was to become a replica, and was never compared.
pub fn give_back(host: &Host, vm: VmId) -> Result<(), Failure> {
    let Some(xml) = host.document::<String>(vm, document::OWN_XML)? else { return Ok(()) };
    if let Err(error) = host.hypervisor.define(&xml) {
        let message = format!("cannot define the VM again: {}", chain(&error));
        return Err(Failure::new(ErrorKind::Failed, "libvirt", message));
    }
    Ok(())
}
