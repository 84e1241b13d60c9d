//! Another process that has a root open, which can be killed: the tests' own can open it but once.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// Generous: software emulation on shared cores.
const SILENCE_MAX: Duration = Duration::from_secs(120);

pub struct Virsh {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    asked: u32,
}

impl Virsh {
    pub fn open(uri: &str) -> Self {
        let mut child = Command::new("virsh")
            .args(["-q", "-c", uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let (sender, lines) = channel();
        let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let copy = sender.clone();
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        // libvirt's own log lines come here, too, each with a time.
        thread::spawn(move || {
            let lines = BufReader::new(errors).lines().map_while(Result::ok);
            lines.filter(|line| line.starts_with("error:")).try_for_each(|line| copy.send(line))
        });
        Self { child, input, lines, asked: 0 }
    }

    /// Gives commands, and does not wait for them.
    pub fn send(&mut self, script: &str) {
        writeln!(self.input, "{script}").unwrap();
    }

    /// Runs commands; what they print, errors too. It fails when libvirt dies or does not answer.
    pub fn ask(&mut self, script: &str) -> String {
        self.asked += 1;
        let end = format!("end-{}", self.asked);
        // `echo` does not end its line: the next prompt does.
        self.send(&format!("{script}\necho {end}\necho"));
        let mut answer = String::new();
        let give_up = Instant::now() + SILENCE_MAX;
        loop {
            match self.lines.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(&end) => return answer,
                Ok(line) if line.starts_with("virsh # ") => {}
                Ok(line) => answer = format!("{answer}{line}\n"),
                Err(RecvTimeoutError::Timeout) => panic!("no answer to {script}: {answer}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("libvirt died of {script}: {:?}: {answer}", self.child.wait())
                }
            }
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
