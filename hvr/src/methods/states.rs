//! `Msvm_ComputerSystem`: RequestReplicationStateChange(Ex), and RequestStateChange to run a VM.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{invalid, unsupported, wrong_state},
};
use crate::{
    classes::computer_system::enabled_state,
    names::{COMPUTER_SYSTEM, uuids},
    world::ask,
};
use cim::Role;
use futures::{FutureExt, future::BoxFuture};
use model::{Mode, ReplicationState as S, VmId};
use service::{
    api::{Command, RelationshipView},
    inventory::Parts,
};

// `Msvm_ConcreteJob.JobType`.
const SHUT_DOWN: u16 = 16;

pub const METHODS: &[Method] = &[
    Method {
        class: COMPUTER_SYSTEM,
        name: "RequestReplicationStateChange",
        role: Role::Operator,
        how: How::Works(replication_state),
        note: "1 stops the first copy, 2 makes a former primary the replica, 3 resumes or cancels a prepared \
               failover, 4 prepares a planned failover (the VM is off), 7 suspends, 9 cancels a resynchronization",
    },
    Method {
        class: COMPUTER_SYSTEM,
        name: "RequestReplicationStateChangeEx",
        role: Role::Operator,
        how: How::Works(replication_state),
        note: "as above; relationship 1 (extended) 32770",
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
        let view = super::call::replication(machine)?.view;
        call.primary_relationship(id)?;
        if requested == 4 {
            is_off(&view)?;
        }
        call.run(requested_command(requested, &view)?).await
    }
    .boxed()
}

/// What takes a relationship to the requested state.
fn requested_command(requested: u32, view: &RelationshipView) -> Result<Command, Refusal> {
    let vm = view.vm.to_string();
    Ok(match requested {
        1 => match view.job {
            Some(job) if view.state == S::WaitingForInitialReplication && view.mode == Mode::Primary => {
                Command::JobCancel { job }
            }
            _ => return Err(wrong_state(format!("no first copy of {} is under way", view.name))),
        },
        2 => Command::BecomeReplica { vm },
        3 if view.state == S::SyncedReplicationComplete => Command::CancelFailover { vm },
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
        assert_eq!(command(3, &view), Ok(Command::Resume { vm: vm.clone() }));
        assert_eq!(command(7, &view), Ok(Command::Suspend { vm: vm.clone(), release: false }));
        assert_eq!(command(1, &view), Err(32775));
        assert_eq!(command(5, &view), Err(32773));
        view.state = S::SyncedReplicationComplete;
        assert_eq!(command(3, &view), Ok(Command::CancelFailover { vm }));
        let job = model::JobId::random();
        (view.state, view.job) = (S::WaitingForInitialReplication, Some(job));
        assert_eq!(command(1, &view), Ok(Command::JobCancel { job }));
    }

    #[test]
    fn a_vm_that_runs_is_not_prepared() {
        let mut view = samples::replication().view;
        assert_eq!(is_off(&view).unwrap_err().code, 32775);
        view.power_state = "shut off".into();
        assert!(is_off(&view).is_ok());
    }
}
