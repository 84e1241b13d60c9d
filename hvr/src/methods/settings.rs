//! What a client may set in `Msvm_ReplicationSettingData`, checked strictly: a value that this host would not honour
//! is refused, never ignored, unless the class fills it for everyone.

use super::{
    Refusal,
    call::{invalid, unsupported},
};
use crate::{
    classes::{devices::disk_target, settings::AdditionalSettings},
    instance::interval,
    names,
    world::World,
};
use cim::{Instance, ObjectPath, Schema, Value, embedded};
use model::{HostName, VmId};
use service::api::SettingsChange;

/// What the settings ask for; what they do not say is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub to: Option<HostName>,
    pub port: Option<u16>,
    /// Targets such as `vda`.
    pub disks: Option<Vec<String>>,
    pub change: SettingsChange,
}

const INTERVAL_S: std::ops::RangeInclusive<u16> = 1..=43_200;
const HISTORY_MAX: u16 = 24;
const SNAPSHOT_HOURS_MAX: u16 = 12;
const CERTIFICATE: u16 = 2;
const KERBEROS: u16 = 1;

/// The class's defaults of the window in which a resynchronization may begin: they stand in every new instance.
const WINDOW_MS: [u64; 2] = [66_600_000, 21_600_000];

/// Reads settings for this VM.
pub fn read(settings: &Instance, vm: VmId, world: &World, schema: &Schema) -> Result<Wanted, Refusal> {
    identity(settings, vm)?;
    security(settings, world)?;
    snapshots(settings)?;
    window(settings)?;
    provider(settings, world)?;
    let additional = additional(settings)?;
    let history = ranged(settings, "RecoveryHistory", 0..=HISTORY_MAX)?;
    Ok(Wanted {
        to: recovery_host(settings)?,
        port: number(settings, "RecoveryServerPortNumber").filter(|port| *port != 0),
        disks: disks(settings, vm, schema)?,
        change: SettingsChange {
            interval_s: ranged(settings, "ReplicationInterval", INTERVAL_S)?.map(u32::from),
            history: history.and_then(|history| u8::try_from(history).ok()),
            history_every_s: additional.recovery_point_spacing_s,
            bandwidth_bytes_per_s: additional.bandwidth_bytes_per_s,
            auto_resynchronize: settings.get("AutoResynchronizeEnabled").and_then(Value::as_bool),
        },
    })
}

/// The port at which the recovery host is reached is configured; another one is refused.
pub fn check_port(wanted: &Wanted, to: &HostName, world: &World) -> Result<(), Refusal> {
    let configured = world.peer_port(to);
    match wanted.port {
        Some(port) if port != configured => Err(invalid(format!(
            "RecoveryServerPortNumber {port}: allowed is {configured}, at which this host reaches {to} by its \
             configuration, or 0"
        ))),
        _ => Ok(()),
    }
}

fn text<'a>(settings: &'a Instance, name: &str) -> Option<&'a str> {
    settings.text(name).filter(|text| !text.is_empty())
}

fn number(settings: &Instance, name: &str) -> Option<u16> {
    settings.get(name)?.as_i128().and_then(|number| u16::try_from(number).ok())
}

fn ranged(
    settings: &Instance,
    name: &str,
    allowed: std::ops::RangeInclusive<u16>,
) -> Result<Option<u16>, Refusal> {
    match number(settings, name) {
        Some(value) if !allowed.contains(&value) => {
            Err(invalid(format!("{name} {value}: allowed are {} to {}", allowed.start(), allowed.end())))
        }
        value => Ok(value),
    }
}

fn identity(settings: &Instance, vm: VmId) -> Result<(), Refusal> {
    let expected = names::guid(vm);
    match text(settings, "VirtualSystemIdentifier") {
        Some(other) if !other.eq_ignore_ascii_case(&expected) => {
            Err(invalid(format!("VirtualSystemIdentifier {other:?}: it is {expected} for this VM, or NULL")))
        }
        _ => Ok(()),
    }
}

fn security(settings: &Instance, world: &World) -> Result<(), Refusal> {
    match number(settings, "AuthenticationType") {
        None | Some(CERTIFICATE) => {}
        Some(KERBEROS) => {
            return Err(unsupported("AuthenticationType 1: Kerberos is not supported; 2, certificates, is"));
        }
        Some(other) => {
            return Err(invalid(format!("AuthenticationType {other}: allowed is 2, certificates")));
        }
    }
    if let Some(thumbprint) = text(settings, "CertificateThumbPrint") {
        let digits: String = thumbprint.chars().filter(char::is_ascii_hexdigit).collect();
        let own = world.thumbprint().unwrap_or_default();
        if !digits.eq_ignore_ascii_case(&own) {
            return Err(invalid(format!(
                "CertificateThumbPrint {thumbprint:?}: this host uses {own}, its only one"
            )));
        }
    }
    let is = |name: &str| settings.get(name).and_then(Value::as_bool);
    if is("CompressionEnabled") == Some(false) {
        return Err(unsupported("CompressionEnabled FALSE: what compresses well is always compressed"));
    }
    if is("BypassProxyServer") == Some(true) {
        return Err(unsupported(
            "BypassProxyServer TRUE: the configuration says which peers are reached past the proxy",
        ));
    }
    Ok(())
}

fn snapshots(settings: &Instance) -> Result<(), Refusal> {
    let name = "ApplicationConsistentSnapshotInterval";
    match ranged(settings, name, 0..=SNAPSHOT_HOURS_MAX)? {
        None | Some(0) => Ok(()),
        Some(hours) => {
            Err(unsupported(format!("{name} {hours}: application-consistent points are not supported")))
        }
    }
}

/// A resynchronization begins at any time of the day.
fn window(settings: &Instance) -> Result<(), Refusal> {
    let names = ["AutoResynchronizeIntervalStart", "AutoResynchronizeIntervalEnd"];
    for (name, default) in names.into_iter().zip(WINDOW_MS) {
        let Some(Value::DateTime(at)) = settings.get(name) else { continue };
        if ![Some(0), Some(default)].contains(&at.to_interval_ms()) {
            let default = interval(default as f64 / 1000.0);
            return Err(unsupported(format!(
                "{name} {at}: resynchronizations begin at any time; allowed are {} and the default {default}",
                interval(0.0)
            )));
        }
    }
    Ok(())
}

fn provider(settings: &Instance, world: &World) -> Result<(), Refusal> {
    let Some(path) = text(settings, "ReplicationProvider") else { return Ok(()) };
    let own = names::provider_id(&world.host);
    let named = ObjectPath::parse(path).ok();
    let named = named.as_ref().and_then(|path| path.key("InstanceID")?.as_str());
    if named.is_some_and(|named| named.eq_ignore_ascii_case(&own)) {
        return Ok(());
    }
    Err(unsupported(format!("ReplicationProvider {path:?}: the only provider is {own:?}")))
}

fn additional(settings: &Instance) -> Result<AdditionalSettings, Refusal> {
    let Some(json) = text(settings, "AdditionalSettings") else { return Ok(AdditionalSettings::default()) };
    serde_json::from_str(json).map_err(|error| {
        invalid(format!(
            "AdditionalSettings: {error}; allowed is JSON such as \
             {{\"recovery_point_spacing_s\":3600,\"bandwidth_bytes_per_s\":0}}"
        ))
    })
}

fn recovery_host(settings: &Instance) -> Result<Option<HostName>, Refusal> {
    let Some(name) = text(settings, "RecoveryConnectionPoint") else { return Ok(None) };
    name.parse().map(Some).map_err(|error| invalid(format!("RecoveryConnectionPoint: {error}")))
}

fn disks(settings: &Instance, vm: VmId, schema: &Schema) -> Result<Option<Vec<String>>, Refusal> {
    let Some(elements) = settings.get("IncludedDisks").and_then(Value::as_array) else { return Ok(None) };
    if elements.is_empty() {
        return Ok(None);
    }
    elements.iter().map(|element| disk(element, vm, schema)).collect::<Result<_, _>>().map(Some)
}

/// A disk by its embedded `Msvm_StorageAllocationSettingData`, by the path of that, or by its InstanceID.
fn disk(element: &Value, vm: VmId, schema: &Schema) -> Result<String, Refusal> {
    let refuse = |why: String| invalid(format!("IncludedDisks: {why}"));
    let id = match element {
        Value::Instance(disk) => disk.text("InstanceID").map(str::to_owned),
        Value::String(text) if text.trim_start().starts_with(['<', '\u{feff}']) => {
            let disk = embedded::read_as(text, schema).map_err(|error| refuse(error.to_string()))?;
            disk.text("InstanceID").map(str::to_owned)
        }
        Value::String(text) => match ObjectPath::parse(text) {
            Ok(path) if !path.is_class() => {
                path.bindings().first().and_then(|(_, value)| value.as_str()).map(str::to_owned)
            }
            _ => Some(text.clone()),
        },
        _ => None,
    };
    let id = id.ok_or_else(|| refuse(format!("{element} names no InstanceID")))?;
    disk_target(vm, &id).ok_or_else(|| {
        refuse(format!("{id:?} is no disk of this VM: {:?} would be one", {
            names::instance_id(vm, "\\Disk\\vda")
        }))
    })
}

#[cfg(test)]
mod tests;
