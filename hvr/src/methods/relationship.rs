//! The life of a relationship: it is made, its copy begins, its settings change, it is compared, it ends.

use super::{
    Answer, Call, How, Method, NOT_SUPPORTED, Refusal,
    call::{invalid, unsupported, wrong_state},
    settings,
};
use crate::names::REPLICATION_SERVICE;
use cim::Role;
use futures::{FutureExt, future::BoxFuture};
use model::{Mode, ReplicationState};
use service::{
    api::{Command, ErrorKind, Failure},
    inventory::{Machine, Parts, Replication},
};

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
        note: "on a replica (extended replication) 32770; Kerberos, application-consistent points, a window for \
               resynchronizations, an external provider 32770; ReplicationInterval may be 1 to 43200 s; \
               AdditionalSettings is JSON with recovery_point_spacing_s and bandwidth_bytes_per_s",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ModifyReplicationSettings",
        role: Role::Administrator,
        how: How::Works(modify),
        note: "interval, history, AdditionalSettings and AutoResynchronizeEnabled change, on both hosts; another \
               recovery host or other disks 32770",
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
        note: "relationship 1 (extended) 32770",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "StartReplication",
        role: Role::Operator,
        how: How::Works(start),
        note: "type 1 (network); types 2 (export) and 3 (seeded) and a start at a later time 32770",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ImportInitialReplica",
        role: Role::Operator,
        how: How::Refused(NOT_SUPPORTED, "first copies are not exported"),
        note: "",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "Resynchronize",
        role: Role::Operator,
        how: How::Works(resynchronize),
        note: "recovery points are kept; a start at a later time 32770",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ChangeReplicationModeToPrimary",
        role: Role::Operator,
        how: How::Refused(NOT_SUPPORTED, "there are no extended relationships"),
        note: "",
    },
];

fn create<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let machine = call.machine(WITH_VM).await?;
        if let Some(replication) = &machine.replication {
            return Err(exists(replication));
        }
        let given = call.required_embedded("ReplicationSettingData", SETTINGS)?;
        let world = call.hvr.world().await;
        let wanted = settings::read(&given, machine.id, &world, call.schema)?;
        let to = wanted.to.clone();
        let to =
            to.ok_or_else(|| invalid("RecoveryConnectionPoint is missing: the name of the recovery host"))?;
        settings::check_port(&wanted, &to, &world)?;
        let name = machine.vm.as_ref().map_or_else(|| machine.id.to_string(), |view| view.name.clone());
        let change = wanted.change;
        let command = Command::Protect {
            vm: machine.id.to_string(),
            to,
            interval_s: change.interval_s.unwrap_or(INTERVAL_S),
            history: change.history.unwrap_or(0),
            history_every_s: change.history_every_s.unwrap_or(HISTORY_EVERY_S),
            disks: wanted.disks,
            bandwidth_bytes_per_s: change.bandwidth_bytes_per_s.filter(|limit| *limit > 0),
            auto_resynchronize: change.auto_resynchronize.unwrap_or(false),
            start: false,
        };
        call.in_background(Some((machine.id, &name)), "create relationship", CREATE_RELATIONSHIP, command)
    }
    .boxed()
}

fn exists(replication: &Replication) -> Refusal {
    let view = &replication.view;
    if view.mode == Mode::Replica {
        return unsupported(format!("{} is a replica: extended replication is not supported", view.name));
    }
    wrong_state(format!("{} is replicated already, to {}", view.name, view.peer))
}

fn modify<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let machine = call.machine(WITH_VM).await?;
        let replication = super::call::replication(machine.clone())?;
        let view = &replication.view;
        if view.mode != Mode::Primary {
            return Err(unsupported(format!("{} is a replica: it has no extended relationship", view.name)));
        }
        let given = call.required_embedded("ReplicationSettingData", SETTINGS)?;
        let world = call.hvr.world().await;
        let wanted = settings::read(&given, machine.id, &world, call.schema)?;
        if let Some(to) = wanted.to.as_ref().filter(|to| **to != view.peer) {
            return Err(unsupported(format!(
                "RecoveryConnectionPoint {to}: the replica cannot move from {}",
                view.peer
            )));
        }
        settings::check_port(&wanted, &view.peer, &world)?;
        same_disks(&machine, wanted.disks.as_deref())?;
        let command = Command::Configure { vm: machine.id.to_string(), change: wanted.change };
        call.in_background(Some((machine.id, &view.name)), "modify settings", MODIFY_SETTINGS, command)
    }
    .boxed()
}

fn same_disks(machine: &Machine, wanted: Option<&[String]>) -> Result<(), Refusal> {
    let Some(wanted) = wanted else { return Ok(()) };
    let disks = machine.vm.iter().flat_map(|view| &view.disks).filter(|disk| disk.replicated);
    let mut have: Vec<&str> = disks.map(|disk| disk.target.as_str()).collect();
    let mut wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    have.sort_unstable();
    wanted.sort_unstable();
    if have == wanted {
        return Ok(());
    }
    let message = format!(
        "IncludedDisks {}: the set of disks cannot change, it is {}",
        wanted.join(", "),
        have.join(", ")
    );
    Err(unsupported(message))
}

fn remove<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.replication().await?;
        let view = &replication.view;
        call.primary_relationship(view.vm)?;
        let command = Command::Unprotect { vm: view.vm.to_string(), delete_replica: false };
        call.in_background(Some((view.vm, &view.name)), "remove relationship", REMOVE_RELATIONSHIP, command)
    }
    .boxed()
}

fn start<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.replication().await?;
        match call.required_number("InitialReplicationType")? {
            1 => {}
            2 => {
                return Err(unsupported(
                    "InitialReplicationType 2: first copies are not exported; 1, network, is supported",
                ));
            }
            3 => {
                return Err(unsupported(
                    "InitialReplicationType 3: copies are not seeded; 1, network, is supported",
                ));
            }
            other => return Err(invalid(format!("InitialReplicationType {other}: allowed is 1, network"))),
        }
        call.starts_now("StartTime")?;
        call.run(Command::StartReplication { vm: replication.view.vm.to_string() }).await
    }
    .boxed()
}

fn resynchronize<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let view = call.replication().await?.view;
        call.starts_now("StartTime")?;
        if view.state == ReplicationState::Ready {
            let message =
                format!("the first copy of {} has not begun: StartReplication begins it", view.name);
            return Err(Failure::new(ErrorKind::InvalidState, "not-started", message).into());
        }
        call.run(Command::Resync { vm: view.vm.to_string() }).await
    }
    .boxed()
}
