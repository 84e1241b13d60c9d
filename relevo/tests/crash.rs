//! `kill -9` by seed: a daemon, QEMU or both die at a random instant of a random step of each flow, again and
//! again on the same two hosts and within the same operation, and what one crash leaves is what the next one meets.
//! Then the flow comes to its end, replication goes on, one host may run the VM, and the points pass the oracle; at
//! the end nothing is left over. Only kills inside a step that the log names are counted.
//!
//! `RELEVO_SEED` repeats a run as far as the machine's timing lets it; `RELEVO_KILLS` asks for more kills.

mod support;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
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
const KILLS: usize = 8;
/// Within one operation: what outlives so many is not made any more certain by another one.
const BLOWS_MAX: usize = 6;
/// Of a step that does not come by then another one has taken the place: a miss.
const STEP_WITHIN: Duration = Duration::from_secs(40);
/// A command is run for a status, and a log only read.
const LOOKS_PER_STATUS: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Qemu,
    Both,
}

/// A kill to come: of whom, and how long after which step has begun on `watched`.
#[derive(Clone, Copy)]
struct Blow {
    host: char,
    victim: Victim,
    watched: char,
    step: &'static str,
    delay: Duration,
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

    fn forget(&mut self) {
        self.text.clear();
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

/// The command after which QEMU has a backup, and libvirt's notes of it are yet to be written.
const BACKUP: &str = "blockdev-backup";
/// In milliseconds: what is done after it takes about that long.
const BACKUP_MAX: u64 = 50;

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

    /// As many blows as the flow needs, and one more for those that miss; in the order of the steps, some of
    /// which are hit again as soon as they are repeated.
    fn choose_blows(
        &mut self,
        flow: Flow,
        steps: &[(char, &'static str)],
        victims: &[(char, Victim)],
    ) -> Vec<Blow> {
        let count = (self.kills.saturating_sub(self.hits(flow)) + 1).min(BLOWS_MAX);
        let mut at: Vec<usize> = (0..count).map(|_| self.random.random_range(0..steps.len())).collect();
        at.sort_unstable();
        let blow = |at: usize, random: &mut StdRng| {
            let (host, victim) = *victims.choose(random).expect("a victim");
            let delay = Duration::from_millis(random.random_range(0..=DELAY_ROOT_MAX).pow(2));
            Blow { host, victim, watched: steps[at].0, step: steps[at].1, delay }
        };
        at.into_iter().map(|at| blow(at, &mut self.random)).collect()
    }

    /// Gives the command and strikes: each time, waits until a log tells the step, kills a moment later, and starts
    /// again what is a daemon. Ends early where the operation has come to `end` (host and state) before.
    /// A kill counts where the step had begun and had not ended.
    fn strike(
        &mut self,
        flow: Flow,
        blows: &[Blow],
        command: Option<(char, &[&str])>,
        end: Option<(char, u64)>,
    ) -> Result<()> {
        let mut logs = BTreeMap::from(['a', 'b'].map(|letter| (letter, Log::of(self.host(letter)))));
        let mut ends: Vec<_> = end.into_iter().collect();
        if let Some((letter, args)) = command {
            // Taken back, it is where it was.
            let before = self.host(letter).state(VM).ok().map(|state| (letter, state));
            ends.extend(before.filter(|_| end.is_some()));
            self.host(letter).command(&["--json", "--yes", "--no-wait"], args)?;
        }
        for blow in blows {
            let Blow { host: letter, victim, watched, step, delay } = *blow;
            println!(
                "{flow:?}: {victim:?} of {letter} at `{step}` of {watched} after {} ms",
                delay.as_millis()
            );
            if !self.wait_step(&mut logs, blow, &ends)? {
                println!("{flow:?}: over before `{step}`");
                break;
            }
            // Not to wait for anything: the instant inside the step is what is drawn.
            let _ = testkit::poll(delay, || false);
            let host = self.host(letter);
            let qemu_died = victim != Victim::Daemon && host.qemu_pid(VM).is_some_and(testkit::is_running);
            if qemu_died {
                host.kill_qemu(VM)?;
            }
            if victim != Victim::Qemu {
                host.kill_daemon()?;
            }
            let (begun, ended) = (format!(" step=\"{step}\""), format!(" ended=\"{step}\""));
            let log = logs.get_mut(&watched).expect("both are there");
            let last = log.read().lines().rev().find(|line| line.contains(&begun) || line.contains(&ended));
            let within = last.is_some_and(|line| line.contains(&begun));
            if within && (qemu_died || victim != Victim::Qemu) {
                let hit = format!("{victim:?} of {letter}, at `{step}` of {watched}");
                *self.histogram.entry((flow, hit)).or_default() += 1;
            }
            logs.values_mut().for_each(Log::forget);
            if victim != Victim::Qemu {
                self.host(letter).spawn()?;
            }
        }
        self.stage.pair.a.is_running().then(|| self.stage.pair.a.wait_up()).transpose()?;
        self.stage.pair.b.is_running().then(|| self.stage.pair.b.wait_up()).transpose()?;
        Ok(())
    }

    /// False when a host is idle in the state that ends the operation, or it never comes to the step.
    fn wait_step(
        &mut self,
        logs: &mut BTreeMap<char, Log>,
        blow: &Blow,
        ends: &[(char, u64)],
    ) -> Result<bool> {
        let needle = format!(" step=\"{}\"", blow.step);
        let give_up = Instant::now() + STEP_WITHIN;
        let mut looks = 0u32;
        loop {
            if logs.get_mut(&blow.watched).expect("both are there").read().contains(&needle) {
                return Ok(true);
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS_PER_STATUS) && ends.iter().any(|end| self.is_idle_in(*end)) {
                return Ok(false);
            }
            if Instant::now() > give_up {
                return Ok(false);
            }
            let _ = testkit::poll(LOOK_EVERY, || false);
        }
    }

    fn is_idle_in(&mut self, (letter, state): (char, u64)) -> bool {
        let status = self.host(letter).status(VM);
        status.is_ok_and(|status| status["activity"] == "" && status["state_number"] == state)
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
            // On a slow machine one cycle follows on the heels of another.
            let activity = last["activity"].as_str()?;
            if last["state_number"] == state && (activity.is_empty() || activity.starts_with("cycle:")) {
                return Some(());
            }
            if activity.is_empty() {
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
    for (host, points) in [(replica, &points[..]), (primary, &[])] {
        let view = host.run(&["vm", "show", VM])?;
        // A replica that was the primary once has disks of its own, which are its points' bottom, and a primary
        // that was the replica has its disk among the layers.
        let own: Vec<&str> =
            view["disks"].as_array().into_iter().flatten().filter_map(|d| d["path"].as_str()).collect();
        let id_and_rest = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.split_once('.').map_or((name.clone(), String::new()), |(id, rest)| (id.into(), rest.into()))
        };
        // Such a disk has the list of its clusters and its definition beside the layers, under its own point's id.
        let mut bottoms = BTreeSet::new();
        let belongs = |path: &Path, bottoms: &mut BTreeSet<String>| {
            let (id, rest) = id_and_rest(path);
            let is_bottom = !points.is_empty()
                && !own.is_empty()
                && matches!(&*rest, "sums" | "domain.xml")
                && !path.with_file_name(format!("{id}.qcow2")).exists();
            let is_point = !rest.ends_with("partial") && points.contains(&id);
            if is_bottom && !is_point {
                bottoms.insert(id);
            }
            is_point || is_bottom || own.contains(&&*path.to_string_lossy())
        };
        let mut folders = vec![host.storage().join(view["vm"].as_str().context("no UUID")?)];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if !belongs(&path, &mut bottoms) {
                    left.push(path.display().to_string());
                }
            }
        }
        if bottoms.len() > 1 {
            left.push(format!("lists of {bottoms:?}"));
        }
    }
    let checkpoints = names(&primary.root.join("libvirt/lib/qemu/checkpoint").join(VM), "xml");
    if checkpoints.len() > 2 {
        left.push(format!("checkpoints {checkpoints:?}"));
    }
    Ok(left)
}

const PROTECT: &[&str] =
    &["protect", VM, "--to", "b.example", "--interval", "1", "--history", "3", "--history-every", "2s"];

/// Either daemon.
const DAEMONS: [(char, Victim); 2] = [('a', Victim::Daemon), ('b', Victim::Daemon)];

#[test]
fn replication_outlives_kills_at_any_instant_of_a_turn() -> Result<()> {
    const COPY: [(char, &str); 3] = [('a', "cut everything"), ('a', "ship"), ('a', "settle")];
    const CYCLE: [(char, &str); 3] = [('a', "cut"), ('a', "ship"), ('a', "settle")];
    const RESYNC: [(char, &str); 3] = [('a', "cut and compare"), ('a', "ship"), ('a', "settle")];
    let mut scene = Scene::new()?;
    while scene.wants_more(&[Flow::FirstCopy])? {
        let blows = scene.choose_blows(Flow::FirstCopy, &COPY, &DAEMONS);
        scene.strike(Flow::FirstCopy, &blows, Some(('a', PROTECT)), Some(('a', 3)))?;
        scene.comes_to('a', 3, &["resync", VM])?;
        if scene.hits(Flow::FirstCopy) < scene.kills {
            scene.host('a').run(&["unprotect", VM])?;
            scene.host('b').run(&["unprotect", VM, "--delete-replica"])?;
        }
    }
    scene.goes_on('a')?;
    while scene.wants_more(&[Flow::Cycle])? {
        let mut blows = scene.choose_blows(Flow::Cycle, &CYCLE, &DAEMONS);
        // The last one takes the guest, too: there are no cycles before it is back.
        if let Some(last) = blows.last_mut() {
            (last.host, last.victim) = ('a', scene.choose(&[Victim::Qemu, Victim::Both]));
        }
        scene.strike(Flow::Cycle, &blows, None, None)?;
        scene.goes_on('a')?;
    }
    while scene.wants_more(&[Flow::Resync, Flow::Coalescing])? {
        let blows = scene.choose_blows(Flow::Resync, &RESYNC, &DAEMONS);
        scene.strike(Flow::Resync, &blows, Some(('a', &["resync", VM])), Some(('a', 3)))?;
        scene.comes_to('a', 3, &["resync", VM])?;
        let blows = scene.choose_blows(Flow::Coalescing, &[('b', "merge layers")], &DAEMONS[1..]);
        scene.strike(Flow::Coalescing, &blows, None, None)?;
        scene.goes_on('a')?;
    }
    scene.nothing_is_left('a')
}

/// The log of the steps says when a cut begins; libvirt's own says when QEMU is told to.
#[test]
fn replication_outlives_kills_within_libvirts_start_of_a_backup() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    let path = scene.stage.pair.root.join("libvirt.log");
    let outputs = format!("1:file:{}", path.display());
    let settings =
        [("LIBVIRT_LOG_FILTERS", "1:qemu.qemu_monitor".to_owned()), ("LIBVIRT_LOG_OUTPUTS", outputs)];
    let a = scene.host('a');
    a.environment.extend(settings.map(|(name, value)| (name.to_owned(), value.into())));
    a.kill_daemon()?;
    a.start()?;
    let qemu = a.qemu_pid(VM);
    for round in 0..2 * scene.kills {
        let at = fs::metadata(&path)?.len();
        let mut log = Log { path: path.clone(), at, text: String::new() };
        let delay = Duration::from_millis(scene.random.random_range(0..BACKUP_MAX));
        let a = scene.host('a');
        let give_up = Instant::now() + BOUND;
        while !log.read().contains(BACKUP) {
            ensure!(Instant::now() < give_up, "no backup in round {round}: {:#}", a.status(VM)?);
            let _ = testkit::poll(LOOK_EVERY, || false);
        }
        let _ = testkit::poll(delay, || false);
        a.kill_daemon()?;
        a.start()?;
    }
    scene.goes_on('a')?;
    ensure!(scene.host('a').qemu_pid(VM) == qemu, "another QEMU runs");
    scene.nothing_is_left('a')
}

#[test]
fn failovers_and_reverts_outlive_kills_at_any_instant() -> Result<()> {
    const FAILOVER: [(char, &str); 4] = [
        ('b', "make the overlay"),
        ('b', "define on the overlay"),
        ('b', "start the VM"),
        ('b', "track changes"),
    ];
    const REVERT: [(char, &str); 3] = [('b', "stop the VM"), ('b', "undefine"), ('b', "drop the overlay")];
    const VICTIMS: [(char, Victim); 2] = [('b', Victim::Daemon), ('b', Victim::Both)];
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    while scene.wants_more(&[Flow::Failover, Flow::Revert])? {
        scene.lose('a')?;
        let blows = scene.choose_blows(Flow::Failover, &FAILOVER, &VICTIMS);
        scene.strike(Flow::Failover, &blows, Some(('b', &["failover", VM])), Some(('b', 5)))?;
        scene.comes_to('b', 5, &["failover", VM])?;
        scene.stage.bring_up(&scene.stage.pair.b)?;
        let blows = scene.choose_blows(Flow::Revert, &REVERT, &VICTIMS[..1]);
        scene.strike(Flow::Revert, &blows, Some(('b', &["revert", VM])), Some(('b', 3)))?;
        scene.comes_to('b', 3, &["revert", VM])?;
        scene.host('a').start()?;
        scene.goes_on('a')?;
    }
    scene.nothing_is_left('a')
}

#[test]
fn commits_and_failbacks_outlive_kills_at_any_instant() -> Result<()> {
    const COMMIT: [(char, &str); 2] = [('b', "record cluster lists"), ('b', "hide points")];
    const FAILBACK: [(char, &str); 6] = [
        ('a', "stop the VM"),
        ('a', "read own changes"),
        ('a', "adopt the disks"),
        ('a', "ask the peer to send"),
        ('b', "cut and compare"),
        ('b', "ship"),
    ];
    const COMPLETE: [(char, &str); 7] = [
        ('a', "ask the peer to prepare"),
        ('b', "stop the guest"),
        ('b', "undefine"),
        ('b', "hand over"),
        ('a', "start the VM"),
        ('a', "ask the peer to become the replica"),
        ('a', "promote the store"),
    ];
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    while scene.wants_more(&[Flow::Commit, Flow::Failback])? {
        scene.lose('a')?;
        scene.host('b').run(&["failover", VM])?;
        let blows = scene.choose_blows(Flow::Commit, &COMMIT, &DAEMONS[1..]);
        scene.strike(Flow::Commit, &blows, Some(('b', &["commit", VM])), Some(('b', 6)))?;
        scene.comes_to('b', 6, &["commit", VM])?;
        scene.host('a').start()?;
        scene.host('a').wait_state(VM, 8, BOUND)?;
        let failback: &[&str] = &["failback", VM];
        let blows = scene.choose_blows(Flow::Failback, &FAILBACK, &DAEMONS);
        scene.strike(Flow::Failback, &blows, Some(('a', failback)), Some(('a', 14)))?;
        scene.comes_to('a', 14, failback)?;
        // A guest that still boots does not hear that it is to shut down.
        scene.stage.wait_for_acks(3)?;
        let complete: &[&str] = &["failback", VM, "--complete"];
        let blows = scene.choose_blows(Flow::Failback, &COMPLETE, &DAEMONS);
        scene.strike(Flow::Failback, &blows, Some(('a', complete)), Some(('a', 3)))?;
        scene.comes_to('a', 3, complete)?;
        scene.goes_on('a')?;
    }
    scene.nothing_is_left('a')
}

#[test]
fn planned_failovers_outlive_kills_at_any_instant() -> Result<()> {
    const PLANNED: [&str; 5] = ["stop the guest", "ship", "settle", "undefine", "hand over"];
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    let (mut from, mut to) = ('a', 'b');
    while scene.wants_more(&[Flow::Planned, Flow::Reverse])? {
        let planned: &[&str] = &["failover", VM, "--planned"];
        let steps: Vec<_> = PLANNED.iter().map(|step| (from, *step)).collect();
        let blows = scene.choose_blows(Flow::Planned, &steps, &DAEMONS);
        scene.strike(Flow::Planned, &blows, Some((from, planned)), Some((to, 5)))?;
        scene.comes_to(to, 5, planned)?;
        scene.stage.bring_up(scene.stage.pair.host(&format!("{to}.example")))?;
        let steps = [
            (from, "adopt the disks"),
            (to, "ask the peer to become the replica"),
            (to, "record cluster lists"),
            (to, "promote the store"),
            (to, "merge the overlay down"),
        ];
        let reverse: &[&str] = &["reverse", VM];
        let blows = scene.choose_blows(Flow::Reverse, &steps, &DAEMONS);
        scene.strike(Flow::Reverse, &blows, Some((to, reverse)), None)?;
        scene.comes_to(to, 3, reverse)?;
        scene.goes_on(to)?;
        (from, to) = (to, from);
    }
    scene.nothing_is_left(from)
}
