use super::*;
use crate::testing::{delta, generation, record};
use crate::{WorkKind, plan::CutKind};
use ReplicationState as S;

fn replica(state: S) -> crate::Relationship {
    record(Mode::Replica, state, Token::Elsewhere { generation: generation(5, "b", 5) })
}

fn offer(r: &crate::Relationship) -> OfferAnswer {
    r.consider(&generation(5, "b", 5), delta(2), Some(delta(1)))
}

#[test]
fn a_delta_on_top_of_the_latest_point_is_taken() {
    for state in [S::WaitingForInitialReplication, S::Replicating, S::FailbackInProgress, S::FailbackComplete]
    {
        assert_eq!(offer(&replica(state)), OfferAnswer::Send);
    }
    assert_eq!(offer(&replica(S::Suspended)), OfferAnswer::Suspended);
    let newer = replica(S::Replicating).consider(&generation(6, "b", 6), delta(2), Some(delta(1)));
    assert_eq!(newer, OfferAnswer::Send);
}

#[test]
fn a_delta_on_top_of_anything_else_is_not() {
    let r = replica(S::Replicating);
    for base in [None, Some(delta(9))] {
        let answer = r.consider(&generation(5, "b", 5), delta(2), base);
        assert_eq!(answer, OfferAnswer::ResyncNeeded { latest: Some(delta(1)) });
    }
}

#[test]
fn the_latest_delta_offered_again_is_there_whoever_asks() {
    for generation in [generation(4, "b", 4), generation(5, "b", 5), generation(5, "b", 6)] {
        let answer = replica(S::Suspended).consider(&generation, delta(1), None);
        assert_eq!(answer, OfferAnswer::Have);
    }
}

#[test]
fn an_older_or_conflicting_generation_is_stale() {
    for stale in [generation(4, "b", 4), generation(5, "b", 6)] {
        let of = |state| replica(state).consider(&stale, delta(2), Some(delta(1)));
        assert_eq!(of(S::Replicating), OfferAnswer::StaleGeneration);
        assert_eq!(of(S::Recovered), OfferAnswer::FailedOverUncommitted);
        assert_eq!(of(S::FailoverInProgress), OfferAnswer::FailedOverUncommitted);
        assert_eq!(of(S::Committed), OfferAnswer::StaleGeneration);
    }
}

#[test]
fn a_host_that_may_run_the_vm_or_is_a_primary_takes_no_delta() {
    let held = Token::Held { generation: generation(5, "b", 5), acknowledged: true };
    assert_eq!(offer(&record(Mode::Replica, S::Replicating, held)), OfferAnswer::StaleGeneration);
    let primary = record(Mode::Primary, S::Critical, Token::Elsewhere { generation: generation(5, "b", 5) });
    assert_eq!(offer(&primary), OfferAnswer::StaleGeneration);
}

#[test]
fn work_that_needs_the_points_turns_a_delta_away_and_waiting_for_it_does_not() {
    let with = |kind, step| {
        let mut r = replica(S::Replicating);
        r.work = Some(Work::new(kind, S::Replicating, vec![step]));
        offer(&r)
    };
    let overlay = Step::MakeOverlay { point: None, overlay: 1 };
    assert_eq!(with(WorkKind::Failover, overlay), OfferAnswer::Busy);
    assert_eq!(with(WorkKind::Failback, Step::Adopt { id: delta(1) }), OfferAnswer::Busy);
    let cut = Step::Cut { delta: delta(3), base: None, how: CutKind::Full };
    assert_eq!(with(WorkKind::Cycle, cut), OfferAnswer::Busy);
    assert_eq!(
        with(WorkKind::PlannedFailover, Step::AskPrepare { force: false, keep: false }),
        OfferAnswer::Send
    );
    assert_eq!(with(WorkKind::Failback, Step::AskFeed { base: delta(1), point: None }), OfferAnswer::Send);
}

#[test]
fn a_peer_may_ask_only_of_the_present_state_of_affairs() {
    let r = replica(S::Replicating);
    let mut theirs = r.standing(false);
    let (prepare, failover) = (
        Operation::Prepare { force: false, then_fail_over: None, keep: false },
        Operation::Failover { point: Some(delta(1)), start: true },
    );
    assert!(r.may_be_asked(&theirs, &prepare).is_ok());
    assert!(r.may_be_asked(&theirs, &failover).is_err(), "the right was not offered");
    let offered = record(Mode::Replica, S::Replicating, Token::Offered { generation: generation(5, "b", 5) });
    assert!(offered.may_be_asked(&theirs, &failover).is_ok());
    theirs.generation = generation(4, "b", 4);
    assert!(r.may_be_asked(&theirs, &prepare).is_err());
}

#[test]
fn a_host_has_yielded_once_it_can_be_fed() {
    let mut r = replica(S::WaitingForInitialReplication);
    assert_eq!(r.yielded(), Some(delta(1)));
    r.work =
        Some(Work::new(WorkKind::Failback, S::Critical, vec![Step::AskFeed { base: delta(1), point: None }]));
    assert_eq!(r.yielded(), Some(delta(1)));
    r.work = Some(Work::new(WorkKind::Yield, S::Critical, vec![Step::Adopt { id: delta(1) }]));
    assert_eq!(r.yielded(), None);
    let held = Token::Held { generation: generation(5, "a", 5), acknowledged: true };
    assert_eq!(record(Mode::Replica, S::Recovered, held).yielded(), None);
}
