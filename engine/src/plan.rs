//! Plans: multi-step operations as data. Every step is idempotent and the record that names the next one is
//! durable before it is carried out, so that a crash anywhere repeats one step and goes on.
//!
//! The order inside each plan is what keeps the three rules: a token is released before it is offered,
//! taken before the domain is defined; an overlay is made before the token is claimed; lists are recorded
//! before points are hidden; a peer is adopted before anything is shipped to it.

use crate::{Operation, Relationship};
use model::{DeltaId, Generation, Mode, ReplicationState};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutKind {
    /// What changed since the last cut.
    Incremental,
    /// Everything that is not zero.
    Full,
    /// What differs from the state that the peer has.
    Compare,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    // Decided here; take effect with the record itself.
    Set(ReplicationState),
    Become(Mode),
    /// Unplanned: take the right to run without asking.
    Claim(Generation),
    /// Take what the peer released.
    Take,
    Release(Generation),
    /// The peer has durably promised to refuse what we had released.
    Reclaim(Generation),

    // Turns: cut, ship, settle.
    Cut {
        delta: DeltaId,
        base: Option<DeltaId>,
        how: CutKind,
    },
    Ship {
        delta: DeltaId,
    },
    Settle {
        delta: DeltaId,
    },
    Abandon {
        delta: DeltaId,
    },

    // The domain.
    /// Shut the guest down and wait; `force` pulls the plug after the timeout.
    StopGuest {
        force: bool,
    },
    DestroyVm,
    /// Persist what libvirt would forget, then undefine and verify that it is gone.
    Undefine,
    /// Define the domain as it was before [`Step::Undefine`].
    DefineOwn,
    StartVm,
    ResumeVm,

    // Taking over.
    /// `None`: the latest point when the step is reached.
    MakeOverlay {
        point: Option<DeltaId>,
        overlay: u32,
    },
    DefineOverlay,
    /// Make the failed-over point the base of change tracking.
    Track,
    DropOverlay {
        overlay: u32,
    },
    /// Make the cluster lists of everything later than the failed-over point durable.
    RecordLists,
    /// Hide all points but the failed-over one, and drop what only they needed.
    HidePoints,
    /// Turn the store's files into the VM's own disks, with their digest.
    Promote,
    /// Merge the overlay down into the disk's own file.
    Flatten {
        overlay: u32,
    },

    // Becoming a replica in place.
    /// Bring the digest up to the disks' present content, which gets this id.
    Rehash {
        id: DeltaId,
    },
    /// The VM's disks become the bottom layers of a point with this id.
    Adopt {
        id: DeltaId,
    },

    // The peer. Each is repeated until it is answered for good.
    TellRelease,
    TellWithdraw {
        instead: Generation,
    },
    AskPrepare {
        force: bool,
    },
    AskFailover {
        start: bool,
    },
    AskYield,
    AskFeed {
        base: DeltaId,
    },
}

impl Step {
    /// Carried out by the host, not by the record.
    pub fn is_external(&self) -> bool {
        !matches!(
            self,
            Self::Set(_)
                | Self::Become(_)
                | Self::Claim(_)
                | Self::Take
                | Self::Release(_)
                | Self::Reclaim(_)
        )
    }

    /// Only the token's holder may do this.
    pub fn needs_right(&self) -> bool {
        matches!(self, Self::DefineOwn | Self::DefineOverlay | Self::StartVm | Self::ResumeVm | Self::Track)
    }

    /// For logs, job stages and crash histograms.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Set(_) => "set state",
            Self::Become(_) => "set mode",
            Self::Claim(_) => "claim",
            Self::Take => "take",
            Self::Release(_) => "release",
            Self::Reclaim(_) => "reclaim",
            Self::Cut { how: CutKind::Incremental, .. } => "cut",
            Self::Cut { how: CutKind::Full, .. } => "cut everything",
            Self::Cut { how: CutKind::Compare, .. } => "cut and compare",
            Self::Ship { .. } => "ship",
            Self::Settle { .. } => "settle",
            Self::Abandon { .. } => "abandon",
            Self::StopGuest { .. } => "stop the guest",
            Self::DestroyVm => "stop the VM",
            Self::Undefine => "undefine",
            Self::DefineOwn => "define",
            Self::StartVm => "start the VM",
            Self::ResumeVm => "resume the VM",
            Self::MakeOverlay { .. } => "make the overlay",
            Self::DefineOverlay => "define on the overlay",
            Self::Track => "track changes",
            Self::DropOverlay { .. } => "drop the overlay",
            Self::RecordLists => "record cluster lists",
            Self::HidePoints => "hide points",
            Self::Promote => "promote the store",
            Self::Flatten { .. } => "merge the overlay down",
            Self::Rehash { .. } => "read own changes",
            Self::Adopt { .. } => "adopt the disks",
            Self::TellRelease => "hand over",
            Self::TellWithdraw { .. } => "withdraw the hand-over",
            Self::AskPrepare { .. } => "ask the peer to prepare",
            Self::AskFailover { .. } => "ask the peer to take over",
            Self::AskYield => "ask the peer to become the replica",
            Self::AskFeed { .. } => "ask the peer to send",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkKind {
    FirstCopy,
    Cycle,
    Resync,
    Abandon,
    Prepare,
    CancelPrepare,
    Failover,
    PlannedFailover,
    Revert,
    Commit,
    Reverse,
    Yield,
    Feed,
    Failback,
    CompleteFailback,
    TakeBack,
    Flatten,
}

impl WorkKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstCopy => "first copy",
            Self::Cycle => "cycle",
            Self::Resync => "resynchronization",
            Self::Abandon => "clean-up of a cut",
            Self::Prepare => "planned failover",
            Self::CancelPrepare => "cancelling a planned failover",
            Self::Failover => "failover",
            Self::PlannedFailover => "planned failover",
            Self::Revert => "revert",
            Self::Commit => "commit",
            Self::Reverse => "reverse",
            Self::Yield => "becoming the replica",
            Self::Feed => "becoming the primary",
            Self::Failback => "failback",
            Self::CompleteFailback => "completing the failback",
            Self::TakeBack => "taking the VM back",
            Self::Flatten => "merging the failover overlay down",
        }
    }

    /// A cut on its way to the peer: may be given up for something more urgent.
    pub fn is_turn(self) -> bool {
        matches!(self, Self::FirstCopy | Self::Cycle | Self::Resync)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub kind: WorkKind,
    pub plan: Vec<Step>,
    /// Index of the step that is next or under way.
    pub at: usize,
    /// That step has failed and is not under way: it is tried again when the wait of the retry ends.
    #[serde(default)]
    pub waits: bool,
    /// The state to go back to when the operation is refused.
    pub before: ReplicationState,
    /// Why it is being undone, or what went wrong on the way without stopping it.
    pub failure: Option<String>,
    /// The guest ran when this began.
    pub guest_ran: bool,
}

impl Work {
    pub fn new(kind: WorkKind, before: ReplicationState, plan: Vec<Step>) -> Self {
        Self { kind, plan, at: 0, waits: false, before, failure: None, guest_ran: false }
    }

    pub fn step(&self) -> Option<&Step> {
        self.plan.get(self.at)
    }

    /// The delta of a turn.
    pub fn delta(&self) -> Option<DeltaId> {
        self.plan.iter().find_map(|step| match step {
            Step::Cut { delta, .. } | Step::Abandon { delta } => Some(*delta),
            _ => None,
        })
    }

    /// Has this step been passed.
    pub fn passed(&self, step: impl Fn(&Step) -> bool) -> bool {
        self.plan[..self.at.min(self.plan.len())].iter().any(step)
    }
}

pub fn turn(kind: WorkKind, before: ReplicationState, delta: DeltaId, base: Option<DeltaId>) -> Work {
    let how = match kind {
        WorkKind::FirstCopy => CutKind::Full,
        WorkKind::Resync => CutKind::Compare,
        _ => CutKind::Incremental,
    };
    let plan = vec![
        Step::Cut { delta, base, how },
        Step::Ship { delta },
        Step::Settle { delta },
        Step::Set(ReplicationState::Replicating),
    ];
    Work::new(kind, before, plan)
}

/// Making the VM of the failed-over point ours for good, before its changes go the other way.
fn promotion() -> [Step; 4] {
    [Step::RecordLists, Step::HidePoints, Step::Promote, Step::Become(Mode::Primary)]
}

fn take_over(point: Option<DeltaId>, overlay: u32, right: Step, start: bool) -> Vec<Step> {
    let mut plan = vec![
        Step::Set(ReplicationState::FailoverInProgress),
        Step::MakeOverlay { point, overlay },
        right,
        Step::DefineOverlay,
    ];
    if start {
        plan.extend([Step::StartVm, Step::Track]);
    }
    plan
}

/// The plan of an operation that was found to be possible. `fresh`: a delta id and a generation's nonce
/// that were never used.
pub fn plan(relationship: &Relationship, operation: &Operation, fresh: uuid::Uuid) -> Option<Work> {
    use ReplicationState as S;
    let r = relationship;
    let delta = DeltaId(fresh);
    let overlay = r.overlays + 1;
    let to = |owner: &model::HostName, ahead: u64| Generation {
        number: r.token.generation().number + ahead,
        owner: owner.clone(),
        nonce: fresh,
    };
    let work = |kind, plan| Some(Work::new(kind, r.state, plan));
    match operation {
        Operation::StartReplication => Some(turn(WorkKind::FirstCopy, r.state, delta, None)),
        Operation::Failover { point, start } => {
            let offered = matches!(r.token, crate::Token::Offered { .. });
            let right = if offered { Step::Take } else { Step::Claim(to(&r.host, 1)) };
            let mut plan = take_over(Some(*point), overlay, right, *start);
            plan.push(Step::Set(S::Recovered));
            work(WorkKind::Failover, plan)
        }
        Operation::Prepare { force, then_fail_over } => {
            let mut plan = vec![
                Step::StopGuest { force: *force },
                Step::Cut { delta, base: r.latest, how: CutKind::Incremental },
                Step::Ship { delta },
                Step::Settle { delta },
                Step::Undefine,
                Step::Release(to(&r.peer, 1)),
                Step::TellRelease,
                Step::Set(S::SyncedReplicationComplete),
            ];
            plan.extend(then_fail_over.map(|start| Step::AskFailover { start }));
            work(WorkKind::Prepare, plan)
        }
        Operation::PlannedFailover { start } => {
            let mut plan = vec![Step::AskPrepare { force: false }];
            plan.extend(take_over(None, overlay, Step::Take, *start));
            plan.push(Step::Set(S::Recovered));
            work(WorkKind::PlannedFailover, plan)
        }
        Operation::CancelPrepare => {
            let instead = to(&r.host, 1);
            let plan = vec![
                Step::TellWithdraw { instead: instead.clone() },
                Step::Reclaim(instead),
                Step::DefineOwn,
                Step::Set(S::Replicating),
            ];
            work(WorkKind::CancelPrepare, plan)
        }
        Operation::Revert => work(WorkKind::Revert, revert(r, to(&r.peer, 1))),
        Operation::Commit => {
            work(WorkKind::Commit, vec![Step::RecordLists, Step::HidePoints, Step::Set(S::Committed)])
        }
        Operation::Reverse => {
            let mut plan = vec![Step::AskYield];
            plan.extend(promotion());
            plan.push(Step::Set(S::Replicating));
            work(WorkKind::Reverse, plan)
        }
        Operation::Feed { .. } => {
            let mut plan = if r.mode == Mode::Primary { vec![] } else { promotion().to_vec() };
            plan.push(Step::Set(S::Replicating));
            work(WorkKind::Feed, plan)
        }
        Operation::Yield => {
            // After a planned failover nothing ran here since the last delta: that delta is what we have.
            let plan = match (r.state, r.latest) {
                (S::SyncedReplicationComplete, Some(latest)) => {
                    vec![Step::Adopt { id: latest }, Step::Become(Mode::Replica), Step::Set(S::Replicating)]
                }
                // Failed over here, then taken over from there: what the VM wrote is kept as a point.
                _ if r.mode == Mode::Replica => {
                    let mut plan = vec![Step::DestroyVm, Step::RecordLists, Step::HidePoints, Step::Promote];
                    plan.extend(become_replica(delta, S::WaitingForInitialReplication));
                    plan
                }
                _ => become_replica(delta, S::WaitingForInitialReplication),
            };
            work(WorkKind::Yield, plan)
        }
        Operation::Failback => {
            let mut plan = become_replica(delta, S::FailbackInProgress);
            plan.push(Step::AskFeed { base: delta });
            work(WorkKind::Failback, plan)
        }
        Operation::CompleteFailback { point, force } => {
            let mut plan = vec![Step::AskPrepare { force: *force }];
            plan.extend(take_over(*point, overlay, Step::Take, true));
            plan.push(Step::AskYield);
            plan.extend(promotion());
            plan.push(Step::Set(S::Replicating));
            work(WorkKind::CompleteFailback, plan)
        }
        Operation::Suspend
        | Operation::Resume
        | Operation::Resynchronize
        | Operation::CancelResynchronize
        | Operation::CancelFailback => None,
    }
}

fn become_replica(id: DeltaId, state: ReplicationState) -> Vec<Step> {
    vec![
        Step::DestroyVm,
        Step::Rehash { id },
        Step::Undefine,
        Step::Adopt { id },
        Step::Become(Mode::Replica),
        Step::Set(state),
    ]
}

pub(crate) fn revert(r: &Relationship, to: Generation) -> Vec<Step> {
    let mut plan = vec![Step::DestroyVm, Step::Undefine];
    plan.extend(r.failed_over.as_ref().map(|f| Step::DropOverlay { overlay: f.overlay }));
    plan.extend([Step::Release(to), Step::Set(ReplicationState::Replicating)]);
    plan
}
