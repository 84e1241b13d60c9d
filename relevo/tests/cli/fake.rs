//! A daemon that answers from a script: it speaks the control socket's lines on a real socket, records what
//! it was asked, and knows nothing of VMs. What the real daemon answers is tested with the real daemon.

use service::api::{Request, Response};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

pub struct FakeDaemon {
    pub root: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// Answers each request with what `answer` says; an answer without an end closes the connection.
    pub fn start(answer: impl Fn(&Request) -> Vec<Response> + Send + 'static) -> Self {
        Self::start_raw(move |request| {
            let lines = answer(request).into_iter();
            lines.map(|line| serde_json::to_string(&line).unwrap() + "\n").collect()
        })
    }

    /// Answers with bytes.
    pub fn start_raw(answer: impl Fn(&Request) -> String + Send + 'static) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        let listener = UnixListener::bind(root.path().join("run/control.sock")).unwrap();
        let asked = Arc::new(Mutex::new(vec![]));
        let record = asked.clone();
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                if line.is_empty() {
                    return; // the connection that ends the daemon
                }
                let request: Request = serde_json::from_str(&line).unwrap();
                let text = answer(&request);
                record.lock().unwrap().push(request);
                // The command may have been stopped meanwhile.
                let _ = (&stream).write_all(text.as_bytes());
            }
        });
        Self { root, asked, thread: Some(thread) }
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    pub fn run(&self, args: &str) -> Output {
        run(self.root.path(), args)
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        drop(UnixStream::connect(self.root.path().join("run/control.sock")));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The built binary, without a terminal.
pub fn relevo(root: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo"));
    command.args(args.split_whitespace()).arg("--root").arg(root).stdin(Stdio::null());
    command
}

pub fn run(root: &Path, args: &str) -> Output {
    relevo(root, args).output().unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
