//! Carries one command out: the plan and the question before a dangerous one, progress while its job runs,
//! the answer.

use crate::{
    cli::Options,
    client::{Client, only_looks},
    output::{self, Detail},
    progress::Progress,
    render,
};
use service::api::{Command, ErrorKind, Failure, JobState, PlanView, Reply, Request};
use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

pub fn ask(client: &Client, options: &Options, command: Command) -> Result<ExitCode, Failure> {
    let detail = match &command {
        Command::Status { vm: Some(_) } => Detail::Full,
        _ => Detail::Short,
    };
    if options.dry_run {
        let plan = Reply::Plan(plan(client, &command)?);
        return Ok(output::reply(&plan, detail, options.json));
    }
    if command.is_dangerous() {
        confirm(client, options, &command)?;
    }
    // Showing a failed job is a success; having waited for it is not.
    let waits = matches!(command, Command::JobWatch { .. }) || !options.no_wait && !only_looks(&command);
    let mut progress = Progress::new(options.json);
    let reply = client.ask(&Request { command, dry_run: false, wait: waits }, &mut |job| progress.show(job));
    progress.end();
    match reply? {
        Reply::Job(job) if waits && job.state.has_ended() && job.state != JobState::Completed => {
            Err(job.failure.unwrap_or_else(|| {
                Failure::new(ErrorKind::Cancelled, "job-cancelled", format!("{} was cancelled", job.kind))
            }))
        }
        // Whoever waited wants the result, not the job.
        Reply::Job(job) if waits && !options.json && job.outcome.is_some() => {
            output::print(&job.outcome.unwrap_or_default());
            Ok(ExitCode::SUCCESS)
        }
        reply => Ok(output::reply(&reply, detail, options.json)),
    }
}

/// What a dangerous command would do. Others have no plan.
fn plan(client: &Client, command: &Command) -> Result<PlanView, Failure> {
    if !command.is_dangerous() {
        return Err(Failure::new(
            ErrorKind::InvalidParameter,
            "dry-run-unsupported",
            "`--dry-run` is only for commands that stop, start or lose something, and this one does not",
        ));
    }
    match client.ask(&Request { command: command.clone(), dry_run: true, wait: false }, &mut |_| {})? {
        Reply::Plan(plan) => Ok(plan),
        _ => Err(Failure::new(
            ErrorKind::Failed,
            "answer-unexpected",
            "the daemon did not answer with its plan; nothing was done",
        )),
    }
}

/// Shows the plan of a dangerous command and lets the operator decide.
fn confirm(client: &Client, options: &Options, command: &Command) -> Result<(), Failure> {
    if options.yes && options.json {
        return Ok(());
    }
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !options.yes && !terminal {
        return Err(Failure::new(
            ErrorKind::Cancelled,
            "not-confirmed",
            "this command stops, starts or loses something, and there is no terminal to ask on; nothing was done",
        )
        .hint("show what it would do with `--dry-run`, then repeat it with `--yes`"));
    }
    output::note(&render::job::plan(&plan(client, command)?));
    if options.yes || agreed(&mut io::stdin().lock(), &mut io::stderr()) {
        return Ok(());
    }
    Err(Failure::new(ErrorKind::Cancelled, "declined", "declined; nothing was done"))
}

/// Only a clear yes is one: an empty line, the end of input and anything else are not.
fn agreed(answers: &mut impl BufRead, questions: &mut impl Write) -> bool {
    let mut answer = String::new();
    let asked = write!(questions, "Go on? [y/N] ").and_then(|()| questions.flush());
    asked.is_ok()
        && answers.read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        let agreed = |text: &str| agreed(&mut text.as_bytes(), &mut Vec::new());
        for yes in ["y\n", "Y\n", "yes\n", " YES \n", "y"] {
            assert!(agreed(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "no\n", "yess\n", "j\n", "y y\n", "\u{ff}\n"] {
            assert!(!agreed(no), "{no:?}");
        }
    }
}
