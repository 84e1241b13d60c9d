//! Commands: one variant per operation of the command line, with its arguments as plain data.

use engine::Window;
use model::{Authentication, BandwidthWindow, DeltaId, HostName, JobId, Tier};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

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
    /// Only members of the entry's trust group may feed the replica of this VM, or begin one from its seed.
    AuthorizeVm {
        /// `AllowedPrimaryHostSystem` of an entry.
        host: String,
        vm: String,
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
        /// Points that are kept besides these.
        #[serde(default)]
        tiers: Vec<Tier>,
        /// Targets such as `vda`; all replicable disks when absent.
        disks: Option<Vec<String>>,
        bandwidth_bytes_per_s: Option<u64>,
        /// At these times there is another limit than that.
        #[serde(default)]
        bandwidth_windows: Vec<BandwidthWindow>,
        /// Start a required resynchronisation without asking.
        auto_resynchronize: bool,
        /// Seconds between two points for which the guest freezes its file systems: up to 43 200; 0: none.
        #[serde(default)]
        app_consistent_every_s: u32,
        /// How the two hosts prove to each other who they are.
        #[serde(default)]
        authentication: Authentication,
        /// The part of the day in which it may start.
        #[serde(default)]
        resync_window: Window,
        /// 0: both hosts' disks are compared when asked for only.
        #[serde(default)]
        scrub_every_s: u32,
        /// Compress where the link is what is slow.
        compress: bool,
        /// Reach the other host without this host's proxy.
        #[serde(default)]
        bypass_proxy: bool,
        /// Begin the first copy at once; otherwise [`Command::StartReplication`] does.
        start: bool,
        /// Send what differs from a copy that stands there: demanded, not used, or (absent) used where one
        /// fits.
        seed: Option<bool>,
        /// Write the first copy into a folder of its own below this one.
        export: Option<PathBuf>,
        /// Begin the first copy then: milliseconds since 1970, at most seven days ahead.
        at_ms: Option<i64>,
    },
    StartReplication {
        vm: String,
        way: FirstCopy,
        /// Milliseconds since 1970; at once when absent. Not for an export.
        at_ms: Option<i64>,
    },
    /// Give up a first copy that is under way, exported or put off: it can be begun again.
    CancelStart {
        vm: String,
    },
    /// Take up a first copy that the primary exported: the VM's folder, or the one above it.
    Import {
        vm: String,
        folder: PathBuf,
    },
    /// Replicate these disks from now on. Run on the primary.
    SetDisks {
        vm: String,
        /// Such as `vda`.
        targets: Vec<String>,
    },
    /// Mark a VM of this host, which is off, as the copy from which it becomes a replica.
    Seed {
        vm: String,
        /// Take the mark away.
        forget: bool,
    },
    /// Change a relationship's settings, on both hosts. Run on the primary.
    Configure {
        vm: String,
        change: SettingsChange,
    },
    /// Have another host keep the VM's replica, with these changes to the settings. Run on the primary.
    Retarget {
        vm: String,
        to: HostName,
        change: SettingsChange,
        /// Begin the first copy.
        start: bool,
    },
    ResetStatistics {
        vm: String,
    },
    /// What adapters of the VM get in its guest after a failover to this host; the others keep what they have. One
    /// for which nothing is said is left alone from then on.
    SetFailoverAddresses {
        vm: String,
        adapters: Vec<AdapterAddresses>,
    },
    /// The libvirt networks into which adapters of the VM go in a test failover on this host, by MAC address; `None`:
    /// as the configuration says. The others keep what they have.
    SetTestNetworks {
        vm: String,
        adapters: BTreeMap<String, Option<String>>,
    },
    /// Apply them now, to the VM that runs here.
    ApplyFailoverAddresses {
        vm: String,
    },
    ConfigureService {
        change: ServiceChange,
    },
    /// Would this host let us replicate to it.
    TestConnection {
        to: HostName,
        #[serde(default)]
        authentication: Authentication,
        #[serde(default)]
        bypass_proxy: bool,
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
    /// A test failover that waits for the guest's sign of life, notes what it saw, and cleans up.
    FireDrill {
        vm: String,
        point: Option<String>,
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
    /// On a replica that was failed over, committed, and forwards: the third host becomes its replica, and the
    /// former primary is left behind.
    ChangeToPrimary {
        vm: String,
    },
    /// Bring the VM home: run on the host to which it returns. `point`: the beginning of the id of a point that the other
    /// host keeps, as of which it comes home.
    Failback {
        vm: String,
        #[serde(default)]
        point: Option<String>,
    },
    /// The last step of a failback: stop the VM over there, ship the rest, run it here.
    /// As of the point that the failback was begun with, or the latest, or `point`, received since it began.
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
        /// Milliseconds since 1970, at most seven days ahead; at once when absent.
        at_ms: Option<i64>,
    },
    CancelResync {
        vm: String,
    },
    /// Read all of both hosts' disks and send what differs.
    Scrub {
        vm: String,
    },
    Unprotect {
        vm: String,
        delete_replica: bool,
    },
    /// One of [`Self::StartReplication`], [`Self::CancelStart`], [`Self::Suspend`], [`Self::Resume`], [`Self::Resync`],
    /// [`Self::CancelResync`], [`Self::Configure`], [`Self::ResetStatistics`] and [`Self::Unprotect`], not of the
    /// VM's relationship 0 but of the one that forwards its replica to a third host.
    Extended {
        command: Box<Command>,
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

/// How the first copy comes to the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstCopy {
    /// Over the network; what differs, where the replica has a seed.
    Network,
    /// Over the network, and only onto a seed.
    Seeded,
    /// Into a folder of its own below this one, which is carried over.
    Export { folder: PathBuf },
}

/// What of the service's settings shall be different.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServiceChange {
    /// Does this host receive replicas.
    pub recovery_server: Option<bool>,
    /// 3600 to 604 800.
    pub monitoring_interval_s: Option<u32>,
    /// When of the day an interval begins, in seconds after midnight, UTC.
    pub monitoring_start_s: Option<u32>,
    /// Where hosts with certificates are listened to.
    pub port: Option<u16>,
    /// Where hosts with tickets are listened to.
    pub kerberos_port: Option<u16>,
    /// The thumbprint of the certificate that the host shows.
    pub certificate: Option<String>,
}

/// What an adapter gets in the guest after a failover; texts as a client gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AdapterAddresses {
    /// `52:54:00:12:34:56`, in lower case.
    pub mac: String,
    /// IPv4 by DHCP.
    pub dhcp: bool,
    pub addresses: Vec<String>,
    /// One for each address: a mask or the length of a prefix.
    pub subnets: Vec<String>,
    /// At most five; the first counts most.
    pub gateways: Vec<String>,
    pub dns: Vec<String>,
}

impl AdapterAddresses {
    /// Nothing is to be done to the adapter.
    pub fn is_empty(&self) -> bool {
        !self.dhcp && self.addresses.is_empty() && self.gateways.is_empty() && self.dns.is_empty()
    }
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
    pub tiers: Option<Vec<Tier>>,
    /// 0 lifts the limit.
    pub bandwidth_bytes_per_s: Option<u64>,
    pub bandwidth_windows: Option<Vec<BandwidthWindow>>,
    pub auto_resynchronize: Option<bool>,
    /// 0 to 43 200; 0: no application-consistent points.
    pub app_consistent_every_s: Option<u32>,
    /// 0: no fire drills by itself.
    pub drill_every_s: Option<u32>,
    /// 0: no scrubs by itself.
    pub scrub_every_s: Option<u32>,
    pub authentication: Option<Authentication>,
    pub resync_window: Option<Window>,
    pub compress: Option<bool>,
    #[serde(default)]
    pub bypass_proxy: Option<bool>,
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
        if let Self::Extended { command } = self {
            return command.is_dangerous();
        }
        matches!(
            self,
            Self::Failover { kind: FailoverKind::Unplanned { .. } | FailoverKind::Planned, .. }
                | Self::Revert { .. }
                | Self::Commit { .. }
                | Self::Reverse { .. }
                | Self::ChangeToPrimary { .. }
                | Self::Failback { .. }
                | Self::FailbackComplete { .. }
                | Self::Unprotect { .. }
                | Self::Retarget { .. }
                | Self::VmUndefine { .. }
                | Self::DropPoint { .. }
                | Self::VmStop { force: true, .. }
                | Self::Suspend { release: true, .. }
        )
    }
}
