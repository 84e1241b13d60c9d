//! Ways to begin other than at once and over the network: from a copy that stands on the other host already, by files
//! that are carried over, at a later time.

mod support;

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path, process::Command};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec, domain_xml,
    pair::{Host, Pair, Refused},
    poll_for,
};

const CLUSTER: usize = 64 << 10;

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
    Ok(())
}

/// What the guest sees of a disk, whatever its format and chain, while a cut may have it open.
fn content(image: &str, folder: &Path) -> Result<Vec<u8>> {
    let raw = folder.join("content.raw");
    run("qemu-img", &["convert", "-U", "-O", "raw", image, &raw.to_string_lossy()])?;
    Ok(fs::read(raw)?)
}

/// The bytes of clusters in which two disks differ.
fn difference(one: &str, other: &str, folder: &Path) -> Result<u64> {
    let (one, other) = (content(one, folder)?, content(other, folder)?);
    ensure!(one.len() == other.len(), "{} and {} bytes", one.len(), other.len());
    let differ = one.chunks(CLUSTER).zip(other.chunks(CLUSTER)).filter(|(one, other)| one != other);
    Ok(differ.map(|(cluster, _)| cluster.len() as u64).sum())
}

/// Random clusters beyond what the guest writes to, so that no compression makes the figures look better.
fn scribble(disk: &str, offset: &str, folder: &Path) -> Result<()> {
    let random = folder.join("random");
    let mut bytes = vec![0; 2 << 20];
    use std::io::Read;
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    fs::write(&random, bytes)?;
    run("qemu-io", &["-c", &format!("write -q -s {} {offset} 2M", random.display()), disk])
}

fn code(refused: Result<serde_json::Value, Refused>) -> (i32, String) {
    match refused {
        Ok(value) => (0, value.to_string()),
        Err(refused) => (refused.code, format!("{}: {}", refused.id, refused.message)),
    }
}

fn protect(host: &Host, more: &[&str]) -> Result<serde_json::Value, Refused> {
    let common = ["protect", VM, "--to", "b.example", "--interval", "1", "--history", "4"];
    host.run(&[&common[..], more].concat())
}

/// The bytes that a first copy sent, of which there were `differing` to send.
fn seeded(stage: &Stage, differing: u64) -> Result<()> {
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    b.wait_state(VM, 3, BOUND)?;
    let sent = a.wait_state(VM, 3, BOUND)?["sent_bytes"].as_u64().context("no figure")?;
    ensure!(differing >= 2 << 20, "only {differing} bytes differ: the test shows nothing");
    ensure!(sent >= 2 << 20, "{sent} bytes sent cannot hold the difference of {differing}");
    ensure!(sent * 10 <= differing * 11, "{sent} bytes were sent for a difference of {differing}");
    let jobs = a.run(&["job", "list"])?;
    let jobs = jobs.as_array().context("no jobs")?;
    ensure!(jobs.iter().any(|job| job["kind_number"] == 117), "no seeded start: {jobs:#?}");
    a.run(&["vm", "start", VM])?;
    stage.wait_for_acks(5)?;
    stage.check_newest(a, b)?;
    Ok(())
}

#[test]
fn a_first_copy_onto_a_seed_sends_the_difference() -> Result<()> {
    let pair = Pair::start(binary())?;
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 64 << 20)?;
    let path = disk.to_string_lossy().into_owned();
    scribble(&path, "40M", pair.root.path())?;
    let spec = GuestSpec::new(VM, &[(disk.clone(), "qcow2")], &pair.root.join("serial.log"));
    let stage = Stage::with(pair, &spec)?;
    let (a, b, root) = (&stage.pair.a, &stage.pair.b, stage.pair.root.path());
    ensure!(code(protect(a, &["--seed"])).0 == 4, "there is no seed");

    // What an earlier replica left behind: layers on top of each other.
    protect(a, &[])?;
    stage.check_newest(a, b)?;
    let uuid = a.run(&["vm", "show", VM])?["vm"].as_str().context("no UUID")?.to_owned();
    a.run(&["unprotect", VM])?;
    let newest = b.points(VM)?.pop().context("no point")?;
    let top = b.point_images(VM, newest["point"].as_str().context("no id")?)?.remove(0);
    b.run(&["unprotect", VM])?;
    a.run(&["vm", "stop", VM, "--force"])?;
    scribble(&path, "20M", root)?;
    let differing = difference(&path, &top.to_string_lossy(), root)?;
    protect(a, &["--seed"])?;
    seeded(&stage, differing)?;

    // A copy that was restored, and is a VM there.
    a.run(&["unprotect", VM])?;
    b.run(&["unprotect", VM, "--delete-replica"])?;
    a.run(&["vm", "stop", VM, "--force"])?;
    let copy = b.root.join("copy.qcow2");
    let copied = copy.to_string_lossy().into_owned();
    let define = |disks: &[(std::path::PathBuf, &str)]| -> Result<()> {
        let mut spec = GuestSpec::new(VM, disks, &root.join("copy.log"));
        spec.uuid = Some(uuid.clone());
        let xml = root.join("copy.xml");
        fs::write(&xml, domain_xml(&spec)?)?;
        b.run(&["vm", "define", &xml.to_string_lossy()])?;
        Ok(())
    };
    image(&copy, "qcow2", 65 << 20)?;
    define(&[(copy.clone(), "qcow2")])?;
    let refused = code(protect(a, &[]));
    ensure!(refused.0 == 6 && refused.1.contains("vm-exists"), "not marked: {refused:?}");
    ensure!(code(protect(a, &["--seed"])).1.contains("no-seed"), "not marked either");
    b.run(&["seed", VM])?;
    ensure!(code(b.run(&["vm", "start", VM])).1.contains("is-seed"), "a seed does not start");
    let refused = code(protect(a, &["--seed"]));
    ensure!(refused.0 == 2 && refused.1.contains("disk vda: it has 68157440 bytes"), "{refused:?}");
    fs::remove_file(&copy)?;
    run("qemu-img", &["convert", "-O", "qcow2", &path, &copied])?;
    let extra = b.root.join("extra.qcow2");
    image(&extra, "qcow2", 1 << 20)?;
    define(&[(copy.clone(), "qcow2"), (extra, "qcow2")])?;
    let refused = code(protect(a, &["--seed"]));
    ensure!(refused.0 == 2 && refused.1.contains("disk vdb"), "{refused:?}");
    define(&[(copy, "qcow2")])?;
    b.run(&["seed", VM, "--forget"])?;
    b.run(&["vm", "start", VM])?;
    let refused = code(b.run(&["seed", VM]));
    ensure!(refused.0 == 4 && refused.1.contains("running"), "it runs: {refused:?}");
    b.run(&["vm", "stop", VM, "--force"])?;
    b.run(&["seed", VM])?;
    ensure!(b.run(&["vm", "show", VM])?["mode"] == "replica", "a marked VM waits as a replica");
    let storage = b.storage().to_string_lossy().into_owned();
    b.run(&["authorize", "x.example", "--storage", &storage, "--trust-group", "others"])?;
    b.run(&["authorize", "x.example", "--vm", VM])?;
    ensure!(code(protect(a, &["--seed"])).1.contains("wrong-trust-group"), "it is for the host x.example");
    b.run(&["authorize", "a.example", "--vm", VM])?;

    scribble(&path, "44M", root)?;
    let differing = difference(&path, &copied, root)?;
    protect(a, &["--seed"])?;
    seeded(&stage, differing)?;
    ensure!(b.status(VM)?["power_state"] == "replica", "the copy's domain is still defined");

    // It is a replica like any other.
    a.run(&["failover", VM, "--planned"])?;
    b.run(&["reverse", VM])?;
    stage.check_newest(b, a)?;
    Ok(())
}

/// A small VM that is off, on host a: nothing in it has to run.
fn resting(pair: &Pair) -> Result<String> {
    let disk = pair.a.root.join("disk.qcow2");
    image(&disk, "qcow2", 200 << 20)?;
    let path = disk.to_string_lossy().into_owned();
    run("qemu-io", &["-c", "write -q -P 7 0 80M", &path])?;
    scribble(&path, "100M", pair.root.path())?;
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    let xml = pair.root.join("guest.xml");
    fs::write(&xml, domain_xml(&spec)?)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    Ok(path)
}

/// The newest point of the replica is what the disk of a VM that is off holds. Points come, go and are merged.
fn same(b: &Host, disk: &str, folder: &Path) -> Result<()> {
    let differing = || -> Result<u64> {
        let newest = b.points(VM)?.pop().context("no point")?;
        let image = b.point_images(VM, newest["point"].as_str().context("no id")?)?.remove(0);
        difference(disk, &image.to_string_lossy(), folder)
    };
    let mut last = None;
    let found = poll_for(BOUND, || matches!(last.insert(differing()), Ok(0)).then_some(()));
    found.with_context(|| format!("the newest point is not the disk: {last:?}"))
}

#[test]
fn a_first_copy_is_carried_over_in_files_and_followed_by_what_came_after() -> Result<()> {
    let mut pair = Pair::start(binary())?;
    let path = resting(&pair)?;
    let root = pair.root.path().to_owned();
    let (out, carried) = (root.join("out"), root.join("carried"));
    let (out, to) = (out.to_string_lossy().into_owned(), carried.to_string_lossy().into_owned());
    let refused = code(protect(&pair.a, &["--export", &out]));
    ensure!(refused.0 == 3 && refused.1.contains("no such folder"), "{refused:?}");
    fs::create_dir(&out)?;
    protect(&pair.a, &["--export", &out])?;
    let status = pair.a.wait_state(VM, 2, BOUND)?;
    ensure!(status["issues"].to_string().contains("exported"), "{status:#}");
    ensure!(pair.a.run(&["job", "list"])?.to_string().contains("\"kind_number\":118"), "no export");
    ensure!(code(pair.a.run(&["start", VM])).0 == 4, "it waits for the import");
    scribble(&path, "120M", &root)?;

    // A restart finds all of it; cancelled and begun anew, it is a copy of its own.
    pair.a.kill_daemon()?;
    pair.a.start()?;
    pair.a.run(&["start", VM, "--cancel"])?;
    pair.a.wait_state(VM, 1, BOUND)?;
    pair.a.run(&["start", VM, "--export", &out])?;
    pair.a.wait_state(VM, 2, BOUND)?;
    scribble(&path, "140M", &root)?;

    let (a, b) = (&pair.a, &pair.b);
    ensure!(code(b.run(&["import", VM, &to])).0 == 3, "nothing was carried over");
    ensure!(code(a.run(&["import", VM, &out])).0 == 5, "it is imported there");
    ensure!(code(b.run(&["failover", VM])).0 == 4, "there is no point");
    run("cp", &["-r", &out, &to])?;
    let own = fs::read_dir(&carried)?.next().context("no folder")??.path();
    ensure!(own.file_name().is_some_and(|name| name.to_string_lossy().starts_with("guest_")), "{own:?}");
    let frames = own.join("clusters.frames");
    let whole = fs::read(&frames)?;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&frames, &damaged)?;
    let refused = code(b.run(&["import", VM, &to]));
    ensure!(refused.0 == 17 && refused.1.contains("clusters.frames"), "{refused:?}");
    fs::write(&frames, &whole[..whole.len() - 100])?;
    let refused = code(b.run(&["import", VM, &to]));
    ensure!(refused.0 == 17, "cut off: {refused:?}");
    ensure!(b.points(VM)?.is_empty() && b.state(VM)? == 2, "a damaged copy is no point");
    fs::write(&frames, &whole)?;
    b.run(&["import", VM, &own.to_string_lossy()])?;
    b.wait_state(VM, 3, BOUND)?;
    a.wait_state(VM, 3, BOUND)?;
    ensure!(b.run(&["job", "list"])?.to_string().contains("\"kind_number\":95"), "no import");
    a.wait_cycles(VM, 1, BOUND)?;
    same(b, &path, &root)?;
    let sent = a.status(VM)?["sent_bytes"].as_u64().context("no figure")?;
    ensure!((2 << 20..5 << 20).contains(&sent), "{sent} bytes were sent; 2 MiB came after the export");
    ensure!(code(b.run(&["import", VM, &to])).0 == 4, "it was imported");
    b.run(&["verify", VM])?;
    Ok(())
}

/// While the host's daemon does not run: there is one libvirt to each root.
fn virsh(host: &Host, args: &[&str]) -> Result<String> {
    let uri = format!("qemu:///embed?root={}", host.root.join("libvirt").display());
    let output = Command::new("virsh").args(["-q", "-c", &uri]).args(args).output()?;
    ensure!(output.status.success(), "virsh {}: {output:?}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_raw_disk_is_added_to_raw_disks_and_none_is_left_out_alone() -> Result<()> {
    let mut pair = Pair::start(binary())?;
    let root = pair.root.path().to_owned();
    let [first, second] = ["first.raw", "second.raw"].map(|name| pair.a.root.join(name));
    image(&first, "raw", 96 << 20)?;
    image(&second, "raw", 16 << 20)?;
    let spec = GuestSpec::new(VM, &[(first.clone(), "raw")], &root.join("serial.log"));
    let xml = root.join("guest.xml");
    fs::write(&xml, domain_xml(&spec)?)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    protect(&pair.a, &[])?;
    pair.a.wait_cycles(VM, 2, BOUND)?;
    pair.a.kill_daemon()?;
    let disk = second.to_string_lossy().into_owned();
    virsh(&pair.a, &["attach-disk", VM, &disk, "vdb", "--subdriver", "raw", "--config"])?;
    pair.a.start()?;
    let (a, b) = (&pair.a, &pair.b);
    a.run(&["disks", VM, "vda,vdb"])?;
    a.wait_state(VM, 3, BOUND)?;
    a.wait_cycles(VM, 2, BOUND)?;
    let refused = code(a.run(&["disks", VM, "vda"]));
    ensure!(refused.1.contains("disk-tracking"), "{refused:?}");
    // Both start on what they have, whoever settles a turn in between.
    for _ in 0..2 {
        a.run(&["vm", "start", VM])?;
        a.wait_cycles(VM, 2, BOUND)?;
        a.run(&["vm", "stop", VM, "--force"])?;
        a.wait_cycles(VM, 2, BOUND)?;
    }
    a.run(&["suspend", VM, "--release"])?;
    b.wait_merged(VM, BOUND)?;
    for (disk, index) in [(first, 0), (second, 1)] {
        let newest = b.points(VM)?.pop().context("no point")?;
        let image = b.point_images(VM, newest["point"].as_str().context("no id")?)?.remove(index);
        let raw = fs::read(&disk)?;
        ensure!(raw == content(&image.to_string_lossy(), &root)?, "{} differs", disk.display());
    }
    Ok(())
}

/// The host that exported it never hears of the import, and its guest goes on writing: what it wrote is not known from any
/// state that both hosts had.
#[test]
fn a_host_that_never_heard_of_the_import_is_compared_whole_when_it_becomes_the_replica() -> Result<()> {
    let mut stage = Stage::new(&[96 << 20])?;
    let out = stage.pair.root.join("out");
    fs::create_dir(&out)?;
    let out = out.to_string_lossy().into_owned();
    protect(&stage.pair.a, &["--export", &out])?;
    stage.pair.a.wait_state(VM, 2, BOUND)?;
    stage.pair.a.kill_daemon()?;
    stage.wait_for_acks(200)?;
    stage.pair.a.kill_qemu(VM)?;
    stage.pair.b.run(&["import", VM, &out])?;
    stage.pair.b.run(&["failover", VM])?;
    stage.wait_for_acks(5)?;
    stage.pair.b.run(&["commit", VM])?;
    stage.pair.a.start()?;
    stage.pair.a.wait_state(VM, 8, BOUND)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    b.run(&["reverse", VM])?;
    b.wait_state(VM, 3, BOUND)?;
    stage.check_newest(b, a)?;
    Ok(())
}

#[test]
fn a_vm_that_is_renamed_is_called_so_on_both_hosts_and_keeps_its_metadata() -> Result<()> {
    const NEW: &str = "renamed";
    let mut pair = Pair::start(binary())?;
    resting(&pair)?;
    protect(&pair.a, &[])?;
    pair.a.wait_cycles(VM, 1, BOUND)?;
    // libvirt renames no VM that has checkpoints.
    pair.a.run(&["suspend", VM, "--release"])?;
    pair.a.kill_daemon()?;
    virsh(&pair.a, &["domrename", VM, NEW])?;
    let item = [
        "--config",
        "--uri",
        "http://example.org/kvp",
        "--key",
        "kvp",
        "--set",
        "<item name='rack'>7</item>",
    ];
    virsh(&pair.a, &[&["metadata", NEW], &item[..]].concat())?;
    pair.a.start()?;
    pair.a.run(&["resume", VM])?;
    for host in [&pair.a, &pair.b] {
        let status = host.wait_state(NEW, 3, BOUND)?;
        ensure!(status["name"] == NEW, "{status:#}");
    }
    pair.b.run(&["failover", NEW, "--no-start"])?;
    pair.b.kill_daemon()?;
    let xml = virsh(&pair.b, &["dumpxml", NEW])?;
    ensure!(xml.contains("name='rack'") || xml.contains("name=\"rack\""), "{xml}");
    Ok(())
}

#[test]
fn a_start_that_was_put_off_survives_a_restart_and_begins_at_its_time() -> Result<()> {
    let mut pair = Pair::start(binary())?;
    let path = resting(&pair)?;
    let root = pair.root.path().to_owned();
    for refused in ["2026-01-01T00:00:00Z", "+8d"] {
        let refused = code(protect(&pair.a, &["--at", refused]));
        ensure!(refused.0 == 2 && refused.1.contains("seven days"), "{refused:?}");
    }
    protect(&pair.a, &["--at", "+6d"])?;
    let status = pair.a.wait_state(VM, 1, BOUND)?;
    ensure!(status["issues"].to_string().contains("start replication at"), "{status:#}");
    pair.a.run(&["start", VM, "--cancel"])?;
    ensure!(!pair.a.status(VM)?["issues"].to_string().contains("start replication at"), "not cancelled");
    ensure!(code(pair.a.run(&["start", VM, "--cancel"])).0 == 4, "there is nothing to cancel");

    pair.a.run(&["start", VM, "--at", "+8s"])?;
    pair.a.kill_daemon()?;
    pair.a.start()?;
    let a = &pair.a;
    a.wait_state(VM, 3, BOUND)?;
    ensure!(a.run(&["job", "list"])?.to_string().contains("\"kind_number\":94"), "no job");
    same(&pair.b, &path, &root)?;

    a.run(&["resync", VM, "--at", "+1d"])?;
    a.run(&["resync", VM, "--cancel"])?;
    ensure!(a.state(VM)? == 3, "what was put off is cancelled, and nothing else");
    a.run(&["resync", VM, "--at", "+10s"])?;
    let compared = || {
        let jobs = a.run(&["job", "list"]).ok()?;
        let jobs = jobs.as_array()?.iter();
        let resync = jobs.clone().find(|job| job["kind_number"] == 107)?;
        (resync["state"] == "completed").then_some(())
    };
    poll_for(BOUND, compared).context("it does not begin")?;
    Ok(())
}

/// What a host has of a delta that is on its way.
fn partial_bytes(host: &Host) -> Result<u64> {
    let mut bytes = 0;
    for disk in fs::read_dir(host.storage())?.flatten().flat_map(|vm| fs::read_dir(vm.path())).flatten() {
        let files = fs::read_dir(disk?.path()).into_iter().flatten().flatten();
        let partial = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "partial"));
        bytes += partial.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>();
    }
    Ok(bytes)
}

#[test]
fn a_suspended_resynchronization_goes_on_where_it_stopped() -> Result<()> {
    const DIFFERING: u64 = 24 << 20;
    let mut pair = Pair::start(binary())?;
    let path = resting(&pair)?;
    let root = pair.root.path().to_owned();
    protect(&pair.a, &[])?;
    pair.a.wait_state(VM, 3, BOUND)?;
    pair.a.run(&["suspend", VM])?;
    pair.a.wait_state(VM, 7, BOUND)?;
    for at in (0..DIFFERING).step_by(2 << 20) {
        scribble(&path, &(at + (120 << 20)).to_string(), &root)?;
    }
    pair.a.run(&["configure", VM, "--bandwidth", "1MiB/s"])?;
    pair.a.run(&["resync", VM, "--no-wait"])?;
    pair.a.wait_state(VM, 10, BOUND)?;
    let on_its_way = || partial_bytes(&pair.b).ok().filter(|bytes| *bytes >= 8 << 20);
    poll_for(BOUND, on_its_way).context("nothing arrives")?;
    pair.a.run(&["suspend", VM])?;
    pair.a.wait_state(VM, 11, BOUND)?;

    pair.a.kill_daemon()?;
    pair.a.start()?;
    pair.a.run(&["configure", VM, "--no-bandwidth"])?;
    ensure!(pair.a.state(VM)? == 11, "it waits for the operator");
    let sent_bytes = |status: &serde_json::Value| status["sent_bytes"].as_u64().context("no figure");
    let before = sent_bytes(&pair.a.status(VM)?)?;
    pair.a.run(&["resume", VM])?;
    let sent = sent_bytes(&pair.a.wait_state(VM, 3, BOUND)?)? - before;
    ensure!((4 << 20..DIFFERING - (6 << 20)).contains(&sent), "{sent} bytes were sent after the resume");
    same(&pair.b, &path, &root)?;
    Ok(())
}

/// A disk's file of a point.
fn layer(host: &Host, target: &str, point: &str) -> Result<std::path::PathBuf> {
    let view = host.run(&["vm", "show", VM])?;
    let id = view["vm"].as_str().context("no UUID")?;
    let disk = host.disks(VM)?.into_iter().find(|(own, _)| own == target).context("no such disk")?.1;
    Ok(host.storage().join(id).join(disk).join(format!("{point}.qcow2")))
}

fn newest(host: &Host) -> Result<String> {
    let point = host.points(VM)?.pop().context("no point")?;
    Ok(point["point"].as_str().context("no id")?.to_owned())
}

fn virtual_size(image: &Path) -> Result<u64> {
    let output = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(image).output()?;
    let info: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    info["virtual-size"].as_u64().context("no size")
}

#[test]
fn disks_grow_come_and_go() -> Result<()> {
    let pair = Pair::start(binary())?;
    let path = resting(&pair)?;
    let (a, b, root) = (&pair.a, &pair.b, pair.root.path());
    a.run(&[
        "protect",
        VM,
        "--to",
        "b.example",
        "--interval",
        "1",
        "--history",
        "24",
        "--history-every",
        "1s",
    ])?;

    // A cut holds the file's lock; and however slow the machine, no point may go before it was looked at.
    let pause = || -> Result<()> {
        a.run(&["suspend", VM])?;
        a.wait_state(VM, 7, BOUND)?;
        b.wait_merged(VM, BOUND)
    };
    pause()?;
    // The oldest is kept whatever comes: of two that came within one second, only the first is.
    let small = b.points(VM)?[0]["point"].as_str().context("no id")?.to_owned();
    run("qemu-img", &["resize", "-q", &path, "208M"])?;
    scribble(&path, "204M", root)?;
    a.run(&["resume", VM])?;
    a.wait_cycles(VM, 2, BOUND)?;
    pause()?;
    same(b, &path, root)?;
    let grown = newest(b)?;
    let sizes = [&small, &grown].map(|point| layer(b, "vda", point).and_then(|image| virtual_size(&image)));
    ensure!(matches!(sizes, [Ok(old), Ok(new)] if (old, new) == (200 << 20, 208 << 20)), "{sizes:?}");
    ensure!(b.run(&["vm", "show", VM])?["disks"][0]["size_bytes"] == 208 << 20, "the new size is shown");
    a.run(&["resume", VM])?;

    let second = a.root.join("second.qcow2");
    image(&second, "qcow2", 16 << 20)?;
    let other = second.to_string_lossy().into_owned();
    scribble(&other, "4M", root)?;
    let disks = [(Path::new(&path).to_owned(), "qcow2"), (second, "qcow2")];
    let mut spec = GuestSpec::new(VM, &disks, &root.join("serial.log"));
    spec.uuid = a.run(&["vm", "show", VM])?["vm"].as_str().map(str::to_owned);
    let xml = root.join("two.xml");
    fs::write(&xml, domain_xml(&spec)?)?;
    a.run(&["vm", "define", &xml.to_string_lossy()])?;
    a.wait_cycles(VM, 1, BOUND)?;
    let refused = code(a.run(&["disks", VM, "vda,vdz"]));
    ensure!(refused.0 == 3 && refused.1.contains("vdz"), "{refused:?}");
    ensure!(code(b.run(&["disks", VM, "vda"])).0 == 5, "they are chosen on the primary");
    let before = a.status(VM)?["sent_bytes"].as_u64().context("no figure")?;
    a.run(&["disks", VM, "vda,vdb"])?;
    let sent = a.wait_state(VM, 3, BOUND)?["sent_bytes"].as_u64().context("no figure")? - before;
    ensure!((2 << 20..3 << 20).contains(&sent), "{sent} bytes were sent for 2 MiB on the added disk");
    ensure!(a.run(&["job", "list"])?.to_string().contains("\"kind_number\":125"), "no job");
    pause()?;
    let both = newest(b)?;
    let copy = layer(b, "vdb", &both)?.to_string_lossy().into_owned();
    ensure!(difference(&other, &copy, root)? == 0, "the added disk differs");
    ensure!(!layer(b, "vdb", &grown)?.exists(), "an older point has no such disk");
    a.run(&["resume", VM])?;
    // Running, both are tracked.
    a.run(&["vm", "start", VM])?;
    a.wait_cycles(VM, 3, BOUND)?;
    ensure!(a.status(VM)?["state_number"] == 3, "{:#}", a.status(VM)?);
    // The newest may merge with the next one as it is looked at.
    let is_there = || layer(b, "vdb", &newest(b).ok()?).ok()?.exists().then_some(());
    poll_for(BOUND, is_there).context("the added disk is not in later points")?;
    a.run(&["vm", "stop", VM, "--force"])?;
    a.wait_cycles(VM, 2, BOUND)?;

    // No more points than are asked for: none that has both disks may grow too old.
    a.run(&["configure", VM, "--interval", "12h"])?;
    a.run(&["disks", VM, "vda"])?;
    a.wait_state(VM, 3, BOUND)?;
    ensure!(!layer(b, "vdb", &newest(b)?)?.exists(), "a disk that was left out is in a later point");
    let targets =
        || -> Result<Vec<String>> { Ok(b.disks(VM)?.into_iter().map(|(target, _)| target).collect()) };
    b.run(&["failover", VM, "--no-start"])?;
    ensure!(targets()? == ["vda"], "{:?}", targets());
    b.run(&["revert", VM])?;
    b.wait_state(VM, 3, BOUND)?;
    let points = b.points(VM)?;
    let mut ids = points.iter().rev().filter_map(|point| point["point"].as_str());
    let has_both = |point: &&str| layer(b, "vdb", point).is_ok_and(|image| image.exists());
    let both = ids.find(has_both).context("no point with both disks is left")?;
    b.run(&["failover", VM, "--no-start", "--point", both])?;
    ensure!(targets()? == ["vda", "vdb"], "{:?}", targets());
    b.run(&["commit", VM])?;
    b.run(&["reverse", VM])?;
    b.wait_state(VM, 3, BOUND)?;
    b.run(&["configure", VM, "--interval", "1"])?;
    b.wait_cycles(VM, 1, BOUND)?;
    Ok(())
}
