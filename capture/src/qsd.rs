//! `qemu-storage-daemon` for images of a VM that is off: started for one cut, spoken to in QMP over its
//! standard streams, ended with it. It takes QEMU's locks, so the VM cannot start in the middle.
//!
//! It is never killed while it can still answer: that would leave every bitmap of the images inconsistent.
//! One that outlived us, holding its images, is found by its pid file.

use crate::error::{CaptureError, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const TOOL: &str = "qemu-storage-daemon";
/// Closing images flushes them: seconds on a slow disk.
const END_BOUND: Duration = Duration::from_secs(60);
const END_PAUSE: Duration = Duration::from_millis(10);

pub struct StorageDaemon {
    child: Child,
    /// Closed by `quit`.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Events that came while an answer was awaited.
    events: Vec<Value>,
}

impl StorageDaemon {
    /// Starts it with these `--blockdev` nodes.
    pub fn start(nodes: &[Value], pid_file: &Path) -> Result<Self> {
        end_orphan(pid_file)?;
        let mut command = Command::new(TOOL);
        command.arg("--pidfile").arg(pid_file);
        command.args(["--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"]);
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| CaptureError::ToolStart { tool: TOOL.into(), source })?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut daemon = Self { child, stdin, stdout, events: vec![] };
        daemon.line()?;
        daemon.call("qmp_capabilities", &json!({}))?;
        Ok(daemon)
    }

    /// One QMP command and what it returns.
    pub fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        let stdin = self.stdin.as_mut().expect("open until quit");
        if let Err(error) = stdin.write_all(request.as_bytes()).and_then(|()| stdin.flush()) {
            return Err(self.failed(&format!("{command}: {error}")));
        }
        loop {
            let mut message = self.line()?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                let why = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(CaptureError::Tool { tool: format!("{TOOL} {command}"), stderr: why });
            }
            self.events.push(message);
        }
    }

    /// Waits until a block job has ended, and for its success.
    pub fn wait_job(&mut self, job: &str) -> Result<()> {
        loop {
            let ended =
                |event: &Value| event["event"] == "BLOCK_JOB_COMPLETED" && event["data"]["device"] == job;
            if let Some(at) = self.events.iter().position(ended) {
                let event = self.events.remove(at);
                return match event["data"]["error"].as_str() {
                    None => Ok(()),
                    Some(why) => Err(CaptureError::Tool {
                        tool: format!("{TOOL} blockdev-backup"),
                        stderr: why.into(),
                    }),
                };
            }
            let message = self.line()?;
            self.events.push(message);
        }
    }

    /// Ends it and waits: the images are closed and their bitmaps stored.
    pub fn quit(mut self) -> Result<()> {
        self.call("quit", &json!({}))?;
        self.stdin = None;
        let status =
            self.child.wait().map_err(|source| CaptureError::ToolStart { tool: TOOL.into(), source })?;
        if status.success() { Ok(()) } else { Err(self.failed(&status.to_string())) }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) => Err(self.failed("it ended")),
            Ok(_) => serde_json::from_str(&line).map_err(|error| self.failed(&error.to_string())),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    /// What it said before it ended; it is ended if it has not.
    fn failed(&mut self, what: &str) -> CaptureError {
        self.end();
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            let _ = pipe.read_to_string(&mut stderr);
        }
        let stderr = format!("{what}: {}", stderr.trim().replace('\n', "; "));
        CaptureError::Tool { tool: TOOL.into(), stderr }
    }

    /// Asks it to end, which closes the images and stores their bitmaps; kills it only when it does not.
    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = Pid::from_child(&self.child);
        if kill_process(pid, Signal::TERM).is_err() || !ends(|| matches!(self.child.try_wait(), Ok(Some(_))))
        {
            tracing::error!("{TOOL} does not end: its images' bitmaps are lost");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends the storage daemon that an earlier process left behind, if there is one.
pub fn end_orphan(pid_file: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(pid_file) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    // The pid may be another process's by now; ours has the pid file in its arguments.
    let arguments = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let name = pid_file.as_os_str().as_encoded_bytes().to_owned();
    let lives = || fs::read(&arguments).is_ok_and(|text| text.split(|byte| *byte == 0).any(|a| a == name));
    if !lives() {
        return Ok(());
    }
    tracing::warn!(%text, "ending a {TOOL} that an earlier process left");
    if kill_process(pid, Signal::TERM).is_ok() && ends(|| !lives()) {
        return Ok(());
    }
    Err(CaptureError::Tool { tool: TOOL.into(), stderr: format!("process {} does not end", text.trim()) })
}

fn ends(mut ended: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + END_BOUND;
    while !ended() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(END_PAUSE);
    }
    true
}
