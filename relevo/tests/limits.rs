//! What a host sends and receives at once is bounded: whoever has to wait says so, has not failed, and has its turn. How much
//! it sends follows the time of the day, and the settings.

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{fs, process::Command};
use support::{BOUND, binary};
use testkit::{GuestSpec, domain_xml, pair::Pair, poll_for};

/// Many times what a [`CRAWL`] carries while anything is waited for.
const HUGE_BYTES: usize = 48 << 20;
const CRAWL: &str = "64KiB/s";
const CRAWL_BYTES_PER_S: u64 = 64 << 10;

/// Defines a VM, which stays off, on host a, with this much on its disk.
fn define(pair: &Pair, name: &str, bytes: usize) -> Result<()> {
    let (raw, disk) = (pair.root.join("content"), pair.root.join(format!("a/{name}.qcow2")));
    let mut content = vec![0; bytes];
    use std::io::Read;
    fs::File::open("/dev/urandom")?.read_exact(&mut content)?;
    fs::write(&raw, content)?;
    let made =
        Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([raw.as_path(), &disk]).status()?;
    ensure!(made.success(), "qemu-img convert failed");
    let spec = GuestSpec::new(name, &[(disk, "qcow2")], &pair.root.join(format!("{name}.log")));
    let xml = pair.root.join(format!("{name}.xml"));
    fs::write(&xml, domain_xml(&spec)?)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    Ok(())
}

fn protect(pair: &Pair, name: &str, more: &[&str]) -> Result<()> {
    let common = ["protect", name, "--to", "b.example", "--interval", "1", "--history", "0", "--no-wait"];
    pair.a.run(&[&common[..], more].concat())?;
    Ok(())
}

/// Waits until the first copy is on its way, at a crawl.
fn crawls(pair: &Pair, name: &str) -> Result<()> {
    let mut last = Value::Null;
    let sends = poll_for(BOUND, || {
        last = pair.a.run(&["job", "list"]).ok()?;
        let sends = |job: &Value| job["vm_name"] == name && job["stage"] == "ship" && job["bytes_done"] != 0;
        last.as_array()?.iter().any(sends).then_some(())
    });
    sends.with_context(|| format!("nothing is sent: {last:#}"))?;
    let status = pair.a.status(name)?;
    ensure!(
        status["state_number"] == 2 && status["bandwidth_now_bytes_per_s"] == CRAWL_BYTES_PER_S,
        "{status:#}"
    );
    Ok(())
}

/// Two first copies where one may be under way: the second one waits as `waits` finds it, a cycle does not wait for
/// either, and in the end all is replicated.
fn one_waits(pair: &Pair, waits: impl Fn(&Value) -> bool) -> Result<()> {
    let (a, b) = (&pair.a, &pair.b);
    for (name, bytes) in [("small", 1 << 20), ("first", HUGE_BYTES), ("second", 2 << 20)] {
        define(pair, name, bytes)?;
    }
    protect(pair, "small", &[])?;
    a.wait_cycles("small", 2, BOUND)?;
    protect(pair, "first", &["--bandwidth", CRAWL])?;
    crawls(pair, "first")?;
    protect(pair, "second", &[])?;
    let mut last = Value::Null;
    poll_for(BOUND, || {
        last = a.status("second").ok()?;
        waits(&last).then_some(())
    })
    .with_context(|| format!("it does not say that it waits: {last:#}"))?;
    a.wait_cycles("small", 2, BOUND)?;
    let (first, second) = (a.status("first")?, a.status("second")?);
    ensure!(first["state_number"] == 2, "the first copy ended before anything could be seen: {first:#}");
    ensure!(second["state_number"] == 2, "both are replicated although one may be: {second:#}");
    a.run(&["configure", "first", "--no-bandwidth"])?;
    a.wait_state("first", 3, BOUND)?;
    let second = a.wait_state("second", 3, BOUND)?;
    ensure!(second["cycles_waited"].as_u64() >= Some(1), "the wait was not counted: {second:#}");
    for name in ["small", "first", "second"] {
        let status = a.status(name)?;
        ensure!(status["cycles_failed"] == 0, "waiting counts as a failure: {status:#}");
        b.run(&["verify", name])?;
    }
    Ok(())
}

fn pair(sending_max: u32, receiving_max: u32) -> Result<Pair> {
    let mut pair = Pair::prepare(binary())?;
    for (host, key, max) in [(&pair.a, "sending_max", sending_max), (&pair.b, "receiving_max", receiving_max)]
    {
        let path = host.root.join("etc/relevo.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, format!("{text}\n[transfers]\n{key} = {max}\n"))?;
    }
    pair.begin()?;
    Ok(pair)
}

#[test]
fn a_first_copy_waits_until_another_one_was_sent_and_cycles_go_on() -> Result<()> {
    let pair = pair(2, 8)?;
    one_waits(&pair, |status| {
        let waiting = pair.a.run(&["host"]).is_ok_and(|host| host["sending"]["waiting"] == 1);
        waiting && status["activity"] == "first copy: waits for its turn"
    })
}

#[test]
fn a_first_copy_waits_until_the_other_host_has_received_another_one() -> Result<()> {
    let pair = pair(8, 2)?;
    one_waits(&pair, |status| {
        let says = |issue: &Value| issue["message"].as_str().is_some_and(|m| m.contains("receives as much"));
        let issues = status["issues"].as_array().cloned().unwrap_or_default();
        let waiting = pair.b.run(&["host"]).is_ok_and(|host| host["receiving"]["waiting"] == 1);
        waiting && issues.iter().any(says)
    })
}

/// Host a's time zone is ahead by an odd difference, so that local time is taken for no other.
const ZONE: &str = "<+0545>-5:45";
const ZONE_MINUTES: u64 = 5 * 60 + 45;

/// A window that holds now and ends at a full minute, three quarters of one ahead at least; by host a's time zone.
fn window_until_soon() -> Result<String> {
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let local = |s: u64| {
        let minute = (s / 60 + ZONE_MINUTES) % (24 * 60);
        format!("{:02}:{:02}", minute / 60, minute % 60)
    };
    Ok(format!("{}-{} = {CRAWL}", local(now_s), local(now_s + 105)))
}

#[test]
fn a_running_stream_follows_the_time_of_the_day_and_the_settings() -> Result<()> {
    let mut pair = Pair::prepare(binary())?;
    pair.a.environment.push(("TZ".to_owned(), ZONE.into()));
    pair.begin()?;
    for name in ["by-time", "by-hand"] {
        define(&pair, name, HUGE_BYTES)?;
    }
    protect(&pair, "by-hand", &["--bandwidth", CRAWL])?;
    crawls(&pair, "by-hand")?;
    pair.a.run(&["configure", "by-hand", "--no-bandwidth"])?;
    pair.a.wait_state("by-hand", 3, BOUND)?;
    protect(&pair, "by-time", &["--bandwidth", &window_until_soon()?])?;
    crawls(&pair, "by-time")?;
    let status = pair.a.wait_state("by-time", 3, 2 * BOUND)?;
    ensure!(status["bandwidth_now_bytes_per_s"].is_null(), "{status:#}");
    ensure!(status["sent_bytes"].as_u64() >= Some(HUGE_BYTES as u64), "{status:#}");
    Ok(())
}
