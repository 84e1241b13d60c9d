//! The operator's commands, one file per family: arguments, help, and the way to the daemon's command.

pub mod authorize;
pub mod cert;
pub mod completion;
pub mod failback;
pub mod failover;
pub mod job;
pub mod network;
pub mod protect;
pub mod serve;
pub mod status;
pub mod user;
pub mod vm;

use crate::{
    ask,
    cli::{Action, Cli, Options},
    client::Client,
    output,
};
use service::api::{Command, ErrorKind, Failure};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

pub fn run(cli: Cli) -> ExitCode {
    let options = cli.options;
    let client = Client::new(options.root.as_deref());
    let done = match cli.action {
        Action::Serve(args) => serve::run(&args, options.root.clone()).map(|()| ExitCode::SUCCESS),
        Action::Completion(args) => {
            completion::run(&args);
            Ok(ExitCode::SUCCESS)
        }
        Action::Cert(action) => cert::run(action, &client, &options),
        Action::User(action) => user::run(action, &options),
        Action::Status(args) if args.watch => status::watch(args, &client, &options),
        action => command(action, &client).and_then(|command| ask::ask(&client, &options, command)),
    };
    done.unwrap_or_else(|failure| output::failure(&failure, options.json))
}

/// What is sent to the daemon.
fn command(action: Action, client: &Client) -> Result<Command, Failure> {
    Ok(match action {
        Action::Status(args) => args.command(),
        Action::Points(args) => args.command(client)?,
        Action::Verify(args) => args.command(),
        Action::Host(args) => args.command(),
        Action::Protect(args) => args.command()?,
        Action::Configure(args) => args.command(),
        Action::Start(args) => args.command()?,
        Action::Import(args) => args.command()?,
        Action::Seed(args) => args.command(),
        Action::Disks(args) => args.command(),
        Action::Retarget(args) => args.command(),
        Action::Unprotect(args) => args.command(),
        Action::Suspend(args) => args.command(),
        Action::Resume(args) => args.command(),
        Action::Resync(args) => args.command(),
        Action::Scrub(args) => args.command(),
        Action::ResetStatistics(args) => args.command(),
        Action::Failover(args) => args.command(),
        Action::FailoverNetwork(args) => args.command()?,
        Action::Revert(args) => args.command(),
        Action::Commit(args) => args.command(),
        Action::Reverse(args) => args.command(),
        Action::Failback(args) => args.command(),
        Action::Vm(action) => action.command()?,
        Action::Job(action) => action.command(client)?,
        Action::Authorize(args) => args.command()?,
        Action::Serve(_) | Action::Completion(_) | Action::Cert(_) | Action::User(_) => {
            unreachable!("these work without the daemon")
        }
    })
}

/// The daemon has another working folder than the operator.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        let message = format!("cannot use the path {}: {error}", path.display());
        Failure::new(ErrorKind::InvalidParameter, "path", message)
    })
}

/// Refuses global options that mean nothing to a command that the daemon does not carry out.
fn refuse_dry_run(options: &Options, command: &str) -> Result<(), Failure> {
    if options.dry_run {
        return Err(Failure::new(
            ErrorKind::InvalidParameter,
            "dry-run-unsupported",
            format!("`--dry-run` is not possible with `{command}`"),
        ));
    }
    Ok(())
}

/// The one id among `known` that begins with `text`. `what` names it in the message, `list` is the command
/// that shows the known ones.
fn unambiguous<T: Copy + ToString>(known: &[T], text: &str, what: &str, list: &str) -> Result<T, Failure> {
    let wanted = text.to_ascii_lowercase();
    let found: Vec<T> = known.iter().copied().filter(|id| id.to_string().starts_with(&wanted)).collect();
    match found[..] {
        [id] => Ok(id),
        [] => Err(Failure::new(
            ErrorKind::NotFound,
            &format!("{what}-unknown"),
            format!("there is no {what} `{text}`"),
        )
        .hint(format!("`{list}` shows all"))),
        _ => Err(Failure::new(
            ErrorKind::InvalidParameter,
            &format!("{what}-ambiguous"),
            format!("`{text}` is the beginning of {} {what}s", found.len()),
        )
        .hint(format!("type more of it; `{list}` shows all"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::JobId;

    #[test]
    fn an_id_may_be_shortened_as_long_as_it_is_unambiguous() {
        let ids: Vec<JobId> = ["aa11", "aa22", "bb11"]
            .map(|start| format!("{start}0000-0000-4000-8000-000000000000").parse().unwrap())
            .to_vec();
        let find = |text| unambiguous(&ids, text, "job", "relevo job list");
        assert_eq!(find("BB").unwrap(), ids[2]);
        assert_eq!(find("aa2").unwrap(), ids[1]);
        assert_eq!(find("aa").unwrap_err().to_string(), "`aa` is the beginning of 2 jobs");
        assert_eq!(find("c").unwrap_err().kind, ErrorKind::NotFound);
    }
}
