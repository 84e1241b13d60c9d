//! `Msvm_ComputerSystem`: RequestReplicationStateChange(Ex), and RequestStateChange to run a VM.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{command_of, invalid, unsupported, wrong_state},
};
use crate::{
    classes::computer_system::enabled_state,
    names::{COMPUTER_SYSTEM, uuids},
    world::ask,
};
use cim::Role;
use futures::{FutureExt, future::BoxFuture};
use model::{ReplicationState as S, VmId};
use service::{
    api::{Command, RelationshipView},
    inventory::Parts,
};

/// What RequestedState 3 resumes.
const RESUMABLE: [S; 5] =
    [S::Suspended, S::Critical, S::WaitingForResynchronize, S::ResynchronizeSuspended, S::DiskUpdateCritical];

/// In these a replica may have been failed over, and have to give way; or it is busy with that.
const LEFT_BEHIND: [S; 3] = [S::Recovered, S::Committed, S::FailoverInProgress];

// `Msvm_ConcreteJob.JobType`.
const SHUT_DOWN: u16 = 16;

pub const METHODS: &[Method] = &[
    Method {
        class: COMPUTER_SYSTEM,
        name: "RequestReplicationStateChange",
        role: Role::Operator,
        how: How::Works(replication_state),
        note: "1 gives up a first copy that is under way, exported or put off, 2 makes a former primary the replica, and \
               marks a VM without a relationship as the seed of one, 3 resumes or cancels a prepared \
               failover, 4 prepares a planned failover (the VM is off), 7 suspends, 9 cancels a \
               resynchronization that is under way or put off",
    },
    Method {
        class: COMPUTER_SYSTEM,
        name: "RequestReplicationStateChangeEx",
        role: Role::Operator,
        how: How::Works(replication_state),
        note: "as above; of relationship 1 (extended) the states 1, 3, 7 and 9",
    },
    Method {
        class: COMPUTER_SYSTEM,
        name: "RequestStateChange",
        role: Role::Operator,
        how: How::Works(state),
        note: "2 runs, 3 pulls the plug, 4 shuts the guest down, 9 pauses; 6, 10 and 11 32770. The host's own 32770",
    },
];

fn target(call: &Call<'_>) -> Result<VmId, Refusal> {
    let vm = uuids(call.target).into_iter().next();
    vm.ok_or_else(|| unsupported(format!("{} is the host, not a VM", call.target.relative())))
}

fn replication_state<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let id = target(call)?;
        let requested = call.required_number("RequestedState")?;
        let machine = call.look_at(id, Parts::default()).await?;
        if requested == 2 && machine.replication.is_none() {
            return call.run(Command::Seed { vm: id.to_string(), forget: false }).await;
        }
        let view = call.relationship(machine)?.view;
        if requested == 4 {
            is_off(&view)?;
        }
        call.run(command_of(view.index, requested_command(requested, &view)?)).await
    }
    .boxed()
}

/// What takes a relationship to the requested state.
fn requested_command(requested: u32, view: &RelationshipView) -> Result<Command, Refusal> {
    let vm = view.vm.to_string();
    Ok(match requested {
        1 => Command::CancelStart { vm },
        2 | 4 if view.index == 1 => {
            return Err(wrong_state(format!("RequestedState {requested}: relationship 1 only forwards")));
        }
        2 if view.mode.is_replica() && !LEFT_BEHIND.contains(&view.state) => {
            return Err(wrong_state(format!("this host holds a replica of {} already", view.name)));
        }
        2 => Command::BecomeReplica { vm },
        3 if view.state == S::SyncedReplicationComplete => Command::CancelFailover { vm },
        // An operator's own `resume` ends waits in other states, too.
        3 if !RESUMABLE.contains(&view.state) => {
            return Err(wrong_state(format!(
                "{} is in state `{}`: nothing is to be resumed",
                view.name, view.state
            )));
        }
        3 => Command::Resume { vm },
        4 => Command::PrepareFailover { vm },
        7 => Command::Suspend { vm, release: false },
        9 => Command::CancelResync { vm },
        other => return Err(invalid(format!("RequestedState {other}: allowed are 1, 2, 3, 4, 7 and 9"))),
    })
}

/// As Hyper-V has it: whoever prepares a failover has shut the VM down.
fn is_off(view: &RelationshipView) -> Result<(), Refusal> {
    if enabled_state(&view.power_state) == 3 {
        return Ok(());
    }
    Err(wrong_state(format!("{} is {}: shut it down before a planned failover", view.name, view.power_state)))
}

fn state<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let id = target(call)?;
        let machine = call.look_at(id, Parts { vm: true, points: false }).await?;
        let vm = id.to_string();
        let command = match call.required_number("RequestedState")? {
            2 => Command::VmStart { vm },
            3 => Command::VmStop { vm, force: true },
            4 => {
                let name = machine.vm.map(|view| view.name).unwrap_or_default();
                let command = Command::VmStop { vm, force: false };
                return call.in_background(Some((id, &name)), "shut down", SHUT_DOWN, command);
            }
            9 | 32776 => Command::VmPause { vm },
            other @ (6 | 10 | 11) => {
                return Err(unsupported(format!("RequestedState {other}: 2, 3, 4 and 9 are supported")));
            }
            other => return Err(invalid(format!("RequestedState {other}: allowed are 2, 3, 4 and 9"))),
        };
        ask(&call.hvr.host, command).await?;
        Ok(Answer::done())
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn a_requested_state_becomes_the_command_that_leads_there() {
        let mut view = samples::replication().view;
        let vm = view.vm.to_string();
        let command = |requested, view: &_| requested_command(requested, view).map_err(|it| it.code);
        assert_eq!(command(3, &view), Err(32775), "it replicates");
        assert_eq!(command(7, &view), Ok(Command::Suspend { vm: vm.clone(), release: false }));
        assert_eq!(command(1, &view), Ok(Command::CancelStart { vm: vm.clone() }));
        assert_eq!(command(5, &view), Err(32773));
        view.state = S::Suspended;
        assert_eq!(command(3, &view), Ok(Command::Resume { vm: vm.clone() }));
        view.state = S::SyncedReplicationComplete;
        assert_eq!(command(3, &view), Ok(Command::CancelFailover { vm }));
    }

    #[test]
    fn a_vm_that_runs_is_not_prepared() {
        let mut view = samples::replication().view;
        assert_eq!(is_off(&view).unwrap_err().code, 32775);
        view.power_state = "shut off".into();
        assert!(is_off(&view).is_ok());
    }
}
