//! What stands between two hosts: each cause is told by itself, before and while a VM is replicated.

mod support;

use anyhow::{Context, Result, ensure};
use std::{fs, io::Write};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec,
    pair::{Host, Pair},
    poll,
};

fn cause(host: &Host, other: &str) -> Result<String> {
    Ok(host.run(&["host", "--test", other]).err().with_context(|| format!("{other} is said to be fine"))?.id)
}

fn issue(host: &Host, id: &str) -> bool {
    let status = host.status(VM).unwrap_or_default();
    status["issues"].as_array().is_some_and(|issues| issues.iter().any(|issue| issue["id"] == id))
}

#[test]
fn each_cause_is_told_by_itself() -> Result<()> {
    let mut pair = Pair::prepare(binary())?;
    let mut config = fs::File::options().append(true).open(pair.a.root.join("etc/relevo.toml"))?;
    writeln!(config, "[peers.\"c.example\"]\naddress = \"127.0.0.1:{}\"", pair.b.port)?;
    pair.a.start()?;
    ensure!(cause(&pair.a, "nowhere.invalid")? == "peer-name");
    ensure!(cause(&pair.a, "b.example")? == "peer-unreachable", "nobody listens");
    pair.b.start()?;
    ensure!(cause(&pair.a, "b.example")? == "not-authorized");
    ensure!(cause(&pair.a, "c.example")? == "peer-certificate", "b is not c");
    pair.b.run(&["authorize", "a.example", "--storage", &pair.b.storage().to_string_lossy()])?;
    pair.a.run(&["host", "--test", "b.example"])?;

    // While a VM is replicated.
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 64 << 20)?;
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    pair.b.run(&["host", "--recovery-server", "off"])?;
    let mut stage = Stage::with(pair, &spec)?;
    let refused = stage.protect().err().context("b receives although it is switched off")?;
    ensure!(refused.to_string().contains("recovery server"), "{refused}");
    stage.pair.b.run(&["host", "--recovery-server", "on"])?;
    stage.protect()?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    let interval = a.status(VM)?["interval"].clone();
    ensure!(interval["succeeded"].as_u64() > Some(0) && interval["since"].is_string(), "{interval:#}");
    b.run(&["authorize", "--remove", "a.example"])?;
    ensure!(poll(BOUND, || issue(a, "failing") && issue(b, "not-authorized")), "{:#}", a.status(VM)?);
    let failing = a.status(VM)?;
    ensure!(failing.to_string().contains("not authorized"), "{failing:#}");
    ensure!(failing["interval"]["failed"].as_u64() > Some(0), "{failing:#}");
    trust_groups(&stage)?;
    stage.pair.b.stop();
    let (a, told) = (&stage.pair.a, |a: &Host| {
        a.status(VM).is_ok_and(|it| it["interval"]["network_failed"].as_u64() > Some(0))
    });
    ensure!(poll(BOUND, || issue(a, "failing") && told(a)), "{:#}", a.status(VM)?);

    // Another authority's certificate.
    let bundle = stage.pair.root.join("other.bundle");
    let bundle = bundle.to_string_lossy();
    let certs = stage.pair.b.root.join("etc/certs");
    fs::remove_dir_all(&certs)?;
    fs::create_dir(&certs)?;
    stage.pair.b.run(&["cert", "init"])?;
    stage.pair.b.run(&["cert", "issue", "b.example", "--out", &bundle])?;
    stage.pair.b.run(&["cert", "install", &bundle])?;
    stage.pair.b.start()?;
    ensure!(cause(&stage.pair.a, "b.example")? == "peer-certificate");
    Ok(())
}

/// The replica was made under DEFAULT: a of another group does not feed it, until the replica is moved there.
fn trust_groups(stage: &Stage) -> Result<()> {
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    let storage = b.storage().to_string_lossy().into_owned();
    let authorize =
        |host: &str, group: &str| b.run(&["authorize", host, "--storage", &storage, "--trust-group", group]);
    authorize("a.example", "tier-1")?;
    authorize("x.example", "tier-2")?;
    a.run(&["resume", VM])?;
    let told = || a.status(VM).is_ok_and(|status| status["issues"].to_string().contains("tier-1"));
    ensure!(poll(BOUND, || told() && issue(b, "wrong-trust-group")), "{:#}", a.status(VM)?);
    let refused = |host: &Host, args: &[&str]| -> Result<String> {
        Ok(host.run(&[&["authorize"], args].concat()).err().context("it is taken")?.id)
    };
    ensure!(refused(b, &["x.example", "--vm", VM])? == "wrong-trust-group", "a is not of the group of x");
    ensure!(refused(b, &["y.example", "--vm", VM])? == "authorization-unknown");
    ensure!(refused(b, &["a.example", "--vm", "web"])? == "vm-unknown");
    a.run(&["authorize", "b.example", "--storage", &a.storage().to_string_lossy()])?;
    ensure!(refused(a, &["b.example", "--vm", VM])? == "not-a-replica");
    ensure!(issue(b, "wrong-trust-group"), "what was refused changed something");
    b.run(&["authorize", "a.example", "--vm", VM])?;
    a.run(&["resume", VM])?;
    stage.check_newest(a, b)?;
    ensure!(!issue(b, "wrong-trust-group"));
    Ok(())
}
