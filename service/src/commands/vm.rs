//! The VMs of this host: what virsh does, where no virsh reaches, and never past the right to run.

use super::{seed, unknown_vm};
use crate::{
    api::{ErrorKind, Failure, Reply, VmView, error::chain},
    host::{Host, document},
    owner::blocking,
    views,
};
use hypervisor::{DomainState, Error};
use model::VmId;
use std::{sync::Arc, time::Duration};

pub async fn list(host: &Arc<Host>) -> Result<Vec<VmView>, Failure> {
    let host = host.clone();
    blocking(move || views::vms(&host)).await
}

pub async fn show(host: &Arc<Host>, vm: &str) -> Result<VmView, Failure> {
    let (host, vm) = (host.clone(), vm.to_owned());
    blocking(move || {
        let views = views::vms(&host)?;
        views
            .into_iter()
            .find(|view| view.name == vm || view.vm.to_string() == vm)
            .ok_or_else(|| unknown_vm(&vm))
    })
    .await
}

/// Runs `work` on a domain that is named by its name or UUID.
async fn with_domain(
    host: &Arc<Host>,
    vm: &str,
    work: impl FnOnce(&Host, VmId) -> Result<String, Failure> + Send + 'static,
) -> Result<Reply, Failure> {
    let (host, vm) = (host.clone(), vm.to_owned());
    let message = blocking(move || {
        let found = host.hypervisor.find(&vm).map_err(|e| libvirt("find the VM", &e))?;
        match found {
            Some(id) => work(&host, id),
            None => match super::owner(&host, &vm) {
                Ok(owner) => Err(runs_elsewhere(&owner.record())),
                Err(_) => Err(unknown_vm(&vm)),
            },
        }
    })
    .await?;
    Ok(Reply::Done { message })
}

fn runs_elsewhere(record: &engine::Relationship) -> Failure {
    let name = &record.name;
    Failure::new(
        ErrorKind::WrongHost,
        "not-here",
        format!("{name} does not run on this host: this is its {}, state `{}`", record.mode, record.state),
    )
    .hint(format!("it runs on {}; `relevo failover {name}` takes it over", record.peer))
}

fn libvirt(doing: &str, error: &Error) -> Failure {
    let kind = match error {
        Error::NoSuchDomain { .. } => ErrorKind::NotFound,
        Error::NotRunning { .. } => ErrorKind::InvalidState,
        Error::StateTimeout { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Failed,
    };
    Failure::new(kind, "libvirt", format!("cannot {doing}: {}", chain(error)))
}

pub async fn define(host: &Arc<Host>, xml: String) -> Result<Reply, Failure> {
    let host = host.clone();
    let message = blocking(move || {
        let vm = hypervisor::xml::vm(&xml).ok();
        if let Some(owner) = vm.and_then(|vm| host.owner(vm))
            && !owner.record().may_run()
        {
            return Err(runs_elsewhere(&owner.record()));
        }
        let vm = host.hypervisor.define(&xml).map_err(|e| {
            Failure::new(
                ErrorKind::InvalidParameter,
                "domain-xml",
                format!("cannot define the VM: {}", chain(&e)),
            )
        })?;
        Ok(format!("defined {vm}"))
    })
    .await?;
    Ok(Reply::Done { message })
}

pub async fn start(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    with_domain(host, vm, |host, id| {
        if let Some(owner) = host.owner(id) {
            let record = owner.record();
            if !record.may_run() {
                return Err(runs_elsewhere(&record));
            }
        }
        if host.owner(id).is_none() && host.document::<seed::Seed>(id, document::SEED)?.is_some() {
            return Err(Failure::new(ErrorKind::InvalidState, "is-seed", "the VM is marked as a seed")
                .hint("`relevo seed VM --forget` makes it an ordinary VM again"));
        }
        match host.hypervisor.state(id).map_err(|e| libvirt("look at the VM", &e))? {
            Some(DomainState::Running) => Ok("it runs already".to_owned()),
            Some(DomainState::Paused) => {
                host.hypervisor.resume(id).map_err(|e| libvirt("resume the VM", &e))?;
                Ok("resumed".to_owned())
            }
            _ => match host.hypervisor.start(id) {
                Ok(()) => Ok("started".to_owned()),
                Err(error @ hypervisor::Error::Migrated { .. }) => Err(migrated(&error)),
                Err(error) => Err(libvirt("start the VM", &error)),
            },
        }
    })
    .await
}

pub async fn stop(host: &Arc<Host>, vm: &str, force: bool) -> Result<Reply, Failure> {
    with_domain(host, vm, move |host, id| {
        if !host.hypervisor.is_active(id).map_err(|e| libvirt("look at the VM", &e))? {
            return match host.hypervisor.state(id).map_err(|e| libvirt("look at the VM", &e))? {
                Some(DomainState::Migrated) => Err(migrated(&hypervisor::Error::Migrated { vm: id })),
                _ => Ok("it is shut off already".to_owned()),
            };
        }
        if force {
            host.hypervisor.destroy(id).map_err(|e| libvirt("stop the VM", &e))?;
            return Ok("stopped".to_owned());
        }
        let timeout = Duration::from_secs(host.config.shutdown_timeout_s);
        host.hypervisor.shutdown(id).map_err(|e| libvirt("shut the guest down", &e))?;
        host.hypervisor
            .wait_for_state(id, DomainState::ShutOff, timeout)
            .map_err(|e| libvirt("shut the guest down", &e).hint("`--force` pulls the plug"))?;
        Ok("shut down".to_owned())
    })
    .await
}

fn migrated(error: &hypervisor::Error) -> Failure {
    Failure::new(ErrorKind::InvalidState, "migrated", chain(error))
        .hint("migrate it back; if it is off there, `virsh start` starts it here")
}

pub async fn pause(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    with_domain(host, vm, |host, id| {
        host.hypervisor.pause(id).map_err(|e| libvirt("pause the VM", &e))?;
        Ok("paused".to_owned())
    })
    .await
}

pub async fn undefine(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    with_domain(host, vm, |host, id| {
        if let Some(owner) = host.owner(id) {
            let name = owner.record().name;
            return Err(Failure::new(ErrorKind::InvalidState, "protected", format!("{name} is protected"))
                .hint(format!("relevo unprotect {name} first")));
        }
        if host.hypervisor.is_active(id).map_err(|e| libvirt("look at the VM", &e))? {
            return Err(Failure::new(ErrorKind::InvalidState, "running", "the VM runs").hint("stop it first"));
        }
        host.hypervisor.undefine(id).map_err(|e| libvirt("undefine the VM", &e))?;
        Ok("undefined; its disks stay".to_owned())
    })
    .await
}
