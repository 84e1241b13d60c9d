//! A turn of a running VM, cut to acknowledged point, beside the bare calls to libvirt that cut it; and an
//! interval of one second, kept up for minutes.

use crate::{
    GUESTS_FOLDER, Options, VM, bare::Bare, binary, create_disk, define, report::Figure, report::median,
};
use anyhow::{Context, Result, ensure};
use std::{path::Path, thread, time::Duration};
use testkit::{
    GuestSpec, Writer,
    oracle::{self, read_log},
    pair::Pair,
    poll,
};

const BOUND: Duration = Duration::from_secs(180);
const DISKS_BYTES: [u64; 2] = [1 << 30; 2];
/// Turns of one run, after one that is not counted: it holds what came together before.
const TURNS: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

fn writer(mib_per_s: f64) -> Writer {
    let ops_per_s = mib_per_s * 16.0;
    Writer { ops_per_s, bytes_per_op: 64 << 10, area_mib: 64, ack_every: 16, ..Writer::default() }
}

fn protected(writer: Writer) -> Result<Pair> {
    let pair = Pair::start_in(&binary("relevo")?, Path::new(GUESTS_FOLDER))?;
    let mut disks = vec![];
    for (name, bytes) in ["a/0.qcow2", "a/1.qcow2"].iter().zip(DISKS_BYTES) {
        let path = pair.root.join(name);
        create_disk(&path, bytes)?;
        disks.push((path, "qcow2"));
    }
    let mut spec = GuestSpec::new(VM, &disks, &pair.root.join("serial.log"));
    spec.writer = writer;
    define(&pair.a, &spec)?;
    pair.a.run(&["vm", "start", VM])?;
    wait_for_writes(&spec.serial)?;
    let history = ["--interval", "1s", "--history", "2", "--history-every", "10s"];
    pair.a.run(&[&["protect", VM, "--to", &pair.b.name], &history[..]].concat())?;
    pair.a.wait_cycles(VM, 2, BOUND)?;
    Ok(pair)
}

fn wait_for_writes(serial: &Path) -> Result<()> {
    let writes = || read_log(serial).is_ok_and(|log| log.acks > 0);
    ensure!(poll(BOUND, writes), "the guest does not write; see {}", serial.display());
    Ok(())
}

pub fn turn(options: &Options) -> Result<Vec<Figure>> {
    let writer = writer(2.0);
    let pair = protected(writer.clone())?;
    pair.a.run(&["suspend", VM])?;
    let mut bare = Bare::start(&DISKS_BYTES, &writer)?;
    bare.ask("start")?;
    wait_for_writes(&bare.serial())?;
    let cut = format!("cut {} vda vdb", bare.folder().display());
    bare.ask(&cut)?;
    let (mut ours, mut theirs, mut sizes) = (vec![], vec![], vec![]);
    for run in 1..=options.runs {
        pair.a.run(&["resume", VM])?;
        let (times, bytes) = turns(&pair)?;
        ours.push(median(times));
        sizes.push(median(bytes));
        pair.a.run(&["suspend", VM])?;
        bare.ask(&cut)?;
        let mut times = vec![];
        for _ in 0..TURNS {
            thread::sleep(SECOND);
            times.push(bare.ask(&cut)?);
        }
        theirs.push(median(times));
        println!("  run {run}: {:.0} ms; bare {:.0} ms", ours[run - 1], theirs[run - 1]);
    }
    let mib = median(sizes) / f64::from(1 << 20);
    let what = format!("a turn of two disks with {mib:.1} MiB changed, cut to acknowledged point");
    Ok(vec![Figure::beside(what, "ms", ours, ("backup and checkpoint alone", theirs), 2.0)])
}

/// Times and sizes of the next turns, as the daemon took them.
fn turns(pair: &Pair) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut times, mut bytes) = (vec![], vec![]);
    pair.a.wait_cycles(VM, 2, BOUND)?;
    for _ in 0..TURNS {
        let status = pair.a.wait_cycles(VM, 1, BOUND)?;
        times.push(status["last_cycle_ms"].as_f64().context("no time")?);
        bytes.push(status["last_cycle_bytes"].as_f64().context("no size")?);
    }
    Ok((times, bytes))
}

pub fn interval(options: &Options) -> Result<Vec<Figure>> {
    let pair = protected(writer(4.0))?;
    let serial = pair.root.join("serial.log");
    let counts = |key: &str| -> Result<f64> { pair.a.status(VM)?[key].as_f64().context("no count") };
    let (done, missed) = (counts("cycles_succeeded")?, counts("cycles_missed")?);
    let (failed, acks) = (counts("cycles_failed")?, read_log(&serial)?.acks);
    thread::sleep(Duration::from_secs(60 * options.minutes));
    let acknowledged = oracle::last_ack(&serial)?;
    let wrote = read_log(&serial)?.acks - acks;
    let (done, missed) = (counts("cycles_succeeded")? - done, counts("cycles_missed")? - missed);
    let failed = counts("cycles_failed")? - failed;
    pair.a.wait_cycles(VM, 2, BOUND)?;
    pair.a.run(&["suspend", VM])?;
    let (checked, wrong) = check_points(&pair, acknowledged)?;
    let guest = read_log(&serial)?.error;
    let minutes = options.minutes;
    // Sixteen ops of a sixteenth of a MiB to each line.
    let mib_per_s = wrote as f64 / (60 * minutes) as f64;
    let what = format!("an interval of 1 s for {minutes} minutes, {mib_per_s:.1} MiB/s written");
    Ok(vec![
        Figure::alone(
            format!("{what}, {done} turns: late"),
            "%",
            vec![100.0 * missed / (done + missed)],
            Some(1.0),
        ),
        Figure::alone("turns that failed meanwhile", "", vec![failed], Some(0.0)),
        Figure::alone("errors that the guest saw", "", vec![f64::from(u8::from(guest.is_some()))], Some(0.0)),
        Figure::alone(
            format!("points that the write oracle refuses, of {checked}"),
            "",
            vec![wrong],
            Some(0.0),
        ),
    ])
}

/// How many points were checked, and how many do not hold a prefix of the history; the newest must hold what
/// was acknowledged.
fn check_points(pair: &Pair, acknowledged: Option<oracle::Ack>) -> Result<(usize, f64)> {
    let (mut checked, mut wrong, mut newest) = (0, 0.0, None);
    for point in pair.b.points(VM)? {
        let id = point["point"].as_str().context("a point has an id")?;
        let Ok(images) = pair.b.point_images(VM, id) else { continue };
        let verdict = oracle::check(&images);
        let still_there = pair.b.points(VM)?.iter().any(|other| other["point"] == point["point"]);
        match verdict {
            Ok(verdict) => newest = Some(verdict),
            Err(violation) if still_there => {
                println!("  point {id}: {violation}");
                wrong += 1.0;
            }
            // It was merged away while we looked.
            Err(_) => continue,
        }
        checked += 1;
    }
    newest.context("no point could be checked")?.at_least(acknowledged)?;
    Ok((checked, wrong))
}
