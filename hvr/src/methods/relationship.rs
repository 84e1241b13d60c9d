//! The life of a relationship: it is made, its copy begins, its settings change, it is compared, it ends.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{command_of, invalid, unsupported, wrong_state},
    settings,
};
use crate::{names::REPLICATION_SERVICE, world::World};
use cim::Role;
use futures::{FutureExt, future::BoxFuture};
use model::{Authentication, HostName, Mode, ReplicationState};
use service::{
    api::{Command, ErrorKind, Failure, FirstCopy, RelationshipView},
    inventory::{Machine, Parts, Replication},
};
use std::path::PathBuf;

/// In these a replica can begin to forward.
const REPLICATES: [ReplicationState; 2] = [ReplicationState::Replicating, ReplicationState::FireDrill];

const SETTINGS: &str = "Msvm_ReplicationSettingData";

/// What the class says where a client says nothing.
const INTERVAL_S: u32 = 300;
const HISTORY_EVERY_S: u32 = 3600;

// `Msvm_ConcreteJob.JobType`.
const CREATE_RELATIONSHIP: u16 = 91;
const MODIFY_SETTINGS: u16 = 92;
const REMOVE_RELATIONSHIP: u16 = 93;

const WITH_VM: Parts = Parts { vm: true, points: false };

pub const METHODS: &[Method] = &[
    Method {
        class: REPLICATION_SERVICE,
        name: "CreateReplicationRelationship",
        role: Role::Administrator,
        how: How::Works(create),
        note: "on a replica it makes relationship 1 (extended), with the interval of relationship 0 or a longer one; \
               Kerberos without a principal, an external provider 32770; \
               ReplicationInterval may be 1 to 43200 s; AdditionalSettings is JSON with recovery_point_spacing_s, \
               retention_tiers (such as \"7x1d\"), bandwidth_bytes_per_s, bandwidth_windows (such as \
               \"mon-fri 08:00-18:00 = 20MiB/s\"), app_consistent_interval_s, fire_drill_interval_s and scrub_interval_s",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ModifyReplicationSettings",
        role: Role::Administrator,
        how: How::Works(modify),
        note: "on a replica of relationship 1; interval, history, application-consistent points, AdditionalSettings, \
               AuthenticationType, compression and the automatic resynchronization change, on both hosts; other \
               IncludedDisks are taken up by a job of type 125 (relationship 1 follows the replica's disks: 32770); \
               another recovery host gets a relationship with these settings, whose first copy StartReplication \
               begins; the ports of other hosts are the configuration's, and the certificate is that of the service \
               settings (32773)",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "RemoveReplicationRelationship",
        role: Role::Administrator,
        how: How::Works(remove),
        note: "",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "RemoveReplicationRelationshipEx",
        role: Role::Administrator,
        how: How::Works(remove),
        note: "",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "StartReplication",
        role: Role::Operator,
        how: How::Works(start),
        note: "on a replica of relationship 1, over the network (type 1) only; type 3 (seeded) is onto a VM of the same \
               UUID that was marked on the recovery host before CreateReplicationRelationship, or onto what an earlier \
               replica left behind; without one 32775. Type 2 (export) needs a folder on this host: 32779 where there \
               is none, 32773 where it cannot be written. A StartTime that has passed or is more than seven days \
               ahead: 32773",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ImportInitialReplica",
        role: Role::Operator,
        how: How::Works(import),
        note: "the VM's folder, or the one above it: 32779 where no complete copy is, 32773 where it is another VM's or \
               that of an earlier relationship",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "Resynchronize",
        role: Role::Operator,
        how: How::Works(resynchronize),
        note: "on a replica of relationship 1; recovery points are kept; a StartTime that has passed or is more than \
               seven days ahead: 32773",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ChangeReplicationModeToPrimary",
        role: Role::Operator,
        how: How::Works(change_to_primary),
        note: "after a committed failover (state 6); ReplicationRelationship is the extended one, and may be left out",
    },
];

fn create<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let machine = call.machine(WITH_VM).await?;
        if let Some(refusal) = exists(&machine) {
            return Err(refusal);
        }
        let given = call.required_embedded("ReplicationSettingData", SETTINGS)?;
        let world = call.hvr.world().await;
        let wanted = settings::read(&given, machine.id, &world, call.schema)?;
        let to = wanted.to.clone();
        let to =
            to.ok_or_else(|| invalid("RecoveryConnectionPoint is missing: the name of the recovery host"))?;
        settings::check_port(&wanted, &to, Authentication::Certificate, &world)?;
        let name = machine.vm.as_ref().map_or_else(|| machine.id.to_string(), |view| view.name.clone());
        let change = wanted.change;
        let command = Command::Protect {
            vm: machine.id.to_string(),
            to,
            interval_s: change.interval_s.unwrap_or(INTERVAL_S),
            history: change.history.unwrap_or(0),
            history_every_s: change.history_every_s.unwrap_or(HISTORY_EVERY_S),
            tiers: change.tiers.unwrap_or_default(),
            disks: wanted.disks,
            bandwidth_bytes_per_s: change.bandwidth_bytes_per_s.filter(|limit| *limit > 0),
            bandwidth_windows: change.bandwidth_windows.unwrap_or_default(),
            auto_resynchronize: change.auto_resynchronize.unwrap_or(false),
            app_consistent_every_s: change.app_consistent_every_s.unwrap_or(0),
            authentication: change.authentication.unwrap_or_default(),
            resync_window: change.resync_window.unwrap_or(settings::DEFAULT_WINDOW),
            scrub_every_s: change.scrub_every_s.unwrap_or(0),
            compress: change.compress.unwrap_or(true),
            bypass_proxy: change.bypass_proxy.unwrap_or(false),
            start: false,
            seed: None,
            export: None,
            at_ms: None,
        };
        call.in_background(Some((machine.id, &name)), "create relationship", CREATE_RELATIONSHIP, command)
    }
    .boxed()
}

/// Why no relationship can be made: a replica may have one to a third host, once.
fn exists(machine: &Machine) -> Option<Refusal> {
    let of = match (&machine.replication, &machine.extended) {
        (Some(own), None) if own.view.mode == Mode::Replica && REPLICATES.contains(&own.view.state) => {
            return None;
        }
        (Some(own), None) if own.view.mode == Mode::Replica => {
            let (name, state) = (&own.view.name, own.view.state);
            return Some(wrong_state(format!(
                "{name} is in state `{state}`: what it receives is forwarded in state 3"
            )));
        }
        (Some(own), None) => own,
        (_, extended) => extended.as_ref()?,
    };
    let view = &of.view;
    Some(wrong_state(format!("{} is replicated already, to {}", view.name, view.peer)))
}

/// The relationship in which this host sends: on a replica the extended one.
fn sending(machine: Machine) -> Result<Replication, Refusal> {
    match &machine.replication {
        Some(own) if own.view.mode == Mode::Replica => super::call::extended(machine),
        Some(Replication { view, .. }) if view.mode == Mode::ExtendedReplica => {
            Err(wrong_state(format!("this host is the last of {}'s: {} sends to it", view.name, view.peer)))
        }
        _ => super::call::replication(machine),
    }
}

fn modify<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let machine = call.machine(WITH_VM).await?;
        let replication = sending(machine.clone())?;
        let view = &replication.view;
        let given = call.required_embedded("ReplicationSettingData", SETTINGS)?;
        let world = call.hvr.world().await;
        let wanted = settings::read(&given, machine.id, &world, call.schema)?;
        if let Some(to) = wanted.to.clone().filter(|to| *to != view.peer) {
            return retarget(call, &machine, view, to, wanted, &world);
        }
        settings::check_port(&wanted, &view.peer, view.authentication, &world)?;
        let command = Command::Configure { vm: machine.id.to_string(), change: wanted.change };
        let command = command_of(view.index, command);
        let Some(targets) = other_disks(&machine, wanted.disks) else {
            let of = Some((machine.id, view.name.as_str()));
            return call.in_background(of, "modify settings", MODIFY_SETTINGS, command);
        };
        if view.index == 1 {
            return Err(unsupported("IncludedDisks: an extended replica has the disks of the replica"));
        }
        call.run(command).await?;
        call.run(Command::SetDisks { vm: machine.id.to_string(), targets }).await
    }
    .boxed()
}

/// Another host is to keep the replica; the first copy is begun by StartReplication.
fn retarget(
    call: &Call<'_>,
    machine: &Machine,
    view: &RelationshipView,
    to: HostName,
    wanted: settings::Wanted,
    world: &World,
) -> Result<Answer, Refusal> {
    if view.index == 1 {
        return Err(unsupported(format!(
            "RecoveryConnectionPoint {to}: the extended replica cannot move from {}",
            view.peer
        )));
    }
    settings::check_port(&wanted, &to, view.authentication, world)?;
    if other_disks(machine, wanted.disks).is_some() {
        return Err(unsupported("IncludedDisks: they change before the recovery host does, or after"));
    }
    let command = Command::Retarget { vm: machine.id.to_string(), to, change: wanted.change, start: false };
    call.in_background(Some((machine.id, &view.name)), "modify settings", MODIFY_SETTINGS, command)
}

/// The wanted disks, if they are others than those that are replicated.
fn other_disks(machine: &Machine, wanted: Option<Vec<String>>) -> Option<Vec<String>> {
    let disks = machine.vm.iter().flat_map(|view| &view.disks).filter(|disk| disk.replicated);
    let mut have: Vec<&str> = disks.map(|disk| disk.target.as_str()).collect();
    let wanted = wanted?;
    let mut sorted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    have.sort_unstable();
    sorted.sort_unstable();
    (have != sorted).then(|| wanted.clone())
}

fn remove<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let machine = call.machine(Parts::default()).await?;
        let replication = call.relationship(machine.clone())?;
        let view = &replication.view;
        if let Some(extended) = machine.extended.filter(|_| view.index == 0) {
            let message = format!(
                "{} is forwarded to {}: relationship 1 has to end first",
                view.name, extended.view.peer
            );
            return Err(wrong_state(message));
        }
        let command = Command::Unprotect { vm: view.vm.to_string(), delete_replica: false };
        let command = command_of(view.index, command);
        call.in_background(Some((view.vm, &view.name)), "remove relationship", REMOVE_RELATIONSHIP, command)
    }
    .boxed()
}

fn start<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let view = sending(call.machine(Parts::default()).await?)?.view;
        let way = match call.required_number("InitialReplicationType")? {
            1 => FirstCopy::Network,
            2 => FirstCopy::Export { folder: folder(call, "InitialReplicationExportLocation")? },
            3 => FirstCopy::Seeded,
            other => {
                let allowed = "1, network, 2, export, and 3, seeded";
                return Err(invalid(format!("InitialReplicationType {other}: allowed are {allowed}")));
            }
        };
        // An export begins at once, whatever the client sends.
        let at_ms = match way {
            FirstCopy::Export { .. } => None,
            _ => call.start_time("StartTime")?,
        };
        let command = Command::StartReplication { vm: view.vm.to_string(), way, at_ms };
        call.run(command_of(view.index, command)).await
    }
    .boxed()
}

fn folder(call: &Call<'_>, name: &str) -> Result<PathBuf, Refusal> {
    let text = call.text(name).ok_or_else(|| invalid(format!("{name} is missing: a folder on this host")))?;
    Ok(PathBuf::from(text))
}

fn import<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let vm = call.replication().await?.view.vm;
        let folder = folder(call, "InitialReplicationImportLocation")?;
        call.run(Command::Import { vm: vm.to_string(), folder }).await
    }
    .boxed()
}

fn resynchronize<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let view = sending(call.machine(Parts::default()).await?)?.view;
        let at_ms = call.start_time("StartTime")?;
        if view.state == ReplicationState::Ready {
            let message =
                format!("the first copy of {} has not begun: StartReplication begins it", view.name);
            return Err(Failure::new(ErrorKind::InvalidState, "not-started", message).into());
        }
        call.run(command_of(view.index, Command::Resync { vm: view.vm.to_string(), at_ms })).await
    }
    .boxed()
}

fn change_to_primary<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let machine = call.machine(Parts::default()).await?;
        let named = call.embedded("ReplicationRelationship", "Msvm_ReplicationRelationship")?;
        if named.is_some() && call.relationship(machine.clone())?.view.index == 0 {
            return Err(invalid(
                "ReplicationRelationship: relationship 0 is given; the extended one, 1, is allowed",
            ));
        }
        let view = super::call::extended(machine)?.view;
        call.run(Command::ChangeToPrimary { vm: view.vm.to_string() }).await
    }
    .boxed()
}
