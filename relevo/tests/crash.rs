//! `kill -9` by seed: a daemon, QEMU or both die at a random instant of a random step of each flow, again and
//! again on the same two hosts, and what one crash leaves is what the next one meets. After each, the flow
//! comes to its end, replication goes on, one host may run the VM, and the points pass the oracle; at the end
//! nothing is left over. Only kills inside a stage that a record or the log names are counted.
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
/// Squared, the longest wait in milliseconds between a step's beginning and the kill: most steps take about that.
const DELAY_ROOT_MAX: u64 = 5;
/// Of each flow; `cargo xtask test --kills N` asks for more.
const KILLS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Qemu,
    Both,
}

struct Scene {
    stage: Stage,
    random: StdRng,
    /// What was hit in which flow, and how often.
    histogram: BTreeMap<(Flow, String), usize>,
    kills: usize,
    tries: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flow {
    FirstCopy,
    Cycle,
    Resync,
    Coalescing,
    Failover,
    Revert,
    Commit,
    Planned,
    Reverse,
    Failback,
}

impl Drop for Scene {
    fn drop(&mut self) {
        for ((flow, what), count) in &self.histogram {
            println!("{flow:?}: {count} x {what}");
        }
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
            tries: 0,
        })
    }

    fn hits(&self, flow: Flow) -> usize {
        self.histogram.iter().filter(|((of, _), _)| *of == flow).map(|(_, count)| count).sum()
    }

    /// Whether one of these flows needs more kills.
    fn wants_more(&mut self, flows: &[Flow]) -> Result<bool> {
        let more = flows.iter().any(|flow| self.hits(*flow) < self.kills);
        self.tries += usize::from(more);
        ensure!(self.tries <= 8 * self.kills, "most kills miss: {:#?}", self.histogram);
        Ok(more)
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("something to choose from")
    }

    fn host(&mut self, letter: char) -> &mut Host {
        if letter == 'a' { &mut self.stage.pair.a } else { &mut self.stage.pair.b }
    }

    /// Gives the command, waits until the log of `watched` tells the step, and kills on `host` a moment later.
    /// A killed daemon is started again. What the record then says is counted: a kill between two steps of
    /// other work, or one that came when all was over, is not.
    fn strike(
        &mut self,
        flow: Flow,
        (host, victim): (char, Victim),
        (watched, step): (char, &str),
        command: Option<(char, &[&str])>,
    ) -> Result<()> {
        // Short delays more often than long ones: many steps are.
        let delay = Duration::from_millis(self.random.random_range(0..=DELAY_ROOT_MAX).pow(2));
        println!("{flow:?}: {victim:?} of {host} at `{step}` of {watched} after {} ms", delay.as_millis());
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
            *self.histogram.entry((flow, hit)).or_default() += 1;
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

    /// The operation that was struck goes on by itself; one that was not begun yet is asked for again.
    fn comes_to(&mut self, letter: char, state: u64, command: &[&str]) -> Result<()> {
        let host = self.host(letter);
        let mut last = Value::Null;
        poll_for(BOUND, || {
            last = host.status(VM).ok()?;
            let idle = last["activity"] == "";
            if idle && last["state_number"] == state {
                return Some(());
            }
            if idle {
                let _ = host.run(command);
            }
            None
        })
        .with_context(|| format!("{} does not come to {state} by {command:?}: {last:#}", host.name))
    }

    /// The site of this host is lost, and back.
    fn lose(&mut self, letter: char) -> Result<()> {
        let host = self.host(letter);
        host.kill_daemon()?;
        if host.qemu_pid(VM).is_some_and(testkit::is_running) { host.kill_qemu(VM) } else { Ok(()) }
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
    // A replica that was the primary once has disks of its own, which are its points' bottom.
    let own: Vec<&str> =
        view["disks"].as_array().into_iter().flatten().filter_map(|d| d["path"].as_str()).collect();
    let folder = replica.storage().join(view["vm"].as_str().context("no UUID")?);
    for (_, disk) in replica.disks(VM)? {
        let folder = folder.join(disk);
        let layers = names(&folder, "qcow2").into_iter().filter(|name| !points.contains(name));
        let paths = layers.map(|name| format!("{}/{name}.qcow2", folder.display()));
        left.extend(paths.filter(|path| !own.contains(&&**path)));
        left.extend(names(&folder, "partial").into_iter().map(|name| format!("{}/{name}", folder.display())));
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
    // A's not after the cut of a copy, which ends with a commit of overlays: here libvirt dies with the daemon, and
    // one that is killed within a commit may never get over it.
    const A: (char, Victim) = ('a', Victim::Daemon);
    const B: (char, Victim) = ('b', Victim::Daemon);
    const ALL: [(char, Victim); 4] = [A, B, ('a', Victim::Qemu), ('a', Victim::Both)];
    let mut scene = Scene::new()?;
    while scene.wants_more(&[Flow::FirstCopy])? {
        let (killer, step) =
            scene.choose(&[(A, "cut everything"), (B, "cut everything"), (B, "ship"), (B, "settle")]);
        scene.strike(Flow::FirstCopy, killer, ('a', step), Some(('a', PROTECT)))?;
        scene.comes_to('a', 3, &["resync", VM])?;
        if scene.hits(Flow::FirstCopy) < scene.kills {
            scene.host('a').run(&["unprotect", VM])?;
            scene.host('b').run(&["unprotect", VM, "--delete-replica"])?;
        }
    }
    scene.goes_on('a')?;
    while scene.wants_more(&[Flow::Cycle])? {
        let (killer, step) = (scene.choose(&ALL), scene.choose(&["cut", "ship", "settle"]));
        scene.strike(Flow::Cycle, killer, ('a', step), None)?;
        scene.goes_on('a')?;
    }
    // Only where more kills are asked for: an embedded libvirt does not always get over what these leave.
    let more = variable::<usize>("RELEVO_KILLS").is_some();
    while more && scene.wants_more(&[Flow::Resync, Flow::Coalescing])? {
        let (killer, step) = scene.choose(&[(A, "cut and compare"), (B, "cut and compare"), (B, "ship")]);
        scene.strike(Flow::Resync, killer, ('a', step), Some(('a', &["resync", VM])))?;
        scene.strike(Flow::Coalescing, ('b', Victim::Daemon), ('b', "merge layers"), None)?;
        scene.goes_on('a')?;
    }
    scene.nothing_is_left('a')
}

#[test]
fn failovers_and_reverts_outlive_kills_at_any_instant() -> Result<()> {
    const FAILOVER: [&str; 4] =
        ["make the overlay", "define on the overlay", "start the VM", "track changes"];
    const REVERT: [&str; 3] = ["stop the VM", "undefine", "drop the overlay"];
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    while scene.wants_more(&[Flow::Failover, Flow::Revert])? {
        scene.lose('a')?;
        let (victim, step) = (scene.choose(&[Victim::Daemon, Victim::Both]), scene.choose(&FAILOVER));
        scene.strike(Flow::Failover, ('b', victim), ('b', step), Some(('b', &["failover", VM])))?;
        scene.comes_to('b', 5, &["failover", VM])?;
        scene.stage.bring_up(&scene.stage.pair.b)?;
        let step = scene.choose(&REVERT);
        scene.strike(Flow::Revert, ('b', Victim::Daemon), ('b', step), Some(('b', &["revert", VM])))?;
        scene.comes_to('b', 3, &["revert", VM])?;
        scene.host('a').start()?;
        scene.goes_on('a')?;
    }
    scene.nothing_is_left('a')
}

#[test]
fn commits_and_failbacks_outlive_kills_at_any_instant() -> Result<()> {
    const COMMIT: [&str; 2] = ["record cluster lists", "hide points"];
    const FAILBACK: [(char, &str); 4] =
        [('a', "read own changes"), ('a', "adopt the disks"), ('b', "cut and compare"), ('b', "ship")];
    const COMPLETE: [(char, &str); 6] = [
        ('a', "ask the peer to prepare"),
        ('b', "stop the guest"),
        ('b', "ship"),
        ('b', "undefine"),
        ('b', "hand over"),
        ('a', "start the VM"),
    ];
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    // The steps of a commit take a millisecond: most kills come after them, and are not waited for.
    while scene.wants_more(&[Flow::Failback])? {
        scene.lose('a')?;
        scene.host('b').run(&["failover", VM])?;
        let step = scene.choose(&COMMIT);
        scene.strike(Flow::Commit, ('b', Victim::Daemon), ('b', step), Some(('b', &["commit", VM])))?;
        scene.comes_to('b', 6, &["commit", VM])?;
        scene.host('a').start()?;
        scene.host('a').wait_state(VM, 8, BOUND)?;
        let (watched, step) = scene.choose(&FAILBACK);
        let killed = scene.choose(&['a', 'b']);
        let failback: &[&str] = &["failback", VM];
        scene.strike(Flow::Failback, (killed, Victim::Daemon), (watched, step), Some(('a', failback)))?;
        scene.comes_to('a', 14, failback)?;
        // A guest that still boots does not hear that it is to shut down.
        scene.stage.wait_for_acks(3)?;
        let (watched, step) = scene.choose(&COMPLETE);
        let killed = scene.choose(&['a', 'b']);
        let complete: &[&str] = &["failback", VM, "--complete"];
        scene.strike(Flow::Failback, (killed, Victim::Daemon), (watched, step), Some(('a', complete)))?;
        scene.comes_to('a', 3, complete)?;
        scene.goes_on('a')?;
    }
    scene.nothing_is_left('a')
}

#[test]
fn planned_failovers_outlive_kills_at_any_instant() -> Result<()> {
    const STEPS: [&str; 6] = ["stop the guest", "cut", "ship", "settle", "undefine", "hand over"];
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    let (mut from, mut to) = ('a', 'b');
    while scene.wants_more(&[Flow::Planned, Flow::Reverse])? {
        let (step, host) = (scene.choose(&STEPS), scene.choose(&[from, to]));
        let planned: &[&str] = &["failover", VM, "--planned"];
        scene.strike(Flow::Planned, (host, Victim::Daemon), (from, step), Some((from, planned)))?;
        scene.comes_to(to, 5, planned)?;
        scene.stage.bring_up(scene.stage.pair.host(&format!("{to}.example")))?;
        let (watched, step) = scene.choose(&[(to, "promote the store"), (from, "adopt the disks")]);
        let reverse: &[&str] = &["reverse", VM];
        scene.strike(Flow::Reverse, (watched, Victim::Daemon), (watched, step), Some((to, reverse)))?;
        scene.comes_to(to, 3, reverse)?;
        scene.goes_on(to)?;
        (from, to) = (to, from);
    }
    scene.nothing_is_left(from)
}
