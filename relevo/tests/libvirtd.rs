//! A host whose libvirt is a process of its own, as in production: it dies and comes back, and a VM live-migrates
//! to another one and back.

mod support;

use anyhow::{Context, Result, ensure};
use std::{fs, process::Command};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec, free_port,
    libvirtd::Libvirtd,
    pair::{Host, Pair},
    poll_for,
};

/// Host a with a libvirtd, whose guest is replicated to host b.
fn stage() -> Result<Stage> {
    let mut pair = Pair::prepare(binary())?;
    pair.a.libvirtd = Some(Libvirtd::start(&pair.root.join("a/libvirt"), "root")?);
    pair.a.configure(&pair.b, "")?;
    pair.begin()?;
    let paths = ["vda", "vdb"].map(|target| pair.root.join(format!("a/{target}.qcow2")));
    for path in &paths {
        image(path, "qcow2", 96 << 20)?;
    }
    let disks = paths.map(|path| (path, "qcow2"));
    let spec = GuestSpec::new(VM, &disks, &pair.root.join("serial.log"));
    let stage = Stage::with(pair, &spec)?;
    stage.protect()?;
    stage.pair.a.wait_state(VM, 3, BOUND)?;
    Ok(stage)
}

/// The issues that a status names, as text.
fn issues(host: &Host) -> Result<String> {
    Ok(host.status(VM)?["issues"].to_string())
}

/// Waits for what an operator is to be told.
fn wait_issue(host: &Host, words: &str) -> Result<()> {
    poll_for(BOUND, || issues(host).ok()?.contains(words).then_some(()))
        .with_context(|| format!("nothing says {words:?}: {}", issues(host).unwrap_or_default()))
}

/// Replication goes on with what changed: no comparison of whole disks, and what was acknowledged is on the replica.
fn goes_on(stage: &Stage, compared_before: usize) -> Result<()> {
    stage.pair.a.wait_state(VM, 3, BOUND)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    ensure!(comparisons(&stage.pair.a)? == compared_before, "the disks were compared");
    Ok(())
}

/// How often the daemon began a comparison.
fn comparisons(host: &Host) -> Result<usize> {
    Ok(fs::read_to_string(host.log_path())?.matches("resynchronization begins").count())
}

#[test]
fn a_libvirtd_that_dies_and_comes_back_costs_neither_the_guest_nor_a_comparison() -> Result<()> {
    let mut stage = stage()?;
    let (qemu, compared) = (stage.pair.a.qemu_pid(VM), comparisons(&stage.pair.a)?);
    for _ in 0..3 {
        stage.pair.a.wait_cycles(VM, 2, BOUND)?;
        stage.pair.a.libvirtd.as_mut().context("it has one")?.kill()?;
        stage.wait_for_acks(20)?;
        wait_issue(&stage.pair.a, "libvirt is away")?;
        let refused = stage.pair.a.run(&["unprotect", VM]).expect_err("nobody can drop the checkpoints");
        ensure!(refused.message.contains("libvirt is away"), "{refused:?}");
        stage.pair.a.libvirtd.as_mut().context("it has one")?.resume()?;
        goes_on(&stage, compared)?;
    }
    ensure!(stage.pair.a.qemu_pid(VM) == qemu, "another QEMU runs");
    Ok(())
}

#[test]
fn another_programs_backup_is_neither_ended_nor_a_reason_to_compare() -> Result<()> {
    let stage = stage()?;
    let a = &stage.pair.a;
    let libvirtd = a.libvirtd.as_ref().context("it has one")?;
    let root = stage.pair.root.path();
    let path = |name: &str| root.join(name).to_string_lossy().into_owned();
    let disk = |target: &str| {
        let scratch = path(&format!("{target}.scratch"));
        format!("<disk name='{target}' type='file'><scratch file='{scratch}'/></disk>")
    };
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>{}{}</disks></domainbackup>",
        path("nbd.sock"),
        disk("vda"),
        disk("vdb")
    );
    fs::write(path("backup.xml"), xml)?;
    let compared = comparisons(a)?;
    // One of our own may be under way just then.
    poll_for(BOUND, || libvirtd.virsh(&["backup-begin", VM, &path("backup.xml")]).ok())
        .context("no backup")?;
    wait_issue(a, "another program backs up")?;
    let attempts =
        || fs::read_to_string(a.log_path()).map(|log| log.matches("another program backs up").count());
    let before = attempts()?;
    poll_for(BOUND, || (attempts().ok()? > before + 1).then_some(())).context("it is not tried again")?;
    libvirtd.virsh(&["backup-dumpxml", VM]).context("the other backup was ended")?;
    libvirtd.virsh(&["domjobabort", VM])?;
    goes_on(&stage, compared)
}

fn migrate(from: &Libvirtd, to: &Libvirtd, options: &[&str]) -> Result<()> {
    let memory = format!("tcp:127.0.0.1:{}", free_port()?);
    let uri = to.uri();
    // The disks are shared, which libvirt cannot see.
    let how = ["migrate", "--live", concat!("--un", "safe"), "--persistent"];
    let args: Vec<&str> =
        how.iter().chain(options).copied().chain([VM, uri.as_str(), memory.as_str()]).collect();
    from.virsh(&args).map(drop)
}

#[test]
fn a_vm_that_live_migrates_away_and_back_goes_on_with_what_it_changed() -> Result<()> {
    let mut stage = stage()?;
    let mut here = stage.pair.a.libvirtd.take().context("it has one")?;
    let there = Libvirtd::start(&stage.pair.root.join("c"), "root")?;
    let compared = comparisons(&stage.pair.a)?;
    // libvirt forgets the checkpoints with the definition, or keeps both.
    for options in [&["--undefinesource"][..], &[]] {
        stage.pair.a.wait_cycles(VM, 2, BOUND)?;
        migrate(&here, &there, options)?;
        stage.wait_for_acks(20)?;
        let words = if options.is_empty() { "migrated" } else { "does not exist here" };
        wait_issue(&stage.pair.a, words)?;
        migrate(&there, &here, &["--undefinesource"])?;
        goes_on(&stage, compared)?;
    }

    // Neither a start of the daemon nor an operator starts it a second time, and libvirt may forget what it was.
    migrate(&here, &there, &[])?;
    wait_issue(&stage.pair.a, "migrated")?;
    here.kill()?;
    wait_issue(&stage.pair.a, "libvirt is away")?;
    here.resume()?;
    ensure!(!here.virsh(&["domstate", "--reason", VM])?.contains("migrated"), "libvirt remembers");
    wait_issue(&stage.pair.a, "migrated")?;
    stage.pair.a.kill_daemon()?;
    stage.pair.a.start()?;
    wait_issue(&stage.pair.a, "migrated")?;
    let refused = stage.pair.a.run(&["vm", "start", VM]).expect_err("it runs elsewhere");
    ensure!(refused.id == "migrated", "{refused:?}");
    let refused = stage.pair.a.run(&["vm", "stop", VM]).expect_err("it runs elsewhere");
    ensure!(refused.id == "migrated", "{refused:?}");
    let refused = stage.pair.b.run(&["failover", VM, "--planned"]).expect_err("it runs elsewhere");
    ensure!(refused.message.contains("migrated"), "{refused:?}");
    ensure!(here.virsh(&["list", "--name"])?.is_empty(), "it runs twice");
    stage.wait_for_acks(20)?;
    migrate(&there, &here, &["--undefinesource"])?;
    goes_on(&stage, compared)
}

#[test]
fn a_disk_that_is_plugged_into_a_running_vm_is_replicated_once_it_is_named() -> Result<()> {
    let stage = stage()?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    let root = stage.pair.root.path();
    let added = root.join("a/vdc.qcow2");
    image(&added, "qcow2", 16 << 20)?;
    let path = added.to_string_lossy().into_owned();
    run("qemu-io", &["-c", "write -q -P 9 3M 2M", &path])?;
    let libvirtd = a.libvirtd.as_ref().context("it has one")?;
    let how = ["--subdriver", "qcow2", "--targetbus", "virtio", "--live", "--config"];
    libvirtd.virsh(&[&["attach-disk", VM, &path, "vdc"][..], &how].concat())?;
    // Until it is named it is nobody's business.
    stage.check_newest(a, b)?;
    a.run(&["disks", VM, "vda,vdb,vdc"])?;
    a.wait_state(VM, 3, BOUND)?;
    a.wait_cycles(VM, 2, BOUND)?;
    stage.wait_for_acks(5)?;
    a.run(&["suspend", VM])?;
    a.wait_state(VM, 7, BOUND)?;
    b.wait_merged(VM, BOUND)?;
    let newest = b.points(VM)?.pop().context("no point")?;
    let images = b.point_images(VM, newest["point"].as_str().context("no id")?)?;
    ensure!(images.len() == 3, "{images:?}");
    run("qemu-img", &["compare", "-U", &path, &images[2].to_string_lossy()])
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output()?;
    ensure!(output.status.success(), "{program} {}: {output:?}", args.join(" "));
    Ok(())
}
