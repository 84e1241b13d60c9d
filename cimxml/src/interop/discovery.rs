//! Instances that describe the server: itself, its namespaces, the profiles that it follows.

use cim::memory::Memory;
use cim::{Error, Instance, ObjectPath, Schema};
use std::sync::Arc;

/// The class of hosts in keys, by which clients of indications name the host, too.
const SYSTEM_CLASS: &str = "CIM_ComputerSystem";
/// `CIM_RegisteredProfile.AdvertiseTypes`: not advertised.
const NOT_ADVERTISED: u16 = 2;

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The host's name.
    pub system_name: String,
    /// The name of the object manager, a key.
    pub name: String,
    /// The product, for people.
    pub element_name: String,
    /// The product and its version, for people.
    pub description: String,
    pub profiles: Vec<Profile>,
}

/// A profile that the server follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// `CIM_RegisteredProfile.RegisteredOrganization`: 2 is DMTF, 11 is SNIA.
    pub organization: u16,
    pub name: String,
    pub version: String,
    /// Its central instances, in whatever namespace.
    pub conforming: Vec<ObjectPath>,
    /// Names of profiles in the same list that it builds on.
    pub builds_on: Vec<String>,
}

impl Description {
    /// An instance of a class whose keys begin with the host.
    pub fn on_system(&self, class: &str) -> Instance {
        Instance::new(class)
            .with("SystemCreationClassName", SYSTEM_CLASS)
            .with("SystemName", &*self.system_name)
            .with("CreationClassName", class)
    }
}

/// Puts the instances in; answers which elements elsewhere follow which profile.
pub fn populate(
    memory: &Memory,
    schema: &Schema,
    schemas: &[Arc<Schema>],
    description: &Description,
) -> Result<Vec<(ObjectPath, ObjectPath)>, Error> {
    let namespace = schema.namespace();
    let manager = description
        .on_system("CIM_ObjectManager")
        .with("Name", &*description.name)
        .with("ElementName", &*description.element_name)
        .with("Description", &*description.description)
        .with("Started", true);
    let manager = memory.insert(namespace, &manager)?;
    for served in schemas {
        let instance = Instance::new("CIM_Namespace")
            .with("SystemCreationClassName", SYSTEM_CLASS)
            .with("SystemName", &*description.system_name)
            .with("ObjectManagerCreationClassName", "CIM_ObjectManager")
            .with("ObjectManagerName", &*description.name)
            .with("CreationClassName", "CIM_Namespace")
            .with("Name", served.namespace().as_str())
            .with("ClassInfo", 0u16)
            .with("ClassType", 2u16);
        let path = memory.insert(namespace, &instance)?;
        let contained = Instance::new("CIM_NamespaceInManager")
            .with("Antecedent", manager.clone())
            .with("Dependent", path);
        memory.insert(namespace, &contained)?;
    }
    populate_profiles(memory, schema, description)
}

fn populate_profiles(
    memory: &Memory,
    schema: &Schema,
    description: &Description,
) -> Result<Vec<(ObjectPath, ObjectPath)>, Error> {
    let namespace = schema.namespace();
    let path = |profile: &Profile| {
        let id = format!("{}:{}:{}", description.name, profile.name, profile.version);
        ObjectPath::class(namespace.clone(), "CIM_RegisteredProfile").with("InstanceID", id)
    };
    let mut elsewhere = vec![];
    for profile in &description.profiles {
        let path = path(profile);
        let instance = Instance::new("CIM_RegisteredProfile")
            .with("InstanceID", path.key("InstanceID").cloned().unwrap_or(cim::Value::Null))
            .with("RegisteredOrganization", profile.organization)
            .with("RegisteredName", &*profile.name)
            .with("RegisteredVersion", &*profile.version)
            .with("AdvertiseTypes", vec![NOT_ADVERTISED]);
        memory.insert(namespace, &instance)?;
        for element in &profile.conforming {
            let follows = Instance::new("CIM_ElementConformsToProfile")
                .with("ConformantStandard", path.clone())
                .with("ManagedElement", element.clone());
            memory.insert(namespace, &follows)?;
            if element.namespace.as_ref() != Some(namespace) {
                elsewhere.push((path.clone(), element.clone()));
            }
        }
    }
    for profile in &description.profiles {
        for below in description.profiles.iter().filter(|it| profile.builds_on.contains(&it.name)) {
            let builds_on = Instance::new("CIM_ReferencedProfile")
                .with("Antecedent", path(below))
                .with("Dependent", path(profile));
            memory.insert(namespace, &builds_on)?;
        }
    }
    Ok(elsewhere)
}
