//! A resync after the bitmaps are lost and one percent has changed, beside `rsync` between two files of the same
//! content with the same changes.

use crate::{FOLDER, Options, VM, binary, content, content::CLUSTER_BYTES, define, report::Figure, tool};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    time::Instant,
};
use testkit::{GuestSpec, pair::Pair};

pub fn resync(options: &Options) -> Result<Vec<Figure>> {
    let pair = Pair::start_in(&binary("relevo")?, Path::new(FOLDER))?;
    let disk = pair.root.join("a/disk.qcow2");
    content::make(&disk, options.disk_bytes, 0)?;
    define(&pair.a, &GuestSpec::new(VM, &[(disk.clone(), "qcow2")], &pair.root.join("serial.log")))?;
    // Each point is kept, so that one that is gone was lost.
    let history = ["--interval", "12h", "--history", "24", "--history-every", "1s"];
    pair.a.run(&[&["protect", VM, "--to", &pair.b.name], &history[..]].concat())?;
    // The peer's files begin as the disk does.
    let (from, to) = (pair.root.join("from.raw"), pair.root.join("to.raw"));
    content::fill(&from, options.disk_bytes, 0)?;
    fs::copy(&from, &to)?;

    let (mut ours, mut theirs, mut sent, mut changed) = (vec![], vec![], vec![], vec![]);
    let mut lost_points = 0.0;
    for run in 1..=options.runs {
        let clusters = content::one_percent(run as u64, options.disk_bytes);
        write(&disk, &from, &clusters, u8::try_from(run)?)?;
        lose_bitmaps(&disk)?;
        let (points, before) = (settled_points(&pair)?, status(&pair, "sent_bytes")?);
        let began = Instant::now();
        pair.a.run(&["resync", VM])?;
        ours.push(began.elapsed().as_secs_f64());
        sent.push((status(&pair, "sent_bytes")? - before) / f64::from(1 << 20));
        changed.push((clusters.len() as u64 * CLUSTER_BYTES) as f64 / f64::from(1 << 20));
        lost_points += points.difference(&self::points(&pair)?).count() as f64;

        let began = Instant::now();
        tool(
            Command::new("rsync")
                .args(["--inplace", "--no-whole-file", "--ignore-times"])
                .arg(&from)
                .arg(&to),
        )?;
        theirs.push(began.elapsed().as_secs_f64());
        println!("  run {run}: {:.2} s; rsync {:.2} s", ours[run - 1], theirs[run - 1]);
    }
    let gib = options.disk_bytes as f64 / f64::from(1 << 30);
    let what = format!("resync of {gib:.0} GiB with 1 % changed and no bitmap");
    Ok(vec![
        Figure::beside(what, "s", ours, ("rsync between two files", theirs), 0.7),
        Figure::beside("resync: sent", "MiB", sent, ("clusters that differ", changed), 1.1),
        Figure::alone("recovery points that the resyncs cost", "", vec![lost_points], Some(0.0)),
    ])
}

/// The same new content into the disk and into the peer's file.
fn write(disk: &Path, raw: &Path, clusters: &BTreeSet<u64>, pattern: u8) -> Result<()> {
    let raw = File::options().write(true).open(raw)?;
    let content = vec![pattern; usize::try_from(CLUSTER_BYTES)?];
    for cluster in clusters {
        raw.write_all_at(&content, cluster * CLUSTER_BYTES)?;
    }
    content::rewrite(disk, clusters, pattern)
}

fn lose_bitmaps(disk: &Path) -> Result<()> {
    let info = tool(Command::new("qemu-img").args(["info", "--output=json", "-f", "qcow2"]).arg(disk))?;
    let info: Value = serde_json::from_slice(&info.stdout)?;
    let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().context("there are no bitmaps")?;
    ensure!(!bitmaps.is_empty(), "there are no bitmaps to lose");
    for bitmap in bitmaps {
        let name = bitmap["name"].as_str().context("a bitmap has a name")?;
        tool(Command::new("qemu-img").args(["bitmap", "-f", "qcow2", "--remove"]).arg(disk).arg(name))?;
    }
    Ok(())
}

/// Without the latest, which goes with the next one where that comes within the second.
fn settled_points(pair: &Pair) -> Result<BTreeSet<String>> {
    let latest = pair.b.points(VM)?.pop().and_then(|point| Some(point["point"].as_str()?.to_owned()));
    Ok(points(pair)?.into_iter().filter(|point| Some(point) != latest.as_ref()).collect())
}

fn points(pair: &Pair) -> Result<BTreeSet<String>> {
    Ok(pair.b.points(VM)?.iter().filter_map(|point| Some(point["point"].as_str()?.to_owned())).collect())
}

fn status(pair: &Pair, key: &str) -> Result<f64> {
    pair.a.status(VM)?[key].as_f64().context("no count")
}
