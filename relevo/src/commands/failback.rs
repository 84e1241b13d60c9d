//! `relevo failback`: the VM comes home.

use clap::Args;
use service::api::Command;

/// Bring a VM home after a failover
///
/// Fetches what differs while the VM runs on the other host, and goes on fetching until you run
/// `--complete`: that shuts the VM down over there, fetches the rest and starts it here. The other host
/// holds the standby again. With `--point` the VM comes home as it was at one of the points that the other host
/// keeps, as long as the failover there is not committed; with `--complete --point` at one that was received since
/// the failback began. What it wrote later stays a point on the other host until you drop it. `--cancel` gives a
/// failback up; the VM stays where it runs.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host to which the VM returns; `--complete` on either host.\n\n\
                        Example:\n  relevo failback web\n  relevo failback web --complete\n  relevo failback web --point 3f2a")]
pub struct FailbackArgs {
    /// The VM's name or UUID
    vm: String,
    /// Come home as of this point: the beginning of an id from `relevo points`
    #[arg(long, conflicts_with = "cancel")]
    point: Option<String>,
    /// Carry out the last step: stop the VM over there, run it here
    #[arg(long)]
    complete: bool,
    /// Pull the plug when the guest does not shut down in time
    #[arg(long, requires = "complete")]
    force: bool,
    /// Give the failback up
    #[arg(long, conflicts_with = "complete")]
    cancel: bool,
}

impl FailbackArgs {
    pub fn command(self) -> Command {
        let vm = self.vm;
        match (self.complete, self.cancel) {
            (true, _) => Command::FailbackComplete { vm, point: self.point, force: self.force },
            (_, true) => Command::FailbackCancel { vm },
            _ => Command::Failback { vm, point: self.point },
        }
    }
}
