//! The built binary against a scripted daemon: what is asked, what is shown, exit codes.

use crate::fake::{FakeDaemon, code, relevo, run, stderr, stdout};
use crate::samples;
use expect_test::expect;
use serde_json::{Value, json};
use service::api::*;
use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

fn done(message: &str) -> Vec<Response> {
    vec![Response::Reply(Box::new(Reply::Done { message: message.into() }))]
}

fn reply(reply: Reply) -> Vec<Response> {
    vec![Response::Reply(Box::new(reply))]
}

/// Plans what it is asked to plan, and does the rest.
fn obedient(request: &Request) -> Vec<Response> {
    if request.dry_run { reply(Reply::Plan(samples::plan())) } else { done("done as asked") }
}

#[test]
fn without_a_daemon_the_socket_and_the_way_to_start_it_are_named() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), "status");
    assert_eq!(code(&output), 11);
    assert_eq!(stdout(&output), "");
    let dir = root.path().display();
    assert_eq!(
        stderr(&output),
        format!(
            "error: `relevo serve` is not running: there is no socket {dir}/run/control.sock\n\
             hint: start it with `relevo --root {dir} serve`\n"
        )
    );
}

#[test]
fn a_socket_that_nobody_listens_on_is_told_from_an_absent_one() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.path().join("run/control.sock")).unwrap());
    let output = run(root.path(), "host");
    assert_eq!(code(&output), 11);
    assert!(stderr(&output).contains("no daemon behind the socket"), "{}", stderr(&output));
}

#[test]
fn a_path_too_long_for_a_socket_is_the_operators_mistake() {
    let root = tempfile::tempdir().unwrap();
    let output = run(&root.path().join("long".repeat(40)), "host");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("too long"), "{}", stderr(&output));
}

#[test]
fn a_daemon_that_goes_away_or_talks_nonsense_is_reported() {
    let daemon = FakeDaemon::start(|_| vec![]);
    let output = daemon.run("vm list");
    assert_eq!(code(&output), 11);
    assert!(stderr(&output).contains("closed the connection"), "{}", stderr(&output));
    let daemon = FakeDaemon::start_raw(|_| "{\"reply\":".into());
    assert_eq!(code(&daemon.run("vm list")), 11, "a line that was cut off");
    let daemon = FakeDaemon::start_raw(|_| "{\"surprise\":1}\n".into());
    let output = daemon.run("vm list");
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("another version"), "{}", stderr(&output));
}

#[test]
fn every_failure_has_its_exit_code_message_and_hint() {
    for kind in ErrorKind::ALL {
        let failure = Failure { kind: *kind, ..samples::failure() };
        let daemon = FakeDaemon::start(move |_| vec![Response::Failure(failure.clone())]);
        let output = daemon.run("vm show wbe");
        assert_eq!(code(&output), i32::from(kind.exit_code()), "{kind:?}");
        assert_eq!(stdout(&output), "");
        expect![[r#"
            error: there is no VM `wbe` on a.example
            hint: did you mean `web`? `relevo vm list` shows all
        "#]]
        .assert_eq(&stderr(&output));
        let output = daemon.run("vm show wbe --json");
        assert_eq!(code(&output), i32::from(kind.exit_code()), "{kind:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["error"]["id"], "vm-unknown");
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn a_mistake_on_the_command_line_is_json_too_where_json_is_wanted() {
    let root = tempfile::tempdir().unwrap();
    let output = run(root.path(), "protect web --to b.example --history 25");
    assert_eq!((code(&output), stdout(&output).as_str()), (2, ""));
    let output = run(root.path(), "protect web --to b.example --history 25 --json");
    assert_eq!((code(&output), stderr(&output).as_str()), (2, ""));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["kind"], "invalid-parameter");
    assert_eq!(
        document["error"]["message"],
        "invalid value '25' for '--history <COUNT>': expected a whole number from 0 to 24"
    );
}

#[test]
fn a_dangerous_command_is_refused_without_a_terminal_and_without_yes() {
    let daemon = FakeDaemon::start(obedient);
    for command in [
        "failover web",
        "failover web --planned",
        "revert web",
        "commit web",
        "reverse web",
        "failback web",
        "failback web --complete",
        "unprotect web",
        "vm undefine web",
        "vm stop web --force",
        "suspend web --release",
        "points web --drop 3f2ac410-9b7d-4e58-a6c1-0d94f7e82b35",
    ] {
        let output = daemon.run(command);
        assert_eq!(code(&output), 10, "{command}");
        assert!(stderr(&output).contains("nothing was done"), "{command}: {}", stderr(&output));
        assert!(stderr(&output).contains("--yes"), "{command}");
    }
    assert_eq!(daemon.asked(), [], "the daemon was asked to do something");
}

#[test]
fn yes_shows_the_plan_and_goes_on() {
    let daemon = FakeDaemon::start(obedient);
    let output = daemon.run("failover web --yes");
    assert_eq!(code(&output), 0);
    assert_eq!(stdout(&output), "done as asked\n");
    assert!(stderr(&output).contains("THE OTHER HOST DOES NOT ANSWER"), "{}", stderr(&output));
    let command =
        Command::Failover { vm: "web".into(), kind: FailoverKind::Unplanned { point: None }, start: true };
    assert_eq!(
        daemon.asked(),
        [
            Request { command: command.clone(), dry_run: true, wait: false },
            Request { command, dry_run: false, wait: true },
        ]
    );
}

#[test]
fn yes_with_json_and_no_wait_is_one_request_and_one_document() {
    let daemon = FakeDaemon::start(|_| reply(Reply::Job(Box::new(samples::job()))));
    let output = daemon.run("failover web --planned --yes --json --no-wait");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    let document: JobView = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document, samples::job());
    let asked = daemon.asked();
    assert_eq!(
        asked.iter().map(|request| (request.dry_run, request.wait)).collect::<Vec<_>>(),
        [(false, false)]
    );
}

#[test]
fn a_plan_that_fails_stops_the_command() {
    let daemon = FakeDaemon::start(|_| vec![Response::Failure(samples::failure())]);
    assert_eq!(code(&daemon.run("revert wbe --yes")), 3);
    assert!(daemon.asked().iter().all(|request| request.dry_run));
}

#[test]
fn a_dry_run_shows_the_plan_and_does_nothing() {
    let daemon = FakeDaemon::start(obedient);
    let output = daemon.run("failover web --dry-run");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    assert!(stdout(&output).starts_with("Fail web over"), "{}", stdout(&output));
    let plan: PlanView = serde_json::from_slice(&daemon.run("failover web --dry-run --json").stdout).unwrap();
    assert_eq!(plan, samples::plan());
    assert!(daemon.asked().iter().all(|request| request.dry_run));
    for harmless in ["vm start web --dry-run", "cert show --dry-run", "status --watch --dry-run"] {
        assert_eq!(code(&daemon.run(harmless)), 2, "{harmless}");
    }
}

/// Reports that a daemon sends while a job runs.
fn reports(last: Reply) -> Vec<Response> {
    let report = |elapsed_s: f64, percent: u8, stage: &str| {
        Response::Progress(JobView {
            elapsed_s,
            progress_percent: percent,
            bytes_done: u64::from(percent) * (20 << 30) / 100,
            stage: stage.into(),
            ..samples::job()
        })
    };
    let mut lines = vec![
        report(0.0, 0, "copying vda"),
        report(1.0, 5, "copying vda"),
        report(2.0, 10, "copying vda"),
        report(2.5, 50, "copying vdb"),
    ];
    lines.extend(reply(last));
    lines
}

#[test]
fn progress_goes_to_stderr_in_lines_where_there_is_no_terminal() {
    let daemon = FakeDaemon::start(|_| reports(Reply::Done { message: "web is protected".into() }));
    let output = daemon.run("protect web --to b.example");
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "web is protected\n"));
    expect![[r#"
        initial replication of web: copying vda, 0 %, 0 B of 20.0 GiB
        initial replication of web: copying vda, 10 %, 2.0 GiB of 20.0 GiB, 1.0 GiB/s, 18 s left
        initial replication of web: copying vdb, 50 %, 10.0 GiB of 20.0 GiB, 2.4 GiB/s, 4.1 s left
    "#]]
    .assert_eq(&stderr(&output));
    let output = daemon.run("protect web --to b.example --json");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        json!({ "message": "web is protected" })
    );
}

#[test]
fn a_job_that_was_waited_for_and_failed_is_the_commands_failure() {
    let failed = JobView {
        state: JobState::Exception,
        failure: Some(Failure::new(ErrorKind::NoSpace, "no-space", "no room on b.example")),
        ..samples::job()
    };
    let daemon = FakeDaemon::start(move |_| reports(Reply::Job(Box::new(failed.clone()))));
    let output = daemon.run("resync web");
    assert_eq!(code(&output), 9);
    assert!(stderr(&output).ends_with("error: no room on b.example\n"), "{}", stderr(&output));
    assert_eq!(code(&daemon.run(&format!("job watch {}", samples::job().job))), 9);
    assert_eq!(
        code(&daemon.run(&format!("job show {}", samples::job().job))),
        0,
        "it is shown, not waited for"
    );
}

#[test]
fn whoever_waited_for_a_job_is_told_its_outcome() {
    let ended = JobView {
        state: JobState::Completed,
        outcome: Some("web runs on b.example".into()),
        ..samples::job()
    };
    let daemon = FakeDaemon::start(move |_| reports(Reply::Job(Box::new(ended.clone()))));
    assert_eq!(stdout(&daemon.run("resync web")), "web runs on b.example\n");
    let document: JobView = serde_json::from_slice(&daemon.run("resync web --json").stdout).unwrap();
    assert_eq!(document.state, JobState::Completed);
    assert!(
        stdout(&daemon.run("resync web --no-wait")).contains("can be cancelled"),
        "the job, not its outcome"
    );
}

#[test]
fn a_job_that_was_cancelled_ends_the_waiting_with_its_own_exit_code() {
    let cancelled = JobView { state: JobState::Terminated, ..samples::job() };
    let daemon = FakeDaemon::start(move |_| reply(Reply::Job(Box::new(cancelled.clone()))));
    assert_eq!(code(&daemon.run("resync web")), 10);
}

#[test]
fn jobs_and_points_are_found_by_the_beginning_of_their_ids() {
    let daemon = FakeDaemon::start(|request| match &request.command {
        Command::JobList => reply(Reply::Jobs(vec![samples::job()])),
        Command::Points { .. } => reply(Reply::Points(vec![samples::point(), samples::older_point()])),
        _ => obedient(request),
    });
    assert_eq!(code(&daemon.run("job cancel 5d0")), 0);
    assert_eq!(code(&daemon.run("points web --drop 9C81 --yes")), 0);
    let last: Vec<Command> = daemon.asked().into_iter().map(|request| request.command).collect();
    assert_eq!(last[1], Command::JobCancel { job: samples::job().job });
    assert_eq!(last[4], Command::DropPoint { vm: "web".into(), point: samples::older_point().point });
    assert_eq!(code(&daemon.run("job show 77")), 3);
}

#[test]
fn differences_found_by_a_verification_are_an_exit_code() {
    let bad = VerifyView { mismatches: vec!["vda at 0 B".into()], ..samples::verification() };
    let daemon = FakeDaemon::start(move |request| match &request.command {
        Command::Verify { vm, .. } if vm == "web" => reply(Reply::Verify(bad.clone())),
        _ => reply(Reply::Verify(samples::verification())),
    });
    let output = daemon.run("verify web --json");
    assert_eq!(code(&output), 17);
    assert!(serde_json::from_slice::<VerifyView>(&output.stdout).is_ok());
    assert_eq!(code(&daemon.run("verify mail")), 0);
}

#[test]
fn a_definition_is_read_here_from_a_file_or_standard_input() {
    let daemon = FakeDaemon::start(obedient);
    let file = daemon.root.path().join("web.xml");
    std::fs::write(&file, "<domain/>").unwrap();
    assert_eq!(code(&daemon.run(&format!("vm define {}", file.display()))), 0);
    let mut child = relevo(daemon.root.path(), "vm define -").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"<domain type='qemu'/>").unwrap();
    assert!(child.wait().unwrap().success());
    let xml = |text: &str| Command::VmDefine { xml: text.into() };
    let asked: Vec<Command> = daemon.asked().into_iter().map(|request| request.command).collect();
    assert_eq!(asked, [xml("<domain/>"), xml("<domain type='qemu'/>")]);

    assert_eq!(code(&daemon.run("vm define /nonexistent/web.xml")), 3, "absent");
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert_eq!(code(&daemon.run(&format!("vm define {}", file.display()))), 2, "unreadable");
}

#[test]
fn status_shows_a_table_or_one_vms_details() {
    let daemon = FakeDaemon::start(|_| reply(Reply::Relationships(vec![samples::relationship()])));
    let output = daemon.run("status");
    assert!(stdout(&output).starts_with("VM   ROLE"), "{}", stdout(&output));
    let output = daemon.run("status web");
    assert!(stdout(&output).contains("right to run"), "{}", stdout(&output));
    assert!(daemon.asked().iter().all(|request| !request.wait));
}

#[test]
fn watching_goes_on_and_shows_a_failure_in_between() {
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let daemon = FakeDaemon::start(move |_| match turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => vec![],
        _ => reply(Reply::Relationships(vec![samples::relationship()])),
    });
    let mut child = relevo(daemon.root.path(), "status --watch").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("closed the connection"));
    assert!(lines.any(|line| line.starts_with("web")));
    // A reader that goes away ends the watching.
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn certificates_are_made_and_installed_without_a_daemon() {
    let root = tempfile::tempdir().unwrap();
    let bundle = root.path().join("a.bundle");
    let succeed = |args: &str| {
        let output = run(root.path(), args);
        assert_eq!(code(&output), 0, "{args}: {}", stderr(&output));
        stdout(&output)
    };
    assert!(succeed("cert show").contains("no certificate is installed"));
    assert_eq!(code(&run(root.path(), "cert install /nonexistent")), 3);
    succeed("cert init");
    succeed(&format!("cert issue a.example --out {}", bundle.display()));
    let text = succeed(&format!("cert install {}", bundle.display()));
    assert!(text.contains("the daemon is not running"), "{text}");
    assert!(succeed("cert show").contains("a.example"));
    let views: Value = serde_json::from_str(&succeed("cert show --json")).unwrap();
    let host = views.as_array().unwrap().iter().find(|view| view["sans"] == json!(["a.example"])).unwrap();
    let mut fields: Vec<&str> = host.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let documented =
        ["issuer", "not_after", "not_before", "path", "purpose", "sans", "sha1", "sha256", "subject"];
    assert_eq!(fields, documented, "docs/cli.md lists these");
}

#[test]
fn a_running_daemon_takes_up_an_installed_certificate() {
    let daemon = FakeDaemon::start(|_| done("reloaded"));
    let bundle = daemon.root.path().join("a.bundle");
    assert_eq!(code(&daemon.run("cert init")), 0);
    assert_eq!(code(&daemon.run(&format!("cert issue a.example --out {}", bundle.display()))), 0);
    let output = daemon.run(&format!("cert install {}", bundle.display()));
    assert!(stdout(&output).contains("uses it from now on"), "{}", stdout(&output));
    assert_eq!(daemon.asked().last().unwrap().command, Command::CertReload);
}

#[test]
fn completion_scripts_are_for_the_shell_that_was_named() {
    let root = tempfile::tempdir().unwrap();
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef relevo"), ("fish", "complete -c relevo")]
    {
        let output = run(root.path(), &format!("completion {shell}"));
        assert!(stdout(&output).contains(mark), "{shell}");
    }
}
