//! Scrub: a turn that reads all of both hosts' disks, and sends what differs although nothing said so. To the replica
//! it is a delta like any other: the state stays `replicating`, and whatever an operator asks goes first.

use crate::{Context, Operation, Relationship};
use model::{Mode, Repaired, ReplicationState as S};

impl Relationship {
    /// The first one comes a whole period after replication began.
    pub(crate) fn reckon_scrub(&mut self, now_ms: i64) {
        let sends = self.mode == Mode::Primary && self.state == S::Replicating;
        if self.next_scrub_ms == 0 && sends {
            self.put_scrub_off(now_ms);
        }
    }

    pub(crate) fn put_scrub_off(&mut self, now_ms: i64) {
        let every_ms = i64::from(self.settings.scrub_every_s) * 1000;
        self.next_scrub_ms = if every_ms > 0 { now_ms + every_ms } else { 0 };
    }

    /// May one begin now by itself.
    pub fn scrub_is_due(&self, ctx: Context) -> bool {
        self.next_scrub_ms > 0
            && self.work.is_none()
            && ctx.now_ms >= self.next_scrub_ms
            && self.window_is_open(ctx)
            && self.permit(&Operation::Scrub).is_ok()
    }

    pub(crate) fn note_scrub(&mut self, repaired: Repaired, now_ms: i64) {
        self.statistics.last_scrub_ms = Some(now_ms);
        self.statistics.repaired.add(repaired);
        self.put_scrub_off(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CutKind, Effect, Event, Refusal, Settings, Step, StepFailure, StepResult, Token, Window, WorkKind,
        plan::Work, testing::*,
    };

    const HOUR_MS: i64 = 3_600_000;

    fn primary() -> Relationship {
        let token = Token::Held { generation: generation(1, "a", 1), acknowledged: true };
        let mut r = record(Mode::Primary, S::Replicating, token);
        r.next_cycle_ms = i64::MAX;
        r
    }

    fn apply(r: &mut Relationship, now_ms: i64, event: Event) -> Vec<Effect> {
        r.apply(context(now_ms), event).unwrap()
    }

    fn kind(r: &Relationship) -> Option<WorkKind> {
        r.work.as_ref().map(|work| work.kind)
    }

    fn every_hour(r: &mut Relationship, now_ms: i64) {
        r.configure(Settings { scrub_every_s: 3600, ..r.settings.clone() }, now_ms);
        r.next_cycle_ms = i64::MAX;
    }

    #[test]
    fn a_scrub_reads_everything_and_says_what_it_repaired() {
        let mut r = primary();
        let effects = apply(&mut r, 5, Event::Operation(Operation::Scrub));
        let cut = |effect: &Effect| matches!(effect, Effect::Run(Step::Cut { base, how: CutKind::Scrub, .. }) if *base == Some(delta(1)));
        assert!(effects.iter().any(cut), "{effects:?}");
        assert_eq!((kind(&r), r.state), (Some(WorkKind::Scrub), S::Replicating));
        let sent = r.work.as_ref().and_then(Work::delta);
        apply(&mut r, 6, Event::Done(StepResult::Cut { frozen: None }));
        let repaired = Repaired { changed_on_primary: 2, damaged_on_replica: 1 };
        apply(&mut r, 7, Event::Done(StepResult::Scrubbed { bytes: 9, repaired }));
        let effects = apply(&mut r, 8, Event::Done(StepResult::Plain));
        assert!(effects.contains(&Effect::Finished { failure: None }), "{effects:?}");
        assert_eq!((r.latest, r.state, kind(&r)), (sent, S::Replicating, None));
        let s = &r.statistics;
        assert_eq!((s.repaired, s.last_scrub_ms, s.sent_bytes, s.cycles_missed), (repaired, Some(7), 9, 0));
        assert_eq!(r.next_cycle_ms, 8 + 30_000, "a scrub is a cycle, too");
        r.reset_statistics(9);
        assert_eq!((r.statistics.repaired, r.statistics.last_scrub_ms), (Repaired::default(), Some(7)));
    }

    #[test]
    fn it_begins_by_itself_a_period_after_the_last_one_and_within_its_part_of_the_day() {
        let mut r = primary();
        apply(&mut r, 0, Event::Tick);
        assert_eq!((kind(&r), r.next_scrub_ms), (None, 0), "off by default");
        every_hour(&mut r, 0);
        r.settings.resync_window = Window { start_min: 90, end_min: 120 };
        apply(&mut r, HOUR_MS, Event::Tick);
        assert_eq!(kind(&r), None, "outside its window");
        apply(&mut r, HOUR_MS * 3 / 2, Event::Tick);
        assert_eq!(kind(&r), Some(WorkKind::Scrub));
        apply(&mut r, HOUR_MS * 3 / 2, Event::Done(StepResult::Cut { frozen: None }));
        let repaired = Repaired::default();
        apply(&mut r, HOUR_MS * 2, Event::Done(StepResult::Scrubbed { bytes: 0, repaired }));
        assert_eq!(r.next_scrub_ms, HOUR_MS * 3);
        r.configure(Settings { scrub_every_s: 0, ..r.settings.clone() }, HOUR_MS * 2);
        apply(&mut r, HOUR_MS * 2, Event::Done(StepResult::Plain));
        r.next_cycle_ms = i64::MAX;
        apply(&mut r, HOUR_MS * 25, Event::Tick);
        assert_eq!(kind(&r), None, "turned off");
    }

    #[test]
    fn the_first_one_of_a_new_protection_waits_for_a_period() {
        let mut r = primary();
        r.settings.scrub_every_s = 3600;
        apply(&mut r, HOUR_MS, Event::Tick);
        assert_eq!((kind(&r), r.next_scrub_ms), (None, 2 * HOUR_MS));
    }

    #[test]
    fn cancelled_it_waits_for_the_next_time_and_made_way_it_begins_again() {
        for (cancelled, again) in [(true, false), (false, true)] {
            let mut r = primary();
            every_hour(&mut r, 0);
            apply(&mut r, HOUR_MS, Event::Tick);
            let asked = match cancelled {
                true => Event::Cancel(Operation::Scrub),
                false => Event::Operation(Operation::Suspend),
            };
            assert_eq!(apply(&mut r, HOUR_MS, asked), [Effect::CancelStep]);
            apply(&mut r, HOUR_MS, Event::Failed(StepFailure::Cancelled));
            apply(&mut r, HOUR_MS, Event::Done(StepResult::Plain));
            if r.state == S::Suspended {
                apply(&mut r, HOUR_MS, Event::Operation(Operation::Resume));
                r.next_cycle_ms = i64::MAX;
            }
            apply(&mut r, HOUR_MS, Event::Tick);
            assert_eq!(kind(&r) == Some(WorkKind::Scrub), again);
            assert_eq!((r.state, r.statistics.last_scrub_ms), (S::Replicating, None));
        }
    }

    #[test]
    fn what_is_to_be_compared_anyway_or_elsewhere_is_not_scrubbed() {
        let mut r = primary();
        (r.resync, r.state) = (Some("a crash".into()), S::WaitingForResynchronize);
        assert!(r.permit(&Operation::Scrub).is_err());
        r.state = S::Replicating;
        assert!(matches!(r.permit(&Operation::Scrub), Err(Refusal::Because(_))));
        r.resync = None;
        assert_eq!(r.permit(&Operation::Scrub), Ok(()));
        r.mode = Mode::Replica;
        assert_eq!(r.permit(&Operation::Scrub), Err(Refusal::WrongHost));
    }

    #[test]
    fn lost_tracking_turns_a_scrub_into_a_comparison() {
        let mut r = primary();
        apply(&mut r, 0, Event::Operation(Operation::Scrub));
        apply(&mut r, 0, Event::Failed(StepFailure::ResyncNeeded("no bitmap".into())));
        apply(&mut r, 0, Event::Done(StepResult::Plain));
        assert_eq!((kind(&r), r.state), (Some(WorkKind::Resync), S::Resynchronizing));
    }
}
