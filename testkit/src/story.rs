//! The story of Relevo, told by two hosts, at the end three, and a guest on this machine, with measured figures;
//! each step's history is checked by the write oracle. `cargo xtask demo` shows it, a test holds it.

use crate::{GuestSpec, domain_xml, ext4, guest::Agent, oracle, pair::Pair, poll_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const VM: &str = "guest";
const BOUND: Duration = Duration::from_secs(180);
const DISKS_BYTES: [u64; 2] = [256 << 20, (100 << 20) + 4096];
/// The disk with a file system in it.
const FILES_BYTES: u64 = 32 << 20;

struct Story {
    pair: Pair,
    serial: PathBuf,
    step: u32,
    began: Instant,
}

impl Story {
    fn say(&mut self, title: &str) {
        self.step += 1;
        self.began = Instant::now();
        println!("\n{:>2}. {title}", self.step);
    }

    fn fact(&self, text: &str) {
        println!("      {text}  [{:.1} s]", self.began.elapsed().as_secs_f64());
    }

    fn last_ack(&self) -> Result<Option<oracle::Ack>> {
        Ok(oracle::last_ack(&self.serial)?)
    }
}

/// Tells the story on these hosts, and fails where it does not hold. They run until the pair that is returned is dropped.
pub fn tell(pair: Pair) -> Result<Pair> {
    let began = Instant::now();
    let mut s = begin(pair)?;
    first_copy(&mut s)?;
    test_failover(&mut s)?;
    consistent(&mut s)?;
    planned(&mut s)?;
    unplanned(&mut s)?;
    failback(&mut s)?;
    third(&mut s)?;
    println!("\nThe story holds. {:.0} s in all.", began.elapsed().as_secs_f64());
    Ok(s.pair)
}

fn begin(mut pair: Pair) -> Result<Story> {
    println!(
        "Two hosts, a.example and b.example, and a guest: it writes a known history to two disks, and files to an\n\
         ext4 file system on a third."
    );
    (pair.a.written_disks, pair.b.written_disks) = (DISKS_BYTES.len(), DISKS_BYTES.len());
    let serial = pair.root.join("serial.log");
    let mut disks = vec![];
    for (letter, size) in ["a", "b"].iter().zip(DISKS_BYTES) {
        let path = pair.root.join(format!("{letter}/disk-{letter}.qcow2"));
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&path)
            .arg(size.to_string())
            .status()?;
        ensure!(made.success(), "qemu-img create failed");
        disks.push((path, "qcow2"));
    }
    let files = pair.root.join("a/files.qcow2");
    ext4::make(&files, FILES_BYTES)?;
    disks.push((files, "qcow2"));
    let mut spec = GuestSpec::new(VM, &disks, &serial);
    (spec.agent, spec.files) = (Agent::Qemu { hook_sleep_s: 0 }, true);
    let xml = pair.root.join("guest.xml");
    fs::write(&xml, domain_xml(&spec)?)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    pair.a.run(&["vm", "start", VM])?;
    let s = Story { pair, serial, step: 0, began: Instant::now() };
    wait_for_acks(&s.serial, 20)?;
    Ok(s)
}

fn wait_for_acks(serial: &Path, more: u64) -> Result<()> {
    let from = oracle::read_log(serial)?.acks;
    poll_for(BOUND, || (oracle::read_log(serial).ok()?.acks >= from + more).then_some(()))
        .with_context(|| format!("the guest does not write; see {}", serial.display()))
}

fn number(view: &Value, key: &str) -> u64 {
    view[key].as_u64().unwrap_or(0)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn first_copy(s: &mut Story) -> Result<()> {
    s.say("protect: the first copy of a running VM, then a cycle a second");
    s.pair.a.run(&[
        "protect",
        VM,
        "--to",
        "b.example",
        "--interval",
        "1",
        "--history",
        "4",
        "--history-every",
        "2s",
    ])?;
    s.fact(&format!("first copy: {} sent", mib(number(&s.pair.a.status(VM)?, "sent_bytes"))));
    let before = s.last_ack()?;
    s.pair.a.wait_cycles(VM, 12, BOUND)?;
    let status = s.pair.a.status(VM)?;
    s.fact(&format!(
        "cycles: {} done, {} late, the last took {} ms for {}",
        status["cycles_succeeded"],
        status["cycles_missed"],
        status["last_cycle_ms"],
        mib(number(&status, "last_cycle_bytes"))
    ));
    let (points, verdict) = s.pair.b.check_points(VM)?;
    verdict.at_least(before)?;
    s.fact(&format!(
        "{points} recovery points checked: each a prefix of the guest's history, the same on both disks"
    ));
    Ok(())
}

fn test_failover(s: &mut Story) -> Result<()> {
    s.say("a test failover from an earlier point, while cycles go on");
    // It may merge away between the look and the command.
    let test = || {
        let earlier = s.pair.b.earlier_point(VM).ok()?;
        s.pair.b.run(&["failover", VM, "--test", "--point", &earlier]).ok()
    };
    poll_for(BOUND, test).context("no test failover")?;
    let vms = s.pair.b.run(&["vm", "list"])?;
    let name = format!("{VM} - Test");
    let test = vms.as_array().and_then(|vms| vms.iter().find(|vm| vm["name"] == name.as_str()));
    let id = test.and_then(|vm| vm["vm"].as_str()).context("no test VM")?.to_owned();
    let serial = PathBuf::from(format!("{}.{id}", s.serial.display()));
    wait_for_acks(&serial, 5)?;
    s.fact("the test VM has booted from that point and writes");
    s.pair.a.wait_cycles(VM, 2, BOUND)?;
    s.fact("replication went on meanwhile");
    s.pair.b.run(&["failover", VM, "--test", "--end"])?;
    let (points, _) = s.pair.b.check_points(VM)?;
    s.fact(&format!("test VM removed; {points} points checked: none was touched"));
    Ok(())
}

fn consistent(s: &mut Story) -> Result<()> {
    s.say(
        "application-consistent points: the guest agent freezes the file system for the instant of the cut",
    );
    s.pair.a.run(&["configure", VM, "--app-consistent", "2s"])?;
    let found = poll_for(BOUND, || {
        let points = s.pair.b.points(VM).ok()?;
        let ids = |frozen: bool| {
            let is = move |p: &&Value| (p["kind"] == "application-consistent") == frozen;
            points.iter().rev().filter(is).filter_map(|p| p["point"].as_str()).next()
        };
        // Either may merge away while it is looked at.
        let recovers = |id: &str| ext4::needs_recovery(s.pair.b.point_images(VM, id).ok()?.last()?).ok();
        let (frozen, regular) = (ids(true)?, ids(false)?);
        (!recovers(frozen)? && recovers(regular)?).then(|| frozen.to_owned())
    });
    let frozen = found.context("no application-consistent point with a clean file system")?;
    s.fact(&format!(
        "point {}: the file system in it is clean; in the points beside it its journal would be replayed",
        &frozen[..8]
    ));
    s.pair.a.run(&["configure", VM, "--app-consistent", "0"])?;
    Ok(())
}

fn planned(s: &mut Story) -> Result<()> {
    s.say("planned failover to b.example, and back: no copy");
    for (from, to) in [("a.example", "b.example"), ("b.example", "a.example")] {
        let sent_before = number(&s.pair.host(to).status(VM)?, "sent_bytes");
        s.pair.host(from).run(&["failover", VM, "--planned"])?;
        s.pair.host(to).wait_state(VM, 5, BOUND)?;
        s.fact(&format!("{from} shut the guest down, shipped the rest and handed over; it runs on {to}"));
        s.pair.host(to).run(&["reverse", VM])?;
        s.pair.host(to).wait_cycles(VM, 3, BOUND)?;
        wait_for_acks(&s.serial, 10)?;
        let before = s.last_ack()?;
        s.pair.host(to).wait_cycles(VM, 2, BOUND)?;
        let sent = number(&s.pair.host(to).status(VM)?, "sent_bytes") - sent_before;
        let (points, verdict) = s.pair.host(from).check_points(VM)?;
        verdict.at_least(before)?;
        let size = DISKS_BYTES.iter().sum::<u64>() + FILES_BYTES;
        ensure!(sent < size / 4, "{sent} bytes were sent after the reversal");
        s.fact(&format!(
            "reversed: {to} sends to {from}, {} so far of {}; {points} points checked",
            mib(sent),
            mib(size)
        ));
    }
    Ok(())
}

fn unplanned(s: &mut Story) -> Result<()> {
    s.say("a.example dies: daemon and QEMU killed");
    s.pair.a.wait_cycles(VM, 6, BOUND)?;
    let acked = s.last_ack()?;
    s.pair.a.wait_cycles(VM, 2, BOUND)?;
    s.pair.a.kill_daemon()?;
    wait_for_acks(&s.serial, 10)?;
    s.pair.a.kill_qemu(VM)?;
    let (_, verdict) = s.pair.b.check_points(VM)?;
    verdict.at_least(acked)?;
    s.fact(
        "the newest point holds what was acknowledged before its cut; what came later is lost with a.example",
    );

    s.say("unplanned failover, revert, failover to an earlier point, commit");
    let boots = oracle::read_log(&s.serial)?.boots;
    s.pair.b.run(&["failover", VM])?;
    s.fact("failed over to the latest point: the VM runs on b.example");
    wait_for_boot(s, boots)?;
    s.pair.b.run(&["revert", VM])?;
    s.fact("reverted: b.example is the replica again, a.example has the right to run");
    let earlier = s.pair.b.earlier_point(VM)?;
    let boots = oracle::read_log(&s.serial)?.boots;
    s.pair.b.run(&["failover", VM, "--point", &earlier])?;
    wait_for_boot(s, boots)?;
    wait_for_acks(&s.serial, 20)?;
    s.fact(&format!("failed over to point {}: the guest has booted and writes", &earlier[..8]));
    s.pair.b.run(&["commit", VM])?;
    s.fact("committed");

    s.say("a.example returns, and is refused as primary");
    s.pair.a.start()?;
    let status = s.pair.a.wait_state(VM, 8, BOUND)?;
    ensure!(status["may_run"] == false, "a.example still claims the VM");
    ensure!(status["power_state"] != "running", "the superseded VM runs");
    let issue = status["issues"].as_array().and_then(|i| i.iter().find(|i| i["id"] == "superseded"));
    s.fact(issue.and_then(|i| i["message"].as_str()).context("it does not say so")?);
    Ok(())
}

fn wait_for_boot(s: &Story, boots: usize) -> Result<()> {
    poll_for(BOUND, || (oracle::read_log(&s.serial).ok()?.boots > boots).then_some(()))
        .context("the guest does not boot")
}

fn failback(s: &mut Story) -> Result<()> {
    s.say("failback: home by the difference");
    let before = number(&s.pair.b.status(VM)?, "sent_bytes");
    s.pair.a.run(&["failback", VM])?;
    s.pair.a.wait_state(VM, 14, BOUND)?;
    let sent = number(&s.pair.b.status(VM)?, "sent_bytes") - before;
    let size = DISKS_BYTES.iter().sum::<u64>() + FILES_BYTES;
    s.fact(&format!("the difference is here: {} sent, of disks of {}", mib(sent), mib(size)));
    let points = s.pair.a.points(VM)?;
    let kept = points
        .iter()
        .find(|p| p["note"].is_string())
        .context("what was never shipped is not shown as a point")?;
    s.fact(&format!(
        "point {}: {}",
        &kept["point"].as_str().unwrap_or_default()[..8],
        kept["note"].as_str().unwrap_or_default()
    ));
    s.pair.a.run(&["failback", VM, "--complete"])?;
    s.pair.a.wait_state(VM, 3, BOUND)?;
    s.fact("completed: shut down over there, the rest shipped, running here");

    s.say("replication goes on as at the start");
    wait_for_acks(&s.serial, 20)?;
    let before = s.last_ack()?;
    s.pair.a.wait_cycles(VM, 6, BOUND)?;
    let (points, verdict) = s.pair.b.check_points(VM)?;
    verdict.at_least(before)?;
    let show = s.pair.a.run(&["vm", "show", VM])?;
    let path = show["disks"][0]["path"].as_str().unwrap_or_default().to_owned();
    ensure!(path.ends_with("disk-a.qcow2"), "the VM runs from {path}, not from its own disk");
    s.fact(&format!(
        "the VM runs from its own disk; {points} points on b.example checked, history of {} boots",
        verdict.epochs.len()
    ));
    Ok(())
}

fn third(s: &mut Story) -> Result<()> {
    s.say("a third site: b.example forwards what it receives to x.example");
    s.pair.add_third()?;
    let every = ["--interval", "2", "--history", "4", "--history-every", "4s"];
    let protect: Vec<&str> = ["protect", VM, "--to", "x.example"].into_iter().chain(every).collect();
    s.pair.b.run(&protect)?;
    let copied = number(&s.pair.b.extended(VM)?, "sent_bytes");
    wait_for_acks(&s.serial, 10)?;
    let before = s.last_ack()?;
    s.pair.a.wait_cycles(VM, 2, BOUND)?;
    let from = number(&s.pair.b.extended(VM)?, "cycles_succeeded");
    let view = s.pair.b.wait_extended(VM, BOUND, |view| number(view, "cycles_succeeded") >= from + 2)?;
    let (points, verdict) = s.pair.third().check_points(VM)?;
    verdict.at_least(before)?;
    s.fact(&format!(
        "first copy {}, then what is new: {} in the last turn; {points} points on x.example checked",
        mib(copied),
        mib(number(&view, "last_cycle_bytes"))
    ));

    s.say("a.example and b.example die; x.example takes over, and gives the VM back when they return");
    s.pair.a.kill_daemon()?;
    s.pair.b.kill_daemon()?;
    s.pair.a.kill_qemu(VM)?;
    let boots = oracle::read_log(&s.serial)?.boots;
    s.pair.third().run(&["failover", VM])?;
    wait_for_boot(s, boots)?;
    s.fact("the VM runs on x.example");
    s.pair.b.start()?;
    s.pair.a.start()?;
    let status = s.pair.a.wait_state(VM, 8, BOUND)?;
    ensure!(status["may_run"] == false, "a.example still claims the VM");
    s.fact("a.example heard of it from b.example, and is superseded");
    s.pair.third().run(&["revert", VM])?;
    s.pair.a.wait_state(VM, 3, BOUND)?;
    s.fact("reverted: a.example has the right to run it again");
    Ok(())
}
