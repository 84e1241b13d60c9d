//! Another set of disks for a VM that is protected: added ones are copied, those that are left out go out of later
//! points.

use super::{operate, owner, protect};
use crate::{
    api::{ErrorKind, Failure, Reply},
    host::{DiskRecord, Host, document},
    owner::{blocking, refused},
};
use engine::Operation;
use hypervisor::DomainInfo;
use model::Mode;
use std::sync::Arc;

pub async fn set(host: &Arc<Host>, vm: &str, targets: &[String]) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    if record.mode != Mode::Primary {
        let message = format!("the disks of {} are chosen on {}, its primary", record.name, record.peer);
        return Err(Failure::new(ErrorKind::WrongHost, "wrong-host", message));
    }
    let operation = Operation::UpdateDisks;
    record.permit(&operation).map_err(|refusal| refused(&record, &operation, &refusal))?;
    let (finder, id) = (host.clone(), record.vm);
    let domain = blocking(move || finder.hypervisor.domain(id)).await;
    let domain = domain.map_err(|e| Failure::internal("look at the VM", &e))?;
    let domain = domain.ok_or_else(|| super::unknown_vm(vm))?;
    let known = host.disks(record.vm)?;
    let mut wanted = protect::chosen_disks(&domain, Some(targets))?;
    for disk in &mut wanted {
        if let Some(same) = known.iter().find(|known| is_same(known, disk, &domain)) {
            *disk = DiskRecord { size_bytes: disk.size_bytes, ..same.clone() };
        }
    }
    let of = |disks: &[DiskRecord]| disks.iter().map(|disk| disk.disk).collect::<Vec<_>>();
    if of(&wanted) == of(&known) {
        return Ok(Reply::Done { message: format!("{}: these disks are replicated already", record.name) });
    }
    // Raw disks are tracked by overlays, and all of a VM's disks are tracked alike.
    let raw = |disks: &[DiskRecord]| disks.iter().any(|disk| disk.format == "raw");
    if raw(&wanted) != raw(&known) {
        let message = format!("{}: its changes would have to be tracked in another way", record.name);
        return Err(Failure::new(ErrorKind::NotSupported, "disk-tracking", message)
            .hint("end the protection and protect the VM again; `--seed` makes it short"));
    }
    let left_out = known.iter().find(|disk| !of(&wanted).contains(&disk.disk));
    if let Some(left_out) = left_out.filter(|_| raw(&known)) {
        let message = format!(
            "disk {} of {} stands on an overlay like all of them, and cannot be left out alone",
            left_out.target, record.name
        );
        return Err(Failure::new(ErrorKind::NotSupported, "disk-tracking", message)
            .hint("end the protection and protect the VM again; `--seed` makes it short"));
    }
    protect::trackable(host, &domain, &wanted).await?;
    host.put_document(record.vm, document::DISKS, &wanted)?;
    operate::begin(host, &owner, operation).await
}

/// A disk at the same place that is another file is another disk. One that is tracked by overlays stands below one.
fn is_same(known: &DiskRecord, disk: &DiskRecord, domain: &DomainInfo) -> bool {
    let info = domain.disks.iter().find(|info| info.target == disk.target);
    let below = info.into_iter().flat_map(|info| &info.backing_chain);
    known.target == disk.target
        && (known.path == disk.path
            || below.into_iter().any(|layer| Some(&layer.path) == known.path.as_ref()))
}
