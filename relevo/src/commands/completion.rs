//! `relevo completion`: completion scripts for shells.

use crate::cli::Cli;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::{self, Write};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Run it on any host.\n\n\
                        Example:\n  relevo completion bash > /etc/bash_completion.d/relevo")]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

pub fn run(args: &CompletionArgs) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "relevo", &mut script);
    // A closed stdout (`relevo completion bash | head`) is nobody's mistake.
    let _ = io::stdout().write_all(&script);
}
