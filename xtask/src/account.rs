//! The account that Debian's libvirt looks up when it opens as root, before it reads its settings. The
//! package that would make it, `libvirt-daemon-system`, also starts services, which the tests do not need.

use crate::{output, run, setup};
use anyhow::{Context, Result, bail};
use std::process::Command;

const ACCOUNT: &str = "libvirt-qemu";

pub fn ensure() -> Result<()> {
    let exists = |database: &str| output(Command::new("getent").args([database, ACCOUNT])).is_ok();
    if exists("passwd") && exists("group") {
        return Ok(());
    }
    println!("missing: the account {ACCOUNT} (libvirt opens as root only where it exists)");
    let group = ["groupadd", "--system", ACCOUNT];
    let user = [
        "useradd",
        "--system",
        "--gid",
        ACCOUNT,
        "--no-create-home",
        "--home-dir",
        "/var/lib/libvirt",
        "--shell",
        "/usr/sbin/nologin",
        ACCOUNT,
    ];
    let Some(root) = setup::become_root() else {
        bail!(
            "this needs root, and sudo asks for a password; run\n  {}\n  {}",
            group.join(" "),
            user.join(" ")
        );
    };
    let as_root = |words: &[&str]| {
        let words: Vec<&str> = root.iter().chain(words).copied().collect();
        run(Command::new(words[0]).args(&words[1..])).context("cannot make the account")
    };
    if !exists("group") {
        as_root(&group)?;
    }
    if exists("passwd") { Ok(()) } else { as_root(&user) }
}
