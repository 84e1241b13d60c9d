//! Full disks, on small file systems of their own: a cycle that finds no room is put off, the operator is told
//! where there is how little, the guest notices nothing, and replication goes on by itself when there is room.

mod support;

use anyhow::{Context, Result, ensure};
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
