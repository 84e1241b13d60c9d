//! The product's schema with a few instances in memory: what requests and queries are about.

use cim::memory::Memory;
use cim::{
    Caller, DateTime, Instance, MethodResult, Name, Namespace, ObjectPath, Provider, Role, Schema, Union,
    Value, mof,
};
use cimxml::interop::{Description, Interop, Store};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

pub const V2: &str = "root/virtualization/v2";
pub const VM: &str = "8A2B0C4E-0000-0000-0000-000000000001";

static SCHEMAS: LazyLock<BTreeMap<&str, Schema>> = LazyLock::new(|| {
    let files = [
        (V2, "namespace_virtualization_v2.mof"),
        ("root/cimv2", "namespace_cimv2.mof"),
        ("interop", "namespace_interop.mof"),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hvr/schema");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let schema = |(namespace, file)| {
        let mof = mof::parse_files(file, &read).expect("the product's schema is right");
        (namespace, Schema::new(namespace, &mof).expect("the product's schema is right"))
    };
    files.map(schema).into()
});

pub fn schema(namespace: &str) -> &'static Schema {
    &SCHEMAS[namespace]
}

/// A virtual machine.
pub fn system() -> Instance {
    Instance::new("Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", VM)
        .with("ElementName", "web <&> ü")
        .with("EnabledState", 2u16)
        .with("OperationalStatus", vec![2u16, 32_768])
        .with("InstallDate", DateTime::from_unix_ms(1_795_168_800_000))
        .with("OnTimeInMilliseconds", 86_400_000u64)
}

/// A new world for each request, so that each is answered the same however many there were.
pub fn provider() -> Arc<dyn Provider> {
    let [v2, cimv2] = [V2, "root/cimv2"].map(|namespace| schema(namespace).clone());
    let memory = Memory::new(vec![v2, cimv2]).with_methods(Box::new(answer));
    let insert =
        |instance: &Instance| memory.insert(&Namespace::from(V2), instance).expect("a complete instance");
    insert(
        &Instance::new("Msvm_ReplicationService")
            .with("SystemCreationClassName", "Msvm_ComputerSystem")
            .with("SystemName", "HOST1")
            .with("CreationClassName", "Msvm_ReplicationService")
            .with("Name", "replicasvc"),
    );
    let system = insert(&system());
    let relationship = insert(
        &Instance::new("Msvm_ReplicationRelationship")
            .with("InstanceID", format!("Microsoft:{VM}\\0"))
            .with("ReplicationState", 4u16),
    );
    insert(
        &Instance::new("Msvm_SystemReplicationRelationship")
            .with("Antecedent", system)
            .with("Dependent", relationship),
    );
    Arc::new(Union(vec![Arc::new(memory), Arc::new(interop())]))
}

fn interop() -> Interop {
    let description = Description {
        system_name: "HOST1".into(),
        name: "test".into(),
        element_name: "Test server".into(),
        description: "Test server 1.0".into(),
        profiles: vec![],
    };
    let schemas = vec![Arc::new(schema(V2).clone())];
    let interop = schema("interop").clone();
    Interop::new(interop, schemas, description, Arc::new(Forgets), Arc::new(SystemTime::now))
        .expect("an empty store can be read")
}

/// Keeps no subscriptions.
struct Forgets;

impl Store for Forgets {
    fn load(&self) -> io::Result<Vec<String>> {
        Ok(vec![])
    }

    fn save(&self, _: &[String]) -> io::Result<()> {
        Ok(())
    }
}

/// Methods answer what they were given, so that values of every type go out again.
fn answer(
    _: &Caller,
    target: &ObjectPath,
    method: &Name,
    arguments: Vec<(Name, Value)>,
) -> Result<MethodResult, cim::Error> {
    let class = schema(V2).require(&target.class)?;
    let method = class.methods.iter().find(|own| own.name == *method);
    let is_out = |name: &Name| {
        let parameters = method.map(|method| &method.parameters);
        parameters.is_some_and(|it| it.iter().any(|own| own.name == *name && own.is_out()))
    };
    let out = arguments.into_iter().filter(|(name, _)| is_out(name)).collect();
    Ok(MethodResult { return_value: 0u32.into(), out })
}

pub fn caller() -> Caller {
    Caller { user: "admin".into(), role: Role::Administrator, locale: None, address: None }
}
