//! What is: `status`, `points`, `verify`, `host`.

use super::unambiguous;
use crate::{
    cli::Options,
    client::Client,
    output::{self, Detail},
    render,
};
use clap::Args;
use model::DeltaId;
use service::api::{Command, ErrorKind, Failure, Reply};
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

/// Long enough to read, short enough to trust.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Show how replication stands: the worst first, with what to do about it
///
/// With a VM: everything about it. RPO is the age of the newest point on the replica as measured just now.
#[derive(Debug, Args)]
#[command(after_help = "Run it on either host; each shows the protections in which it takes part.\n\n\
                        Example:\n  relevo status\n  relevo status web --watch")]
pub struct StatusArgs {
    /// The VM's name or UUID
    vm: Option<String>,
    /// Refresh every two seconds until interrupted
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

/// List the recovery points of a VM, or drop one that is kept for export
///
/// `--drop` removes a point that is kept because a former primary wrote it and never sent it. Points of the
/// history come and go by themselves.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the replica's host.\n\n\
                        Example:\n  relevo points web\n  relevo points web --drop 3f2a")]
pub struct PointsArgs {
    /// The VM's name or UUID
    vm: String,
    /// Drop this point: its id, or the beginning of it
    #[arg(long, value_name = "POINT")]
    drop: Option<String>,
}

/// Read recovery points back and compare every cluster with its hash
///
/// All points, or the one given. Exit code 17 when something differs.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the replica's host.\n\nExample:\n  relevo verify web")]
pub struct VerifyArgs {
    /// The VM's name or UUID
    vm: String,
    /// Only this point: the beginning of an id from `relevo points`
    #[arg(long)]
    point: Option<String>,
}

/// Show this host: its name, addresses, libvirt and certificate
#[derive(Debug, Args)]
#[command(after_help = "Run it on any host.\n\nExample:\n  relevo host")]
pub struct HostArgs {}

impl StatusArgs {
    pub fn command(self) -> Command {
        Command::Status { vm: self.vm }
    }
}

impl PointsArgs {
    pub fn command(self, client: &Client) -> Result<Command, Failure> {
        let vm = self.vm;
        match self.drop {
            None => Ok(Command::Points { vm }),
            Some(text) => Ok(Command::DropPoint { point: find(&vm, &text, client)?, vm }),
        }
    }
}

impl VerifyArgs {
    pub fn command(self) -> Command {
        Command::Verify { vm: self.vm, point: self.point }
    }
}

fn find(vm: &str, text: &str, client: &Client) -> Result<DeltaId, Failure> {
    if let Ok(point) = text.parse() {
        return Ok(point);
    }
    match client.look(Command::Points { vm: vm.to_owned() })? {
        Reply::Points(points) => {
            let ids: Vec<DeltaId> = points.iter().map(|point| point.point).collect();
            unambiguous(&ids, text, "point", &format!("relevo points {vm}"))
        }
        _ => Err(Failure::new(
            ErrorKind::Failed,
            "answer-unexpected",
            "the daemon did not answer with its points",
        )),
    }
}

/// Shows the status again and again. A daemon that does not answer is shown too: whoever watches wants to
/// see it come back. Ends when stdout is closed or the operator interrupts.
pub fn watch(args: StatusArgs, client: &Client, options: &Options) -> Result<ExitCode, Failure> {
    super::refuse_dry_run(options, "relevo status --watch")?;
    let detail = if args.vm.is_some() { Detail::Full } else { Detail::Short };
    let command = args.command();
    let mut stdout = io::stdout();
    let home = if stdout.is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    loop {
        let text = match client.look(command.clone()) {
            Ok(reply) => render::reply(&reply, detail),
            // A VM that does not exist will not appear by waiting.
            Err(failure) if failure.kind == ErrorKind::NotFound => return Err(failure),
            Err(failure) => output::failure_text(&failure),
        };
        let shown = writeln!(stdout, "{home}{}", render::printable(&text)).and_then(|()| stdout.flush());
        if shown.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(WATCH_EVERY);
    }
}
