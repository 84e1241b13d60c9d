//! What an operator does on a good day, and on the bad one that all this is for.

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
    Operation::Failover { point: latest(world, host), start: true }
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
fn a_prepared_failover_can_be_withdrawn_until_it_is_taken() {
    let mut world = protected();
    ask(&mut world, A, Operation::Prepare { force: false, then_fail_over: None });
    assert!(matches!(record(&world, B).token, Token::Offered { .. }));
    ask(&mut world, A, Operation::CancelPrepare);
    assert!(record(&world, A).may_run());
    replicate(&mut world);

    ask(&mut world, A, Operation::Prepare { force: false, then_fail_over: None });
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
    apply(&mut world, B, Event::Operation(Operation::Failover { point, start: true }));
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
    ask_alone(&mut world, B, Operation::Failover { point, start: true });
    write(&mut world, B, 1, 300);
    ask_alone(&mut world, B, Operation::Commit);
    world.start(A).unwrap();
    world.request(A, Body::Greet);
    world.settle_down().unwrap();
    assert_eq!(runs(&world), [false, true]);
    ask(&mut world, A, Operation::Failback);
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
    apply(&mut world, B, Event::Operation(Operation::Failover { point: base.unwrap(), start: true }));
    arrives(&mut world, first);
    world.settle_down().unwrap();
    arrives(&mut world, second);
    ask_alone(&mut world, B, Operation::Revert);
    arrives(&mut world, third);
}
