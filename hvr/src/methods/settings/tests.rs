use super::*;
use crate::schema::{self, V2};
use cim::DateTime;

fn vm() -> VmId {
    "6f1c2a94-83e5-4c07-9d1b-5a2e8f4b7c60".parse().unwrap()
}

fn world() -> World {
    World {
        thumbprint: Some("AB12".to_owned()).into(),
        peer_ports: [].into(),
        ..crate::tests::samples::world()
    }
}

fn new() -> Instance {
    Instance::new("Msvm_ReplicationSettingData").with("RecoveryConnectionPoint", "B.example")
}

fn read(settings: &Instance) -> Result<Wanted, Refusal> {
    super::read(settings, vm(), &world(), &schema::schema(V2))
}

fn refused(settings: &Instance) -> (u32, String) {
    let refusal = read(settings).unwrap_err();
    (refusal.code, refusal.failure.message)
}

#[test]
fn what_an_instance_of_the_class_holds_when_it_is_new_is_accepted() {
    let schema = schema::schema(V2);
    let spawned = schema.complete(&new()).unwrap();
    let wanted = super::read(&spawned, vm(), &world(), &schema).unwrap();
    assert_eq!(wanted.to.unwrap().as_str(), "b.example");
    assert_eq!((wanted.change.interval_s, wanted.change.history), (Some(300), Some(0)));
    assert_eq!(wanted.change.auto_resynchronize, Some(false));
}

#[test]
fn what_is_not_said_stays_open() {
    let wanted = read(&Instance::new("Msvm_ReplicationSettingData")).unwrap();
    assert_eq!(wanted, Wanted::default());
}

#[test]
fn a_value_out_of_range_is_named_with_what_is_allowed() {
    for (name, value, told) in [
        ("RecoveryHistory", 25u16, "RecoveryHistory 25: allowed are 0 to 24"),
        ("ReplicationInterval", 0, "ReplicationInterval 0: allowed are 1 to 43200"),
        ("ReplicationInterval", 43_201, "ReplicationInterval 43201: allowed are 1 to 43200"),
        ("ApplicationConsistentSnapshotInterval", 13, "allowed are 0 to 12"),
        ("AuthenticationType", 3, "AuthenticationType 3: allowed are 1, Kerberos, and 2"),
    ] {
        let (code, message) = refused(&new().with(name, value));
        assert!(code == 32773 && message.contains(told), "{code} {message}");
    }
}

#[test]
fn what_is_not_done_is_refused_as_not_supported() {
    for settings in [
        new().with("AuthenticationType", 1u16),
        new().with("ReplicationProvider", "Msvm_ReplicationProvider.InstanceID=\"other\",Name=\"x\""),
    ] {
        assert_eq!(refused(&settings).0, 32770, "{settings:?}");
    }
}

#[test]
fn kerberos_is_taken_where_the_host_has_a_principal() {
    let world = World { has_kerberos: true, ..world() };
    let given = new().with("AuthenticationType", 1u16).with("CertificateThumbPrint", "of no use");
    let wanted = super::read(&given, vm(), &world, &schema::schema(V2)).unwrap();
    assert_eq!(wanted.change.authentication, Some(Authentication::Kerberos));
    let to = wanted.to.clone().unwrap();
    let check = |port| {
        let wanted = Wanted { port: Some(port), ..wanted.clone() };
        check_port(&wanted, &to, Authentication::Certificate, &world).map_err(|refusal| refusal.code)
    };
    assert_eq!((check(9080), check(9443)), (Ok(()), Err(32773)));
}

#[test]
fn a_window_is_two_times_of_the_day_and_the_class_fills_the_other() {
    let at = |minutes: u64| DateTime::from_interval_ms(minutes * 60_000);
    let with = |start: DateTime| new().with("AutoResynchronizeIntervalStart", start);
    let window = |settings: &Instance| read(settings).unwrap().change.resync_window.unwrap();
    assert_eq!(window(&with(at(720))), Window { start_min: 720, end_min: 360 });
    let whole_day = with(at(0)).with("AutoResynchronizeIntervalEnd", at(0));
    assert_eq!(window(&whole_day), Window::default());
    for wrong in [at(1440), DateTime::from_interval_ms(90_000)] {
        let (code, message) = refused(&with(wrong));
        assert!(code == 32773 && message.contains("00000000183000.000000:000"), "{code} {message}");
    }
}

#[test]
fn additional_settings_are_json_without_unknown_keys() {
    let with = |json: &str| new().with("AdditionalSettings", json);
    let wanted = read(&with(r#"{"recovery_point_spacing_s": 60, "bandwidth_bytes_per_s": 0}"#)).unwrap();
    assert_eq!(wanted.change.history_every_s, Some(60));
    assert_eq!(wanted.change.bandwidth_bytes_per_s, Some(0));
    let tiers = read(&with(r#"{"retention_tiers": ["24x1h", "7x1d"]}"#)).unwrap().change.tiers.unwrap();
    assert_eq!(tiers, ["24x1h".parse().unwrap(), "7x1d".parse().unwrap()]);
    let windows = r#"{"bandwidth_windows": ["mon-fri 08:00-18:00 = 20MiB/s"]}"#;
    let windows = read(&with(windows)).unwrap().change.bandwidth_windows.unwrap();
    assert_eq!(windows, ["mon-fri 08:00-18:00 = 20MiB/s".parse().unwrap()]);
    assert!(refused(&with(r#"{"bandwidth_windows": ["8-18 = 1"]}"#)).1.contains("08:00-18:00 = 20MiB/s"));
    assert_eq!(read(&with(r#"{"scrub_interval_s": 0}"#)).unwrap().change.scrub_every_s, Some(0));
    assert_eq!(read(&new()).unwrap().change.scrub_every_s, None);
    assert!(refused(&with(r#"{"spacing": 60}"#)).1.contains("spacing"));
    assert_eq!(refused(&with("60")).0, 32773);
}

#[test]
fn application_consistent_points_are_made_every_few_hours_and_need_a_history() {
    let with = |hours: u16, history: u16, additional: &str| {
        new()
            .with("ApplicationConsistentSnapshotInterval", hours)
            .with("RecoveryHistory", history)
            .with("AdditionalSettings", additional)
    };
    let every_s = |settings: &Instance| read(settings).unwrap().change.app_consistent_every_s;
    assert_eq!(every_s(&with(4, 8, "")), Some(4 * 3600));
    assert_eq!(every_s(&with(0, 0, "")), Some(0));
    assert_eq!(every_s(&with(1, 8, r#"{"app_consistent_interval_s": 5}"#)), Some(5));
    assert_eq!(
        every_s(&with(0, 8, r#"{"app_consistent_interval_s": 5}"#)),
        Some(0),
        "switched off in the class"
    );
    let (code, message) = refused(&with(4, 0, ""));
    assert!(code == 32773 && message.contains("RecoveryHistory"), "{code} {message}");
}

#[test]
fn disks_are_named_in_three_ways() {
    let id = format!("Microsoft:{}\\Disk\\vdb", names::guid(vm()));
    let path = names::by_id("Msvm_StorageAllocationSettingData", id.clone());
    let embedded = format!(
        "<INSTANCE CLASSNAME=\"Msvm_StorageAllocationSettingData\"><PROPERTY NAME=\"InstanceID\" TYPE=\"string\">\
         <VALUE>{id}</VALUE></PROPERTY></INSTANCE>"
    );
    for named in [id.to_ascii_lowercase(), path.to_string(), path.relative(), embedded] {
        let wanted = read(&new().with("IncludedDisks", vec![named.clone()])).unwrap();
        assert_eq!(wanted.disks, Some(vec!["vdb".to_owned()]), "{named}");
    }
    assert!(
        refused(&new().with("IncludedDisks", vec!["Microsoft:other\\0"])).1.contains("no disk of this VM")
    );
    assert_eq!(read(&new().with("IncludedDisks", Value::Array(vec![]))).unwrap().disks, None);
}

#[test]
fn certificate_and_port_are_those_that_this_host_uses() {
    assert!(read(&new().with("CertificateThumbPrint", "ab 12")).is_ok());
    assert!(refused(&new().with("CertificateThumbPrint", "cd34")).1.contains("AB12"));
    let b: HostName = "b.example".parse().unwrap();
    let mut world = world();
    world.peer_ports.insert((b.clone(), Authentication::Certificate), 9444);
    let wanted = |port: u16| read(&new().with("RecoveryServerPortNumber", port)).unwrap();
    assert!(check_port(&wanted(0), &b, Authentication::Certificate, &world).is_ok());
    assert!(check_port(&wanted(9444), &b, Authentication::Certificate, &world).is_ok());
    assert!(
        check_port(&wanted(443), &b, Authentication::Certificate, &world)
            .unwrap_err()
            .failure
            .message
            .contains("9444")
    );
}
