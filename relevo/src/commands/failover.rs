//! The other host takes over: `failover`, and what may follow, `revert`, `commit`, `reverse`.

use clap::Args;
use service::api::{Command, FailoverKind};

/// Let the standby take over: after a disaster, as planned, or as a test
///
/// Without an option: after a disaster. The standby starts from its latest point, or from `--point`; what the
/// primary wrote after that point is lost. Go back with `relevo revert`, or keep it with `relevo commit`.
///
/// With `--planned`: the VM is shut down, the rest is sent, the VM starts on the other host. Nothing is lost.
///
/// With `--cancel`: a VM that was shut down and handed over, and that the other host does not take, stays here.
///
/// With `--test`: a second VM `NAME - Test` starts beside the standby, apart from the network, while
/// replication goes on. `--test --end` removes it.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the replica's host; `--planned` on either host, `--cancel` on the primary's.\n\n\
                        Example:\n  relevo failover web\n  relevo failover web --point 3f2a\n  \
                        relevo failover web --planned\n  relevo failover web --cancel\n  \
                        relevo failover web --test\n  \
                        relevo failover web --test --end"
)]
pub struct FailoverArgs {
    /// The VM's name or UUID
    vm: String,
    /// Shut the VM down, send the rest, then take over
    #[arg(long)]
    planned: bool,
    /// Try it out beside the running VM
    #[arg(long, conflicts_with = "planned")]
    test: bool,
    /// Take this point instead of the latest: the beginning of an id from `relevo points`, or `app-consistent` for the
    /// newest application-consistent one
    #[arg(long, conflicts_with = "planned")]
    point: Option<String>,
    /// Prepare the VM, but leave it shut off
    #[arg(long, conflicts_with = "test")]
    no_start: bool,
    /// A fire drill: boot the point as a test, wait for the guest's agent, note what was seen, clean up
    #[arg(long, requires = "test", conflicts_with = "end")]
    drill: bool,
    /// Take a planned failover back that the other host did not take over; the VM is off then
    #[arg(long, conflicts_with_all = ["planned", "test", "point", "no_start"])]
    cancel: bool,
    /// End the test: stop the test VM and remove it
    #[arg(long, requires = "test", conflicts_with = "point")]
    end: bool,
}

/// Undo a failover that is not committed: throw away what the VM wrote since, and give it back
///
/// The former primary may run the VM again, and replication goes on.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that took over.\n\nExample:\n  relevo revert web")]
pub struct RevertArgs {
    /// The VM's name or UUID
    vm: String,
}

/// Keep a failover for good: drop the other points
///
/// Afterwards `relevo reverse` protects the VM in the other direction.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that took over. A failback is completed with \
                        `relevo failback --complete`.\n\nExample:\n  relevo commit web")]
pub struct CommitArgs {
    /// The VM's name or UUID
    vm: String,
}

/// Protect a VM that failed over in the other direction: the former primary becomes the standby
///
/// Only what differs is sent. What the former primary wrote and never sent stays there as a point of its own
/// until you drop it with `relevo points --drop`.
#[derive(Debug, Args)]
#[command(after_help = "Run it on either host; with `--extended` on the one that took over.\n\n\
                        Example:\n  relevo reverse web\n  relevo reverse web --extended")]
pub struct ReverseArgs {
    /// The VM's name or UUID
    vm: String,
    /// The third host becomes the standby instead, and the former primary is left behind
    #[arg(long)]
    extended: bool,
}

impl FailoverArgs {
    pub fn command(self) -> Command {
        if self.drill {
            return Command::FireDrill { vm: self.vm, point: self.point };
        }
        if self.cancel {
            return Command::CancelFailover { vm: self.vm };
        }
        if self.end {
            return Command::EndTest { vm: self.vm };
        }
        let kind = match (self.planned, self.test) {
            (true, _) => FailoverKind::Planned,
            (_, true) => FailoverKind::Test { point: self.point },
            _ => FailoverKind::Unplanned { point: self.point },
        };
        Command::Failover { vm: self.vm, kind, start: !self.no_start }
    }
}

impl RevertArgs {
    pub fn command(self) -> Command {
        Command::Revert { vm: self.vm }
    }
}

impl CommitArgs {
    pub fn command(self) -> Command {
        Command::Commit { vm: self.vm }
    }
}

impl ReverseArgs {
    pub fn command(self) -> Command {
        if self.extended {
            Command::ChangeToPrimary { vm: self.vm }
        } else {
            Command::Reverse { vm: self.vm }
        }
    }
}
