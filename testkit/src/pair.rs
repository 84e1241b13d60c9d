//! Two hosts on this machine: two `relevo serve --root`, each with a libvirt of its own, certificates of one
//! authority, the replication link on loopback. Driven from outside, as an operator would, through the
//! command line.

use crate::{
    TempRoot, free_port,
    kdc::Kdc,
    kill_9,
    libvirtd::{Libvirtd, QEMU_USER},
    oracle, poll_for,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How often the chain of a point is opened that is being merged below.
const OPENINGS_MAX: u32 = 10;
/// Generous: a daemon starts within a second or two on an idle machine.
const START_MAX: Duration = Duration::from_secs(60);

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Its DNS name: `a.example`.
    pub name: String,
    pub root: PathBuf,
    pub port: u16,
    /// Where it listens under Kerberos, if it does.
    pub kerberos_port: Option<u16>,
    /// What the daemon finds in its environment beside the usual.
    pub environment: Vec<(String, PathBuf)>,
    /// How many disks of a VM the writer writes to, and the oracle judges; the others come after these.
    pub written_disks: usize,
    /// Where its libvirt is a process of its own, and not a part of the daemon.
    pub libvirtd: Option<Libvirtd>,
    binary: PathBuf,
    daemon: Option<Child>,
}

/// A failed command: its exit code, and what it said.
#[derive(Debug, thiserror::Error)]
#[error("relevo {command}: exit code {code}: {message}")]
pub struct Refused {
    pub command: String,
    pub code: i32,
    pub id: String,
    pub message: String,
    pub hint: String,
}

/// Hosts `a.example` and `b.example`, authorized for each other, and if it is wanted `x.example`, authorized for both.
/// Removed with everything on them when dropped.
#[derive(Debug)]
pub struct Pair {
    pub a: Host,
    pub b: Host,
    /// See [`Pair::add_third`].
    pub x: Option<Host>,
    pub root: TempRoot,
}

impl Pair {
    /// Makes and starts both hosts. `binary`: the `relevo` to run.
    pub fn start(binary: &Path) -> Result<Self> {
        Self::start_at(TempRoot::new()?, binary)
    }

    /// As [`Self::start`], with a libvirtd of its own on each host, whose QEMUs are not root's.
    pub fn start_as_in_production(binary: &Path) -> Result<Self> {
        let mut pair = Self::prepare(binary)?;
        fs::set_permissions(pair.root.path(), fs::Permissions::from_mode(0o755))?;
        pair.a.libvirtd = Some(Libvirtd::start(&pair.a.root.join("libvirt"), QEMU_USER)?);
        pair.b.libvirtd = Some(Libvirtd::start(&pair.b.root.join("libvirt"), QEMU_USER)?);
        pair.a.configure(&pair.b, "")?;
        pair.b.configure(&pair.a, "")?;
        pair.begin()?;
        Ok(pair)
    }

    /// As [`Self::start`], with everything below `folder`.
    pub fn start_in(binary: &Path, folder: &Path) -> Result<Self> {
        Self::start_at(TempRoot::new_in(folder)?, binary)
    }

    fn start_at(root: TempRoot, binary: &Path) -> Result<Self> {
        let mut pair = Self::prepare_at(root, binary)?;
        pair.begin()?;
        Ok(pair)
    }

    /// Makes both hosts with their certificates and configurations; neither runs.
    pub fn prepare(binary: &Path) -> Result<Self> {
        Self::prepare_at(TempRoot::new()?, binary)
    }

    fn prepare_at(root: TempRoot, binary: &Path) -> Result<Self> {
        let (a, b) = (Host::make(&root, "a", binary)?, Host::make(&root, "b", binary)?);
        for (host, other) in [(&a, &b), (&b, &a)] {
            host.configure(other, "")?;
        }
        a.run(&["cert", "init"])?;
        for host in [&a, &b] {
            host.certify(&a, &root)?;
        }
        Ok(Self { a, b, x: None, root })
    }

    /// Adds and starts a third host, which all hosts know and let in; the others start anew to hear of it.
    pub fn add_third(&mut self) -> Result<()> {
        let binary = self.a.binary.clone();
        let mut x = Host::make(&self.root, "x", &binary)?;
        x.written_disks = self.a.written_disks;
        x.certify(&self.a, &self.root)?;
        if self.a.libvirtd.is_some() {
            x.libvirtd = Some(Libvirtd::start(&x.root.join("libvirt"), QEMU_USER)?);
        }
        let address =
            |host: &Host| format!("[peers.\"{}\"]\naddress = \"127.0.0.1:{}\"\n", host.name, host.port);
        x.configure(&self.a, "")?;
        x.append(&address(&self.b))?;
        x.start()?;
        for host in [&mut self.a, &mut self.b] {
            host.append(&address(&x))?;
            if host.daemon.is_some() {
                host.stop();
                host.start()?;
            }
        }
        for (host, other) in [(&x, &self.a), (&x, &self.b), (&self.a, &x), (&self.b, &x)] {
            host.run(&["authorize", &other.name, "--storage", &host.storage().to_string_lossy()])?;
        }
        self.x = Some(x);
        Ok(())
    }

    /// The third host; to be asked for only after it was added.
    pub fn third(&self) -> &Host {
        self.x.as_ref().expect("a third host was added")
    }

    /// Gives both hosts principals of this realm; before they are started.
    pub fn join(&mut self, kdc: &Kdc) -> Result<()> {
        for host in [&mut self.a, &mut self.b] {
            kdc.keytab(&format!("{}.keytab", host.name), &[&format!("relevo/{}", host.name)])?;
            host.kerberos_port = Some(free_port()?);
            host.environment.push(("KRB5_CONFIG".to_owned(), kdc.configuration()));
        }
        for (host, other) in [(&self.a, &self.b), (&self.b, &self.a)] {
            host.configure(other, "")?;
            let keytab = kdc.folder().join(format!("{}.keytab", host.name));
            let port = host.kerberos_port.unwrap_or_default();
            let mut file = fs::File::options().append(true).open(host.root.join("etc/relevo.toml"))?;
            write!(file, "\n[kerberos]\nkeytab = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n", keytab.display())?;
        }
        Ok(())
    }

    /// Starts both hosts and authorizes them for each other.
    pub fn begin(&mut self) -> Result<()> {
        self.a.start()?;
        self.b.start()?;
        for (host, other) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let storage = host.storage();
            host.run(&["authorize", &other.name, "--storage", &storage.to_string_lossy()])?;
        }
        Ok(())
    }

    /// Leaves both hosts running with all that is on them: their folder and the daemons' process ids.
    pub fn keep(self) -> (PathBuf, String) {
        let hosts = [&self.a, &self.b].into_iter().chain(&self.x);
        let pids: Vec<_> = hosts.map(|host| host.daemon.as_ref().map_or(0, Child::id).to_string()).collect();
        let root = self.root.path().to_owned();
        std::mem::forget(self);
        (root, pids.join(" "))
    }

    pub fn host(&self, name: &str) -> &Host {
        let hosts = [&self.a, &self.b].into_iter().chain(&self.x);
        hosts.into_iter().find(|host| host.name == name).unwrap_or(&self.b)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.a.stop();
        self.b.stop();
        self.x.iter_mut().for_each(Host::stop);
        self.root.kill_guests();
    }
}

impl Host {
    fn make(root: &TempRoot, letter: &str, binary: &Path) -> Result<Self> {
        let host = Self {
            name: format!("{letter}.example"),
            root: root.join(letter),
            port: free_port()?,
            binary: binary.to_owned(),
            kerberos_port: None,
            environment: vec![],
            written_disks: usize::MAX,
            libvirtd: None,
            daemon: None,
        };
        fs::create_dir_all(host.storage())?;
        fs::create_dir_all(host.root.join("etc"))?;
        Ok(host)
    }

    /// Has `authority` issue this host's certificate, and installs it.
    fn certify(&self, authority: &Self, root: &TempRoot) -> Result<()> {
        let bundle = root.join(format!("{}.bundle", self.name));
        let bundle = bundle.to_string_lossy();
        authority.run(&["cert", "issue", &self.name, "--out", &bundle])?;
        self.run(&["cert", "install", &bundle])?;
        Ok(())
    }

    /// Adds to the end of the configuration.
    fn append(&self, text: &str) -> Result<()> {
        use std::io::Write;
        let path = self.root.join("etc/relevo.toml");
        fs::File::options().append(true).open(path)?.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Where replicas that come here are stored.
    pub fn storage(&self) -> PathBuf {
        self.root.join("replicas")
    }

    pub fn log_path(&self) -> PathBuf {
        self.root.join("serve.log")
    }

    /// Writes the configuration; `more` is appended to its top level.
    pub fn configure(&self, other: &Host, more: &str) -> Result<()> {
        let uri = self.libvirtd.as_ref().map(|libvirtd| format!("libvirt = \"{}\"\n", libvirtd.uri()));
        let more = [more, &uri.unwrap_or_default()].concat();
        let text = format!(
            "host_name = \"{}\"\nreplication = \"127.0.0.1:{}\"\nshutdown_timeout_s = 60\n{more}\n\
             [spool]\nkeep_free = \"1MiB\"\n\n[peers.\"{}\"]\naddress = \"127.0.0.1:{}\"\n{}",
            self.name,
            self.port,
            other.name,
            other.port,
            self.of_peer(other)
        );
        fs::write(self.root.join("etc/relevo.toml"), text)?;
        Ok(())
    }

    fn of_peer(&self, other: &Host) -> String {
        let address = |port| format!("kerberos_address = \"127.0.0.1:{port}\"\n");
        other.kerberos_port.map(address).unwrap_or_default()
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_up()
    }

    /// Starts the daemon.
    pub fn spawn(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        let child = Command::new(&self.binary)
            .arg("--root")
            .arg(&self.root)
            .arg("serve")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("RUST_LOG", "info,service=debug,hypervisor=debug")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.daemon = Some(child);
        Ok(())
    }

    /// Waits until a daemon that was started answers.
    pub fn wait_up(&mut self) -> Result<()> {
        let up = poll_for(START_MAX, || {
            let dead = self.daemon.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if dead.is_some() {
                return Some(false);
            }
            self.run(&["host"]).is_ok().then_some(true)
        });
        if up == Some(true) {
            return Ok(());
        }
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        bail!("{} did not come up:\n{}", self.name, tail(&log))
    }

    /// The end of the log of a daemon that was started, not stopped, and runs no more.
    fn last_words_of_dead(&self) -> String {
        if self.daemon_pid().is_none_or(crate::host::is_running) {
            return String::new();
        }
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        format!("\nthe daemon of {} died; it said last:\n{}", self.name, tail(&log))
    }

    /// Stops the daemon in good order; its guests live on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.daemon.take() else { return };
        let asked = Command::new("kill").arg(child.id().to_string()).status();
        let ended = asked.is_ok() && poll_for(START_MAX, || child.try_wait().ok().flatten()).is_some();
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|child| child.try_wait().ok().flatten().is_none())
    }

    /// SIGKILL to the daemon.
    pub fn kill_daemon(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("the daemon does not run")?;
        kill_9(child.id())?;
        child.wait()?;
        Ok(())
    }

    /// The daemon's process.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// The QEMU process of a VM of this host.
    pub fn qemu_pid(&self, vm: &str) -> Option<u32> {
        let path = self.root.join(format!("libvirt/run/qemu/{vm}.pid"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// SIGKILL to the VM's QEMU.
    pub fn kill_qemu(&self, vm: &str) -> Result<()> {
        let pid = self.qemu_pid(vm).with_context(|| format!("{vm} does not run on {}", self.name))?;
        kill_9(pid)?;
        poll_for(START_MAX, || (!crate::host::is_running(pid)).then_some(())).context("QEMU does not die")
    }

    /// Runs `relevo --root ROOT --json --yes ARGS` and gives what it answers.
    pub fn run(&self, args: &[&str]) -> Result<Value, Refused> {
        self.command(&["--json", "--yes"], args)
    }

    /// Runs the command with these global options.
    pub fn command(&self, options: &[&str], args: &[&str]) -> Result<Value, Refused> {
        let command = args.join(" ");
        let failed = |code: i32, message: String| Refused {
            command: command.clone(),
            code,
            id: String::new(),
            message,
            hint: String::new(),
        };
        let output = Command::new(&self.binary)
            .arg("--root")
            .arg(&self.root)
            .args(options)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(-1, error.to_string()))?;
        let code = output.status.code().unwrap_or(-1);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        let value: Value =
            serde_json::from_str(&text).map_err(|_| failed(code, format!("{text}{}", said())))?;
        if code == 0 {
            return Ok(value);
        }
        let failure = if value["error"].is_object() { &value["error"] } else { &value["failure"] };
        let word = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
        let message = word("message") + &self.last_words_of_dead();
        Err(Refused { command, code, id: word("id"), message, hint: word("hint") })
    }

    /// Runs `relevo --root ROOT ARGS` with this on its standard input.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.root).args(args).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
        ensure!(child.wait()?.success(), "relevo {} failed", args.join(" "));
        Ok(())
    }

    /// The relationship of a VM, as `relevo status` shows it.
    pub fn status(&self, vm: &str) -> Result<Value> {
        let views = self.run(&["status", vm])?;
        views.get(0).cloned().context("no relationship")
    }

    /// The relationship that forwards a VM's replica to a third host.
    pub fn extended(&self, vm: &str) -> Result<Value> {
        let views = self.run(&["status", vm])?;
        views.get(1).cloned().context("no extended relationship")
    }

    /// Waits until a look at the extended relationship finds what is wanted.
    pub fn wait_extended(&self, vm: &str, bound: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let reached = poll_for(bound, || {
            last = self.extended(vm).ok()?;
            wanted(&last).then(|| last.clone())
        });
        reached.with_context(|| format!("{}'s extended relationship is not as wanted: {last:#}", self.name))
    }

    pub fn state(&self, vm: &str) -> Result<u64> {
        self.status(vm)?["state_number"].as_u64().context("no state number")
    }

    /// Visible points, oldest first.
    pub fn points(&self, vm: &str) -> Result<Vec<Value>> {
        let points = self.run(&["points", vm])?;
        Ok(points.as_array().cloned().unwrap_or_default())
    }

    /// The id of a point before the latest that is kept as history: it stays for a while as cycles go on.
    pub fn earlier_point(&self, vm: &str) -> Result<String> {
        let points = self.points(vm)?;
        let stays = |point: &&Value| point["kept_for"].as_array().is_some_and(|kept| !kept.is_empty());
        let earlier = points.iter().rev().skip(1).find(stays).and_then(|point| point["point"].as_str());
        Ok(earlier.context("no earlier point")?.to_owned())
    }

    /// Waits until nothing is received or merged here; as long as the other host sends nothing, that stays so.
    pub fn wait_merged(&self, vm: &str, bound: Duration) -> Result<()> {
        let works = ["a delta is being received", "points are being merged"];
        let rests = || {
            let why = self.status(vm).ok()?["no_backup"].clone();
            (!works.iter().any(|work| why == *work)).then_some(())
        };
        poll_for(bound, rests).context("points are still being merged")
    }

    /// Waits until the relationship is in this state.
    pub fn wait_state(&self, vm: &str, state: u64, bound: Duration) -> Result<Value> {
        let mut last = Value::Null;
        let reached = poll_for(bound, || {
            last = self.status(vm).ok()?;
            (last["state_number"].as_u64() == Some(state)).then(|| last.clone())
        });
        reached
            .with_context(|| format!("{} does not reach state {state} for {vm}; it is: {last:#}", self.name))
    }

    /// Waits until `n` more cycles than now have succeeded.
    pub fn wait_cycles(&self, vm: &str, n: u64, bound: Duration) -> Result<Value> {
        let from = self.status(vm)?["cycles_succeeded"].as_u64().unwrap_or(0);
        let mut last = Value::Null;
        let reached = poll_for(bound, || {
            last = self.status(vm).ok()?;
            (last["cycles_succeeded"].as_u64()? >= from + n).then(|| last.clone())
        });
        reached.with_context(|| format!("{n} cycles of {vm} on {} do not come; it is: {last:#}", self.name))
    }

    /// The disks' ids in the order of the targets.
    pub fn disks(&self, vm: &str) -> Result<Vec<(String, String)>> {
        let view = self.run(&["vm", "show", vm])?;
        let mut disks: Vec<_> = view["disks"]
            .as_array()
            .context("no disks")?
            .iter()
            .filter_map(|disk| Some((disk["target"].as_str()?.to_owned(), disk["disk"].as_str()?.to_owned())))
            .collect();
        disks.sort();
        Ok(disks)
    }

    /// The topmost files of a point, in the order of the disks' targets.
    pub fn point_images(&self, vm: &str, point: &str) -> Result<Vec<PathBuf>> {
        let view = self.run(&["vm", "show", vm])?;
        let id = view["vm"].as_str().context("no UUID")?;
        let image =
            |(_, disk): (String, String)| self.storage().join(id).join(disk).join(format!("{point}.qcow2"));
        let images: Vec<_> = self.disks(vm)?.into_iter().map(image).collect();
        for image in &images {
            ensure!(image.exists(), "{} does not exist", image.display());
        }
        Ok(images)
    }

    /// Checks the points of this host's replica with the oracle: how many, and the newest one's verdict. Points
    /// merge away while they are looked at; those are passed over, and the newest is looked for again.
    pub fn check_points(&self, vm: &str) -> Result<(usize, oracle::Verdict)> {
        let newest = poll_for(START_MAX, || self.check_newest(vm).transpose()).transpose()?;
        let newest = newest.context("no point could be checked")?;
        let mut checked = 1;
        for point in self.points(vm)?.iter().rev().skip(1) {
            let id = point["point"].as_str().context("a point has an id")?;
            checked += usize::from(self.check_point(vm, id)?.is_some());
        }
        Ok((checked, newest))
    }

    fn check_newest(&self, vm: &str) -> Result<Option<oracle::Verdict>> {
        let points = self.points(vm)?;
        let Some(id) = points.last().and_then(|point| point["point"].as_str()) else { return Ok(None) };
        self.check_point(vm, id)
    }

    /// `None`: it has no layers of its own (adopted in place), or merged away meanwhile.
    fn check_point(&self, vm: &str, id: &str) -> Result<Option<oracle::Verdict>> {
        let Ok(mut images) = self.point_images(vm, id) else { return Ok(None) };
        images.truncate(self.written_disks);
        // A layer below may be merged away between two steps of opening the chain by its names.
        let mut tries = OPENINGS_MAX;
        loop {
            tries -= 1;
            match oracle::check(&images) {
                Ok(verdict) => return Ok(Some(verdict)),
                Err(violation) => {
                    let still_there = self.points(vm)?.iter().any(|point| point["point"] == id);
                    let unreadable = matches!(violation, oracle::Violation::Unreadable(_));
                    if !still_there {
                        return Ok(None);
                    }
                    if !unreadable || tries == 0 {
                        return Err(violation).with_context(|| format!("point {id}"));
                    }
                }
            }
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
