use super::*;
use crate::testing::{context, delta, generation, record};
use crate::{Event, Operation, StepFailure, plan};

fn primary() -> Relationship {
    let generation = generation(1, "a", 1);
    let mut r = record(Mode::Primary, S::Replicating, Token::Held { generation, acknowledged: true });
    r.next_cycle_ms = 1_000_000;
    r
}

fn apply(r: &mut Relationship, now_ms: i64, event: Event) -> Vec<Effect> {
    r.apply(context(now_ms), event).unwrap()
}

fn step(r: &Relationship) -> &'static str {
    r.work.as_ref().and_then(Work::step).map_or("-", Step::name)
}

/// A turn that is about to ship.
fn shipping(kind: WorkKind) -> Relationship {
    let mut r = primary();
    r.work = Some(plan::turn(kind, S::Replicating, delta(2), Some(delta(1))));
    apply(&mut r, 0, Event::Done(StepResult::Bytes { bytes: 1 }));
    assert_eq!(step(&r), "ship");
    r
}

#[test]
fn a_loss_of_tracking_within_a_turn_outlives_it() {
    for kind in [WorkKind::Cycle, WorkKind::Resync] {
        let mut r = shipping(kind);
        apply(&mut r, 0, Event::TrackingLost("a crash".into()));
        apply(&mut r, 0, Event::Done(StepResult::Bytes { bytes: 1 }));
        assert_eq!(r.latest, Some(delta(2)));
        assert_eq!(r.resync.as_deref(), Some("a crash"));
        apply(&mut r, 0, Event::Done(StepResult::Plain));
        assert_eq!((step(&r), r.state), ("cut and compare", S::Resynchronizing));
    }
}

#[test]
fn a_loss_of_tracking_between_two_turns_is_made_up_for_unasked_or_waits_as_was_set() {
    for (auto, state) in [(true, S::Resynchronizing), (false, S::WaitingForResynchronize)] {
        let mut r = shipping(WorkKind::Cycle);
        (r.work, r.settings.auto_resynchronize) = (None, auto);
        apply(&mut r, 0, Event::TrackingLost("QEMU was killed".into()));
        assert_eq!(r.state, state);
        apply(&mut r, 1, Event::Started);
        assert_eq!((r.state, r.work.is_some()), (state, auto));
    }
}

#[test]
fn a_comparison_that_was_shipped_ends_the_need_for_one() {
    let mut r = shipping(WorkKind::Resync);
    r.resync = Some("a crash".into());
    apply(&mut r, 0, Event::Done(StepResult::Bytes { bytes: 1 }));
    assert_eq!(r.resync, None);
}

#[test]
fn news_while_a_step_is_under_way_starts_no_second_one() {
    let mut r = shipping(WorkKind::Cycle);
    apply(&mut r, 0, Event::Failed(StepFailure::NoSpace("the spool is full".into())));
    assert_eq!(step(&r), "abandon");
    let theirs =
        record(Mode::Replica, S::Replicating, Token::Elsewhere { generation: generation(1, "a", 1) });
    assert_eq!(apply(&mut r, 1, Event::Heard(theirs.standing(false))), []);
    assert_eq!(apply(&mut r, 99_000, Event::Tick), []);
}

#[test]
fn a_peer_that_calls_ends_the_wait_for_a_silent_one_and_not_for_a_busy_one() {
    let theirs =
        record(Mode::Replica, S::Replicating, Token::Elsewhere { generation: generation(1, "a", 1) });
    let heard = || Event::Heard(theirs.standing(false));
    let mut r = shipping(WorkKind::Cycle);
    assert_eq!(apply(&mut r, 0, Event::Failed(StepFailure::Recoverable("no route".into()))), []);
    assert_eq!(apply(&mut r, 1, heard()), [Effect::Run(Step::Ship { delta: delta(2) })]);
    assert_eq!(apply(&mut r, 2, Event::Failed(StepFailure::Busy("merging".into()))), []);
    assert_eq!(apply(&mut r, 3, heard()), []);
    assert_eq!(apply(&mut r, 1_002, Event::Tick), [Effect::Run(Step::Ship { delta: delta(2) })]);
}

#[test]
fn a_turn_that_the_peer_does_not_want_waits_before_the_next() {
    let mut r = shipping(WorkKind::Resync);
    r.state = S::Resynchronizing;
    r.resync = Some("asked for".into());
    apply(&mut r, 0, Event::Failed(StepFailure::Superseded));
    assert_eq!(step(&r), "abandon");
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    assert_eq!(r.work, None);
    apply(&mut r, 60_000, Event::Tick);
    assert_eq!(step(&r), "cut and compare");
}

#[test]
fn a_yield_that_was_not_answered_is_asked_for_again() {
    let mut r = record(
        Mode::Replica,
        S::Recovered,
        Token::Held { generation: generation(1, "a", 1), acknowledged: true },
    );
    r.failed_over = Some(FailedOver {
        point: delta(1),
        overlay: 1,
        kind: FailoverType::Planned,
        point_kind: PointKind::Planned,
        at_ms: 0,
    });
    apply(&mut r, 0, Event::Operation(Operation::Reverse));
    apply(&mut r, 0, Event::Failed(StepFailure::Recoverable("no answer".into())));
    assert_eq!(step(&r), "ask the peer to become the replica");
    assert!(r.apply(context(0), Event::Operation(Operation::Revert)).is_err());
    apply(&mut r, 0, Event::Operation(Operation::Resume));
    apply(&mut r, 0, Event::Failed(StepFailure::Refused("it runs here".into())));
    assert_eq!((r.work.is_none(), r.state), (true, S::Recovered));
}

#[test]
fn a_superseded_host_pauses_its_vm_whenever_it_starts() {
    let mut r = primary();
    let theirs = record(
        Mode::Replica,
        S::Recovered,
        Token::Held { generation: generation(2, "b", 2), acknowledged: false },
    );
    assert_eq!(apply(&mut r, 0, Event::Heard(theirs.standing(true))), [Effect::PauseVm]);
    assert!(apply(&mut r, 1, Event::Started).contains(&Effect::PauseVm));
    assert_eq!((r.state, r.wants_running), (S::Critical, false));
}

#[test]
fn a_host_superseded_while_it_took_its_vm_back_stays_superseded() {
    let mut r = record(Mode::Primary, S::Critical, Token::Offered { generation: generation(3, "a", 3) });
    apply(&mut r, 0, Event::Tick);
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    assert_eq!((step(&r), r.may_run()), ("resume the VM", true));
    let theirs = record(
        Mode::Replica,
        S::Recovered,
        Token::Held { generation: generation(4, "b", 4), acknowledged: false },
    );
    apply(&mut r, 0, Event::Heard(theirs.standing(true)));
    assert!(apply(&mut r, 0, Event::Done(StepResult::Plain)).contains(&Effect::PauseVm));
    assert_eq!((r.work.is_none(), r.state, r.superseded.is_some()), (true, S::Critical, true));
    assert!(apply(&mut r, 0, Event::Started).contains(&Effect::PauseVm));
}

#[test]
fn an_operation_waits_for_the_end_of_a_clean_up_and_not_for_one_that_is_stuck() {
    let mut r = shipping(WorkKind::Cycle);
    apply(&mut r, 0, Event::Failed(StepFailure::NoSpace("the spool is full".into())));
    assert_eq!(step(&r), "abandon");
    assert_eq!(apply(&mut r, 1, Event::Operation(Operation::Suspend)), []);
    assert!(r.apply(context(1), Event::Operation(Operation::Resynchronize)).is_err(), "one waits");
    apply(&mut r, 2, Event::Done(StepResult::Plain));
    assert_eq!((r.work.is_none(), r.state), (true, S::Suspended));

    let mut r = shipping(WorkKind::Cycle);
    apply(&mut r, 0, Event::Failed(StepFailure::NoSpace("the spool is full".into())));
    apply(&mut r, 0, Event::Failed(StepFailure::Recoverable("libvirt is gone".into())));
    assert!(r.apply(context(1), Event::Operation(Operation::Suspend)).is_err());
}

#[test]
fn a_turn_that_outgrows_its_room_is_taken_back_and_waits() {
    let mut r = shipping(WorkKind::Resync);
    (r.state, r.resync) = (S::Resynchronizing, Some("asked for".into()));
    assert_eq!(apply(&mut r, 0, Event::Squeezed("the overlays are large".into())), [Effect::CancelStep]);
    apply(&mut r, 1, Event::Failed(StepFailure::Cancelled));
    assert_eq!(step(&r), "abandon");
    let effects = apply(&mut r, 2, Event::Done(StepResult::Plain));
    assert!(effects.contains(&Effect::Finished { failure: Some("the overlays are large".into()) }));
    assert_eq!(apply(&mut r, 60_000, Event::Tick), []);
    assert_eq!(apply(&mut r, 700_000, Event::Tick).len(), 1);
    assert_eq!(step(&r), "cut and compare");

    // While it waits for a silent peer, the peer's call goes on ending the wait.
    let mut r = shipping(WorkKind::Cycle);
    apply(&mut r, 0, Event::Failed(StepFailure::Recoverable("no route".into())));
    apply(&mut r, 1, Event::Squeezed("the overlays are large".into()));
    assert_eq!(step(&r), "abandon");
    apply(&mut r, 2, Event::Done(StepResult::Plain));
    assert!(r.work.is_none() && r.retry.is_waiting(3));
    let theirs =
        record(Mode::Replica, S::Replicating, Token::Elsewhere { generation: generation(1, "a", 1) });
    apply(&mut r, 3, Event::Heard(theirs.standing(false)));
    assert!(!r.retry.is_waiting(4));
}

#[test]
fn a_resync_asked_for_within_a_cycle_begins_with_the_cycles_end() {
    let mut r = shipping(WorkKind::Cycle);
    assert_eq!(apply(&mut r, 0, Event::Operation(Operation::Resynchronize)), [Effect::CancelStep]);
    apply(&mut r, 1, Event::Failed(StepFailure::Cancelled));
    apply(&mut r, 2, Event::Done(StepResult::Plain));
    assert_eq!(
        (r.work.as_ref().map(|work| work.kind), step(&r)),
        (Some(WorkKind::Resync), "cut and compare")
    );
}

#[test]
fn a_cancelled_comparison_waits_for_an_operator_and_begins_anew() {
    let mut r = shipping(WorkKind::Resync);
    r.state = S::Resynchronizing;
    r.resync = Some("asked for".into());
    assert_eq!(apply(&mut r, 0, Event::Operation(Operation::CancelResynchronize)), [Effect::CancelStep]);
    apply(&mut r, 0, Event::Failed(StepFailure::Cancelled));
    assert_eq!(step(&r), "abandon");
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    assert_eq!((r.work.is_none(), r.state), (true, S::WaitingForResynchronize));
    apply(&mut r, 10_000, Event::Tick);
    assert!(r.work.is_none());
    apply(&mut r, 20_000, Event::Operation(Operation::Resume));
    assert_eq!(step(&r), "cut and compare");
}

#[test]
fn a_shorter_interval_moves_the_next_cycle_forward_and_a_reset_keeps_the_last_success() {
    let mut r = primary();
    r.next_cycle_ms = 900_000;
    r.statistics.cycles_missed = 7;
    r.statistics.last_success_ms = Some(5);
    let settings = crate::Settings { interval_s: 10, ..r.settings.clone() };
    r.configure(settings, 1_000);
    assert_eq!((r.settings.interval_s, r.next_cycle_ms), (10, 11_000));
    r.reset_statistics(2_000);
    let s = &r.statistics;
    assert_eq!((s.cycles_missed, s.last_success_ms, s.reset_ms), (0, Some(5), Some(2_000)));
}
