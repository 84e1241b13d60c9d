//! What a client may set in `Msvm_ReplicationSettingData`, checked strictly: a value that this host would not honour
//! is refused, never ignored, unless the class fills it for everyone.

use super::{
    Refusal,
    call::{invalid, unsupported},
};
use crate::{
    classes::{
        devices::disk_target,
        settings::{AdditionalSettings, CERTIFICATE, KERBEROS},
    },
    instance::interval,
    names,
    world::World,
};
use cim::{Instance, ObjectPath, Schema, Value, embedded};
use model::{Authentication, HostName, VmId};
use service::api::{SettingsChange, Window};

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

/// What the class says of the part of the day in which a resynchronization may begin by itself.
pub const DEFAULT_WINDOW: Window = Window { start_min: 18 * 60 + 30, end_min: 6 * 60 };
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// Reads settings for this VM.
pub fn read(settings: &Instance, vm: VmId, world: &World, schema: &Schema) -> Result<Wanted, Refusal> {
    identity(settings, vm)?;
    let authentication = authentication(settings, world)?;
    security(settings, authentication, world)?;
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
            tiers: additional.retention_tiers.clone(),
            bandwidth_bytes_per_s: additional.bandwidth_bytes_per_s,
            bandwidth_windows: additional.bandwidth_windows.clone(),
            resync_window: window(settings)?,
            compress: settings.get("CompressionEnabled").and_then(Value::as_bool),
            bypass_proxy: settings.get("BypassProxyServer").and_then(Value::as_bool),
            auto_resynchronize: settings.get("AutoResynchronizeEnabled").and_then(Value::as_bool),
            drill_every_s: additional.fire_drill_interval_s,
            scrub_every_s: additional.scrub_interval_s,
            app_consistent_every_s: snapshots_every_s(settings, &additional)?,
            authentication,
        },
    })
}

/// The port at which the recovery host is reached is configured; another one is refused. `by`: where the settings do not
/// say it.
pub fn check_port(wanted: &Wanted, to: &HostName, by: Authentication, world: &World) -> Result<(), Refusal> {
    let configured = world.peer_port(to, wanted.change.authentication.unwrap_or(by));
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

fn authentication(settings: &Instance, world: &World) -> Result<Option<Authentication>, Refusal> {
    match number(settings, "AuthenticationType") {
        None => Ok(None),
        Some(CERTIFICATE) => Ok(Some(Authentication::Certificate)),
        Some(KERBEROS) if world.has_kerberos => Ok(Some(Authentication::Kerberos)),
        Some(KERBEROS) => Err(unsupported(
            "AuthenticationType 1, Kerberos: this host has no principal; [kerberos] in the configuration file \
             gives it one",
        )),
        Some(other) => {
            Err(invalid(format!("AuthenticationType {other}: allowed are 1, Kerberos, and 2, certificates")))
        }
    }
}

fn security(
    settings: &Instance,
    authentication: Option<Authentication>,
    world: &World,
) -> Result<(), Refusal> {
    let thumbprint = text(settings, "CertificateThumbPrint");
    if let Some(thumbprint) = thumbprint.filter(|_| authentication != Some(Authentication::Kerberos)) {
        let digits: String = thumbprint.chars().filter(char::is_ascii_hexdigit).collect();
        let own = world.thumbprint().unwrap_or_default();
        if !digits.eq_ignore_ascii_case(&own) {
            return Err(invalid(format!(
                "CertificateThumbPrint {thumbprint:?}: this host uses {own} for all of its VMs; ModifyServiceSettings \
                 chooses another"
            )));
        }
    }
    let is = |name: &str| settings.get(name).and_then(Value::as_bool);
    if is("ReplicateHostKvpItems") == Some(false) {
        return Err(unsupported(
            "ReplicateHostKvpItems FALSE: the metadata of a VM is a part of its definition, which a replica has whole",
        ));
    }
    Ok(())
}

/// Whole hours, unless AdditionalSettings says it in seconds. An interval needs a history to be kept in.
fn snapshots_every_s(settings: &Instance, additional: &AdditionalSettings) -> Result<Option<u32>, Refusal> {
    let name = "ApplicationConsistentSnapshotInterval";
    let hours = ranged(settings, name, 0..=SNAPSHOT_HOURS_MAX)?;
    let every_s = additional.app_consistent_interval_s.filter(|_| hours != Some(0));
    let every_s = every_s.or(hours.map(|hours| u32::from(hours) * 3600));
    if every_s.is_some_and(|every_s| every_s > 0) && number(settings, "RecoveryHistory") == Some(0) {
        let hours = hours.unwrap_or_default();
        return Err(invalid(format!("{name} {hours}: allowed is 0 while RecoveryHistory is 0")));
    }
    Ok(every_s)
}

/// The part of the day in which a required resynchronization may begin by itself.
fn window(settings: &Instance) -> Result<Option<Window>, Refusal> {
    let minutes = |name: &str, default: u16| {
        let Some(value) = settings.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        let of_day = match value {
            Value::DateTime(at) => at.to_interval_ms().filter(|ms| *ms < DAY_MS && ms % MINUTE_MS == 0),
            _ => None,
        };
        let minutes = of_day.and_then(|ms| u16::try_from(ms / MINUTE_MS).ok());
        minutes.map(Some).ok_or_else(|| {
            let example = interval(f64::from(default) * 60.0);
            invalid(format!(
                "{name} {value}: allowed are whole minutes of a day, as an interval such as {example}"
            ))
        })
    };
    let start = minutes("AutoResynchronizeIntervalStart", DEFAULT_WINDOW.start_min)?;
    let end = minutes("AutoResynchronizeIntervalEnd", DEFAULT_WINDOW.end_min)?;
    Ok((start.is_some() || end.is_some()).then(|| Window {
        start_min: start.unwrap_or(DEFAULT_WINDOW.start_min),
        end_min: end.unwrap_or(DEFAULT_WINDOW.end_min),
    }))
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
