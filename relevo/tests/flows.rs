//! Whole flows on two real hosts, beside the story that the demo tells: kinds of disks, a VM that is shut off,
//! a primary that returns, and what an operator does between. The guest's writes are the judge.

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec, TempRoot, domain_xml,
    oracle::{self, read_log},
    pair::{Host, Pair},
    poll, poll_for,
};

/// Long enough a history that no point goes while a test looks.
const KEEP_ALL: [&str; 6] = ["--interval", "1", "--history", "24", "--history-every", "1s"];

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A guest with these disks (format and size) on host a, protected.
fn stage(disks: &[(&str, u64)], ops_per_s: f64) -> Result<Stage> {
    let pair = Pair::start(binary())?;
    let mut made = vec![];
    for (index, (format, size_bytes)) in disks.iter().enumerate() {
        let path = pair.root.join(format!("a/disk-{index}.{format}"));
        image(&path, format, *size_bytes)?;
        made.push((path, *format));
    }
    begin(pair, &made, ops_per_s)
}

fn begin(pair: Pair, disks: &[(PathBuf, &str)], ops_per_s: f64) -> Result<Stage> {
    let mut spec = GuestSpec::new(VM, disks, &pair.root.join("serial.log"));
    spec.writer.ops_per_s = ops_per_s;
    let stage = Stage::with(pair, &spec)?;
    protect(&stage.pair.a)?;
    Ok(stage)
}

fn protect(host: &Host) -> Result<()> {
    let args: Vec<&str> = ["protect", VM, "--to", "b.example"].into_iter().chain(KEEP_ALL).collect();
    host.run(&args)?;
    Ok(())
}

fn ids(host: &Host) -> Result<Vec<String>> {
    let points = host.points(VM)?;
    Ok(points.iter().filter_map(|point| Some(point["point"].as_str()?.to_owned())).collect())
}

fn disk_paths(host: &Host) -> Result<Vec<String>> {
    let view = host.run(&["vm", "show", VM])?;
    let disks = view["disks"].as_array().context("no disks")?;
    Ok(disks.iter().filter_map(|disk| Some(disk["path"].as_str()?.to_owned())).collect())
}

/// Demands that the newest point on `to` is, byte for byte, what the disks of the VM on `from` hold, which
/// must not write: it is paused, or shut off.
fn compare_bytes(from: &Host, to: &Host) -> Result<()> {
    from.wait_cycles(VM, 2, BOUND)?;
    from.run(&["suspend", VM])?;
    poll_for(BOUND, || (from.status(VM).ok()?["activity"] == "").then_some(()))
        .context("it does not rest")?;
    to.wait_merged(VM, BOUND)?;
    let newest = ids(to)?.pop().context("no point")?;
    for (disk, copy) in disk_paths(from)?.iter().zip(to.point_images(VM, &newest)?) {
        run("qemu-img", &["compare", "-U", disk, &copy.to_string_lossy()])?;
    }
    from.run(&["resume", VM])?;
    Ok(())
}

/// The same with the VM paused for it.
fn compare_paused(from: &Host, to: &Host) -> Result<()> {
    from.run(&["vm", "pause", VM])?;
    compare_bytes(from, to)?;
    from.run(&["vm", "start", VM])?;
    Ok(())
}

fn boots(stage: &Stage) -> Result<usize> {
    Ok(read_log(&stage.serial)?.boots)
}

fn wait_for_boot(stage: &Stage, before: usize) -> Result<()> {
    let booted = || (read_log(&stage.serial).ok()?.boots > before).then_some(());
    poll_for(BOUND, booted).context("the guest does not boot")?;
    stage.wait_for_acks(5)
}

/// Points of each VM that the oracle judges: some of each kind of turn that a busy guest's relationship meets.
const POINTS: usize = 120;

/// Judges so many points of this host's replica as they come.
fn every_point_holds(host: &Host, points: usize) -> Result<()> {
    let mut checked = BTreeSet::new();
    let mut failure = None;
    let many = poll(5 * BOUND, || {
        for id in ids(host).unwrap_or_default() {
            if checked.contains(&id) {
                continue;
            }
            // Layers may merge under the reader; what is wrong with a point that stays is wrong again.
            let judge = |_| host.point_images(VM, &id).ok().map(|images| oracle::check(&images));
            match (0..8).map_while(judge).find(Result::is_ok) {
                Some(_) => drop(checked.insert(id)),
                None => {
                    let violation = judge(8).and_then(Result::err);
                    failure = failure.take().or(violation.map(|violation| (id, violation)));
                }
            }
        }
        failure.is_some() || checked.len() >= points
    });
    if let Some((id, violation)) = failure {
        return Err(violation).with_context(|| format!("point {id}"));
    }
    ensure!(many, "only {} points could be checked", checked.len());
    Ok(())
}

#[test]
fn every_point_of_three_disks_holds_a_prefix_of_the_history() -> Result<()> {
    let pair = Pair::start(binary())?;
    let path = |name: &str| pair.root.join(format!("a/{name}"));
    let base = path("base.qcow2");
    image(&base, "qcow2", 64 << 20)?;
    // Beyond what the guest writes to, so that it must come from the backing file.
    run("qemu-io", &["-c", "write -P 0x5a 20M 3M", &base.to_string_lossy()])?;
    let base = base.to_string_lossy();
    let overlay = path("overlay.qcow2");
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &overlay.to_string_lossy()];
    run("qemu-img", &args)?;
    image(&path("plain.qcow2"), "qcow2", 96 << 20)?;
    image(&path("odd.qcow2"), "qcow2", (48 << 20) + 4096 + 512)?;
    let disks = [(overlay.clone(), "qcow2"), (path("plain.qcow2"), "qcow2"), (path("odd.qcow2"), "qcow2")];
    let stage = begin(pair, &disks, 60.0)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);

    every_point_holds(b, POINTS)?;
    stage.check_newest(a, b)?;
    compare_paused(a, b)?;
    stage.wait_for_acks(10)?;
    stage.check_newest(a, b)?;
    Ok(())
}

#[test]
fn every_point_of_a_raw_disk_and_another_holds_a_prefix_of_the_history() -> Result<()> {
    let stage = stage(&[("raw", 64 << 20), ("qcow2", (48 << 20) + 4096 + 512)], 60.0)?;
    every_point_holds(&stage.pair.b, POINTS)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    compare_paused(&stage.pair.a, &stage.pair.b)
}

#[test]
fn a_raw_disk_replicates_fails_over_and_comes_home() -> Result<()> {
    let mut stage = stage(&[("raw", 64 << 20), ("qcow2", (32 << 20) + 4096)], 20.0)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    compare_paused(&stage.pair.a, &stage.pair.b)?;

    for (from, to) in [("a.example", "b.example"), ("b.example", "a.example")] {
        let (from, to) = (stage.pair.host(from), stage.pair.host(to));
        let before = boots(&stage)?;
        from.run(&["failover", VM, "--planned"])?;
        to.run(&["reverse", VM])?;
        wait_for_boot(&stage, before)?;
        stage.check_newest(to, from)?;
    }
    ensure!(disk_paths(&stage.pair.a)?[0].contains("/a/"), "the VM is not home");

    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    stage.pair.a.kill_daemon()?;
    stage.wait_for_acks(5)?;
    stage.pair.a.kill_qemu(VM)?;
    let before = boots(&stage)?;
    stage.pair.b.run(&["failover", VM])?;
    wait_for_boot(&stage, before)?;
    stage.pair.b.run(&["commit", VM])?;
    stage.pair.a.start()?;
    stage.pair.a.wait_state(VM, 8, BOUND)?;
    stage.pair.a.run(&["failback", VM])?;
    stage.pair.a.wait_state(VM, 14, BOUND)?;
    let before = boots(&stage)?;
    stage.pair.a.run(&["failback", VM, "--complete"])?;
    stage.pair.a.wait_state(VM, 3, BOUND)?;
    wait_for_boot(&stage, before)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    stage.check_newest(a, b)?;
    compare_paused(a, b)
}

#[test]
fn a_vm_comes_home_as_of_an_earlier_point_of_the_other_host() -> Result<()> {
    let mut stage = stage(&[("qcow2", 64 << 20), ("qcow2", (32 << 20) + 4096)], 20.0)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    stage.wait_for_acks(20)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    stage.pair.a.kill_daemon()?;
    stage.wait_for_acks(5)?;
    stage.pair.a.kill_qemu(VM)?;
    let before = boots(&stage)?;
    stage.pair.b.run(&["failover", VM])?;
    wait_for_boot(&stage, before)?;
    // None of these goes any more.
    let points = ids(&stage.pair.b)?;
    ensure!(points.len() > 2, "too few points: {points:?}");
    let chosen = points[points.len() / 2].clone();
    let mut copies = vec![];
    for image in stage.pair.b.point_images(VM, &chosen)? {
        let copy = stage.pair.root.join(format!("chosen-{}.qcow2", copies.len()));
        run(
            "qemu-img",
            &["convert", "-U", "-O", "qcow2", &image.to_string_lossy(), &copy.to_string_lossy()],
        )?;
        copies.push(copy);
    }
    let at_chosen = oracle::check(&copies)?;

    stage.pair.a.start()?;
    stage.pair.a.wait_state(VM, 8, BOUND)?;
    let unknown = stage.pair.a.run(&["failback", VM, "--point", "ffffffff"]).err().context("it is taken")?;
    ensure!(unknown.code == 2 && unknown.message.contains("ffffffff"), "{unknown:#?}");
    let log = stage.pair.b.log_path();
    stage.pair.a.command(&["--json", "--yes", "--no-wait"], &["failback", VM, "--point", &chosen])?;
    let sends = || fs::read_to_string(&log).ok()?.contains(" step=\"send the point\"").then_some(());
    poll_for(BOUND, sends).context("the point is not sent")?;
    stage.pair.b.kill_daemon()?;
    stage.pair.b.start()?;
    stage.pair.a.wait_state(VM, 14, BOUND)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    for (copy, image) in copies.iter().zip(a.point_images(VM, &chosen)?) {
        run("qemu-img", &["compare", "-U", &copy.to_string_lossy(), &image.to_string_lossy()])?;
    }
    ensure!(b.status(VM)?["power_state"] == "running", "the guest was stopped before it had to be");
    stage.check_newest(b, a)?;

    let (before, last) = (boots(&stage)?, stage.last_ack()?);
    a.run(&["failback", VM, "--complete"])?;
    a.wait_state(VM, 3, BOUND)?;
    wait_for_boot(&stage, before)?;
    a.wait_cycles(VM, 2, BOUND)?;
    // Points above may merge while they are looked at.
    let in_place = poll_for(BOUND, || kept_in_place(b).ok()).context("what was written there is not kept")?;
    let kept = oracle::check(&in_place)?;
    kept.at_least(last)?;
    let newest = || b.point_images(VM, &ids(b).ok()?.pop()?).ok();
    let home = poll_for(BOUND, || oracle::check(&newest()?).ok()).context("no point holds a history")?;
    let (at_point, later) = (at_chosen.epochs.len(), kept.epochs.len());
    ensure!((at_point, later, home.epochs.len()) == (1, 2, 2), "{at_chosen:?} {kept:?} {home:?}");
    ensure!(home.epochs[0] == at_chosen.epochs[0] && home.epochs[1] != kept.epochs[1], "{kept:?} {home:?}");
    ensure!(home.epochs[1].first.abs_diff(at_chosen.n) <= 2, "home is not the point: {at_chosen:?} {home:?}");
    compare_paused(a, b)
}

/// The disks as of a host's point with a note, which stand where they stood: what lies directly above names them.
fn kept_in_place(host: &Host) -> Result<Vec<PathBuf>> {
    let points = host.points(VM)?;
    let kept = points.iter().position(|point| point["note"].is_string()).context("no point has a note")?;
    let above =
        points.get(kept + 1).and_then(|point| point["point"].as_str()).context("nothing lies above")?;
    let below = |image: PathBuf| -> Result<PathBuf> {
        let info = run("qemu-img", &["info", "-U", "--output=json", &image.to_string_lossy()])?;
        let info: Value = serde_json::from_str(&info)?;
        Ok(info["full-backing-filename"].as_str().context("no backing file")?.into())
    };
    host.point_images(VM, above)?.into_iter().map(below).collect()
}

/// A block device over a file, gone when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(file: &Path) -> Result<Self> {
        let name = run("losetup", &["--find", "--show", &file.to_string_lossy()])?;
        Ok(Self(name.trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_replicates_and_comes_home() -> Result<()> {
    let folder = TempRoot::new()?;
    let file = folder.join("device");
    image(&file, "raw", 32 << 20)?;
    let device = LoopDevice::over(&file)?;
    let pair = Pair::start(binary())?;
    let spec = GuestSpec::new(VM, &[(device.0.clone(), "raw")], &pair.root.join("serial.log"));
    let xml = pair.root.join("guest.xml");
    let block = format!("<source dev='{}'/>", device.0.display());
    let text =
        domain_xml(&spec)?.replace("<disk type='file' device='disk'>", "<disk type='block' device='disk'>");
    let text = text.replace(&format!("<source file='{}'/>", device.0.display()), &block);
    ensure!(text.contains(&block) && text.contains("type='block'"), "{text}");
    fs::write(&xml, text)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    pair.a.run(&["vm", "start", VM])?;
    let stage = Stage { pair, serial: spec.serial };
    stage.wait_for_acks(10)?;
    protect(&stage.pair.a)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    for (from, to) in [("a.example", "b.example"), ("b.example", "a.example")] {
        let (from, to) = (stage.pair.host(from), stage.pair.host(to));
        let before = boots(&stage)?;
        from.run(&["failover", VM, "--planned"])?;
        to.run(&["reverse", VM])?;
        wait_for_boot(&stage, before)?;
        stage.check_newest(to, from)?;
    }
    stage.pair.a.run(&["suspend", VM, "--release"])?;
    let home = disk_paths(&stage.pair.a)?;
    ensure!(home == [device.0.to_string_lossy()], "the VM runs from {home:?}");
    Ok(())
}

#[test]
fn a_shut_off_vm_replicates_and_goes_on_after_its_start() -> Result<()> {
    let stage = stage(&[("qcow2", 64 << 20), ("qcow2", (32 << 20) + 4096)], 20.0)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    stage.check_newest(a, b)?;
    let before = boots(&stage)?;
    a.run(&["vm", "stop", VM])?;
    let last = stage.last_ack()?;
    compare_bytes(a, b)?;
    let (_, verdict) = stage.check_points(b)?;
    verdict.at_least(last)?;
    a.run(&["vm", "start", VM])?;
    wait_for_boot(&stage, before)?;
    let verdict = stage.check_newest(a, b)?;
    ensure!(verdict.epochs.len() == 2, "the point holds {} boots, not 2", verdict.epochs.len());
    compare_paused(a, b)
}

/// `unreachable`: the old primary starts when nobody can tell it yet.
fn old_primary_returns(unreachable: bool) -> Result<()> {
    let mut stage = stage(&[("qcow2", 64 << 20)], 20.0)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    stage.pair.a.kill_daemon()?;
    stage.pair.b.run(&["failover", VM])?;
    let before = (ids(&stage.pair.b)?, stage.pair.b.status(VM)?["generation"].clone());
    if unreachable {
        stage.pair.b.stop();
        stage.pair.a.start()?;
        ensure!(stage.pair.a.status(VM)?["power_state"] == "running", "stopped by its own daemon's start");
        stage.pair.b.start()?;
    } else {
        stage.pair.a.start()?;
    }
    let status = stage.pair.a.wait_state(VM, 8, BOUND)?;
    let issues = status["issues"].as_array().context("no issues")?;
    ensure!(issues.iter().any(|issue| issue["id"] == "superseded"), "it does not say so: {issues:?}");
    ensure!(status["may_run"] == false, "two hosts hold the right to run");
    let paused = || (stage.pair.a.status(VM).ok()?["power_state"] == "paused").then_some(());
    poll_for(BOUND, paused).context("the superseded VM is not paused")?;
    ensure!(stage.pair.a.run(&["vm", "start", VM]).is_err(), "the superseded VM can be started");

    let b = &stage.pair.b;
    ensure!(b.state(VM)? == 5 && b.status(VM)?["power_state"] == "running", "b's VM was touched");
    let after = (ids(b)?, b.status(VM)?["generation"].clone());
    ensure!(after == before, "b's replica was touched: {before:?} {after:?}");
    stage.check_points(b)?;
    Ok(())
}

#[test]
fn an_old_primary_that_returns_with_its_vm_running_pauses_it() -> Result<()> {
    old_primary_returns(false)
}

#[test]
fn an_old_primary_that_cannot_ask_learns_it_when_it_can() -> Result<()> {
    old_primary_returns(true)
}

/// Whichever host asks for it, where the guest runs it can be cancelled.
#[test]
fn a_planned_failover_that_takes_too_long_is_cancelled_and_the_guest_runs_again() -> Result<()> {
    let stage = stage(&[("qcow2", 64 << 20), ("qcow2", 32 << 20)], 60.0)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    for asked in [a, b] {
        stage.check_newest(a, b)?;
        a.run(&["suspend", VM])?;
        stage.wait_for_acks(50)?;
        a.run(&["configure", VM, "--bandwidth", "1KiB/s"])?;
        let before = boots(&stage)?;
        a.run(&["resume", VM])?;
        let begun = asked.command(&["--json", "--yes", "--no-wait"], &["failover", VM, "--planned"])?;
        poll_for(BOUND, || {
            let activity = a.status(VM).ok()?["activity"].as_str()?.to_owned();
            (activity.starts_with("planned") && activity.ends_with("ship")).then_some(())
        })
        .with_context(|| format!("it does not send: {:#}", a.status(VM).unwrap_or_default()))?;
        a.run(&["job", "cancel", &running_job(a)?])?;
        wait_for_boot(&stage, before)?;
        a.run(&["configure", VM, "--no-bandwidth"])?;
        // A host that waits for another one looks whether that has anything under way.
        a.run(&["suspend", VM])?;
        let id = id(&begun).context("no job")?;
        let ended = || Some(asked.run(&["job", "show", id]).ok()?).filter(|job| job["state"] != "running");
        let ended = poll_for(BOUND, ended).with_context(|| {
            let (a, b) = (a.status(VM).unwrap_or_default(), b.status(VM).unwrap_or_default());
            format!("it goes on on {}: {a:#} {b:#}", asked.name)
        })?;
        let told = if asked.name == a.name { "was given up" } else { "a.example gave up" };
        ensure!(ended["state"] != "completed" && ended.to_string().contains(told), "{ended:#}");
        a.run(&["resume", VM])?;
        stage.check_newest(a, b)?;
        ensure!(a.status(VM)?["may_run"] == true, "{:#}", a.status(VM)?);
        ensure!(b.status(VM)?["may_run"] == false, "{:#}", b.status(VM)?);
    }
    Ok(())
}

fn id(job: &Value) -> Option<&str> {
    job["job"].as_str()
}

/// The id of the job that is under way on a host.
fn running_job(host: &Host) -> Result<String> {
    let jobs = host.run(&["job", "list"])?;
    let running = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["state"] == "running"));
    Ok(running.and_then(id).with_context(|| format!("no job runs on {}: {jobs:#}", host.name))?.to_owned())
}

#[test]
fn a_guest_that_does_not_shut_down_stays_where_it_is() -> Result<()> {
    let mut pair = Pair::prepare(binary())?;
    let config = pair.a.root.join("etc/relevo.toml");
    let text = fs::read_to_string(&config)?.replace("shutdown_timeout_s = 60", "shutdown_timeout_s = 2");
    fs::write(&config, text)?;
    pair.a.start()?;
    pair.b.start()?;
    for (host, other) in [(&pair.a, "b.example"), (&pair.b, "a.example")] {
        host.run(&["authorize", other, "--storage", &host.storage().to_string_lossy()])?;
    }
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 16 << 20)?;
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    // Without its kernel there is nobody who would hear the power button.
    let text = testkit::domain_xml(&spec)?;
    let (from, to) = (text.find("<kernel>").context("kernel")?, text.find("</cmdline>").context("cmdline")?);
    let xml = pair.root.join("guest.xml");
    fs::write(&xml, format!("{}{}", &text[..from], &text[to + "</cmdline>".len()..]))?;
    let (a, b) = (&pair.a, &pair.b);
    a.run(&["vm", "define", &xml.to_string_lossy()])?;
    a.run(&["vm", "start", VM])?;
    protect(a)?;
    a.wait_cycles(VM, 2, BOUND)?;
    for host in [a, b] {
        let refused = host.run(&["failover", VM, "--planned"]).err().context("it was not refused")?;
        ensure!(refused.message.contains("shut"), "it does not say why: {refused:#?}");
        let status = a.wait_state(VM, 3, BOUND)?;
        ensure!(status["power_state"] == "running" && status["may_run"] == true, "{status:#}");
        b.wait_state(VM, 3, BOUND)?;
        ensure!(b.status(VM)?["may_run"] == false, "b may run it, too");
        a.wait_cycles(VM, 2, BOUND)?;
    }
    Ok(())
}

#[test]
fn suspend_resync_verify_and_unprotect_keep_what_they_promise() -> Result<()> {
    let stage = stage(&[("qcow2", 64 << 20), ("qcow2", (32 << 20) + 4096)], 20.0)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    a.wait_cycles(VM, 4, BOUND)?;

    a.run(&["suspend", VM])?;
    a.wait_state(VM, 7, BOUND)?;
    let cycles = |host: &Host| -> Result<Value> { Ok(host.status(VM)?["cycles_succeeded"].clone()) };
    let before = cycles(a)?;
    stage.wait_for_acks(40)?;
    ensure!(cycles(a)? == before, "a suspended relationship sends");
    a.run(&["resume", VM])?;
    stage.check_newest(a, b)?;

    // Those that do not grow too old meanwhile.
    a.run(&["suspend", VM])?;
    a.wait_state(VM, 7, BOUND)?;
    b.wait_merged(VM, BOUND)?;
    let kept: BTreeSet<String> = ids(b)?.into_iter().rev().skip(1).take(5).collect();
    ensure!(kept.len() >= 3, "too few points to lose: {}", kept.len());
    a.run(&["resync", VM])?;
    let after: BTreeSet<String> = ids(b)?.into_iter().collect();
    ensure!(kept.is_subset(&after), "a resync lost points: {kept:?} {after:?}");
    stage.check_newest(a, b)?;

    // It waits for the turn that is under way.
    a.run(&["configure", VM, "--bandwidth", "512KiB/s"])?;
    poll_for(BOUND, || (a.status(VM).ok()?["activity"] != "").then_some(())).context("no turn begins")?;
    a.run(&["suspend", VM, "--release"])?;
    stage.wait_for_acks(20)?;
    a.run(&["configure", VM, "--no-bandwidth"])?;
    a.run(&["resume", VM])?;
    stage.check_newest(a, b)?;
    compare_paused(a, b)?;

    a.run(&["suspend", VM])?;
    a.wait_state(VM, 7, BOUND)?;
    b.run(&["verify", VM])?;
    let flipped = flip_a_byte(b)?;
    let found = b.run(&["verify", VM]).err().context("verify does not see a flipped byte")?;
    ensure!(found.code == 17 && found.message.contains(&flipped), "point {flipped}: {found:#?}");

    let traces_before = traces(&stage)?;
    for folder in ["checkpoint", "replicas"] {
        let is_there = traces_before.iter().any(|path| path.iter().any(|part| part == folder));
        ensure!(is_there, "no {folder} where it is looked for: {traces_before:?}");
    }
    a.run(&["unprotect", VM])?;
    b.run(&["unprotect", VM, "--delete-replica"])?;
    leaves_no_trace(&stage)?;
    protect(a)?;
    stage.check_newest(a, b)?;
    b.run(&["verify", VM])?;
    Ok(())
}

/// Flips a byte of data in the newest layer that holds any; its point.
fn flip_a_byte(host: &Host) -> Result<String> {
    for id in ids(host)?.into_iter().rev() {
        for image in host.point_images(VM, &id)? {
            let map = run("qemu-img", &["map", "-U", "--output=json", &image.to_string_lossy()])?;
            let map: Value = serde_json::from_str(&map)?;
            let own = |e: &&Value| e["depth"] == 0 && e["data"] == true && e["offset"].is_u64();
            let Some(extent) = map.as_array().and_then(|map| map.iter().find(own)) else { continue };
            let at = extent["offset"].as_u64().context("an offset")? + 100;
            let file = fs::File::options().read(true).write(true).open(&image)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 1], at)?;
            return Ok(id);
        }
    }
    anyhow::bail!("no layer holds data")
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// After `unprotect` on both hosts: no checkpoint, bitmap, overlay, spool or layer.
fn leaves_no_trace(stage: &Stage) -> Result<()> {
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    for host in [a, b] {
        let left = host.run(&["status"])?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "{} still has {left}", host.name);
    }
    let before = boots(stage)?;
    a.run(&["vm", "stop", VM])?;
    for path in disk_paths(a)? {
        let info: Value = serde_json::from_str(&run("qemu-img", &["info", "--output=json", &path])?)?;
        let bitmaps = &info["format-specific"]["data"]["bitmaps"];
        ensure!(bitmaps.as_array().is_none_or(Vec::is_empty), "{path} still has bitmaps: {bitmaps}");
        ensure!(info["backing-filename"].is_null(), "{path} is an overlay");
        run("qemu-img", &["check", "-q", &path])?;
    }
    let left = traces(stage)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    a.run(&["vm", "start", VM])?;
    wait_for_boot(stage, before)
}

/// Files of checkpoints, spools and layers.
fn traces(stage: &Stage) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    files_below(&stage.pair.a.root, &mut files)?;
    files_below(&stage.pair.b.root, &mut files)?;
    files.retain(|path| {
        let folders = path.iter().map(|part| part.to_string_lossy());
        folders.into_iter().any(|part| ["checkpoint", "spool", "replicas"].contains(&&*part))
    });
    Ok(files)
}

#[test]
fn firmware_variables_and_tpm_state_come_along() -> Result<()> {
    let pair = Pair::start(binary())?;
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 16 << 20)?;
    let (code, variables) = (pair.root.join("a/code.fd"), pair.root.join("a/variables.fd"));
    fs::write(&code, [0; 4096])?;
    fs::write(&variables, "boot order: as installed")?;
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    let firmware = format!(
        "<os><loader readonly='yes' type='pflash'>{}</loader><nvram>{}</nvram>",
        code.display(),
        variables.display()
    );
    let tpm = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm></devices>";
    let xml = domain_xml(&spec)?.replace("<os>", &firmware).replace("</devices>", tpm);
    let file = pair.root.join("guest.xml");
    fs::write(&file, xml)?;
    pair.a.run(&["vm", "define", &file.to_string_lossy()])?;
    let id = pair.a.run(&["vm", "show", VM])?["vm"].as_str().context("no UUID")?.to_owned();
    let state = |host: &Host| host.root.join(format!("libvirt/lib/swtpm/{id}/tpm2/tpm2-00.permall"));
    fs::create_dir_all(state(&pair.a).parent().context("a folder")?)?;
    fs::write(state(&pair.a), "sealed keys")?;

    protect(&pair.a)?;
    fs::write(&variables, "boot order: changed by the guest")?;
    fs::write(state(&pair.a), "sealed keys, and one more")?;
    pair.a.wait_cycles(VM, 2, BOUND)?;
    pair.b.run(&["failover", VM, "--no-start"])?;
    let defined = fs::read_to_string(pair.b.root.join(format!("libvirt/etc/qemu/{VM}.xml")))?;
    let there = defined.split("<nvram").nth(1).and_then(|rest| rest.split(['>', '<']).nth(1));
    let there = there.context("the domain has no variables")?;
    ensure!(Path::new(there).starts_with(pair.b.storage()), "the variables are at {there}");
    ensure!(fs::read_to_string(there)? == "boot order: changed by the guest");
    ensure!(fs::read_to_string(state(&pair.b))? == "sealed keys, and one more");
    Ok(())
}

/// Whatever replication begins with after the loss of power, such as a comparison, the VM does not wait for it.
#[test]
fn a_vm_with_autostart_runs_again_after_its_host_lost_power() -> Result<()> {
    let mut stage = Stage::new(&[96 << 20])?;
    stage.pair.a.kill_daemon()?;
    let uri = format!("qemu:///embed?root={}", stage.pair.a.root.join("libvirt").display());
    run("virsh", &["-q", "-c", &uri, "autostart", VM])?;
    stage.pair.a.start()?;
    stage.protect()?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    for _ in 0..2 {
        stage.pair.a.kill_daemon()?;
        stage.pair.a.kill_qemu(VM)?;
        // A /run does not outlive its host: libvirt is not to think for a moment that the VM runs.
        fs::remove_dir_all(stage.pair.a.root.join("libvirt/run"))?;
        let before = boots(&stage)?;
        stage.pair.a.start()?;
        wait_for_boot(&stage, before)?;
        stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    }
    Ok(())
}
