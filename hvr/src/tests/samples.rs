//! One of each: what instances are made from.

use crate::world::{HostFacts, World};
use model::{Authentication, Generation, Health, Mode, PointKind, ReplicationState};
use service::{
    api::{
        AuthorizationView, DiskView, ErrorKind, Failure, HostView, InterfaceView, IntervalView, Issue,
        JobState, JobView, PointView, RelationshipView, TransfersView, VmView,
    },
    config::Dirs,
    inventory::{Machine, NetworkView, Replication},
};
use std::{fmt::Debug, str::FromStr, sync::OnceLock};

pub fn id<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub const VM: &str = "6f1c2a94-83e5-4c07-9d1b-5a2e8f4b7c60";
pub const TEST_VM: &str = "0e4d95b7-c1a8-4f36-82eb-6b7f3d20a914";
pub const POINT: &str = "3f2ac410-9b7d-4e58-a6c1-0d94f7e82b35";
pub const OLDER_POINT: &str = "9c81d7e2-4f06-4b3a-95d0-7ae1c2683bf4";
pub const JOB: &str = "51b7e0d8-6a2f-4c93-b8e4-92d3f0a5c716";

pub fn world() -> World {
    World {
        host: "a.example".into(),
        dirs: Dirs::new(None),
        thumbprint: OnceLock::from(Some("4E3A0C".to_owned())),
        peer_ports: [((id("b.example"), Authentication::Certificate), 9444)].into(),
        has_kerberos: false,
    }
}

pub fn facts() -> HostFacts {
    HostFacts {
        view: HostView {
            host_name: id("a.example"),
            version: "0.1.0".into(),
            replication_address: Some("0.0.0.0:9443".into()),
            kerberos_address: None,
            libvirt_uri: "qemu:///system".into(),
            certificate_expires: None,
            protected_vms: 1,
            replica_vms: 0,
            recovery_server: true,
            monitoring_interval_s: 43_200,
            monitoring_start_s: 32_400,
            sending: TransfersView { under_way: 1, max: 4, waiting: 0 },
            receiving: TransfersView { under_way: 0, max: 4, waiting: 0 },
        },
        authorizations: vec![AuthorizationView {
            host: "*.example".into(),
            trust_group: "DEFAULT".into(),
            storage: "/srv/replicas".into(),
        }],
        networks: vec![NetworkView {
            uuid: "5c5f3f2e-8f0b-4f43-9d4e-0a5a3a1c7b11".into(),
            name: "default".into(),
            active: true,
        }],
    }
}

/// A VM that runs, and is replicated to b.example.
pub fn machine() -> Machine {
    let disk = DiskView {
        target: "vda".into(),
        disk: Some(id("b0d8a3f1-2c47-4e9a-8f05-d1c6e7a2b394")),
        path: "/var/lib/libvirt/images/web.qcow2".into(),
        format: "qcow2".into(),
        size_bytes: 20 << 30,
        replicated: true,
        obstacle: None,
    };
    let vm = VmView {
        vm: id(VM),
        name: "web".into(),
        power_state: "running".into(),
        mode: Mode::Primary,
        replication_state: ReplicationState::Replicating,
        health: Health::Warning,
        peer: Some(id("b.example")),
        autostart: true,
        guest_agent: Some(true),
        disks: vec![disk],
        interfaces: vec![InterfaceView {
            mac: "52:54:00:12:34:56".into(),
            network: Some("default".into()),
            failover: None,
            test_network: None,
        }],
        obstacles: vec![],
    };
    Machine {
        id: id(VM),
        vm: Some(vm),
        memory_bytes: Some(2 << 30),
        vcpus: Some(2),
        replication: Some(replication()),
        extended: None,
        points: vec![],
        test_of: None,
    }
}

pub fn replication() -> Replication {
    let view = RelationshipView {
        vm: id(VM),
        index: 0,
        name: "web".into(),
        mode: Mode::Primary,
        peer: id("b.example"),
        state: ReplicationState::Replicating,
        state_number: 3,
        health: Health::Warning,
        issues: vec![Issue {
            severity: Health::Warning,
            id: "way-back".into(),
            message: "the way back is closed".into(),
            hint: Some("relevo authorize b.example --storage DIR".into()),
        }],
        generation: Generation { number: 1, owner: id("a.example"), nonce: id(JOB) },
        may_run: true,
        power_state: "running".into(),
        interval_s: 30,
        history: 4,
        history_every_s: 3600,
        tiers: vec![],
        bandwidth_bytes_per_s: None,
        bandwidth_windows: vec![],
        bandwidth_now_bytes_per_s: None,
        app_consistent_every_s: 4 * 3600,
        last_app_consistent_at: Some("2026-05-04T02:00:05Z".into()),
        app_consistent_failures: 3,
        last_kind: Some(PointKind::Regular),
        authentication: Authentication::Certificate,
        rpo_s: Some(4.0),
        newest_point: None,
        points: 0,
        cycles_succeeded: 120,
        cycles_missed: 1,
        cycles_failed: 2,
        cycles_waited: 0,
        last_cycle_bytes: 4096,
        last_cycle_ms: 97,
        sent_bytes: 3 << 30,
        interval: IntervalView {
            since: Some("2026-05-04T00:00:00Z".into()),
            succeeded: 120,
            missed: 1,
            failed: 2,
            sent_bytes: 3 << 30,
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
    };
    Replication {
        view,
        auto_resynchronize: true,
        drill_every_s: 0,
        resync_window: service::api::Window::default(),
        compress: true,
        bypass_proxy: false,
        last_success_at: Some("2026-05-04T03:12:07Z".into()),
        statistics_since: None,
        last_interval: None,
        pending_bytes: Some(0),
        failed_over: None,
        test_vm: None,
    }
}

pub fn point(point: &str, kind: PointKind, latest: bool) -> PointView {
    PointView {
        point: id(point),
        sequence: 1,
        kind,
        latest,
        cut_at: "2026-05-04T03:12:07Z".into(),
        received_at: "2026-05-04T03:12:08Z".into(),
        age_s: 4.2,
        stored_bytes: 4096,
        kept_for: vec![],
        note: None,
    }
}

/// The same VM on the other side: a replica with two points, failed over to one of them, with a test VM.
pub fn replica() -> Machine {
    let points = vec![
        point(OLDER_POINT, PointKind::ApplicationConsistent, false),
        point(POINT, PointKind::Regular, true),
    ];
    let mut machine = machine();
    let view = machine.vm.as_mut().unwrap();
    view.power_state = "replica".into();
    view.mode = Mode::Replica;
    view.disks[0].path = "".into();
    view.disks[0].size_bytes = 0;
    view.interfaces.clear();
    view.guest_agent = None;
    let replication = machine.replication.as_mut().unwrap();
    replication.view.mode = Mode::Replica;
    replication.view.newest_point = Some(points[1].clone());
    replication.test_vm = Some(id(TEST_VM));
    replication.failed_over = Some((id(POINT), PointKind::Planned));
    Machine { points, memory_bytes: None, vcpus: None, ..machine }
}

pub fn test_machine() -> Machine {
    let mut machine = machine();
    machine.id = id(TEST_VM);
    machine.vm.as_mut().unwrap().name = "web - Test".into();
    Machine { replication: None, test_of: Some(id(VM)), ..machine }
}

pub fn job() -> JobView {
    JobView {
        job: id(JOB),
        vm: Some(id(VM)),
        vm_name: Some("web".into()),
        kind: "failover".into(),
        kind_number: 97,
        state: JobState::Exception,
        progress_percent: 40,
        stage: "make the overlay".into(),
        bytes_done: 4,
        bytes_total: 10,
        cancellable: false,
        submitted_at: "2026-05-04T03:12:07Z".into(),
        elapsed_s: 1.5,
        failure: Some(Failure::new(ErrorKind::InUse, "busy", "web: revert is under way").hint("wait")),
        outcome: None,
    }
}

/// The replica, which is forwarded to a third host.
pub fn extended() -> Machine {
    let mut forwards = replication();
    forwards.view.index = 1;
    forwards.view.peer = id("x.example");
    forwards.view.interval_s = 300;
    forwards.view.state = ReplicationState::Suspended;
    forwards.view.state_number = 7;
    Machine { extended: Some(forwards), ..replica() }
}
