//! Commands: what an operator may ask, and what is done about it. Anything that takes long becomes a job.

mod addresses;
mod authorize;
mod disks;
pub mod drill;
pub mod extended;
pub mod home;
mod operate;
mod plan;
mod protect;
pub mod ready;
mod retarget;
pub mod seed;
mod settings;
mod start;
pub mod test;
mod verify;
mod vm;

use crate::{
    api::{Command, ErrorKind, Failure, HostView, JobView, Reply, Request},
    host::Host,
    owner::OwnerHandle,
    service_settings, views,
};
use model::{DeltaId, PointKind, VmId};
use std::{sync::Arc, time::Instant};

/// Carries a command out, or shows its plan.
pub async fn execute(host: &Arc<Host>, request: &Request) -> Result<Reply, Failure> {
    if request.dry_run {
        return plan::plan(host, &request.command).await.map(Reply::Plan);
    }
    match request.command.clone() {
        Command::Host => Ok(Reply::Host(host_view(host))),
        Command::VmList => vm::list(host).await.map(Reply::Vms),
        Command::VmShow { vm } => vm::show(host, &vm).await.map(|view| Reply::Vm(Box::new(view))),
        Command::VmDefine { xml } => vm::define(host, xml).await,
        Command::VmStart { vm } => vm::start(host, &vm).await,
        Command::VmStop { vm, force } => vm::stop(host, &vm, force).await,
        Command::VmPause { vm } => vm::pause(host, &vm).await,
        Command::VmUndefine { vm } => vm::undefine(host, &vm).await,
        Command::CertReload => cert_reload(host),
        Command::Authorize { host: pattern, storage, trust_group } => {
            authorize::add(host, &pattern, &storage, trust_group.as_deref())
        }
        Command::AuthorizeVm { host: pattern, vm } => authorize::bind(host, &pattern, &vm).await,
        Command::AuthorizeList => authorize::list(host),
        Command::AuthorizeRemove { host: pattern } => authorize::remove(host, &pattern),
        Command::Protect { .. } => protect::protect(host, &request.command).await,
        Command::StartReplication { vm, way, at_ms } => start::start(host, &vm, way, at_ms).await,
        Command::Import { vm, folder } => start::import(host, &vm, folder).await,
        Command::SetDisks { vm, targets } => disks::set(host, &vm, &targets).await,
        Command::Seed { vm, forget } => seed::mark(host, &vm, forget).await,
        Command::Configure { vm, change } => settings::change(host, &vm, &change).await,
        Command::Retarget { vm, to, change, start } => {
            retarget::retarget(host, &vm, &to, &change, start).await
        }
        Command::ResetStatistics { vm } => settings::reset_statistics(host, &vm).await,
        Command::SetFailoverAddresses { vm, adapters } => addresses::set(host, &vm, adapters).await,
        Command::SetTestNetworks { vm, adapters } => addresses::set_test_networks(host, &vm, adapters).await,
        Command::ApplyFailoverAddresses { vm } => addresses::apply(host, &vm).await,
        Command::ConfigureService { change } => service_settings::change(host, &change),
        Command::TestConnection { to, authentication, bypass_proxy } => {
            protect::test_connection(host, &to, authentication, bypass_proxy).await
        }
        Command::Status { vm } => status(host, vm.as_deref()).await,
        Command::Points { vm } => points(host, &vm).await,
        Command::Verify { vm, point } => verify::verify(host, &vm, point.as_deref()),
        Command::DropPoint { vm, point } => verify::drop_point(host, &vm, point).await,
        Command::FireDrill { vm, point } => drill::begin(host, &vm, point.as_deref()),
        Command::EndTest { vm } => test::end(host, &vm).await,
        Command::Failover { vm, kind: crate::api::FailoverKind::Test { point }, start } => {
            test::begin(host, &vm, point.as_deref(), start).await
        }
        Command::Unprotect { vm, delete_replica } => protect::unprotect(host, &vm, delete_replica).await,
        Command::JobList => Ok(Reply::Jobs(host.jobs.views())),
        Command::JobShow { job } | Command::JobWatch { job } => {
            host.jobs.view(job).map(|view| Reply::Job(Box::new(view))).ok_or_else(|| no_job(&job))
        }
        Command::JobCancel { job } => job_cancel(host, job),
        Command::Extended { command } => extended::execute(host, &command).await,
        command => operate::operate(host, &command).await,
    }
}

/// Carries out a command that takes effect at once, but not soon, under a job of its own.
pub fn in_background(
    host: &Arc<Host>,
    vm: Option<(VmId, &str)>,
    kind: &str,
    kind_number: u16,
    command: Command,
) -> Result<JobView, Failure> {
    let (job, _) = host.jobs.begin(vm, kind, kind_number);
    let view = host.jobs.view(job);
    let host = host.clone();
    host.tasks.clone().spawn(async move {
        let request = Request { command, dry_run: false, wait: false };
        let result = match execute(&host, &request).await {
            Ok(Reply::Done { message }) => Ok(message),
            Ok(_) => Ok(String::new()),
            Err(failure) => Err(failure),
        };
        host.jobs.end(job, result);
    });
    view.ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

fn host_view(host: &Host) -> HostView {
    let owners = host.all_owners();
    let count = |mode| u32::try_from(owners.iter().filter(|owner| owner.mode() == mode).count()).unwrap_or(0);
    let certificate = crate::certs::own(&host.dirs)
        .and_then(|own| own.not_after.format(&time::format_description::well_known::Rfc3339).ok());
    let (replication_address, kerberos_address) = host.listeners.addresses();
    HostView {
        host_name: host.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        replication_address,
        kerberos_address,
        libvirt_uri: host.hypervisor.uri().to_owned(),
        certificate_expires: certificate,
        protected_vms: count(model::Mode::Primary),
        replica_vms: count(model::Mode::Replica) + count(model::Mode::ExtendedReplica),
        recovery_server: !host.service_settings().refuses_replicas,
        monitoring_interval_s: host.monitoring().interval_s,
        monitoring_start_s: host.monitoring().start_s,
        sending: host.turns.view(),
        receiving: host.arrivals.view(Instant::now()),
    }
}

fn cert_reload(host: &Host) -> Result<Reply, Failure> {
    host.reload_certificates()?;
    Ok(Reply::Done { message: "the installed certificates are in use".to_owned() })
}

async fn status(host: &Arc<Host>, vm: Option<&str>) -> Result<Reply, Failure> {
    let owners = match vm {
        Some(vm) => {
            let owner = owner(host, vm)?;
            let extended = host.extended(owner.vm);
            std::iter::once(owner).chain(extended).collect()
        }
        None => host.all_relationships(),
    };
    let host = host.clone();
    let views = crate::owner::blocking(move || {
        owners.iter().map(|owner| views::relationship(&host, owner)).collect::<Vec<_>>()
    })
    .await;
    Ok(Reply::Relationships(views))
}

async fn points(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    if record.mode == model::Mode::Primary {
        return Err(Failure::new(
            ErrorKind::WrongHost,
            "wrong-host",
            format!("the recovery points of {} are kept on {}", record.name, record.peer),
        )
        .hint(format!("run `relevo points {}` on {}", record.name, record.peer)));
    }
    let host = host.clone();
    crate::owner::blocking(move || views::points(&host, record.vm)).await.map(Reply::Points)
}

fn no_job(job: &model::JobId) -> Failure {
    Failure::new(ErrorKind::NotFound, "job-unknown", format!("there is no job {job}"))
        .hint("`relevo job list` shows those that there are; ended ones are kept for five minutes")
}

fn job_cancel(host: &Host, job: model::JobId) -> Result<Reply, Failure> {
    let view = host.jobs.view(job).ok_or_else(|| no_job(&job))?;
    if view.state.has_ended() {
        return Err(Failure::new(
            ErrorKind::InvalidState,
            "job-ended",
            format!("job {job} has ended already"),
        ));
    }
    if !host.jobs.cancel(job) {
        return Err(Failure::new(
            ErrorKind::InvalidState,
            "job-not-cancellable",
            format!("job {job} ({}) cannot be cancelled half-way", view.kind),
        )
        .hint("let it end; `relevo revert` or `relevo failback --cancel` take an operation back"));
    }
    Ok(Reply::Done { message: format!("job {job} was asked to stop") })
}

/// The owner of a VM that is named by its name or UUID.
pub fn owner(host: &Host, vm: &str) -> Result<OwnerHandle, Failure> {
    if let Some(owner) = vm.parse().ok().and_then(|id| host.owner(id)) {
        return Ok(owner);
    }
    let mut found = host.all_owners().into_iter().filter(|owner| owner.record().name == vm);
    match (found.next(), found.next()) {
        (Some(owner), None) => Ok(owner),
        (Some(_), Some(_)) => Err(Failure::new(
            ErrorKind::InvalidParameter,
            "vm-ambiguous",
            format!("several VMs are called `{vm}`"),
        )
        .hint("name it by its UUID; `relevo vm list` shows them")),
        (None, _) => {
            let defined = host.hypervisor.find(vm).ok().flatten();
            Err(match defined {
                Some(_) => Failure::new(
                    ErrorKind::InvalidState,
                    "not-protected",
                    format!("VM `{vm}` is not protected"),
                )
                .hint(format!("relevo protect {vm} --to HOST")),
                None => unknown_vm(vm),
            })
        }
    }
}

pub fn unknown_vm(vm: &str) -> Failure {
    Failure::new(ErrorKind::NotFound, "vm-unknown", format!("there is no VM `{vm}` on this host"))
        .hint("`relevo vm list` shows the VMs of this host")
}

/// Names the newest application-consistent point.
const APP_CONSISTENT: &str = "app-consistent";

/// A point by its id or the beginning of it, or [`APP_CONSISTENT`].
pub fn point(host: &Host, vm: VmId, text: &str) -> Result<DeltaId, Failure> {
    let points = views::points(host, vm)?;
    if text == APP_CONSISTENT {
        let newest = points.iter().rfind(|point| point.kind == PointKind::ApplicationConsistent);
        return newest.map(|point| point.point).ok_or_else(|| {
            let message = "no application-consistent recovery point is kept";
            Failure::new(ErrorKind::NotFound, "point-unknown", message)
                .hint("`relevo points VM` shows those that are kept")
        });
    }
    let mut matching =
        points.iter().filter(|point| point.point.to_string().starts_with(&text.to_ascii_lowercase()));
    match (matching.next(), matching.next()) {
        (Some(point), None) if !text.is_empty() => Ok(point.point),
        (Some(_), Some(_)) => Err(Failure::new(
            ErrorKind::InvalidParameter,
            "point-ambiguous",
            format!("several recovery points begin with `{text}`"),
        )
        .hint("give more digits; `relevo points VM` shows them")),
        _ => Err(Failure::new(
            ErrorKind::NotFound,
            "point-unknown",
            format!("there is no recovery point `{text}`"),
        )
        .hint("`relevo points VM` shows those that are kept")),
    }
}
