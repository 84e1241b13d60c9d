//! Giving a protected VM another replica host, with the settings that it has: the old one may be lost for ever.

use super::{owner, protect, settings};
use crate::{
    api::{ErrorKind, Failure, Reply, SettingsChange},
    host::{DiskRecord, Host, document},
    owner::blocking,
};
use engine::{Relationship, Step, Work, WorkKind};
use hypervisor::DomainInfo;
use model::{HostName, Mode};
use std::sync::Arc;

/// What belongs to the relationship that ends, and not to the VM.
const OF_THE_OLD: [&str; 5] =
    [document::EXPORT, document::DISKS, document::JOB[0], document::QUIET, document::LISTED];

/// Nothing changes on this host before `to` has made a place for the replica.
pub async fn retarget(
    host: &Arc<Host>,
    vm: &str,
    to: &HostName,
    change: &SettingsChange,
    start: bool,
) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let old = owner.record();
    permit(host, &old, to)?;
    let settings = settings::changed(&old.settings, change);
    settings::check(&settings)?;
    let mut domain = protect::find(host, &old.vm.to_string()).await?;
    protect::obstacles(&domain)?;
    let mut disks = host.disks(old.vm)?;
    let targets: Vec<String> = disks.iter().map(|disk| disk.target.clone()).collect();
    let now = protect::chosen_disks(&domain, Some(&targets))?;
    for disk in &mut disks {
        let size = |now: &&DiskRecord| now.target == disk.target;
        disk.size_bytes = now.iter().find(size).map_or(disk.size_bytes, |now| now.size_bytes);
    }
    let mut record =
        Relationship::primary(old.vm, domain.name.clone(), host.name.clone(), to.clone(), settings);
    // Who kept the replica until now goes on hearing, and saying, who may run the VM.
    record.token = old.token.clone();
    record.former_peers =
        old.former_peers.iter().chain([&old.peer]).filter(|peer| *peer != to).cloned().collect();
    domain.autostart |= host.document::<bool>(old.vm, document::AUTOSTART)?.unwrap_or(false);
    let mut record = protect::agree(host, record, &domain, &disks, None).await?;

    let busy =
        || Failure::new(ErrorKind::InUse, "busy", "another command changes this relationship; try again");
    if !host.claim(&owner) {
        return Err(busy());
    }
    owner.stop().await;
    // The other host was asked meanwhile, and this one may have been, too.
    let old = owner.record();
    let unchanged =
        permit(host, &old, to).and_then(|()| if old.token == record.token { Ok(()) } else { Err(busy()) });
    record.wants_running = old.wants_running;
    let ended = match unchanged {
        Ok(()) => end(host, domain, &disks).await,
        refused => refused,
    };
    if let Err(failure) = ended {
        host.adopt(old)?;
        let hint =
            format!("{to} has made a place for the replica: `relevo unprotect {vm} --delete-replica` there");
        return Err(failure.hint(hint));
    }
    protect::end_job(host, &owner);
    let owner = host.adopt(record)?;
    tracing::warn!(vm = %old.name, peer = %old.peer, to = %to,
        "another host keeps the replica: the old one's side has to be ended there, or it can still be failed over to");
    protect::begin(host, &owner, start, None).await
}

/// Whether the VM may get `to` as its replica host now.
pub fn permit(host: &Host, old: &Relationship, to: &HostName) -> Result<(), Failure> {
    let name = &old.name;
    if *to == host.name {
        return Err(protect::is_this_host(to));
    }
    if old.mode != Mode::Primary {
        let message = format!("{name} is moved to another replica host on {}, its primary", old.peer);
        return Err(Failure::new(ErrorKind::WrongHost, "wrong-host", message));
    }
    if *to == old.peer {
        let message = format!("{to} keeps the replica of {name} already");
        return Err(Failure::new(ErrorKind::InvalidParameter, "same-host", message));
    }
    let undone = |work: &Work| {
        work.kind == WorkKind::Abandon && work.plan.iter().all(|step| matches!(step, Step::Abandon { .. }))
    };
    let leaves_it = |work: &Work| work.kind.is_turn() || undone(work);
    let alone = old.superseded.is_none() && old.failed_over.is_none();
    if !old.may_run() || !alone || !old.work.as_ref().is_none_or(leaves_it) {
        let message = format!("{name} is in the midst of a failover or of its way home");
        return Err(Failure::new(ErrorKind::InvalidState, "busy", message)
            .hint(format!("`relevo status {name}` says what ends it")));
    }
    Ok(())
}

async fn end(host: &Arc<Host>, domain: DomainInfo, disks: &[DiskRecord]) -> Result<(), Failure> {
    let (copy, vm) = (host.clone(), domain.vm);
    blocking(move || {
        let released = copy.capture(vm)?.release();
        released.map_err(|error| Failure::internal("drop the checkpoints", &error))?;
        OF_THE_OLD.iter().try_for_each(|key| copy.drop_document(vm, key))
    })
    .await?;
    protect::take_in(host, domain, disks).await
}
