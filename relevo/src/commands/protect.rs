//! Life of a protection: `protect`, `configure`, `start`, `seed`, `import`, `suspend`, `resume`, `resync`, `unprotect`.

use crate::parse::{self, Limit};
use clap::{Args, ValueEnum};
use model::{Authentication, HostName, Tier};
use service::api::{Command, Failure, FirstCopy, SettingsChange, Window};
use std::path::PathBuf;

/// Protect a VM: keep a standby of it on another host
///
/// Copies the disks once while the VM runs, then sends what changed, every interval. The standby keeps the
/// latest point and, with `--history`, older ones to which a failover can go back.
///
/// On the host that holds the standby it begins to forward what is received to a third host, at the primary's
/// interval or a longer one.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM; the other host has to authorize this one.\n\n\
                        Example:\n  relevo protect web --to b.example --interval 30s --history 4")]
pub struct ProtectArgs {
    /// The VM's name or UUID
    vm: String,
    /// The host that shall hold the standby
    #[arg(long, value_name = "HOST")]
    to: HostName,
    /// Time between two cycles, 1s to 12h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::interval_s)]
    interval: u32,
    /// Older points to keep beside the latest, 0 to 24
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = parse::history)]
    history: u8,
    /// Time between these older points
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::spacing_s)]
    history_every: u32,
    /// Keep points besides these, in tiers: how many, how far apart, such as `24x1h,7x1d,4x7d`
    #[arg(long, value_name = "TIERS", value_delimiter = ',')]
    keep: Vec<Tier>,
    /// Time between two points for which the guest freezes its file systems, 1h to 12h (shorter ones for
    /// trials); needs the guest agent and a history. 0: none
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse::app_consistent_s)]
    app_consistent: u32,
    /// Replicate only these disks, such as `vda,vdb` (default: all that can be)
    #[arg(long, value_name = "TARGETS", value_delimiter = ',')]
    disks: Option<Vec<String>>,
    /// Send at most this much, such as `200MiB/s`; again and with a time for another limit at that time:
    /// `'mon-fri 08:00-18:00 = 20MiB/s'` (local time; `unlimited` for none)
    #[arg(long, value_name = "RATE", value_parser = parse::limit)]
    bandwidth: Vec<Limit>,
    /// How the two hosts prove to each other who they are
    #[arg(long, value_enum, value_name = "WAY", default_value = "certificate")]
    auth: Auth,
    /// Never compress what is sent; by default a slow link is compressed for
    #[arg(long)]
    no_compression: bool,
    /// Reach the other host without this host's proxy (`proxy` in the configuration, or HTTPS_PROXY)
    #[arg(long)]
    bypass_proxy: bool,
    /// When a required resynchronization may begin by itself, in local time (default: at any time)
    #[arg(long, value_name = "HH:MM-HH:MM", value_parser = parse::window)]
    resync_window: Option<Window>,
    /// Time between two scrubs (`relevo scrub`), such as `30d`; 0 or `never`: none by itself
    #[arg(long, value_name = "DURATION", default_value = "never", value_parser = parse::period_s)]
    scrub_every: u32,
    /// Send only what differs from a copy that stands on the other host (`relevo seed` there, or what an
    /// earlier standby left behind)
    #[arg(long, conflicts_with = "export")]
    seed: bool,
    /// Write the first copy into a folder of its own below DIR, to be carried over and imported there
    #[arg(long, value_name = "DIR", conflicts_with = "at")]
    export: Option<PathBuf>,
    /// Begin the first copy later, at most seven days ahead: `+8h`, or `2026-05-04T22:00:00+02:00`
    #[arg(long, value_name = "TIME", value_parser = parse::time_ms)]
    at: Option<i64>,
}

/// Begin, or give up, the first copy of a VM that is protected
///
/// `protect` begins it by itself. This is for one that was cancelled, or protected through the management API.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo start web --at +8h")]
pub struct StartArgs {
    /// The VM's name or UUID
    vm: String,
    /// Only onto a seed
    #[arg(long, conflicts_with_all = ["export", "cancel"])]
    seed: bool,
    /// Write it into a folder of its own below DIR, to be carried over and imported there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["at", "cancel"])]
    export: Option<PathBuf>,
    /// Begin later, at most seven days ahead: `+8h`, or `2026-05-04T22:00:00+02:00`
    #[arg(long, value_name = "TIME", value_parser = parse::time_ms, conflicts_with = "cancel")]
    at: Option<i64>,
    /// Give up one that is under way, put off, or exported and not imported
    #[arg(long)]
    cancel: bool,
    /// Not the VM's own first copy, but the one that goes from here to a third host
    #[arg(long, conflicts_with_all = ["seed", "export"])]
    extended: bool,
}

/// Take up a first copy that was exported on the other host
///
/// Every cluster is checked before the copy counts. What the VM wrote since is sent afterwards.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the host that holds the standby.\n\nExample:\n  relevo import web /mnt/usb"
)]
pub struct ImportArgs {
    /// The VM's name or UUID
    vm: String,
    /// The folder that was exported, or the one above it
    folder: PathBuf,
}

/// As in `--auth`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Auth {
    /// Certificates of one authority, and TLS
    Certificate,
    /// Tickets of one realm; set up under [kerberos] in the configuration of both hosts
    Kerberos,
}

impl From<Auth> for Authentication {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Certificate => Self::Certificate,
            Auth::Kerberos => Self::Kerberos,
        }
    }
}

/// Change the settings of a protection, on both hosts
///
/// What is not named stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\n\
                        Example:\n  relevo configure web --interval 5m --app-consistent 4h")]
pub struct ConfigureArgs {
    /// The VM's name or UUID
    vm: String,
    /// Time between two cycles, 1s to 12h
    #[arg(long, value_name = "DURATION", value_parser = parse::interval_s)]
    interval: Option<u32>,
    /// Older points to keep beside the latest, 0 to 24
    #[arg(long, value_name = "COUNT", value_parser = parse::history)]
    history: Option<u8>,
    /// Time between these older points
    #[arg(long, value_name = "DURATION", value_parser = parse::spacing_s)]
    history_every: Option<u32>,
    /// Keep points besides these, in tiers: how many, how far apart, such as `24x1h,7x1d,4x7d`
    #[arg(long, value_name = "TIERS", value_delimiter = ',', conflicts_with = "keep_no_tiers")]
    keep: Vec<Tier>,
    /// Keep nothing besides the history any more
    #[arg(long)]
    keep_no_tiers: bool,
    /// Time between two application-consistent points, 1h to 12h; 0: none
    #[arg(long, value_name = "DURATION", value_parser = parse::app_consistent_s)]
    app_consistent: Option<u32>,
    /// Time between two fire drills of the standby (`relevo failover --test --drill`); 0: none by itself
    #[arg(long, value_name = "DURATION", value_parser = parse::period_s)]
    drill_every: Option<u32>,
    /// Time between two scrubs (`relevo scrub`), which keep to the resynchronization's part of the day; 0 or
    /// `never`: none by itself
    #[arg(long, value_name = "DURATION", value_parser = parse::period_s)]
    scrub_every: Option<u32>,
    /// How the two hosts prove to each other who they are; tried before anything changes
    #[arg(long, value_enum, value_name = "WAY")]
    auth: Option<Auth>,
    /// Send at most this much, such as `200MiB/s`, and at some times that much, as in `relevo protect`; what was set
    /// before goes
    #[arg(long, value_name = "RATE", value_parser = parse::limit, conflicts_with = "no_bandwidth")]
    bandwidth: Vec<Limit>,
    /// Lift all limits of the bandwidth
    #[arg(long)]
    no_bandwidth: bool,
    /// Compare the disks without asking when the record of changes was lost: `on` or `off`
    #[arg(long, value_name = "ON|OFF", value_parser = parse::on_or_off)]
    auto_resync: Option<bool>,
    /// When that may begin by itself, in local time; 00:00-00:00: at any time
    #[arg(long, value_name = "HH:MM-HH:MM", value_parser = parse::window)]
    resync_window: Option<Window>,
    /// Compress for a slow link: `on` or `off`
    #[arg(long, value_name = "ON|OFF", value_parser = parse::on_or_off)]
    compression: Option<bool>,
    /// Reach the other host without this host's proxy: `on` or `off`
    #[arg(long, value_name = "ON|OFF", value_parser = parse::on_or_off)]
    bypass_proxy: Option<bool>,
}

/// Mark a VM of this host as the copy from which it becomes a standby
///
/// For a VM that was restored from a backup, with the UUID and the disks of the one that runs elsewhere. It
/// has to be off, and does not start while it is marked. `relevo protect VM --to HOST --seed`, where it runs,
/// then compares the disks and sends what differs.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that shall hold the standby.\n\nExample:\n  relevo seed web")]
pub struct SeedArgs {
    /// The VM's name or UUID
    vm: String,
    /// Take the mark away: an ordinary VM again
    #[arg(long)]
    forget: bool,
}

/// Choose which disks of a protected VM are replicated
///
/// An added disk is copied in one cut with the others, which wait for it; a disk that is left out stays in the
/// older points.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo disks web vda,vdb")]
pub struct DisksArgs {
    /// The VM's name or UUID
    vm: String,
    /// All that shall be replicated, such as `vda,vdb`
    #[arg(value_delimiter = ',', required = true)]
    targets: Vec<String>,
}

/// Have another host keep the standby of a VM
///
/// The settings stay. A first copy goes to the new host, or a comparison with what it has of the VM. The old host is not
/// asked, it may be lost: end its side there with `relevo unprotect`.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\n\
                        Example:\n  relevo retarget web --to c.example")]
pub struct RetargetArgs {
    /// The VM's name or UUID
    vm: String,
    /// The host that shall keep the standby
    #[arg(long, value_name = "HOST")]
    to: HostName,
    /// Do not begin the first copy; `relevo start` does
    #[arg(long)]
    no_start: bool,
}

/// End the protection of a VM, on this host's side
///
/// Each host has its own side: run it on both. The VM goes on as it is. The replica's files stay unless
/// `--delete-replica` is given on the replica's host.
#[derive(Debug, Args)]
#[command(after_help = "Run it on both hosts.\n\n\
                        Example:\n  relevo unprotect web")]
pub struct UnprotectArgs {
    /// The VM's name or UUID
    vm: String,
    /// On the replica's host: delete the standby and all its points too
    #[arg(long, conflicts_with = "extended")]
    delete_replica: bool,
    /// Not the VM's own replication, but the one that forwards its replica from here to a third host
    #[arg(long)]
    extended: bool,
}

/// Suspend the replication of a VM; changes accumulate until `relevo resume`
///
/// With `--release` the VM's checkpoints are dropped too, so that an internal snapshot can be reverted;
/// afterwards the disks are compared before replication goes on.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo suspend web")]
pub struct SuspendArgs {
    /// The VM's name or UUID
    vm: String,
    /// Drop the VM's checkpoints as well
    #[arg(long, conflicts_with = "extended")]
    release: bool,
    /// Not the VM's own replication, but the one that forwards its replica from here to a third host
    #[arg(long)]
    extended: bool,
}

/// Resume a suspended replication, or one that stopped after an error
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo resume web")]
pub struct ResumeArgs {
    /// The VM's name or UUID
    vm: String,
    /// Not the VM's own replication, but the one that forwards its replica from here to a third host
    #[arg(long)]
    extended: bool,
}

/// Compare the disks on both hosts and send what differs
///
/// Needed when the record of changes was lost, such as after a power cut. Recovery points are kept.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo resync web")]
pub struct ResyncArgs {
    /// The VM's name or UUID
    vm: String,
    /// Begin later, at most seven days ahead: `+8h`, or `2026-05-04T22:00:00+02:00`
    #[arg(long, value_name = "TIME", value_parser = parse::time_ms, conflicts_with = "cancel")]
    at: Option<i64>,
    /// Give up one that is under way or put off
    #[arg(long)]
    cancel: bool,
    /// Not the VM's own replication, but the one that forwards its replica from here to a third host
    #[arg(long)]
    extended: bool,
}

/// Read the disks on both hosts in full, and send what differs
///
/// Finds what rotted on the replica's disks, and what differs although both hosts believe otherwise. Replication
/// pauses meanwhile and goes on afterwards; `relevo job cancel` ends it. Older points stay as they are:
/// `relevo verify` on the other host tells which of them are damaged.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo scrub web")]
pub struct ScrubArgs {
    /// The VM's name or UUID
    vm: String,
}

/// Begin to count anew, and end the warning of a scrub that repaired something
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the host whose counters are meant: each has its own.\n\nExample:\n  relevo reset-statistics web"
)]
pub struct ResetStatisticsArgs {
    /// The VM's name or UUID
    vm: String,
    /// Not the VM's own replication, but the one that forwards its replica from here to a third host
    #[arg(long)]
    extended: bool,
}

/// The command, of relationship 0 or of the extended one.
fn of(extended: bool, command: Command) -> Command {
    if extended { Command::Extended { command: Box::new(command) } } else { command }
}

impl ProtectArgs {
    pub fn command(self) -> Result<Command, Failure> {
        let export = self.export.map(|folder| super::absolute(&folder)).transpose()?;
        Ok(Command::Protect {
            vm: self.vm,
            to: self.to,
            interval_s: self.interval,
            history: self.history,
            history_every_s: self.history_every,
            tiers: self.keep,
            disks: self.disks,
            bandwidth_bytes_per_s: parse::always(&self.bandwidth),
            bandwidth_windows: parse::windows(&self.bandwidth),
            auto_resynchronize: true,
            app_consistent_every_s: self.app_consistent,
            authentication: self.auth.into(),
            resync_window: self.resync_window.unwrap_or_default(),
            scrub_every_s: self.scrub_every,
            compress: !self.no_compression,
            bypass_proxy: self.bypass_proxy,
            start: true,
            seed: Some(self.seed),
            export,
            at_ms: self.at,
        })
    }
}

impl StartArgs {
    pub fn command(self) -> Result<Command, Failure> {
        if self.cancel {
            return Ok(of(self.extended, Command::CancelStart { vm: self.vm }));
        }
        let way = match self.export {
            Some(folder) => FirstCopy::Export { folder: super::absolute(&folder)? },
            None if self.seed => FirstCopy::Seeded,
            None => FirstCopy::Network,
        };
        Ok(of(self.extended, Command::StartReplication { vm: self.vm, way, at_ms: self.at }))
    }
}

impl ImportArgs {
    pub fn command(self) -> Result<Command, Failure> {
        Ok(Command::Import { vm: self.vm, folder: super::absolute(&self.folder)? })
    }
}

impl ConfigureArgs {
    pub fn command(self) -> Command {
        let limits = Some(&self.bandwidth).filter(|limits| self.no_bandwidth || !limits.is_empty());
        let change = SettingsChange {
            interval_s: self.interval,
            history: self.history,
            history_every_s: self.history_every,
            tiers: Some(self.keep).filter(|tiers| self.keep_no_tiers || !tiers.is_empty()),
            bandwidth_bytes_per_s: limits.map(|limits| parse::always(limits).unwrap_or(0)),
            bandwidth_windows: limits.map(|limits| parse::windows(limits)),
            auto_resynchronize: self.auto_resync,
            app_consistent_every_s: self.app_consistent,
            drill_every_s: self.drill_every,
            scrub_every_s: self.scrub_every,
            authentication: self.auth.map(Into::into),
            resync_window: self.resync_window,
            compress: self.compression,
            bypass_proxy: self.bypass_proxy,
        };
        Command::Configure { vm: self.vm, change }
    }
}

impl ScrubArgs {
    pub fn command(self) -> Command {
        Command::Scrub { vm: self.vm }
    }
}

impl ResetStatisticsArgs {
    pub fn command(self) -> Command {
        of(self.extended, Command::ResetStatistics { vm: self.vm })
    }
}

impl SeedArgs {
    pub fn command(self) -> Command {
        Command::Seed { vm: self.vm, forget: self.forget }
    }
}

impl DisksArgs {
    pub fn command(self) -> Command {
        Command::SetDisks { vm: self.vm, targets: self.targets }
    }
}

impl RetargetArgs {
    pub fn command(self) -> Command {
        let change = SettingsChange::default();
        Command::Retarget { vm: self.vm, to: self.to, change, start: !self.no_start }
    }
}

impl UnprotectArgs {
    pub fn command(self) -> Command {
        of(self.extended, Command::Unprotect { vm: self.vm, delete_replica: self.delete_replica })
    }
}

impl SuspendArgs {
    pub fn command(self) -> Command {
        of(self.extended, Command::Suspend { vm: self.vm, release: self.release })
    }
}

impl ResumeArgs {
    pub fn command(self) -> Command {
        of(self.extended, Command::Resume { vm: self.vm })
    }
}

impl ResyncArgs {
    pub fn command(self) -> Command {
        let command = if self.cancel {
            Command::CancelResync { vm: self.vm }
        } else {
            Command::Resync { vm: self.vm, at_ms: self.at }
        };
        of(self.extended, command)
    }
}
