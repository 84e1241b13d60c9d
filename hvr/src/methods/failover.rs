//! Failover, and home again: InitiateFailover to InitiateFailback, and test failover.

use super::{
    Answer, Call, How, Method, NOT_SUPPORTED, Refusal,
    call::{invalid, unsupported},
    settings,
};
use crate::{
    names::{self, REPLICATION_SERVICE},
    world::World,
};
use cim::{Instance, Role};
use futures::{FutureExt, future::BoxFuture};
use model::ReplicationState as S;
use service::{
    api::{Command, FailoverKind},
    inventory::{Parts, Replication},
};

pub const METHODS: &[Method] = &[
    Method {
        class: REPLICATION_SERVICE,
        name: "InitiateFailover",
        role: Role::Operator,
        how: How::Works(initiate_failover),
        note: "the VM stays off; planned where the primary was prepared (RequestedState 4)",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "RevertFailover",
        role: Role::Operator,
        how: How::Works(revert),
        note: "in states 13 and 14 it cancels the failback",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "CommitFailover",
        role: Role::Operator,
        how: How::Works(commit),
        note: "in state 14 it completes the failback: the VM is shut down over there and started here",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ReverseReplicationRelationship",
        role: Role::Operator,
        how: How::Works(reverse),
        note: "settings other than the relationship's own 32770: ModifyReplicationSettings changes them afterwards",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "TestReplicaSystem",
        role: Role::Operator,
        how: How::Works(test),
        note: "adapters go to the network that the configuration names, or are unplugged",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "InitiateFailback",
        role: Role::Operator,
        how: How::Works(failback),
        note: "a RecoveryPointIdentifier, and settings other than the relationship's own 32770",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "SetFailoverNetworkAdapterSettings",
        role: Role::Operator,
        how: How::Refused(NOT_SUPPORTED, "addresses are not injected into guests"),
        note: "",
    },
];

fn initiate_failover<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let vm = call.replication().await?.view.vm.to_string();
        let point = call.point("SnapshotSettingData").await?.map(|point| point.to_string());
        call.run(Command::Failover { vm, kind: FailoverKind::Unplanned { point }, start: false }).await
    }
    .boxed()
}

fn revert<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let view = call.replication().await?.view;
        let vm = view.vm.to_string();
        let failing_back = matches!(view.state, S::FailbackInProgress | S::FailbackComplete);
        call.run(if failing_back { Command::FailbackCancel { vm } } else { Command::Revert { vm } }).await
    }
    .boxed()
}

fn commit<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let view = call.replication().await?.view;
        let vm = view.vm.to_string();
        let failing_back = matches!(view.state, S::FailbackInProgress | S::FailbackComplete);
        call.run(if failing_back {
            Command::FailbackComplete { vm, point: None, force: false }
        } else {
            Command::Commit { vm }
        })
        .await
    }
    .boxed()
}

fn reverse<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.replication().await?;
        own_settings(call, &replication).await?;
        call.run(Command::Reverse { vm: replication.view.vm.to_string() }).await
    }
    .boxed()
}

fn failback<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.replication().await?;
        own_settings(call, &replication).await?;
        if call.text("RecoveryPointIdentifier").is_some() {
            return Err(unsupported(
                "RecoveryPointIdentifier: a failback goes to the latest state; leave it out",
            ));
        }
        call.run(Command::Failback { vm: replication.view.vm.to_string() }).await
    }
    .boxed()
}

/// The settings, where they are given, must be those of the relationship, seen from either side.
async fn own_settings(call: &Call<'_>, replication: &Replication) -> Result<(), Refusal> {
    let given = call.embedded("ReplicationSettingData", "Msvm_ReplicationSettingData")?;
    let Some(given) = given else { return Ok(()) };
    let world = call.hvr.world().await;
    same_settings(&given, replication, &world, call.schema)
}

fn same_settings(
    given: &Instance,
    replication: &Replication,
    world: &World,
    schema: &cim::Schema,
) -> Result<(), Refusal> {
    let view = &replication.view;
    let wanted = settings::read(given, view.vm, world, schema)?;
    if let Some(to) = wanted.to.as_ref().filter(|to| **to != view.peer && to.as_str() != world.host) {
        return Err(invalid(format!(
            "RecoveryConnectionPoint {to}: allowed is {}, the other host",
            view.peer
        )));
    }
    settings::check_port(&wanted, &view.peer, world)?;
    let change = &wanted.change;
    let differs = [
        ("ReplicationInterval", change.interval_s.is_some_and(|it| it != view.interval_s)),
        (
            "AutoResynchronizeEnabled",
            change.auto_resynchronize.is_some_and(|it| it != replication.auto_resynchronize),
        ),
        ("RecoveryHistory", change.history.is_some_and(|it| it != view.history)),
        (
            "AdditionalSettings",
            change.history_every_s.is_some_and(|it| it != view.history_every_s)
                || change
                    .bandwidth_bytes_per_s
                    .is_some_and(|it| it != view.bandwidth_bytes_per_s.unwrap_or(0)),
        ),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((name, _)) => Err(unsupported(format!(
            "{name} is another than the relationship has: ModifyReplicationSettings changes it afterwards"
        ))),
        None => Ok(()),
    }
}

fn test<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let id = call.replication().await?.view.vm;
        let point = call.point("SnapshotSettingData").await?.map(|point| point.to_string());
        let kind = FailoverKind::Test { point };
        let answer = call.run(Command::Failover { vm: id.to_string(), kind, start: false }).await?;
        let made = call.look_at(id, Parts::default()).await?.replication.and_then(|it| it.test_vm);
        Ok(answer.with("ResultingSystem", made.map(names::vm)))
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schema, tests::samples};

    #[test]
    fn settings_of_a_reversal_are_the_relationships_own() {
        let (schema, world) = (schema::schema(schema::V2), samples::world());
        let own = samples::replication();
        let given = Instance::new("Msvm_ReplicationSettingData");
        let check = |given: &Instance| same_settings(given, &own, &world, &schema).map_err(|it| it.code);
        assert_eq!(check(&given), Ok(()));
        assert_eq!(check(&given.clone().with("RecoveryConnectionPoint", "b.example")), Ok(()));
        assert_eq!(check(&given.clone().with("ReplicationInterval", 30u16)), Ok(()));
        assert_eq!(check(&given.clone().with("RecoveryConnectionPoint", "c.example")), Err(32773));
        assert_eq!(check(&given.clone().with("ReplicationInterval", 900u16)), Err(32770));
        assert_eq!(check(&given.with("AdditionalSettings", r#"{"bandwidth_bytes_per_s":7}"#)), Err(32770));
    }
}
