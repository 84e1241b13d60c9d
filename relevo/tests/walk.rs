//! Random walks on two and on three real hosts: operations, refusals and crashes in any order that the model below allows. After
//! each step one host may run the VM, no more than one runs it, the states are those that the model expects, and while
//! it replicates, the newest points hold what the guest was told to be written.
//!
//! `RELEVO_SEED` repeats a walk, `RELEVO_STEPS` makes it longer.

mod support;

use anyhow::{Context, Result, bail, ensure};
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use std::collections::BTreeMap;
use support::{BOUND, Stage, VM};
use testkit::{
    pair::{Host, Refused},
    poll_for,
};

/// Of a walk, unless `RELEVO_STEPS` says otherwise.
const STEPS: usize = 14;

/// Where both hosts stand between two steps. `primary` is the one that sends, or that the VM was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Replicating,
    Suspended,
    /// The replica took over; the former primary is there and superseded.
    FailedOver,
    /// Handed over in good order.
    Planned,
    Committed,
    /// The former primary has the difference, and the VM still runs on the other host.
    FedBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Cycles,
    Suspend,
    Resume,
    Resync,
    Scrub,
    TestFailover,
    KillPrimary,
    KillReplica,
    KillQemu,
    PowerCycle,
    Lose,
    LoseToOlder,
    FailOver,
    Plan,
    Revert,
    Commit,
    Reverse,
    FailBack,
    Complete,
    CancelFailback,
    /// The replica is forwarded to the third host.
    Extend,
    HoldUp,
    TakeUp,
    CompareThird,
    KillThird,
    /// The third host takes over from both, and gives back.
    ThirdTakes,
    /// Nothing is forwarded any more.
    Cut,
    /// The third host becomes the replica, and the first is left behind.
    LeaveFirst,
    /// Something that is not possible here.
    Misuse,
}

/// What becomes of a third host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Third {
    /// There is none, or it has no part in it any more.
    None,
    /// It may be forwarded to.
    Free,
    Follows,
    HeldUp,
}

impl Third {
    fn acts(self, place: Place) -> &'static [Act] {
        use Act::*;
        match (self, place) {
            (Self::None, _) => &[],
            (Self::Free, Place::Replicating) => &[Extend, Extend],
            (Self::Free, _) => &[],
            (Self::Follows, Place::Replicating) => &[HoldUp, CompareThird, ThirdTakes, Cut, KillThird],
            (Self::HeldUp, Place::Replicating) => &[TakeUp, KillThird],
            (_, Place::Committed) => &[LeaveFirst, KillThird],
            _ => &[KillThird],
        }
    }
}

impl Place {
    fn acts(self) -> &'static [Act] {
        use Act::*;
        match self {
            Self::Replicating => &[
                Cycles,
                Suspend,
                Resync,
                Scrub,
                TestFailover,
                KillPrimary,
                KillReplica,
                KillQemu,
                PowerCycle,
                Lose,
                LoseToOlder,
                FailOver,
                Plan,
                Misuse,
            ],
            Self::Suspended => &[Resume, KillPrimary, KillReplica, Misuse],
            Self::FailedOver => &[Revert, Commit, KillPrimary, KillReplica, Misuse],
            Self::Planned => &[Revert, Commit, Reverse, KillPrimary, KillReplica, Misuse],
            Self::Committed => &[Reverse, FailBack, KillPrimary, KillReplica, Misuse],
            Self::FedBack => &[Complete, CancelFailback, KillPrimary, KillReplica, Misuse],
        }
    }

    /// The states of the primary and the replica.
    fn states(self) -> (u64, u64) {
        match self {
            Self::Replicating => (3, 3),
            Self::Suspended => (7, 3),
            Self::FailedOver => (8, 5),
            Self::Planned => (4, 5),
            Self::Committed => (8, 6),
            Self::FedBack => (14, 3),
        }
    }

    /// Commands that are refused here, on the primary and on the replica.
    fn misuses(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Replicating => (&["failback", "commit", "revert"], &["commit", "revert", "resync"]),
            Self::Suspended => (&["failback", "commit"], &["commit", "resync"]),
            Self::FailedOver => (&["commit", "resync"], &["failover", "resync", "reverse"]),
            Self::Planned => (&["commit", "resync"], &["failover", "resync"]),
            Self::Committed => (&["commit", "resync"], &["failover", "revert", "commit"]),
            Self::FedBack => (&["commit", "resync"], &["failover", "revert", "commit"]),
        }
    }
}

struct Walk {
    stage: Stage,
    random: StdRng,
    place: Place,
    /// `a`, `b` or `x`.
    primary: char,
    replica: char,
    third: Third,
    /// The hand-over that was committed was a planned one.
    planned: bool,
    done: BTreeMap<Act, usize>,
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

impl Walk {
    fn host(&self, name: char) -> &Host {
        match name {
            'a' => &self.stage.pair.a,
            'b' => &self.stage.pair.b,
            _ => self.stage.pair.third(),
        }
    }

    fn host_mut(&mut self, name: char) -> &mut Host {
        match name {
            'a' => &mut self.stage.pair.a,
            'b' => &mut self.stage.pair.b,
            _ => self.stage.pair.x.as_mut().expect("a third host"),
        }
    }

    fn primary(&mut self) -> &mut Host {
        self.host_mut(self.primary)
    }

    fn replica(&mut self) -> &mut Host {
        self.host_mut(self.replica)
    }

    fn sides(&self) -> (&Host, &Host) {
        (self.host(self.primary), self.host(self.replica))
    }

    /// A VM has one host that it is sent to: the third one gets nothing from a replica that has become the primary.
    fn swap(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.replica);
        self.forwards_no_more();
    }

    fn forwards_no_more(&mut self) {
        if self.third != Third::None {
            self.third = Third::Free;
        }
    }

    /// What changes where the hosts stand comes more often than what does not.
    fn choose(&mut self) -> Option<Act> {
        let may = |act: &Act| {
            // A former primary that handed over has nothing of its own to bring home: `reverse` is its way.
            *act != Act::FailBack || !self.planned
        };
        let acts = self.place.acts().iter().chain(self.third.acts(self.place));
        let acts: Vec<Act> = acts.copied().filter(may).collect();
        let drawn = *acts.choose(&mut self.random)?;
        let again = matches!(drawn, Act::KillPrimary | Act::KillReplica | Act::Misuse | Act::Cycles);
        if again { acts.choose(&mut self.random).copied() } else { Some(drawn) }
    }

    /// Does it, and waits until both hosts rest where the model expects them.
    fn step(&mut self, act: Act) -> Result<()> {
        self.act(act)?;
        *self.done.entry(act).or_default() += 1;
        let (primary, replica) = self.sides();
        let (theirs, ours) = self.place.states();
        // A former primary that handed over stays as prepared as it was, whatever became of it.
        let theirs = if self.planned && self.place == Place::Committed { 4 } else { theirs };
        primary.wait_state(VM, theirs, BOUND)?;
        replica.wait_state(VM, ours, BOUND)?;
        self.one_runs()?;
        if self.place == Place::Replicating {
            self.stage.bring_up(primary)?;
            self.stage.wait_for_acks(3)?;
            self.stage.check_newest(primary, replica)?;
            if self.third == Third::Follows {
                self.follows()?;
            }
        }
        Ok(())
    }

    /// The newest point of the third host holds what was acknowledged before two more deltas were forwarded.
    fn follows(&self) -> Result<()> {
        let (primary, replica) = self.sides();
        replica.wait_extended(VM, BOUND, |view| view["state_number"] == 3)?;
        let before = self.stage.last_ack()?;
        primary.wait_cycles(VM, 2, BOUND)?;
        let forwarded = |view: &Value| view["cycles_succeeded"].as_u64().unwrap_or(0);
        let from = forwarded(&replica.extended(VM)?);
        replica.wait_extended(VM, BOUND, |view| forwarded(view) >= from + 2)?;
        let (_, verdict) = self.stage.check_points(self.stage.pair.third())?;
        verdict.at_least(before)?;
        Ok(())
    }

    fn extend(&mut self) -> Result<()> {
        let x = self.stage.pair.third();
        if x.status(VM).is_ok() {
            x.run(&["unprotect", VM])?;
        }
        let points = ["--interval", "2", "--history", "4", "--history-every", "4s"];
        let replica = self.sides().1;
        replica.run(&[&["protect", VM, "--to", &x.name], &points[..]].concat())?;
        self.third = Third::Follows;
        Ok(())
    }

    /// Both others live, and hear of it.
    fn third_takes_and_gives_back(&self) -> Result<()> {
        let ((primary, replica), x) = (self.sides(), self.stage.pair.third());
        x.run(&["failover", VM])?;
        primary.wait_state(VM, 8, BOUND)?;
        replica.wait_extended(VM, BOUND, |view| view["state_number"] == 8)?;
        self.stage.bring_up(x)?;
        self.stage.wait_for_acks(3)?;
        let status = primary.status(VM)?;
        ensure!(
            status["may_run"] == false && status["power_state"] != "running",
            "two may run it: {status:#}"
        );
        x.run(&["revert", VM])?;
        Ok(())
    }

    /// One host may run the VM, and no other one does.
    fn one_runs(&self) -> Result<()> {
        let (primary, replica) = self.sides();
        let holds = matches!(self.place, Place::Replicating | Place::Suspended);
        let holder = |may: bool, host: &Host| -> Result<()> {
            let status = host.status(VM)?;
            ensure!(
                status["may_run"] == may,
                "{} may run the VM: {}, expected {may}",
                host.name,
                status["may_run"]
            );
            ensure!(may || status["power_state"] != "running", "{} runs a VM that it may not run", host.name);
            Ok(())
        };
        // Who learns that the other one took over has to hear it first.
        let mut last = None;
        poll_for(BOUND, || {
            last = holder(holds, primary).and_then(|()| holder(!holds, replica)).err();
            last.is_none().then_some(())
        })
        .with_context(|| format!("{last:?}"))
    }

    fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Cycles => {
                self.primary().wait_cycles(VM, 3, BOUND)?;
            }
            Act::Suspend => {
                self.primary().run(&["suspend", VM])?;
                self.place = Place::Suspended;
            }
            Act::Resume => {
                self.primary().run(&["resume", VM])?;
                self.place = Place::Replicating;
            }
            Act::Resync => {
                self.primary().run(&["resync", VM])?;
            }
            Act::Scrub => self.scrub()?,
            Act::TestFailover => {
                self.replica().run(&["failover", VM, "--test"])?;
                self.replica().run(&["failover", VM, "--test", "--end"])?;
            }
            Act::KillPrimary => restart(self.primary())?,
            Act::KillReplica => restart(self.replica())?,
            Act::KillQemu => self.primary().kill_qemu(VM)?,
            Act::PowerCycle => {
                self.primary().run(&["vm", "stop", VM, "--force"])?;
                self.primary().run(&["vm", "start", VM])?;
            }
            Act::Lose => self.lose(&[])?,
            Act::LoseToOlder => {
                let points = self.replica().points(VM)?;
                let older = points.iter().rev().nth(1).or(points.last());
                let older = older.and_then(|point| point["point"].as_str()).context("no point")?.to_owned();
                self.lose(&["--point", &older])?;
            }
            Act::FailOver => {
                // The primary lives, and does not hear of it before it greets: its VM is paused then.
                self.replica().run(&["failover", VM])?;
                self.took_over(false)?;
            }
            Act::Plan => {
                self.primary().run(&["failover", VM, "--planned"])?;
                self.took_over(true)?;
            }
            Act::Revert => {
                self.replica().run(&["revert", VM])?;
                self.place = Place::Replicating;
            }
            Act::Commit => {
                self.replica().run(&["commit", VM])?;
                self.place = Place::Committed;
            }
            Act::Reverse => {
                self.replica().run(&["reverse", VM])?;
                self.swap();
                self.place = Place::Replicating;
            }
            Act::FailBack => {
                self.primary().run(&["failback", VM])?;
                self.place = Place::FedBack;
                // Who feeds it has become the primary.
                self.forwards_no_more();
            }
            Act::CancelFailback => {
                self.primary().run(&["failback", VM, "--cancel"])?;
                // What it was fed with makes it the replica.
                self.swap();
                self.place = Place::Replicating;
            }
            Act::Complete => {
                self.stage.wait_for_acks(3)?;
                self.primary().run(&["failback", VM, "--complete"])?;
                self.place = Place::Replicating;
            }
            Act::Extend => self.extend()?,
            Act::HoldUp => {
                self.replica().run(&["suspend", VM, "--extended"])?;
                self.third = Third::HeldUp;
            }
            Act::TakeUp => {
                self.replica().run(&["resume", VM, "--extended"])?;
                self.third = Third::Follows;
            }
            Act::CompareThird => drop(self.replica().run(&["resync", VM, "--extended"])?),
            Act::KillThird => restart(self.host_mut('x'))?,
            Act::ThirdTakes => self.third_takes_and_gives_back()?,
            Act::Cut => {
                self.replica().run(&["unprotect", VM, "--extended"])?;
                self.third = Third::Free;
            }
            Act::LeaveFirst => {
                self.replica().run(&["reverse", VM, "--extended"])?;
                self.primary().run(&["unprotect", VM])?;
                (self.primary, self.replica, self.third) = (self.replica, 'x', Third::None);
                self.place = Place::Replicating;
            }
            Act::Misuse => self.misuse()?,
        }
        Ok(())
    }

    /// Nothing that happened before may have left a difference that nobody knows of.
    fn scrub(&mut self) -> Result<()> {
        let primary = self.primary();
        let mut last = None;
        let done = || {
            let asked = primary.run(&["scrub", VM]);
            // It may be about to compare anyway, or still merge an overlay down.
            last.insert(asked).is_ok().then_some(())
        };
        poll_for(BOUND, done).with_context(|| format!("no scrub: {last:?}"))?;
        let scrub = primary.status(VM)?["scrub"].clone();
        let nothing = scrub["changed_on_primary"] == 0 && scrub["damaged_on_replica"] == 0;
        ensure!(nothing && scrub["last_at"].is_string(), "what replicates is not the same: {scrub:#}");
        Ok(())
    }

    /// The primary's site dies, the replica takes over from this point, and the site is back.
    fn lose(&mut self, point: &[&str]) -> Result<()> {
        let lost = self.primary();
        lost.kill_daemon()?;
        if lost.qemu_pid(VM).is_some_and(testkit::is_running) {
            lost.kill_qemu(VM)?;
        }
        let command: Vec<&str> = ["failover", VM].into_iter().chain(point.iter().copied()).collect();
        match self.replica().run(&command) {
            Ok(_) => {}
            // It merged away meanwhile.
            Err(Refused { id, .. }) if id == "point-unknown" => drop(self.replica().run(&["failover", VM])?),
            Err(other) => bail!(other),
        }
        self.primary().start()?;
        self.took_over(false)
    }

    fn took_over(&mut self, planned: bool) -> Result<()> {
        self.place = if planned { Place::Planned } else { Place::FailedOver };
        self.planned = planned;
        self.replica().wait_state(VM, 5, BOUND)?;
        let replica = self.sides().1;
        self.stage.bring_up(replica)?;
        self.stage.wait_for_acks(3)
    }

    fn misuse(&mut self) -> Result<()> {
        let (on_primary, on_replica) = self.place.misuses();
        let all: Vec<_> = [(true, on_primary), (false, on_replica)]
            .into_iter()
            .flat_map(|(on, commands)| commands.iter().map(move |command| (on, *command)))
            .collect();
        let (on, command) = *all.choose(&mut self.random).context("a misuse")?;
        let place = self.place;
        let host = if on { self.primary() } else { self.replica() };
        let before = host.status(VM)?;
        match host.run(&[command, VM]) {
            Err(refused) => {
                ensure!(!refused.message.is_empty(), "no word why {command} is refused");
                let after = host.status(VM)?;
                ensure!(
                    after["state_number"] == before["state_number"],
                    "{command} was refused and did something"
                );
                Ok(())
            }
            Ok(done) => bail!("{command} on {} in {:?} is not refused: {done:#}", host.name, place),
        }
    }
}

fn restart(host: &mut Host) -> Result<()> {
    host.kill_daemon()?;
    host.start()
}

fn walk(hosts: usize) -> Result<()> {
    let seed = variable("RELEVO_SEED").unwrap_or_else(rand::random::<u64>);
    println!("RELEVO_SEED={seed}");
    let mut stage = Stage::new(&[64 << 20, (32 << 20) + 4096])?;
    if hosts == 3 {
        stage.pair.add_third()?;
    }
    stage.protect()?;
    let mut walk = Walk {
        stage,
        random: StdRng::seed_from_u64(seed),
        place: Place::Replicating,
        primary: 'a',
        replica: 'b',
        third: if hosts == 3 { Third::Free } else { Third::None },
        planned: false,
        done: BTreeMap::new(),
    };
    for step in 0..variable("RELEVO_STEPS").unwrap_or(STEPS) {
        let act = walk.choose().context("an act")?;
        println!("{step:>3}. {:?}, {} is primary, third {:?}: {act:?}", walk.place, walk.primary, walk.third);
        walk.step(act).with_context(|| format!("step {step}, {act:?}; RELEVO_SEED={seed}"))?;
    }
    println!("{:?}", walk.done);
    Ok(())
}

#[test]
fn any_order_of_operations_and_crashes_keeps_the_rules() -> Result<()> {
    walk(2)
}

#[test]
fn any_order_with_a_third_host_keeps_the_rules() -> Result<()> {
    walk(3)
}
