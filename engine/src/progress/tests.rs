use super::*;
use crate::testing::{context, delta, generation, record};
use crate::{Event, GIVEN_UP, Operation, StepFailure, plan};

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
    apply(&mut r, 0, Event::Done(StepResult::Cut { frozen: None }));
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
fn a_merge_that_loses_the_tracking_is_followed_by_a_comparison_whatever_was_set() {
    let mut r = primary();
    (r.settings.auto_resynchronize, r.latest) = (false, Some(delta(2)));
    r.work = Some(Work::new(WorkKind::Flatten, S::Replicating, vec![Step::Flatten { overlay: 1 }]));
    apply(&mut r, 0, Event::Done(StepResult::TrackingLost { why: "the VM was off".into() }));
    assert_eq!((step(&r), r.state), ("cut and compare", S::Resynchronizing));
}

#[test]
fn a_comparison_that_was_given_up_is_begun_again_whatever_was_set() {
    let mut r = shipping(WorkKind::Resync);
    r.work = Some(plan::turn(WorkKind::Resync, S::Resynchronizing, delta(2), Some(delta(1))));
    (r.settings.auto_resynchronize, r.state, r.resync) =
        (false, S::Resynchronizing, Some("asked for".into()));
    apply(&mut r, 0, Event::Failed(StepFailure::Cancelled));
    assert_eq!(step(&r), "abandon");
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    assert_eq!((step(&r), r.state), ("cut and compare", S::Resynchronizing));
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
fn a_turn_that_waits_for_others_is_counted_once_and_has_not_failed() {
    let mut r = shipping(WorkKind::Cycle);
    for second in 0..3 {
        apply(&mut r, second * 1_000, Event::Failed(StepFailure::Busy("others first".into())));
        assert_eq!(apply(&mut r, (second + 1) * 1_000, Event::Tick).len(), 1);
    }
    r.note_wait();
    let s = &r.statistics;
    assert_eq!((s.cycles_waited, s.cycles_failed, s.cycles_missed, r.retry.attempts), (1, 0, 0, 0));
    let mut next = shipping(WorkKind::Cycle);
    next.statistics = r.statistics;
    next.note_wait();
    assert_eq!(next.statistics.cycles_waited, 2);
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
fn an_operation_waits_for_the_end_of_a_clean_up() {
    let mut r = shipping(WorkKind::Cycle);
    apply(&mut r, 0, Event::Failed(StepFailure::NoSpace("the spool is full".into())));
    assert_eq!(step(&r), "abandon");
    assert_eq!(apply(&mut r, 1, Event::Operation(Operation::Suspend)), []);
    assert!(r.apply(context(1), Event::Operation(Operation::Resynchronize)).is_err(), "one waits");
    apply(&mut r, 2, Event::Done(StepResult::Plain));
    assert_eq!((r.work.is_none(), r.state), (true, S::Suspended));
}

#[test]
fn a_turn_that_is_cancelled_ends_whatever_step_is_under_way_and_is_not_begun_again() {
    let given_up = Effect::Finished { failure: Some(GIVEN_UP.to_owned()) };
    for (operation, kind, during, after) in [
        (Operation::StartReplication, WorkKind::FirstCopy, S::WaitingForInitialReplication, S::Ready),
        (Operation::Resynchronize, WorkKind::Resync, S::Resynchronizing, S::WaitingForResynchronize),
    ] {
        let begun = || {
            let mut r = primary();
            (r.state, r.resync) = (during, (kind == WorkKind::Resync).then(|| "asked for".to_owned()));
            r.work = Some(plan::turn(kind, during, delta(2), Some(delta(1))));
            r
        };
        // The cut does not heed it: what follows does not come.
        let mut r = begun();
        assert_eq!(apply(&mut r, 0, Event::Cancel(operation.clone())), [Effect::CancelStep]);
        apply(&mut r, 1, Event::Done(StepResult::Cut { frozen: None }));
        assert_eq!(step(&r), "abandon");
        assert!(apply(&mut r, 2, Event::Done(StepResult::Plain)).contains(&given_up));
        assert_eq!((r.work.is_none(), r.state), (true, after));
        apply(&mut r, 3, Event::Tick);
        assert_eq!((r.work.is_none(), r.state), (true, after));

        // It waits for a silent peer: nothing would be asked to stop.
        let mut r = begun();
        apply(&mut r, 0, Event::Done(StepResult::Cut { frozen: None }));
        apply(&mut r, 1, Event::Failed(StepFailure::Unreachable("no route".into())));
        apply(&mut r, 2, Event::Cancel(operation));
        assert_eq!(step(&r), "abandon");
        assert!(apply(&mut r, 3, Event::Done(StepResult::Plain)).contains(&given_up));
        assert_eq!(r.state, after);
    }
}

#[test]
fn what_was_cancelled_before_it_began_does_not_begin_and_a_cycle_is_not_its_turn() {
    let mut r = shipping(WorkKind::Cycle);
    assert_eq!(apply(&mut r, 0, Event::Operation(Operation::Resynchronize)), [Effect::CancelStep]);
    let effects = apply(&mut r, 1, Event::Cancel(Operation::Resynchronize));
    assert_eq!(effects, [Effect::NotBegun { reason: GIVEN_UP.to_owned() }]);
    assert_eq!(apply(&mut r, 2, Event::Cancel(Operation::Resynchronize)), []);
    apply(&mut r, 3, Event::Done(StepResult::Bytes { bytes: 1 }));
    apply(&mut r, 3, Event::Done(StepResult::Plain));
    assert_eq!((r.work.is_none(), r.state), (true, S::Replicating));
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

/// A planned failover that is about to cut.
fn preparing(r: &mut Relationship) {
    let prepare = Operation::Prepare { force: false, then_fail_over: None, keep: false };
    apply(r, 0, Event::Operation(prepare));
    assert_eq!(step(r), "stop the guest");
    apply(r, 0, Event::Done(StepResult::Plain));
}

#[test]
fn a_planned_failover_is_given_up_until_its_delta_is_on_the_peer() {
    let cancel = || Event::Cancel(Operation::Prepare { force: false, then_fail_over: None, keep: false });
    let takes_back = |r: &Relationship| {
        let plan: Vec<_> = r.work.iter().flat_map(|work| work.plan.iter().map(Step::name)).collect();
        (r.work.as_ref().map(|work| work.kind), plan.contains(&"start the VM"))
    };
    // It waits for a peer that is busy.
    let mut r = primary();
    preparing(&mut r);
    apply(&mut r, 0, Event::Done(StepResult::Cut { frozen: None }));
    apply(&mut r, 0, Event::Failed(StepFailure::Busy("merging".into())));
    apply(&mut r, 1, cancel());
    assert_eq!(takes_back(&r), (Some(WorkKind::Abandon), true));

    // Its step ended well although it was asked to stop.
    let mut r = primary();
    preparing(&mut r);
    assert_eq!(apply(&mut r, 0, cancel()), [Effect::CancelStep]);
    apply(&mut r, 0, Event::Done(StepResult::Cut { frozen: None }));
    assert_eq!(takes_back(&r), (Some(WorkKind::Abandon), true));

    // Nothing may be taken back of what the peer has.
    let mut r = primary();
    preparing(&mut r);
    apply(&mut r, 0, Event::Done(StepResult::Cut { frozen: None }));
    apply(&mut r, 0, Event::Done(StepResult::Bytes { bytes: 1 }));
    assert_eq!(apply(&mut r, 0, cancel()), []);
    assert_eq!(takes_back(&r).0, Some(WorkKind::Prepare));
}

#[test]
fn what_was_handed_over_and_is_not_taken_can_be_taken_back() {
    let mut r = primary();
    let cancel = || Event::Operation(Operation::CancelPrepare);
    let prepare = Operation::Prepare { force: false, then_fail_over: Some(true), keep: false };
    apply(&mut r, 0, Event::Operation(prepare));
    while step(&r) != "ask the peer to take over" {
        assert!(r.clone().apply(context(0), cancel()).is_err(), "{}", step(&r));
        let done = match r.work.as_ref().and_then(Work::step) {
            Some(Step::Cut { .. }) => StepResult::Cut { frozen: None },
            Some(Step::Ship { .. }) => StepResult::Bytes { bytes: 1 },
            _ => StepResult::Plain,
        };
        apply(&mut r, 0, Event::Done(done));
    }
    assert!(r.clone().apply(context(0), cancel()).is_err(), "it may be taken at this moment");
    apply(&mut r, 0, Event::Failed(StepFailure::Refused("cannot define the VM".into())));
    apply(&mut r, 1, cancel());
    assert_eq!(step(&r), "withdraw the hand-over");
    // Only the peer knows whether it took it.
    apply(&mut r, 1, Event::Failed(StepFailure::Refused("it was taken already".into())));
    assert_eq!((r.work.as_ref().map(|work| work.kind), r.state), (None, S::SyncedReplicationComplete));
    assert!(!r.may_run());
}

#[test]
fn a_reversal_that_waits_for_a_dead_peer_is_given_up() {
    let mut r = primary();
    (r.mode, r.state, r.latest) = (Mode::Replica, S::Committed, Some(delta(1)));
    r.failed_over = Some(FailedOver {
        point: delta(1),
        overlay: 1,
        kind: FailoverType::Unplanned,
        point_kind: PointKind::Regular,
        at_ms: 0,
    });
    apply(&mut r, 0, Event::Operation(Operation::Reverse));
    assert_eq!(step(&r), "ask the peer to become the replica");
    apply(&mut r, 0, Event::Failed(StepFailure::Unreachable("no route".into())));
    assert!(r.work.as_ref().is_some_and(|work| work.waits));
    apply(&mut r, 1, Event::Cancel(Operation::Reverse));
    assert_eq!((r.work.as_ref().map(|work| work.kind), r.state), (None, S::Committed));
    assert!(r.may_run());

    // The peer has become the replica by then.
    apply(&mut r, 1, Event::Operation(Operation::Reverse));
    apply(&mut r, 1, Event::Done(StepResult::Yielded { base: delta(1) }));
    assert_eq!(apply(&mut r, 1, Event::Cancel(Operation::Reverse)), []);
    assert_eq!(r.work.as_ref().map(|work| work.kind), Some(WorkKind::Reverse));
}

#[test]
fn a_cut_that_could_not_be_cleaned_up_is_tried_again_for_what_is_asked() {
    let busy = || Event::Failed(StepFailure::Recoverable("QEMU has the disk open".into()));
    let prepare = Operation::Prepare { force: false, then_fail_over: None, keep: false };
    let mut r = shipping(WorkKind::Cycle);
    apply(&mut r, 0, Event::Operation(Operation::Suspend));
    apply(&mut r, 0, Event::Failed(StepFailure::Cancelled));
    assert_eq!(step(&r), "abandon");
    assert_eq!(apply(&mut r, 0, busy()), [], "the first time it goes on waiting");
    assert_eq!(r.waiting, Some(Operation::Suspend));
    r.waiting = None;

    let effects = apply(&mut r, 1, Event::Operation(prepare.clone()));
    assert!(matches!(effects[..], [Effect::Run(Step::Abandon { .. })]), "{effects:?}");
    let effects = apply(&mut r, 1, busy());
    assert!(matches!(&effects[..], [Effect::NotBegun { reason }] if reason.contains("open")), "{effects:?}");
    apply(&mut r, 2, Event::Operation(prepare));
    apply(&mut r, 2, Event::Done(StepResult::Plain));
    assert_eq!(r.work.as_ref().map(|work| work.kind), Some(WorkKind::Prepare));
}

#[test]
fn a_planned_failover_compares_where_tracking_was_lost_before_it() {
    let mut r = primary();
    r.resync = Some("a crash".into());
    preparing(&mut r);
    assert_eq!(step(&r), "cut and compare");
}

#[test]
fn a_planned_failover_that_finds_tracking_lost_cuts_anew_and_compares_and_only_once() {
    for stage in ["cut", "ship"] {
        let mut r = primary();
        (r.latest, r.peer_latest) = (Some(delta(1)), Some(delta(7)));
        preparing(&mut r);
        let old = r.work.as_ref().unwrap().delta().unwrap();
        if stage == "ship" {
            apply(&mut r, 0, Event::Done(StepResult::Bytes { bytes: 1 }));
        }
        assert_eq!(step(&r), stage);
        let fresh = Context { now_ms: 1, utc_offset_min: 0, fresh: uuid::Uuid::from_u128(99) };
        let lost = || Event::Failed(StepFailure::ResyncNeeded("the bitmap is gone".into()));
        let effects = r.apply(fresh, lost()).unwrap();
        assert!(effects.contains(&Effect::Run(Step::Abandon { delta: old })), "{effects:?}");
        let effects = apply(&mut r, 1, Event::Done(StepResult::Plain));
        let anew = model::DeltaId(fresh.fresh);
        let cut = Step::Cut { delta: anew, base: Some(delta(7)), how: crate::CutKind::Compare };
        assert!(effects.contains(&Effect::Run(cut)), "{effects:?}");
        apply(&mut r, 1, Event::Done(StepResult::Bytes { bytes: 1 }));
        apply(&mut r, 1, Event::Failed(StepFailure::ResyncNeeded("the peer stands elsewhere".into())));
        let work = r.work.clone().unwrap();
        assert_eq!((work.kind, step(&r)), (WorkKind::Abandon, "abandon"), "it is taken back");
        let given_up = [old, anew].map(|delta| Step::Abandon { delta });
        assert_eq!(work.plan[..2], given_up);
    }
}

#[test]
fn a_comparison_with_a_state_that_the_peer_left_asks_and_waits_a_moment() {
    let mut r = shipping(WorkKind::Resync);
    let effects = apply(&mut r, 0, Event::Failed(StepFailure::ResyncNeeded("stands elsewhere".into())));
    assert!(effects.contains(&Effect::Greet), "{effects:?}");
    assert_eq!(step(&r), "abandon");
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    assert_eq!((r.state, step(&r)), (S::Resynchronizing, "-"));
    r.peer_latest = Some(delta(9));
    let effects = apply(&mut r, 1_000, Event::Tick);
    let compares =
        |effect: &Effect| matches!(effect, Effect::Run(Step::Cut { base, .. }) if *base == Some(delta(9)));
    assert!(effects.iter().any(compares), "{effects:?}");
}

#[test]
fn what_was_acknowledged_is_what_the_next_comparison_is_made_with() {
    let mut r = shipping(WorkKind::Cycle);
    r.peer_latest = Some(delta(1));
    apply(&mut r, 0, Event::Done(StepResult::Bytes { bytes: 1 }));
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    apply(&mut r, 0, Event::Operation(Operation::UpdateDisks));
    assert_eq!((step(&r), r.state), ("take the disks", S::DiskUpdateInProgress));
    let effects = apply(&mut r, 0, Event::Done(StepResult::Plain));
    let compares =
        |effect: &Effect| matches!(effect, Effect::Run(Step::Cut { base, .. }) if *base == Some(delta(2)));
    assert!(effects.iter().any(compares), "{effects:?}");
}

#[test]
fn an_update_of_the_disks_asks_where_the_peer_stands_and_goes_on() {
    let mut r = shipping(WorkKind::DiskUpdate);
    r.state = S::DiskUpdateInProgress;
    let effects = apply(&mut r, 0, Event::Failed(StepFailure::ResyncNeeded("stands elsewhere".into())));
    assert!(effects.contains(&Effect::Greet), "{effects:?}");
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    assert_eq!((r.state, step(&r)), (S::DiskUpdateInProgress, "-"));
    r.peer_latest = Some(delta(9));
    apply(&mut r, 1_000, Event::Tick);
    assert_eq!(step(&r), "take the disks");
    let compares = |step: &Step| matches!(step, Step::Cut { base, .. } if *base == Some(delta(9)));
    assert!(r.work.as_ref().is_some_and(|work| work.plan.iter().any(compares)));
}

/// A comparison that was suspended while it was sent.
fn resting() -> Relationship {
    let mut r = shipping(WorkKind::Resync);
    (r.state, r.resync) = (S::Resynchronizing, Some("a crash".into()));
    let effects = apply(&mut r, 0, Event::Operation(Operation::Suspend));
    assert_eq!(effects, [Effect::CancelStep]);
    apply(&mut r, 0, Event::Failed(StepFailure::Cancelled));
    assert_eq!((r.state, step(&r)), (S::ResynchronizeSuspended, "ship"));
    r
}

#[test]
fn a_suspended_comparison_goes_on_where_it_stopped_and_not_before_it_is_resumed() {
    let mut r = resting();
    let standing = r.standing(true);
    for event in [Event::Started, Event::Tick, Event::Heard(standing)] {
        let effects = apply(&mut r, 1_000_000, event);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Run(_))), "{effects:?}");
    }
    let effects = apply(&mut r, 2_000_000, Event::Operation(Operation::Resume));
    assert!(effects.contains(&Effect::Run(Step::Ship { delta: delta(2) })), "{effects:?}");
    assert_eq!(r.state, S::Resynchronizing);
}

#[test]
fn a_suspended_comparison_is_given_up_when_it_is_cancelled_or_its_overlays_grow() {
    for (event, state) in [
        (Event::Operation(Operation::CancelResynchronize), S::WaitingForResynchronize),
        (Event::Cancel(Operation::Resynchronize), S::WaitingForResynchronize),
        (Event::Squeezed("full".into()), S::ResynchronizeSuspended),
    ] {
        let mut r = resting();
        let effects = apply(&mut r, 0, event);
        assert!(effects.contains(&Effect::Run(Step::Abandon { delta: delta(2) })), "{effects:?}");
        apply(&mut r, 0, Event::Done(StepResult::Plain));
        assert_eq!((r.state, step(&r)), (state, "-"));
        apply(&mut r, 1, Event::Tick);
        assert_eq!(step(&r), "-", "an operator's word is waited for");
        apply(&mut r, 2, Event::Operation(Operation::Resume));
        assert_eq!(step(&r), "cut and compare");
    }
}

/// A primary whose next cut is to be application-consistent.
fn freezing() -> Relationship {
    let mut r = primary();
    (r.settings.app_consistent_every_s, r.next_cycle_ms) = (3600, 0);
    apply(&mut r, 0, Event::Tick);
    assert!(r.work.as_ref().is_some_and(|work| work.freezes));
    r
}

#[test]
fn a_frozen_cut_makes_an_application_consistent_delta_and_the_next_one_is_due_an_interval_later() {
    let mut r = freezing();
    apply(&mut r, 10, Event::Done(StepResult::Cut { frozen: Some(Ok(())) }));
    apply(&mut r, 20, Event::Done(StepResult::Bytes { bytes: 1 }));
    let s = &r.statistics;
    assert_eq!((s.last_kind, s.last_consistent_ms), (Some(PointKind::ApplicationConsistent), Some(20)));
    assert_eq!((s.consistent_failed, r.next_consistent_ms), (0, 10 + 3_600_000));
    apply(&mut r, 30, Event::Done(StepResult::Plain));
    apply(&mut r, 60_000, Event::Tick);
    assert!(r.work.as_ref().is_some_and(|work| !work.freezes));
    apply(&mut r, 60_000, Event::Done(StepResult::Cut { frozen: None }));
    apply(&mut r, 60_000, Event::Done(StepResult::Bytes { bytes: 1 }));
    let s = &r.statistics;
    assert_eq!((s.last_kind, s.last_consistent_ms), (Some(PointKind::Regular), Some(20)));
}

#[test]
fn a_guest_that_did_not_freeze_is_counted_with_its_reason_until_one_does() {
    let mut r = freezing();
    let silent = Err("no answer".to_owned());
    apply(&mut r, 10, Event::Done(StepResult::Cut { frozen: Some(silent) }));
    assert_eq!(step(&r), "ship");
    assert_eq!(
        (r.statistics.consistent_failed, r.statistics.consistent_failure.as_deref()),
        (1, Some("no answer"))
    );
    assert_eq!(r.next_consistent_ms, 10 + 3_600_000);
    r.reset_statistics(20);
    assert_eq!(
        (r.statistics.consistent_failed, r.statistics.consistent_failure.as_deref()),
        (0, Some("no answer"))
    );
    let mut r = freezing();
    r.statistics.consistent_failure = Some("no answer".into());
    apply(&mut r, 10, Event::Done(StepResult::Cut { frozen: Some(Ok(())) }));
    assert_eq!(r.statistics.consistent_failure, None);
}

#[test]
fn a_guest_that_is_off_is_asked_again_with_the_next_cut() {
    let mut r = freezing();
    apply(&mut r, 10, Event::Done(StepResult::Cut { frozen: None }));
    assert_eq!((r.statistics.consistent_failed, r.next_consistent_ms), (0, 0));
}

#[test]
fn an_unplanned_failover_tells_what_kind_of_point_it_went_to() {
    let mut r = record(Mode::Replica, S::Replicating, Token::Elsewhere { generation: generation(1, "b", 1) });
    apply(&mut r, 0, Event::Operation(Operation::Failover { point: Some(delta(1)), start: false }));
    assert_eq!(step(&r), "make the overlay");
    apply(&mut r, 0, Event::Done(StepResult::Overlay { kind: PointKind::ApplicationConsistent }));
    assert_eq!(r.failed_over.map(|f| f.point_kind), Some(PointKind::ApplicationConsistent));
}

#[test]
fn a_failover_without_a_point_goes_to_the_latest_as_it_begins() {
    let mut r = record(Mode::Replica, S::Replicating, Token::Elsewhere { generation: generation(1, "b", 1) });
    let failover = Operation::Failover { point: None, start: false };
    r.latest = Some(delta(7));
    let effects = apply(&mut r, 0, Event::Operation(failover.clone()));
    let to_latest = |effect: &Effect| matches!(effect, Effect::Run(Step::MakeOverlay { point, .. }) if *point == Some(delta(7)));
    assert!(effects.iter().any(to_latest), "{effects:?}");
    let mut r = record(Mode::Replica, S::Replicating, Token::Elsewhere { generation: generation(1, "b", 1) });
    r.latest = None;
    assert!(r.apply(context(0), Event::Operation(failover)).is_err(), "there is no point");
}

#[test]
fn a_first_copy_onto_a_seed_compares_with_it_and_a_seed_is_no_recovery_point() {
    let mut r = primary();
    (r.state, r.latest, r.seed) = (S::Ready, None, Some(delta(5)));
    apply(&mut r, 0, Event::Operation(Operation::StartReplication));
    assert_eq!(step(&r), "ask the peer to take its seed");
    apply(&mut r, 0, Event::Done(StepResult::Plain));
    let cut = r.work.as_ref().and_then(Work::step);
    assert!(
        matches!(cut, Some(Step::Cut { base, how: plan::CutKind::Compare, .. }) if *base == Some(delta(5)))
    );

    let elsewhere = Token::Elsewhere { generation: generation(1, "a", 1) };
    let mut b = record(Mode::Replica, S::WaitingForInitialReplication, elsewhere);
    b.latest = None;
    apply(&mut b, 0, Event::Operation(Operation::Seed { id: delta(5) }));
    for _ in 0..3 {
        apply(&mut b, 0, Event::Done(StepResult::Plain));
    }
    assert_eq!(
        (b.latest, b.work.is_none(), b.state),
        (Some(delta(5)), true, S::WaitingForInitialReplication)
    );
    let to_the_seed = Operation::Failover { point: Some(delta(5)), start: true };
    assert!(b.permit(&to_the_seed).is_err());
    assert_eq!(apply(&mut b, 0, Event::Operation(Operation::Seed { id: delta(5) })), [], "asked again");
    apply(&mut b, 0, Event::PointReceived { delta: delta(6), kind: PointKind::Regular });
    assert_eq!(b.state, S::Replicating);
}

#[test]
fn a_seed_that_the_peer_refuses_ends_the_start_with_its_reason() {
    let mut r = primary();
    (r.state, r.latest, r.seed) = (S::Ready, None, Some(delta(5)));
    apply(&mut r, 0, Event::Operation(Operation::StartReplication));
    apply(&mut r, 0, Event::Failed(StepFailure::Refused("there is no seed".into())));
    let effects = apply(&mut r, 0, Event::Done(StepResult::Plain));
    assert!(effects.contains(&Effect::Finished { failure: Some("there is no seed".into()) }), "{effects:?}");
    assert_eq!((r.state, r.work.is_none()), (S::Ready, true));
}
