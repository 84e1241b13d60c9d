//! Protecting a VM: every check before the first change, on both hosts; and ending it.

use super::owner;
use crate::{
    api::{Command, ErrorKind, Failure, Reply, error::chain},
    clock::now_ms,
    host::{DiskRecord, Host, document},
    owner::{OwnerHandle, blocking},
    peer::{PeerDisk, PeerRequest, PeerResult},
    steps,
    views::duration,
};
use engine::{Operation, Relationship, Settings, Token};
use hypervisor::DomainInfo;
use model::{Authentication, DeltaId, DiskId, HostName, Mode, VmId};
use std::sync::Arc;
use transport::Target;

pub fn settings(command: &Command) -> Result<Settings, Failure> {
    let Command::Protect {
        interval_s,
        history,
        history_every_s,
        tiers,
        bandwidth_bytes_per_s,
        bandwidth_windows,
        auto_resynchronize,
        app_consistent_every_s,
        authentication,
        resync_window,
        scrub_every_s,
        compress,
        bypass_proxy,
        ..
    } = command
    else {
        return Err(Failure::new(ErrorKind::Failed, "failed", "not a protect command"));
    };
    let settings = Settings {
        interval_s: *interval_s,
        history: *history,
        history_every_s: *history_every_s,
        tiers: tiers.clone(),
        bandwidth_bytes_per_s: *bandwidth_bytes_per_s,
        bandwidth_windows: bandwidth_windows.clone(),
        auto_resynchronize: *auto_resynchronize,
        app_consistent_every_s: *app_consistent_every_s,
        drill_every_s: 0,
        scrub_every_s: *scrub_every_s,
        authentication: *authentication,
        resync_window: *resync_window,
        compress: *compress,
        bypass_proxy: *bypass_proxy,
    };
    super::settings::check(&settings)?;
    Ok(settings)
}

pub async fn protect(host: &Arc<Host>, command: &Command) -> Result<Reply, Failure> {
    let Command::Protect { vm, to, disks, start, seed, export, at_ms, .. } = command else {
        unreachable!("dispatched by variant")
    };
    let settings = settings(command)?;
    at_ms.map_or(Ok(()), super::start::in_range)?;
    export.as_deref().map_or(Ok(()), crate::files::writable)?;
    if *to == host.name {
        return Err(is_this_host(to));
    }
    if let Ok(replica) = owner(host, vm)
        && replica.mode().is_replica()
    {
        if export.is_some() {
            return Err(super::extended::no_export(to));
        }
        let disks = disks.as_deref();
        return super::extended::extend(host, &replica, to, settings, disks, *start, *at_ms).await;
    }
    let domain = find(host, vm).await?;
    if let Some(owner) = host.owner(domain.vm) {
        let record = owner.record();
        return Err(Failure::new(
            ErrorKind::AlreadyExists,
            "already-protected",
            format!("{} is protected already, to {}", record.name, record.peer),
        )
        .hint(format!(
            "`relevo status {0}`; `relevo retarget {0} --to HOST` changes the host, `relevo unprotect {0}` ends it",
            record.name
        )));
    }
    let records = chosen_disks(&domain, disks.as_deref())?;
    obstacles(&domain)?;
    trackable(host, &domain, &records).await?;
    let record =
        Relationship::primary(domain.vm, domain.name.clone(), host.name.clone(), to.clone(), settings);
    let record = agree(host, record, &domain, &records, *seed).await?;
    take_in(host, domain, &records).await?;
    let owner = host.adopt(record.clone())?;
    if let Some(folder) = export.as_deref().filter(|_| *start) {
        super::start::ready_to_export(host, &record, folder)?;
        return super::operate::begin(host, &owner, Operation::Export).await;
    }
    begin(host, &owner, *start, *at_ms).await
}

/// Has the other host make a place for a replica in this new relationship. Nothing changes on this one.
pub async fn agree(
    host: &Arc<Host>,
    mut record: Relationship,
    domain: &DomainInfo,
    disks: &[DiskRecord],
    seed: Option<bool>,
) -> Result<Relationship, Failure> {
    let (to, settings) = (&record.peer.clone(), record.settings.clone());
    // It answers and lets us in, before anything is made.
    let by = steps::target(to, &settings);
    steps::ask_host(host, by, None, PeerRequest::Probe).await?;
    record.wants_running = domain.state == hypervisor::DomainState::Running;
    let peer_disk = |disk: &DiskRecord| PeerDisk {
        disk: disk.disk,
        target: disk.target.clone(),
        size_bytes: disk.size_bytes,
    };
    let disks: Vec<_> = disks.iter().map(peer_disk).collect();
    if seed != Some(false) {
        record.seed = find_seed(host, by, &record, &disks, seed == Some(true)).await?;
    }
    let (name, seed) = (record.name.clone(), record.seed);
    let create = PeerRequest::Create { name, settings, disks, extended: false, seed };
    let answer = steps::ask_host(host, by, Some(&record), create).await?;
    if let PeerResult::Refused { failure } = answer.result {
        return Err(failure);
    }
    if host.authorization(std::slice::from_ref(to))?.is_none() {
        tracing::warn!(vm = %record.name, peer = %to, "the way back is closed: {to} is not authorized on this host");
    }
    Ok(record)
}

pub fn is_this_host(to: &HostName) -> Failure {
    Failure::new(ErrorKind::InvalidParameter, "self", format!("{to} is this host"))
        .hint("a replica stands on another host")
}

/// Begins the first copy of a relationship that was just made, if that is wanted now.
pub async fn begin(
    host: &Arc<Host>,
    owner: &OwnerHandle,
    start: bool,
    at_ms: Option<i64>,
) -> Result<Reply, Failure> {
    let record = owner.record();
    if !start {
        return Ok(Reply::Done {
            message: format!("{} is protected, to {}; nothing is copied yet", record.name, record.peer),
        });
    }
    super::start::begin(host, owner, Operation::StartReplication, at_ms).await
}

/// What the seed on the other host shall be called; none where none fits, unless one is demanded.
async fn find_seed(
    host: &Arc<Host>,
    by: Target<'_>,
    record: &Relationship,
    disks: &[PeerDisk],
    demanded: bool,
) -> Result<Option<DeltaId>, Failure> {
    let request = PeerRequest::FindSeed { disks: disks.to_vec() };
    match steps::ask_host(host, by, Some(record), request).await?.result {
        PeerResult::Refused { failure } if demanded => Err(failure),
        PeerResult::Refused { .. } => Ok(None),
        _ => Ok(Some(DeltaId::random())),
    }
}

/// Does a host answer, and would it let us in.
pub async fn test_connection(
    host: &Arc<Host>,
    to: &HostName,
    by: Authentication,
    bypass_proxy: bool,
) -> Result<Reply, Failure> {
    let by = Target { host: to, by, bypass_proxy };
    let began_ms = now_ms();
    let answer = steps::ask_host(host, by, None, PeerRequest::Probe).await?;
    if let PeerResult::Probe { now_ms: Some(theirs_ms), .. } = answer.result {
        clocks_agree(to, (began_ms, now_ms()), theirs_ms)?;
    }
    Ok(Reply::Done { message: format!("{to} answers, and lets this host in") })
}

/// Points carry the sender's times and are kept by the receiver's: hosts whose clocks differ by more than that mislead
/// whoever reads them, and certificates may seem to have ended, or not to have begun.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// The answer's time lies between the question's and its arrival, if the clocks agree.
fn clocks_agree(to: &HostName, asked_ms: (i64, i64), theirs_ms: i64) -> Result<(), Failure> {
    let (behind, ahead) = (asked_ms.0 - theirs_ms, theirs_ms - asked_ms.1);
    let (by_ms, way) = if behind > ahead { (behind, "behind") } else { (ahead, "ahead of") };
    if by_ms < CLOCKS_DIFFER_MS {
        return Ok(());
    }
    let by = duration(by_ms as f64 / 1000.0);
    let message = format!("{to} answers and lets this host in, but its clock is {by} {way} this host's");
    Err(Failure::new(ErrorKind::Failed, "peer-clock", message).hint("set both hosts' clocks by NTP"))
}

pub async fn find(host: &Arc<Host>, vm: &str) -> Result<DomainInfo, Failure> {
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
pub fn chosen_disks(domain: &DomainInfo, wanted: Option<&[String]>) -> Result<Vec<DiskRecord>, Failure> {
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

pub fn obstacles(domain: &DomainInfo) -> Result<(), Failure> {
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
pub async fn trackable(host: &Arc<Host>, domain: &DomainInfo, disks: &[DiskRecord]) -> Result<(), Failure> {
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
pub async fn take_in(host: &Arc<Host>, domain: DomainInfo, disks: &[DiskRecord]) -> Result<(), Failure> {
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
    if let Some(extended) = host.extended(owner.vm) {
        let (name, peer) = (&record.name, extended.record().peer);
        let message = format!("{name} is forwarded to {peer} from here: that relationship has to end first");
        return Err(Failure::new(ErrorKind::InvalidState, "extended", message)
            .hint(format!("relevo unprotect {name} --extended")));
    }
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
    // What it did last is known by now.
    let record = owner.record();
    let (host_copy, name, peer) = (host.clone(), record.name.clone(), record.peer.clone());
    let kept = match blocking(move || remove(&host_copy, &record, delete_replica)).await {
        Ok(kept) => kept,
        // Libvirt may be away, or the VM: the relationship goes on, and can be ended later.
        Err(failure) => {
            host.adopt(owner.record())?;
            return Err(failure);
        }
    };
    end_job(host, &owner);
    host.forget(owner.vm, owner.index);
    Ok(Reply::Done {
        message: format!(
            "{name} is no longer replicated by this host; {kept}. {peer} has its own side: run the same there"
        ),
    })
}

/// The job of a relationship that ends is given up with it.
pub fn end_job(host: &Host, owner: &OwnerHandle) {
    if let Some(job) = owner.snapshot().job {
        let failure = Failure::new(ErrorKind::Cancelled, "relationship-ended", "the relationship was ended");
        host.jobs.end(job, Err(failure));
    }
}

/// A replica whose files cannot be read any more can still be given up.
fn left_behind(host: &Host, record: &Relationship) -> Option<super::seed::Seed> {
    super::seed::left_behind(host, record).unwrap_or_else(|failure| {
        tracing::warn!(vm = %record.name, %failure, "what stays of the replica is no seed");
        None
    })
}

fn remove(host: &Host, record: &Relationship, delete_replica: bool) -> Result<&'static str, Failure> {
    let vm: VmId = record.vm;
    let mut kept = "the VM goes on as it is";
    let mut seed = None;
    if record.mode == Mode::Primary {
        // The other host may never take it, and nobody else has the definition.
        if matches!(record.token, Token::Released { .. }) {
            super::seed::give_back(host, vm)?;
            kept = "it is off, and was handed over: start it here only if it never runs there";
        }
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
        // Also one whose disks were still being read.
        if record.seed.is_some() && (record.latest.is_none() || record.latest == record.seed) {
            super::seed::give_back(host, vm)?;
        }
        seed = if delete_replica { None } else { left_behind(host, record) };
        kept = match (delete_replica, &seed) {
            (true, _) => "the replica is deleted",
            (false, None) => "the replica's files stay",
            (false, Some(_)) => "the replica's files stay, as a seed for `relevo protect --seed`",
        };
        host.store(vm)?.forget_all(files).map_err(|error| Failure::internal("forget the replica", &error))?;
    }
    let catalog = |e: catalog::CatalogError| Failure::internal("forget the relationship", &e);
    host.catalog.delete_relationship(vm, 0).map_err(catalog)?;
    host.catalog.delete_documents(vm).map_err(catalog)?;
    host.catalog.save_disks(vm, &[]).map_err(catalog)?;
    if let Some(seed) = seed {
        host.put_document(vm, document::SEED, &seed)?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_apart_from_a_slow_answer() {
        let b = "b.example".parse().unwrap();
        assert!(clocks_agree(&b, (0, 300_000), 150_000).is_ok());
        assert!(clocks_agree(&b, (0, 10), 59_000).is_ok());
        let told = |theirs_ms| clocks_agree(&b, (1_000_000, 1_000_010), theirs_ms).unwrap_err().message;
        assert!(told(1_120_010).contains("2 min 0 s ahead of"));
        assert!(told(880_000).contains("2 min 0 s behind"));
    }
}
