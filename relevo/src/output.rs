//! What a command leaves behind: text or one JSON document on stdout, errors on stderr, an exit code.
//! Writing to a closed stdout is not an error: the work is done, whoever reads has seen enough.

use crate::render;
use serde::Serialize;
use serde_json::json;
use service::api::{ErrorKind, Failure, Reply};
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// How much of a relationship or VM to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A table with a line each.
    Short,
    /// Everything.
    Full,
}

/// Prints a reply. The exit code is 0, except for a verification that found differences.
pub fn reply(reply: &Reply, detail: Detail, as_json: bool) -> ExitCode {
    let text = if as_json { content(reply) } else { render::reply(reply, detail) };
    print(&text);
    match reply {
        Reply::Verify(view) if !view.mismatches.is_empty() => ErrorKind::Corrupt.exit_code().into(),
        _ => ExitCode::SUCCESS,
    }
}

pub fn failure(failure: &Failure, as_json: bool) -> ExitCode {
    if as_json {
        print(&failure_content(failure));
    } else {
        note(&failure_text(failure));
    }
    failure.kind.exit_code().into()
}

/// `error: …`, and the way out on a line of its own.
pub fn failure_text(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("error: {}\nhint: {hint}", failure.message),
        None => format!("error: {}", failure.message),
    }
}

/// The command's result, on stdout.
pub fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{}", render::printable(text.trim_end()));
}

/// Says something on stderr.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", render::printable(text));
}

/// The JSON document of a reply: its content, without the tag that names the kind of reply.
pub fn content(reply: &Reply) -> String {
    match reply {
        Reply::Done { message } => pretty(&json!({ "message": message })),
        Reply::Host(view) => pretty(view),
        Reply::Vms(views) => pretty(views),
        Reply::Vm(view) => pretty(view),
        Reply::Authorizations(views) => pretty(views),
        Reply::Relationships(views) => pretty(views),
        Reply::Points(views) => pretty(views),
        Reply::Plan(view) => pretty(view),
        Reply::Job(view) => pretty(view),
        Reply::Jobs(views) => pretty(views),
        Reply::Verify(view) => pretty(view),
    }
}

pub fn failure_content(failure: &Failure) -> String {
    pretty(&json!({ "error": failure }))
}

pub fn pretty(content: &impl Serialize) -> String {
    serde_json::to_string_pretty(content).expect("a view is plain data")
}
