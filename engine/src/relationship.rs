//! The record of one VM's relationship on one host: everything that the engine remembers, persisted as a
//! whole after every event that changed it.

use crate::{
    Token,
    plan::Work,
    retry::Retry,
    standing::{Standing, TokenKind},
};
use model::{DeltaId, Generation, HostName, Mode, PointKind, ReplicationState, VmId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relationship {
    pub vm: VmId,
    pub name: String,
    pub host: HostName,
    pub peer: HostName,
    pub mode: Mode,
    pub state: ReplicationState,
    pub token: Token,
    pub settings: Settings,
    /// Primary: the last delta that the peer acknowledged. Replica: the newest durable point.
    pub latest: Option<DeltaId>,
    /// The newest durable point of a replica, as it told us last: what a comparison is made with, since an
    /// acknowledgement that was lost leaves `latest` behind.
    pub peer_latest: Option<DeltaId>,
    /// The multi-step operation under way.
    pub work: Option<Work>,
    /// An operation that waits for the turn under way to stop.
    pub waiting: Option<crate::Operation>,
    /// Set from a failover until its overlay is merged down.
    pub failed_over: Option<FailedOver>,
    /// Why deltas cannot simply go on; the next turn compares.
    pub resync: Option<String>,
    pub superseded: Option<Superseded>,
    /// The state to return to from `suspended`, and where a failure stopped us.
    pub resume_to: Option<ReplicationState>,
    pub retry: Retry,
    pub next_cycle_ms: i64,
    pub statistics: Statistics,
    /// Should the VM run here: what an operator or a failover asked last.
    pub wants_running: bool,
    /// Overlays are numbered, so that a repeated failover never meets an old file.
    pub overlays: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub interval_s: u32,
    pub history: u8,
    pub history_every_s: u32,
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Start a required resynchronisation without asking.
    pub auto_resynchronize: bool,
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
    pub sent_bytes: u64,
    pub last_cycle_bytes: u64,
    pub last_cycle_ms: u64,
    pub last_success_ms: Option<i64>,
    pub cycle_started_ms: Option<i64>,
    /// When an operator reset the counters; `None`: they count from the relationship's beginning.
    #[serde(default)]
    pub reset_ms: Option<i64>,
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
            name,
            host,
            peer,
            mode,
            state,
            token,
            settings,
            latest: None,
            peer_latest: None,
            work: None,
            waiting: None,
            failed_over: None,
            resync: None,
            superseded: None,
            resume_to: None,
            retry: Retry::default(),
            next_cycle_ms: 0,
            statistics: Statistics::default(),
            wants_running: mode == Mode::Primary,
            overlays: 0,
        }
    }

    /// Begins to count anew. When the last success was is no counter, and stays.
    pub fn reset_statistics(&mut self, now_ms: i64) {
        let Statistics { last_success_ms, cycle_started_ms, .. } = self.statistics;
        self.statistics =
            Statistics { last_success_ms, cycle_started_ms, reset_ms: Some(now_ms), ..Statistics::default() };
    }

    /// Other settings from now on: a shorter interval moves the next cycle forward.
    pub fn configure(&mut self, settings: Settings, now_ms: i64) {
        self.next_cycle_ms = self.next_cycle_ms.min(now_ms + i64::from(settings.interval_s) * 1000);
        self.settings = settings;
    }

    /// May this host define and run the VM now.
    pub fn may_run(&self) -> bool {
        self.token.is_held()
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
            mode: self.mode,
            state: self.state,
            latest: self.latest,
            running,
        }
    }
}
