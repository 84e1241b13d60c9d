//! Two hosts and one VM in a world where messages are lost, delayed, repeated and reordered, daemons and
//! hosts die between any two of their duties, and operators press any button. The engine is the real one;
//! what it decides upon is a model (`sim/`). Checked after every action are the rules that everything rests
//! on: one right to run, nothing forgotten before the peer has it, points that hold exactly their cut.
//!
//! `RELEVO_SIM_STEPS` sets how many random actions are taken in all, `RELEVO_SIM_SEED` replays one world.

mod sim;

use engine::{Event, Operation};
use rand::Rng;
use sim::world::{A, Check, Faults, World};
use std::collections::BTreeMap;

const STEPS: u64 = 20_000_000;
const STEPS_PER_WORLD: u64 = 2000;

fn random_action(world: &mut World) -> Check {
    let host = world.rng.random_range(0..world.hosts.len());
    let chaos = world.faults.crash > 2;
    match world.rng.random_range(0..1000) {
        0..220 => world.carry_out(host)?,
        220..420 => world.report(host)?,
        420..720 if !world.network.is_empty() => {
            // Mostly the oldest ones.
            let newest = world.network.len();
            let index = world.rng.random_range(0..newest).min(world.rng.random_range(0..newest));
            world.deliver(index)?;
        }
        720..820 => world.guest_writes(host),
        820..890 => {
            let milliseconds = world.rng.random_range(1..40_000);
            world.now_ms += milliseconds;
            world.apply(host, Event::Tick)?;
        }
        890..925 => {
            let operation = world.any_operation(host);
            world.apply(host, Event::Operation(operation))?;
        }
        925..930 => world.time_out(host),
        930..957 => world.start(host)?,
        957..960 => world.cancel(host)?,
        960..963 if chaos => world.crash(host, "at rest"),
        963..964 => world.lose_power(host),
        964..966 => {
            world.hosts[host].reality.lose_tracking();
            world.apply(host, Event::TrackingLost("an operator's snapshot".into()))?;
        }
        966..968 => world.partitioned = true,
        968..985 => world.partitioned = false,
        985..987 => guest_power(world, host)?,
        987 if world.hosts.len() > 2 => world.merge_points(),
        987 => guest_power(world, host)?,
        988..991 => world.import(host)?,
        991..1000 => {
            world.request(host, sim::world::Body::Greet);
        }
        _ => {}
    }
    world.check()
}

fn guest_power(world: &mut World, host: usize) -> Check {
    let Some(live) = &world.hosts[host].live else { return Ok(()) };
    let may_run = live.may_run() && live.work.is_none();
    let Some(domain) = &mut world.hosts[host].reality.domain else { return Ok(()) };
    if !may_run || domain.paused {
        return Ok(());
    }
    domain.running = !domain.running;
    let running = domain.running;
    world.apply(host, Event::Power { running }).map(|_| ())
}

fn run(world: &mut World, steps: u64, faults: Faults) -> Check {
    world.apply(A, Event::Started)?;
    let ways = [Operation::StartReplication, Operation::StartReplication, Operation::Export];
    let way = world.rng.random_range(0..ways.len());
    world.apply(A, Event::Operation(ways[way].clone()))?;
    world.faults = faults;
    for _ in 0..steps {
        random_action(world)?;
    }
    // What three hosts are brought to depends on the operator: theirs is checked by flows.
    if world.hosts.len() == 2 { world.heal() } else { Ok(()) }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn the_rules_hold_whatever_happens() {
    walk(World::new, STEPS);
}

#[test]
fn the_rules_hold_on_three_hosts() {
    walk(World::three, STEPS / 4);
}

fn walk(make: fn(u64) -> World, steps: u64) {
    let steps = number("RELEVO_SIM_STEPS").unwrap_or(steps);
    let first = number("RELEVO_SIM_SEED");
    let seeds = first.map_or(0..steps.div_ceil(STEPS_PER_WORLD), |seed| seed..seed + 1);
    let (mut crashes, mut ended, mut worlds) = (BTreeMap::new(), BTreeMap::new(), 0);
    for seed in seeds {
        let mut world = make(seed);
        if let Err(broken) =
            run(&mut world, STEPS_PER_WORLD, Faults::KINDS[seed as usize % Faults::KINDS.len()])
        {
            panic!("RELEVO_SIM_SEED={seed}: {broken}\n{}", world.dump());
        }
        worlds += 1;
        for (work, count) in world.ended {
            *ended.entry(work).or_insert(0) += count;
        }
        for (point, count) in world.crashes {
            *crashes.entry(point).or_insert(0) += count;
        }
    }
    println!("{worlds} worlds; work that ended:");
    for ((work, well), count) in &ended {
        println!("{count:8}  {work}, {}", if *well { "well" } else { "with a failure" });
    }
    println!("crashes:");
    for ((work, step, between), count) in crashes {
        println!("{count:6}  {work} / {step}, {between}");
    }
}
