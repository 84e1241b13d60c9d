//! ModifyResourceSettings: of a VM's parts, where its adapters go in a test failover.

use super::{
    Answer, Call, Refusal,
    call::{invalid, replication, unsupported},
};
use crate::{
    classes::devices::connected,
    names::{by_id, uuids},
};
use cim::{Instance, Value, embedded};
use futures::{FutureExt, future::BoxFuture};
use model::VmId;
use service::{
    api::Command,
    inventory::{Machine, Parts},
};
use std::collections::BTreeMap;

const CLASS: &str = "Msvm_EthernetPortAllocationSettingData";
const SETTINGS: &str = "ResourceSettings";
const NETWORK: &str = "TestReplicaSwitchName";

pub fn modify<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let given = call.value(SETTINGS).and_then(Value::as_array);
        let given = given.ok_or_else(|| invalid(format!("{SETTINGS} is missing: instances of {CLASS}")))?;
        let mut wanted: BTreeMap<VmId, BTreeMap<String, Option<String>>> = BTreeMap::new();
        let mut changed = vec![];
        for value in given {
            let read = embedded::of_value(value, call.schema);
            let instance = read.map_err(|error| invalid(format!("{SETTINGS}: {error}")))?;
            let instance =
                instance.ok_or_else(|| invalid(format!("{SETTINGS} has an element that is NULL")))?;
            let id = instance.text("InstanceID").unwrap_or_default();
            let vm = uuids::<VmId>(&by_id(CLASS, id.to_owned())).into_iter().next();
            let vm = vm.ok_or_else(|| invalid(format!("InstanceID {id:?} is of no VM")))?;
            let machine = call.look_at(vm, Parts { vm: true, points: false }).await?;
            replication(machine.clone())?;
            if let Some((mac, network)) = change(&instance, &machine)? {
                wanted.entry(vm).or_default().insert(mac, network);
            }
            changed.push(Value::from(by_id(CLASS, id.to_owned())));
        }
        for (vm, adapters) in wanted {
            call.run(Command::SetTestNetworks { vm: vm.to_string(), adapters }).await?;
        }
        Ok(Answer::done().with("ResultingResourceSettings", Value::Array(changed)))
    }
    .boxed()
}

/// The adapter's MAC address and its network from now on; `None`: all stays as it is.
fn change(given: &Instance, machine: &Machine) -> Result<Option<(String, Option<String>)>, Refusal> {
    let id = given.text("InstanceID").unwrap_or_default();
    if !given.class.is(CLASS) {
        return Err(unsupported(format!("{}: libvirt's own tools change the hardware of a VM", given.class)));
    }
    let found = connected(machine, id);
    let (adapter, own) =
        found.ok_or_else(|| invalid(format!("InstanceID {id:?} is no adapter of the VM")))?;
    let is_set = |value: &Value| !value.is_null() && value.as_str() != Some("");
    let other = given.properties.iter().find(|(name, value)| {
        let stays = ["InstanceID", NETWORK].iter().any(|known| name.is(known));
        !stays && is_set(value) && own.get(name.as_str()) != Some(value)
    });
    if let Some((name, value)) = other {
        return Err(unsupported(format!("{name} {value}: only {NETWORK} changes")));
    }
    let Some(wanted) = given.get(NETWORK) else { return Ok(None) };
    let wanted = Some(wanted).filter(|value| is_set(value)).and_then(Value::as_str).map(str::to_owned);
    Ok((wanted != adapter.test_network).then(|| (adapter.mac.clone(), wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn an_adapters_network_for_tests_is_all_that_changes() {
        let mut machine = samples::machine();
        let id = {
            let adapter = &machine.vm.as_ref().unwrap().interfaces[0];
            let address = adapter.mac.replace(':', "").to_uppercase();
            format!("Microsoft:{}\\Connection\\{address}", machine.id.to_string().to_uppercase())
        };
        let own = connected(&machine, &id.to_lowercase()).unwrap().1;
        assert_eq!(change(&own, &machine).unwrap(), None);
        let lab = own.clone().with(NETWORK, "lab");
        let mac = "52:54:00:12:34:56".to_owned();
        assert_eq!(change(&lab, &machine).unwrap(), Some((mac.clone(), Some("lab".into()))));
        machine.vm.as_mut().unwrap().interfaces[0].test_network = Some("lab".into());
        assert_eq!(change(&lab, &machine).unwrap(), None);
        for nothing in [Value::Null, Value::from("")] {
            assert_eq!(
                change(&own.clone().with(NETWORK, nothing), &machine).unwrap(),
                Some((mac.clone(), None))
            );
        }
        let code = |given: Instance| change(&given, &machine).unwrap_err().code;
        assert_eq!(code(own.clone().with("TestReplicaPoolID", "pool")), 32770);
        assert_eq!(code(own.clone().with("LastKnownSwitchName", "other")), 32770);
        assert_eq!(code(own.with("InstanceID", "Microsoft:x")), 32773);
        assert_eq!(code(Instance::new("Msvm_MemorySettingData")), 32770);
    }
}
