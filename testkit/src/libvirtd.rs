//! A libvirtd of its own, as a host has in production. It lives in a mount namespace, where its folders stand in the
//! places of the system's, so that neither disturbs the other; several can run beside each other.

use crate::{host::kill_9, poll};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const UP_WITHIN: Duration = Duration::from_secs(60);

/// Puts the folders in place, then becomes libvirtd. Where root may use KVM and QEMU's user may not, libvirt would ask QEMU
/// for its capabilities again at every start of a VM.
const SCRIPT: &str = r#"
for pair in etc/libvirt:etc run/libvirt:run var/lib/libvirt:lib var/log/libvirt:log var/cache/libvirt:cache; do
    mkdir -p "/${pair%%:*}" "$1/${pair##*:}"
    mount --bind "$1/${pair##*:}" "/${pair%%:*}" || exit 1
done
: >"$1/no-kvm"
[ ! -e /dev/kvm ] || mount --bind "$1/no-kvm" /dev/kvm || exit 1
exec /usr/sbin/libvirtd -f "$1/etc/libvirtd.conf" -p "$1/libvirtd.pid"
"#;

/// QEMU lives on when libvirtd dies: there is no log daemon to lose, and no control group to be killed in.
const QEMU: &str = "stdio_handler = \"file\"\nsecurity_driver = \"none\"\nremember_owner = 0\n\
                    cgroup_controllers = []\nnamespaces = []\n";

/// Whom Debian's libvirt has QEMU run as.
pub const QEMU_USER: &str = "libvirt-qemu";

#[derive(Debug)]
pub struct Libvirtd {
    folder: PathBuf,
    process: Option<Child>,
}

impl Libvirtd {
    /// Starts one whose files lie in `folder`; its VMs' pid files are in `run/qemu` there. QEMU runs as `user`, to whom
    /// libvirt gives the files that it is to open.
    pub fn start(folder: &Path, user: &str) -> Result<Self> {
        fs::create_dir_all(folder.join("etc"))?;
        let settings = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nhost_uuid = \"{}\"\n",
            folder.join("sock").display(),
            fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim()
        );
        fs::create_dir_all(folder.join("sock"))?;
        fs::write(folder.join("etc/libvirtd.conf"), settings)?;
        let user = format!("user = \"{user}\"\ngroup = \"{user}\"\n");
        fs::write(folder.join("etc/qemu.conf"), [QEMU, &user].concat())?;
        let mut libvirtd = Self { folder: folder.to_owned(), process: None };
        libvirtd.resume()?;
        Ok(libvirtd)
    }

    /// What clients open.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.folder.join("sock/libvirt-sock").display())
    }

    /// SIGKILL to it. Its VMs live on.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        kill_9(process.id())?;
        process.wait()?;
        Ok(())
    }

    /// Starts it after [`Self::kill`], and waits until it answers.
    pub fn resume(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("libvirtd.log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "libvirtd"]);
        command.arg(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("unshare")?);
        let up = poll(UP_WITHIN, || self.virsh(&["uri"]).is_ok());
        let log = self.folder.join("libvirtd.log");
        ensure!(up, "libvirtd does not answer:\n{}", fs::read_to_string(log).unwrap_or_default());
        Ok(())
    }

    /// What `virsh` says, told to do this.
    pub fn virsh(&self, args: &[&str]) -> Result<String> {
        let output = Command::new("virsh").args(["-q", "-c", &self.uri()]).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "virsh {}: {said}", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        if self.process.is_some() {
            let _ = self.kill();
        }
    }
}
