//! The grammar, and that every help text teaches.

use super::*;
use expect_test::expect;
use service::api::{Command, FailoverKind};

/// All commands that do something, with their full names.
fn leaves(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
    if command.get_subcommands().next().is_none() {
        return vec![(path.to_owned(), command.clone())];
    }
    command.get_subcommands().flat_map(|sub| leaves(sub, &format!("{path} {}", sub.get_name()))).collect()
}

/// The `relevo …` lines of a text, without comments and redirections.
pub fn examples(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("relevo "))
        .map(|line| line.split(['#', '>', '|', '<']).next().unwrap_or_default().trim().to_owned())
        .collect()
}

pub fn parses(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

pub fn leaf_names() -> Vec<String> {
    leaves(&Cli::command(), "relevo").into_iter().map(|(name, _)| name).collect()
}

fn daemon_command(line: &str) -> Command {
    let cli = parses(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    match cli.action {
        Action::Protect(args) => args.command().unwrap(),
        Action::Failover(args) => args.command(),
        Action::Failback(args) => args.command(),
        Action::Authorize(args) => args.command().unwrap(),
        action => panic!("{action:?}"),
    }
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_help_says_what_it_does_where_to_run_it_and_gives_an_example_that_parses() {
    for (name, command) in leaves(&Cli::command(), "relevo") {
        assert!(command.get_about().is_some(), "{name}");
        let after = command.get_after_help().unwrap_or_else(|| panic!("{name}")).to_string();
        assert!(after.starts_with("Run it on"), "{name}: {after}");
        let examples = examples(&after);
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            parses(&example).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
        }
    }
    for example in examples(STEPS) {
        parses(&example).unwrap_or_else(|error| panic!("{example}: {error}"));
    }
}

#[test]
fn protect_has_the_documented_defaults() {
    expect![[r#"
        Protect {
            vm: "web",
            to: "b.example",
            interval_s: 30,
            history: 4,
            history_every_s: 3600,
            tiers: [],
            disks: None,
            bandwidth_bytes_per_s: None,
            bandwidth_windows: [],
            auto_resynchronize: true,
            app_consistent_every_s: 0,
            authentication: Certificate,
            resync_window: Window {
                start_min: 0,
                end_min: 0,
            },
            scrub_every_s: 0,
            compress: true,
            bypass_proxy: false,
            start: true,
            seed: Some(
                false,
            ),
            export: None,
            at_ms: None,
        }
    "#]]
    .assert_debug_eq(&daemon_command("relevo protect web --to B.example."));
    assert_eq!(
        daemon_command(
            "relevo protect web --to b.example --interval 5m --history 0 --history-every 90 --keep 24x1h,7x1d --disks vda,vdb \
             --bandwidth 200MiB/s --app-consistent 0 --auth kerberos --no-compression --bypass-proxy \
             --resync-window 18:30-06:00 --scrub-every 30d --seed"
        ),
        Command::Protect {
            vm: "web".into(),
            to: "b.example".parse().unwrap(),
            interval_s: 300,
            history: 0,
            history_every_s: 90,
            tiers: vec!["24x1h".parse().unwrap(), "7x1d".parse().unwrap()],
            disks: Some(vec!["vda".into(), "vdb".into()]),
            bandwidth_bytes_per_s: Some(200 << 20),
            bandwidth_windows: vec![],
            auto_resynchronize: true,
            app_consistent_every_s: 0,
            authentication: model::Authentication::Kerberos,
            resync_window: service::api::Window { start_min: 1110, end_min: 360 },
            scrub_every_s: 2_592_000,
            compress: false,
            bypass_proxy: true,
            start: true,
            seed: Some(true),
            export: None,
            at_ms: None,
        }
    );
}

#[test]
fn options_choose_the_kind_of_failover() {
    let failover = |kind, start| Command::Failover { vm: "web".into(), kind, start };
    let point = Some("3f2a".to_owned());
    for (line, command) in [
        ("web", failover(FailoverKind::Unplanned { point: None }, true)),
        ("web --point 3f2a --no-start", failover(FailoverKind::Unplanned { point: point.clone() }, false)),
        ("web --planned", failover(FailoverKind::Planned, true)),
        ("web --planned --no-start", failover(FailoverKind::Planned, false)),
        ("web --test --point 3f2a", failover(FailoverKind::Test { point }, true)),
        ("web --test --end", Command::EndTest { vm: "web".into() }),
        ("web --cancel", Command::CancelFailover { vm: "web".into() }),
    ] {
        assert_eq!(daemon_command(&format!("relevo failover {line}")), command, "{line}");
    }
}

#[test]
fn options_choose_the_step_of_a_failback() {
    let vm = || "web".to_owned();
    for (line, command) in [
        ("web", Command::Failback { vm: vm(), point: None }),
        ("web --point 3f2a", Command::Failback { vm: vm(), point: Some("3f2a".into()) }),
        ("web --complete", Command::FailbackComplete { vm: vm(), point: None, force: false }),
        (
            "web --complete --point 3f2a",
            Command::FailbackComplete { vm: vm(), point: Some("3f2a".into()), force: false },
        ),
        ("web --complete --force", Command::FailbackComplete { vm: vm(), point: None, force: true }),
        ("web --cancel", Command::FailbackCancel { vm: vm() }),
    ] {
        assert_eq!(daemon_command(&format!("relevo failback {line}")), command, "{line}");
    }
}

#[test]
fn a_relative_storage_folder_is_the_operators_not_the_daemons() {
    let Command::Authorize { storage, .. } = daemon_command("relevo authorize a.example --storage replicas")
    else {
        panic!("not an authorization");
    };
    assert_eq!(storage, std::env::current_dir().unwrap().join("replicas"));
    assert_eq!(daemon_command("relevo authorize --list"), Command::AuthorizeList);
    assert_eq!(
        daemon_command("relevo authorize --remove a.example"),
        Command::AuthorizeRemove { host: "a.example".into() }
    );
}

#[test]
fn contradictions_are_refused() {
    for line in [
        "relevo",
        "relevo vm",
        "relevo failover web --planned --test",
        "relevo failover web --planned --point 3f2a",
        "relevo failover web --end",
        "relevo failover web --test --no-start",
        "relevo failover web --test --end --point 3f2a",
        "relevo failback web --complete --cancel",
        "relevo failback web --force",
        "relevo failback web --cancel --point 3f2a",
        "relevo authorize",
        "relevo authorize a.example",
        "relevo authorize --list --remove a.example",
        "relevo authorize a.example --storage /srv --remove a.example",
        "relevo authorize --storage /srv --list",
        "relevo protect web",
        "relevo protect web --to 10.0.0.1",
        "relevo protect web --to b.example --interval 0",
        "relevo protect web --to b.example --history 25",
        "relevo protect web --to b.example --bandwidth 200M",
        "relevo status --watch --json",
        "relevo completion cmd",
    ] {
        assert!(parses(line).is_err(), "{line}");
    }
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    let error = parses("relevo protect web --to b.example --interval 13h").unwrap_err().to_string();
    expect![[r#"
        error: invalid value '13h' for '--interval <DURATION>': expected 1 to 43200 seconds (12 hours)

        For more information, try '--help'.
    "#]]
    .assert_eq(&error);
}
