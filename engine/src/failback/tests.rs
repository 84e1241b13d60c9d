use super::*;
use crate::{Event, StepResult, Token, WorkKind, testing::*};
use model::{DeltaId, Mode, PointKind};

const P: u128 = 7;

fn point() -> Option<DeltaId> {
    Some(delta(P))
}

/// Host a, to which the VM returns, at the step that asks b for its point; what it adopted.
fn asking() -> (Relationship, DeltaId) {
    let generation = generation(2, "b", 1);
    let mut r = record(Mode::Primary, S::Critical, Token::Elsewhere { generation });
    r.apply(context(0), Event::Operation(Operation::Failback { point: point() })).unwrap();
    while !r.awaits_feed() {
        r.apply(context(0), Event::Done(StepResult::Plain)).unwrap();
    }
    let base = r.latest.unwrap();
    assert_eq!((r.mode, r.state, r.comes_home_as_of), (Mode::Replica, S::FailbackInProgress, point()));
    (r, base)
}

/// Host a, on which the VM runs since a failover that is not committed.
fn failed_over() -> Relationship {
    let generation = generation(2, "a", 1);
    let mut r = record(Mode::Replica, S::Recovered, Token::Held { generation, acknowledged: true });
    let (kind, point_kind) = (crate::FailoverType::Unplanned, PointKind::Regular);
    r.failed_over = Some(crate::FailedOver { point: delta(1), overlay: 1, kind, point_kind, at_ms: 0 });
    r
}

fn received(r: &mut Relationship, id: DeltaId) {
    r.apply(context(0), Event::PointReceived { delta: id, kind: PointKind::Regular }).unwrap();
}

#[test]
fn the_point_that_was_asked_for_is_not_yet_the_end_and_is_what_the_vm_comes_home_as() {
    let (mut r, _) = asking();
    received(&mut r, delta(P));
    assert_eq!(r.state, S::FailbackInProgress, "the peer is not the primary yet");
    let complete = |point| Event::Operation(Operation::CompleteFailback { point, force: false });
    assert!(r.apply(context(0), complete(None)).is_err());
    r.apply(context(0), Event::Done(StepResult::Plain)).unwrap();
    assert_eq!(r.state, S::FailbackComplete);
    received(&mut r, delta(8));
    let overlay = |point| {
        let mut r = r.clone();
        r.apply(context(0), complete(point)).unwrap();
        let plan = r.work.unwrap().plan;
        assert_eq!(plan[0], Step::AskPrepare { force: false, keep: true });
        plan.into_iter().find_map(|step| match step {
            Step::MakeOverlay { point, .. } => point,
            _ => None,
        })
    };
    assert_eq!((overlay(None), overlay(Some(delta(8)))), (point(), Some(delta(8))));
}

#[test]
fn a_peer_that_does_not_have_the_point_any_more_ends_the_failback_and_silence_does_not() {
    for failure in ["Unreachable", "Recoverable", "Cancelled", "Busy"] {
        let (mut r, _) = asking();
        let why = "why".to_owned();
        let failed = match failure {
            "Unreachable" => StepFailure::Unreachable(why),
            "Recoverable" => StepFailure::Recoverable(why),
            "Busy" => StepFailure::Busy(why),
            _ => StepFailure::Cancelled,
        };
        r.apply(context(0), Event::Failed(failed)).unwrap();
        assert!(r.work.as_ref().is_some_and(|work| work.waits), "{failure}");
    }
    let (mut r, _) = asking();
    let effects = r.apply(context(0), Event::Failed(StepFailure::Refused("it is gone".into()))).unwrap();
    assert!(effects.contains(&Effect::Finished { failure: Some("it is gone".into()) }), "{effects:?}");
    let after = (&r.work, r.state, r.mode, r.comes_home_as_of);
    assert_eq!(after, (&None, S::WaitingForInitialReplication, Mode::Replica, None));
}

#[test]
fn a_failback_that_waits_for_the_peer_can_be_cancelled() {
    let cancel = || Event::Operation(Operation::CancelFailback);
    let (mut r, _) = asking();
    assert_eq!(r.apply(context(0), cancel()).unwrap(), [Effect::CancelStep]);
    r.apply(context(0), Event::Failed(StepFailure::Cancelled)).unwrap();
    assert_eq!((&r.work, r.state), (&None, S::WaitingForInitialReplication));

    let (mut r, _) = asking();
    r.apply(context(0), Event::Failed(StepFailure::Unreachable("no route".into()))).unwrap();
    r.apply(context(0), cancel()).unwrap();
    assert_eq!((&r.work, r.state), (&None, S::WaitingForInitialReplication));

    // It was through before it heard of that.
    let (mut r, _) = asking();
    received(&mut r, delta(P));
    r.apply(context(0), cancel()).unwrap();
    r.apply(context(0), Event::Done(StepResult::Plain)).unwrap();
    assert_eq!((&r.work, r.state, r.comes_home_as_of), (&None, S::Replicating, None));
}

#[test]
fn the_peer_sends_its_point_before_it_drops_any_and_stays_as_it_was_when_it_cannot() {
    let feed = || Event::Operation(Operation::Feed { base: delta(5), point: point() });
    let before = failed_over();
    let mut r = before.clone();
    let send = Step::SendPoint { point: delta(P), base: delta(5) };
    assert_eq!(r.apply(context(0), feed()).unwrap(), [Effect::Run(send.clone())]);
    for failure in [StepFailure::Unreachable("gone".into()), StepFailure::Superseded] {
        let mut r = r.clone();
        r.apply(context(0), Event::Failed(failure)).unwrap();
        let after = (r.work.is_none(), r.state, r.mode, r.latest, &r.failed_over);
        assert_eq!(after, (true, S::Recovered, Mode::Replica, before.latest, &before.failed_over));
        r.apply(context(0), feed()).unwrap();
        assert!(r.work.is_some_and(|work| work.step() == Some(&send)));
    }
    let effects = r.apply(context(0), Event::Done(StepResult::Bytes { bytes: 3 })).unwrap();
    assert_eq!(effects, [Effect::Run(Step::RecordLists)]);
    assert_eq!((r.latest, r.resync.is_some(), r.statistics.sent_bytes), (point(), true, 3));

    let mut committed = failed_over();
    committed.state = S::Committed;
    assert!(committed.apply(context(0), feed()).is_err());
}

#[test]
fn the_point_that_was_failed_over_to_needs_no_comparison() {
    let mut r = failed_over();
    r.apply(context(0), Event::Operation(Operation::Feed { base: delta(5), point: Some(delta(1)) })).unwrap();
    while r.work.as_ref().is_some_and(|work| work.kind == WorkKind::Feed) {
        r.apply(context(0), Event::Done(StepResult::Plain)).unwrap();
    }
    assert_eq!((r.mode, r.latest, &r.resync), (Mode::Primary, Some(delta(1)), &None));
}
