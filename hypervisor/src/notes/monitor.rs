//! QEMU's own monitor (QMP, docs/interop/qemu-qmp-ref), asked before libvirt takes it: one client at a time has it.

use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// QEMU answers within milliseconds; one that hangs must not keep the host from starting.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Between two looks at a job that is to end.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A cancelled job ends with the request that it has under way.
const END_MAX: Duration = Duration::from_secs(60);

pub struct Monitor {
    stream: BufReader<UnixStream>,
}

/// A job of QEMU's.
pub struct Job {
    pub id: String,
    /// Over, and kept until it is dismissed.
    pub concluded: bool,
    pub failed: bool,
}

impl Monitor {
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.line()?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Runs a command; QEMU's refusal is an error with its text.
    pub fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                let why = error["desc"].as_str().unwrap_or("no reason given");
                return Err(io::Error::other(format!("{command}: {why}")));
            }
            // An event.
        }
    }

    pub fn jobs(&mut self) -> io::Result<Vec<Job>> {
        let jobs = self.ask("query-jobs", json!({}))?;
        let job = |job: &Value| {
            let id = job["id"].as_str()?.to_owned();
            Some(Job { id, concluded: job["status"] == "concluded", failed: job["error"].is_string() })
        };
        Ok(jobs.as_array().into_iter().flatten().filter_map(job).collect())
    }

    /// Cancels a job, waits until it is over and makes QEMU forget it.
    pub fn end_job(&mut self, id: &str) -> io::Result<()> {
        let mut asked = false;
        let give_up = Instant::now() + END_MAX;
        loop {
            let Some(job) = self.jobs()?.into_iter().find(|job| job.id == id) else { return Ok(()) };
            if job.concluded {
                return self.ask("job-dismiss", json!({ "id": id })).map(drop);
            }
            if !std::mem::replace(&mut asked, true) {
                // Refused where it is about to end by itself.
                let _ = self.ask("job-cancel", json!({ "id": id }));
            }
            if Instant::now() > give_up {
                return Err(io::Error::other(format!("job {id} does not end")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}
