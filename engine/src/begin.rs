//! Ways to begin other than at once and over the network: a first copy that is written to files and imported
//! over there, and what was put off until a later time.
//!
//! ```text
//!  ready ─export─▶ waiting, copy under way ─▶ waiting, exported ─the replica says that it has it─▶ replicating
//!    ▲                      │ cancel                  │ cancel
//!    └──────────────────────┴─────────────────────────┘
//! ```
//!
//! What the VM writes after the exported cut accumulates here, in its tracking, and is sent when the copy was
//! imported: nothing has to wait at a replica that cannot use it yet.

use crate::{Context, Effect, Operation, Relationship, Standing, Window};
use model::{Mode, ReplicationState as S};
use serde::{Deserialize, Serialize};

/// An operation that begins by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    pub at_ms: i64,
    pub operation: Operation,
}

const DAY_MIN: i64 = 24 * 60;

impl Window {
    /// `minute`: of any day.
    pub fn contains(self, minute: i64) -> bool {
        let at = |of_day: u16| i64::from(of_day);
        let since_start = (minute - at(self.start_min)).rem_euclid(DAY_MIN);
        let length = (at(self.end_min) - at(self.start_min)).rem_euclid(DAY_MIN);
        length == 0 || since_start < length
    }
}

impl Relationship {
    /// The replica says what it has: the copy that was exported, once it is imported.
    pub(crate) fn hear_of_import(&mut self, ctx: Context, theirs: &Standing) {
        let Some(exported) = self.exported else { return };
        let Some(latest) = theirs.latest.filter(|_| theirs.mode == Mode::Replica) else { return };
        if self.work.is_some() || self.mode != Mode::Primary || !self.may_run() {
            return;
        }
        if latest != exported {
            self.resync =
                Some("the other host has imported another copy than the last exported one".to_owned());
        }
        self.exported = None;
        self.latest = Some(latest);
        self.state = S::Replicating;
        self.next_cycle_ms = ctx.now_ms;
    }

    /// Does the operation cancel what has not begun. No turn has to stop for that.
    pub(crate) fn is_only_put_off(&self, operation: &Operation) -> bool {
        let put_off = |what| self.scheduled.as_ref().is_some_and(|scheduled| scheduled.operation == what);
        match operation {
            Operation::CancelStart => self.state == S::Ready && put_off(Operation::StartReplication),
            Operation::CancelResynchronize => {
                let compares = matches!(self.state, S::Resynchronizing | S::ResynchronizeSuspended);
                !compares && put_off(Operation::Resynchronize)
            }
            _ => false,
        }
    }

    /// Nothing of a first copy is wanted any more; what is under way was given up before.
    pub(crate) fn cancel_start(&mut self) {
        self.state = S::Ready;
        self.exported = None;
        self.resync = None;
    }

    /// Deltas cannot go on: the disks are compared, now or when it may be.
    pub(crate) fn need_resync(&mut self, ctx: Context) {
        let begins = self.settings.auto_resynchronize && self.window_is_open(ctx);
        self.awaits_window = self.settings.auto_resynchronize && !begins;
        self.state = if begins { S::Resynchronizing } else { S::WaitingForResynchronize };
    }

    pub(crate) fn window_is_open(&self, ctx: Context) -> bool {
        self.settings.resync_window.contains(ctx.now_ms / 60_000 + i64::from(ctx.utc_offset_min))
    }

    /// Begins what was put off until now.
    pub(crate) fn begin_scheduled(&mut self, ctx: Context, effects: &mut Vec<Effect>) {
        if self.awaits_window && self.state == S::WaitingForResynchronize && self.window_is_open(ctx) {
            self.awaits_window = false;
            self.state = S::Resynchronizing;
        }
        let due = self.scheduled.take_if(|scheduled| ctx.now_ms >= scheduled.at_ms);
        let Some(Scheduled { operation, .. }) = due else { return };
        match self.permit(&operation) {
            Ok(()) => self.begin(ctx, operation, effects),
            Err(refusal) => effects.push(Effect::NotBegun { reason: refusal.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, StepFailure, Token, testing::*};

    #[test]
    fn a_window_may_go_over_midnight_and_an_empty_one_is_the_whole_day() {
        let open = |start_min, end_min, minute| Window { start_min, end_min }.contains(minute);
        for (minute, night, noon) in
            [(0, true, false), (359, true, false), (360, false, false), (720, false, true)]
        {
            assert_eq!((open(1110, 360, minute), open(600, 780, minute)), (night, noon), "{minute}");
        }
        assert!(open(1110, 360, 1110) && open(1110, 360, 5 * DAY_MIN - 1) && !open(1110, 360, 1109));
        assert!(open(0, 0, 77) && open(600, 600, 599));
    }

    #[test]
    fn what_is_put_off_is_cancelled_at_once_and_can_be_put_off_anew() {
        let token = Token::Held { generation: generation(1, "a", 1), acknowledged: true };
        let mut r = record(Mode::Primary, S::Replicating, token);
        r.apply(context(1_000), Event::Tick).unwrap();
        assert!(r.work.is_some(), "a cycle is under way");
        let later = |at_ms| {
            Event::Operation(Operation::Later { at_ms, operation: Box::new(Operation::Resynchronize) })
        };
        r.apply(context(1_000), later(5_000)).unwrap();
        let effects = r.apply(context(1_000), Event::Operation(Operation::CancelResynchronize)).unwrap();
        assert_eq!((effects, &r.scheduled, &r.waiting), (vec![], &None, &None));
        r.apply(context(1_000), later(6_000)).unwrap();
        assert_eq!(r.scheduled.as_ref().map(|scheduled| scheduled.at_ms), Some(6_000));

        r.apply(context(1_000), Event::Operation(Operation::Suspend)).unwrap();
        assert!(r.apply(context(1_000), later(7_000)).is_err(), "it would be forgotten");
    }

    #[test]
    fn outside_its_window_a_resynchronization_waits_and_then_begins_by_itself() {
        const MINUTE_MS: i64 = 60_000;
        let token = Token::Held { generation: generation(1, "a", 1), acknowledged: true };
        let mut r = record(Mode::Primary, S::Replicating, token);
        r.next_cycle_ms = i64::MAX;
        r.settings.resync_window = Window { start_min: 18 * 60 + 30, end_min: 6 * 60 };
        // Noon in UTC is 14:00 here.
        let at = |minute: i64| Context { utc_offset_min: 120, ..context(minute * MINUTE_MS) };
        r.apply(at(720), Event::TrackingLost("a crash".into())).unwrap();
        r.apply(at(720), Event::Tick).unwrap();
        assert_eq!((r.state, r.awaits_window, r.work.is_none()), (S::WaitingForResynchronize, true, true));
        r.apply(at(16 * 60 + 29), Event::Tick).unwrap();
        assert_eq!(r.state, S::WaitingForResynchronize);
        r.apply(at(16 * 60 + 30), Event::Tick).unwrap();
        assert_eq!((r.state, r.awaits_window, r.work.is_some()), (S::Resynchronizing, false, true));

        // What begins within it goes on beyond it; cancelled by an operator, it does not begin again by itself.
        r.apply(at(8 * 60), Event::Operation(Operation::CancelResynchronize)).unwrap();
        r.apply(at(8 * 60), Event::Failed(StepFailure::Cancelled)).unwrap();
        r.apply(at(8 * 60), Event::Done(crate::StepResult::Plain)).unwrap();
        r.apply(at(20 * 60), Event::Tick).unwrap();
        assert_eq!((r.state, r.work.is_none()), (S::WaitingForResynchronize, true));
    }
}
