//! The story of `cargo xtask demo`, told by the examples through the management API. What each step left on the
//! hosts is looked at by the command line and the write oracle.

use crate::{
    managed::{self, Ports},
    support::{BOUND, Stage, VM, image},
};
use anyhow::{Context, Result, ensure};
use std::{fs, path::PathBuf};
use testkit::{GuestSpec, domain_xml, oracle, pair::Host, poll_for};

const DISKS_BYTES: [u64; 2] = [64 << 20, (32 << 20) + 4096];

struct Story {
    protocol: &'static str,
    stage: Stage,
    ports: [Ports; 2],
}

/// Tells the story over a protocol, with both ends that it can have.
pub fn tell(protocol: &'static str) -> Result<()> {
    let mut story = begin(protocol)?;
    first_copy(&story)?;
    test_failover(&story)?;
    planned_failover(&story, "a", "b")?;
    planned_failover(&story, "b", "a")?;
    unplanned_failover(&mut story)?;
    failback(&story)?;
    unplanned_failover(&mut story)?;
    reverse(&story)
}

impl Story {
    /// Runs an example; the hosts go by their letters.
    fn run(&self, example: &str, args: &[&str]) -> Result<String> {
        let args: Vec<String> = args.iter().map(|arg| self.address(arg)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        managed::example(&self.stage.pair, self.protocol, example, &args)
    }

    fn address(&self, arg: &str) -> String {
        let [a, b] = self.ports;
        let ports = match arg {
            "a" => a,
            "b" => b,
            other => return other.to_owned(),
        };
        format!("localhost:{}", if self.protocol == "wsman" { ports.wsman } else { ports.cimxml })
    }

    fn host(&self, letter: &str) -> &Host {
        self.stage.pair.host(&format!("{letter}.example"))
    }

    fn boots(&self) -> Result<usize> {
        Ok(oracle::read_log(&self.stage.serial)?.boots)
    }

    /// The guest booted once more, and writes.
    fn wait_for_boot(&self, before: usize) -> Result<()> {
        let boot = || (oracle::read_log(&self.stage.serial).ok()?.boots > before).then_some(());
        poll_for(BOUND, boot).context("the guest does not boot")?;
        self.stage.wait_for_acks(5)
    }
}

fn begin(protocol: &'static str) -> Result<Story> {
    let (mut pair, ports) = managed::prepare()?;
    pair.a.start()?;
    pair.b.start()?;
    let mut disks = vec![];
    for (index, size) in DISKS_BYTES.into_iter().enumerate() {
        let path = pair.root.join(format!("a/disk-{index}.qcow2"));
        image(&path, "qcow2", size)?;
        disks.push((path, "qcow2"));
    }
    let serial = pair.root.join("serial.log");
    let xml = pair.root.join("guest.xml");
    fs::write(&xml, domain_xml(&GuestSpec::new(VM, &disks, &serial))?)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    let story = Story { protocol, stage: Stage { pair, serial }, ports };
    story.run("power", &["a", VM, "on"])?;
    story.stage.wait_for_acks(10)?;
    Ok(story)
}

fn first_copy(s: &Story) -> Result<()> {
    for (host, other) in [("a", "b"), ("b", "a")] {
        let (name, storage) = (&s.host(other).name, s.host(host).storage());
        s.run("authorize", &[host, "--allow", name, "--storage", &storage.to_string_lossy()])?;
    }
    let every = ["--interval", "1", "--history", "4", "--spacing", "2"];
    s.run("protect", &[&["a", VM, "--to", "b.example"], &every[..]].concat())?;
    s.run("configure", &["a", VM, "--history", "5"])?;
    let status = s.host("b").status(VM)?;
    ensure!(status["history"] == 5, "the replica keeps {}", status["history"]);
    s.stage.check_newest(s.host("a"), s.host("b"))?;
    let said = s.run("status", &["a", VM])?;
    ensure!(said.contains("guest is primary: replicating") && well(&said), "{said}");
    ensure!(!said.contains("ReplicationSuccessCount 0"), "{said}");
    let said = s.run("status", &["b", VM])?;
    ensure!(said.contains("guest is replica: replicating") && well(&said), "{said}");
    ensure!(said.contains("Standard"), "no recovery points: {said}");
    Ok(())
}

/// Whether nothing is wrong but cycles that come late, which they may on a busy machine.
fn well(status: &str) -> bool {
    let issues =
        status.lines().filter(|line| line.contains("issue: ")).filter(|line| !line.contains("came late"));
    status.contains("health ok") || (status.contains("health warning") && issues.count() == 0)
}

fn test_failover(s: &Story) -> Result<()> {
    // The point may merge away between the client's look and its call.
    let begun = || s.run("test_failover", &["b", VM, "--point", "-2"]).ok();
    poll_for(BOUND, begun).context("no test failover")?;
    let test = format!("{VM} - Test");
    let vms = s.host("b").run(&["vm", "list"])?;
    let made = vms.as_array().and_then(|vms| vms.iter().find(|vm| vm["name"] == test.as_str()));
    let id = made.and_then(|vm| vm["vm"].as_str()).context("no test VM")?;
    let serial = PathBuf::from(format!("{}.{id}", s.stage.serial.display()));
    poll_for(BOUND, || (oracle::read_log(&serial).ok()?.acks >= 5).then_some(()))
        .context("the test VM does not write")?;
    s.host("a").wait_cycles(VM, 2, BOUND)?;
    s.run("test_failover", &["b", VM, "--end"])?;
    let vms = s.host("b").run(&["vm", "list"])?;
    ensure!(vms.as_array().is_some_and(|vms| vms.len() == 1), "the test VM is still there: {vms}");
    s.stage.check_points(s.host("b"))?;
    Ok(())
}

fn planned_failover(s: &Story, from: &str, to: &str) -> Result<()> {
    let boots = s.boots()?;
    s.run("planned_failover", &[from, to, VM])?;
    ensure!(s.host(from).status(VM)?["mode"] == "replica", "{from} is not the replica");
    ensure!(s.host(to).status(VM)?["power_state"] == "running", "the VM does not run on {to}");
    s.wait_for_boot(boots)?;
    s.host(to).wait_cycles(VM, 2, BOUND)?;
    s.stage.check_newest(s.host(to), s.host(from))?;
    Ok(())
}

/// a is lost; b takes over, takes that back, takes over from an earlier point, and stays.
fn unplanned_failover(s: &mut Story) -> Result<()> {
    s.host("a").wait_cycles(VM, 4, BOUND)?;
    let acked = s.stage.last_ack()?;
    s.host("a").wait_cycles(VM, 2, BOUND)?;
    s.stage.pair.a.kill_daemon()?;
    s.stage.pair.a.kill_qemu(VM)?;
    let (_, verdict) = s.stage.check_points(s.host("b"))?;
    verdict.at_least(acked)?;
    let boots = s.boots()?;
    s.run("failover", &["b", VM])?;
    s.wait_for_boot(boots)?;
    s.run("failover", &["b", VM, "--revert"])?;
    ensure!(s.host("b").state(VM)? == 3, "it was reverted");
    let boots = s.boots()?;
    s.run("failover", &["b", VM, "--point", "-2"])?;
    s.wait_for_boot(boots)?;
    s.run("failover", &["b", VM, "--commit"])?;
    ensure!(s.host("b").state(VM)? == 6, "it was committed");
    s.stage.pair.a.start()?;
    let status = s.host("a").wait_state(VM, 8, BOUND)?;
    ensure!(status["power_state"] != "running", "the superseded VM runs");
    Ok(())
}

/// The VM comes home to a by the difference.
fn failback(s: &Story) -> Result<()> {
    let boots = s.boots()?;
    s.run("failback", &["a", VM])?;
    s.wait_for_boot(boots)?;
    ensure!(s.host("a").status(VM)?["mode"] == "primary", "a is not the primary");
    s.stage.check_newest(s.host("a"), s.host("b"))?;
    Ok(())
}

/// The VM stays on b; a becomes its replica, first by its own operator's word.
fn reverse(s: &Story) -> Result<()> {
    s.run("as_replica", &["a", VM])?;
    ensure!(s.host("a").status(VM)?["mode"] == "replica", "a does not give way");
    s.run("failover", &["b", VM, "--reverse"])?;
    s.host("a").wait_state(VM, 3, BOUND)?;
    ensure!(s.host("a").status(VM)?["mode"] == "replica", "a is not the replica");
    s.stage.check_newest(s.host("b"), s.host("a"))?;
    Ok(())
}
