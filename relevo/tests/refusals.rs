//! Bad input and wrong moments, against the real daemon: each refusal has an id, an exit code and a hint of
//! its own, names what is meant, and changes nothing on either host.

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    TempRoot, free_port, oracle,
    pair::{Host, Pair},
    poll_for,
};
use time::{Duration, OffsetDateTime};

/// The command is refused with this exit code and id; message and hint say these words.
fn refused(host: &Host, args: &[&str], code: i32, id: &str, message: &str, hint: &str) -> Result<()> {
    let failure = match host.run(args) {
        Ok(answer) => anyhow::bail!("relevo {} on {} is not refused: {answer}", args.join(" "), host.name),
        Err(failure) => failure,
    };
    ensure!(
        failure.code == code
            && failure.id == id
            && failure.message.contains(message)
            && failure.hint.contains(hint),
        "relevo {}: expected {code} `{id}` with `{message}`, hint `{hint}`; it is {failure:#?}",
        args.join(" ")
    );
    Ok(())
}

/// What a refusal must not change: VMs, relationships, points, authorizations, jobs, and files of replicas.
fn picture(pair: &Pair) -> Result<Value> {
    let one = |host: &Host| -> Result<Value> {
        let views = host.run(&["status"])?;
        let mut relationships = vec![];
        for view in views.as_array().context("status is a list")? {
            let keys =
                ["vm", "mode", "peer", "state_number", "generation", "may_run", "interval_s", "history"];
            let mut seen: Vec<Value> = keys.iter().map(|key| view[*key].clone()).collect();
            seen.push(view["points"].clone());
            relationships.push(Value::from(seen));
        }
        let mut files = vec![];
        list(&host.storage(), &mut files)?;
        files.sort();
        Ok(json!({
            "vms": host.run(&["vm", "list"])?,
            "relationships": relationships,
            "authorizations": host.run(&["authorize", "--list"])?,
            "files": files,
        }))
    };
    Ok(json!({ "a": one(&pair.a)?, "b": one(&pair.b)? }))
}

fn list(folder: &Path, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        }
        files.push(entry.path().display().to_string());
    }
    Ok(())
}

/// Runs `work` and demands that it left everything as it was.
fn unchanged(pair: &Pair, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = picture(pair)?;
    work()?;
    let after = picture(pair)?;
    ensure!(before == after, "a refused command changed something:\n{before:#}\n{after:#}");
    Ok(())
}

/// Defines a VM without an operating system, with this disk element.
fn define(host: &Host, root: &TempRoot, name: &str, uuid: &str, disks: &str) -> Result<()> {
    let text = format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
         <devices>{disks}<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    );
    let path = root.join(format!("{name}.xml"));
    fs::write(&path, text)?;
    host.run(&["vm", "define", &path.to_string_lossy()])?;
    Ok(())
}

fn file_disk(path: &Path, format: &str, more: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/>{more}</disk>",
        path.display()
    )
}

const PLAIN: &str = "1a7d1f4e-8f3c-4f0e-9a49-1f7a1b7c5a01";

#[test]
fn bad_input_is_named_and_changes_nothing() -> Result<()> {
    let pair = Pair::start(binary())?;
    let (a, root) = (&pair.a, &pair.root);
    let disk = root.join("a/plain.qcow2");
    image(&disk, "qcow2", 1 << 20)?;
    define(a, root, "plain", PLAIN, &file_disk(&disk, "qcow2", ""))?;
    let absent = root.join("absent").display().to_string();
    let file = root.join("file").display().to_string();
    fs::write(&file, "")?;
    let job = "00000000-0000-4000-8000-000000000000";
    unchanged(&pair, || {
        let to_b = |more: &[&'static str]| -> Vec<&str> {
            ["protect", "plain", "--to", "b.example"].into_iter().chain(more.iter().copied()).collect()
        };
        refused(a, &["protect", "plian", "--to", "b.example"], 3, "vm-unknown", "`plian`", "relevo vm list")?;
        for command in ["status", "points", "verify", "suspend", "resume", "resync", "failover", "unprotect"]
        {
            refused(a, &[command, "plian"], 3, "vm-unknown", "`plian`", "relevo vm list")?;
            refused(a, &[command, "plain"], 4, "not-protected", "`plain`", "relevo protect plain")?;
        }
        refused(a, &to_b(&["--disks", "vda,vdz"]), 3, "disk-unknown", "`vdz`", "vda")?;
        refused(a, &to_b(&["--interval", "0"]), 2, "usage", "1 to 43200 seconds", "--help")?;
        refused(a, &to_b(&["--interval", "13h"]), 2, "usage", "1 to 43200 seconds", "--help")?;
        refused(a, &to_b(&["--history", "25"]), 2, "usage", "0 to 24", "--help")?;
        refused(a, &to_b(&["--history-every", "0"]), 2, "usage", "'--history-every", "--help")?;
        refused(a, &to_b(&["--bandwidth", "0MiB/s"]), 2, "usage", "above zero", "--help")?;
        refused(a, &["protect", "plain", "--to", "a.example"], 2, "self", "a.example", "another host")?;
        refused(a, &["job", "show", job], 3, "job-unknown", job, "relevo job list")?;
        refused(a, &["job", "cancel", "ffff"], 3, "job-unknown", "ffff", "relevo job list")?;
        refused(a, &["vm", "start", "plian"], 3, "vm-unknown", "`plian`", "relevo vm list")?;
        for (storage, why) in [(absent.as_str(), "no such folder"), (file.as_str(), "no such folder")] {
            let args = ["authorize", "c.example", "--storage", storage];
            refused(a, &args, 3, "storage", why, "--storage")?;
            refused(a, &args, 3, "storage", storage, "make the folder")?;
        }
        // /proc takes no files, not even root's.
        let args = ["authorize", "c.example", "--storage", "/proc"];
        refused(a, &args, 3, "storage", "not writable", "another --storage")?;
        refused(a, &["authorize", "--remove", "c.example"], 3, "authorization-unknown", "c.example", "--list")
    })
}

#[test]
fn a_vm_that_cannot_be_captured_says_why() -> Result<()> {
    let pair = Pair::start(binary())?;
    let (a, root) = (&pair.a, &pair.root);
    let disk = root.join("a/disk.qcow2");
    image(&disk, "qcow2", 1 << 20)?;
    let sealed = root.join("a/sealed.qcow2");
    let secret = "secret,id=s,data=x";
    let made = Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "--object",
            secret,
            "-o",
            "encrypt.format=aes,encrypt.key-secret=s",
        ])
        .arg(&sealed)
        .arg("1M")
        .status()?;
    ensure!(made.success(), "qemu-img cannot make an encrypted image");
    let absent = root.join("a/absent.qcow2");
    let network = "<disk type='network' device='disk'><driver name='qemu' type='raw'/>\
                   <source protocol='nbd' name='x'><host name='127.0.0.1' port='1'/></source>\
                   <target dev='vda' bus='virtio'/></disk>";
    let cdrom = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>";
    let cases = [
        ("transient", file_disk(&disk, "qcow2", "<transient/>"), "disk-refused", "it is transient"),
        ("shareable", file_disk(&disk, "raw", "<shareable/>"), "disk-refused", "it is shareable"),
        ("network", network.to_owned(), "disk-refused", "it is a network disk"),
        ("encrypted", file_disk(&sealed, "qcow2", ""), "disk-refused", "encrypted"),
        ("absent", file_disk(&absent, "qcow2", ""), "disk-refused", "absent.qcow2"),
        ("diskless", String::new(), "no-disks", "no disk"),
        ("cdrom", cdrom.to_owned(), "no-disks", "no disk"),
    ];
    for (index, (name, disks, ..)) in cases.iter().enumerate() {
        define(a, root, name, &format!("1a7d1f4e-8f3c-4f0e-9a49-1f7a1b7c5b0{index}"), disks)?;
    }
    unchanged(&pair, || {
        for (name, _, id, why) in &cases {
            let hint = if *id == "disk-refused" { "--disks" } else { "" };
            refused(a, &["protect", name, "--to", "b.example"], 13, id, why, hint)?;
            let view = a.run(&["vm", "show", name])?;
            let said = format!("{}{}", view["disks"], view["obstacles"]);
            ensure!(*id != "disk-refused" || said.contains(why), "vm show does not say `{why}`: {view:#}");
        }
        Ok(())
    })
}

#[test]
fn a_peer_that_cannot_be_used_says_why() -> Result<()> {
    let mut pair = Pair::prepare(binary())?;
    let nobody = free_port()?;
    let b_port = pair.b.port;
    pair.a.configure(&pair.b, "")?;
    let config = pair.a.root.join("etc/relevo.toml");
    let more = format!(
        "\n[peers.\"silent.example\"]\naddress = \"127.0.0.1:{nobody}\"\n\n\
         [peers.\"other.example\"]\naddress = \"127.0.0.1:{b_port}\"\n"
    );
    fs::write(&config, fs::read_to_string(&config)? + &more)?;
    pair.a.start()?;
    pair.b.start()?;
    let disk = pair.root.join("a/plain.qcow2");
    image(&disk, "qcow2", 1 << 20)?;
    define(&pair.a, &pair.root, "plain", PLAIN, &file_disk(&disk, "qcow2", ""))?;
    let protect = |pair: &Pair, code, id: &str, message: &str, hint: &str, to: &str| {
        let args = ["protect", "plain", "--to", to];
        unchanged(pair, || refused(&pair.a, &args, code, id, message, hint))
    };
    protect(&pair, 7, "peer-name", "does not resolve", "[peers]", "nowhere.invalid")?;
    protect(&pair, 7, "peer-unreachable", "connection refused", "relevo serve", "silent.example")?;
    protect(&pair, 8, "peer-certificate", "b.example", "name in the certificate", "other.example")?;
    let hint = "relevo authorize a.example";
    protect(&pair, 8, "not-authorized", "a.example is not authorized", hint, "b.example")?;

    let storage = pair.b.storage().display().to_string();
    pair.b.run(&["authorize", "a.example", "--storage", &storage])?;
    define(&pair.b, &pair.root, "clash", PLAIN, "")?;
    protect(&pair, 6, "vm-exists", "clash", "", "b.example")?;
    pair.b.run(&["vm", "undefine", "clash"])?;

    // The folder that was authorized has gone since.
    fs::remove_dir(pair.b.storage())?;
    let args = ["protect", "plain", "--to", "b.example"];
    refused(&pair.a, &args, 3, "storage", &storage, "make the folder")?;
    fs::create_dir(pair.b.storage())?;

    let now = OffsetDateTime::now_utc();
    let bundle = |from: &Path, at: OffsetDateTime, path: &Path| -> Result<String> {
        transport::certs::write_bundle(path, &transport::certs::issue(from, &"b.example".parse()?, at)?)?;
        Ok(path.display().to_string())
    };
    // Connections that are open already go on: new certificates count from the next connection on.
    let certs = |host: &Host| host.root.join("etc/certs");
    let expired = bundle(&certs(&pair.a), now - Duration::days(1000), &pair.root.join("expired.bundle"))?;
    pair.b.run(&["cert", "install", &expired])?;
    pair.b.stop();
    pair.b.start()?;
    protect(&pair, 8, "peer-certificate", "has expired", "new certificate", "b.example")?;

    let stranger = pair.root.join("stranger");
    transport::certs::init_ca(&stranger, now)?;
    let foreign = bundle(&stranger, now, &pair.root.join("foreign.bundle"))?;
    let args = ["cert", "install", &foreign];
    refused(&pair.b, &args, 1, "certificate", "another authority", "")?;
    fs::remove_file(certs(&pair.b).join("ca.pem"))?;
    pair.b.run(&["cert", "install", &foreign])?;
    pair.b.stop();
    pair.b.start()?;
    protect(&pair, 8, "peer-certificate", "not trusted", "one authority", "b.example")
}

#[test]
fn commands_in_the_wrong_place_or_state_are_refused() -> Result<()> {
    let mut stage = Stage::new(&[64 << 20])?;
    stage.pair.a.run(&["protect", VM, "--to", "b.example", "--interval", "12h"])?;
    stage.pair.a.wait_state(VM, 3, BOUND)?;
    stage.pair.b.wait_state(VM, 3, BOUND)?;
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    // A cut follows the first copy at once; then nothing for twelve hours.
    let settled = || (a.status(VM).ok()?["cycles_succeeded"].as_u64()? >= 2).then_some(());
    poll_for(BOUND, settled).context("no cut follows the first copy")?;
    let points = b.points(VM)?;
    let point = points.last().and_then(|point| point["point"].as_str()).context("no point")?.to_owned();
    unchanged(&stage.pair, || {
        let protect = ["protect", VM, "--to", "b.example"];
        refused(a, &protect, 6, "already-protected", "b.example", "relevo unprotect guest")?;
        refused(b, &["protect", VM, "--to", "a.example"], 6, "already-protected", "replica", "")?;
        for command in ["points", "verify", "failover", "revert", "commit", "reverse"] {
            refused(a, &[command, VM], 5, "wrong-host", "b.example", "b.example")?;
        }
        refused(a, &["failover", VM, "--test"], 5, "wrong-host", "b.example", "on b.example")?;
        refused(a, &["unprotect", VM, "--delete-replica"], 5, "wrong-host", "b.example", "on b.example")?;
        for command in ["revert", "commit", "reverse", "failback"] {
            refused(b, &[command, VM], 4, "invalid-state", "replica", "relevo status guest")?;
        }
        refused(a, &["failback", VM], 4, "invalid-state", "may run here", "")?;
        refused(b, &["resync", VM], 4, "invalid-state", "replica", "relevo status guest")?;
        for command in ["start", "stop", "pause"] {
            refused(b, &["vm", command, VM], 5, "not-here", "replica", "a.example")?;
        }
        refused(a, &["vm", "undefine", VM], 4, "protected", VM, "relevo unprotect guest")?;
        refused(b, &["verify", VM, "--point", "zz"], 3, "point-unknown", "`zz`", "relevo points")?;
        refused(b, &["failover", VM, "--point", "zz"], 3, "point-unknown", "`zz`", "relevo points")?;
        refused(b, &["points", VM, "--drop", &point], 4, "latest", "latest point", "")?;
        refused(b, &["failover", VM, "--test", "--end"], 4, "no-test", "no test VM", "")
    })?;

    // Before the guest is shut down for it.
    const OTHER: &str = "1a7d1f4e-8f3c-4f0e-9a49-1f7a1b7c5a02";
    define(b, &stage.pair.root, VM, OTHER, "")?;
    unchanged(&stage.pair, || {
        for host in [a, b] {
            refused(host, &["failover", VM, "--planned"], 4, "name-taken", OTHER, "b.example")?;
        }
        Ok(())
    })?;
    b.run(&["vm", "undefine", OTHER])?;
    refused(a, &["failover", VM, "--cancel"], 4, "invalid-state", "replicating", "relevo status guest")?;

    stage.pair.a.kill_daemon()?;
    refused(&stage.pair.a, &["status"], 11, "daemon-not-running", "relevo serve", "relevo")?;
    stage.pair.a.kill_qemu(VM)?;
    let b = &stage.pair.b;
    b.run(&["failover", VM, "--no-start"])?;
    b.wait_state(VM, 5, BOUND)?;
    refused(b, &["reverse", VM], 4, "invalid-state", "committed before it is reversed", "")?;
    refused(b, &["failback", VM], 5, "wrong-host", "a.example", "a.example")?;
    refused(b, &["failover", VM], 4, "invalid-state", "replica", "relevo status guest")?;
    refused(b, &["unprotect", VM, "--delete-replica"], 4, "runs-here", "failed over", "commit or revert")?;
    ensure!(b.state(VM)? == 5, "a refusal changed the state");
    b.run(&["revert", VM])?;
    b.wait_state(VM, 3, BOUND)?;
    ensure!(oracle::check(&b.point_images(VM, &point)?).is_ok(), "the point changed");

    // Protected again after only one side was ended: the replica over there is another life's.
    stage.pair.a.start()?;
    stage.pair.a.run(&["unprotect", VM])?;
    let a = &stage.pair.a;
    let protect = ["protect", VM, "--to", "b.example"];
    let hint = "relevo unprotect guest --delete-replica";
    unchanged(&stage.pair, || refused(a, &protect, 6, "replica-exists", "b.example", hint))?;
    Ok(())
}

#[test]
fn serve_refuses_what_it_cannot_serve() -> Result<()> {
    let mut pair = Pair::prepare(binary())?;
    let serve = |host: &Host| -> Result<(i32, String)> {
        let child = Command::new(binary()).arg("--root").arg(&host.root).arg("serve").output()?;
        Ok((child.status.code().unwrap_or(-1), String::from_utf8_lossy(&child.stderr).into_owned()))
    };
    refused(&pair.a, &["status"], 11, "daemon-not-running", "control.sock", "serve")?;

    let config = pair.a.root.join("etc/relevo.toml");
    let good = fs::read_to_string(&config)?;
    for (bad, key) in [
        ("shutdown_timeout = 60", "shutdown_timeout"),
        ("bandwidth = \"12 parsecs\"", "12 parsecs"),
        ("autostart_after_s = \"soon\"", "soon"),
    ] {
        fs::write(&config, format!("# a comment\n\n{bad}\n{good}"))?;
        let (code, said) = serve(&pair.a)?;
        let expected = code == 12 && said.contains("line 3") && said.contains(key);
        ensure!(expected && said.contains(&*config.to_string_lossy()), "{bad}: {code}: {said}");
    }
    fs::write(&config, good.replace("a.example", "z.example"))?;
    let (code, said) = serve(&pair.a)?;
    ensure!(code == 12 && said.contains("z.example") && said.contains("a.example"), "{code}: {said}");
    fs::write(&config, &good)?;

    pair.a.start()?;
    let (code, said) = serve(&pair.a)?;
    ensure!(code == 15, "a second daemon on the same root: {code}: {said}");
    pair.a.run(&["host"])?;
    Ok(())
}
