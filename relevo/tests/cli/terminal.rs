//! The built binary on a real pseudo-terminal: the question, and the bar.

use crate::{fake::FakeDaemon, samples};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use service::api::*;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
    process::{Command as Process, Stdio},
    time::Duration,
};
use testkit::poll;

pub struct Seen {
    pub code: i32,
    pub terminal: String,
    pub stdout: String,
}

/// What is typed once the terminal shows a question.
pub struct Typed<'a> {
    pub question: &'a str,
    pub answer: &'a str,
    /// The terminal does not show it.
    pub hidden: bool,
}

/// Runs `args` on a terminal and answers its questions, one after the other.
pub fn on_a_terminal(root: &Path, args: &str, typed: &[Typed<'_>]) -> Seen {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let slave = OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    // Passwords are asked for at the terminal that controls the process, whatever its input is.
    let mut command = Process::new("setsid");
    command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_relevo")]);
    command.args(args.split_whitespace()).arg("--root").arg(root);
    command.env("TERM", "xterm").stdin(slave.try_clone().unwrap()).stderr(slave).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Our copies of the terminal's other end live in the command: without them the reading below ends.
    drop(command);
    let mut master = File::from(master);
    let mut terminal = Vec::new();
    let (mut typed, mut shown) = (typed.iter().peekable(), 0);
    let mut buffer = [0; 4096];
    // Linux reports the closed other end of a terminal as an error, not as an end of file.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        terminal.extend_from_slice(&buffer[..length]);
        let asked = |it: &&Typed<'_>| String::from_utf8_lossy(&terminal[shown..]).contains(it.question);
        if let Some(Typed { answer, hidden, .. }) = typed.next_if(asked) {
            // The question is shown a moment before the terminal is told to hide the answer.
            let echoes = || tcgetattr(&master).unwrap().local_modes.contains(LocalModes::ECHO);
            assert!(!hidden || poll(Duration::from_secs(60), || !echoes()));
            shown = terminal.len();
            master.write_all(answer.as_bytes()).unwrap();
        }
    }
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    Seen { code, terminal: String::from_utf8_lossy(&terminal).into_owned(), stdout }
}

fn asked(daemon: &FakeDaemon, args: &str, answer: &str) -> Seen {
    on_a_terminal(daemon.root.path(), args, &[Typed { question: "[y/N]", answer, hidden: false }])
}

fn daemon() -> FakeDaemon {
    FakeDaemon::start(|request| {
        if request.dry_run {
            return vec![Response::Reply(Box::new(Reply::Plan(samples::plan())))];
        }
        let done = Reply::Done { message: "web runs here".into() };
        vec![Response::Progress(samples::job()), Response::Reply(Box::new(done))]
    })
}

#[test]
fn the_plan_is_shown_and_a_yes_carries_it_out() {
    let daemon = daemon();
    let seen = asked(&daemon, "failover web", "y\n");
    assert_eq!(seen.code, 0, "{}", seen.terminal);
    assert!(seen.terminal.contains("THE OTHER HOST DOES NOT ANSWER"), "{}", seen.terminal);
    assert!(seen.terminal.contains("relevo job watch"), "{}", seen.terminal);
    assert_eq!(seen.stdout, "web runs here\n");
    assert_eq!(daemon.asked().iter().map(|request| request.dry_run).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_no_and_the_end_of_input_do_nothing() {
    for answer in ["n\n", "\n", "\u{4}"] {
        let daemon = daemon();
        let seen = asked(&daemon, "failover web", answer);
        assert_eq!(seen.code, 10, "{}", seen.terminal);
        assert!(seen.terminal.contains("declined; nothing was done"), "{}", seen.terminal);
        assert!(daemon.asked().iter().all(|request| request.dry_run));
    }
}

#[test]
fn json_keeps_stdout_to_one_document_while_it_asks() {
    let seen = asked(&daemon(), "failover web --json", "y\n");
    assert_eq!(seen.code, 0, "{}", seen.terminal);
    assert_eq!(seen.stdout, "{\n  \"message\": \"web runs here\"\n}\n");
    assert!(!seen.terminal.contains("copying vda"), "{}", seen.terminal);
}
