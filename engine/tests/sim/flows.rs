//! What an operator does on a good day, and on the bad one that all this is for.

mod three;

use super::{
    disk::COUNT,
    reality::Point,
    shell::Taken,
    world::{A, B, Body, Flight, Message, World},
};
use engine::{Event, Operation, Relationship, Step, Token};
use model::{DeltaId, Mode, ReplicationState as S};

/// A's VM is protected on B and has been followed for a while.
fn protected() -> World {
    let mut world = World::new(1);
    for host in &mut world.hosts {
        host.record.settings.auto_resynchronize = true;
        host.live = Some(host.record.clone());
    }
    apply(&mut world, A, Event::Started);
    ask(&mut world, A, Operation::StartReplication);
    write(&mut world, A, 0, 100);
    replicate(&mut world);
    world
}

fn apply(world: &mut World, host: usize, event: Event) {
    match world.apply(host, event).unwrap() {
        Taken::Well => {}
        Taken::Refused(refusal) => panic!("refused: {refusal}"),
        Taken::NotAtAll => panic!("the daemon is down"),
    }
    world.check().unwrap();
}

fn ask(world: &mut World, host: usize, operation: Operation) {
    apply(world, host, Event::Operation(operation));
    wait(world, |world| world.hosts.iter().all(|host| host.record.work.is_none()));
}

fn refused(world: &mut World, host: usize, operation: Operation) -> String {
    match world.apply(host, Event::Operation(operation)).unwrap() {
        Taken::Refused(refusal) => refusal.to_string(),
        _ => panic!("it was taken"),
    }
}

/// Time passes until something is so.
fn wait(world: &mut World, until: impl Fn(&World) -> bool) {
    for _ in 0..60 {
        world.settle_down().unwrap();
        if until(world) {
            return;
        }
        world.tick(11_000).unwrap();
    }
    panic!("it did not come about:\n{}", world.dump());
}

/// Until the replica has everything.
fn replicate(world: &mut World) {
    wait(world, World::is_settled);
}

fn write(world: &mut World, host: usize, cluster: usize, value: u32) {
    assert!(world.hosts[host].reality.runs());
    world.hosts[host].reality.guest_writes(cluster, value);
}

fn record(world: &World, host: usize) -> &Relationship {
    &world.hosts[host].record
}

fn runs(world: &World) -> [bool; 2] {
    [A, B].map(|host| world.hosts[host].reality.runs())
}

fn cluster(world: &World, host: usize, cluster: usize) -> u32 {
    world.hosts[host].reality.disk.expect("a primary has a disk")[cluster]
}

fn latest(world: &World, host: usize) -> DeltaId {
    record(world, host).latest.expect("something was replicated")
}

/// Without asking, with the latest point.
fn take_over(world: &World, host: usize) -> Operation {
    Operation::Failover { point: Some(latest(world, host)), start: true }
}

fn resyncs(world: &World) -> u64 {
    let of_kind = world.ended.iter().filter(|((kind, _), _)| *kind == "resynchronization");
    of_kind.map(|(_, count)| count).sum()
}

fn resynchronized(world: &World) -> bool {
    world.is_settled() && world.hosts.iter().all(|host| host.record.resync.is_none())
}

#[test]
fn a_protected_vm_is_copied_and_then_followed() {
    let mut world = protected();
    write(&mut world, A, 3, 7);
    replicate(&mut world);
    let points: Vec<u32> = world.hosts[B].reality.points.iter().map(|point| point.content[3]).collect();
    assert_eq!((points.first(), points.last()), (Some(&1), Some(&7)));
    assert!(record(&world, A).statistics.cycles_succeeded >= 2);
}

#[test]
fn planned_failovers_there_and_back_copy_nothing_and_lose_nothing() {
    let mut world = protected();
    for (round, (from, to)) in [(A, B), (B, A), (A, B)].into_iter().enumerate() {
        let value = u32::try_from(round).unwrap() + 10;
        write(&mut world, from, 2, value);
        ask(&mut world, to, Operation::PlannedFailover { start: true });
        let mut expected = [false; 2];
        expected[to] = true;
        assert_eq!(runs(&world), expected);
        assert_eq!(record(&world, from).state, S::SyncedReplicationComplete);
        ask(&mut world, to, Operation::Reverse);
        replicate(&mut world);
        assert_eq!((record(&world, to).mode, record(&world, from).mode), (Mode::Primary, Mode::Replica));
        assert_eq!(cluster(&world, to, 2), value);
    }
    assert_eq!(resyncs(&world), 0);
}

#[test]
fn what_a_vm_writes_that_was_started_after_its_failover_is_compared_unasked() {
    let mut world = protected();
    for host in [A, B] {
        world.hosts[host].record.settings.auto_resynchronize = false;
    }
    ask(&mut world, A, Operation::Prepare { force: false, then_fail_over: None, keep: false });
    let point = latest(&world, B);
    ask(&mut world, B, Operation::Failover { point: Some(point), start: false });
    ask(&mut world, B, Operation::Revert);
    assert_eq!(record(&world, B).resync, None, "what was not tracked is gone");

    wait(&mut world, World::is_settled);
    ask(&mut world, A, Operation::Prepare { force: false, then_fail_over: None, keep: false });
    let point = latest(&world, B);
    ask(&mut world, B, Operation::Failover { point: Some(point), start: false });
    assert_eq!(runs(&world), [false; 2]);
    world.hosts[B].reality.domain.as_mut().expect("it is defined").running = true;
    write(&mut world, B, 2, 77);
    ask(&mut world, B, Operation::Reverse);
    wait(&mut world, resynchronized);
    assert_eq!((record(&world, B).mode, record(&world, B).state), (Mode::Primary, S::Replicating));
    assert!(resyncs(&world) > 0);
    let newest = world.hosts[A].reality.points.last().map(|point| point.content[2]);
    assert_eq!(newest, Some(77));
}

#[test]
fn a_planned_failover_goes_through_at_once_where_tracking_was_lost() {
    let mut world = protected();
    write(&mut world, A, 0, 7);
    // As by a crash that nobody has noticed yet.
    world.hosts[A].reality.lose_tracking();
    ask(&mut world, A, Operation::Prepare { force: false, then_fail_over: Some(true), keep: false });
    wait(&mut world, |world| record(world, B).state == S::Recovered);
    assert!(record(&world, B).may_run() && !record(&world, A).may_run());
    assert_eq!(runs(&world), [false, true]);
    ask(&mut world, B, Operation::Reverse);
    wait(&mut world, |world| record(world, B).mode == Mode::Primary);
    assert_eq!(cluster(&world, B, 0), 7);
}

#[test]
fn a_prepared_failover_can_be_withdrawn_until_it_is_taken() {
    let mut world = protected();
    ask(&mut world, A, Operation::Prepare { force: false, then_fail_over: None, keep: false });
    assert!(matches!(record(&world, B).token, Token::Offered { .. }));
    ask(&mut world, A, Operation::CancelPrepare);
    assert!(record(&world, A).may_run());
    replicate(&mut world);

    ask(&mut world, A, Operation::Prepare { force: false, then_fail_over: None, keep: false });
    // B takes it while A hears nothing.
    world.partitioned = true;
    let taken = take_over(&world, B);
    apply(&mut world, B, Event::Operation(taken));
    world.settle_down().unwrap();
    world.partitioned = false;
    apply(&mut world, A, Event::Operation(Operation::CancelPrepare));
    wait(&mut world, |world| record(world, A).work.is_none());
    assert!(!record(&world, A).may_run() && record(&world, B).may_run());
}

#[test]
fn a_revert_gives_the_vm_back_with_what_it_wrote_meanwhile() {
    let mut world = protected();
    world.partitioned = true;
    let point = latest(&world, B);
    apply(&mut world, B, Event::Operation(Operation::Failover { point: Some(point), start: true }));
    world.settle_down().unwrap();
    // Nothing can prevent that both run while they cannot hear each other.
    assert_eq!(runs(&world), [true, true]);
    write(&mut world, A, 5, 55);
    write(&mut world, B, 5, 66);
    world.partitioned = false;
    world.request(A, Body::Greet);
    world.settle_down().unwrap();
    assert_eq!(runs(&world), [false, true]);
    assert_eq!(record(&world, A).state, S::Critical);
    ask(&mut world, B, Operation::Revert);
    replicate(&mut world);
    assert_eq!(runs(&world), [true, false]);
    assert_eq!(cluster(&world, A, 5), 55);
}

#[test]
fn a_failover_to_an_earlier_point_comes_home_by_failback() {
    let mut world = protected();
    let point = latest(&world, B);
    write(&mut world, A, 0, 200);
    replicate(&mut world);
    // A's host burns down, later it comes back with its disk.
    world.lose_power(A);
    ask_alone(&mut world, B, Operation::Failover { point: Some(point), start: true });
    write(&mut world, B, 1, 300);
    ask_alone(&mut world, B, Operation::Commit);
    world.start(A).unwrap();
    world.request(A, Body::Greet);
    world.settle_down().unwrap();
    assert_eq!(runs(&world), [false, true]);
    ask(&mut world, A, Operation::Failback { point: None });
    wait(&mut world, |world| {
        record(world, A).state == S::FailbackComplete && record(world, B).work.is_none()
    });
    write(&mut world, B, 2, 400);
    ask(&mut world, A, Operation::CompleteFailback { point: None, force: false });
    replicate(&mut world);
    assert_eq!(runs(&world), [true, false]);
    assert_eq!((record(&world, A).mode, record(&world, B).mode), (Mode::Primary, Mode::Replica));
    // The earlier point's content, and everything written since on B.
    assert_eq!([0, 1, 2].map(|c| cluster(&world, A, c)), [100, 300, 400]);
}

/// A's VM was failed over to the second of three points of B, and wrote there.
fn failed_over_with_points() -> (World, Vec<DeltaId>) {
    let mut world = protected();
    let mut points = vec![latest(&world, B)];
    for value in [200, 300] {
        write(&mut world, A, 0, value);
        replicate(&mut world);
        points.push(latest(&world, B));
    }
    world.lose_power(A);
    ask_alone(&mut world, B, Operation::Failover { point: Some(points[1]), start: true });
    write(&mut world, B, 0, 900);
    write(&mut world, B, 1, 900);
    world.start(A).unwrap();
    world.request(A, Body::Greet);
    world.settle_down().unwrap();
    (world, points)
}

#[test]
fn a_vm_comes_home_as_of_any_point_of_a_peer_that_has_not_committed() {
    for (chosen, value) in [(0, 100), (1, 200), (2, 300)] {
        let (mut world, points) = failed_over_with_points();
        ask(&mut world, A, Operation::Failback { point: Some(points[chosen]) });
        wait(&mut world, |world| record(world, A).state == S::FailbackComplete);
        assert_eq!(runs(&world), [false, true], "the guest goes on over there");
        write(&mut world, B, 2, 901);
        world.crash(A, "at rest");
        world.start(A).unwrap();
        wait(&mut world, |world| record(world, B).work.is_none());
        ask(&mut world, A, Operation::CompleteFailback { point: None, force: false });
        assert_eq!([0, 1, 2].map(|c| cluster(&world, A, c)), [value, 1, 1]);
        let kept = world.hosts[B].reality.points.first().expect("what it wrote over there").content;
        assert_eq!([0, 1, 2].map(|c| kept[c]), [900, 900, 901]);
        replicate(&mut world);
        assert_eq!((runs(&world), record(&world, A).mode), ([true, false], Mode::Primary));
    }
}

#[test]
fn a_failback_to_a_point_that_is_not_there_any_more_leaves_the_vm_where_it_runs() {
    let (mut world, points) = failed_over_with_points();
    ask_alone(&mut world, B, Operation::Commit);
    apply(&mut world, A, Event::Operation(Operation::Failback { point: Some(points[0]) }));
    wait(&mut world, |world| record(world, A).work.is_none());
    let why = world.hosts[A].finished.last().cloned().flatten();
    assert!(why.as_ref().is_some_and(|why| why.contains("gone")), "{why:?}");
    assert_eq!((runs(&world), record(&world, A).state), ([false, true], S::WaitingForInitialReplication));
    ask(&mut world, B, Operation::Reverse);
    replicate(&mut world);
    assert_eq!(cluster(&world, B, 0), 900);
}

fn ask_alone(world: &mut World, host: usize, operation: Operation) {
    apply(world, host, Event::Operation(operation));
    wait(world, |world| record(world, host).work.is_none());
}

#[test]
fn a_committed_failover_is_reversed_onto_the_old_primary() {
    let mut world = protected();
    world.partitioned = true;
    let taken = take_over(&world, B);
    ask_alone(&mut world, B, taken);
    assert!(refused(&mut world, B, Operation::Reverse).contains("committed"));
    ask_alone(&mut world, B, Operation::Commit);
    write(&mut world, A, 4, 44);
    write(&mut world, B, 6, 66);
    world.partitioned = false;
    ask(&mut world, B, Operation::Reverse);
    let own = world.hosts[A].reality.points.first().expect("its own disk").content;
    assert_eq!((own[4], own[6]), (44, 1), "what A wrote and never shipped stays as a point");
    wait(&mut world, resynchronized);
    assert_eq!(runs(&world), [false, true]);
}

/// A cluster goes 1, 7, 1 on A; B has the 7, A does not know that it does; B takes over.
#[test]
fn content_that_went_there_and_back_is_found_after_a_lost_acknowledgement() {
    let mut world = protected();
    write(&mut world, A, 7, 7);
    world.tick(31_000).unwrap();
    let is_delta = |m: &Message| matches!(m, Message::Request { body: Body::Delta { .. }, .. });
    while !world.network.iter().any(is_delta) {
        if world.network.is_empty() {
            world.carry_out(A).unwrap();
            world.report(A).unwrap();
        } else {
            world.deliver(0).unwrap();
        }
    }
    assert!(matches!(world.hosts[A].flight, Some(Flight::Asked(_, Step::Ship { .. }))));
    let delta = world.network.iter().position(is_delta).unwrap();
    world.deliver(delta).unwrap();
    world.network.clear();
    world.time_out(A);
    assert_ne!(latest(&world, A), latest(&world, B));
    write(&mut world, A, 7, 1);
    world.partitioned = true;
    let taken = take_over(&world, B);
    ask_alone(&mut world, B, taken);
    ask_alone(&mut world, B, Operation::Commit);
    world.partitioned = false;
    ask(&mut world, B, Operation::Reverse);
    assert_eq!(world.hosts[A].reality.points.first().map(|point| point.content[7]), Some(1));
    wait(&mut world, resynchronized);
    assert_eq!(world.hosts[A].reality.points.last().map(|point| point.content[7]), Some(7));
}

#[test]
fn stale_and_repeated_deltas_change_nothing_after_a_takeover() {
    let mut world = protected();
    let stale = |world: &World, base| Message::Request {
        from: A,
        to: B,
        id: 0,
        standing: record(world, A).standing(true),
        body: Body::Delta {
            delta: DeltaId(uuid::Uuid::from_u128(1)),
            base,
            clusters: super::disk::Clusters::ALL,
            content: [9; COUNT],
        },
    };
    let base = record(&world, B).latest;
    let (first, second, third) = (stale(&world, base), stale(&world, base), stale(&world, base));
    let points = |world: &World| -> Vec<DeltaId> {
        world.hosts[B].reality.points.iter().map(|point: &Point| point.delta).collect()
    };
    let before = points(&world);
    let arrives = |world: &mut World, message| {
        world.network.push(message);
        world.deliver(world.network.len() - 1).unwrap();
        assert_eq!(points(world), before);
        world.check().unwrap();
    };
    world.partitioned = true;
    apply(&mut world, B, Event::Operation(Operation::Failover { point: Some(base.unwrap()), start: true }));
    arrives(&mut world, first);
    world.settle_down().unwrap();
    arrives(&mut world, second);
    ask_alone(&mut world, B, Operation::Revert);
    arrives(&mut world, third);
}

#[test]
fn a_first_copy_that_is_carried_over_is_followed_by_what_was_written_since() {
    let mut world = World::new(1);
    apply(&mut world, A, Event::Started);
    ask(&mut world, A, Operation::Export);
    write(&mut world, A, 3, 7);
    world.tick(99_000).unwrap();
    world.settle_down().unwrap();
    assert_eq!(record(&world, A).state, S::WaitingForInitialReplication);
    assert!(world.hosts[B].reality.points.is_empty(), "nothing flows before the import");
    let too_early = Operation::Failover { point: Some(DeltaId(uuid::Uuid::nil())), start: true };
    refused(&mut world, B, too_early);

    world.import(B).unwrap();
    world.request(B, Body::Greet);
    replicate(&mut world);
    let points: Vec<u32> = world.hosts[B].reality.points.iter().map(|point| point.content[3]).collect();
    assert_eq!(points[..2], [1, 7]);
    assert_eq!(resyncs(&world), 0);
}

#[test]
fn an_exported_copy_that_is_given_up_and_imported_all_the_same_is_compared_with() {
    let mut world = World::new(1);
    apply(&mut world, A, Event::Started);
    ask(&mut world, A, Operation::Export);
    ask(&mut world, A, Operation::CancelStart);
    assert_eq!(record(&world, A).state, S::Ready);
    write(&mut world, A, 3, 7);
    world.import(B).unwrap();
    apply(&mut world, A, Event::Operation(Operation::StartReplication));
    wait(&mut world, resynchronized);
    assert_eq!(resyncs(&world), 1);
}

#[test]
fn what_was_put_off_begins_at_its_time_and_not_before() {
    let mut world = World::new(1);
    apply(&mut world, A, Event::Started);
    let at_ms = world.now_ms + 3_600_000;
    let later = |operation| Operation::Later { at_ms, operation: Box::new(operation) };
    refused(&mut world, A, later(Operation::Resynchronize));
    refused(&mut world, A, later(Operation::Commit));
    apply(&mut world, A, Event::Operation(later(Operation::StartReplication)));
    world.tick(3_599_000).unwrap();
    world.crash(A, "at rest");
    world.start(A).unwrap();
    world.settle_down().unwrap();
    assert_eq!(record(&world, A).state, S::Ready);
    world.tick(1_000).unwrap();
    replicate(&mut world);

    ask(
        &mut world,
        A,
        Operation::Later { at_ms: at_ms + 60_000, operation: Box::new(Operation::Resynchronize) },
    );
    apply(&mut world, A, Event::Operation(Operation::CancelResynchronize));
    assert_eq!((record(&world, A).state, &record(&world, A).scheduled), (S::Replicating, &None));
    ask(
        &mut world,
        A,
        Operation::Later { at_ms: at_ms + 60_000, operation: Box::new(Operation::Resynchronize) },
    );
    wait(&mut world, |world| resyncs(world) == 1);
}
