//! The command `failover` to a running domain, from the latest point and from the oldest, beside libvirt's
//! start of such a domain.

use crate::{GUESTS_FOLDER, Options, VM, bare::Bare, binary, create_disk, define, report::Figure};
use anyhow::{Context, Result, ensure};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use testkit::{GuestSpec, Writer, pair::Pair};

const BOUND: Duration = Duration::from_secs(180);
const DISKS_BYTES: [u64; 2] = [1 << 30; 2];

pub fn failover(options: &Options) -> Result<Vec<Figure>> {
    let mut pair = Pair::start_in(&binary("relevo")?, Path::new(GUESTS_FOLDER))?;
    let mut disks = vec![];
    for (name, bytes) in ["a/0.qcow2", "a/1.qcow2"].iter().zip(DISKS_BYTES) {
        create_disk(&pair.root.join(name), bytes)?;
        disks.push((pair.root.join(name), "qcow2"));
    }
    let spec = GuestSpec::new(VM, &disks, &pair.root.join("serial.log"));
    define(&pair.a, &spec)?;
    pair.a.run(&["vm", "start", VM])?;
    let history = ["--interval", "1s", "--history", "8", "--history-every", "2s"];
    pair.a.run(&[&["protect", VM, "--to", &pair.b.name], &history[..]].concat())?;
    pair.a.wait_cycles(VM, 20, BOUND)?;
    pair.a.kill_daemon()?;
    pair.a.kill_qemu(VM)?;
    let points = pair.b.points(VM)?;
    let oldest = points.first().and_then(|point| point["point"].as_str()).context("no point")?;
    let mut bare = Bare::start(&DISKS_BYTES, &Writer::default())?;
    let (mut latest, mut older, mut start) = (vec![], vec![], vec![]);
    for run in 1..=options.runs {
        latest.push(take_over(&pair, &["failover", VM])?);
        older.push(take_over(&pair, &["failover", VM, "--point", oldest])?);
        start.push(bare.ask("start")?);
        bare.ask("destroy")?;
        println!(
            "  run {run}: {:.0} ms, oldest point {:.0} ms; bare {:.0} ms",
            latest[run - 1],
            older[run - 1],
            start[run - 1]
        );
    }
    let peer = || ("libvirt's start", start.clone());
    let oldest = format!("failover to the oldest of {} points", points.len());
    Ok(vec![
        Figure::beside("failover to the latest point, command to running", "ms", latest, peer(), 1.5),
        Figure::beside(oldest, "ms", older, peer(), 1.5),
    ])
}

fn take_over(pair: &Pair, command: &[&str]) -> Result<f64> {
    let began = Instant::now();
    pair.b.run(command)?;
    let took_ms = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(pair.b.status(VM)?["power_state"] == "running", "the VM does not run");
    pair.b.run(&["revert", VM])?;
    Ok(took_ms)
}
