//! `qemu-storage-daemon` for images of a VM that is off: started for one cut, spoken to in QMP over its
//! standard streams, ended with it. It takes QEMU's locks, so the VM cannot start in the middle.

use crate::error::{CaptureError, Result};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

const TOOL: &str = "qemu-storage-daemon";

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
    pub fn start(nodes: &[Value]) -> Result<Self> {
        let mut command = Command::new(TOOL);
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

    /// What it said before it died; it is killed if it has not.
    fn failed(&mut self, what: &str) -> CaptureError {
        let _ = self.child.kill();
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            let _ = pipe.read_to_string(&mut stderr);
        }
        let stderr = format!("{what}: {}", stderr.trim().replace('\n', "; "));
        CaptureError::Tool { tool: TOOL.into(), stderr }
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
