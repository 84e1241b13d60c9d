//! Two hosts of one realm, with a real KDC: a running guest is replicated over 9080 alone, fails over and comes home;
//! what happens to tickets and keys meanwhile is named and survived.

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec,
    kdc::Kdc,
    oracle::read_log,
    pair::{Host, Pair},
    poll_for,
};

/// Waits until a host's issue with a VM says this.
fn wait_issue(host: &Host, says: &str) -> Result<()> {
    let mut last = Value::Null;
    let found = poll_for(BOUND, || {
        last = host.status(VM).ok()?["issues"].clone();
        let issues = last.as_array()?;
        issues
            .iter()
            .any(|issue| issue["message"].as_str().is_some_and(|text| text.contains(says)))
            .then_some(())
    });
    found.with_context(|| format!("no issue on {} says {says:?}: {last:#}", host.name))
}

fn refused(host: &Host, args: &[&str], says: &str) -> Result<()> {
    let failure = host.run(args).err().with_context(|| format!("relevo {args:?} is not refused"))?;
    ensure!(failure.message.contains(says), "{failure:?} does not say {says:?}");
    Ok(())
}

#[test]
fn a_guest_is_replicated_with_tickets_alone_fails_over_and_comes_home() -> Result<()> {
    let mut pair = Pair::prepare(binary())?;
    let kdc = Kdc::start(&pair.root.join("kdc"))?;
    pair.join(&kdc)?;
    // Where the certificates' listener is nobody goes any more: all that arrives came with a ticket.
    for host in [&pair.a, &pair.b] {
        let path = host.root.join("etc/relevo.toml");
        let text = fs::read_to_string(&path)?.replace("\naddress = \"127.0.0.1:", "\naddress = \"127.0.0.2:");
        fs::write(&path, text)?;
    }
    pair.begin()?;
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 64 << 20)?;
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    let stage = Stage::with(pair, &spec)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);

    // The KDC is away; the peer has another key; the peer is not authorized: each has its name, and nothing is made.
    let protect =
        ["protect", VM, "--to", "b.example", "--auth", "kerberos", "--interval", "3", "--history", "4"];
    kdc.stop()?;
    refused(a, &protect, "no KDC answers")?;
    kdc.resume()?;
    refused(
        a,
        &["protect", VM, "--to", "c.example", "--auth", "kerberos"],
        "does not know relevo/c.example@",
    )?;
    b.run(&["authorize", "--remove", "a.example"])?;
    refused(a, &protect, "a.example is not authorized on b.example")?;
    b.run(&["authorize", "a.example", "--storage", &b.storage().to_string_lossy()])?;

    a.run(&protect)?;
    a.wait_state(VM, 3, BOUND)?;
    ensure!(a.status(VM)?["authentication"] == "kerberos" && b.status(VM)?["authentication"] == "kerberos");
    stage.check_newest(a, b)?;

    // b's key is changed in the KDC and b has the old one: connections that exist go on, new ones name it.
    kdc.keytab("elsewhere.keytab", &["relevo/b.example"])?;
    let mut stage = stage;
    stage.pair.a.stop();
    stage.pair.a.start()?;
    wait_issue(&stage.pair.a, "it refused this host's ticket: the ticket is for a principal or a key")?;
    kdc.keytab("b.example.keytab", &["relevo/b.example"])?;
    // No restart anywhere: the keytab is read again, and the refused tickets are gone.
    stage.pair.a.run(&["resume", VM])?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;

    // a's principal expires, and the KDC is away when it is valid again.
    kdc.admin("modprinc -expire yesterday relevo/a.example")?;
    stage.pair.a.stop();
    stage.pair.a.start()?;
    wait_issue(&stage.pair.a, "no valid ticket")?;
    kdc.admin("modprinc -expire never relevo/a.example")?;
    kdc.stop()?;
    stage.pair.a.run(&["resume", VM])?;
    wait_issue(&stage.pair.a, "no KDC answers")?;
    kdc.resume()?;
    stage.pair.a.run(&["resume", VM])?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;

    // There and back on purpose: the same link in the other direction, with the other host's tickets.
    let Pair { a, b, .. } = &stage.pair;
    for (from, to) in [(a, b), (b, a)] {
        // What is cut off in the middle may have arrived all the same, and a failover is refused then.
        from.wait_cycles(VM, 1, BOUND)?;
        let boots = read_log(&stage.serial)?.boots;
        from.run(&["failover", VM, "--planned"])?;
        to.run(&["reverse", VM])?;
        poll_for(BOUND, || (read_log(&stage.serial).ok()?.boots > boots).then_some(()))
            .with_context(|| format!("the guest does not boot on {}", to.name))?;
        stage.check_newest(to, from)?;
    }
    Ok(())
}
