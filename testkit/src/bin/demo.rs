//! `cargo xtask demo`: shows the story. With `--keep` the hosts run on until they are interrupted.

use anyhow::{Result, ensure};
use std::{env, path::PathBuf, process::ExitCode};
use testkit::{pair::Pair, story};

fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe story does not hold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let binary = binary()?;
    let pair = story::tell(Pair::start(&binary)?)?;
    if env::args().any(|arg| arg == "--keep") {
        println!("\nThe hosts go on running. Talk to them:");
        for host in [&pair.a, &pair.b] {
            println!("  {} --root {} status", binary.display(), host.root.display());
        }
        let (root, pids) = pair.keep();
        println!("To end it: kill {pids}; the guest's QEMU and the files are under {}", root.display());
    }
    Ok(())
}

/// `relevo` beside this binary.
fn binary() -> Result<PathBuf> {
    let path = env::current_exe()?.with_file_name("relevo");
    ensure!(path.exists(), "{} does not exist: cargo build -p relevo", path.display());
    Ok(path)
}
