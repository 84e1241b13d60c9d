//! A host's clock jumps, by hours and beyond the end of a certificate: it is named and counted, the guest is not
//! hurt, no point is lost, and replication goes on when the clock is right again.

mod support;

use anyhow::{Context, Result, ensure};
use std::{collections::BTreeSet, fs, path::PathBuf};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec,
    kdc::LIBFAKETIME,
    libvirtd::Libvirtd,
    pair::{Host, Pair},
    poll_for,
};

fn offset(host: &Host) -> PathBuf {
    host.root.join("offset")
}

/// Puts a host's clock off by so much (`+150m`).
fn set_clock(host: &Host, by: &str) -> Result<()> {
    let new = host.root.join("offset.new");
    fs::write(&new, by)?;
    Ok(fs::rename(new, offset(host))?)
}

/// Waits until an issue of this id says these words.
fn wait_issue(host: &Host, id: &str, words: &str) -> Result<()> {
    let mut last = vec![];
    poll_for(BOUND, || {
        last = host.status(VM).ok()?["issues"].as_array()?.clone();
        let told = last.iter().any(|issue| issue["id"] == id && issue["message"].to_string().contains(words));
        told.then_some(())
    })
    .with_context(|| format!("no issue {id} says {words:?} on {}: {last:#?}", host.name))
}

/// Two hosts, each with a clock that a file of this name in its folder puts off.
fn pair() -> Result<Pair> {
    let mut pair = Pair::prepare(binary())?;
    for host in [&mut pair.a, &mut pair.b] {
        // A process of its own, because QEMU would inherit what is loaded into the daemon.
        host.libvirtd = Some(Libvirtd::start(&host.root.join("libvirt"), "root")?);
        set_clock(host, "+0")?;
        for (name, value) in [
            ("LD_PRELOAD", LIBFAKETIME.into()),
            ("FAKETIME_TIMESTAMP_FILE", offset(host)),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ] {
            host.environment.push((name.to_owned(), value));
        }
    }
    pair.a.configure(&pair.b, "")?;
    pair.b.configure(&pair.a, "")?;
    pair.begin()?;
    Ok(pair)
}

/// Every point that is there goes in its turn, and others take its place.
fn history_goes_on(host: &Host) -> Result<()> {
    let ids = |host: &Host| -> Option<BTreeSet<String>> {
        let points = host.points(VM).ok()?;
        Some(points.iter().filter_map(|point| Some(point["point"].as_str()?.to_owned())).collect())
    };
    let before = ids(host).context("no points")?;
    poll_for(BOUND, || ids(host).filter(|now| now.len() > 2 && now.is_disjoint(&before)).map(drop))
        .with_context(|| format!("the history of {} stands still: {:?}", host.name, host.points(VM)))
}

#[test]
fn a_clock_that_jumps_and_a_certificate_that_expires_are_named_and_survived() -> Result<()> {
    let pair = pair()?;
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 64 << 20)?;
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    let mut stage = Stage::with(pair, &spec)?;
    let every = ["--interval", "1", "--history", "2", "--history-every", "1s"];
    stage.pair.a.run(&[&["protect", VM, "--to", "b.example"], &every[..]].concat())?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;

    for host in ["a.example", "b.example"] {
        let host = stage.pair.host(host);
        for (by, way) in [("+150m", "forward by 2 h"), ("-200m", "back by 5 h")] {
            set_clock(host, by)?;
            wait_issue(host, "clock", way)?;
            stage.check_newest(&stage.pair.a, &stage.pair.b)?;
            history_goes_on(&stage.pair.b)?;
        }
        set_clock(host, "+0")?;
        wait_issue(host, "clock", "forward by 3 h")?;
    }

    // To host a, every certificate has expired. The connection that stands outlives that; it is cut.
    set_clock(&stage.pair.a, "+9y")?;
    wait_issue(&stage.pair.a, "certificate-expired", "expired at")?;
    let failed = |a: &Host| Ok::<_, anyhow::Error>(a.status(VM)?["interval"]["failed"].as_u64());
    let before = failed(&stage.pair.a)?;
    stage.pair.b.stop();
    stage.pair.b.start()?;
    wait_issue(&stage.pair.a, "failing", "expired")?;
    ensure!(failed(&stage.pair.a)? > before, "nothing counts: {:#}", stage.pair.a.status(VM)?);
    let refused = stage.pair.a.run(&["host", "--test", "b.example"]).err().context("b is said to be fine")?;
    ensure!(refused.id == "peer-certificate" && refused.message.contains("expired"), "{refused:?}");
    stage.wait_for_acks(20)?;

    set_clock(&stage.pair.a, "+0")?;
    stage.pair.a.run(&["resume", VM])?;
    stage.pair.a.wait_state(VM, 3, BOUND)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    history_goes_on(&stage.pair.b)?;
    let status = stage.pair.a.status(VM)?;
    let (missed, took_ms) = (status["cycles_missed"].as_u64(), status["last_cycle_ms"].as_u64());
    ensure!(missed < Some(600) && took_ms < Some(600_000), "a jump of the clock is counted: {status:#}");
    Ok(())
}
