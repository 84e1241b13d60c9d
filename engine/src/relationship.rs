//! The record of one VM's relationship on one host: everything that the engine remembers, persisted as a
//! whole after every event that changed it.

use crate::{
    Interval, Scheduled, Token,
    plan::Work,
    retry::Retry,
    standing::{Standing, TokenKind},
};
use model::{
    Authentication, BandwidthWindow, DeltaId, Generation, HostName, Mode, PointKind, Repaired,
    ReplicationState, Tier, VmId,
};
use serde::{Deserialize, Serialize};

/// Index of the relationship between a VM's primary and its replica.
pub const PRIMARY: u16 = 0;
/// Index of the relationship through which a replica forwards what it received to a third host.
pub const EXTENDED: u16 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relationship {
    pub vm: VmId,
    /// [`PRIMARY`] or [`EXTENDED`].
    #[serde(default)]
    pub index: u16,
    pub name: String,
    pub host: HostName,
    pub peer: HostName,
    /// Hosts that were the peer before. They are still told who may run the VM.
    #[serde(default)]
    pub former_peers: Vec<HostName>,
    /// Of an extended relationship's sender: primary.
    pub mode: Mode,
    pub state: ReplicationState,
    pub token: Token,
    pub settings: Settings,
    /// Primary: the last delta that the peer acknowledged. Replica: the newest durable point.
    pub latest: Option<DeltaId>,
    /// The newest durable point of a replica, as it told us last: what a comparison is made with, since an
    /// acknowledgement that was lost leaves `latest` behind.
    pub peer_latest: Option<DeltaId>,
    /// What a copy of the disks that stood on the replica's host before became there: the first turn compares
    /// with it. No recovery point, because it is no cut of this VM.
    #[serde(default)]
    pub seed: Option<DeltaId>,
    /// Extended: the newest point of this host, which the next turn forwards.
    #[serde(default)]
    pub source: Option<DeltaId>,
    /// The first copy that was written to files, until the replica says that it has imported it.
    #[serde(default)]
    pub exported: Option<DeltaId>,
    /// What begins by itself later.
    #[serde(default)]
    pub scheduled: Option<Scheduled>,
    /// A required resynchronization waits for its part of the day.
    #[serde(default)]
    pub awaits_window: bool,
    /// The multi-step operation under way.
    pub work: Option<Work>,
    /// An operation that waits for the turn under way to stop.
    pub waiting: Option<crate::Operation>,
    /// Whom the last failover here took the right to run from.
    #[serde(default)]
    pub taken_from: Option<HostName>,
    /// The peer's point with which the failback under way was begun.
    #[serde(default)]
    pub comes_home_as_of: Option<DeltaId>,
    /// What the VM wrote here last, before it is handed over, stays a point until an operator drops it.
    #[serde(default)]
    pub keeps_last: bool,
    /// Set from a failover until its overlay is merged down.
    pub failed_over: Option<FailedOver>,
    /// Why deltas cannot simply go on; the next turn compares.
    pub resync: Option<String>,
    pub superseded: Option<Superseded>,
    /// The state to return to from `suspended`, and where a failure stopped us.
    pub resume_to: Option<ReplicationState>,
    pub retry: Retry,
    pub next_cycle_ms: i64,
    /// From when on a cut asks the guest to freeze its file systems.
    #[serde(default)]
    pub next_consistent_ms: i64,
    /// From when on a scrub begins by itself; 0: not reckoned yet.
    #[serde(default)]
    pub next_scrub_ms: i64,
    pub statistics: Statistics,
    /// Should the VM run here: what an operator or a failover asked last.
    pub wants_running: bool,
    /// Overlays are numbered, so that a repeated failover never meets an old file.
    pub overlays: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub interval_s: u32,
    pub history: u8,
    pub history_every_s: u32,
    /// Points that are kept besides the history.
    #[serde(default)]
    pub tiers: Vec<Tier>,
    pub bandwidth_bytes_per_s: Option<u64>,
    /// At these times there is another limit than that.
    #[serde(default)]
    pub bandwidth_windows: Vec<BandwidthWindow>,
    /// Start a required resynchronisation without asking.
    pub auto_resynchronize: bool,
    /// How often the guest's file systems are frozen for a cut; 0: never.
    #[serde(default)]
    pub app_consistent_every_s: u32,
    /// How often the replica boots its latest point to see that it lives; 0: never by itself.
    #[serde(default)]
    pub drill_every_s: u32,
    /// How often both hosts' disks are read and compared; 0: never by itself.
    #[serde(default)]
    pub scrub_every_s: u32,
    /// How both hosts prove to each other who they are, in both directions.
    #[serde(default)]
    pub authentication: Authentication,
    /// When it may start by itself.
    #[serde(default)]
    pub resync_window: Window,
    /// Spend processor time on a narrower stream where the link is what is slow.
    #[serde(default = "compresses")]
    pub compress: bool,
    /// Reach the other host without the proxy that this host has.
    #[serde(default)]
    pub bypass_proxy: bool,
}

/// Of records from before it could be turned off.
fn compresses() -> bool {
    true
}

/// A part of each day, in local time: minutes after midnight. Over midnight where the end is earlier than the
/// start; the whole day where they are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub start_min: u16,
    pub end_min: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedOver {
    pub point: DeltaId,
    /// Number of the overlay.
    pub overlay: u32,
    pub kind: FailoverType,
    pub point_kind: PointKind,
    pub at_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverType {
    Planned,
    Unplanned,
}

/// The peer took the token without asking us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    pub by: Generation,
    /// When we learnt of it.
    pub at_ms: i64,
    /// Did our VM run until then.
    pub was_running: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    pub cycles_succeeded: u64,
    pub cycles_missed: u64,
    pub cycles_failed: u64,
    /// Turns that waited until others let them through, here or at the peer.
    #[serde(default)]
    pub cycles_waited: u64,
    pub sent_bytes: u64,
    pub last_cycle_bytes: u64,
    pub last_cycle_ms: u64,
    pub last_success_ms: Option<i64>,
    pub cycle_started_ms: Option<i64>,
    /// When an operator reset the counters; `None`: they count from the relationship's beginning.
    #[serde(default)]
    pub reset_ms: Option<i64>,
    /// Cuts that should have been application-consistent and were not.
    #[serde(default)]
    pub consistent_failed: u64,
    /// Why the last one was not; `None` since one was.
    #[serde(default)]
    pub consistent_failure: Option<String>,
    /// When the last application-consistent delta was acknowledged or received.
    #[serde(default)]
    pub last_consistent_ms: Option<i64>,
    /// Of the last delta that was acknowledged or received.
    #[serde(default)]
    pub last_kind: Option<PointKind>,
    /// When the last scrub was through.
    #[serde(default)]
    pub last_scrub_ms: Option<i64>,
    /// What all scrubs have found.
    #[serde(default)]
    pub repaired: Repaired,
    /// The monitoring interval under way.
    #[serde(default)]
    pub interval: Interval,
    /// The one before it.
    #[serde(default)]
    pub last_interval: Option<Interval>,
}

impl Relationship {
    pub fn primary(vm: VmId, name: String, host: HostName, peer: HostName, settings: Settings) -> Self {
        let generation = Generation::first(host.clone());
        Self::new(
            vm,
            name,
            host,
            peer,
            settings,
            Mode::Primary,
            Token::Held { generation, acknowledged: false },
        )
    }

    pub fn replica(
        vm: VmId,
        name: String,
        host: HostName,
        peer: HostName,
        settings: Settings,
        generation: Generation,
    ) -> Self {
        Self::new(vm, name, host, peer, settings, Mode::Replica, Token::Elsewhere { generation })
    }

    /// The record of a replica that begins to forward its points to `peer`.
    pub fn extended(replica: &Self, peer: HostName, settings: Settings) -> Self {
        let mut record = Self::new(
            replica.vm,
            replica.name.clone(),
            replica.host.clone(),
            peer,
            settings,
            Mode::Primary,
            replica.token.clone(),
        );
        record.index = EXTENDED;
        record.source = replica.forwardable();
        record.wants_running = false;
        record
    }

    fn new(
        vm: VmId,
        name: String,
        host: HostName,
        peer: HostName,
        settings: Settings,
        mode: Mode,
        token: Token,
    ) -> Self {
        let state = match mode {
            Mode::Primary => ReplicationState::Ready,
            _ => ReplicationState::WaitingForInitialReplication,
        };
        Self {
            vm,
            index: PRIMARY,
            name,
            host,
            peer,
            former_peers: vec![],
            mode,
            state,
            token,
            settings,
            latest: None,
            peer_latest: None,
            seed: None,
            source: None,
            exported: None,
            scheduled: None,
            awaits_window: false,
            work: None,
            waiting: None,
            taken_from: None,
            comes_home_as_of: None,
            keeps_last: false,
            failed_over: None,
            resync: None,
            superseded: None,
            resume_to: None,
            retry: Retry::default(),
            next_cycle_ms: 0,
            next_consistent_ms: 0,
            next_scrub_ms: 0,
            statistics: Statistics::default(),
            wants_running: mode == Mode::Primary,
            overlays: 0,
        }
    }

    /// Begins to count anew. What is no counter, such as when the last success was, stays.
    pub fn reset_statistics(&mut self, now_ms: i64) {
        let s = std::mem::take(&mut self.statistics);
        self.statistics = Statistics {
            last_success_ms: s.last_success_ms,
            cycle_started_ms: s.cycle_started_ms,
            consistent_failure: s.consistent_failure,
            last_consistent_ms: s.last_consistent_ms,
            last_kind: s.last_kind,
            last_scrub_ms: s.last_scrub_ms,
            interval: Interval { began_ms: now_ms, ..Interval::default() },
            reset_ms: Some(now_ms),
            ..Statistics::default()
        };
    }

    /// A delta is durable on the replica.
    pub(crate) fn note_delta(&mut self, kind: PointKind, now_ms: i64) {
        self.statistics.last_kind = Some(kind);
        if kind == PointKind::ApplicationConsistent {
            self.statistics.last_consistent_ms = Some(now_ms);
        }
    }

    /// The turn under way waits for others, which is no failure; counted once a turn.
    pub fn note_wait(&mut self) {
        let Some(turn) = self.work.as_mut().filter(|work| work.kind.is_turn()) else { return };
        if !std::mem::replace(&mut turn.waited, true) {
            self.statistics.cycles_waited += 1;
        }
    }

    /// Other settings from now on: a shorter interval moves the next cycle forward.
    pub fn configure(&mut self, settings: Settings, now_ms: i64) {
        self.next_cycle_ms = self.next_cycle_ms.min(now_ms + i64::from(settings.interval_s) * 1000);
        self.next_consistent_ms =
            self.next_consistent_ms.min(now_ms + i64::from(settings.app_consistent_every_s) * 1000);
        if settings.scrub_every_s != self.settings.scrub_every_s {
            let last_ms = self.statistics.last_scrub_ms.unwrap_or(now_ms);
            self.next_scrub_ms = match i64::from(settings.scrub_every_s) * 1000 {
                0 => 0,
                every_ms => last_ms + every_ms,
            };
        }
        self.settings = settings;
    }

    /// May this host define and run the VM now.
    pub fn may_run(&self) -> bool {
        self.token.is_held()
    }

    /// Does this relationship forward what the host received as a replica. Its token is a copy of the one in
    /// relationship 0, which alone decides.
    pub fn is_extended(&self) -> bool {
        self.index == EXTENDED
    }

    /// May deltas be sent now: of what runs here by the holder of the token only, of received points always.
    pub(crate) fn may_send(&self) -> bool {
        self.is_extended() || self.token.is_held()
    }

    pub fn standing(&self, running: bool) -> Standing {
        let token = match self.token {
            Token::Held { .. } => TokenKind::Held,
            Token::Released { .. } => TokenKind::Released,
            Token::Offered { .. } => TokenKind::Offered,
            Token::Elsewhere { .. } => TokenKind::Elsewhere,
        };
        Standing {
            generation: self.token.generation().clone(),
            token,
            // Whoever forwards is a replica itself.
            mode: if self.is_extended() { Mode::Replica } else { self.mode },
            state: self.state,
            latest: self.latest,
            running,
        }
    }
}
