//! Hyper-V's numbers of events, as the field `event` in the log.

use engine::Relationship;
use model::{Mode, ReplicationState as S};

pub const INTERVAL_CLOSED: u32 = 29174;
pub const RESYNC_BEGAN: u32 = 29242;
pub const RESYNC_ENDED: u32 = 29244;
pub const NOT_REPLICATED: u32 = 32022;
pub const APPLY_FAILED: u32 = 32056;
pub const NEEDS_OPERATOR: u32 = 32086;
pub const WILL_RETRY: u32 = 32315;
pub const OPERATION_FAILED: u32 = 33680;

/// Which events lie between two states of a record, in order.
fn between(before: &Relationship, after: &Relationship) -> Vec<u32> {
    let mut events = vec![];
    let resyncs = |r: &Relationship| r.mode == Mode::Primary && r.state == S::Resynchronizing;
    if !resyncs(before) && resyncs(after) {
        events.push(RESYNC_BEGAN);
    }
    if resyncs(before) && after.state == S::Replicating {
        events.push(RESYNC_ENDED);
    }
    if after.retry.attempts > before.retry.attempts {
        events.push(WILL_RETRY);
    }
    let stuck = |r: &Relationship| matches!(r.state, S::Critical | S::WaitingForResynchronize);
    if !stuck(before) && stuck(after) {
        events.push(NEEDS_OPERATOR);
    }
    events
}

/// Logs what came about.
pub fn tell(before: &Relationship, after: &Relationship) {
    let name = &after.name;
    for event in between(before, after) {
        match event {
            RESYNC_BEGAN => {
                let why = after.resync.as_deref().unwrap_or("asked for");
                tracing::info!(event, vm = %name, why, "resynchronization begins");
            }
            RESYNC_ENDED => tracing::info!(event, vm = %name, "resynchronization has ended"),
            WILL_RETRY => {
                let reason = after.retry.reason.as_deref().unwrap_or_default();
                tracing::warn!(event, vm = %name, attempts = after.retry.attempts, reason, "tried again later");
            }
            _ => tracing::error!(event, vm = %name, state = %after.state, "an operator has to act"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Settings;
    use model::VmId;

    #[test]
    fn a_comparison_a_retry_and_a_standstill_are_told_once() {
        let name = |name: &str| format!("{name}.example").parse().unwrap();
        let settings = Settings { interval_s: 30, ..Settings::default() };
        let mut r = Relationship::primary(VmId::random(), "web".into(), name("a"), name("b"), settings);
        let mut step = |change: &dyn Fn(&mut Relationship)| {
            let before = r.clone();
            change(&mut r);
            between(&before, &r)
        };
        assert_eq!(step(&|r| r.state = S::Replicating), [0; 0]);
        assert_eq!(step(&|r| r.state = S::Resynchronizing), [RESYNC_BEGAN]);
        assert_eq!(step(&|r| r.retry.failed(0, "no route".into())), [WILL_RETRY]);
        assert_eq!(step(&|r| r.state = S::Replicating), [RESYNC_ENDED]);
        assert_eq!(step(&|r| r.state = S::WaitingForResynchronize), [NEEDS_OPERATOR]);
        assert_eq!(step(&|_| {}), [0; 0]);
    }
}
