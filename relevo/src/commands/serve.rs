//! `relevo serve`: the daemon in the foreground, as systemd runs it.

use clap::Args;
use service::api::Failure;
use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};
use tracing_subscriber::EnvFilter;

const AUDIT: &str = "audit=info";

/// Run the daemon
///
/// One per host, as root, beside libvirt; usually started by systemd. Stops cleanly on SIGTERM and SIGINT;
/// VMs go on without it. The log goes to standard error; RUST_LOG chooses what is logged beside the
/// audit of the management API (default: info).
#[derive(Debug, Args)]
#[command(after_help = "Run it on every host.\n\n\
                        Example:\n  relevo serve\n  relevo --root /srv/relevo-test serve")]
pub struct ServeArgs {
    /// Log as JSON, one object per line
    #[arg(long)]
    log_json: bool,
}

pub fn run(args: &ServeArgs, root: Option<PathBuf>) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Who changed what through the management API is no matter of taste.
    let filter = filter.add_directive(AUDIT.parse().expect("a directive"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // The journal and files get no colours.
    let log = log.with_ansi(io::stderr().is_terminal());
    if args.log_json {
        log.json().init();
    } else {
        log.init();
    }
    service::daemon::run(root, crate::management::start)
}
