//! What has to be there before a VM is taken over or fetched home, looked at before anything is begun: libvirt, the
//! files, and a host that can run the VM.

use crate::{
    api::{ErrorKind, Failure, error::chain},
    host::{Host, document},
    owner::{blocking, libvirt},
    peer::{Answer, PeerRequest, PeerResult},
    steps,
};
use engine::{Operation, Relationship};
use hypervisor::Lacking;
use layers::LayersError;
use model::DeltaId;
use std::{
    fs,
    io::{self, ErrorKind as Io},
    path::Path,
    sync::Arc,
};

/// Refuses an operation on a VM that libvirt, this host or the lack of a file would make fail.
pub async fn check(host: &Arc<Host>, record: &Relationship, operation: &Operation) -> Result<(), Failure> {
    if !touches_domain(operation) {
        return Ok(());
    }
    let (copy, record, operation) = (host.clone(), record.clone(), operation.clone());
    let (vm, name) = (record.vm, record.name.clone());
    let hypervisor = host.hypervisor.clone();
    let state = libvirt(move || hypervisor.state(vm)).await?;
    state.map_err(|error| {
        let message = format!("libvirt does not tell whether {name} runs here: {}", chain(&error));
        Failure::new(ErrorKind::StatusUnknown, "libvirt-status", message)
            .hint("is libvirt running on this host?")
    })?;
    if matches!(operation, Operation::Prepare { .. }) {
        return peer_is_ready(host, &record).await;
    }
    blocking(move || match operation {
        Operation::Failover { point, .. } => point_is_ready(&copy, &record, point),
        Operation::PlannedFailover { .. } => point_is_ready(&copy, &record, None),
        Operation::CompleteFailback { point, .. } => {
            point_is_ready(&copy, &record, point.or(record.comes_home_as_of))
        }
        Operation::Failback { .. } => disks_are_ready(&copy, &record),
        _ => Ok(()),
    })
    .await
}

/// The other host looks before the guest is shut down. Whether it answers is seen to by the operation itself.
async fn peer_is_ready(host: &Host, record: &Relationship) -> Result<(), Failure> {
    match steps::ask(host, record, PeerRequest::MayTakeOver).await {
        Ok(Answer { result: PeerResult::Refused { failure }, .. }) => Err(failure),
        _ => Ok(()),
    }
}

/// Does it stop, start, define or undefine the VM.
fn touches_domain(operation: &Operation) -> bool {
    match operation {
        Operation::StartReplication
        | Operation::Export
        | Operation::Later { .. }
        | Operation::CancelStart
        | Operation::UpdateDisks
        | Operation::Suspend
        | Operation::Resume
        | Operation::Resynchronize
        | Operation::CancelResynchronize
        | Operation::Scrub
        | Operation::CancelFailback
        | Operation::Commit
        | Operation::Feed { .. } => false,
        Operation::Failover { .. }
        | Operation::Prepare { .. }
        | Operation::PlannedFailover { .. }
        | Operation::CancelPrepare
        | Operation::Revert
        | Operation::Reverse
        | Operation::ChangeToPrimary { .. }
        | Operation::Failback { .. }
        | Operation::CompleteFailback { .. }
        | Operation::Seed { .. }
        | Operation::Yield => true,
    }
}

/// The point's layers and its domain are there, and this host can run it.
pub fn point_is_ready(host: &Host, record: &Relationship, chosen: Option<DeltaId>) -> Result<(), Failure> {
    let store = host.store(record.vm)?;
    let latest = || host.owner(record.vm).and_then(|owner| owner.record().latest);
    // Nothing of it is merged away while it is looked at.
    let (point, _hold) = loop {
        let Some(point) = chosen.or_else(latest) else { return Ok(()) };
        match store.hold(point) {
            Ok(hold) => break (point, hold),
            // Another one is the latest by now.
            Err(LayersError::UnknownPoint { .. }) if chosen.or_else(latest) != Some(point) => {}
            Err(error) => return Err(point_failure(record, point, error)),
        }
    };
    let chains = store.chain(point).map_err(|error| point_failure(record, point, error))?;
    for layer in chains.iter().flat_map(|(_, chain)| chain) {
        readable(&layer.path)?;
    }
    let path = steps::domain_xml_path(&store, point);
    readable(&path)?;
    let xml = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
    name_is_free(host, record)?;
    can_run(host, record, &xml)
}

/// No other VM of this host has its name.
fn name_is_free(host: &Host, record: &Relationship) -> Result<(), Failure> {
    let name = &record.name;
    let named = host.hypervisor.find(name).map_err(|error| Failure::internal("look at the VMs", &error))?;
    let Some(other) = named.filter(|vm| *vm != record.vm) else { return Ok(()) };
    let message =
        format!("{} has another VM called {name} ({other}): {name} cannot be defined there", host.name);
    Err(Failure::new(ErrorKind::InvalidState, "name-taken", message)
        .hint(format!("`virsh domrename {name} NEW` on {} gives that one another name", host.name)))
}

pub fn point_failure(record: &Relationship, point: DeltaId, error: LayersError) -> Failure {
    match error {
        LayersError::UnknownPoint { .. } => {
            let message = format!("the recovery point {point} of {} is gone", record.name);
            Failure::new(ErrorKind::NotFound, "point-unknown", message)
                .hint("`relevo points VM` shows those that are kept")
        }
        error => Failure::internal("read the point's layers", &error),
    }
}

/// The VM's own disks are there, and this host can run it.
fn disks_are_ready(host: &Host, record: &Relationship) -> Result<(), Failure> {
    for disk in host.disks(record.vm)? {
        disk.path.as_deref().map_or(Ok(()), readable)?;
    }
    let defined = host.hypervisor.domain(record.vm);
    let defined = defined.map_err(|error| Failure::internal("look at the VM", &error))?.is_some();
    let xml = if defined {
        let xml = host.hypervisor.xml(record.vm, true);
        Some(xml.map_err(|error| Failure::internal("read the VM's definition", &error))?)
    } else {
        host.document(record.vm, document::OWN_XML)?
    };
    xml.map_or(Ok(()), |xml| can_run(host, record, &xml))
}

fn readable(path: &Path) -> Result<(), Failure> {
    fs::File::open(path).map(drop).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let (kind, id) = match error.kind() {
        Io::NotFound => (ErrorKind::NotFound, "file-missing"),
        _ => (ErrorKind::Failed, "file-unreadable"),
    };
    Failure::new(kind, id, format!("cannot open {}: {error}", path.display())).hint("is the storage mounted?")
}

fn can_run(host: &Host, record: &Relationship, xml: &str) -> Result<(), Failure> {
    let (name, here) = (&record.name, &host.name);
    let edited = hypervisor::xml::rename_cpu(xml, &host.config.cpu_models);
    let lacking = edited.and_then(|xml| host.hypervisor.lacks(&xml));
    match lacking.map_err(|error| Failure::internal("tell what the VM needs", &error))? {
        None => Ok(()),
        Some(Lacking::Machine(why)) => {
            let message = format!("{here} cannot run {name}: {why}");
            Err(Failure::new(ErrorKind::NotSupported, "cannot-run", message).hint(format!(
                "install what is missing on {here}; `virsh domcapabilities` shows what is there"
            )))
        }
        Some(Lacking::Memory { needed_bytes, host_bytes }) => {
            let message = format!(
                "{name} has {} MiB of memory, {here} has {} MiB, swap included",
                needed_bytes >> 20,
                host_bytes >> 20
            );
            Err(Failure::new(ErrorKind::NoMemory, "no-memory", message)
                .hint(format!("add memory or swap to {here}")))
        }
    }
}
