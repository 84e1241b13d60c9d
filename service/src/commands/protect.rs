//! Protecting a VM: every check before the first change, on both hosts; and ending it.

use super::owner;
use crate::{
    api::{Command, ErrorKind, Failure, Reply, error::chain},
    host::{DiskRecord, Host, document},
    owner::blocking,
    peer::{PeerDisk, PeerRequest, PeerResult},
    steps,
};
use engine::{Operation, Relationship, Settings};
use hypervisor::DomainInfo;
use model::{DiskId, HostName, Mode, VmId};
use std::sync::Arc;

fn settings(command: &Command) -> Result<Settings, Failure> {
    let Command::Protect {
        interval_s,
        history,
        history_every_s,
        bandwidth_bytes_per_s,
        auto_resynchronize,
        ..
    } = command
    else {
        return Err(Failure::new(ErrorKind::Failed, "failed", "not a protect command"));
    };
    let settings = Settings {
        interval_s: *interval_s,
        history: *history,
        history_every_s: *history_every_s,
        bandwidth_bytes_per_s: *bandwidth_bytes_per_s,
        auto_resynchronize: *auto_resynchronize,
    };
    super::settings::check(&settings)?;
    Ok(settings)
}

pub async fn protect(host: &Arc<Host>, command: &Command) -> Result<Reply, Failure> {
    let Command::Protect { vm, to, disks, start, .. } = command else {
        unreachable!("dispatched by variant")
    };
    let settings = settings(command)?;
    if *to == host.name {
        return Err(Failure::new(ErrorKind::InvalidParameter, "self", format!("{to} is this host"))
            .hint("a replica stands on another host"));
    }
    let domain = find(host, vm).await?;
    if let Some(owner) = host.owner(domain.vm) {
        let record = owner.record();
        return Err(Failure::new(
            ErrorKind::AlreadyExists,
            "already-protected",
            format!("{} is protected already, to {}", record.name, record.peer),
        )
        .hint(format!("`relevo status {}`; `relevo unprotect {}` ends it", record.name, record.name)));
    }
    let records = chosen_disks(&domain, disks.as_deref())?;
    obstacles(&domain)?;
    trackable(host, &domain, &records).await?;
    // The peer answers and lets us in, before anything is made.
    steps::ask_host(host, to, None, PeerRequest::Probe).await?;
    let way_back = host.authorization(std::slice::from_ref(to))?.is_some();
    let mut record = Relationship::primary(
        domain.vm,
        domain.name.clone(),
        host.name.clone(),
        to.clone(),
        settings.clone(),
    );
    record.wants_running = domain.state == hypervisor::DomainState::Running;
    let create = PeerRequest::Create {
        name: domain.name.clone(),
        settings,
        disks: records
            .iter()
            .map(|disk| PeerDisk {
                disk: disk.disk,
                target: disk.target.clone(),
                size_bytes: disk.size_bytes,
            })
            .collect(),
    };
    let answer = steps::ask_host(host, to, Some(&record), create).await?;
    if let PeerResult::Refused { failure } = answer.result {
        return Err(failure);
    }
    let vm_id = domain.vm;
    take_in(host, domain, &records).await?;
    let owner = host.adopt(record.clone())?;
    if !way_back {
        tracing::warn!(vm = %record.name, peer = %to, "the way back is closed: {to} is not authorized on this host");
    }
    if !start {
        return Ok(Reply::Done {
            message: format!("{} is protected, to {to}; nothing is copied yet", record.name),
        });
    }
    let (job, cancel) = host.jobs.begin(Some((vm_id, &record.name)), "first copy", 94);
    super::operate::follow_cancel(host, &owner, job, cancel);
    owner.operate(Operation::StartReplication, Some(job)).await?;
    host.jobs
        .view(job)
        .map(|view| Reply::Job(Box::new(view)))
        .ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

/// Does a host answer, and would it let us in.
pub async fn test_connection(host: &Arc<Host>, to: &HostName) -> Result<Reply, Failure> {
    steps::ask_host(host, to, None, PeerRequest::Probe).await?;
    Ok(Reply::Done { message: format!("{to} answers, and lets this host in") })
}

async fn find(host: &Arc<Host>, vm: &str) -> Result<DomainInfo, Failure> {
    let (host, vm) = (host.clone(), vm.to_owned());
    blocking(move || {
        let failed = |e: hypervisor::Error| Failure::internal("look at the VM", &e);
        let id = host.hypervisor.find(&vm).map_err(failed)?;
        let domain = id.map(|id| host.hypervisor.domain(id)).transpose().map_err(failed)?.flatten();
        match (domain, super::owner(&host, &vm)) {
            (Some(domain), _) => Ok(domain),
            (None, Ok(owner)) => {
                let record = owner.record();
                Err(Failure::new(
                    ErrorKind::AlreadyExists,
                    "already-protected",
                    format!("{} is protected already: this host is its {}", record.name, record.mode),
                ))
            }
            (None, Err(_)) => Err(super::unknown_vm(&vm)),
        }
    })
    .await
}

/// The disks to replicate: all that can be, or those that were named.
fn chosen_disks(domain: &DomainInfo, wanted: Option<&[String]>) -> Result<Vec<DiskRecord>, Failure> {
    if let Some(wanted) = wanted {
        for target in wanted {
            if !domain.disks.iter().any(|disk| disk.target == *target && disk.is_replicated()) {
                let have: Vec<_> =
                    domain.disks.iter().filter(|d| d.is_replicated()).map(|d| d.target.as_str()).collect();
                return Err(Failure::new(
                    ErrorKind::NotFound,
                    "disk-unknown",
                    format!("{} has no disk `{target}` that could be replicated", domain.name),
                )
                .hint(format!("its disks are {}", have.join(", "))));
            }
        }
    }
    let chosen: Vec<_> = domain
        .disks
        .iter()
        .filter(|disk| disk.is_replicated())
        .filter(|disk| wanted.is_none_or(|wanted| wanted.contains(&disk.target)))
        .collect();
    let refused: Vec<_> = chosen
        .iter()
        .filter_map(|disk| disk.refused.as_ref().map(|why| format!("{}: {why}", disk.target)))
        .collect();
    if !refused.is_empty() {
        return Err(Failure::new(
            ErrorKind::NotSupported,
            "disk-refused",
            format!("{} has disks that cannot be replicated: {}", domain.name, refused.join("; ")),
        )
        .hint("name the disks that shall be replicated with --disks"));
    }
    if chosen.is_empty() {
        return Err(Failure::new(
            ErrorKind::NotSupported,
            "no-disks",
            format!("{} has no disk that could be replicated", domain.name),
        ));
    }
    Ok(chosen
        .into_iter()
        .map(|disk| DiskRecord {
            disk: DiskId::random(),
            target: disk.target.clone(),
            size_bytes: disk.size_bytes,
            path: disk.path().map(ToOwned::to_owned),
            format: if disk.format == "raw" { "raw".to_owned() } else { "qcow2".to_owned() },
        })
        .collect())
}

fn obstacles(domain: &DomainInfo) -> Result<(), Failure> {
    let name = &domain.name;
    if !domain.persistent {
        return Err(Failure::new(
            ErrorKind::NotSupported,
            "transient",
            format!("{name} is transient: libvirt forgets it when it stops"),
        )
        .hint("define it persistently first"));
    }
    if !domain.internal_snapshots.is_empty() {
        return Err(Failure::new(
            ErrorKind::NotSupported,
            "internal-snapshots",
            format!(
                "{name} has internal snapshots ({}), which reverting would break while changes are tracked",
                domain.internal_snapshots.join(", ")
            ),
        )
        .hint("delete them (virsh snapshot-delete), or turn them into external ones"));
    }
    if domain.has_managed_save {
        return Err(Failure::new(
            ErrorKind::NotSupported,
            "managed-save",
            format!("{name} has a managed-save image"),
        )
        .hint("start it, or remove the image with `virsh managedsave-remove`"));
    }
    Ok(())
}

/// Asked of what is to do it, before anything is made on either host.
async fn trackable(host: &Arc<Host>, domain: &DomainInfo, disks: &[DiskRecord]) -> Result<(), Failure> {
    let (host, vm, name, disks) = (host.clone(), domain.vm, domain.name.clone(), disks.to_vec());
    blocking(move || {
        let refused = |why: String| Failure::new(ErrorKind::NotSupported, "disk-refused", why);
        let chosen: Vec<_> = disks.iter().map(|disk| disk.target.clone()).collect();
        let check = host
            .capture_of(vm, disks)
            .check()
            .map_err(|error| refused(format!("cannot track changes of {name}: {}", chain(&error))))?;
        match check.refused.iter().find(|(target, _)| chosen.contains(target)) {
            Some((target, why)) => Err(refused(format!("disk {target} of {name}: {why}"))),
            None => Ok(()),
        }
    })
    .await
}

/// What is remembered of a VM before its first cut. Its autostart becomes Relevo's, which asks the peer
/// before it starts anything.
async fn take_in(host: &Arc<Host>, domain: DomainInfo, disks: &[DiskRecord]) -> Result<(), Failure> {
    let vm = domain.vm;
    host.save_disks(vm, disks)?;
    host.put_document(vm, document::AUTOSTART, &domain.autostart)?;
    let host = host.clone();
    blocking(move || {
        host.hypervisor
            .set_autostart(vm, false)
            .map_err(|error| Failure::internal("take the VM's autostart over", &error))
    })
    .await
}

/// Ends the relationship on this host alone. The VM, or the replica's files, stay unless asked otherwise.
pub async fn unprotect(host: &Arc<Host>, vm: &str, delete_replica: bool) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    if delete_replica && record.mode == Mode::Primary {
        return Err(Failure::new(
            ErrorKind::WrongHost,
            "wrong-host",
            format!("the replica of {} is on {}", record.name, record.peer),
        )
        .hint(format!("run `relevo unprotect {} --delete-replica` on {}", record.name, record.peer)));
    }
    if delete_replica && record.may_run() {
        return Err(Failure::new(
            ErrorKind::InvalidState,
            "runs-here",
            format!("{} was failed over to this host: its layers are the disks that it runs on", record.name),
        )
        .hint("commit or revert the failover first"));
    }
    owner.stop().await;
    let (host_copy, name, peer) = (host.clone(), record.name.clone(), record.peer.clone());
    let kept = blocking(move || remove(&host_copy, &record, delete_replica)).await?;
    host.forget(owner.vm);
    Ok(Reply::Done {
        message: format!(
            "{name} is no longer replicated by this host; {kept}. {peer} has its own side: run the same there"
        ),
    })
}

fn remove(host: &Host, record: &Relationship, delete_replica: bool) -> Result<&'static str, Failure> {
    let vm: VmId = record.vm;
    let mut kept = "the VM goes on as it is";
    if record.mode == Mode::Primary {
        let capture = host.capture(vm)?;
        capture.release().map_err(|error| Failure::internal("drop the checkpoints", &error))?;
        let autostart: Option<bool> = host.document(vm, document::AUTOSTART)?;
        if autostart == Some(true) && record.may_run() {
            host.hypervisor
                .set_autostart(vm, true)
                .map_err(|error| Failure::internal("give its autostart back", &error))?;
        }
    } else {
        let files = if delete_replica { layers::Files::RemoveExcept(vec![]) } else { layers::Files::Keep };
        kept = if delete_replica { "the replica is deleted" } else { "the replica's files stay" };
        host.store(vm)?.forget_all(files).map_err(|error| Failure::internal("forget the replica", &error))?;
    }
    let catalog = |e: catalog::CatalogError| Failure::internal("forget the relationship", &e);
    host.catalog.delete_relationship(vm, 0).map_err(catalog)?;
    host.catalog.delete_documents(vm).map_err(catalog)?;
    host.catalog.save_disks(vm, &[]).map_err(catalog)?;
    Ok(kept)
}
