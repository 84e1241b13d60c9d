//! What is: `status`, `points`, `verify`, `host`.

use super::unambiguous;
use crate::{
    cli::Options,
    client::Client,
    output::{self, Detail},
    parse, render,
};
use clap::Args;
use model::{DeltaId, HostName};
use service::api::{Command, ErrorKind, Failure, Reply, ServiceChange};
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

/// Show this host: its name, addresses, libvirt and certificate; try another one; change how this one serves
#[derive(Debug, Args)]
#[command(after_help = "Run it on any host.\n\nExample:\n  relevo host\n  relevo host --test b.example")]
pub struct HostArgs {
    /// Does this other host answer, and would it let this one replicate to it: what is wrong, if anything
    #[arg(long, value_name = "HOST", conflicts_with_all = ["recovery_server", "monitoring_interval",
          "monitoring_start", "port", "kerberos_port", "certificate"])]
    test: Option<HostName>,
    /// How the two hosts are to prove to each other who they are
    #[arg(long, value_enum, value_name = "WAY", default_value = "certificate", requires = "test")]
    auth: super::protect::Auth,
    /// Try without this host's proxy
    #[arg(long, requires = "test")]
    bypass_proxy: bool,
    /// Receive replicas of other hosts: `on` or `off`
    #[arg(long, value_name = "ON|OFF", value_parser = parse::on_or_off)]
    recovery_server: Option<bool>,
    /// Time over which statistics and the share of missed cycles are reckoned, 1h to 7d
    #[arg(long, value_name = "DURATION", value_parser = parse::spacing_s)]
    monitoring_interval: Option<u32>,
    /// When of the day such an interval begins, as time after midnight, UTC: `9h`
    #[arg(long, value_name = "DURATION", value_parser = parse::spacing_s)]
    monitoring_start: Option<u32>,
    /// Listen for hosts with certificates on this port; their `address` of this host has to name it
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The same for hosts with tickets
    #[arg(long, value_name = "PORT")]
    kerberos_port: Option<u16>,
    /// Show the certificate with this thumbprint, one of `relevo cert show`
    #[arg(long, value_name = "THUMBPRINT")]
    certificate: Option<String>,
}

impl HostArgs {
    pub fn command(self) -> Command {
        if let Some(to) = self.test {
            let (authentication, bypass_proxy) = (self.auth.into(), self.bypass_proxy);
            return Command::TestConnection { to, authentication, bypass_proxy };
        }
        let change = ServiceChange {
            recovery_server: self.recovery_server,
            monitoring_interval_s: self.monitoring_interval,
            monitoring_start_s: self.monitoring_start,
            port: self.port,
            kerberos_port: self.kerberos_port,
            certificate: self.certificate,
        };
        if change == ServiceChange::default() { Command::Host } else { Command::ConfigureService { change } }
    }
}

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
