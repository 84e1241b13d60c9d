//! `Msvm_ReplicationService` and the other services, the service's settings, and the built-in provider.

use super::{Make, Row, row};
use crate::{
    instance::interval,
    names::{self, COMPUTER_SYSTEM, MANAGEMENT_SERVICE, REPLICATION_SERVICE, SNAPSHOT_SERVICE},
    world::{HostFacts, World, port},
};
use cim::Instance;

pub const ROWS: &[Row] = &[
    row(REPLICATION_SERVICE, Make::Host(replication_service)),
    row(MANAGEMENT_SERVICE, Make::Host(|world, _| vec![service(world, MANAGEMENT_SERVICE)])),
    row(SNAPSHOT_SERVICE, Make::Host(|world, _| vec![service(world, SNAPSHOT_SERVICE)])),
    row("Msvm_ReplicationServiceSettingData", Make::Host(|world, facts| vec![settings(world, facts)])),
    row("Msvm_ReplicationProvider", Make::Host(|world, _| vec![provider(world)])),
];

fn service(world: &World, class: &str) -> Instance {
    let name = names::SERVICES.iter().find(|(known, _)| *known == class).map(|(_, name)| *name);
    Instance::new(class)
        .with("SystemCreationClassName", COMPUTER_SYSTEM)
        .with("SystemName", world.host.as_str())
        .with("CreationClassName", class)
        .with("Name", name)
        .with("OperationalStatus", vec![2u16])
        .with("Status", "OK")
        .with("HealthState", 5u16)
        .with("EnabledState", 2u16)
        .with("EnabledDefault", 2u16)
        .with("RequestedState", 12u16)
        .with("Started", true)
}

fn replication_service(world: &World, facts: &HostFacts) -> Vec<Instance> {
    // 6: a listener that should run does not.
    let listens = facts.view.replication_address.is_some();
    let service = service(world, REPLICATION_SERVICE)
        .with("Caption", "Hyper-V Replica Service")
        .with("Description", "Replication Service")
        .with("ElementName", "Hyper-V Replica Service")
        .with("OperationalStatus", vec![if listens { 2u16 } else { 6 }]);
    vec![service]
}

/// `AllowedAuthenticationType`: certificates; Kerberos as well.
const BY_CERTIFICATE: u16 = 2;
const BOTH: u16 = 3;

/// `Msvm_ReplicationServiceSettingData`: what the configuration says.
pub fn settings(world: &World, facts: &HostFacts) -> Instance {
    let address = facts.view.replication_address.as_deref();
    let kerberos = facts.view.kerberos_address.as_deref();
    let mut settings = Instance::new("Msvm_ReplicationServiceSettingData")
        .with("InstanceID", names::service_settings_id(&world.host))
        .with("Caption", "Replication Service Settings")
        .with("Description", "Virtual Machine Replication Service Settings Data")
        .with("ElementName", "Replication Service Settings")
        .with("RecoveryServerEnabled", address.is_some() && facts.view.recovery_server)
        .with("MonitoringInterval", facts.view.monitoring_interval_s)
        .with("MonitoringStartTime", interval(f64::from(facts.view.monitoring_start_s)))
        .with("AllowedAuthenticationType", if kerberos.is_some() { BOTH } else { BY_CERTIFICATE })
        .with("CertificateThumbPrint", world.thumbprint())
        .with("HttpsPort", address.and_then(port));
    // Where there is none it stays open: the class's default stands in every instance that a client makes.
    if let Some(port) = kerberos.and_then(port) {
        settings.set("HttpPort", port);
    }
    settings
}

fn provider(world: &World) -> Instance {
    Instance::new("Msvm_ReplicationProvider")
        .with("InstanceID", names::provider_id(&world.host))
        .with("Name", names::PROVIDER)
        .with("Caption", "Replication Provider")
        .with("Description", "Virtual machine replication provider to Hyper-V host")
        .with("ElementName", "Virtual machine replication provider to Hyper-V host")
        .with("OperationalStatus", vec![2u16])
}
