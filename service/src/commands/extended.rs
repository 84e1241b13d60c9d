//! Extended replication: a replica forwards what it receives to a third host. How that begins, how it is
//! operated, and how it ends.

use super::{operate, owner, protect, settings};
use crate::{
    api::{Command, ErrorKind, Failure, FirstCopy, PlanView, Reply},
    host::Host,
    owner::{OwnerHandle, blocking},
    peer::{PeerDisk, PeerRequest, PeerResult},
    steps,
};
use engine::{
    Operation, Relationship, Settings,
    relationship::{EXTENDED, PRIMARY},
};
use model::{HostName, Mode, ReplicationState, VmId};
use std::sync::Arc;

/// Begins to forward the replica that `replica` owns.
pub async fn extend(
    host: &Arc<Host>,
    replica: &OwnerHandle,
    to: &HostName,
    settings: Settings,
    disks: Option<&[String]>,
    start: bool,
    at_ms: Option<i64>,
) -> Result<Reply, Failure> {
    let record = replica.record();
    extendable(host, &record, to, disks)?;
    check_interval(host, record.vm, settings.interval_s)?;
    let mut extended = Relationship::extended(&record, to.clone(), settings.clone());
    // The third host answers and lets us in, before anything is made.
    let by = steps::target(to, &settings);
    steps::ask_host(host, by, None, PeerRequest::Probe).await?;
    let disks = host.disks(record.vm)?.into_iter().map(|disk| PeerDisk {
        disk: disk.disk,
        target: disk.target,
        size_bytes: disk.size_bytes,
    });
    let create = PeerRequest::Create {
        name: record.name.clone(),
        settings,
        disks: disks.collect(),
        extended: true,
        seed: None,
    };
    if let PeerResult::Refused { failure } = steps::ask_host(host, by, Some(&extended), create).await?.result
    {
        return Err(failure);
    }
    // It may have points of an earlier time: then only what differs is sent.
    let standing = steps::ask(host, &extended, PeerRequest::Greet).await?.standing;
    extended.peer_latest = standing.and_then(|standing| standing.latest);
    let owner = host.adopt(extended)?;
    protect::begin(host, &owner, start, at_ms).await
}

pub fn no_export(to: &HostName) -> Failure {
    let message = format!("what is forwarded to {to} goes over the network: its first copy is not exported");
    Failure::new(ErrorKind::NotSupported, "not-supported", message)
}

fn extendable(
    host: &Host,
    record: &Relationship,
    to: &HostName,
    disks: Option<&[String]>,
) -> Result<(), Failure> {
    let name = &record.name;
    if record.mode == Mode::ExtendedReplica {
        let message = format!("this host is the third one for {name}: a chain has three hosts at most");
        return Err(Failure::new(ErrorKind::NotSupported, "chain", message));
    }
    if let Some(extended) = host.extended(record.vm) {
        let message = format!("{name} is forwarded already, to {}", extended.record().peer);
        return Err(Failure::new(ErrorKind::AlreadyExists, "already-protected", message)
            .hint(format!("`relevo status {name}`; `relevo unprotect {name} --extended` ends it")));
    }
    if *to == record.peer {
        let message = format!("{name} is protected already: this host is its replica, {to} its primary");
        return Err(Failure::new(ErrorKind::AlreadyExists, "already-protected", message)
            .hint("an extended replica stands on a third host"));
    }
    if let Some(wanted) = disks {
        let have: Vec<_> = host.disks(record.vm)?.into_iter().map(|disk| disk.target).collect();
        if wanted.len() != have.len() || !have.iter().all(|target| wanted.contains(target)) {
            let message = format!("an extended replica has the same disks as this one: {}", have.join(", "));
            return Err(Failure::new(ErrorKind::InvalidParameter, "disks", message));
        }
    }
    if record.forwardable().is_none() {
        let why =
            if record.state == ReplicationState::Committed { "runs here" } else { "has no point here yet" };
        let message = format!("{name} {why}: there is nothing to forward");
        return Err(Failure::new(ErrorKind::InvalidState, "no-point", message));
    }
    Ok(())
}

/// The third host cannot be nearer to the primary than the second.
pub fn check_interval(host: &Host, vm: VmId, interval_s: u32) -> Result<(), Failure> {
    let primary_s = host.owner(vm).map_or(1, |owner| owner.record().settings.interval_s);
    if interval_s >= primary_s {
        return Ok(());
    }
    let message = format!(
        "interval {interval_s} s is out of range: allowed are {primary_s}, the primary's interval, to 43200 s"
    );
    Err(Failure::new(ErrorKind::InvalidParameter, "interval", message))
}

/// The relationship that forwards the VM's replica.
fn extended(host: &Host, vm: &str) -> Result<OwnerHandle, Failure> {
    let owner = owner(host, vm)?;
    host.extended(owner.vm).ok_or_else(|| {
        let name = owner.record().name;
        let message = format!("{name} is not forwarded from this host to a third one");
        Failure::new(ErrorKind::InvalidState, "not-extended", message)
            .hint(format!("on its replica's host: relevo protect {name} --to HOST"))
    })
}

/// The operation that makes the third host the replica of this one.
pub fn change_to_primary(host: &Host, vm: &str) -> Result<Operation, Failure> {
    let record = extended(host, vm)?.record();
    let (name, peer) = (&record.name, &record.peer);
    let base = record.peer_latest.or(record.latest).ok_or_else(|| {
        let message = format!("{peer} holds no copy of {name} yet");
        Failure::new(ErrorKind::InvalidState, "no-point", message)
            .hint(format!("end that with `relevo unprotect {name} --extended`, then reverse or protect anew"))
    })?;
    let settings = Box::new(record.settings);
    Ok(Operation::ChangeToPrimary { peer: record.peer, base, settings })
}

/// See [`Command::Extended`].
pub async fn execute(host: &Arc<Host>, command: &Command) -> Result<Reply, Failure> {
    let operation = match command {
        Command::Unprotect { vm, delete_replica: false } => return end(host, extended(host, vm)?).await,
        Command::Configure { vm, change } => {
            return settings::change_of(host, extended(host, vm)?, change).await;
        }
        Command::ResetStatistics { vm } => {
            return settings::reset_statistics_of(extended(host, vm)?).await;
        }
        Command::StartReplication { vm, way: FirstCopy::Network, .. } => (vm, Operation::StartReplication),
        Command::StartReplication { vm, way: FirstCopy::Seeded, .. } => {
            let message =
                format!("{vm} is forwarded without a seed: what the third host has is compared by itself");
            return Err(Failure::new(ErrorKind::NotSupported, "not-supported", message));
        }
        Command::StartReplication { vm, way: FirstCopy::Export { .. }, .. } => {
            return Err(no_export(&extended(host, vm)?.record().peer));
        }
        Command::CancelStart { vm } => (vm, Operation::CancelStart),
        Command::Suspend { vm, release: false } => (vm, Operation::Suspend),
        Command::Resume { vm } => (vm, Operation::Resume),
        Command::CancelResync { vm } => (vm, Operation::CancelResynchronize),
        Command::Resync { vm, .. } => {
            // A first copy that was cancelled has nothing to compare with: it begins again.
            let ready = extended(host, vm)?.record().state == ReplicationState::Ready;
            (vm, if ready { Operation::StartReplication } else { Operation::Resynchronize })
        }
        _ => {
            let message = "that is not possible on a relationship that only forwards";
            return Err(Failure::new(ErrorKind::InvalidParameter, "extended", message));
        }
    };
    let (vm, operation) = operation;
    operate::carry_out(host, command, extended(host, vm)?, operation).await
}

pub fn plan(host: &Host, command: &Command) -> Result<PlanView, Failure> {
    let Command::Unprotect { vm, .. } = command else {
        let message = "there is nothing dangerous in that: it is done without a plan";
        return Err(Failure::new(ErrorKind::InvalidParameter, "no-plan", message));
    };
    let record = extended(host, vm)?.record();
    Ok(PlanView {
        title: format!("end the extended replication of {}", record.name),
        steps: vec![
            format!("this host forwards nothing more to {}", record.peer),
            format!("{} keeps its points; end its side there", record.peer),
        ],
        losses: vec![],
        peer_answers: None,
    })
}

/// Ends it on this host alone. The third host keeps what it has.
async fn end(host: &Arc<Host>, owner: OwnerHandle) -> Result<Reply, Failure> {
    let record = owner.record();
    drop_relationship(host, owner, false).await?;
    let (name, peer) = (record.name, record.peer);
    Ok(Reply::Done {
        message: format!(
            "{name} is no longer forwarded to {peer}; {peer} has its own side: run `relevo unprotect {name}` there"
        ),
    })
}

/// Stops and forgets the relationship that forwards. Its bookmarks go with it. `is_left`: not on an operator's word;
/// the third host is still to be told who may run the VM.
pub async fn drop_relationship(host: &Arc<Host>, owner: OwnerHandle, is_left: bool) -> Result<(), Failure> {
    debug_assert_eq!(owner.index, EXTENDED);
    let (peer, replica) = (owner.record().peer, host.owner(owner.vm));
    if let Some(replica) = replica.filter(|_| is_left) {
        replica.amend(move |record| record.former_peers.push(peer)).await?;
    }
    owner.stop().await;
    let (copy, vm) = (host.clone(), owner.vm);
    blocking(move || {
        let store = copy.store(vm)?;
        store.drop_bookmarks(None).map_err(|e| Failure::internal("drop the bookmarks", &e))?;
        copy.catalog
            .delete_relationship(vm, EXTENDED)
            .map_err(|e| Failure::internal("forget the relationship", &e))
    })
    .await?;
    host.forget(owner.vm, EXTENDED);
    if host.relationship(owner.vm, PRIMARY).is_some() {
        crate::upkeep::after_point(host, owner.vm);
    }
    Ok(())
}
