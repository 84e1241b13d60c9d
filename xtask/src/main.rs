//! The only automation language of this repository: `cargo xtask COMMAND`. Builds with a Rust toolchain
//! alone, before libvirt's headers are there, so that `setup` can bring them.

mod account;
mod clients;
mod fuzz;
mod guest;
mod runner;
mod setup;
mod tidy;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, test and check this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need (Debian 12), and build the test guest and clients
    Setup,
    /// Build the test guest's kernel and initramfs in target/guest
    Guest,
    /// Set up, then run all tests; arguments go to the test runner
    Test {
        /// How often the crash tests kill in each flow
        #[arg(long, value_name = "N")]
        kills: Option<u32>,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Set up, then show two hosts, one VM, a failover and the way home; arguments go to the demo
    Demo {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Set up, then measure; arguments go to the benchmark
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Look for bytes that the management protocols' parsers do not get over; by hand, not in CI
    Fuzz {
        /// How long for each target
        #[arg(long, value_name = "N", default_value_t = 10)]
        minutes: u32,
        /// One parser; all, one after the other, where none is named
        target: Option<String>,
    },
    /// Hold the walls: crate graph, code map, unsafe, file length, sleeps, links
    Tidy,
    /// What continuous integration runs: fmt, clippy, tidy, test
    Ci,
}

/// What tells the crash tests how often to kill.
const KILLS: &str = "RELEVO_KILLS";

fn main() -> ExitCode {
    match carry_out(&Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(task: &Task) -> Result<()> {
    match task {
        Task::Setup => prepare(),
        Task::Guest => guest::build(&root()),
        Task::Test { kills, arguments } => test(*kills, arguments),
        // Both drive the daemon's binary from outside, from beside their own.
        Task::Demo { arguments } => {
            prepare()?;
            cargo(["build", "--package", "relevo"], &[])?;
            cargo(["run", "--quiet", "--package", "testkit", "--bin", "demo", "--"], arguments)
        }
        Task::Bench { arguments } => {
            prepare()?;
            cargo(["build", "--release", "--package", "relevo"], &[])?;
            cargo(["build", "--release", "--package", "hypervisor", "--example", "bare"], &[])?;
            cargo(["run", "--quiet", "--release", "--package", "testkit", "--bin", "bench", "--"], arguments)
        }
        Task::Fuzz { minutes, target } => fuzz::run_all(*minutes, target.as_deref()),
        Task::Tidy => tidy::check(&root()),
        Task::Ci => {
            prepare()?;
            cargo(["fmt", "--all", "--check"], &[])?;
            cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
            tidy::check(&root())?;
            test(None, &[])
        }
    }
}

fn prepare() -> Result<()> {
    setup::install()?;
    account::ensure()?;
    clients::build(&root())?;
    guest::build(&root())
}

/// Ends with the runner's own summary.
fn test(kills: Option<u32>, arguments: &[OsString]) -> Result<()> {
    prepare()?;
    let kills = kills.map(|kills| (KILLS, kills.to_string()));
    let nextest = Command::new("cargo").args(["nextest", "--version"]).output();
    if nextest.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("cargo");
        command.args(["nextest", "run", "--workspace"]).args(arguments).current_dir(root());
        run(command.envs(kills))
    } else {
        runner::run(kills, arguments)
    }
}

fn cargo<const N: usize>(fixed: [&str; N], more: &[OsString]) -> Result<()> {
    run(Command::new("cargo").args(fixed).args(more).current_dir(root()))
}

/// Runs a command with our own standard streams; fails when it does.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}
