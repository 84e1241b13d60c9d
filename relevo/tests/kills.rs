//! `kill -9` inside a recorded stage of each flow. Each kill waits for the stage's step in the host's log,
//! strikes, restarts what was killed, and demands that replication goes on, that one host may run the VM,
//! that every point holds a prefix of the guest's history, and that nothing is left over. A histogram of
//! the stages that the restarted daemons found in their records is printed.

mod support;

use anyhow::{Context, Result, ensure};
use std::{collections::BTreeMap, fs, thread};
use support::{BOUND, Stage, VM};
use testkit::{pair::Host, poll_for};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Qemu,
    Both,
}

/// Letters name hosts.
struct Kill {
    /// Whose log tells the step, and who is killed.
    host: char,
    step: &'static str,
    victim: Victim,
    /// The command that leads to the step, and the host on which it is given.
    command: Option<(char, &'static [&'static str])>,
}

struct Scene {
    stage: Stage,
    histogram: BTreeMap<String, u32>,
}

fn log_length(host: &Host) -> u64 {
    fs::metadata(host.log_path()).map_or(0, |meta| meta.len())
}

fn log_since(host: &Host, from: u64) -> String {
    let bytes = fs::read(host.log_path()).unwrap_or_default();
    let tail = bytes.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    String::from_utf8_lossy(tail).into_owned()
}

impl Scene {
    fn new() -> Result<Self> {
        let stage = Stage::new(&[96 << 20, (64 << 20) + 4096])?;
        Ok(Self { stage, histogram: BTreeMap::new() })
    }

    fn host(&mut self, letter: char) -> &mut Host {
        if letter == 'a' { &mut self.stage.pair.a } else { &mut self.stage.pair.b }
    }

    /// Strikes as soon as the step is logged, and brings the daemon back. The command's own outcome does not
    /// matter: its daemon may be the victim.
    fn strike(&mut self, kill: &Kill) -> Result<()> {
        let from = log_length(self.host(kill.host));
        let pair = &mut self.stage.pair;
        let needle = format!("step=\"{}\"", kill.step);
        let from = thread::scope(|scope| -> Result<u64> {
            let (a, b) = (&mut pair.a, &mut pair.b);
            let (watched, other) = if kill.host == 'a' { (a, b) } else { (b, a) };
            let commander = kill.command.map(|(letter, args)| {
                let host = if letter == kill.host { &*watched } else { &*other };
                let (binary, root) = (support::binary(), host.root.clone());
                scope.spawn(move || {
                    let mut command = std::process::Command::new(binary);
                    let _ = command.arg("--root").arg(root).args(["--json", "--yes"]).args(args).output();
                })
            });
            poll_for(BOUND, || log_since(watched, from).contains(&needle).then_some(()))
                .with_context(|| format!("{} never comes to `{}`", watched.name, kill.step))?;
            if kill.victim != Victim::Daemon {
                watched.kill_qemu(VM)?;
            }
            if kill.victim != Victim::Qemu {
                watched.kill_daemon()?;
            }
            let from = log_length(watched);
            if kill.victim != Victim::Qemu {
                watched.start()?;
            }
            // The command may wait for the host that was struck.
            if let Some(commander) = commander {
                let _ = commander.join();
            }
            Ok(from)
        })?;
        let host = self.host(kill.host);
        let found = log_since(host, from);
        let resumed = found.lines().find(|line| line.contains("resuming")).map(|line| {
            let field =
                |name: &str| line.split(name).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
            format!("{}: {}", field("work=\""), field("step=\""))
        });
        let stage = resumed.unwrap_or_else(|| format!("{:?} at {}", kill.victim, kill.step));
        *self.histogram.entry(stage).or_default() += 1;
        Ok(())
    }

    /// Replication from `from` goes on, checked by the oracle; exactly one host may run the VM.
    fn goes_on(&mut self, from: char) -> Result<()> {
        self.host(from).wait_state(VM, 3, BOUND)?;
        let pair = &self.stage.pair;
        let (primary, replica) = if from == 'a' { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        self.stage.wait_for_acks(5)?;
        self.stage.check_newest(primary, replica)?;
        let holders = [primary, replica].map(|host| host.status(VM).map(|view| view["may_run"] == true));
        let [primary_may, replica_may] = holders;
        ensure!(primary_may? && !replica_may?, "the right to run is not with {} alone", primary.name);
        let vms = replica.run(&["vm", "list"])?;
        let defined = vms.as_array().is_some_and(|vms| vms.iter().any(|vm| vm["power_state"] != "replica"));
        ensure!(!defined, "a domain is left on {}: {vms:#}", replica.name);
        self.no_leftovers(primary)
    }

    /// Between two turns nothing is in the spool, and no checkpoint but one is there.
    fn no_leftovers(&self, primary: &Host) -> Result<()> {
        let spool = primary.root.join("lib/spool");
        let mut left = vec![];
        let empty = poll_for(BOUND, || {
            left = files_below(&spool);
            left.is_empty().then_some(())
        });
        empty.with_context(|| format!("left in the spool: {left:?}"))
    }

    fn report(&self) {
        println!("stages hit: {:#?}", self.histogram);
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

fn kill(host: char, step: &'static str) -> Kill {
    Kill { host, step, victim: Victim::Daemon, command: None }
}

fn during(host: char, step: &'static str, command: (char, &'static [&'static str])) -> Kill {
    Kill { host, step, victim: Victim::Daemon, command: Some(command) }
}

const PROTECT: (char, &[&str]) = (
    'a',
    &["protect", VM, "--to", "b.example", "--interval", "1", "--history", "3", "--history-every", "2s"],
);

#[test]
fn a_daemon_killed_in_a_first_copy_or_a_cycle_goes_on_where_it_was() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.strike(&during('a', "ship", PROTECT))?;
    scene.goes_on('a')?;
    for (host, step) in [('a', "cut"), ('a', "ship"), ('a', "settle")] {
        scene.strike(&kill(host, step))?;
        scene.goes_on('a')?;
    }
    // The replica's daemon has no steps in a cycle: it is killed when the primary ships.
    scene.stage.pair.b.kill_daemon()?;
    scene.stage.wait_for_acks(5)?;
    scene.stage.pair.b.start()?;
    scene.goes_on('a')?;
    scene.report();
    Ok(())
}

#[test]
fn a_killed_qemu_costs_a_comparison_and_nothing_else() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    for victim in [Victim::Qemu, Victim::Both] {
        scene.strike(&Kill { host: 'a', step: "cut", victim, command: None })?;
        scene.stage.bring_up(&scene.stage.pair.a)?;
        scene.goes_on('a')?;
    }
    scene.report();
    Ok(())
}

#[test]
fn a_failover_a_revert_and_a_commit_survive_kills() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    scene.stage.pair.a.kill_daemon()?;
    scene.stage.pair.a.kill_qemu(VM)?;
    let failover: (char, &[&str]) = ('b', &["failover", VM]);
    // Not at `start the VM`: here libvirt dies with the daemon, and one that is killed within a start never lets
    // go of the domain again.
    for step in ["make the overlay", "define on the overlay", "track changes"] {
        scene.strike(&during('b', step, failover))?;
        scene.stage.pair.b.wait_state(VM, 5, BOUND)?;
        scene.strike(&during('b', "drop the overlay", ('b', &["revert", VM])))?;
        scene.stage.pair.b.wait_state(VM, 3, BOUND)?;
    }
    scene.stage.pair.b.run(&["failover", VM])?;
    scene.strike(&during('b', "hide points", ('b', &["commit", VM])))?;
    scene.stage.pair.b.wait_state(VM, 6, BOUND)?;
    scene.stage.pair.a.start()?;
    scene.stage.pair.a.wait_state(VM, 8, BOUND)?;
    scene.strike(&during('b', "promote the store", ('b', &["reverse", VM])))?;
    scene.goes_on('b')?;
    scene.report();
    Ok(())
}

#[test]
fn planned_failovers_and_a_failback_survive_kills() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.stage.protect()?;
    scene.goes_on('a')?;
    let planned: (char, &[&str]) = ('a', &["failover", VM, "--planned"]);
    scene.strike(&during('a', "undefine", planned))?;
    scene.stage.pair.b.wait_state(VM, 5, BOUND)?;
    scene.strike(&during('a', "adopt the disks", ('b', &["reverse", VM])))?;
    scene.goes_on('b')?;
    // The primary is lost; it comes home.
    scene.stage.pair.b.kill_daemon()?;
    scene.stage.pair.b.kill_qemu(VM)?;
    scene.stage.pair.a.run(&["failover", VM])?;
    scene.stage.pair.a.run(&["commit", VM])?;
    scene.stage.pair.b.start()?;
    scene.stage.pair.b.wait_state(VM, 8, BOUND)?;
    scene.strike(&during('b', "read own changes", ('b', &["failback", VM])))?;
    scene.stage.pair.b.wait_state(VM, 14, BOUND)?;
    scene.strike(&during('b', "ask the peer to prepare", ('b', &["failback", VM, "--complete"])))?;
    scene.goes_on('b')?;
    scene.report();
    Ok(())
}
