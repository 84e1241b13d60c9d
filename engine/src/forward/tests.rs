use super::*;
use crate::{
    Event, Settings, Standing, StepFailure, StepResult,
    standing::TokenKind,
    testing::{context, delta, generation, host, record},
};

fn settings() -> Settings {
    record(Mode::Primary, S::Ready, Token::Elsewhere { generation: generation(5, "p", 5) }).settings
}

/// Relationship 0 of the replica `a`, fed by `b`.
fn replica() -> Relationship {
    record(Mode::Replica, S::Replicating, Token::Elsewhere { generation: generation(5, "b", 5) })
}

/// Its relationship 1, to `x`, after the first copy of point 1.
fn forwarding() -> Relationship {
    let mut r = Relationship::extended(&replica(), host("x"), settings());
    r.apply(context(0), Event::Operation(Operation::StartReplication)).unwrap();
    turn_ends(&mut r, 0);
    r
}

fn turn_ends(r: &mut Relationship, now_ms: i64) {
    for _ in 0..3 {
        let step = r.work.as_ref().and_then(Work::step).cloned();
        let result = match step {
            Some(Step::Ship { .. }) => StepResult::Bytes { bytes: 1 },
            _ => StepResult::Plain,
        };
        r.apply(context(now_ms), Event::Done(result)).unwrap();
    }
    assert_eq!(r.work, None);
}

fn upstream(owner: &str, number: u64, source: Option<DeltaId>) -> Event {
    let token = Token::Elsewhere { generation: generation(number, owner, u128::from(number)) };
    Event::Upstream(Upstream { token, source })
}

#[test]
fn a_replica_forwards_its_points_under_their_own_ids_without_the_right_to_run() {
    let mut r = forwarding();
    assert_eq!((r.state, r.latest, r.may_run()), (S::Replicating, Some(delta(1)), false));
    r.apply(context(60_000), Event::Tick).unwrap();
    assert_eq!(r.work, None, "there is nothing new");
    let effects = r.apply(context(100_000), upstream("b", 5, Some(delta(2)))).unwrap();
    let cut = Step::Cut { delta: delta(2), base: Some(delta(1)), how: CutKind::Incremental };
    assert_eq!(effects, [Effect::Run(cut)]);
    turn_ends(&mut r, 100_100);
    assert_eq!(r.latest, Some(delta(2)));
    let standing = r.standing(false);
    assert_eq!((standing.mode, standing.token), (Mode::Replica, TokenKind::Elsewhere));
}

#[test]
fn a_lost_acknowledgement_is_made_up_for_without_sending_anything() {
    let mut r = forwarding();
    r.apply(context(50_000), upstream("b", 5, Some(delta(2)))).unwrap();
    r.apply(context(50_000), Event::Failed(StepFailure::Cancelled)).unwrap();
    r.apply(context(50_000), Event::Done(StepResult::Plain)).unwrap();
    r.peer_latest = Some(delta(2));
    r.apply(context(90_000), Event::Tick).unwrap();
    assert_eq!((r.work.clone(), r.latest), (None, Some(delta(2))));
}

#[test]
fn nothing_is_forwarded_while_points_are_dropped_or_the_third_host_has_taken_over() {
    for event in [upstream("b", 5, None), upstream("x", 6, Some(delta(2)))] {
        let mut r = forwarding();
        r.apply(context(100_000), upstream("b", 5, Some(delta(2)))).unwrap();
        assert!(r.work.is_some());
        let taken = matches!(&event, Event::Upstream(there) if there.source.is_some());
        let effects = r.apply(context(100_001), event).unwrap();
        assert!(effects.contains(&Effect::CancelStep));
        r.apply(context(100_002), Event::Failed(StepFailure::Cancelled)).unwrap();
        r.apply(context(100_003), Event::Done(StepResult::Plain)).unwrap();
        r.apply(context(900_000), Event::Tick).unwrap();
        assert_eq!(r.work, None);
        assert_eq!(r.state == S::Critical, taken);
        assert_eq!(r.permit(&Operation::Resynchronize).is_err(), taken);
        // It reverts, and the right goes back to the primary.
        r.apply(context(900_001), upstream("b", 7, Some(delta(2)))).unwrap();
        assert_eq!(r.state, S::Replicating);
        assert!(r.work.is_some());
    }
}

#[test]
fn only_the_sending_can_be_operated() {
    let mut r = forwarding();
    let point = delta(1);
    for operation in [
        Operation::Failover { point: Some(point), start: true },
        Operation::Prepare { force: false, then_fail_over: None, keep: false },
        Operation::Reverse,
        Operation::Failback { point: None },
        Operation::Yield,
    ] {
        assert!(r.permit(&operation).is_err(), "{operation:?}");
    }
    r.apply(context(1), Event::Operation(Operation::Suspend)).unwrap();
    assert_eq!(r.state, S::Suspended);
    r.apply(context(100_000), upstream("b", 5, Some(delta(2)))).unwrap();
    assert_eq!(r.work, None);
    r.apply(context(100_000), Event::Operation(Operation::Resume)).unwrap();
    assert!(r.work.is_some());
}

#[test]
fn a_host_that_has_points_already_is_compared_with() {
    let mut r = Relationship::extended(&replica(), host("x"), settings());
    r.peer_latest = Some(delta(9));
    let effects = r.apply(context(0), Event::Operation(Operation::StartReplication)).unwrap();
    let cut = Step::Cut { delta: delta(1), base: Some(delta(9)), how: CutKind::Compare };
    assert_eq!(effects, [Effect::Run(cut)]);
    let mut r = Relationship::extended(&replica(), host("x"), settings());
    r.source = None;
    assert!(r.permit(&Operation::StartReplication).is_err());
}

/// The third host `a`, whose replica `b` was fed by `p`.
fn third() -> Relationship {
    let mut x =
        record(Mode::ExtendedReplica, S::Replicating, Token::Elsewhere { generation: generation(5, "p", 5) });
    x.apply(context(0), Event::Operation(Operation::Failover { point: Some(delta(1)), start: false }))
        .unwrap();
    while x.work.is_some() {
        x.apply(context(1), Event::Done(StepResult::Plain)).unwrap();
    }
    assert_eq!((x.state, x.token.generation().number), (S::Recovered, 6));
    x
}

#[test]
fn a_revert_on_the_third_host_gives_the_right_back_past_its_peer() {
    let mut x = third();
    x.apply(context(2), Event::Operation(Operation::Revert)).unwrap();
    while x.work.is_some() {
        x.apply(context(3), Event::Done(StepResult::Plain)).unwrap();
    }
    let given = x.token.generation().clone();
    assert_eq!((given.number, &given.owner), (7, &host("p")));

    // Its peer passes that on; it has no right itself.
    let mut b = replica();
    b.peer = host("p");
    b.apply(context(4), Event::HeardBeyond(x.standing(false))).unwrap();
    assert_eq!(b.token, Token::Elsewhere { generation: given.clone() });
    x.apply(context(5), Event::Heard(b.standing(false))).unwrap();
    assert_eq!(x.token, Token::Elsewhere { generation: given.clone() });

    // The primary, superseded or not, goes on under it.
    let primary = |token| {
        let mut p = record(Mode::Primary, S::Replicating, token);
        p.host = host("p");
        p
    };
    let mut p = primary(Token::Held { generation: generation(5, "p", 5), acknowledged: true });
    p.apply(context(6), Event::Heard(b.standing(false))).unwrap();
    assert_eq!(p.token, Token::Held { generation: given.clone(), acknowledged: false });
    let mut p = primary(Token::Elsewhere { generation: generation(6, "a", 6) });
    p.apply(context(6), Event::Heard(b.standing(false))).unwrap();
    assert_eq!(p.token, Token::Held { generation: given, acknowledged: false });
    assert_eq!(p.work.map(|work| work.kind), Some(WorkKind::TakeBack));
}

#[test]
fn what_the_third_host_took_supersedes_a_failed_over_replica() {
    let mut b = replica();
    b.state = S::Recovered;
    b.token = Token::Held { generation: generation(6, "b", 6), acknowledged: false };
    let mut x = third();
    // The same number, another id: neither gives way, and both know.
    let effects = b.apply(context(1), Event::HeardBeyond(x.standing(true))).unwrap();
    assert!(b.may_run() && b.superseded.is_some() && !effects.contains(&Effect::PauseVm));
    x.token = Token::Held { generation: generation(7, "a", 7), acknowledged: false };
    let effects = b.apply(context(1), Event::HeardBeyond(x.standing(true))).unwrap();
    assert!(!b.may_run() && effects.contains(&Effect::PauseVm));
}

#[test]
fn an_extended_replica_whose_peer_became_the_primary_is_a_plain_one() {
    let mut x =
        record(Mode::ExtendedReplica, S::Replicating, Token::Elsewhere { generation: generation(5, "p", 5) });
    assert!(x.permit(&Operation::PlannedFailover { start: true }).is_err());
    let mut b = replica();
    x.apply(context(0), Event::Heard(b.standing(false))).unwrap();
    assert_eq!(x.mode, Mode::ExtendedReplica);
    b.mode = Mode::Primary;
    b.token = Token::Held { generation: generation(6, "b", 6), acknowledged: false };
    x.apply(context(0), Event::Heard(b.standing(true))).unwrap();
    assert_eq!(x.mode, Mode::Replica);
    assert!(x.permit(&Operation::PlannedFailover { start: true }).is_ok());
}

#[test]
fn a_hand_over_is_not_given_back_once_a_third_host_took_the_vm() {
    let mut b = replica();
    b.peer = host("p");
    b.token = Token::Offered { generation: generation(6, "a", 6) };
    let taken = Standing {
        generation: generation(6, "x", 66),
        token: TokenKind::Held,
        mode: Mode::ExtendedReplica,
        state: S::Recovered,
        latest: None,
        running: true,
    };
    b.apply(context(1), Event::HeardBeyond(taken)).unwrap();
    assert!(b.apply(context(2), Event::Withdraw(generation(7, "p", 7))).is_err());
    b.token = Token::Offered { generation: generation(6, "a", 6) };
    assert!(b.apply(context(2), Event::Withdraw(generation(7, "p", 7))).is_ok());
}

#[test]
fn two_holders_hear_of_each_other_through_the_host_between_them() {
    let mut p = record(
        Mode::Primary,
        S::Replicating,
        Token::Held { generation: generation(6, "a", 6), acknowledged: true },
    );
    let between = Standing {
        generation: generation(6, "x", 66),
        token: TokenKind::Elsewhere,
        mode: Mode::Replica,
        state: S::Replicating,
        latest: None,
        running: false,
    };
    p.apply(context(1), Event::Heard(between)).unwrap();
    assert!(p.may_run() && p.superseded.is_some() && p.state == S::Critical);
}

#[test]
fn a_superseded_third_host_takes_nothing_until_it_is_reverted() {
    let mut x = third();
    let newer = generation(8, "p", 8);
    x.token = Token::Elsewhere { generation: newer.clone() };
    let answer = x.consider(&newer, delta(2), Some(delta(1)));
    assert_eq!(answer, crate::OfferAnswer::FailedOverUncommitted);
    x.failed_over = None;
    x.state = S::Replicating;
    assert_eq!(x.consider(&newer, delta(2), Some(delta(1))), crate::OfferAnswer::Send);
}
