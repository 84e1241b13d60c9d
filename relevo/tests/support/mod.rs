//! What the tests on two real hosts share: a pair of hosts and a guest with the write oracle.

#![allow(dead_code, reason = "each test file uses its part")]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use testkit::{
    GuestSpec, domain_xml,
    oracle::{self, Ack, Verdict},
    pair::{Host, Pair},
    poll_for,
};

pub const VM: &str = "guest";
/// Generous: software emulation on two shared cores.
pub const BOUND: Duration = Duration::from_secs(120);

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_relevo"))
}

/// A qcow2 of this virtual size.
pub fn image(path: &Path, format: &str, size_bytes: u64) -> Result<()> {
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", format])
        .arg(path)
        .arg(size_bytes.to_string())
        .status()?;
    ensure!(made.success(), "qemu-img create failed");
    Ok(())
}

/// Two hosts; a guest with two disks runs on the first and writes.
pub struct Stage {
    pub pair: Pair,
    pub serial: PathBuf,
}

impl Stage {
    pub fn new(disks_bytes: &[u64]) -> Result<Self> {
        let pair = Pair::start(binary())?;
        let mut disks = vec![];
        for (index, size) in disks_bytes.iter().enumerate() {
            let path = pair.root.join(format!("a/disk-{index}.qcow2"));
            image(&path, "qcow2", *size)?;
            disks.push((path, "qcow2"));
        }
        let serial = pair.root.join("serial.log");
        let spec = GuestSpec::new(VM, &disks, &serial);
        Self::with(pair, &spec)
    }

    /// Defines and starts the guest on host a, and waits until it writes.
    pub fn with(pair: Pair, spec: &GuestSpec) -> Result<Self> {
        let xml = pair.root.join("guest.xml");
        fs::write(&xml, domain_xml(spec)?)?;
        pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
        pair.a.run(&["vm", "start", VM])?;
        let stage = Self { pair, serial: spec.serial.clone() };
        stage.wait_for_acks(10)?;
        Ok(stage)
    }

    pub fn protect(&self) -> Result<()> {
        let every = ["--interval", "1", "--history", "4", "--history-every", "2s"];
        let args: Vec<&str> = ["protect", VM, "--to", "b.example"].into_iter().chain(every).collect();
        self.pair.a.run(&args)?;
        Ok(())
    }

    pub fn wait_for_acks(&self, more: u64) -> Result<()> {
        let from = oracle::read_log(&self.serial)?.acks;
        poll_for(BOUND, || (oracle::read_log(&self.serial).ok()?.acks >= from + more).then_some(()))
            .with_context(|| format!("the guest does not write; it said last:\n{}", self.last_words()))
    }

    /// The end of what the guest said on its console, and what each host says of the VM.
    fn last_words(&self) -> String {
        let said = fs::read(&self.serial).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("ack ")).collect();
        let status = |host: &Host| match host.status(VM) {
            Ok(status) => format!("{status:#}"),
            Err(error) => format!("{error:#}"),
        };
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("{last}\na: {}\nb: {}", status(&self.pair.a), status(&self.pair.b))
    }

    /// Brings the VM up on a host where it may run. A QEMU that was just killed is running to libvirt until
    /// libvirt looks.
    pub fn bring_up(&self, host: &Host) -> Result<()> {
        let mut last = Value::Null;
        poll_for(BOUND, || {
            last = host.status(VM).ok()?;
            if last["power_state"] != "running" {
                let _ = host.run(&["vm", "start", VM]);
                return None;
            }
            host.qemu_pid(VM).is_some_and(testkit::is_running).then_some(())
        })
        .with_context(|| format!("the VM does not run on {}: {last:#}", host.name))
    }

    pub fn last_ack(&self) -> Result<Option<Ack>> {
        Ok(oracle::last_ack(&self.serial)?)
    }

    /// See [`Host::check_points`].
    pub fn check_points(&self, host: &Host) -> Result<(usize, Verdict)> {
        host.check_points(VM)
    }

    /// The newest point holds what was acknowledged before two more cycles of the host that sends.
    pub fn check_newest(&self, from: &Host, to: &Host) -> Result<Verdict> {
        let before = self.last_ack()?;
        from.wait_cycles(VM, 2, BOUND)?;
        let (_, verdict) = self.check_points(to)?;
        verdict.at_least(before)?;
        Ok(verdict)
    }
}
