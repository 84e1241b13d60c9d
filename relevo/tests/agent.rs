//! Application-consistent points with Debian's guest agent and a mounted file system: what they hold, what happens
//! when the agent does not freeze in time, and that no guest stays frozen.

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{fs, process::Command};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec, ext4,
    guest::Agent,
    oracle,
    pair::{Host, Pair},
    poll, poll_for,
};

const MAC: &str = "52:54:00:0a:0b:0c";

/// A guest that writes to a raw disk and to files; its agent is held up for so long before it freezes.
fn stage(hook_sleep_s: u32, config: &str) -> Result<Stage> {
    let mut pair = Pair::prepare(binary())?;
    pair.a.configure(&pair.b, config)?;
    pair.a.start()?;
    pair.b.start()?;
    for (host, other) in [(&pair.a, "b.example"), (&pair.b, "a.example")] {
        host.run(&["authorize", other, "--storage", &host.storage().to_string_lossy()])?;
    }
    let (disk, files) = (pair.root.join("a/disk.qcow2"), pair.root.join("a/files.qcow2"));
    image(&disk, "qcow2", 64 << 20)?;
    ext4::make(&files, 32 << 20)?;
    let mut spec = GuestSpec::new(VM, &[(disk, "qcow2"), (files, "qcow2")], &pair.root.join("serial.log"));
    (spec.agent, spec.files) = (Agent::Qemu { hook_sleep_s }, true);
    spec.macs = vec![MAC.to_owned()];
    let stage = Stage::with(pair, &spec)?;
    writes_files(&stage)?;
    stage.pair.a.run(&[
        "protect",
        VM,
        "--to",
        "b.example",
        "--interval",
        "1",
        "--history",
        "24",
        "--history-every",
        "1s",
        "--app-consistent",
        "3s",
    ])?;
    Ok(stage)
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn said(stage: &Stage, beginning: &str) -> usize {
    let serial = fs::read(&stage.serial).unwrap_or_default();
    String::from_utf8_lossy(&serial).lines().filter(|line| line.starts_with(beginning)).count()
}

/// The guest writes files, and is not kept from it.
fn writes_files(stage: &Stage) -> Result<()> {
    let before = said(stage, "file ");
    poll_for(BOUND, || (said(stage, "file ") >= before + 3).then_some(()))
        .context("the guest writes no files")
}

/// The newest point holds what the writer had acknowledged before two more cycles.
fn check_newest(stage: &Stage) -> Result<()> {
    let before = stage.last_ack()?;
    stage.pair.a.wait_cycles(VM, 2, BOUND)?;
    let newest = || {
        let point = stage.pair.b.points(VM).ok()?.pop()?["point"].as_str()?.to_owned();
        let images = stage.pair.b.point_images(VM, &point).ok()?;
        oracle::check(&images[..1]).ok()
    };
    let verdict = poll_for(BOUND, newest).context("the newest point cannot be checked")?;
    Ok(verdict.at_least(before)?)
}

fn is_app_consistent(point: &Value) -> bool {
    point["kind"] == "application-consistent"
}

fn issue(host: &Host, id: &str) -> Option<String> {
    let status = host.status(VM).ok()?;
    let issues = status["issues"].as_array()?;
    let found = issues.iter().find(|issue| issue["id"] == id)?;
    Some(found["message"].as_str()?.to_owned())
}

/// Of the file system in this point.
fn needs_recovery(stage: &Stage, point: &str) -> Result<bool> {
    ext4::needs_recovery(&stage.pair.b.point_images(VM, point)?.pop().context("a disk")?)
}

#[test]
fn a_frozen_file_system_is_clean_in_its_point_and_only_there() -> Result<()> {
    let stage = stage(0, "freeze_timeout_s = 60")?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    let three =
        || b.points(VM).is_ok_and(|points| points.iter().filter(|p| is_app_consistent(p)).count() >= 3);
    ensure!(poll(BOUND, three), "no application-consistent points: {:#?}", b.points(VM)?);
    check_newest(&stage)?;
    // Nothing merges away while it is looked at.
    a.run(&["suspend", VM])?;
    b.run(&["suspend", VM])?;
    ensure!(poll(BOUND, || a.status(VM).is_ok_and(|status| status["activity"] == "")), "it does not rest");
    b.wait_merged(VM, BOUND)?;
    let (mut clean, mut newest) = (0, None);
    for point in b.points(VM)? {
        let id = point["point"].as_str().context("an id")?;
        let expected = !is_app_consistent(&point);
        ensure!(
            needs_recovery(&stage, id)? == expected,
            "the file system is not as it should be in {point:#}"
        );
        if !expected {
            clean += 1;
            newest = Some(id.to_owned());
        }
    }
    ensure!(clean >= 3, "only {clean} points could be looked at");
    for host in [a, b] {
        let status = host.status(VM)?;
        ensure!(status["last_app_consistent_at"].is_string(), "{status:#}");
        ensure!(status["app_consistent_failures"] == 0, "{status:#}");
        ensure!(issue(host, "not-app-consistent").is_none() && issue(host, "frozen").is_none(), "{status:#}");
    }
    b.run(&["resume", VM])?;
    b.run(&["failover", VM, "--point", "app-consistent", "--no-start"])?;
    let newest = newest.context("a point")?;
    let overlays = fs::read_to_string(b.root.join(format!("libvirt/etc/qemu/{VM}.xml")))?;
    let top = overlays.split("file='").nth(2).and_then(|rest| rest.split('\'').next()).context("a disk")?;
    let chain = run("qemu-img", &["info", "--backing-chain", "-U", top])?;
    ensure!(chain.contains(&format!("{newest}.qcow2")), "it stands on another point than {newest}: {chain}");
    Ok(())
}

#[test]
fn a_guest_whose_daemon_is_killed_between_freeze_and_thaw_is_thawed_by_the_next_one() -> Result<()> {
    let mut stage = stage(15, "freeze_timeout_s = 60")?;
    let hooks = said(&stage, "hook freeze");
    ensure!(poll(BOUND, || said(&stage, "hook freeze") > hooks), "the agent is not asked to freeze");
    stage.pair.a.kill_daemon()?;
    let vm = stage.pair.b.run(&["vm", "show", VM])?["vm"].as_str().context("an id")?.to_owned();
    let mark = stage.pair.a.root.join(format!("lib/capture/{vm}/frozen"));
    ensure!(mark.exists(), "the freeze was not recorded");
    // The agent goes on with the freeze; nobody is there to thaw.
    let thaws = said(&stage, "hook thaw");
    stage.pair.a.start()?;
    ensure!(poll(BOUND, || said(&stage, "hook thaw") > thaws), "nobody thaws the guest");
    // It may be frozen on purpose, again.
    stage.pair.a.run(&["configure", VM, "--app-consistent", "0"])?;
    ensure!(poll(BOUND, || !mark.exists()), "the thaw was not recorded");
    writes_files(&stage)?;
    check_newest(&stage)
}

#[test]
fn an_agent_that_freezes_too_late_costs_the_consistency_and_nothing_else() -> Result<()> {
    let stage = stage(8, "freeze_timeout_s = 2")?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    let failed = || a.status(VM).is_ok_and(|status| status["app_consistent_failures"].as_u64() > Some(0));
    ensure!(poll(BOUND, failed), "the failure is not counted: {:#}", a.status(VM)?);
    let reason = issue(a, "not-app-consistent").context("the failure is not told")?;
    ensure!(reason.contains("within 2"), "{reason}");
    ensure!(poll(BOUND, || issue(a, "frozen").is_some()), "nobody says that the guest may be frozen");
    a.run(&["configure", VM, "--app-consistent", "0"])?;
    ensure!(poll(BOUND, || issue(a, "frozen").is_none()), "the guest stays frozen");
    writes_files(&stage)?;
    check_newest(&stage)?;
    ensure!(!b.points(VM)?.iter().any(is_app_consistent), "a point is called what it is not");
    Ok(())
}

#[test]
fn a_guest_gets_its_addresses_after_a_failover() -> Result<()> {
    let stage = stage(0, "freeze_timeout_s = 60")?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    a.run(&["configure", VM, "--app-consistent", "0"])?;
    a.wait_cycles(VM, 2, BOUND)?;
    let set = |args: &[&str]| b.run(&[&["failover-network", VM, "--adapter"][..], args].concat());
    let refused = set(&["52:54:00:00:00:00", "--dhcp"]).err().context("an unknown adapter is accepted")?;
    ensure!(refused.code == 2 && refused.message.contains(MAC), "{refused:#?}");
    let refused = set(&[MAC, "--address", "10.9.0.5/33"]).err().context("a prefix of 33 bits is accepted")?;
    ensure!(refused.code == 2 && refused.message.contains("Subnets \"33\""), "{refused:#?}");
    let addresses = ["--address", "10.9.0.5/24", "--address", "fd00:9::5/64"];
    set(&[&[MAC][..], &addresses, &["--gateway", "10.9.0.1", "--dns", "10.9.0.53"]].concat())?;
    let shown = b.run(&["vm", "show", VM])?["interfaces"][0]["failover"].clone();
    ensure!(shown["addresses"][1] == "fd00:9::5" && shown["subnets"][0] == "24", "{shown:#}");

    b.run(&["failover", VM, "--test", "--drill"])?;
    let status = b.status(VM)?;
    let drill = &status["last_drill"];
    ensure!(drill["passed"] == true && drill["point"].is_string(), "{status:#}");
    ensure!(status["state_number"] == 3 && status["test_vm"].is_null(), "{status:#}");
    ensure!(status["last_test_at"].is_string(), "{status:#}");
    ensure!(b.run(&["vm", "show", "guest - Test"]).is_err(), "the test VM stays");

    b.run(&["failover", VM])?;
    let outcome = || b.status(VM).ok()?["failover_network"].as_str().map(str::to_owned);
    let told = poll_for(BOUND, outcome).context("nobody says how the guest got its addresses")?;
    ensure!(told.contains(&format!("({MAC}) has 10.9.0.5/24, fd00:9::5/64")), "{told}");
    ensure!(issue(b, "addresses").is_none(), "{told}");
    set(&[MAC, "--clear"])?;
    ensure!(b.run(&["failover-network", VM, "--apply"]).is_err(), "nothing is set");
    Ok(())
}
