//! When a plan cannot go on as it was made: taking it back, finding that its goal is reached already, and
//! noticing that the token it rests on has moved.

use crate::{Operation, Relationship, Step, Token, Work, WorkKind, plan::revert};
use model::{DeltaId, Generation, ReplicationState};

/// How a refused operation is taken back, from the step at which it failed; `None`: it cannot be taken
/// back any more and is tried again instead.
pub fn undo(relationship: &Relationship, work: &Work, fresh: uuid::Uuid) -> Option<Vec<Step>> {
    let r = relationship;
    let mut plan = vec![];
    match work.kind {
        WorkKind::Prepare if !work.passed(|step| matches!(step, Step::Release(_))) => {
            let shipped = work.passed(|step| matches!(step, Step::Ship { .. }));
            if shipped && matches!(work.step(), Some(Step::Settle { .. })) {
                return None;
            }
            if work.at >= 1 && !shipped {
                // One that was to be given up for a comparison may still be there.
                plan.extend(work.plan.iter().filter(|step| matches!(step, Step::Abandon { .. })).cloned());
                plan.extend(work.delta().map(|delta| Step::Abandon { delta }));
            }
            if work.at >= 1 && r.may_run() {
                plan.push(Step::DefineOwn);
                plan.extend(work.guest_ran.then_some(Step::StartVm));
            }
        }
        WorkKind::Failover | WorkKind::PlannedFailover | WorkKind::CompleteFailback
            if !work.passed(|step| matches!(step, Step::Claim(_) | Step::Take)) =>
        {
            if work.passed(|step| matches!(step, Step::Set(_))) {
                plan.push(Step::DropOverlay { overlay: r.overlays + 1 });
            }
        }
        WorkKind::Failover if work.passed(|step| matches!(step, Step::Claim(_))) => {
            let to = Generation {
                number: r.token.generation().number + 1,
                owner: r.gives_back_to(),
                nonce: fresh,
            };
            plan = revert(r, to);
            return Some(plan);
        }
        WorkKind::Reverse if work.at == 0 => {}
        WorkKind::CancelPrepare if work.at == 0 => {}
        WorkKind::Failback if work.at == 0 => {}
        // Become a replica already, it stays one.
        WorkKind::Failback if r.waiting == Some(Operation::CancelFailback) => return Some(vec![]),
        WorkKind::Feed if matches!(work.step(), Some(Step::SendPoint { .. })) => {}
        _ => return None,
    }
    plan.push(Step::Set(work.before));
    Some(plan)
}

/// What the peer is asked for may have come about already, and the answer have been lost.
pub fn is_through(relationship: &Relationship, step: &Step) -> bool {
    let token = &relationship.token;
    match step {
        Step::AskPrepare { .. } => matches!(token, Token::Offered { .. }),
        Step::TellRelease | Step::AskFailover { .. } => !matches!(token, Token::Released { .. }),
        Step::AskFeed { base, point } => {
            let latest = relationship.latest;
            latest != Some(*base) && (point.is_none() || latest != *point)
        }
        _ => false,
    }
}

/// The token moved under a plan that rests on it: what is left to do, and why.
pub fn overtaken(relationship: &Relationship) -> Option<(Vec<Step>, &'static str)> {
    const TAKEN: &str = "the other host took over";
    let r = relationship;
    let work = r.work.as_ref()?;
    let passed_ship = work.delivered();
    let released = work.passed(|step| matches!(step, Step::Release(_)));
    let abandon = |delta: DeltaId| vec![Step::Abandon { delta }];
    match (work.kind, work.step()?, &r.token) {
        (_, _, Token::Held { .. }) => None,
        _ if r.is_extended() => None,
        (kind, ..) if kind.is_turn() => {
            work.delta().filter(|_| !passed_ship).map(|delta| (abandon(delta), TAKEN))
        }
        // A shipped delta has to be settled, whoever holds the token.
        (WorkKind::Prepare, Step::Settle { .. }, _) => None,
        (WorkKind::Prepare, ..) if !released => {
            Some((work.delta().filter(|_| !passed_ship).map(abandon).unwrap_or_default(), TAKEN))
        }
        (_, _, Token::Released { .. }) => None,
        (WorkKind::CancelPrepare, Step::TellWithdraw { .. } | Step::Reclaim(_), _) => {
            Some((vec![Step::Set(work.before)], TAKEN))
        }
        (_, Step::AskYield, _) => {
            let state = match work.before {
                ReplicationState::Committed => ReplicationState::Committed,
                _ => ReplicationState::Recovered,
            };
            Some((vec![Step::Set(state)], TAKEN))
        }
        (_, Step::SendPoint { .. }, _) => Some((vec![Step::Set(work.before)], TAKEN)),
        (WorkKind::Failback, Step::AskFeed { .. }, Token::Offered { .. }) => {
            Some((vec![], "the other host gave the VM back: fail over here"))
        }
        (_, Step::Take, Token::Elsewhere { .. }) => {
            let overlay = Step::DropOverlay { overlay: r.overlays + 1 };
            Some((vec![overlay, Step::Set(work.before)], "the hand-over was withdrawn"))
        }
        _ => None,
    }
}
