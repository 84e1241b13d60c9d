//! Views: what commands answer. Times are RFC 3339 in UTC, durations in seconds, sizes in bytes.

use super::{AdapterAddresses, Failure};
use model::{
    Authentication, BandwidthWindow, DeltaId, DiskId, Generation, Health, HostName, JobId, Mode, PointKind,
    ReplicationState, Tier, VmId,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One line of answer on the control socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The job that was started, as it goes on; only with `wait`.
    Progress(JobView),
    Reply(Box<Reply>),
    Failure(Failure),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done; a sentence for the operator.
    Done {
        message: String,
    },
    Host(HostView),
    Vms(Vec<VmView>),
    Vm(Box<VmView>),
    Authorizations(Vec<AuthorizationView>),
    Relationships(Vec<RelationshipView>),
    Points(Vec<PointView>),
    Plan(PlanView),
    Job(Box<JobView>),
    Jobs(Vec<JobView>),
    Verify(VerifyView),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    pub host_name: HostName,
    pub version: String,
    pub replication_address: Option<String>,
    /// Where hosts with tickets are listened to.
    pub kerberos_address: Option<String>,
    pub libvirt_uri: String,
    pub certificate_expires: Option<String>,
    pub protected_vms: u32,
    pub replica_vms: u32,
    /// Does this host receive replicas.
    #[serde(default)]
    pub recovery_server: bool,
    #[serde(default)]
    pub monitoring_interval_s: u32,
    /// When of the day a monitoring interval begins, in seconds after midnight, UTC.
    #[serde(default)]
    pub monitoring_start_s: u32,
    #[serde(default)]
    pub sending: TransfersView,
    #[serde(default)]
    pub receiving: TransfersView,
}

/// Transfers of this host in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransfersView {
    pub under_way: u32,
    pub max: u32,
    /// For others to end.
    pub waiting: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    pub vm: VmId,
    pub name: String,
    /// `running`, `paused`, `shut off`, `crashed`, or `replica` where no domain is defined.
    pub power_state: String,
    pub mode: Mode,
    pub replication_state: ReplicationState,
    pub health: Health,
    pub peer: Option<HostName>,
    pub autostart: bool,
    pub guest_agent: Option<bool>,
    pub disks: Vec<DiskView>,
    pub interfaces: Vec<InterfaceView>,
    /// Reasons why this VM cannot be protected as it stands.
    pub obstacles: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskView {
    pub target: String,
    pub disk: Option<DiskId>,
    pub path: PathBuf,
    pub format: String,
    pub size_bytes: u64,
    pub replicated: bool,
    /// Why it cannot be replicated, if so.
    pub obstacle: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceView {
    pub mac: String,
    pub network: Option<String>,
    /// What it gets in the guest after a failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<AdapterAddresses>,
    /// The network into which it goes in a test failover here; `None`: as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_network: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationView {
    pub host: String,
    pub trust_group: String,
    pub storage: PathBuf,
}

/// Something that an operator should know about a relationship.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    pub severity: Health,
    /// Names the message independently of its language.
    pub id: String,
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelationshipView {
    pub vm: VmId,
    /// 1: it forwards what this host received as a replica to a third one. Then `mode` is that of a sender.
    #[serde(default)]
    pub index: u16,
    pub name: String,
    pub mode: Mode,
    pub peer: HostName,
    pub state: ReplicationState,
    /// WMI's number of `state`.
    pub state_number: u16,
    pub health: Health,
    pub issues: Vec<Issue>,
    pub generation: Generation,
    /// Does this host hold the right to run the VM.
    pub may_run: bool,
    pub power_state: String,
    pub interval_s: u32,
    pub history: u8,
    pub history_every_s: u32,
    /// Points that are kept besides these.
    #[serde(default)]
    pub tiers: Vec<Tier>,
    pub bandwidth_bytes_per_s: Option<u64>,
    /// At these times there is another limit than that.
    #[serde(default)]
    pub bandwidth_windows: Vec<BandwidthWindow>,
    /// Just now, by the relationship's limit and the host's, whichever is lower.
    #[serde(default)]
    pub bandwidth_now_bytes_per_s: Option<u64>,
    /// 0: no application-consistent points.
    #[serde(default)]
    pub app_consistent_every_s: u32,
    /// When the last application-consistent point was acknowledged or received.
    #[serde(default)]
    pub last_app_consistent_at: Option<String>,
    /// Points that should have been application-consistent and are not.
    #[serde(default)]
    pub app_consistent_failures: u64,
    /// Of the last delta that was acknowledged or received.
    #[serde(default)]
    pub last_kind: Option<PointKind>,
    pub authentication: Authentication,
    /// Age of the newest point on the replica: the recovery point objective as it is, not as configured.
    pub rpo_s: Option<f64>,
    pub newest_point: Option<PointView>,
    pub points: u32,
    pub cycles_succeeded: u64,
    pub cycles_missed: u64,
    pub cycles_failed: u64,
    /// Turns that waited for others; none of them failed by that.
    #[serde(default)]
    pub cycles_waited: u64,
    pub last_cycle_bytes: u64,
    pub last_cycle_ms: u64,
    pub sent_bytes: u64,
    /// The monitoring interval under way.
    #[serde(default)]
    pub interval: IntervalView,
    /// When a test failover was last made.
    #[serde(default)]
    pub last_test_at: Option<String>,
    #[serde(default)]
    pub last_drill: Option<DrillView>,
    #[serde(default)]
    pub scrub: ScrubView,
    /// Why a backup of the replica's files would be worth nothing just now, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_backup: Option<String>,
    /// What is going on now, in words; empty when nothing is.
    pub activity: String,
    pub job: Option<JobId>,
    pub retry_in_s: Option<f64>,
    pub test_vm: Option<String>,
    /// How giving the guest its addresses after the failover ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_network: Option<String>,
}

/// Comparisons that read all of both hosts' disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubView {
    /// 0: never by itself.
    pub every_s: u32,
    /// When the last one was through.
    pub last_at: Option<String>,
    /// Clusters repaired since the statistics were reset: the primary's disk is not what was sent, and no write was
    /// recorded.
    pub changed_on_primary: u64,
    /// The replica does not have what was sent.
    pub damaged_on_replica: u64,
}

/// What the last fire drill saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillView {
    pub at: String,
    pub point: DeltaId,
    /// The guest gave a sign of life.
    pub passed: bool,
    /// After which time, or what was seen instead.
    pub message: String,
}

/// The counters of a monitoring interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalView {
    pub since: Option<String>,
    /// `None`: it goes on.
    pub until: Option<String>,
    pub succeeded: u64,
    pub missed: u64,
    /// For other reasons than the network.
    pub failed: u64,
    pub network_failed: u64,
    pub app_consistent_failed: u64,
    pub sent_bytes: u64,
    pub sent_bytes_max: u64,
    pub latency_ms: u64,
    pub latency_ms_max: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointView {
    pub point: DeltaId,
    pub sequence: u64,
    pub kind: PointKind,
    pub latest: bool,
    /// The instant of the cut, by the sender's clock.
    pub cut_at: String,
    pub received_at: String,
    pub age_s: f64,
    pub stored_bytes: u64,
    /// What it is kept for: `latest`, `history`, `every 1d`; nothing where it is about to go.
    #[serde(default)]
    pub kept_for: Vec<String>,
    /// Why it is kept beside the history, if so.
    pub note: Option<String>,
}

/// What a dangerous command would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    pub title: String,
    /// In order, one sentence each.
    pub steps: Vec<String>,
    /// What is lost or stopped; empty when nothing is.
    pub losses: Vec<String>,
    /// Did the other host answer just now; `None` when it does not matter.
    pub peer_answers: Option<bool>,
}

/// `CIM_ConcreteJob.JobState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u16)]
pub enum JobState {
    New = 2,
    Starting = 3,
    Running = 4,
    Suspended = 5,
    Completed = 7,
    /// Cancelled.
    Terminated = 8,
    /// Failed.
    Exception = 10,
}

impl JobState {
    pub fn has_ended(self) -> bool {
        self as u16 >= Self::Completed as u16
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub job: JobId,
    pub vm: Option<VmId>,
    pub vm_name: Option<String>,
    /// Such as `initiate failover`.
    pub kind: String,
    /// `Msvm_ConcreteJob.JobType`.
    pub kind_number: u16,
    pub state: JobState,
    pub progress_percent: u8,
    /// What it does just now, in words.
    pub stage: String,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub cancellable: bool,
    pub submitted_at: String,
    pub elapsed_s: f64,
    pub failure: Option<Failure>,
    /// The sentence for the operator when it has completed.
    pub outcome: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyView {
    pub points: u32,
    pub clusters: u64,
    pub bytes: u64,
    /// Clusters whose content differs from their hash.
    pub mismatches: Vec<String>,
}
