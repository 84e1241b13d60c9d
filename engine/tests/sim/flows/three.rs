//! Flows of three hosts.

use super::*;
use crate::sim::world::{F, X};

/// A's VM is protected on B, which forwards to X, and all have the same.
fn forwarded() -> World {
    let mut world = World::three(1);
    for host in &mut world.hosts {
        host.record.settings.auto_resynchronize = true;
        host.live = Some(host.record.clone());
    }
    for host in [A, B, X, F] {
        apply(&mut world, host, Event::Started);
    }
    apply(&mut world, A, Event::Operation(Operation::StartReplication));
    replicate(&mut world);
    apply(&mut world, F, Event::Operation(Operation::StartReplication));
    write(&mut world, A, 0, 100);
    follow(&mut world);
    world
}

/// Until X has the newest point of B, and B that of A.
fn follow(world: &mut World) {
    replicate(world);
    wait(world, |world| world.hosts[X].reality.newest() == record(world, B).latest && rests(world, F));
}

fn rests(world: &World, actor: usize) -> bool {
    record(world, actor).work.is_none()
}

/// All that was said is heard, and again.
fn hear(world: &mut World) {
    for host in [A, B, X, F, A, B, X, F] {
        if world.hosts[host].live.is_some() {
            world.request(host, Body::Greet);
            world.settle_down().unwrap();
        }
    }
}

#[test]
fn a_third_host_follows_takes_over_and_gives_back_past_the_second() {
    let mut world = forwarded();
    write(&mut world, A, 1, 7);
    follow(&mut world);
    assert_eq!(record(&world, X).mode, Mode::ExtendedReplica);
    let points: Vec<u32> = world.hosts[X].reality.points.iter().map(|point| point.content[1]).collect();
    assert_eq!((points.first(), points.last()), (Some(&1), Some(&7)));

    let taken = take_over(&world, X);
    ask(&mut world, X, taken);
    hear(&mut world);
    assert_eq!([A, B, X].map(|host| world.hosts[host].reality.runs()), [false, false, true]);
    assert_eq!((record(&world, A).state, record(&world, F).state), (S::Critical, S::Critical));
    assert!(!record(&world, B).may_run());

    ask(&mut world, X, Operation::Revert);
    hear(&mut world);
    wait(&mut world, |world| record(world, A).may_run());
    write(&mut world, A, 2, 9);
    follow(&mut world);
    assert_eq!(world.hosts[X].reality.points.last().unwrap().content[2], 9);
}

/// B takes over at `point` and keeps it, X becomes its replica, and A hears that it is left behind.
fn second_goes_on_with_third(world: &mut World, point: DeltaId) {
    world.lose_power(A);
    ask_alone(world, B, Operation::Failover { point: Some(point), start: true });
    write(world, B, 5, 50);
    let base = record(world, F).peer_latest.or(record(world, F).latest).unwrap();
    let settings = Box::new(record(world, F).settings.clone());
    let change = Operation::ChangeToPrimary { peer: record(world, X).host.clone(), base, settings };
    assert!(refused(world, B, change.clone()).contains("committed"));
    ask_alone(world, B, Operation::Commit);
    write(world, B, 6, 60);
    ask_alone(world, B, change);
    wait(world, |world| {
        let (b, x) = (&world.hosts[B], &world.hosts[X]);
        b.record.work.is_none()
            && b.record.resync.is_none()
            && x.reality.points.last().map(|point| point.content) == b.reality.disk
    });
    assert_eq!((record(world, B).mode, record(world, X).mode), (Mode::Primary, Mode::Replica));
    assert!(world.hosts[F].gone);

    world.start(A).unwrap();
    world.request(A, Body::Greet);
    world.settle_down().unwrap();
    assert_eq!(record(world, A).state, S::Critical);
    assert_eq!([A, B, X].map(|host| world.hosts[host].reality.runs()), [false, true, false]);
    write(world, B, 7, 70);
    wait(world, |world| world.hosts[X].reality.points.last().is_some_and(|point| point.content[7] == 70));
}

#[test]
fn a_third_host_that_is_ahead_of_the_failed_over_point_becomes_the_replica() {
    let mut world = forwarded();
    let earlier = latest(&world, B);
    write(&mut world, A, 3, 30);
    follow(&mut world);
    second_goes_on_with_third(&mut world, earlier);
}

#[test]
fn a_third_host_that_lags_behind_the_failed_over_point_becomes_the_replica() {
    let mut world = forwarded();
    apply(&mut world, F, Event::Operation(Operation::Suspend));
    write(&mut world, A, 3, 30);
    replicate(&mut world);
    write(&mut world, A, 4, 40);
    replicate(&mut world);
    let newest = latest(&world, B);
    second_goes_on_with_third(&mut world, newest);
}

#[test]
fn a_second_host_that_reverses_to_the_first_forwards_no_more() {
    let mut world = forwarded();
    ask(&mut world, B, Operation::PlannedFailover { start: true });
    ask(&mut world, B, Operation::Reverse);
    replicate(&mut world);
    assert!(world.hosts[F].gone);
    assert!(record(&world, B).former_peers.contains(&record(&world, X).host));
    // X takes over all the same: the two others hear of it.
    let taken = take_over(&world, X);
    ask(&mut world, X, taken);
    // Numbers are equal where X has not heard of the failover.
    hear(&mut world);
    assert!(record(&world, X).superseded.is_some() || !record(&world, B).may_run());
}
