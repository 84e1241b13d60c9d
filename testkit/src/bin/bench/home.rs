//! Home after the primary was killed: what is sent, beside the clusters that differ, and what each side reads.

use crate::{
    GUESTS_FOLDER, Options, VM, binary, content, define,
    report::{Figure, rchar},
    tool,
};
use anyhow::{Context, Result, ensure};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use testkit::{
    GuestSpec, Writer,
    oracle::read_log,
    pair::{Host, Pair},
    poll, used_bytes,
};

const BOUND: Duration = Duration::from_secs(180);
const DISK_BYTES: u64 = 1 << 30;
const CLUSTER_BYTES: usize = 64 << 10;
/// What the guest writes in: one percent of the disk.
const AREA_MIB: u64 = 10;

pub fn failback(options: &Options) -> Result<Vec<Figure>> {
    let mut runs = vec![];
    for run in 1..=options.runs {
        let home = come_home()?;
        println!(
            "  run {run}: sent {} bytes where {} differ; read {} at home, {} away, of {}",
            home.sent, home.differ, home.read_at_home, home.read_away, home.data
        );
        runs.push(home);
    }
    let each = |value: fn(&Home) -> f64| runs.iter().map(value).map(|bytes| bytes / MIB).collect::<Vec<_>>();
    let data = || ("data on the disk", each(|home| home.data));
    let sent = each(|home| home.sent);
    let differ = each(|home| home.differ);
    Ok(vec![
        Figure::beside("failback: sent", "MiB", sent, ("clusters that differ", differ), 1.2),
        // Once, and what little the catalog and the images' tables are.
        Figure::beside("failback: read by the returning host", "MiB", each(|h| h.read_at_home), data(), 1.1),
        Figure::beside("failback: read by the other host", "MiB", each(|home| home.read_away), data(), 0.2),
    ])
}

const MIB: f64 = (1 << 20) as f64;

/// All in bytes.
struct Home {
    sent: f64,
    differ: f64,
    read_at_home: f64,
    read_away: f64,
    data: f64,
}

fn come_home() -> Result<Home> {
    let mut pair = Pair::start_in(&binary("relevo")?, Path::new(GUESTS_FOLDER))?;
    let disk = pair.root.join("a/disk.qcow2");
    content::make(&disk, DISK_BYTES, AREA_MIB << 20)?;
    let mut spec = GuestSpec::new(VM, &[(disk.clone(), "qcow2")], &pair.root.join("serial.log"));
    spec.writer = Writer { ops_per_s: 32.0, bytes_per_op: 64 << 10, area_mib: AREA_MIB, ..Writer::default() };
    define(&pair.a, &spec)?;
    pair.a.run(&["vm", "start", VM])?;
    pair.a.run(&["protect", VM, "--to", &pair.b.name, "--interval", "1s"])?;
    pair.a.wait_cycles(VM, 2, BOUND)?;
    pair.a.kill_daemon()?;
    // What it writes from here on never gets to the other host.
    wait_for_writes(&spec.serial)?;
    pair.a.kill_qemu(VM)?;
    pair.b.run(&["failover", VM])?;
    wait_for_writes(&spec.serial)?;
    pair.b.run(&["commit", VM])?;
    pair.b.run(&["vm", "pause", VM])?;
    let left = raw_copy(&disk, &pair.root.join("left.raw"))?;

    pair.a.start()?;
    pair.a.wait_state(VM, 8, BOUND)?;
    let sent = sent_bytes(&pair.b)?;
    let (at_home, away) = (read_bytes(&pair.a)?, read_bytes(&pair.b)?);
    pair.a.run(&["failback", VM])?;
    pair.a.wait_state(VM, 14, BOUND)?;
    let show = pair.b.run(&["vm", "show", VM])?;
    let now = show["disks"][0]["path"].as_str().context("no path")?;
    let now = raw_copy(Path::new(now), &pair.root.join("now.raw"))?;
    Ok(Home {
        sent: sent_bytes(&pair.b)? - sent,
        differ: differing_bytes(&left, &now)?,
        read_at_home: read_bytes(&pair.a)? - at_home,
        read_away: read_bytes(&pair.b)? - away,
        data: used_bytes(&disk)? as f64,
    })
}

/// Until the guest has been over its whole area once more.
fn wait_for_writes(serial: &Path) -> Result<()> {
    let from = read_log(serial)?.acks;
    let wrote = || read_log(serial).is_ok_and(|log| log.acks > from + AREA_MIB);
    ensure!(poll(BOUND, wrote), "the guest does not write; see {}", serial.display());
    Ok(())
}

fn sent_bytes(host: &Host) -> Result<f64> {
    host.status(VM)?["sent_bytes"].as_f64().context("no count")
}

fn read_bytes(host: &Host) -> Result<f64> {
    rchar(host.daemon_pid().context("the daemon does not run")?)
}

/// The guest's view of an image that a QEMU may have open.
fn raw_copy(image: &Path, to: &Path) -> Result<PathBuf> {
    tool(Command::new("qemu-img").args(["convert", "-U", "-f", "qcow2", "-O", "raw"]).arg(image).arg(to))?;
    Ok(to.to_owned())
}

fn differing_bytes(one: &Path, other: &Path) -> Result<f64> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; CLUSTER_BYTES], vec![0; CLUSTER_BYTES]);
    let mut differ = 0;
    for cluster in 0..DISK_BYTES / CLUSTER_BYTES as u64 {
        one.read_exact_at(&mut left, cluster * CLUSTER_BYTES as u64)?;
        other.read_exact_at(&mut right, cluster * CLUSTER_BYTES as u64)?;
        differ += usize::from(left != right);
    }
    Ok((differ * CLUSTER_BYTES) as f64)
}
