//! The classes of the namespaces, from the MOF files that the program carries.

use cim::{Schema, mof};

pub const V2: &str = "root/virtualization/v2";
pub const CIMV2: &str = "root/cimv2";
pub const INTEROP: &str = "interop";

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../schema/", $name)))),+];
    };
}

files![
    "cim_associations.mof",
    "cim_core.mof",
    "cim_indications.mof",
    "cim_qualifiers.mof",
    "cim_virtual.mof",
    "cimv2.mof",
    "cimv2_files.mof",
    "interop.mof",
    "msvm_associations.mof",
    "msvm_replication.mof",
    "msvm_replication_data.mof",
    "msvm_settings.mof",
    "msvm_summary.mof",
    "msvm_system.mof",
    "namespace_cimv2.mof",
    "namespace_interop.mof",
    "namespace_virtualization_v2.mof",
    "wmi_events.mof",
];

/// The schema of one of the three namespaces. Parses: keep the answer.
///
/// # Panics
/// Where the files are wrong, which the tests of this crate rule out.
pub fn schema(namespace: &str) -> Schema {
    let root = match namespace {
        V2 => "namespace_virtualization_v2.mof",
        CIMV2 => "namespace_cimv2.mof",
        _ => "namespace_interop.mof",
    };
    let read = |name: &str| FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| (*text).to_owned());
    let mof = mof::parse_files(root, &read).unwrap_or_else(|error| panic!("{error}"));
    Schema::new(namespace, &mof).unwrap_or_else(|errors| panic!("{root}: {errors:?}"))
}
