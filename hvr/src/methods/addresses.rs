//! SetFailoverNetworkAdapterSettings: what the guest's adapters get after a failover to this host.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{invalid, replication},
};
use crate::{classes::devices::failover_adapter, names::REPLICATION_SERVICE};
use cim::{Instance, Role, Value, embedded};
use futures::{FutureExt, future::BoxFuture};
use service::{
    api::{AdapterAddresses, Command},
    inventory::{Machine, Parts},
};
use std::net::IpAddr;

const CLASS: &str = "Msvm_FailoverNetworkAdapterSettingData";
const SETTINGS: &str = "NetworkSettings";

pub const METHODS: &[Method] = &[Method {
    class: REPLICATION_SERVICE,
    name: "SetFailoverNetworkAdapterSettings",
    role: Role::Operator,
    how: How::Works(set),
    note: "on each host for itself; applied by the guest agent once the guest runs after a failover (NetworkManager, \
           systemd-networkd, ifupdown, ip, Windows)",
}];

fn set<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let machine = call.machine(Parts { vm: true, points: false }).await?;
        replication(machine.clone())?;
        let given = call.value(SETTINGS).and_then(Value::as_array);
        let given = given.ok_or_else(|| invalid(format!("{SETTINGS} is missing: instances of {CLASS}")))?;
        let adapters = given.iter().map(|value| {
            let read = embedded::of_value(value, call.schema);
            let instance = read.map_err(|error| invalid(format!("{SETTINGS}: {error}")))?;
            let instance =
                instance.ok_or_else(|| invalid(format!("{SETTINGS} has an element that is NULL")))?;
            adapter(&instance, &machine)
        });
        let adapters = adapters.collect::<Result<Vec<_>, Refusal>>()?;
        call.run(Command::SetFailoverAddresses { vm: machine.id.to_string(), adapters }).await
    }
    .boxed()
}

fn adapter(given: &Instance, machine: &Machine) -> Result<AdapterAddresses, Refusal> {
    let id = given.text("InstanceID").unwrap_or_default();
    let adapters = machine.vm.iter().flat_map(|view| &view.interfaces);
    let known: Vec<_> =
        adapters.map(|adapter| (failover_adapter(machine.id, adapter), &adapter.mac)).collect();
    let own = known.iter().find(|(own, _)| own.eq_ignore_ascii_case(id));
    let (_, mac) = own.ok_or_else(|| {
        let ids: Vec<_> = known.iter().map(|(own, _)| format!("{own:?}")).collect();
        invalid(format!("InstanceID {id:?} is no adapter of this VM: they are {}", ids.join(", ")))
    })?;
    let required = |name: &str| {
        let value = given.get(name).filter(|value| !value.is_null());
        value.ok_or_else(|| invalid(format!("{name} is missing for {id:?}")))
    };
    let addresses = AdapterAddresses {
        mac: (*mac).clone(),
        dhcp: required("DHCPEnabled")?.as_bool().unwrap_or_default(),
        addresses: texts(Some(required("IPAddresses")?)),
        subnets: texts(given.get("Subnets")),
        gateways: texts(given.get("DefaultGateways")),
        dns: texts(given.get("DNSServers")),
    };
    family(given, &addresses)?;
    Ok(addresses)
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let values = value.and_then(Value::as_array).unwrap_or_default();
    values.iter().filter_map(|value| Some(value.as_str()?.trim().to_owned())).collect()
}

/// `ProtocolIFType`, where it is said: 4096 IPv4, 4097 IPv6, 4098 both.
fn family(given: &Instance, set: &AdapterAddresses) -> Result<(), Refusal> {
    let kind = given.get("ProtocolIFType").and_then(Value::as_i128).unwrap_or_default();
    let other = |address: &&String| match address.parse() {
        Ok(IpAddr::V4(_)) => kind == 4097,
        Ok(IpAddr::V6(_)) => kind == 4096,
        Err(_) => false,
    };
    match set.addresses.iter().find(other) {
        Some(address) => Err(invalid(format!("IPAddresses {address}: ProtocolIFType is {kind}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    fn given() -> Instance {
        let machine = samples::machine();
        let adapter = &machine.vm.as_ref().unwrap().interfaces[0];
        Instance::new(CLASS)
            .with("InstanceID", failover_adapter(machine.id, adapter))
            .with("DHCPEnabled", false)
            .with("IPAddresses", vec!["10.0.0.5"])
            .with("Subnets", vec!["255.255.255.0"])
    }

    fn refused(given: &Instance) -> String {
        let refusal = adapter(given, &samples::machine()).unwrap_err();
        assert_eq!(refusal.code, 32773);
        refusal.failure.message
    }

    #[test]
    fn an_adapter_is_named_by_its_instance_and_carries_addresses_and_dhcp() {
        let set = adapter(&given(), &samples::machine()).unwrap();
        assert_eq!((set.mac.as_str(), set.dhcp), ("52:54:00:12:34:56", false));
        assert_eq!(
            (set.addresses, set.subnets),
            (vec!["10.0.0.5".to_owned()], vec!["255.255.255.0".to_owned()])
        );
        for name in ["IPAddresses", "DHCPEnabled"] {
            assert!(refused(&given().with(name, Value::Null)).contains(&format!("{name} is missing")));
        }
        assert!(refused(&given().with("InstanceID", "Microsoft:other")).contains("is no adapter of this VM"));
        assert!(refused(&given().with("ProtocolIFType", 4097u16)).contains("ProtocolIFType is 4097"));
    }
}
