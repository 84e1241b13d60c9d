//! Life of a protection: `protect`, `suspend`, `resume`, `resync`, `unprotect`.

use crate::parse;
use clap::Args;
use model::HostName;
use service::api::Command;

/// Protect a VM: keep a standby of it on another host
///
/// Copies the disks once while the VM runs, then sends what changed, every interval. The standby keeps the
/// latest point and, with `--history`, older ones to which a failover can go back.
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
    /// Replicate only these disks, such as `vda,vdb` (default: all that can be)
    #[arg(long, value_name = "TARGETS", value_delimiter = ',')]
    disks: Option<Vec<String>>,
    /// Send at most this much, such as `200MiB/s`
    #[arg(long, value_name = "RATE", value_parser = parse::bandwidth_bytes_per_s)]
    bandwidth: Option<u64>,
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
    #[arg(long)]
    delete_replica: bool,
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
    #[arg(long)]
    release: bool,
}

/// Resume a suspended replication, or one that stopped after an error
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo resume web")]
pub struct ResumeArgs {
    /// The VM's name or UUID
    vm: String,
}

/// Compare the disks on both hosts and send what differs
///
/// Needed when the record of changes was lost, such as after a power cut. Recovery points are kept.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo resync web")]
pub struct ResyncArgs {
    /// The VM's name or UUID
    vm: String,
}

impl ProtectArgs {
    pub fn command(self) -> Command {
        Command::Protect {
            vm: self.vm,
            to: self.to,
            interval_s: self.interval,
            history: self.history,
            history_every_s: self.history_every,
            disks: self.disks,
            bandwidth_bytes_per_s: self.bandwidth,
            auto_resynchronize: true,
            start: true,
        }
    }
}

impl UnprotectArgs {
    pub fn command(self) -> Command {
        Command::Unprotect { vm: self.vm, delete_replica: self.delete_replica }
    }
}

impl SuspendArgs {
    pub fn command(self) -> Command {
        Command::Suspend { vm: self.vm, release: self.release }
    }
}

impl ResumeArgs {
    pub fn command(self) -> Command {
        Command::Resume { vm: self.vm }
    }
}

impl ResyncArgs {
    pub fn command(self) -> Command {
        Command::Resync { vm: self.vm }
    }
}
