//! The management clients that the tests run, unmodified: `target/clients`, a Python environment with exactly the
//! packages of `testkit/clients.txt`. Built again only when one of these, or Debian's Python, changed.

use crate::{output, run};
use anyhow::{Context, Result};
use std::{fs, io::ErrorKind, path::Path, process::Command};

/// Debian's own, whatever other one comes first in the path.
const PYTHON: &str = "/usr/bin/python3";

pub fn build(root: &Path) -> Result<()> {
    let (dir, pins) = (root.join("target/clients"), root.join("testkit/clients.txt"));
    let wanted = fs::read_to_string(&pins).with_context(|| format!("cannot read {}", pins.display()))?;
    let key = format!("{}{wanted}", output(Command::new(PYTHON).arg("--version"))?);
    // Written last: without it the environment is half of one.
    let key_file = dir.join("key");
    if fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    println!("building the management clients in {}", dir.display());
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    run(Command::new(PYTHON).args(["-m", "venv"]).arg(&dir))?;
    let pip = || {
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "--disable-pip-version-check"]);
        pip
    };
    // No package comes that is not named.
    run(pip().args(["install", "--quiet", "--no-deps", "--requirement"]).arg(&pins))?;
    run(pip().args(["check", "--quiet"]))?;
    Ok(fs::write(key_file, key)?)
}
