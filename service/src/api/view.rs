//! Views: what commands answer. Times are RFC 3339 in UTC, durations in seconds, sizes in bytes.

use super::Failure;
use model::{DeltaId, DiskId, Generation, Health, HostName, JobId, Mode, PointKind, ReplicationState, VmId};
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
    pub libvirt_uri: String,
    pub certificate_expires: Option<String>,
    pub protected_vms: u32,
    pub replica_vms: u32,
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
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Age of the newest point on the replica: the recovery point objective as it is, not as configured.
    pub rpo_s: Option<f64>,
    pub newest_point: Option<PointView>,
    pub points: u32,
    pub cycles_succeeded: u64,
    pub cycles_missed: u64,
    pub cycles_failed: u64,
    pub last_cycle_bytes: u64,
    pub last_cycle_ms: u64,
    pub sent_bytes: u64,
    /// What is going on now, in words; empty when nothing is.
    pub activity: String,
    pub job: Option<JobId>,
    pub retry_in_s: Option<f64>,
    pub test_vm: Option<String>,
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
