//! `cargo xtask setup`: names what is missing on Debian 12 and installs it. Where it may not, it refuses
//! with the list and the command to run.

use crate::{output, run};
use anyhow::{Context, Result, bail};
use std::{fs, process::Command};

/// Package, and what needs it.
const PACKAGES: [(&str, &str); 25] = [
    ("libvirt-dev", "build"),
    ("pkg-config", "build"),
    ("libkrb5-dev", "build"),
    ("libclang-dev", "build"),
    ("libc6-dev", "the test guest's static writer"),
    ("busybox-static", "the test guest"),
    ("cpio", "the test guest"),
    (QEMU_UTILS, "run and test"),
    ("qemu-system-x86", "test"),
    ("libvirt-daemon", "test"),
    ("libvirt-daemon-driver-qemu", "test"),
    ("libvirt-clients", "test"),
    ("krb5-kdc", "test"),
    ("krb5-admin-server", "test"),
    ("krb5-user", "test"),
    ("faketime", "test"),
    ("swtpm", "test"),
    ("swtpm-tools", "test"),
    ("python3-venv", "the test clients"),
    ("sblim-wbemcli", "a test client"),
    ("wsl", "a test client"),
    ("curl", "test, and the test client wsl"),
    ("uuid-runtime", "the test client wsl"),
    ("libnbd-bin", "bench"),
    ("rsync", "bench"),
];

/// Named beside its own release: a newer one (from backports, say) conflicts with Debian 12's QEMU, and
/// apt then refuses to install that instead of taking this one back.
const QEMU_UTILS: &str = "qemu-utils";

pub fn install() -> Result<()> {
    let missing: Vec<_> = PACKAGES.into_iter().filter(|(package, _)| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (package, need) in &missing {
        println!("missing: {package} ({need})");
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let by_hand = || format!("apt-get {}", install_arguments(&names).join(" "));
    if !is_debian_12(&fs::read_to_string("/etc/os-release").unwrap_or_default()) {
        bail!("this is not Debian 12: install these yourself; there it would be\n  {}", by_hand());
    }
    if become_root().is_none() {
        bail!("this needs root, and sudo asks for a password; run\n  {}", by_hand());
    }
    update_lists()?;
    let arguments = install_arguments(&names);
    apt(&[&["-q", "-y"], &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())
}

/// What apt-get is told, with the QEMU tools held to the release that QEMU itself would come from.
fn install_arguments(names: &[&str]) -> Vec<String> {
    let mut arguments = vec!["install", "--no-install-recommends", "--allow-downgrades"];
    arguments.extend(names.iter().filter(|name| **name != QEMU_UTILS));
    let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    if names.contains(&"qemu-system-x86") || names.contains(&QEMU_UTILS) {
        arguments.push(qemu_utils_of_this_release().unwrap_or_else(|| QEMU_UTILS.to_owned()));
    }
    arguments
}

/// Asks the mirrors for their package lists: old ones name versions that the mirrors no longer have.
pub fn update_lists() -> Result<()> {
    apt(&["update", "-q"])
}

/// `apt-get` as root.
fn apt(arguments: &[&str]) -> Result<()> {
    let mut words = become_root().context("this needs root, and sudo asks for a password")?;
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    run(Command::new(words[0]).args(&words[1..]).args(arguments))
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn is_debian_12(os_release: &str) -> bool {
    let has = |line: &str| os_release.lines().any(|other| other.replace('"', "") == line);
    has("ID=debian") && has("VERSION_ID=12")
}

/// What to put before a command so that it runs as root; `None` where it cannot.
pub fn become_root() -> Option<Vec<&'static str>> {
    let prints_zero = |command: &mut Command| output(command).is_ok_and(|out| out.trim() == "0");
    if prints_zero(Command::new("id").arg("-u")) {
        return Some(vec![]);
    }
    prints_zero(Command::new("sudo").args(["-n", "id", "-u"])).then(|| vec!["sudo", "-n"])
}

/// `qemu-utils=VERSION` with the version that belongs to the QEMU that apt would install. A version holds
/// whether the mirror calls the release by its name or by its age (bookworm, oldstable). `None` while apt
/// has no lists.
fn qemu_utils_of_this_release() -> Option<String> {
    let policy = output(Command::new("apt-cache").args(["policy", "qemu-system-x86"])).ok()?;
    candidate(&policy).map(|version| format!("{QEMU_UTILS}={version}"))
}

fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_apts_policy() {
        let policy = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7+deb12u18+b3\n";
        assert_eq!(candidate(policy), Some("1:7.2+dfsg-7+deb12u18+b3"));
        assert_eq!(candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn only_debian_12_is_debian_12() {
        assert!(is_debian_12("NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n"));
        assert!(!is_debian_12("VERSION_ID=\"13\"\nID=debian\n"));
        assert!(!is_debian_12("VERSION_ID=\"12\"\nID=linuxmint\nID_LIKE=debian\n"));
    }
}
