//! Full disks, on small file systems of their own: a cycle that finds no room is put off, the operator is told
//! where there is how little, the guest notices nothing, and replication goes on by itself when there is room.

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use support::{BOUND, Stage, VM, binary, image};
use testkit::{
    GuestSpec, TempRoot,
    oracle::read_log,
    pair::{Host, Pair},
    poll_for,
};

/// The first wait after a failure is a minute.
const BY_ITSELF: Duration = Duration::from_secs(240);

/// A file system in memory, unmounted when dropped: after the hosts that use it, so it has to be made before.
struct SmallDisk {
    root: TempRoot,
}

impl SmallDisk {
    fn mount(size_mib: u32) -> Result<Self> {
        let root = TempRoot::new()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"])
            .arg(root.path())
            .status()?;
        ensure!(mounted.success(), "cannot mount a file system of {size_mib} MiB");
        Ok(Self { root })
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    /// Takes all room that there is.
    fn fill(&self) -> Result<()> {
        let mut file = fs::File::options().create(true).append(true).open(self.filler())?;
        let block = vec![1; 4096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, should a process of a failed test still have a file open there.
        let _ = Command::new("umount").arg("--lazy").arg(self.root.path()).status();
    }
}

/// A protected guest; the pair's hosts run already.
fn begin(pair: Pair) -> Result<Stage> {
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 64 << 20)?;
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    let stage = Stage::with(pair, &spec)?;
    stage.protect()?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    Ok(stage)
}

fn start(pair: &mut Pair) -> Result<()> {
    pair.a.start()?;
    pair.b.start()?;
    for (host, other) in [(&pair.a, "b.example"), (&pair.b, "a.example")] {
        host.run(&["authorize", other, "--storage", &host.storage().to_string_lossy()])?;
    }
    Ok(())
}

/// Waits until `relevo status` complains of this folder in these words.
fn wait_for_complaint(host: &Host, folder: &Path, words: &[&str]) -> Result<()> {
    let folder = folder.to_string_lossy();
    let mut said = String::new();
    let complains = poll_for(BOUND, || {
        let status = host.status(VM).ok()?;
        let messages = status["issues"].as_array()?.iter().filter_map(|issue| issue["message"].as_str());
        said = messages.collect::<Vec<_>>().join("; ");
        (said.contains(&*folder) && words.iter().all(|word| said.contains(word))).then_some(())
    });
    complains.with_context(|| format!("no word of {folder} with {words:?}; it says: {said}"))
}

/// Full, the guest goes on writing; with room again, so does replication, with and without being told.
fn fills_and_recovers(stage: &Stage, disk: &SmallDisk, folder: &Path, words: &[&str]) -> Result<()> {
    let (a, b) = (&stage.pair.a, &stage.pair.b);
    for told in [true, false] {
        disk.fill()?;
        wait_for_complaint(a, folder, words)?;
        let before = a.status(VM)?;
        stage.wait_for_acks(40)?;
        let status = a.status(VM)?;
        ensure!(status["cycles_succeeded"] == before["cycles_succeeded"], "a cycle found room: {status:#}");
        ensure!(status["power_state"] == "running" && status["state_number"] == 3, "{status:#}");
        let points = b.run(&["verify", VM]);
        ensure!(points.is_ok(), "points were damaged: {points:?}");
        disk.make_room()?;
        if told {
            a.run(&["resume", VM])?;
        }
        a.wait_cycles(VM, 2, BY_ITSELF)?;
        stage.check_newest(a, b)?;
        let error = read_log(&stage.serial)?.error;
        ensure!(error.is_none(), "the guest saw an error: {error:?}");
    }
    b.run(&["verify", VM])?;
    Ok(())
}

#[test]
fn a_full_spool_puts_cycles_off_and_never_fails_a_guests_write() -> Result<()> {
    let disk = SmallDisk::mount(32)?;
    let mut pair = Pair::prepare(binary())?;
    let config = pair.a.root.join("etc/relevo.toml");
    let folder = disk.root.path();
    let spool = format!("[spool]\nfolder = \"{}\"", folder.display());
    fs::write(&config, fs::read_to_string(&config)?.replace("[spool]", &spool))?;
    start(&mut pair)?;
    let stage = begin(pair)?;
    fills_and_recovers(&stage, &disk, folder, &["bytes", "free"])
}

#[test]
fn a_full_replica_disk_keeps_every_point_and_goes_on_when_there_is_room() -> Result<()> {
    let disk = SmallDisk::mount(96)?;
    let mut pair = Pair::prepare(binary())?;
    let storage = pair.b.storage();
    fs::remove_dir(&storage)?;
    symlink(disk.root.path(), &storage)?;
    start(&mut pair)?;
    let stage = begin(pair)?;
    fills_and_recovers(&stage, &disk, &storage, &["No space left"])
}

/// What overlays may hold in [`small_quota`], and the share of it at which they are taken back.
const QUOTA_MIB: u64 = 8;

fn small_quota(pair: &Pair, quota_mib: u64) -> Result<()> {
    let config = pair.a.root.join("etc/relevo.toml");
    let text = fs::read_to_string(&config)?;
    let text = text.lines().filter(|line| !line.starts_with("quota")).collect::<Vec<_>>().join("\n");
    fs::write(&config, text.replace("[spool]", &format!("[spool]\nquota = \"{quota_mib}MiB\"")))?;
    Ok(())
}

/// A guest that writes faster than its first copy comes along, on a disk of this format with content.
fn eager(format: &str) -> Result<Stage> {
    const AREA_MIB: usize = 16;
    let mut pair = Pair::prepare(binary())?;
    small_quota(&pair, QUOTA_MIB)?;
    start(&mut pair)?;
    let disk = pair.root.join("a/disk");
    let content = pair.root.join("content");
    let mut bytes = vec![0; 64 << 20];
    // The guest's writer has the beginning and the last cluster to itself.
    rand::fill(&mut bytes[AREA_MIB << 20..63 << 20]);
    fs::write(&content, bytes)?;
    let made = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", format])
        .args([&content, &disk])
        .status()?;
    ensure!(made.success(), "qemu-img convert failed");
    let mut spec = GuestSpec::new(VM, &[(disk, format)], &pair.root.join("serial.log"));
    spec.writer.area_mib = AREA_MIB as u64;
    spec.writer.bytes_per_op = 64 << 10;
    spec.writer.ops_per_s = 40.0;
    Stage::with(pair, &spec)
}

fn overlays(host: &Host) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(&host.root)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let ours = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("relevo-"));
    Ok(entries.into_iter().filter(ours).collect())
}

#[test]
fn a_first_copy_whose_overlay_outgrows_its_room_is_taken_back_and_the_guest_goes_on() -> Result<()> {
    let mut stage = eager("qcow2")?;
    let protect = ["protect", VM, "--to", "b.example", "--interval", "1", "--bandwidth", "1MiB/s"];
    let refused = stage.pair.a.run(&protect).err().context("the first copy came through")?;
    let said = refused.to_string();
    let folder = stage.pair.a.root.to_string_lossy().into_owned();
    ensure!(said.contains(&folder) && said.contains("overlays"), "it says: {said}");
    ensure!(overlays(&stage.pair.a)?.is_empty(), "overlays are left: {:?}", overlays(&stage.pair.a));
    let status = stage.pair.a.status(VM)?;
    ensure!(status["power_state"] == "running" && status["state_number"] == 1, "{status:#}");
    stage.wait_for_acks(40)?;

    small_quota(&stage.pair, 1024)?;
    stage.pair.a.kill_daemon()?;
    stage.pair.a.start()?;
    stage.pair.a.run(&["resync", VM])?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    ensure!(read_log(&stage.serial)?.error.is_none(), "the guest saw an error");
    Ok(())
}

#[test]
fn overlays_that_pile_up_while_the_peer_is_away_are_written_back_and_the_disks_compared_later() -> Result<()>
{
    let mut stage = eager("raw")?;
    // The first copy itself needs the room.
    small_quota(&stage.pair, 1024)?;
    stage.pair.a.kill_daemon()?;
    stage.pair.a.start()?;
    stage.protect()?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    small_quota(&stage.pair, QUOTA_MIB)?;
    stage.pair.b.kill_daemon()?;
    stage.pair.a.kill_daemon()?;
    stage.pair.a.start()?;
    poll_for(BOUND, || overlays(&stage.pair.a).ok()?.is_empty().then_some(()))
        .with_context(|| format!("overlays are left: {:?}", overlays(&stage.pair.a)))?;
    let mut status = Value::Null;
    poll_for(BOUND, || {
        status = stage.pair.a.status(VM).ok()?;
        status["issues"].to_string().contains("overlays in").then_some(())
    })
    .with_context(|| format!("not told of: {status:#}"))?;
    ensure!(status["power_state"] == "running", "{status:#}");
    stage.wait_for_acks(40)?;

    small_quota(&stage.pair, 1024)?;
    stage.pair.a.kill_daemon()?;
    stage.pair.a.start()?;
    stage.pair.b.start()?;
    stage.pair.a.wait_state(VM, 3, BY_ITSELF)?;
    stage.check_newest(&stage.pair.a, &stage.pair.b)?;
    ensure!(read_log(&stage.serial)?.error.is_none(), "the guest saw an error");
    Ok(())
}
