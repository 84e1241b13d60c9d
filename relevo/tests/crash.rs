//! `kill -9` by seed: a daemon, QEMU or both die at a random instant of a random step of a turn, again and again on
//! the same two hosts, and what one crash leaves is what the next one meets. After each, replication goes
//! on, one host may run the VM, and the points pass the oracle; at the end nothing is left over.
//!
//! `RELEVO_SEED` repeats a run as far as the machine's timing lets it; `RELEVO_KILLS` asks for more kills.

mod support;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use support::{BOUND, Stage, VM};
use testkit::{pair::Host, poll_for};

/// Much shorter than a step, unlike the look of `poll`.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The longest wait between a step's beginning and the kill: most steps take about this.
const DELAY_MS_MAX: u64 = 30;
const KILLS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Qemu,
    Both,
}

struct Scene {
    stage: Stage,
    random: StdRng,
    /// What was hit, and how often.
    histogram: BTreeMap<String, u32>,
    kills: usize,
}

impl Drop for Scene {
    fn drop(&mut self) {
        println!("{} kills: {:#?}", self.histogram.values().sum::<u32>(), self.histogram);
    }
}

/// Reads a host's log from where it ends now.
struct Log {
    path: PathBuf,
    at: u64,
    text: String,
}

impl Log {
    fn of(host: &Host) -> Self {
        let path = host.log_path();
        Self { at: fs::metadata(&path).map_or(0, |metadata| metadata.len()), path, text: String::new() }
    }

    fn read(&mut self) -> &str {
        let mut bytes = vec![];
        let read = fs::File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.at))?;
            file.read_to_end(&mut bytes)
        });
        self.at += read.unwrap_or(0) as u64;
        self.text.push_str(&String::from_utf8_lossy(&bytes));
        &self.text
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

impl Scene {
    fn new() -> Result<Self> {
        let seed = variable("RELEVO_SEED").unwrap_or_else(rand::random::<u64>);
        println!("RELEVO_SEED={seed}");
        let stage = Stage::new(&[64 << 20, (32 << 20) + 4096])?;
        let random = StdRng::seed_from_u64(seed);
        Ok(Self {
            stage,
            random,
            histogram: BTreeMap::new(),
            kills: variable("RELEVO_KILLS").unwrap_or(KILLS),
        })
    }

    fn hits(&self) -> usize {
        self.histogram.values().sum::<u32>() as usize
    }

    fn host(&mut self, letter: char) -> &mut Host {
        if letter == 'a' { &mut self.stage.pair.a } else { &mut self.stage.pair.b }
    }

    /// Gives the command, waits until the log of `watched` tells the step, and kills on `host` a moment later.
    /// A killed daemon is started again. What the record then says is counted: a kill between two steps of
    /// other work, or one that came when all was over, is not.
    fn strike(
        &mut self,
        (host, victim): (char, Victim),
        (watched, step): (char, &str),
        command: Option<(char, &[&str])>,
    ) -> Result<()> {
        let delay = Duration::from_millis(self.random.random_range(0..=DELAY_MS_MAX));
        println!("{victim:?} of {host} at `{step}` of {watched} after {} ms", delay.as_millis());
        let mut log = Log::of(self.host(watched));
        if let Some((letter, args)) = command {
            self.host(letter).command(&["--json", "--yes", "--no-wait"], args)?;
        }
        let needle = format!("step=\"{step}\"");
        let give_up = Instant::now() + BOUND;
        while !log.read().contains(&needle) {
            ensure!(Instant::now() < give_up, "{watched} never comes to `{step}`:\n{}", log.text);
            let _ = testkit::poll(LOOK_EVERY, || false);
        }
        // Not to wait for anything: the instant inside the step is what is drawn.
        let _ = testkit::poll(delay, || false);
        let host = self.host(host);
        let qemu_died = victim != Victim::Daemon && host.qemu_pid(VM).is_some();
        if qemu_died {
            host.kill_qemu(VM)?;
        }
        if victim != Victim::Qemu {
            host.kill_daemon()?;
        }
        let still_in_it = log
            .read()
            .lines()
            .rev()
            .find(|line| line.contains(" step=\""))
            .is_some_and(|line| line.contains(&needle));
        let mut after = Log::of(host);
        if victim != Victim::Qemu {
            host.start()?;
        }
        let name = host.name.clone();
        let resumed = after.read().lines().find(|line| line.contains("resuming")).map(|line| {
            let field = |key: &str| line.split(key).nth(1).and_then(|rest| rest.split('"').next());
            format!("{} / {}", field("work=\"").unwrap_or(""), field("step=\"").unwrap_or(""))
        });
        // Who only receives, or lost but its QEMU, has no record of it: there the other's log tells.
        let met = still_in_it && (qemu_died || !name.starts_with(watched));
        let hit = match resumed {
            Some(resumed) => Some(format!("{victim:?} of {name}: {resumed}")),
            None => met.then(|| format!("{victim:?} of {name}, at `{step}` of {watched}")),
        };
        if let Some(hit) = hit {
            *self.histogram.entry(hit).or_default() += 1;
        }
        Ok(())
    }

    fn goes_on(&mut self, primary: char) -> Result<()> {
        self.stage.bring_up(self.sides(primary).0)?;
        self.host(primary).wait_state(VM, 3, BOUND)?;
        self.stage.wait_for_acks(3)?;
        let (primary, replica) = self.sides(primary);
        self.stage.check_newest(primary, replica)?;
        ensure!(primary.status(VM)?["may_run"] == true, "{} may not run its VM", primary.name);
        ensure!(replica.status(VM)?["may_run"] == false, "{} may run the VM, too", replica.name);
        let domains = names(&replica.root.join("libvirt/etc/qemu"), "xml");
        ensure!(domains.is_empty(), "defined on {}: {domains:?}", replica.name);
        Ok(())
    }

    fn sides(&self, primary: char) -> (&Host, &Host) {
        let pair = &self.stage.pair;
        if primary == 'a' { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) }
    }

    /// Suspends, stops the VM, and looks at every file.
    fn nothing_is_left(&mut self, primary: char) -> Result<()> {
        let (primary, replica) = self.sides(primary);
        primary.run(&["suspend", VM])?;
        let mut left = vec![];
        poll_for(BOUND, || {
            left = leftovers(primary, replica).unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty().then_some(())
        })
        .with_context(|| format!("left over: {left:#?}"))?;
        primary.run(&["vm", "stop", VM, "--force"])?;
        let view = primary.run(&["vm", "show", VM])?;
        for disk in view["disks"].as_array().context("no disks")? {
            let path = disk["path"].as_str().context("no path")?;
            let output = Command::new("qemu-img").args(["info", "--output=json", path]).output()?;
            let info: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(info["backing-filename"].is_null(), "{path} still stands on another file: {info:#}");
            let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
            let in_use = bitmaps
                .iter()
                .any(|map| map["flags"].as_array().is_some_and(|flags| flags.contains(&"in-use".into())));
            ensure!(bitmaps.len() <= 2 && !in_use, "bitmaps of {path}: {bitmaps:#?}");
        }
        Ok(())
    }
}

/// File stems in a folder with this extension.
fn names(folder: &Path, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect()
}

/// Files that nothing names: spooled deltas, half-received ones, layers and overlays of no visible point.
fn leftovers(primary: &Host, replica: &Host) -> Result<Vec<String>> {
    let mut left = vec![];
    let mut folders = vec![primary.root.join("lib/spool"), replica.root.join("lib/spool")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { left.push(path.display().to_string()) }
        }
    }
    let points: Vec<String> =
        replica.points(VM)?.iter().filter_map(|point| Some(point["point"].as_str()?.to_owned())).collect();
    let view = replica.run(&["vm", "show", VM])?;
    let folder = replica.storage().join(view["vm"].as_str().context("no UUID")?);
    for (_, disk) in replica.disks(VM)? {
        let folder = folder.join(disk);
        let layers = names(&folder, "qcow2").into_iter().filter(|name| !points.contains(name));
        left.extend(
            layers.chain(names(&folder, "partial")).map(|name| format!("{}/{name}", folder.display())),
        );
    }
    let checkpoints = names(&primary.root.join("libvirt/lib/qemu/checkpoint").join(VM), "xml");
    if checkpoints.len() > 2 {
        left.push(format!("checkpoints {checkpoints:?}"));
    }
    Ok(left)
}

const PROTECT: &[&str] =
    &["protect", VM, "--to", "b.example", "--interval", "1", "--history", "3", "--history-every", "2s"];

#[test]
fn replication_outlives_kills_at_any_instant_of_a_turn() -> Result<()> {
    let mut scene = Scene::new()?;
    let killers = [('a', Victim::Daemon), ('b', Victim::Daemon)];
    let killer = *killers.choose(&mut scene.random).context("no choice")?;
    scene.strike(killer, ('a', "ship"), Some(('a', PROTECT)))?;
    scene.goes_on('a')?;
    let killers = [('a', Victim::Daemon), ('b', Victim::Daemon), ('a', Victim::Qemu), ('a', Victim::Both)];
    let mut tries = 0;
    while scene.hits() < scene.kills {
        tries += 1;
        ensure!(tries <= 8 * scene.kills, "most kills miss");
        let killer = *killers.choose(&mut scene.random).context("no choice")?;
        let step = *["cut", "ship", "settle"].choose(&mut scene.random).context("no choice")?;
        scene.strike(killer, ('a', step), None)?;
        scene.goes_on('a')?;
    }
    scene.nothing_is_left('a')
}
