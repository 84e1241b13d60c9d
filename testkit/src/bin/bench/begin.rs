//! A first copy that does not go over the network: carried over in files, or compared with a copy that stands there.

use crate::{FOLDER, Options, VM, binary, content, define, memory::mib, report::Figure, tool};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use testkit::{GuestSpec, pair::Pair, poll_for};

const BOUND: Duration = Duration::from_secs(600);
const MEMORY_MAX_MIB: f64 = 150.0;
const MIB: f64 = 1048576.0;

pub fn begin(options: &Options) -> Result<Vec<Figure>> {
    let mut figures = carried(options)?;
    figures.extend(seeded(options)?);
    Ok(figures)
}

/// Two hosts, and on the first a VM that is off.
fn hosts(options: &Options) -> Result<(Pair, PathBuf)> {
    let pair = Pair::start_in(&binary("relevo")?, Path::new(FOLDER))?;
    let disk = pair.root.join("a/disk.qcow2");
    content::make(&disk, options.disk_bytes, 0)?;
    define(&pair.a, &GuestSpec::new(VM, &[(disk.clone(), "qcow2")], &pair.root.join("serial.log")))?;
    Ok((pair, disk))
}

fn protect(pair: &Pair, how: &[&str]) -> Result<()> {
    pair.a.run(
        &[&["protect", VM, "--to", &pair.b.name, "--interval", "1", "--no-compression"], how].concat(),
    )?;
    Ok(())
}

/// Exported, changed in one percent, imported, and the change sent.
fn carried(options: &Options) -> Result<Vec<Figure>> {
    let (pair, disk) = hosts(options)?;
    let folder = pair.root.join("carried");
    fs::create_dir(&folder)?;
    let folder = folder.to_string_lossy();
    protect(&pair, &["--export", &folder])?;
    let exported = || pair.a.status(VM).ok()?["issues"].to_string().contains("exported").then_some(());
    poll_for(BOUND, exported).context("the export does not end")?;
    let exporter = mib(&pair.a, "VmHWM")?;
    let clusters = content::one_percent(1, options.disk_bytes);
    content::rewrite(&disk, &clusters, 1)?;
    pair.b.run(&["import", VM, &folder])?;
    pair.a.wait_state(VM, 3, BOUND)?;
    // The end of the import counts as one.
    pair.a.wait_cycles(VM, 3, BOUND)?;
    same(&pair, &disk)?;
    figures("export and import", options, [exporter, mib(&pair.b, "VmHWM")?], &pair, clusters.len())
}

/// Onto a copy that differs in one percent.
fn seeded(options: &Options) -> Result<Vec<Figure>> {
    let (pair, disk) = hosts(options)?;
    let copy = pair.b.root.join("copy.qcow2");
    fs::copy(&disk, &copy)?;
    let mut spec = GuestSpec::new(VM, &[(copy, "qcow2")], &pair.root.join("copy.log"));
    spec.uuid = pair.a.run(&["vm", "show", VM])?["vm"].as_str().map(str::to_owned);
    define(&pair.b, &spec)?;
    pair.b.run(&["seed", VM])?;
    let clusters = content::one_percent(1, options.disk_bytes);
    content::rewrite(&disk, &clusters, 1)?;
    protect(&pair, &["--seed"])?;
    pair.a.wait_state(VM, 3, BOUND)?;
    same(&pair, &disk)?;
    let peaks = [mib(&pair.a, "VmHWM")?, mib(&pair.b, "VmHWM")?];
    figures("seeded start", options, peaks, &pair, clusters.len())
}

/// The newest point is the disk.
fn same(pair: &Pair, disk: &Path) -> Result<()> {
    let newest = pair.b.points(VM)?.pop().context("no point")?;
    let image = pair.b.point_images(VM, newest["point"].as_str().context("no id")?)?.remove(0);
    tool(
        Command::new("qemu-img").args(["compare", "-U", "-f", "qcow2", "-F", "qcow2"]).arg(disk).arg(image),
    )?;
    Ok(())
}

fn figures(
    what: &str,
    options: &Options,
    peaks_mib: [f64; 2],
    pair: &Pair,
    clusters: usize,
) -> Result<Vec<Figure>> {
    let gib = options.disk_bytes >> 30;
    let sent = pair.a.status(VM)?["sent_bytes"].as_f64().context("no count")? / MIB;
    let differ = clusters as f64 * content::CLUSTER_BYTES as f64 / MIB;
    let peak = |host: &str, mib: f64| {
        let what = format!("{what} of {gib} GiB: peak of the daemon of the {host} host");
        Figure::alone(what, "MiB", vec![mib], Some(MEMORY_MAX_MIB))
    };
    Ok(vec![
        peak("primary", peaks_mib[0]),
        peak("replica", peaks_mib[1]),
        Figure::beside(
            format!("{what}: sent"),
            "MiB",
            vec![sent],
            ("clusters that differ", vec![differ]),
            1.1,
        ),
    ])
}
