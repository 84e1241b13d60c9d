//! Scrubs: what rotted on the replica, and what the primary's disk holds although nobody wrote it, is found by reading
//! and sent anew; what the guest wrote rightly is not counted among it.

mod support;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec, domain_xml,
    pair::{Host, Pair},
    poll_for,
};

const CLUSTER: u64 = 64 << 10;
const DISK_BYTES: u64 = 40 << 20;
/// So long that none comes between two looks.
const SELDOM: &str = "12h";

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
    Ok(())
}

/// What the guest sees of a disk.
fn content(image: &Path, folder: &Path) -> Result<Vec<u8>> {
    let raw = folder.join("content.raw");
    run("qemu-img", &["convert", "-U", "-O", "raw", &image.to_string_lossy(), &raw.to_string_lossy()])?;
    Ok(fs::read(raw)?)
}

fn write(disk: &Path, pattern: u8, offset: u64, bytes: u64) -> Result<()> {
    let command = format!("write -q -P {pattern} {offset} {bytes}");
    run("qemu-io", &["-c", &command, &disk.to_string_lossy()])
}

/// Where in an image's file a cluster lies; `None`: not in this file.
fn place(image: &Path, cluster: u64) -> Result<Option<u64>> {
    let at = (cluster * CLUSTER).to_string();
    let map = ["map", "-U", "--output=json", "--start-offset", &at, "--max-length", "65536"];
    let output = Command::new("qemu-img").args(map).arg(image).output()?;
    let map: Value = serde_json::from_slice(&output.stdout)?;
    Ok(map[0]["offset"].as_u64().filter(|_| map[0]["depth"] == 0))
}

/// Changes a byte of a cluster under whatever tracks it.
fn flip(image: &Path, cluster: u64) -> Result<()> {
    let at = place(image, cluster)?.with_context(|| format!("{} has no {cluster}", image.display()))? + 100;
    let file = fs::File::options().read(true).write(true).open(image)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[!byte[0]], at)?)
}

/// Damages a cluster of the newest point, in whichever file it lies.
fn rot(host: &Host, cluster: u64) -> Result<()> {
    for point in host.points(VM)?.iter().rev() {
        let image = host.point_images(VM, point["point"].as_str().context("no id")?)?.remove(0);
        if place(&image, cluster)?.is_some() {
            return flip(&image, cluster);
        }
    }
    bail!("no point has cluster {cluster}")
}

fn newest(host: &Host) -> Result<(String, PathBuf)> {
    let point = host.points(VM)?.pop().context("no point")?;
    let id = point["point"].as_str().context("no id")?.to_owned();
    let image = host.point_images(VM, &id)?.remove(0);
    Ok((id, image))
}

/// (changed on the primary, damaged on the replica), since the statistics were reset.
fn repaired(host: &Host) -> Result<(u64, u64)> {
    let scrub = host.status(VM)?["scrub"].clone();
    let count = |key: &str| scrub[key].as_u64().with_context(|| format!("no {key}: {scrub}"));
    Ok((count("changed_on_primary")?, count("damaged_on_replica")?))
}

fn warned(host: &Host) -> Result<bool> {
    let issues = host.status(VM)?["issues"].clone();
    Ok(issues.as_array().context("no issues")?.iter().any(|issue| issue["id"] == "scrub"))
}

fn rests(host: &Host) -> Result<()> {
    poll_for(BOUND, || (host.status(VM).ok()?["activity"] == "").then_some(())).context("it does not rest")
}

/// A VM that is off, replicated seldom; its disk.
fn replicated(pair: &Pair, format: &'static str) -> Result<PathBuf> {
    let disk = pair.a.root.join(format!("disk.{format}"));
    image(&disk, format, DISK_BYTES)?;
    write_as(&disk, format, 7, 0, 20 << 20)?;
    let spec = GuestSpec::new(VM, &[(disk.clone(), format)], &pair.root.join("serial.log"));
    let xml = pair.root.join("guest.xml");
    fs::write(&xml, domain_xml(&spec)?)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    let more = ["--interval", SELDOM, "--history", "4", "--history-every", "1s"];
    pair.a.run(&[&["protect", VM, "--to", "b.example"][..], &more].concat())?;
    pair.a.wait_state(VM, 3, BOUND)?;
    // The first cycle comes at once, and then none for a long time.
    let twice = || (pair.a.status(VM).ok()?["cycles_succeeded"] == 2).then_some(());
    poll_for(BOUND, twice).context("the first cycle does not come")?;
    Ok(disk)
}

fn write_as(disk: &Path, format: &str, pattern: u8, offset: u64, bytes: u64) -> Result<()> {
    let command = format!("write -q -P {pattern} {offset} {bytes}");
    run("qemu-io", &["-f", format, "-c", &command, &disk.to_string_lossy()])
}

#[test]
fn a_scrub_repairs_rot_on_the_replica_and_a_difference_that_nobody_saw() -> Result<()> {
    let pair = Pair::start(binary())?;
    let disk = replicated(&pair, "qcow2")?;
    let (a, b, root) = (&pair.a, &pair.b, pair.root.path());
    a.run(&["scrub", VM])?;
    let status = a.status(VM)?;
    ensure!(repaired(a)? == (0, 0) && !warned(a)?, "there was nothing to repair: {status:#}");
    ensure!(
        status["scrub"]["last_at"].is_string() && status["last_cycle_bytes"].as_u64() < Some(CLUSTER),
        "{status:#}"
    );
    ensure!(status["state_number"] == 3 && status["cycles_missed"] == 0, "{status:#}");

    // Rot: in what both the older and the newest point read from the first copy's file.
    let first = b.points(VM)?.remove(0)["point"].as_str().context("no id")?.to_owned();
    rot(b, 3)?;
    rot(b, 200)?;
    let refused = b.run(&["verify", VM]).err().context("the rot is not found")?;
    ensure!(refused.code == 17, "{refused:?}");
    // Unseen: no bitmap marks it.
    flip(&disk, 5)?;
    // Seen, and sent rightly.
    write(&disk, 9, 30 << 20, 3 * CLUSTER)?;

    a.run(&["scrub", VM])?;
    b.wait_merged(VM, BOUND)?;
    let status = a.status(VM)?;
    ensure!(repaired(a)? == (1, 2), "{status:#}");
    ensure!(warned(a)? && status["health"] == "warning", "{status:#}");
    let (id, top) = newest(b)?;
    ensure!(id != first, "no new point");
    ensure!(content(&top, root)? == content(&disk, root)?, "the newest point is not the primary's disk");
    b.run(&["verify", VM, "--point", &id])?;
    let still_there = b.points(VM)?.iter().any(|point| point["point"] == first.as_str());
    ensure!(still_there, "the older point is gone, and with it what this shows");
    let refused =
        b.run(&["verify", VM, "--point", &first]).err().context("the older point is not repaired")?;
    ensure!(refused.code == 17 && refused.message.contains("2 clusters differ"), "{refused:?}");

    a.run(&["scrub", VM])?;
    ensure!(repaired(a)? == (1, 2) && warned(a)?, "nothing is left to repair, and what was is not forgotten");
    a.run(&["reset-statistics", VM])?;
    ensure!(repaired(a)? == (0, 0) && !warned(a)?, "the statistics were reset");
    ensure!(a.status(VM)?["scrub"]["last_at"].is_string(), "when it ran is no counter");
    let refused = b.run(&["scrub", VM]).err().context("the replica's host cannot scrub")?;
    ensure!(refused.code == 5, "{refused:?}");
    Ok(())
}

#[test]
fn a_raw_disk_is_scrubbed_too_and_by_itself() -> Result<()> {
    let pair = Pair::start(binary())?;
    let disk = replicated(&pair, "raw")?;
    let (a, b, root) = (&pair.a, &pair.b, pair.root.path());
    rot(b, 17)?;
    fs::File::options().write(true).open(&disk)?.write_all_at(b"behind its back", 25 * CLUSTER)?;
    a.run(&["configure", VM, "--scrub-every", "1s"])?;
    let ran = || a.status(VM).ok()?["scrub"]["last_at"].is_string().then_some(());
    poll_for(BOUND, ran).context("it does not begin by itself")?;
    a.run(&["configure", VM, "--scrub-every", "never"])?;
    let jobs = a.run(&["job", "list"])?;
    ensure!(jobs.to_string().contains("\"kind\":\"scrub\""), "no job: {jobs:#}");
    ensure!(repaired(a)? == (1, 1), "{:#}", a.status(VM)?);
    let same = || (content(&newest(b).ok()?.1, root).ok()? == fs::read(&disk).ok()?).then_some(());
    poll_for(BOUND, same).context("the newest point is not the primary's disk")?;
    rests(a)?;
    b.wait_merged(VM, BOUND)?;
    b.run(&["verify", VM, "--point", &newest(b)?.0])?;
    Ok(())
}

/// A scrub that takes long, since the VM wrote much before it; its job.
fn crawl(host: &Host, disk: &Path, folder: &Path) -> Result<String> {
    host.run(&["configure", VM, "--bandwidth", "64KiB/s"])?;
    // No compression makes this small.
    let random = folder.join("random");
    let mut bytes = vec![0; 8 << 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    fs::write(&random, bytes)?;
    run("qemu-io", &["-c", &format!("write -q -s {} 30M 8M", random.display()), &disk.to_string_lossy()])?;
    let view = host.run(&["scrub", VM, "--no-wait"])?;
    let job = view["job"].as_str().with_context(|| format!("no job: {view:#}"))?.to_owned();
    let sends = || {
        let view = host.run(&["job", "show", &job]).ok()?;
        (view["stage"] == "ship" && view["bytes_done"] != 0).then_some(())
    };
    poll_for(BOUND, sends).context("nothing is sent")?;
    Ok(job)
}

#[test]
fn a_scrub_goes_on_after_a_crash_and_counts_once() -> Result<()> {
    let mut pair = Pair::start(binary())?;
    let disk = replicated(&pair, "qcow2")?;
    let root = pair.root.path().to_owned();
    for cluster in [0, 1, 2, 150] {
        rot(&pair.b, cluster)?;
    }
    let job = crawl(&pair.a, &disk, &root)?;
    pair.a.kill_daemon()?;
    pair.a.start()?;
    pair.a.run(&["configure", VM, "--no-bandwidth"])?;
    let ended = || (pair.a.run(&["job", "show", &job]).ok()?["state"] == "completed").then_some(());
    poll_for(BOUND, ended).context("it does not end")?;
    let (a, b) = (&pair.a, &pair.b);
    b.wait_merged(VM, BOUND)?;
    ensure!(repaired(a)? == (0, 4), "{:#}", a.status(VM)?);
    let (id, top) = newest(b)?;
    ensure!(content(&top, &root)? == content(&disk, &root)?, "the newest point is not the primary's disk");
    b.run(&["verify", VM, "--point", &id])?;
    Ok(())
}

#[test]
fn a_scrub_that_is_cancelled_changes_nothing_and_replication_goes_on() -> Result<()> {
    let pair = Pair::start(binary())?;
    let disk = replicated(&pair, "qcow2")?;
    let (a, b, root) = (&pair.a, &pair.b, pair.root.path());
    let before = newest(b)?.0;
    let job = crawl(a, &disk, root)?;
    a.run(&["job", "cancel", &job])?;
    let ended = || (a.run(&["job", "show", &job]).ok()?["state"] == "terminated").then_some(());
    poll_for(BOUND, ended).context("it is not cancelled")?;
    ensure!(newest(b)?.0 == before, "a point came of it");
    ensure!(repaired(a)? == (0, 0) && a.status(VM)?["scrub"]["last_at"].is_null(), "nothing was repaired");
    a.run(&["configure", VM, "--no-bandwidth", "--interval", "1s"])?;
    a.wait_cycles(VM, 2, BOUND)?;
    ensure!(a.state(VM)? == 3, "replication goes on");
    Ok(())
}

/// The bitmap that tells what a guest wrote from what nobody wrote is read under a running VM.
#[test]
fn what_a_running_guest_writes_is_no_repair() -> Result<()> {
    let stage = Stage::new(&[64 << 20, 64 << 20])?;
    stage.protect()?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    a.wait_cycles(VM, 2, BOUND)?;
    a.run(&["configure", VM, "--interval", SELDOM, "--compression", "off"])?;
    // The one that was due all the same is through.
    a.wait_cycles(VM, 1, BOUND)?;
    rests(a)?;
    stage.wait_for_acks(20)?;
    a.run(&["scrub", VM])?;
    let status = a.status(VM)?;
    ensure!(status["scrub"]["last_at"].is_string(), "it became something else: {status:#}");
    ensure!(repaired(a)? == (0, 0), "what the guest wrote counts as a repair: {status:#}");
    ensure!(status["last_cycle_bytes"].as_u64() > Some(2 * CLUSTER), "the guest wrote nothing: {status:#}");
    a.run(&["configure", VM, "--interval", "1s"])?;
    a.wait_cycles(VM, 2, BOUND)?;
    stage.check_newest(a, b)?;
    Ok(())
}
