//! Three hosts: a replica forwards what it receives, the third host takes over and gives back, and becomes the
//! replica of the second when the first is lost. The guest's writes are the judge.

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use support::{BOUND, Stage, VM};
use testkit::{
    oracle::{Verdict, read_log},
    pair::Host,
    poll_for,
};

const DISKS: [u64; 2] = [96 << 20, (32 << 20) + 4096];

fn number(view: &Value, key: &str) -> u64 {
    view[key].as_u64().unwrap_or(0)
}

/// The guest on a, its replica on b, which forwards to x.
fn three() -> Result<Stage> {
    let mut stage = Stage::new(&DISKS)?;
    stage.pair.add_third()?;
    stage.protect()?;
    stage.pair.a.wait_cycles(VM, 2, BOUND)?;
    stage.pair.b.run(&[
        "protect",
        VM,
        "--to",
        "x.example",
        "--interval",
        "2",
        "--history",
        "4",
        "--history-every",
        "4s",
    ])?;
    Ok(stage)
}

/// The newest point on x holds what was acknowledged before b forwarded `more` times.
fn follows(stage: &Stage, more: u64) -> Result<Verdict> {
    let (b, x) = (&stage.pair.b, stage.pair.third());
    let before = stage.last_ack()?;
    stage.pair.a.wait_cycles(VM, 2, BOUND)?;
    let from = number(&b.extended(VM)?, "cycles_succeeded");
    b.wait_extended(VM, BOUND, |view| number(view, "cycles_succeeded") >= from + more)?;
    let (_, verdict) = stage.check_points(x)?;
    verdict.at_least(before)?;
    Ok(verdict)
}

fn boots(stage: &Stage) -> Result<usize> {
    Ok(read_log(&stage.serial)?.boots)
}

fn wait_for_boot(stage: &Stage, before: usize) -> Result<()> {
    let booted = || (read_log(&stage.serial).ok()?.boots > before).then_some(());
    poll_for(BOUND, booted).context("the guest does not boot")?;
    stage.wait_for_acks(5)
}

fn newest(host: &Host) -> Result<String> {
    let points = host.points(VM)?;
    let id = points.last().and_then(|point| point["point"].as_str());
    Ok(id.context("no point")?.to_owned())
}

fn refused(host: &Host, args: &[&str], id: &str) -> Result<()> {
    let refusal = host.run(args).err().with_context(|| format!("{} was not refused", args.join(" ")))?;
    ensure!(refusal.id == id, "{}: {} ({})", args.join(" "), refusal.message, refusal.id);
    Ok(())
}

#[test]
fn a_replica_forwards_what_it_receives_and_the_third_host_takes_over_and_gives_back() -> Result<()> {
    let mut stage = three()?;
    let (b, x) = (&stage.pair.b, stage.pair.third());
    follows(&stage, 2)?;
    ensure!(x.status(VM)?["mode"] == "extended-replica", "{:#}", x.status(VM)?);
    let view = b.extended(VM)?;
    ensure!(view["peer"] == "x.example" && view["index"] == 1, "{view:#}");
    ensure!(number(&view, "last_cycle_bytes") < 8 << 20, "a delta was forwarded as a copy: {view:#}");

    // What it is not for.
    refused(b, &["protect", VM, "--to", "x.example", "--interval", "2"], "already-protected")?;
    refused(x, &["protect", VM, "--to", "a.example", "--interval", "2"], "chain")?;
    refused(b, &["unprotect", VM], "extended")?;
    refused(x, &["failover", VM, "--planned"], "invalid-state")?;

    // It can be held up, compared, and picks up where the daemons were killed.
    b.run(&["suspend", VM, "--extended"])?;
    let is_held = || (number(&b.extended(VM).ok()?, "state_number") == 7).then_some(());
    poll_for(BOUND, is_held).context("it is not held up")?;
    let held = newest(x)?;
    stage.pair.a.wait_cycles(VM, 3, BOUND)?;
    ensure!(newest(x)? == held, "it was not held up");
    b.run(&["resume", VM, "--extended"])?;
    follows(&stage, 1)?;
    stage.pair.b.run(&["resync", VM, "--extended"])?;
    follows(&stage, 1)?;
    stage.pair.b.kill_daemon()?;
    stage.pair.b.start()?;
    stage.pair.x.as_mut().context("x")?.kill_daemon()?;
    stage.pair.x.as_mut().context("x")?.start()?;
    follows(&stage, 1)?;

    // a and b are lost; x takes over, to be given back.
    stage.pair.a.kill_daemon()?;
    stage.pair.b.kill_daemon()?;
    stage.pair.a.kill_qemu(VM)?;
    let before = boots(&stage)?;
    let x = stage.pair.third();
    x.run(&["failover", VM])?;
    wait_for_boot(&stage, before)?;
    stage.pair.b.start()?;
    stage.pair.a.start()?;
    let (a, b, x) = (&stage.pair.a, &stage.pair.b, stage.pair.third());
    let status = a.wait_state(VM, 8, BOUND)?;
    ensure!(status["may_run"] == false, "a.example still claims the VM");
    b.wait_extended(VM, BOUND, |view| number(view, "state_number") == 8)?;
    ensure!(b.status(VM)?["generation"]["owner"] == "x.example", "b.example does not know who runs the VM");

    x.run(&["revert", VM])?;
    a.wait_state(VM, 3, BOUND)?;
    stage.bring_up(a)?;
    stage.wait_for_acks(5)?;
    follows(&stage, 1)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    stage.check_newest(a, b)?;

    // The end of it; what x has stays, and is what only a difference is sent to later.
    b.run(&["unprotect", VM, "--extended"])?;
    ensure!(b.extended(VM).is_err(), "it was not forgotten");
    let sent = ["protect", VM, "--to", "x.example", "--interval", "2"];
    b.run(&sent)?;
    b.wait_extended(VM, BOUND, |view| number(view, "state_number") == 3)?;
    let view = b.extended(VM)?;
    ensure!(number(&view, "sent_bytes") < 16 << 20, "x was copied to anew: {view:#}");
    follows(&stage, 1)?;
    Ok(())
}

/// Nothing new comes from a.
fn lose_a(stage: &mut Stage) -> Result<()> {
    stage.pair.a.kill_daemon()?;
    stage.pair.a.kill_qemu(VM)
}

/// a is lost, b takes over and keeps it, and x, which stands elsewhere than the failed-over point, becomes its
/// replica by the difference.
fn second_goes_on_with_third(stage: &Stage, point: &str) -> Result<()> {
    let (b, x) = (&stage.pair.b, stage.pair.third());
    let had = newest(x)?;
    let before = boots(stage)?;
    b.run(&["failover", VM, "--point", point])?;
    wait_for_boot(stage, before)?;
    refused(b, &["reverse", VM, "--extended"], "invalid-state")?;
    b.run(&["commit", VM])?;
    let kept: Vec<Value> = b.points(VM)?;
    ensure!(kept.len() == 1 && kept[0]["point"] != had.as_str(), "x has the failed-over point: {kept:#?}");
    stage.wait_for_acks(10)?;

    b.run(&["reverse", VM, "--extended"])?;
    stage.check_newest(b, x)?;
    let status = b.status(VM)?;
    ensure!(status["peer"] == "x.example" && status["mode"] == "primary", "{status:#}");
    ensure!(b.extended(VM).is_err(), "b still forwards");
    let size: u64 = DISKS.iter().sum();
    ensure!(number(&status, "sent_bytes") < size / 4, "x was copied to anew: {status:#}");
    ensure!(x.status(VM)?["mode"] == "replica", "{:#}", x.status(VM)?);
    stage.check_newest(b, x)?;
    Ok(())
}

#[test]
fn a_third_host_that_lags_behind_the_failed_over_point_becomes_the_replica_and_the_first_is_left()
-> Result<()> {
    let mut stage = three()?;
    follows(&stage, 1)?;
    stage.pair.b.run(&["suspend", VM, "--extended"])?;
    stage.pair.a.wait_cycles(VM, 4, BOUND)?;
    lose_a(&mut stage)?;
    second_goes_on_with_third(&stage, &newest(&stage.pair.b)?)?;

    // a returns, and hears that it has no part in it any more.
    stage.pair.a.start()?;
    let status = stage.pair.a.wait_state(VM, 8, BOUND)?;
    ensure!(status["may_run"] == false && status["power_state"] != "running", "{status:#}");
    refused(&stage.pair.a, &["failback", VM], "not-the-peer")?;

    // x is a replica as any other.
    let (b, x) = (&stage.pair.b, stage.pair.third());
    let before = boots(&stage)?;
    b.run(&["failover", VM, "--planned"])?;
    x.wait_state(VM, 5, BOUND)?;
    x.run(&["reverse", VM])?;
    wait_for_boot(&stage, before)?;
    stage.check_newest(x, b)?;
    Ok(())
}

#[test]
fn a_third_host_that_is_ahead_of_the_failed_over_point_becomes_the_replica() -> Result<()> {
    let mut stage = three()?;
    follows(&stage, 1)?;
    lose_a(&mut stage)?;
    let (b, x) = (&stage.pair.b, stage.pair.third());
    let has_all = || (newest(b).ok()? == newest(x).ok()?).then_some(());
    poll_for(BOUND, has_all).context("x does not get the newest point")?;
    let points = b.points(VM)?;
    let earlier = points.iter().rev().nth(1).and_then(|point| point["point"].as_str());
    second_goes_on_with_third(&stage, earlier.context("no earlier point")?)
}

/// The third host keeps the VM; the first, which has an older state of it, gets the difference and has it back.
#[test]
fn a_vm_that_the_third_host_keeps_comes_home_to_the_first_by_the_difference() -> Result<()> {
    let mut stage = three()?;
    let homes = disk_paths(&stage.pair.a)?;
    follows(&stage, 1)?;
    lose_a(&mut stage)?;
    stage.pair.b.kill_daemon()?;
    let before = boots(&stage)?;
    let x = stage.pair.third();
    x.run(&["failover", VM])?;
    wait_for_boot(&stage, before)?;
    x.run(&["commit", VM])?;
    stage.pair.b.start()?;
    stage.pair.a.start()?;
    let (a, b, x) = (&stage.pair.a, &stage.pair.b, stage.pair.third());
    a.wait_state(VM, 8, BOUND)?;
    b.wait_extended(VM, BOUND, |view| number(view, "state_number") == 8)?;

    // As docs/guide.md says, in section 9.
    b.run(&["unprotect", VM, "--extended"])?;
    b.run(&["unprotect", VM, "--delete-replica"])?;
    a.run(&["unprotect", VM])?;
    a.run(&["seed", VM])?;
    x.run(&["unprotect", VM])?;
    x.run(&["protect", VM, "--to", "a.example", "--seed", "--interval", "1"])?;
    let sent = number(&x.wait_state(VM, 3, BOUND)?, "sent_bytes");
    let size: u64 = DISKS.iter().sum();
    ensure!(sent < size / 4, "{sent} bytes were sent to a host that had nearly all of them");
    stage.check_newest(x, a)?;
    let before = boots(&stage)?;
    x.run(&["failover", VM, "--planned"])?;
    a.run(&["reverse", VM])?;
    wait_for_boot(&stage, before)?;
    stage.check_newest(a, x)?;
    ensure!(disk_paths(a)? == homes, "it runs from {:?}", disk_paths(a)?);
    Ok(())
}

fn disk_paths(host: &Host) -> Result<Vec<String>> {
    let view = host.run(&["vm", "show", VM])?;
    let disks = view["disks"].as_array().context("no disks")?;
    Ok(disks.iter().filter_map(|disk| Some(disk["path"].as_str()?.to_owned())).collect())
}
