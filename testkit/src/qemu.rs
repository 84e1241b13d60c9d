//! A guest under QEMU alone, without libvirt: for tests of disks and of what a crash leaves on them.

use crate::{
    guest::{Assets, GuestSpec, NoGuest, assets},
    host::poll_for,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// Until QEMU listens, or has said why it does not.
const START_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error(transparent)]
    NoGuest(#[from] NoGuest),
    #[error("cannot start qemu-system-x86_64")]
    Start { source: io::Error },
    #[error("QEMU ended early: {said}")]
    Ended { said: String },
    #[error("QEMU does not listen on {path}")]
    Silent { path: PathBuf },
    #[error("cannot talk to {path}")]
    Talk { path: PathBuf, source: io::Error },
    #[error("QEMU refused {command}: {said}")]
    Refused { command: String, said: Value },
}

/// A running QEMU; dropped, it is killed.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    monitor: PathBuf,
    /// Socket of the guest agent's channel, if the guest has one.
    pub agent: PathBuf,
}

/// Starts the guest. Pidfile, sockets and QEMU's messages go to `dir`, which has a short path.
pub fn start(spec: &GuestSpec, dir: &Path) -> Result<Qemu, QemuError> {
    let Assets { kernel, initrd, .. } = assets()?;
    let place = |suffix: &str| dir.join(format!("{}.{suffix}", spec.name));
    let (monitor, agent, messages) = (place("qmp"), place("agent"), place("err"));
    let fail = |source| QemuError::Start { source };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.arg("-name").arg(&spec.name).arg("-m").arg(spec.memory_mib.to_string());
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).arg("-append").arg(spec.command_line());
    command.arg("-pidfile").arg(place("pid"));
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", comma(&monitor)));
    command.arg("-chardev").arg(format!("file,id=serial,path={},append=on", comma(&spec.serial)));
    command.args(["-serial", "chardev:serial"]);
    for disk in &spec.disks {
        let (path, format) = (comma(&disk.path), &disk.format);
        command.arg("-drive").arg(format!("if=virtio,file={path},format={format},discard=unmap"));
    }
    if spec.agent != crate::guest::Agent::None {
        command.args(["-device", "virtio-serial-pci", "-chardev"]);
        command.arg(format!("socket,id=agent,path={},server=on,wait=off", comma(&agent)));
        command.args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&messages).map_err(fail)?);
    let mut qemu = Qemu { child: command.spawn().map_err(fail)?, monitor, agent };
    let ended = poll_for(START_WITHIN, || match qemu.child.try_wait() {
        Ok(None) => UnixStream::connect(&qemu.monitor).is_ok().then_some(false),
        _ => Some(true),
    });
    match ended {
        Some(false) => Ok(qemu),
        Some(true) => Err(QemuError::Ended { said: fs::read_to_string(&messages).unwrap_or_default() }),
        None => Err(QemuError::Silent { path: qemu.monitor.clone() }),
    }
}

impl Qemu {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as a power cut of this VM. Returns once it is gone.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Presses the power button.
    pub fn power_down(&self) -> Result<(), QemuError> {
        self.execute("system_powerdown", &json!({})).map(drop)
    }

    /// Waits until QEMU has ended by itself; `None` when it did not within `bound`.
    pub fn ended(&mut self, bound: Duration) -> Option<io::Result<ExitStatus>> {
        poll_for(bound, || self.child.try_wait().transpose())
    }

    /// Executes a QMP command and returns what it returns.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value, QemuError> {
        let commands = [("qmp_capabilities", &json!({})), (command, arguments)];
        converse(&self.monitor, &commands)
    }

    /// Executes a command of the guest agent and returns what it returns.
    pub fn execute_in_guest(&self, command: &str) -> Result<Value, QemuError> {
        converse(&self.agent, &[(command, &json!({}))])
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends commands one by one and reads to the answer of each, past greetings and events; returns what the
/// last one returned.
fn converse(socket: &Path, commands: &[(&str, &Value)]) -> Result<Value, QemuError> {
    let fail = |source| QemuError::Talk { path: socket.to_owned(), source };
    let mut stream = UnixStream::connect(socket).map_err(fail)?;
    let mut lines = BufReader::new(stream.try_clone().map_err(fail)?).lines();
    let mut returned = Value::Null;
    for (command, arguments) in commands {
        let request = json!({ "execute": command, "arguments": arguments });
        stream.write_all(format!("{request}\n").as_bytes()).map_err(fail)?;
        returned = loop {
            let line = lines.next().unwrap_or(Err(io::ErrorKind::UnexpectedEof.into())).map_err(fail)?;
            let mut answer: Value = serde_json::from_str(&line).map_err(|error| fail(error.into()))?;
            if let Some(value) = answer.get_mut("return") {
                break value.take();
            }
            if answer.get("error").is_some() {
                return Err(QemuError::Refused { command: (*command).to_owned(), said: answer });
            }
        };
    }
    Ok(returned)
}

/// QEMU's options separate by commas and double those within a value.
fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
