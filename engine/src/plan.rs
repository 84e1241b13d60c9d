//! Plans: multi-step operations as data. Every step is idempotent and the record that names the next one is
//! durable before it is carried out, so that a crash anywhere repeats one step and goes on.
//!
//! The order inside each plan is what keeps the three rules: a token is released before it is offered,
//! taken before the domain is defined; an overlay is made before the token is claimed; lists are recorded
//! before points are hidden; a peer is adopted before anything is shipped to it.

use crate::{Operation, Relationship, Settings};
use model::{DeltaId, Generation, HostName, Mode, PointKind, ReplicationState};
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
    /// What differs from the state that the peer has, both read from the disks whatever is known of them.
    Scrub,
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
    /// The host that points were forwarded to, which has `base`, is the peer from now on.
    Repeer {
        peer: HostName,
        base: DeltaId,
        settings: Box<Settings>,
    },

    // Turns: cut, ship, settle.
    /// Take another set of disks into the records of both hosts.
    TakeDisks,
    Cut {
        delta: DeltaId,
        base: Option<DeltaId>,
        how: CutKind,
    },
    Ship {
        delta: DeltaId,
    },
    /// Instead of shipping: write the delta to files.
    Export {
        delta: DeltaId,
    },
    Settle {
        delta: DeltaId,
    },
    Abandon {
        delta: DeltaId,
    },
    /// Send a point that is kept here to a peer that has `base`: what differs.
    SendPoint {
        point: DeltaId,
        base: DeltaId,
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
        #[serde(default)]
        keep: bool,
    },
    AskFailover {
        start: bool,
    },
    AskSeed {
        id: DeltaId,
    },
    AskYield,
    AskFeed {
        base: DeltaId,
        #[serde(default)]
        point: Option<DeltaId>,
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
                | Self::Repeer { .. }
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
            Self::Repeer { .. } => "make the third host the peer",
            Self::TakeDisks => "take the disks",
            Self::Cut { how: CutKind::Incremental, .. } => "cut",
            Self::Cut { how: CutKind::Full, .. } => "cut everything",
            Self::Cut { how: CutKind::Compare, .. } => "cut and compare",
            Self::Cut { how: CutKind::Scrub, .. } => "cut and read everything",
            Self::Ship { .. } => "ship",
            Self::Export { .. } => "export",
            Self::Settle { .. } => "settle",
            Self::Abandon { .. } => "abandon",
            Self::SendPoint { .. } => "send the point",
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
            Self::AskSeed { .. } => "ask the peer to take its seed",
            Self::AskYield => "ask the peer to become the replica",
            Self::AskFeed { .. } => "ask the peer to send",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkKind {
    FirstCopy,
    Export,
    Cycle,
    Resync,
    Scrub,
    DiskUpdate,
    Abandon,
    Prepare,
    CancelPrepare,
    Failover,
    PlannedFailover,
    Revert,
    Commit,
    Reverse,
    ChangeToPrimary,
    Seed,
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
            Self::Export => "export of the first copy",
            Self::Cycle => "cycle",
            Self::Resync => "resynchronization",
            Self::Scrub => "scrub",
            Self::DiskUpdate => "update of the disks",
            Self::Abandon => "clean-up of a cut",
            Self::Prepare => "planned failover",
            Self::CancelPrepare => "cancelling a planned failover",
            Self::Failover => "failover",
            Self::PlannedFailover => "planned failover",
            Self::Revert => "revert",
            Self::Commit => "commit",
            Self::Reverse => "reverse",
            Self::ChangeToPrimary => "becoming the primary of the third host",
            Self::Seed => "taking the seed",
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
        matches!(
            self,
            Self::FirstCopy | Self::Export | Self::Cycle | Self::Resync | Self::Scrub | Self::DiskUpdate
        )
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
    /// An operator cancelled it: it ends as soon as it can, and is not begun again.
    #[serde(default)]
    pub cancelled: bool,
    /// The state to go back to when the operation is refused.
    pub before: ReplicationState,
    /// Why it is being undone, or what went wrong on the way without stopping it.
    pub failure: Option<String>,
    /// The guest ran when this began.
    pub guest_ran: bool,
    /// The cut shall be application-consistent.
    #[serde(default)]
    pub freezes: bool,
    /// The turn had to wait for others.
    #[serde(default)]
    pub waited: bool,
    /// What kind of point the cut makes, or the overlay stands on, once that is known.
    #[serde(default)]
    pub point_kind: Option<PointKind>,
}

impl Work {
    pub fn new(kind: WorkKind, before: ReplicationState, plan: Vec<Step>) -> Self {
        Self {
            kind,
            plan,
            at: 0,
            waits: false,
            cancelled: false,
            before,
            failure: None,
            guest_ran: false,
            freezes: false,
            waited: false,
            point_kind: None,
        }
    }

    pub fn step(&self) -> Option<&Step> {
        self.plan.get(self.at)
    }

    /// The delta of a turn.
    pub fn delta(&self) -> Option<DeltaId> {
        let cut = |step: &Step| if let Step::Cut { delta, .. } = step { Some(*delta) } else { None };
        let given_up = |step: &Step| if let Step::Abandon { delta } = step { Some(*delta) } else { None };
        self.plan.iter().find_map(cut).or_else(|| self.plan.iter().find_map(given_up))
    }

    /// Cuts anew under the id `fresh` by comparing, where tracking turns out to be lost on the way of a plan that
    /// cannot be begun anew as a turn can: nothing has reached the peer. False when it compares already.
    pub fn compare_instead(&mut self, fresh: DeltaId, peer_has: Option<DeltaId>) -> bool {
        let incremental = |step: &Step| matches!(step, Step::Cut { how: CutKind::Incremental, .. });
        let Some(at) = self.plan.iter().position(incremental) else { return false };
        let Some(old) = self.delta() else { return false };
        for step in &mut self.plan[at..] {
            match step {
                Step::Cut { delta, base, how } => {
                    (*delta, *base, *how) = (fresh, peer_has, CutKind::Compare);
                }
                Step::Ship { delta } | Step::Settle { delta } => *delta = fresh,
                _ => {}
            }
        }
        self.plan.insert(at, Step::Abandon { delta: old });
        self.at = at;
        true
    }

    /// Has the delta arrived where it is durable.
    pub fn delivered(&self) -> bool {
        self.passed(|step| matches!(step, Step::Ship { .. } | Step::Export { .. }))
    }

    /// Has this step been passed.
    pub fn passed(&self, step: impl Fn(&Step) -> bool) -> bool {
        self.plan[..self.at.min(self.plan.len())].iter().any(step)
    }
}

pub fn turn(kind: WorkKind, before: ReplicationState, delta: DeltaId, base: Option<DeltaId>) -> Work {
    let how = match kind {
        WorkKind::FirstCopy | WorkKind::Export => CutKind::Full,
        WorkKind::Resync | WorkKind::DiskUpdate => CutKind::Compare,
        WorkKind::Scrub => CutKind::Scrub,
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

/// Everything, or what differs from the seed that the peer has.
fn first_copy(r: &Relationship, delta: DeltaId) -> Work {
    let mut work = turn(WorkKind::FirstCopy, r.state, delta, r.seed);
    if let (Some(id), Some(Step::Cut { how, .. })) = (r.seed, work.plan.first_mut()) {
        *how = CutKind::Compare;
        work.plan.insert(0, Step::AskSeed { id });
    }
    work
}

/// All disks in one cut, so that the point holds the new one, too, at the same instant; what the peer has of the
/// others is known by their digests.
pub fn disk_update(delta: DeltaId, base: Option<DeltaId>) -> Work {
    let mut work = turn(WorkKind::DiskUpdate, ReplicationState::DiskUpdateInProgress, delta, base);
    work.plan.insert(0, Step::TakeDisks);
    work
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
        Operation::StartReplication if r.is_extended() => r.first_forward(),
        Operation::StartReplication => Some(first_copy(r, delta)),
        Operation::Export => {
            let cut = Step::Cut { delta, base: None, how: CutKind::Full };
            work(WorkKind::Export, vec![cut, Step::Export { delta }, Step::Settle { delta }])
        }
        Operation::Scrub => Some(turn(WorkKind::Scrub, r.state, delta, r.latest)),
        Operation::Seed { id } => {
            let id = *id;
            work(WorkKind::Seed, vec![Step::Undefine, Step::Rehash { id }, Step::Adopt { id }])
        }
        Operation::Failover { point, start } => {
            let offered = matches!(r.token, crate::Token::Offered { .. });
            let right = if offered { Step::Take } else { Step::Claim(to(&r.host, 1)) };
            let mut plan = take_over(Some(point.or(r.latest)?), overlay, right, *start);
            plan.push(Step::Set(S::Recovered));
            work(WorkKind::Failover, plan)
        }
        Operation::Prepare { force, then_fail_over, .. } => {
            let (base, how) = match &r.resync {
                None => (r.latest, CutKind::Incremental),
                Some(_) => (r.peer_latest.or(r.latest), CutKind::Compare),
            };
            let mut plan = vec![
                Step::StopGuest { force: *force },
                Step::Cut { delta, base, how },
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
            let mut plan = vec![Step::AskPrepare { force: false, keep: false }];
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
        Operation::Revert => work(WorkKind::Revert, revert(r, to(&r.gives_back_to(), 1))),
        Operation::Commit => {
            work(WorkKind::Commit, vec![Step::RecordLists, Step::HidePoints, Step::Set(S::Committed)])
        }
        Operation::Reverse => {
            let mut plan = vec![Step::AskYield];
            plan.extend(promotion());
            plan.push(Step::Set(S::Replicating));
            work(WorkKind::Reverse, plan)
        }
        Operation::ChangeToPrimary { peer, base, settings } => {
            let repeer = Step::Repeer { peer: peer.clone(), base: *base, settings: settings.clone() };
            let [lists, hide, promote, become_primary] = promotion();
            let set = Step::Set(S::Replicating);
            work(WorkKind::ChangeToPrimary, vec![lists, hide, promote, repeer, become_primary, set])
        }
        Operation::Feed { base, point } => {
            let mut plan: Vec<Step> =
                point.map(|point| Step::SendPoint { point, base: *base }).into_iter().collect();
            if r.mode != Mode::Primary {
                plan.extend(promotion());
            }
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
                _ if r.mode.is_replica() => {
                    let mut plan = vec![Step::DestroyVm, Step::RecordLists, Step::HidePoints, Step::Promote];
                    plan.extend(become_replica(delta, S::WaitingForInitialReplication));
                    plan
                }
                _ => become_replica(delta, S::WaitingForInitialReplication),
            };
            work(WorkKind::Yield, plan)
        }
        Operation::Failback { point } => {
            let mut plan = become_replica(delta, S::FailbackInProgress);
            plan.push(Step::AskFeed { base: delta, point: *point });
            work(WorkKind::Failback, plan)
        }
        Operation::CompleteFailback { point, force } => {
            let point = point.or(r.comes_home_as_of);
            let mut plan = vec![Step::AskPrepare { force: *force, keep: point.is_some() }];
            plan.extend(take_over(point, overlay, Step::Take, true));
            plan.push(Step::AskYield);
            plan.extend(promotion());
            plan.push(Step::Set(S::Replicating));
            work(WorkKind::CompleteFailback, plan)
        }
        Operation::Later { .. }
        | Operation::UpdateDisks
        | Operation::CancelStart
        | Operation::Suspend
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
