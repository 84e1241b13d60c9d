//! Snapshots of what an operator sees.

use super::{job::Pace, *};
use crate::samples;
use expect_test::{Expect, expect};
use model::{Health, Mode, ReplicationState};
use service::api::{
    ErrorKind, Failure, JobState, JobView, PlanView, RelationshipView, ScrubView, VerifyView, VmView,
};

fn check(view: Reply, detail: Detail, expected: Expect) {
    expected.assert_eq(&format!("{}\n", reply(&view, detail)));
}

#[test]
fn the_overview_shows_the_worst_first_and_what_to_do() {
    let first_copy = RelationshipView {
        name: "mail".into(),
        state: ReplicationState::WaitingForInitialReplication,
        rpo_s: None,
        points: 0,
        activity: "first copy 45 %".into(),
        test_vm: Some("mail - Test".into()),
        ..samples::relationship()
    };
    let views = vec![samples::relationship(), first_copy, samples::broken_relationship()];
    check(
        Reply::Relationships(views),
        Detail::Short,
        expect![[r#"
            VM    ROLE     STATE                                    HEALTH    PEER             RPO  POINTS  GOING ON
            db    primary  critical                                 CRITICAL  b.example  1 h 2 min       -  waiting for b.example; next try in 28 s
            mail  primary  waiting to complete initial replication  normal    b.example          -       -  first copy 45 %; test VM `mail - Test`
            web   primary  replicating                              normal    b.example      4.2 s       -  -

            db
              CRITICAL: b.example has not answered for 1 h 2 min
                hint: check the network and `systemctl status relevo` on b.example
              warning: the last 9 cycles were missed
        "#]],
    );
}

#[test]
fn an_issue_counts_more_than_the_health_that_was_reported_before_it() {
    let quiet = RelationshipView { health: Health::Normal, ..samples::broken_relationship() };
    let mut other = samples::relationship();
    other.name = "aaa".into();
    let text = reply(&Reply::Relationships(vec![other, quiet]), Detail::Short);
    assert!(text.find("db ").unwrap() < text.find("aaa ").unwrap(), "{text}");
}

#[test]
fn a_scrub_is_shown_where_one_ran_or_will() {
    let shown = |scrub| {
        let view = RelationshipView { scrub, ..samples::relationship() };
        let text = reply(&Reply::Relationships(vec![view]), Detail::Full);
        text.lines().find(|line| line.contains("scrub")).map(|line| line.trim().to_owned())
    };
    let ran = ScrubView {
        last_at: Some("2026-05-04T22:00:00Z".into()),
        changed_on_primary: 1,
        damaged_on_replica: 2,
        ..ScrubView::default()
    };
    assert_eq!(shown(ScrubView::default()), None);
    let will = ScrubView { every_s: 2_592_000, ..ScrubView::default() };
    assert_eq!(shown(will).as_deref(), Some("scrub every 30 d, none yet"));
    assert_eq!(
        shown(ran).as_deref(),
        Some("scrub when asked for, last at 2026-05-04T22:00:00Z, 3 clusters repaired")
    );
}

#[test]
fn the_details_show_everything() {
    check(
        Reply::Relationships(vec![
            RelationshipView { mode: Mode::Replica, ..samples::relationship() },
            samples::broken_relationship(),
        ]),
        Detail::Full,
        expect![[r#"
            web (6f1c2a94-83e5-4c07-9d1b-5a2e8f4b7c60)
              role            replica, peer b.example
              state           replicating (3)
              health          normal
              going on        -
              job             -
              power           running
              right to run    this host (generation 1@a.example)
              test VM         -
              RPO             4.2 s (interval 30 s)
              newest point    2026-05-04T03:12:07Z (crash-consistent), 4.2 s old, 3f2ac410-9b7d-4e58-a6c1-0d94f7e82b35
              points          5
              history         4 points beside the latest, 1 h apart
              app-consistent  every 4 h, last at 2026-05-04T02:00:05Z, 0 failed
              cycles          120 succeeded, 1 missed, 0 failed, 2 waited for others
              this interval   120 succeeded, 1 missed, 0 failed, 0 by the network; 25.6 MiB in 97 ms on average, at most 1.3 MiB and 210 ms
              last cycle      1.3 MiB in 97 ms
              sent            3.0 GiB
              bandwidth       at most 200 MiB/s

            db (0e4d95b7-c1a8-4f36-82eb-6b7f3d20a914)
              role            primary, peer b.example
              state           critical (8)
              health          CRITICAL
              going on        waiting for b.example; next try in 28 s
              job             -
              power           running
              right to run    this host (generation 1@a.example)
              test VM         -
              RPO             1 h 2 min (interval 30 s)
              newest point    on b.example
              points          -
              history         4 points beside the latest, 1 h apart
              app-consistent  every 4 h, last at 2026-05-04T02:00:05Z, 0 failed
              cycles          120 succeeded, 1 missed, 0 failed, 2 waited for others
              this interval   120 succeeded, 1 missed, 0 failed, 0 by the network; 25.6 MiB in 97 ms on average, at most 1.3 MiB and 210 ms
              last cycle      1.3 MiB in 97 ms
              sent            3.0 GiB
              bandwidth       at most 200 MiB/s

              CRITICAL: b.example has not answered for 1 h 2 min
                hint: check the network and `systemctl status relevo` on b.example
              warning: the last 9 cycles were missed
        "#]],
    );
}

#[test]
fn a_relationship_without_a_point_says_that_it_cannot_fail_over() {
    let view = RelationshipView {
        newest_point: None,
        rpo_s: None,
        history: 0,
        bandwidth_bytes_per_s: None,
        bandwidth_now_bytes_per_s: None,
        may_run: false,
        ..samples::relationship()
    };
    let text = reply(&Reply::Relationships(vec![view]), Detail::Full);
    for part in
        ["none yet: a failover is not possible", "the latest point only", "not limited", "not this host"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_bandwidth_is_told_as_it_is_now_and_as_it_is_set() {
    let view = |windows: &[&str], now: Option<u64>| RelationshipView {
        bandwidth_windows: windows.iter().map(|window| window.parse().unwrap()).collect(),
        bandwidth_now_bytes_per_s: now,
        ..samples::relationship()
    };
    let said = |view| {
        let text = reply(&Reply::Relationships(vec![view]), Detail::Full);
        text.lines().find_map(|line| line.trim().strip_prefix("bandwidth")).unwrap().trim().to_owned()
    };
    assert_eq!(
        said(view(&["mon-fri 08:00-18:00 = 20MiB/s"], Some(20 << 20))),
        "at most 20.0 MiB/s now (mon-fri 08:00-18:00 = 20MiB/s; otherwise at most 200 MiB/s)"
    );
    assert_eq!(
        said(view(&["08:00-18:00 = unlimited"], None)),
        "not limited now (08:00-18:00 = unlimited; otherwise at most 200 MiB/s)"
    );
    // The host's limit is lower.
    assert_eq!(said(view(&[], Some(5 << 20))), "at most 5.0 MiB/s now (otherwise at most 200 MiB/s)");
}

#[test]
fn nothing_is_said_with_the_way_to_something() {
    for (view, text) in [
        (
            Reply::Relationships(vec![]),
            "nothing is replicated from or to this host; see `relevo protect --help`",
        ),
        (Reply::Vms(vec![]), "this host has no VM"),
        (Reply::Points(vec![]), "there is no recovery point yet"),
        (Reply::Jobs(vec![]), "there is no job, and none ended in the last five minutes"),
        (Reply::Authorizations(vec![]), "no host may send to this one; see `relevo authorize --help`"),
    ] {
        assert_eq!(reply(&view, Detail::Short), text);
    }
}

#[test]
fn points_are_listed_newest_first() {
    check(
        Reply::Points(vec![samples::older_point(), samples::point()]),
        Detail::Short,
        expect![[r#"
            POINT                                 CUT AT                       AGE  KIND                     STORED  KEPT FOR
            3f2ac410-9b7d-4e58-a6c1-0d94f7e82b35  2026-05-04T03:12:07Z       4.2 s  crash-consistent        1.3 MiB  latest
            9c81d7e2-4f06-4b3a-95d0-7ae1c2683bf4  2026-05-04T02:00:01Z  1 h 12 min  application-consistent  220 MiB  history, every 1d; kept for a test failover
        "#]],
    );
}

#[test]
fn vms_are_listed() {
    let replica = VmView { name: "mail".into(), power_state: "replica".into(), peer: None, ..samples::vm() };
    check(
        Reply::Vms(vec![samples::vm(), replica]),
        Detail::Short,
        expect![[r#"
        VM    POWER    ROLE     REPLICATION  HEALTH  PEER
        web   running  primary  replicating  normal  b.example
        mail  replica  primary  replicating  normal  -
    "#]],
    );
}

#[test]
fn a_vm_shows_its_disks_and_obstacles() {
    let vm = VmView { obstacles: vec!["it has internal snapshots: before".into()], ..samples::vm() };
    check(
        Reply::Vm(Box::new(vm)),
        Detail::Short,
        expect![[r#"
        web (6f1c2a94-83e5-4c07-9d1b-5a2e8f4b7c60)
          power        running
          role         primary
          replication  replicating
          health       normal
          peer         b.example
          autostart    off
          guest agent  answers: application-consistent points are possible

          DISK      SIZE  FORMAT  REPLICATED                                PATH
          vda   20.0 GiB  qcow2   yes                                       /var/lib/libvirt/images/web.qcow2
          sda    650 MiB  raw     not possible: a CD-ROM is not replicated  /srv/iso/debian.iso

          MAC                NETWORK
          52:54:00:12:34:56  default

          cannot be protected as it stands:
          - it has internal snapshots: before
    "#]],
    );
}

#[test]
fn the_host_and_its_authorizations_are_shown() {
    check(
        Reply::Host(samples::host()),
        Detail::Short,
        expect![[r#"
            host           a.example
            version        0.1.0
            replication    0.0.0.0:9443
            with Kerberos  -
            libvirt        qemu:///system
            certificate    expires 2031-11-20T00:00:00Z
            protected VMs  2
            replicas       1
            sending        1 of at most 4 transfers
            receiving      0 of at most 4 transfers
        "#]],
    );
    check(
        Reply::Authorizations(vec![samples::authorization()]),
        Detail::Short,
        expect![[r#"
        HOST       TRUST GROUP  STORAGE
        a.example  DEFAULT      /var/lib/relevo/replicas
    "#]],
    );
}

#[test]
fn a_plan_names_steps_losses_and_a_silent_peer() {
    check(
        Reply::Plan(samples::plan()),
        Detail::Short,
        expect![[r#"
        Fail web over to the point of 2026-05-04T03:12:07Z
          1. Take the right to run web from a.example (generation 2)
          2. Start web on this host
        Stopped or lost:
          - What web wrote on a.example after 2026-05-04T03:12:07Z
        THE OTHER HOST DOES NOT ANSWER: it may still run the VM.
    "#]],
    );
    let harmless = PlanView { losses: vec![], peer_answers: Some(true), ..samples::plan() };
    check(
        Reply::Plan(harmless),
        Detail::Short,
        expect![[r#"
        Fail web over to the point of 2026-05-04T03:12:07Z
          1. Take the right to run web from a.example (generation 2)
          2. Start web on this host
        Nothing is lost.
        The other host answers.
    "#]],
    );
}

#[test]
fn jobs_are_listed_and_shown() {
    check(
        Reply::Jobs(vec![samples::job()]),
        Detail::Short,
        expect![[r#"
        JOB                                   VM   WHAT                 STATE    DONE   FOR  STAGE
        5d0c7a3e-18f4-4b62-9ae7-c3f1d8b02465  web  initial replication  running  45 %  46 s  copying vda
    "#]],
    );
    let failed = JobView {
        state: JobState::Exception,
        failure: Some(
            Failure::new(ErrorKind::NoSpace, "no-space", "no room on b.example").hint("free 12 GiB"),
        ),
        ..samples::job()
    };
    check(
        Reply::Job(Box::new(failed)),
        Detail::Short,
        expect![[r#"
        initial replication of web
          job               5d0c7a3e-18f4-4b62-9ae7-c3f1d8b02465
          state             failed
          done              45 %, 9.0 GiB of 20.0 GiB
          stage             copying vda
          submitted         2026-05-04T03:11:20Z, running for 46 s
          can be cancelled  yes

          error: no room on b.example
          hint: free 12 GiB
    "#]],
    );
}

#[test]
fn a_verification_tells_what_differs() {
    check(
        Reply::Verify(samples::verification()),
        Detail::Short,
        expect![[r#"
        5 points read: 21400 clusters, 1.3 GiB; everything is as it was received
    "#]],
    );
    let bad =
        VerifyView { mismatches: vec!["vda at 1.0 GiB in point 3f2ac410".into()], ..samples::verification() };
    check(
        Reply::Verify(bad),
        Detail::Short,
        expect![[r#"
            5 points read: 21400 clusters, 1.3 GiB; 1 cluster differs from what was received:
              vda at 1.0 GiB in point 3f2ac410
            hint: fail over to a point without differences, and check the disks that hold the replica
        "#]],
    );
}

#[test]
fn progress_shows_rate_and_time_left_once_they_are_known() {
    let mut pace = Pace::default();
    let mut lines = vec![];
    for (elapsed_s, gib, stage) in
        [(0.0, 0, "copying vda"), (2.0, 1, "copying vda"), (4.0, 2, "copying vda"), (5.0, 0, "copying vdb")]
    {
        let job = JobView { elapsed_s, bytes_done: gib << 30, stage: stage.into(), ..samples::job() };
        pace.observe(&job);
        lines.push(job::progress(&job, &pace));
    }
    let unsized_job =
        JobView { bytes_total: 0, bytes_done: 0, stage: String::new(), vm_name: None, ..samples::job() };
    lines.push(job::progress(&unsized_job, &pace));
    expect![[r#"
        initial replication of web: copying vda, 45 %, 0 B of 20.0 GiB
        initial replication of web: copying vda, 45 %, 1.0 GiB of 20.0 GiB, 512 MiB/s, 38 s left
        initial replication of web: copying vda, 45 %, 2.0 GiB of 20.0 GiB, 512 MiB/s, 36 s left
        initial replication of web: copying vdb, 45 %, 0 B of 20.0 GiB
        initial replication, 45 %"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn a_stalled_or_repeated_report_gives_no_false_time_left() {
    let mut pace = Pace::default();
    for elapsed_s in [1.0, 1.0, 0.5, 3.0, 100.0] {
        let job = JobView { elapsed_s, ..samples::job() };
        pace.observe(&job);
        assert_eq!(pace.left_s(&job), None);
    }
    let beyond = JobView { bytes_done: 21 << 30, ..samples::job() };
    assert_eq!(Pace::default().left_s(&beyond), None);
}

#[test]
fn the_rate_follows_a_link_that_slows_down() {
    let mut pace = Pace::default();
    let mut bytes_done = 0;
    for second in 0..60 {
        bytes_done += if second < 30 { 100_000_000 } else { 10_000_000 };
        pace.observe(&JobView { elapsed_s: f64::from(second), bytes_done, ..samples::job() });
    }
    let rate = pace.bytes_per_s().unwrap();
    assert!((10_000_000.0..11_000_000.0).contains(&rate), "{rate}");
}

#[test]
fn what_could_steer_a_terminal_is_replaced() {
    assert_eq!(
        printable("web\x1b[2J\u{202e}\r\u{9b}1m\nü 日"),
        "web\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}1m\nü 日"
    );
    let mut view = samples::relationship();
    view.name = "two\nlines".into();
    assert!(reply(&Reply::Relationships(vec![view]), Detail::Short).contains("two lines  primary"));
}
