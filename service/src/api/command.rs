//! Commands: one variant per operation of the command line, with its arguments as plain data.

use model::{DeltaId, HostName, JobId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One line on the control socket. The answer is a sequence of [`super::Response`] lines, the last of
/// which is a reply or a failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub command: Command,
    /// Answer with the plan of a dangerous command, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Stream the progress of the job that the command starts, until it has ended.
    #[serde(default)]
    pub wait: bool,
}

/// `vm` is always a VM's name or UUID, as the operator typed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// What host is this: name, version, listeners, libvirt.
    Host,
    VmList,
    VmShow {
        vm: String,
    },
    /// Define a libvirt domain from its XML.
    VmDefine {
        xml: String,
    },
    VmStart {
        vm: String,
    },
    VmStop {
        vm: String,
        force: bool,
    },
    VmPause {
        vm: String,
    },
    VmUndefine {
        vm: String,
    },
    /// Take up certificates that were installed while the daemon runs.
    CertReload,
    Authorize {
        host: String,
        storage: PathBuf,
        trust_group: Option<String>,
    },
    AuthorizeList,
    AuthorizeRemove {
        host: String,
    },
    Protect {
        vm: String,
        to: HostName,
        /// 1 to 43 200.
        interval_s: u32,
        /// Recovery points beside the latest: 0 to 24.
        history: u8,
        /// Seconds between these recovery points.
        history_every_s: u32,
        /// Targets such as `vda`; all replicable disks when absent.
        disks: Option<Vec<String>>,
        bandwidth_bytes_per_s: Option<u64>,
        /// Start a required resynchronisation without asking.
        auto_resynchronize: bool,
        /// Begin the first copy at once; otherwise [`Command::StartReplication`] does.
        start: bool,
    },
    StartReplication {
        vm: String,
    },
    /// Change a relationship's settings, on both hosts. Run on the primary.
    Configure {
        vm: String,
        change: SettingsChange,
    },
    ResetStatistics {
        vm: String,
    },
    /// Would this host let us replicate to it.
    TestConnection {
        to: HostName,
    },
    /// All relationships, or one VM's.
    Status {
        vm: Option<String>,
    },
    Points {
        vm: String,
    },
    Failover {
        vm: String,
        kind: FailoverKind,
        start: bool,
    },
    /// The first half of a planned failover, on the primary: stop the VM, ship the rest, hand over.
    PrepareFailover {
        vm: String,
    },
    /// Take a hand-over back, on the primary.
    CancelFailover {
        vm: String,
    },
    /// A former primary, whose VM was taken over, becomes the replica.
    BecomeReplica {
        vm: String,
    },
    /// End a test failover: stop the test VM and remove it with its overlays.
    EndTest {
        vm: String,
    },
    Revert {
        vm: String,
    },
    Commit {
        vm: String,
    },
    Reverse {
        vm: String,
    },
    /// Bring the VM home: run on the host to which it returns.
    Failback {
        vm: String,
    },
    /// The last step of a failback: stop the VM over there, ship the rest, run it here.
    /// To the latest point, or to `point`, received since the failback began.
    FailbackComplete {
        vm: String,
        point: Option<String>,
        force: bool,
    },
    FailbackCancel {
        vm: String,
    },
    /// `release` also drops the checkpoints, so that an internal snapshot can be reverted.
    Suspend {
        vm: String,
        release: bool,
    },
    Resume {
        vm: String,
    },
    Resync {
        vm: String,
    },
    CancelResync {
        vm: String,
    },
    Unprotect {
        vm: String,
        delete_replica: bool,
    },
    JobList,
    JobShow {
        job: JobId,
    },
    JobWatch {
        job: JobId,
    },
    JobCancel {
        job: JobId,
    },
    Verify {
        vm: String,
        point: Option<String>,
    },
    /// Drop a point that is kept for export (what a former primary wrote and never shipped).
    DropPoint {
        vm: String,
        point: DeltaId,
    },
}

/// What shall be different; the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SettingsChange {
    /// 1 to 43 200.
    pub interval_s: Option<u32>,
    /// 0 to 24.
    pub history: Option<u8>,
    pub history_every_s: Option<u32>,
    /// 0 lifts the limit.
    pub bandwidth_bytes_per_s: Option<u64>,
    pub auto_resynchronize: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverKind {
    /// To the latest point, or to `point` (a point's id or an unambiguous beginning of it).
    Unplanned {
        point: Option<String>,
    },
    Planned,
    Test {
        point: Option<String>,
    },
}

impl Command {
    /// Commands that stop, start, lose or overwrite something: the command line shows their plan first.
    pub fn is_dangerous(&self) -> bool {
        matches!(
            self,
            Self::Failover { kind: FailoverKind::Unplanned { .. } | FailoverKind::Planned, .. }
                | Self::Revert { .. }
                | Self::Commit { .. }
                | Self::Reverse { .. }
                | Self::Failback { .. }
                | Self::FailbackComplete { .. }
                | Self::Unprotect { .. }
                | Self::VmUndefine { .. }
                | Self::DropPoint { .. }
                | Self::VmStop { force: true, .. }
                | Self::Suspend { release: true, .. }
        )
    }
}
