//! Views as a daemon would answer them, for tests: one sample each, the same in snapshots, in docs/cli.md
//! and on the wire.

use model::{DiskId, Generation, Health, HostName, Mode, PointKind, ReplicationState, VmId};
use service::api::*;
use std::str::FromStr;

pub fn id<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn vm_id() -> VmId {
    id("6f1c2a94-83e5-4c07-9d1b-5a2e8f4b7c60")
}

pub fn host_name(text: &str) -> HostName {
    text.parse().unwrap()
}

pub fn host() -> HostView {
    HostView {
        host_name: host_name("a.example"),
        version: "0.1.0".into(),
        replication_address: Some("0.0.0.0:9443".into()),
        kerberos_address: None,
        libvirt_uri: "qemu:///system".into(),
        certificate_expires: Some("2031-11-20T00:00:00Z".into()),
        protected_vms: 2,
        replica_vms: 1,
        recovery_server: true,
        monitoring_interval_s: 43_200,
        monitoring_start_s: 32_400,
        sending: TransfersView { under_way: 1, max: 4, waiting: 0 },
        receiving: TransfersView { under_way: 0, max: 4, waiting: 0 },
    }
}

pub fn vm() -> VmView {
    let disk = DiskView {
        target: "vda".into(),
        disk: Some(id::<DiskId>("b0d8a3f1-2c47-4e9a-8f05-d1c6e7a2b394")),
        path: "/var/lib/libvirt/images/web.qcow2".into(),
        format: "qcow2".into(),
        size_bytes: 20 << 30,
        replicated: true,
        obstacle: None,
    };
    let cdrom = DiskView {
        target: "sda".into(),
        disk: None,
        path: "/srv/iso/debian.iso".into(),
        format: "raw".into(),
        size_bytes: 650 << 20,
        replicated: false,
        obstacle: Some("a CD-ROM is not replicated".into()),
    };
    VmView {
        vm: vm_id(),
        name: "web".into(),
        power_state: "running".into(),
        mode: Mode::Primary,
        replication_state: ReplicationState::Replicating,
        health: Health::Normal,
        peer: Some(host_name("b.example")),
        autostart: false,
        guest_agent: Some(true),
        disks: vec![disk, cdrom],
        interfaces: vec![InterfaceView {
            mac: "52:54:00:12:34:56".into(),
            network: Some("default".into()),
            failover: None,
            test_network: None,
        }],
        obstacles: vec![],
    }
}

pub fn authorization() -> AuthorizationView {
    AuthorizationView {
        host: "a.example".into(),
        trust_group: "DEFAULT".into(),
        storage: "/var/lib/relevo/replicas".into(),
    }
}

pub fn point() -> PointView {
    PointView {
        point: id("3f2ac410-9b7d-4e58-a6c1-0d94f7e82b35"),
        sequence: 120,
        kind: PointKind::Regular,
        latest: true,
        cut_at: "2026-05-04T03:12:07Z".into(),
        received_at: "2026-05-04T03:12:08Z".into(),
        age_s: 4.2,
        stored_bytes: 1_363_149,
        kept_for: vec!["latest".into()],
        note: None,
    }
}

pub fn older_point() -> PointView {
    PointView {
        point: id("9c81d7e2-4f06-4b3a-95d0-7ae1c2683bf4"),
        sequence: 37,
        kind: PointKind::ApplicationConsistent,
        latest: false,
        cut_at: "2026-05-04T02:00:01Z".into(),
        received_at: "2026-05-04T02:00:03Z".into(),
        age_s: 4330.0,
        stored_bytes: 220 << 20,
        kept_for: vec!["history".into(), "every 1d".into()],
        note: Some("kept for a test failover".into()),
    }
}

pub fn relationship() -> RelationshipView {
    RelationshipView {
        vm: vm_id(),
        index: 0,
        name: "web".into(),
        mode: Mode::Primary,
        peer: host_name("b.example"),
        state: ReplicationState::Replicating,
        state_number: 3,
        health: Health::Normal,
        issues: vec![],
        generation: Generation {
            number: 1,
            owner: host_name("a.example"),
            nonce: id("51b7e0d8-6a2f-4c93-b8e4-92d3f0a5c716"),
        },
        may_run: true,
        power_state: "running".into(),
        interval_s: 30,
        history: 4,
        history_every_s: 3600,
        tiers: vec![],
        bandwidth_bytes_per_s: Some(200 << 20),
        bandwidth_windows: vec![],
        bandwidth_now_bytes_per_s: Some(200 << 20),
        app_consistent_every_s: 4 * 3600,
        last_app_consistent_at: Some("2026-05-04T02:00:05Z".into()),
        app_consistent_failures: 0,
        last_kind: Some(PointKind::Regular),
        authentication: model::Authentication::Certificate,
        rpo_s: Some(4.2),
        newest_point: Some(point()),
        points: 5,
        cycles_succeeded: 120,
        cycles_missed: 1,
        cycles_failed: 0,
        cycles_waited: 2,
        last_cycle_bytes: 1_363_149,
        last_cycle_ms: 97,
        sent_bytes: 3 << 30,
        interval: IntervalView {
            since: Some("2026-05-04T00:00:00Z".into()),
            succeeded: 120,
            missed: 1,
            sent_bytes: 3 << 30,
            sent_bytes_max: 1_363_149,
            latency_ms: 11_640,
            latency_ms_max: 210,
            ..IntervalView::default()
        },
        last_test_at: None,
        last_drill: None,
        scrub: service::api::ScrubView::default(),
        no_backup: None,
        activity: String::new(),
        job: None,
        retry_in_s: None,
        test_vm: None,
        failover_network: None,
    }
}

/// A relationship in trouble.
pub fn broken_relationship() -> RelationshipView {
    RelationshipView {
        vm: id("0e4d95b7-c1a8-4f36-82eb-6b7f3d20a914"),
        name: "db".into(),
        state: ReplicationState::Critical,
        state_number: 8,
        health: Health::Critical,
        issues: vec![
            Issue {
                severity: Health::Warning,
                id: "cycles-missed".into(),
                message: "the last 9 cycles were missed".into(),
                hint: None,
            },
            Issue {
                severity: Health::Critical,
                id: "peer-unreachable".into(),
                message: "b.example has not answered for 1 h 2 min".into(),
                hint: Some("check the network and `systemctl status relevo` on b.example".into()),
            },
        ],
        rpo_s: Some(3725.0),
        points: 3,
        activity: "waiting for b.example".into(),
        retry_in_s: Some(28.0),
        ..relationship()
    }
}

pub fn plan() -> PlanView {
    PlanView {
        title: "Fail web over to the point of 2026-05-04T03:12:07Z".into(),
        steps: vec![
            "Take the right to run web from a.example (generation 2)".into(),
            "Start web on this host".into(),
        ],
        losses: vec!["What web wrote on a.example after 2026-05-04T03:12:07Z".into()],
        peer_answers: Some(false),
    }
}

pub fn job() -> JobView {
    JobView {
        job: id("5d0c7a3e-18f4-4b62-9ae7-c3f1d8b02465"),
        vm: Some(vm_id()),
        vm_name: Some("web".into()),
        kind: "initial replication".into(),
        kind_number: 94,
        state: JobState::Running,
        progress_percent: 45,
        stage: "copying vda".into(),
        bytes_done: 9 << 30,
        bytes_total: 20 << 30,
        cancellable: true,
        submitted_at: "2026-05-04T03:11:20Z".into(),
        elapsed_s: 46.1,
        failure: None,
        outcome: None,
    }
}

pub fn failure() -> Failure {
    Failure::new(ErrorKind::NotFound, "vm-unknown", "there is no VM `wbe` on a.example")
        .hint("did you mean `web`? `relevo vm list` shows all")
}

pub fn verification() -> VerifyView {
    VerifyView { points: 5, clusters: 21_400, bytes: 21_400 * 65_536, mismatches: vec![] }
}
