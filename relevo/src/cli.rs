//! The command line's grammar: global options and the list of commands. Each family's arguments stand
//! beside its code under `commands/`.

use crate::{commands, output};
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind as ClapError};
use service::api::{ErrorKind, Failure};
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

const ABOUT: &str = "\
Keeps a standby of every protected VM on another host, lets it take over in seconds, and brings the VM \
home again without copying it back.";

const STEPS: &str = "\
How to start, with the VM `web` on a.example and its standby on b.example:
  relevo cert init                                   # on a.example
  relevo cert issue a.example --out a.bundle         # on a.example
  relevo cert install a.bundle                       # on a.example
  relevo cert issue b.example --out b.bundle         # on a.example; carry the bundle to b.example
  relevo cert install b.bundle                       # on b.example
  relevo authorize a.example --storage /srv/relevo   # on b.example: a.example may send
  relevo authorize b.example --storage /srv/relevo   # on a.example: keeps the way back open
  relevo protect web --to b.example                  # on a.example
  relevo status                                      # on either host

When a.example is gone:
  relevo failover web                                # on b.example

Exit codes and the JSON documents are described in docs/cli.md.";

#[derive(Debug, Parser)]
#[command(name = "relevo", version, about = ABOUT, after_help = STEPS, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Options {
    /// Work with the instance that lives under DIR (socket DIR/run/control.sock, configuration
    /// DIR/etc/relevo.toml) instead of the system's
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Do not ask before a command that stops, starts or loses something
    #[arg(long, global = true)]
    pub yes: bool,
    /// Show what such a command would do, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Do not wait for the job that the command starts: answer with the job
    #[arg(long, global = true)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    Status(commands::status::StatusArgs),
    Points(commands::status::PointsArgs),
    Protect(commands::protect::ProtectArgs),
    Configure(commands::protect::ConfigureArgs),
    Start(commands::protect::StartArgs),
    Import(commands::protect::ImportArgs),
    Seed(commands::protect::SeedArgs),
    Disks(commands::protect::DisksArgs),
    Retarget(commands::protect::RetargetArgs),
    Unprotect(commands::protect::UnprotectArgs),
    Suspend(commands::protect::SuspendArgs),
    Resume(commands::protect::ResumeArgs),
    Resync(commands::protect::ResyncArgs),
    Scrub(commands::protect::ScrubArgs),
    ResetStatistics(commands::protect::ResetStatisticsArgs),
    Verify(commands::status::VerifyArgs),
    Failover(commands::failover::FailoverArgs),
    FailoverNetwork(commands::network::NetworkArgs),
    Revert(commands::failover::RevertArgs),
    Commit(commands::failover::CommitArgs),
    Reverse(commands::failover::ReverseArgs),
    Failback(commands::failback::FailbackArgs),
    /// VMs of this host and their power
    #[command(subcommand)]
    Vm(commands::vm::VmAction),
    /// Long-running operations
    #[command(subcommand)]
    Job(commands::job::JobAction),
    Authorize(commands::authorize::AuthorizeArgs),
    /// Certificates with which hosts know each other (work without the daemon)
    #[command(subcommand)]
    Cert(commands::cert::CertAction),
    /// Who may log in to the management listeners (works without the daemon)
    #[command(subcommand)]
    User(commands::user::UserAction),
    Host(commands::status::HostArgs),
    Serve(commands::serve::ServeArgs),
    Completion(commands::completion::CompletionArgs),
}

/// Reads the command line. Help and mistakes are printed here; what is left to do is to exit.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let args: Vec<OsString> = args.collect();
    Cli::try_parse_from(&args).and_then(absolute_root).map_err(|error| {
        let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
        if error.use_stderr() && json {
            return output::failure(&usage(&error), true);
        }
        // A closed stdout (`relevo --help | head -1`) is nobody's mistake.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
    })
}

/// The daemon has another working folder than the operator.
fn absolute_root(mut cli: Cli) -> Result<Cli, clap::Error> {
    if let Some(root) = &cli.options.root {
        let root = std::path::absolute(root).map_err(|error| {
            Cli::command().error(ClapError::ValueValidation, format!("cannot use `--root`: {error}"))
        })?;
        cli.options.root = Some(root);
    }
    Ok(cli)
}

fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let mut parts = text.trim().splitn(2, "\n\n");
    let message = parts.next().unwrap_or_default().trim_start_matches("error: ");
    let failure = Failure::new(ErrorKind::InvalidParameter, "usage", message);
    match parts.next() {
        Some(rest) => failure.hint(rest.trim()),
        None => failure,
    }
}

#[cfg(test)]
pub mod tests;
