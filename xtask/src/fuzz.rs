//! `cargo xtask fuzz`: builds the targets with coverage counters, which takes no more than stable compiler flags, and
//! has libFuzzer look for bytes that one of them does not get over.

use crate::{output, root, run};
use anyhow::{Context, Result, bail};
use std::{fs, path::PathBuf, process::Command};

/// What `cargo fuzz` passes, without the sanitizers: they need a nightly compiler, and find what safe code rules out.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Counters of one crate in several objects do not add up.
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Longer inputs are slower, and seldom show more.
const BYTES_MAX: u32 = 8 << 10;
/// An input that takes longer than this is a finding, too.
const SECONDS_MAX: u32 = 5;
/// As is one for which the process grows beyond this.
const MIB_MAX: u32 = 1024;

/// All targets, or the named one, each for so many minutes. What is found ends the run.
pub fn run_all(minutes: u32, only: Option<&str>) -> Result<()> {
    let program = build()?;
    let named = targets()?;
    if let Some(unknown) = only.filter(|only| !named.iter().any(|target| target == only)) {
        bail!("there is no target {unknown}: there are {}", named.join(", "));
    }
    for target in named.iter().filter(|target| only.is_none_or(|only| only == *target)) {
        println!("{target}: {minutes} min");
        let work = root().join("target/fuzz").join(target);
        fs::create_dir_all(work.join("found")).with_context(|| format!("cannot make {}", work.display()))?;
        let kept = root().join("fuzz/corpus").join(target);
        let mut command = Command::new(&program);
        command.arg(format!("--target={target}"));
        command.arg(format!("-max_total_time={}", minutes * 60));
        command.args([format!("-max_len={BYTES_MAX}"), format!("-timeout={SECONDS_MAX}")]);
        command.args([format!("-rss_limit_mb={MIB_MAX}"), "-print_final_stats=1".to_owned()]);
        command.arg(format!("-dict={}", root().join("fuzz/dictionary.txt").display()));
        command.arg(format!("-artifact_prefix={}/found/", work.display()));
        // What reaches new code goes to the first folder.
        command.arg(work.join("corpus")).arg(kept);
        fs::create_dir_all(work.join("corpus"))?;
        run(&mut command).with_context(|| {
            format!("{target} has a fault: mend it, and keep the bytes below fuzz/corpus/{target}")
        })?;
    }
    Ok(())
}

/// In a folder of its own: everything is built with other flags.
fn build() -> Result<PathBuf> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--package", "fuzz", "--features", "engine"]);
    // With a target named, the flags are not for build scripts.
    cargo.args(["--target", host, "--target-dir", "target/fuzz/build"]);
    run(cargo.env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f")).current_dir(root()))?;
    Ok(root().join("target/fuzz/build").join(host).join("release/fuzz"))
}

/// As the folders of the corpus are named.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/corpus");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = vec![];
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
