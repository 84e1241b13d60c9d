//! Memory of the daemon: idle with ten relationships, and its peak while it sends or takes a first copy.

use crate::{FOLDER, Options, binary, content, create_disk, define, report::Figure};
use anyhow::{Context, Result};
use std::{fs, path::Path, thread, time::Duration};
use testkit::{
    GuestSpec,
    pair::{Host, Pair},
};

const RELATIONSHIPS: usize = 10;
/// Longer than the daemon keeps what it has freed.
const IDLE: Duration = Duration::from_secs(45);

pub fn memory(options: &Options) -> Result<Vec<Figure>> {
    let mut figures = idle()?;
    for size_bytes in [options.disk_bytes / 4, options.disk_bytes] {
        let pair = Pair::start_in(&binary("relevo")?, Path::new(FOLDER))?;
        let disk = pair.root.join("a/disk.qcow2");
        content::make(&disk, size_bytes, 0)?;
        protect(&pair, "guest", &disk)?;
        for (host, does) in [(&pair.a, "sends"), (&pair.b, "takes")] {
            let what = format!("peak of the daemon that {does} a first copy of {} MiB", size_bytes >> 20);
            figures.push(Figure::alone(what, "MiB", vec![mib(host, "VmHWM")?], Some(150.0)));
        }
    }
    Ok(figures)
}

fn idle() -> Result<Vec<Figure>> {
    let pair = Pair::start_in(&binary("relevo")?, Path::new(FOLDER))?;
    for index in 0..RELATIONSHIPS {
        let name = format!("guest-{index}");
        let disk = pair.root.join(format!("a/{name}.qcow2"));
        create_disk(&disk, 64 << 20)?;
        protect(&pair, &name, &disk)?;
    }
    // Idle is what a daemon is some time after its transfers.
    thread::sleep(IDLE);
    let figure = |(host, role): (&Host, &str)| {
        let what = format!("daemon of the {role} host, idle with {RELATIONSHIPS} relationships");
        Ok(Figure::alone(what, "MiB", vec![mib(host, "VmRSS")?], Some(40.0)))
    };
    [(&pair.a, "primary"), (&pair.b, "replica")].map(figure).into_iter().collect()
}

fn protect(pair: &Pair, name: &str, disk: &Path) -> Result<()> {
    let serial = pair.root.join(format!("{name}.log"));
    define(&pair.a, &GuestSpec::new(name, &[(disk.to_owned(), "qcow2")], &serial))?;
    pair.a.run(&["protect", name, "--to", &pair.b.name, "--interval", "12h"])?;
    Ok(())
}

/// A line of the daemon's `/proc/PID/status`.
pub fn mib(host: &Host, key: &str) -> Result<f64> {
    let pid = host.daemon_pid().context("the daemon does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no such line")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
