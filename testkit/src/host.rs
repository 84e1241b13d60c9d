//! The machine that the tests run on: waiting, ports, folders, processes.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs, io,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at. Short against a VM's life, long against a look.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A killed process is gone at once, unless its disk hangs.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Waits until `condition` holds; false when it did not within `bound`. The one place where tests sleep.
#[must_use]
pub fn poll(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    poll_for(bound, || condition().then_some(())).is_some()
}

/// Waits until `look` finds something; `None` when it did not within `bound`.
#[must_use]
pub fn poll_for<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + bound;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::sleep(POLL_EVERY.min(left));
    }
}

/// A TCP port on loopback that was free a moment ago: any that the kernel gives to nobody who does not name it.
pub fn free_port() -> io::Result<u16> {
    loop {
        let port = rand::random_range(10_000..30_000);
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

/// SIGKILL; a process that is gone already is fine.
pub fn kill_9(pid: u32) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Err(io::Error::other(format!("no process id: {pid}")));
    };
    match kill_process(pid, Signal::KILL) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// Whether a process runs; one that ended and was not waited for does not.
pub fn is_running(pid: u32) -> bool {
    // The state follows the command's name, which is in parentheses and may hold any byte.
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2));
    state.is_some_and(|state| !b"ZX".contains(state))
}

/// Copies a folder as `cp -a` does, holes kept.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    let output = Command::new("cp").args(["-a", "--sparse=auto", "-T"]).arg(from).arg(to).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(())
}

/// Bytes that a file or a folder with all that is in it occupies on disk: holes cost nothing.
pub fn used_bytes(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    let mut used_bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            used_bytes += self::used_bytes(&entry?.path())?;
        }
    }
    Ok(used_bytes)
}

/// A folder for one test or one host of it. Dropped, it kills the QEMU processes whose pidfile lies in
/// it, and goes, unless `RELEVO_KEEP` is set. Its path is short because paths of Unix sockets may have only 107 bytes.
#[derive(Debug)]
pub struct TempRoot {
    dir: tempfile::TempDir,
    kept: bool,
}

impl TempRoot {
    pub fn new() -> io::Result<Self> {
        Self::new_in(Path::new("/tmp"))
    }

    /// In a folder with a short path.
    pub fn new_in(folder: &Path) -> io::Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("rlv").rand_bytes(6).tempdir_in(folder)?;
        dir.disable_cleanup(std::env::var_os("RELEVO_KEEP").is_some());
        Ok(Self { dir, kept: false })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Leaves the folder and its processes to the caller.
    pub fn keep(mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.kept = true;
        self.path().to_owned()
    }

    /// Kills every QEMU that was started in this root and waits until it is gone.
    pub fn kill_guests(&self) {
        for pid in qemu_pids(self.path(), self.path()) {
            let _ = kill_9(pid);
            let gone = poll(GONE_WITHIN, || !is_running(pid));
            assert!(gone || thread::panicking(), "process {pid} outlives SIGKILL");
        }
    }
}

impl Drop for TempRoot {
    fn drop(&mut self) {
        if !self.kept {
            self.kill_guests();
        }
    }
}

/// Processes named by pidfiles below `dir` that are still QEMUs of `root`: a pid may have been given away.
fn qemu_pids(dir: &Path, root: &Path) -> Vec<u32> {
    let mut pids = vec![];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(qemu_pids(&path, root));
        } else if path.extension().is_some_and(|extension| extension == "pid") {
            let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            pids.extend(pid.filter(|pid| is_qemu_of(*pid, root)));
        }
    }
    pids
}

fn is_qemu_of(pid: u32, root: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let program = line.split('\0').next().unwrap_or("");
    program.contains("qemu") && line.contains(&*root.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn polling_finds_and_gives_up() {
        let mut looks = 0;
        assert!(poll(Duration::from_secs(10), || {
            looks += 1;
            looks == 3
        }));
        assert!(!poll(Duration::ZERO, || false));
    }

    #[test]
    fn a_dropped_root_kills_only_qemus_of_its_own() {
        let root = TempRoot::new().unwrap();
        let start = |program: &str, argument: &Path| {
            let mut command = Command::new(program);
            if program.starts_with("qemu") {
                command.args(["-S", "-display", "none", "-nodefaults", "-machine", "none", "-pidfile"]);
            } else {
                command.args(["-f"]);
            }
            command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        fs::create_dir(root.join("run")).unwrap();
        let pidfile = root.join("run/g.pid");
        let mut ours = start("qemu-system-x86_64", &pidfile);
        let other_file = root.join("other");
        fs::write(&other_file, "").unwrap();
        let mut other = start("tail", &other_file);
        fs::write(root.join("run/other.pid"), other.id().to_string()).unwrap();
        let bound = Duration::from_secs(60);
        assert!(poll(bound, || fs::read_to_string(&pidfile).is_ok_and(|pid| pid.ends_with('\n'))));
        let path = root.path().to_owned();
        drop(root);
        assert!(!path.exists());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ours.wait().unwrap()), Some(9));
        assert!(is_running(other.id()));
        kill_9(other.id()).unwrap();
        other.wait().unwrap();
        assert!(!is_running(other.id()));
    }

    #[test]
    fn holes_cost_nothing_and_copies_keep_them() {
        let root = TempRoot::new().unwrap();
        let from = root.join("from");
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::File::create(from.join("deep/sparse")).unwrap().set_len(1 << 30).unwrap();
        copy_dir(&from, &root.join("to")).unwrap();
        assert_eq!(fs::metadata(root.join("to/deep/sparse")).unwrap().len(), 1 << 30);
        assert!(used_bytes(&root.join("to")).unwrap() < 1 << 20);
        assert!(copy_dir(&root.join("absent"), &root.join("x")).is_err());
    }
}
