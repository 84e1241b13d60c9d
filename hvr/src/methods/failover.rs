//! Failover, and home again: InitiateFailover to InitiateFailback, and test failover.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{invalid, wrong_state},
    settings,
};
use crate::{
    names::{self, REPLICATION_SERVICE},
    world::{World, ask},
};
use cim::{Instance, Role};
use futures::{FutureExt, future::BoxFuture};
use model::{DeltaId, Mode, ReplicationState as S};
use service::{
    api::{Command, FailoverKind, Request, SettingsChange},
    inventory::{Parts, Replication},
};

pub const METHODS: &[Method] = &[
    Method {
        class: REPLICATION_SERVICE,
        name: "InitiateFailover",
        role: Role::Operator,
        how: How::Works(initiate_failover),
        note: "the VM stays off; planned where the primary was prepared (RequestedState 4); 0 where the VM is at the point that \
               SnapshotSettingData names, in state 5",
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
        note: "settings other than the recovery host and the disks are taken as by ModifyReplicationSettings, before \
               the roles change",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "TestReplicaSystem",
        role: Role::Operator,
        how: How::Works(test),
        note: "an adapter goes to the network of its TestReplicaSwitchName, else to the one that the configuration names, \
               else it is unplugged",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "InitiateFailback",
        role: Role::Operator,
        how: How::Works(failback),
        note: "a RecoveryPointIdentifier is an InstanceID or a path: a point that the other host keeps since it took the VM over, while \
               that is not committed (32775 otherwise); settings are taken as by ReverseReplicationRelationship",
    },
];

fn initiate_failover<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.replication().await?;
        let vm = replication.view.vm.to_string();
        let point = call.point("SnapshotSettingData").await?;
        if point.is_some_and(|point| was_failed_over(&replication, point)) {
            return Ok(Answer::done());
        }
        let point = point.map(|point| point.to_string());
        call.run(Command::Failover { vm, kind: FailoverKind::Unplanned { point }, start: false }).await
    }
    .boxed()
}

/// Is that what a client asks for that did not hear the answer: the VM is at this point already.
fn was_failed_over(replication: &Replication, point: DeltaId) -> bool {
    let at = replication.failed_over.is_some_and(|(at, _)| at == point);
    at && replication.view.state == S::Recovered && replication.view.job.is_none()
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
        if replication.view.mode == Mode::Primary {
            let view = &replication.view;
            return Err(wrong_state(format!(
                "{} is reversed on {}, where it was failed over",
                view.name, view.peer
            )));
        }
        let command = Command::Reverse { vm: replication.view.vm.to_string() };
        configure(call, &replication, &command).await?;
        call.run(command).await
    }
    .boxed()
}

fn failback<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.replication().await?;
        let point = call.point_identifier("RecoveryPointIdentifier")?.map(|point| point.to_string());
        let command = Command::Failback { vm: replication.view.vm.to_string(), point };
        configure(call, &replication, &command).await?;
        call.run(command).await
    }
    .boxed()
}

/// Changes the settings as far as other ones are given than the relationship has, if the command could be carried out
/// now.
async fn configure(call: &Call<'_>, replication: &Replication, command: &Command) -> Result<(), Refusal> {
    let given = call.embedded("ReplicationSettingData", "Msvm_ReplicationSettingData")?;
    let Some(given) = given else { return Ok(()) };
    let world = call.hvr.world().await;
    let change = change(&given, replication, &world, call.schema)?;
    if !differs(&change, replication) {
        return Ok(());
    }
    let host = &call.hvr.host;
    service::execute(host, &Request { command: command.clone(), dry_run: true, wait: false }).await?;
    ask(host, Command::Configure { vm: replication.view.vm.to_string(), change }).await?;
    Ok(())
}

/// What the settings ask for, seen from either side.
fn change(
    given: &Instance,
    replication: &Replication,
    world: &World,
    schema: &cim::Schema,
) -> Result<SettingsChange, Refusal> {
    let view = &replication.view;
    let wanted = settings::read(given, view.vm, world, schema)?;
    if let Some(to) = wanted.to.as_ref().filter(|to| **to != view.peer && to.as_str() != world.host) {
        return Err(invalid(format!(
            "RecoveryConnectionPoint {to}: allowed is {}, the other host",
            view.peer
        )));
    }
    settings::check_port(&wanted, &view.peer, view.authentication, world)?;
    Ok(wanted.change)
}

fn differs(change: &SettingsChange, replication: &Replication) -> bool {
    fn other<T: PartialEq>(wanted: Option<&T>, has: &T) -> bool {
        wanted.is_some_and(|it| it != has)
    }
    let view = &replication.view;
    // Each by name, so that none that is added is forgotten here.
    let SettingsChange {
        interval_s,
        history,
        history_every_s,
        tiers,
        bandwidth_bytes_per_s,
        bandwidth_windows,
        auto_resynchronize,
        app_consistent_every_s,
        drill_every_s,
        scrub_every_s,
        authentication,
        resync_window,
        compress,
        bypass_proxy,
    } = change;
    other(interval_s.as_ref(), &view.interval_s)
        || other(history.as_ref(), &view.history)
        || other(history_every_s.as_ref(), &view.history_every_s)
        || other(tiers.as_ref(), &view.tiers)
        || other(bandwidth_bytes_per_s.as_ref(), &view.bandwidth_bytes_per_s.unwrap_or(0))
        || other(bandwidth_windows.as_ref(), &view.bandwidth_windows)
        || other(auto_resynchronize.as_ref(), &replication.auto_resynchronize)
        || other(app_consistent_every_s.as_ref(), &view.app_consistent_every_s)
        || other(drill_every_s.as_ref(), &replication.drill_every_s)
        || other(scrub_every_s.as_ref(), &view.scrub.every_s)
        || other(authentication.as_ref(), &view.authentication)
        || other(resync_window.as_ref(), &replication.resync_window)
        || other(compress.as_ref(), &replication.compress)
        || other(bypass_proxy.as_ref(), &replication.bypass_proxy)
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
    fn settings_of_a_reversal_may_be_others_than_the_relationships() {
        let (schema, world) = (schema::schema(schema::V2), samples::world());
        let own = samples::replication();
        let given = Instance::new("Msvm_ReplicationSettingData");
        let check = |given: &Instance| {
            let change = change(given, &own, &world, &schema).map_err(|it| it.code)?;
            Ok::<_, u32>(differs(&change, &own))
        };
        assert_eq!(check(&given), Ok(false));
        assert_eq!(check(&given.clone().with("RecoveryConnectionPoint", "b.example")), Ok(false));
        assert_eq!(check(&given.clone().with("ReplicationInterval", 30u16)), Ok(false));
        assert_eq!(check(&given.clone().with("RecoveryConnectionPoint", "c.example")), Err(32773));
        assert_eq!(check(&given.clone().with("AuthenticationType", 1u16)), Err(32770));
        assert_eq!(check(&given.clone().with("ReplicationInterval", 900u16)), Ok(true));
        assert_eq!(check(&given.clone().with("CompressionEnabled", own.compress)), Ok(false));
        assert_eq!(check(&given.clone().with("CompressionEnabled", !own.compress)), Ok(true));
        assert_eq!(check(&given.clone().with("BypassProxyServer", false)), Ok(false));
        assert_eq!(check(&given.clone().with("BypassProxyServer", true)), Ok(true));
        for other in [r#"{"bandwidth_bytes_per_s":7}"#, r#"{"fire_drill_interval_s":604800}"#] {
            assert_eq!(check(&given.clone().with("AdditionalSettings", other)), Ok(true), "{other}");
        }
    }
}
