//! `cargo xtask bench`: what Relevo costs, each figure beside a peer that ran in turn with it on the same
//! machine. Raw figures go to `docs/figures/NAME.json`, the table to `docs/performance.md`. Missed targets are
//! shown, not failures: figures depend on the machine.

mod bare;
mod begin;
mod content;
mod copy;
mod cycle;
mod home;
mod management;
mod memory;
mod report;
mod resync;
mod takeover;

use anyhow::{Context, Result, bail, ensure};
use report::{Figure, Report};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};
use testkit::{GuestSpec, domain_xml, pair::Host};

/// A disk's pace is none of the business of a bulk copy.
pub const FOLDER: &str = "/dev/shm";
/// Where guests run: libvirt gives QEMU a /dev of its own, without what lies below /dev/shm.
pub const GUESTS_FOLDER: &str = "/tmp";
pub const VM: &str = "guest";

/// What the command line says.
pub struct Options {
    pub runs: usize,
    pub minutes: u64,
    pub disk_bytes: u64,
    pub only: Option<String>,
}

type Measure = fn(&Options) -> Result<Vec<Figure>>;

const BENCHES: &[(&str, Measure)] = &[
    ("first-copy", copy::first_copy),
    ("turn", cycle::turn),
    ("interval", cycle::interval),
    ("failover", takeover::failover),
    ("failback", home::failback),
    ("resync", resync::resync),
    ("begin", begin::begin),
    ("memory", memory::memory),
    ("management", management::management),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = options()?;
    let report = Report::new()?;
    for (name, measure) in BENCHES {
        if options.only.as_deref().is_some_and(|only| only != *name) {
            continue;
        }
        println!("{name}");
        match measure(&options) {
            Ok(figures) => report.keep(name, &figures)?,
            // The others may still be measured.
            Err(error) => println!("  could not be measured: {error:#}"),
        }
    }
    report.write_table(&names())
}

fn names() -> Vec<&'static str> {
    BENCHES.iter().map(|(name, _)| *name).collect()
}

fn options() -> Result<Options> {
    let mut options = Options { runs: 5, minutes: 10, disk_bytes: 4 << 30, only: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--runs" => options.runs = value()?.parse()?,
            "--minutes" => options.minutes = value()?.parse()?,
            "--disk-mib" => options.disk_bytes = value()?.parse::<u64>()? << 20,
            "--only" => options.only = Some(value()?),
            _ => bail!("{word}? options: --runs N, --only NAME, --minutes N, --disk-mib N"),
        }
    }
    let known = |only: &String| BENCHES.iter().any(|(name, _)| name == only);
    ensure!(options.only.as_ref().is_none_or(known), "benchmarks: {}", names().join(", "));
    ensure!(options.runs > 0, "at least one run");
    Ok(options)
}

/// A program of this build, beside this one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} does not exist: cargo build --release", path.display());
    Ok(path)
}

/// Runs a tool to its end.
pub fn tool(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output)
}

/// Defines the guest on a host, shut off.
pub fn define(host: &Host, spec: &GuestSpec) -> Result<()> {
    let xml = host.root.join(format!("{}.xml", spec.name));
    std::fs::write(&xml, domain_xml(spec)?)?;
    host.run(&["vm", "define", &xml.to_string_lossy()])?;
    Ok(())
}

pub fn create_disk(path: &Path, bytes: u64) -> Result<()> {
    let mut command = Command::new("qemu-img");
    tool(command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(bytes.to_string()))?;
    Ok(())
}
