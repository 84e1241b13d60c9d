//! Runs every test in a process of its own where nextest is not installed: libvirt's driver state is per
//! process, so that tests on real VMs cannot share one.

use crate::{output, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

/// A test binary and the folder of its package.
struct Binary {
    path: PathBuf,
    folder: PathBuf,
    name: String,
}

/// Builds and runs all tests, two at a time, with this environment variable. Ends with a summary line.
pub fn run(variable: Option<(&str, String)>, arguments: &[OsString]) -> Result<()> {
    let binaries = build(arguments)?;
    let mut tests = vec![];
    for binary in &binaries {
        let list = output(
            Command::new(&binary.path).args(["--list", "--format", "terse"]).current_dir(&binary.folder),
        )?;
        tests.extend(
            list.lines().filter_map(|line| line.strip_suffix(": test")).map(|test| (binary, test.to_owned())),
        );
    }
    println!("running {} tests in {} binaries", tests.len(), binaries.len());
    tests.reverse();
    let queue = Mutex::new(tests);
    let failed = Mutex::new(vec![]);
    let passed = Mutex::new(0usize);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some((binary, test)) = next else { return };
                    if run_one(binary, &test, variable.clone()) {
                        *passed.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                    } else {
                        let name = format!("{} {test}", binary.name);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let passed = passed.into_inner().unwrap_or_else(PoisonError::into_inner);
    for name in &failed {
        println!("FAILED {name}");
    }
    println!("{passed} passed, {} failed", failed.len());
    if failed.is_empty() { Ok(()) } else { bail!("{} tests failed", failed.len()) }
}

fn run_one(binary: &Binary, test: &str, variable: Option<(&str, String)>) -> bool {
    let result = Command::new(&binary.path)
        .args(["--exact", test, "--nocapture"])
        .envs(variable)
        .current_dir(&binary.folder)
        .output();
    match result {
        Ok(output) if output.status.success() => {
            println!("PASS {} {test}", binary.name);
            true
        }
        Ok(output) => {
            println!("FAIL {} {test}", binary.name);
            println!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            false
        }
        Err(error) => {
            println!("FAIL {} {test}: {error}", binary.name);
            false
        }
    }
}

fn build(arguments: &[OsString]) -> Result<Vec<Binary>> {
    let mut command = Command::new("cargo");
    command.args(["test", "--no-run", "--message-format", "json-render-diagnostics"]);
    if arguments.is_empty() {
        command.arg("--workspace");
    }
    let built = command.args(arguments).current_dir(root()).stderr(std::process::Stdio::inherit()).output();
    let built = built.context("cannot start cargo")?;
    if !built.status.success() {
        bail!("the tests do not build");
    }
    let messages = String::from_utf8_lossy(&built.stdout).into_owned();
    let binary = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        Some(Binary {
            path: path.into(),
            folder: manifest.parent()?.to_owned(),
            name: message["target"]["name"].as_str()?.to_owned(),
        })
    };
    Ok(messages.lines().filter_map(binary).collect())
}
