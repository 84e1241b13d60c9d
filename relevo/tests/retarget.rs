//! Another host becomes the one that keeps the replica.

mod support;

use anyhow::{Result, ensure};
use support::{BOUND, Stage, VM};
use testkit::pair::Host;

fn refused(host: &Host, to: &str) -> String {
    host.run(&["retarget", VM, "--to", to]).expect_err("nothing to do there").id
}

#[test]
fn a_lost_replica_host_is_replaced_and_can_be_come_back_to() -> Result<()> {
    let mut stage = Stage::new(&[64 << 20, 32 << 20])?;
    stage.pair.add_third()?;
    stage.protect()?;
    stage.pair.a.wait_state(VM, 3, BOUND)?;
    stage.pair.b.wait_state(VM, 3, BOUND)?;
    ensure!(refused(&stage.pair.a, "a.example") == "self");
    ensure!(refused(&stage.pair.a, "b.example") == "same-host");
    ensure!(refused(&stage.pair.a, "nowhere.example") == "peer-name");
    ensure!(refused(&stage.pair.b, "x.example") == "wrong-host");
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;

    stage.pair.b.kill_daemon()?;
    stage.pair.a.run(&["retarget", VM, "--to", "x.example"])?;
    let view = stage.pair.a.wait_state(VM, 3, BOUND)?;
    ensure!(view["peer"] == "x.example" && view["interval_s"] == 1 && view["history"] == 4, "{view:#}");
    stage.check_newest(&stage.pair.a, stage.pair.third())?;

    // What the first host has of the VM is a seed, once its side is ended.
    stage.pair.b.start()?;
    ensure!(refused(&stage.pair.a, "b.example") == "replica-exists");
    stage.check_newest(&stage.pair.a, stage.pair.third())?;
    stage.pair.b.run(&["unprotect", VM])?;
    stage.pair.a.run(&["retarget", VM, "--to", "b.example"])?;
    stage.pair.a.wait_state(VM, 3, BOUND)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    stage.pair.third().run(&["unprotect", VM, "--delete-replica"])?;

    stage.pair.a.wait_cycles(VM, 2, BOUND)?;
    stage.pair.a.kill_daemon()?;
    stage.pair.root.kill_guests();
    stage.pair.b.run(&["failover", VM])?;
    stage.wait_for_acks(5)?;
    Ok(())
}
