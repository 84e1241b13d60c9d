//! `relevo`: the daemon (`relevo serve`) and the operator's commands, in one binary. A command is sent to the
//! daemon over its control socket as plain data; what comes back is shown as text or, with `--json`, as one
//! document. Knows no SQL, no qcow2, no XML.

mod ask;
mod cli;
mod client;
mod commands;
#[cfg(test)]
mod docs;
mod management;
mod output;
mod parse;
mod progress;
mod render;
#[cfg(test)]
mod samples;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(cli) => commands::run(cli),
        Err(exit) => exit,
    }
}
