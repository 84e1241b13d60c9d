//! `Msvm_VirtualSystemManagementService` and the services beside it, and the guest's devices.

use super::{Answer, Call, How, Method, NOT_SUPPORTED, Refusal, call::invalid};
use crate::{
    classes::{computer_system::enabled_state, summary},
    instance::finish,
    names::{MANAGEMENT_SERVICE, SNAPSHOT_SERVICE, uuid, uuids},
    world,
};
use cim::{Role, Value};
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use model::VmId;
use service::{
    api::{Command, ErrorKind, Failure},
    inventory::{self, Machine, Parts},
};

const WITH_VM: Parts = Parts { vm: true, points: false };

// `Msvm_ConcreteJob.JobType`.
const SHUT_DOWN: u16 = 16;
const REMOVE_TEST: u16 = 103;

/// DestroySystem's own codes.
const DESTROY_NOT_SUPPORTED: u32 = 1;
const DESTROY_INVALID_STATE: u32 = 5;

const DEVICES: [&str; 2] = ["Msvm_ShutdownComponent", "Msvm_HeartbeatComponent"];
/// What `RequestStateChange` of a device answers: not supported.
const DEVICE_NOT_SUPPORTED: u32 = 1;

const fn snapshots(name: &'static str) -> Method {
    let why = "recovery points are made by replication, and used by failovers";
    Method {
        class: SNAPSHOT_SERVICE,
        name,
        role: Role::Operator,
        how: How::Refused(NOT_SUPPORTED, why),
        note: "",
    }
}

const fn device(class: &'static str) -> Method {
    let why = "the device comes and goes with the guest";
    let how = How::Refused(DEVICE_NOT_SUPPORTED, why);
    Method { class, name: "RequestStateChange", role: Role::Operator, how, note: "" }
}

pub const METHODS: &[Method] = &[
    Method {
        class: MANAGEMENT_SERVICE,
        name: "GetSummaryInformation",
        role: Role::Reader,
        how: How::Works(summaries),
        note: "what of a summary is not known is NULL; recovery points have none",
    },
    Method {
        class: MANAGEMENT_SERVICE,
        name: "DestroySystem",
        role: Role::Operator,
        how: How::Works(destroy),
        note: "ends a test failover: its VM, which is off. Other VMs 1",
    },
    Method {
        class: MANAGEMENT_SERVICE,
        name: "ModifyResourceSettings",
        role: Role::Administrator,
        how: How::Works(super::resources::modify),
        note: "TestReplicaSwitchName of Msvm_EthernetPortAllocationSettingData, on each host for itself: the libvirt \
               network of an adapter in test failovers here; NULL: as `[test_failover]` says, unplugged unless told. \
               All else 32770: libvirt's own tools change the hardware of a VM",
    },
    snapshots("CreateSnapshot"),
    snapshots("ApplySnapshot"),
    snapshots("DestroySnapshot"),
    Method {
        class: DEVICES[0],
        name: "InitiateShutdown",
        role: Role::Operator,
        how: How::Works(shut_down),
        note: "0 when the guest was asked; Force pulls the plug",
    },
    device(DEVICES[0]),
    device(DEVICES[1]),
    Method {
        class: "Msvm_VirtualEthernetSwitch",
        name: "RequestStateChange",
        role: Role::Operator,
        how: How::Refused(DEVICE_NOT_SUPPORTED, "libvirt's own tools start and stop networks"),
        note: "",
    },
];

fn summaries<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let requested: Vec<u32> = elements(call, "RequestedInformation")
            .filter_map(|code| code.as_i128().and_then(|code| u32::try_from(code).ok()))
            .collect();
        let named: Vec<VmId> =
            elements(call, "SettingData").filter_map(Value::as_path).flat_map(uuids).collect();
        let host = call.hvr.host.clone();
        let ids = if call.value("SettingData").is_some() { named } else { inventory::vm_ids(&host).await? };
        let machines: Vec<Machine> = world::machines(host, ids, WITH_VM).try_collect().await?;
        let world = call.hvr.world().await;
        let summaries = machines.iter().map(|machine| summary(&world, machine, &requested));
        // Inline, as Hyper-V answers them: protocols have their own form for that.
        let whole = summaries.map(|made| Ok(finish(&made, call.schema).map_err(mistake)?.into()));
        Ok(Answer::done().with("SummaryInformation", Value::Array(whole.collect::<Result<_, Refusal>>()?)))
    }
    .boxed()
}

fn mistake(error: cim::Error) -> Failure {
    Failure::new(ErrorKind::Failed, "failed", error.message)
}

fn elements<'a>(call: &'a Call<'_>, name: &str) -> impl Iterator<Item = &'a Value> {
    call.value(name).and_then(Value::as_array).into_iter().flatten()
}

fn destroy<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let id = call.vm_argument("AffectedSystem")?;
        let machine = call.look_at(id, WITH_VM).await?;
        let view = machine.vm.as_ref().ok_or_else(|| invalid("AffectedSystem is no VM"))?;
        let Some(replica) = machine.test_of else {
            let message = format!("{} is no test VM: VMs are not removed here", view.name);
            let failure = Failure::new(ErrorKind::NotSupported, "not-supported", message);
            return Err(Refusal { code: DESTROY_NOT_SUPPORTED, failure });
        };
        if enabled_state(&view.power_state) != 3 {
            let message = format!("{} is {}: turn it off first", view.name, view.power_state);
            let failure = Failure::new(ErrorKind::InvalidState, "running", message);
            return Err(Refusal { code: DESTROY_INVALID_STATE, failure });
        }
        let command = Command::EndTest { vm: replica.to_string() };
        call.in_background(Some((replica, &view.name)), "remove test replica", REMOVE_TEST, command)
    }
    .boxed()
}

fn shut_down<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let named = call.target.key("SystemName").and_then(Value::as_str).unwrap_or_default();
        let id: VmId = uuid(named).ok_or_else(|| invalid("SystemName is no VM"))?;
        let machine = call.look_at(id, WITH_VM).await?;
        let name = machine.vm.map(|view| view.name).unwrap_or_default();
        let force = call.value("Force").and_then(Value::as_bool) == Some(true);
        let command = Command::VmStop { vm: id.to_string(), force };
        call.in_background(Some((id, &name)), "shut down", SHUT_DOWN, command)?;
        // The method has no place for the job.
        Ok(Answer::done())
    }
    .boxed()
}
