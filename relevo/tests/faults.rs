//! Two real hosts, and what goes wrong between them. Turns that are cancelled, and a link that cuts, delays, repeats,
//! drops and damages bytes at random places: nothing is applied wrong, and replication goes on. All of it is under TLS,
//! to which a damaged, repeated or missing byte is a broken connection: what a receiver makes of damaged frames is
//! tested where they are seen, in `transport`. `RELEVO_SEED` repeats a run as far as timing lets it.

mod support;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{fs, time::Duration};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{GuestSpec, pair::Pair, poll_for};
use transport::fault::{Fault, FaultProxy};

const ROUNDS: usize = 15;
/// A handshake takes about 4 KiB, a cycle's delta some hundred.
const PLACE_ROOT_MAX: u64 = 512;
const DELAY: Duration = Duration::from_millis(30);
/// Turns that are cancelled, each wherever it is.
const CANCELLED: usize = 25;
/// The first wait after a failure is a minute.
const BY_ITSELF: Duration = Duration::from_secs(240);

/// What a host says in its log when a connection breaks.
fn failures(log: &str) -> usize {
    log.lines().filter(|line| line.contains("step failed") || line.contains("stream cut")).count()
}

#[test]
fn cycles_go_on_over_a_link_that_cuts_delays_repeats_and_damages() -> Result<()> {
    let seed =
        std::env::var("RELEVO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("RELEVO_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;

    let mut pair = Pair::prepare(binary())?;
    let proxy = runtime.block_on(FaultProxy::start(([127, 0, 0, 1], pair.b.port).into()))?;
    let config = pair.a.root.join("etc/relevo.toml");
    let direct = format!("127.0.0.1:{}", pair.b.port);
    fs::write(&config, fs::read_to_string(&config)?.replace(&direct, &proxy.address.to_string()))?;
    pair.a.start()?;
    pair.b.start()?;
    for (host, other) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        host.run(&["authorize", &other.name, "--storage", &host.storage().to_string_lossy()])?;
    }
    let mut disks = vec![];
    for (name, size) in [("vda.qcow2", 32 << 20), ("vdb.qcow2", (16 << 20) + 4096)] {
        let path = pair.root.join(name);
        image(&path, "qcow2", size)?;
        disks.push((path, "qcow2"));
    }
    let spec = GuestSpec::new(VM, &disks, &pair.root.join("serial.log"));
    let stage = Stage::with(pair, &spec)?;
    stage.protect()?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    a.wait_state(VM, 3, BOUND)?;

    let log = || fs::read_to_string(a.log_path()).unwrap_or_default();
    let mut noticed = 0;
    for round in 0..ROUNDS {
        let place = random.random_range(0..PLACE_ROOT_MAX).pow(2);
        let fault = match round % 5 {
            0 => Fault::CutAfter(place),
            1 => Fault::FlipAt(place),
            2 => Fault::DuplicateAt(place),
            3 => Fault::DropAt(place),
            _ => Fault::Delay(DELAY),
        };
        println!("{fault:?}");
        let cycles = || a.status(VM).ok()?["cycles_succeeded"].as_u64();
        let (before, failed) = (cycles().context("no status")?, failures(&log()));
        proxy.set(fault);
        // Hosts keep their connections; the fault begins with the next one.
        proxy.cut();
        let met = || {
            let broken = failures(&log()) > failed;
            (broken || cycles()? > before + 1).then_some(broken)
        };
        let broken = poll_for(BOUND, met).with_context(|| format!("{fault:?}: neither cycle nor failure"))?;
        noticed += usize::from(broken);
        proxy.set(Fault::None);
        proxy.cut();
        if round + 1 < ROUNDS {
            // Does not wait for the next try.
            a.run(&["resume", VM])?;
        }
        a.wait_cycles(VM, 1, BY_ITSELF)?;
    }
    ensure!(noticed >= ROUNDS / 5, "only {noticed} of {ROUNDS} faults were met");
    stage.check_newest(a, b)?;
    b.run(&["verify", VM])?;
    let status = a.status(VM)?;
    ensure!(status["state_number"] == 3, "{status:#}");
    Ok(())
}

/// What the other host seals while a turn is cancelled becomes a point there: it is neither given up here nor a
/// reason to compare the disks.
#[test]
fn a_turn_that_is_cancelled_at_any_moment_leaves_nothing_to_compare() -> Result<()> {
    let stage = Stage::new(&[32 << 20, (16 << 20) + 4096])?;
    stage.protect()?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    a.wait_cycles(VM, 1, BOUND)?;
    for _ in 0..CANCELLED {
        let status = || a.status(VM).unwrap_or_default();
        poll_for(BOUND, || (status()["activity"] != "").then_some(()))
            .with_context(|| format!("no turn begins: {:#}", status()))?;
        a.run(&["suspend", VM])?;
        poll_for(BOUND, || (status()["activity"] == "").then_some(()))
            .with_context(|| format!("it does not rest: {:#}", status()))?;
        a.run(&["resume", VM])?;
    }
    stage.check_newest(a, b)?;
    let log = fs::read_to_string(a.log_path())?;
    let compared: Vec<_> = log.lines().filter(|line| line.contains("are compared")).collect();
    ensure!(compared.is_empty(), "{compared:#?}");
    Ok(())
}
