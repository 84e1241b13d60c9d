//! The screen that an operator looks at at three in the morning: the worst first, and what to do about it.

use super::{
    or_dash,
    points::kind,
    table::{Table, fields, indented},
    units::{count, duration, rate, size, whole},
};
use model::{Authentication, Health, Mode};
use service::api::{IntervalView, Issue, RelationshipView, ScrubView};
use std::cmp::Reverse;

/// A line per relationship, then all issues.
pub fn overview(views: &[RelationshipView]) -> String {
    if views.is_empty() {
        return "nothing is replicated from or to this host; see `relevo protect --help`".to_owned();
    }
    let mut views: Vec<&RelationshipView> = views.iter().collect();
    views.sort_by_key(|view| (Reverse(severity(view)), view.name.clone(), view.peer.clone()));
    let headings = ["VM", "ROLE", "STATE", "HEALTH", "PEER", "RPO", "POINTS", "GOING ON"];
    let mut table = Table::new(&headings).right(&[5, 6]);
    for view in &views {
        table.row([
            view.name.clone(),
            role(view),
            view.state.to_string(),
            health(view.health),
            view.peer.to_string(),
            or_dash(view.rpo_s.map(duration)),
            kept(view),
            going_on(view),
        ]);
    }
    let mut text = table.text();
    for view in views.iter().filter(|view| !view.issues.is_empty()) {
        text.push_str(&format!("\n\n{}\n{}", view.name, indented(&issues(&view.issues))));
    }
    text
}

/// Everything about each relationship.
pub fn details(views: &[RelationshipView]) -> String {
    if views.is_empty() {
        return overview(views);
    }
    views.iter().map(detail).collect::<Vec<_>>().join("\n\n")
}

fn detail(view: &RelationshipView) -> String {
    let right = if view.may_run { "this host" } else { "not this host" };
    let newest = match &view.newest_point {
        _ if view.index > 0 || view.mode == Mode::Primary && view.rpo_s.is_some() => {
            format!("on {}", view.peer)
        }
        Some(point) => {
            format!("{} ({}), {} old, {}", point.cut_at, kind(point.kind), duration(point.age_s), point.point)
        }
        None => "none yet: a failover is not possible".to_owned(),
    };
    let tiers: Vec<_> =
        view.tiers.iter().map(|tier| format!(", {} every {}", tier.count, tier.every())).collect();
    let history = match view.history {
        0 => "the latest point only".to_owned(),
        points => {
            format!(
                "{} beside the latest, {} apart",
                count(points.into(), "point"),
                whole(view.history_every_s)
            )
        }
    };
    let facts = fields(&[
        ("role", format!("{}, peer {}{}", role(view), view.peer, with(view.authentication))),
        ("state", format!("{} ({})", view.state, view.state_number)),
        ("health", health(view.health)),
        ("going on", going_on(view)),
        ("job", or_dash(view.job)),
        ("power", view.power_state.clone()),
        ("right to run", format!("{right} (generation {})", view.generation)),
        ("test VM", or_dash(view.test_vm.clone())),
        ("RPO", format!("{} (interval {})", or_dash(view.rpo_s.map(duration)), whole(view.interval_s))),
        ("newest point", newest),
        ("points", kept(view)),
        ("history", history + &tiers.concat()),
        ("app-consistent", app_consistent(view)),
        (
            "cycles",
            format!(
                "{} succeeded, {} missed, {} failed, {} waited for others",
                view.cycles_succeeded, view.cycles_missed, view.cycles_failed, view.cycles_waited
            ),
        ),
        ("this interval", interval(&view.interval)),
        ("last cycle", format!("{} in {} ms", size(view.last_cycle_bytes), view.last_cycle_ms)),
        ("sent", size(view.sent_bytes)),
        ("bandwidth", bandwidth(view)),
    ]);
    let mut text = format!("{} ({})\n{}", view.name, view.vm, indented(&facts));
    for said in notes(view) {
        text.push_str(&format!("\n  {said}"));
    }
    if !view.issues.is_empty() {
        text.push_str(&format!("\n\n{}", indented(&issues(&view.issues))));
    }
    text
}

/// As it is now; and as it is set, where that differs by the time or by the host's limit.
fn bandwidth(view: &RelationshipView) -> String {
    let text = |limit: Option<u64>| {
        limit.map_or("not limited".to_owned(), |limit| format!("at most {}", rate(limit as f64)))
    };
    let (now, set) = (view.bandwidth_now_bytes_per_s, view.bandwidth_bytes_per_s);
    if view.bandwidth_windows.is_empty() && now == set {
        return text(set);
    }
    let windows = view.bandwidth_windows.iter().map(ToString::to_string);
    let all = windows.chain([format!("otherwise {}", text(set))]).collect::<Vec<_>>().join("; ");
    format!("{} now ({all})", text(now))
}

/// What this host is in the relationship. One that forwards is a replica in another.
fn role(view: &RelationshipView) -> String {
    if view.index == 0 { view.mode.to_string() } else { "forwards".to_owned() }
}

/// Only the host that has the points counts them.
fn kept(view: &RelationshipView) -> String {
    if view.mode == Mode::Primary { "-".to_owned() } else { view.points.to_string() }
}

fn interval(interval: &IntervalView) -> String {
    let IntervalView { succeeded, missed, failed, network_failed, .. } = interval;
    let mut text =
        format!("{succeeded} succeeded, {missed} missed, {failed} failed, {network_failed} by the network");
    if *succeeded > 0 {
        let (bytes, ms) = (interval.sent_bytes / succeeded, interval.latency_ms / succeeded);
        let most = (size(interval.sent_bytes_max), interval.latency_ms_max);
        text.push_str(&format!(
            "; {} in {ms} ms on average, at most {} and {} ms",
            size(bytes),
            most.0,
            most.1
        ));
    }
    text
}

/// What is not there for every VM.
fn notes(view: &RelationshipView) -> Vec<String> {
    let drill =
        view.last_drill.as_ref().map(|drill| format!("fire drill of {}: {}", drill.at, drill.message));
    let network = view.failover_network.as_ref().map(|said| format!("addresses in the guest: {said}"));
    let backup =
        view.no_backup.as_ref().map(|why| format!("a backup of the replica is worth nothing now: {why}"));
    [drill, scrub(&view.scrub), network, backup].into_iter().flatten().collect()
}

fn scrub(scrub: &ScrubView) -> Option<String> {
    let ScrubView { every_s, last_at, changed_on_primary, damaged_on_replica } = scrub;
    if *every_s == 0 && last_at.is_none() {
        return None;
    }
    let every = if *every_s > 0 { format!("every {}", whole(*every_s)) } else { "when asked for".to_owned() };
    let last = last_at.as_ref().map_or("none yet".to_owned(), |at| {
        let repaired = changed_on_primary + damaged_on_replica;
        format!("last at {at}, {repaired} clusters repaired")
    });
    Some(format!("scrub {every}, {last}"))
}

fn app_consistent(view: &RelationshipView) -> String {
    let last = || match &view.last_app_consistent_at {
        Some(at) => format!("last at {at}"),
        None => "none yet".to_owned(),
    };
    match view.app_consistent_every_s {
        0 => "no points".to_owned(),
        every_s => format!("every {}, {}, {} failed", whole(every_s), last(), view.app_consistent_failures),
    }
}

/// Certificates are what one expects.
fn with(authentication: Authentication) -> &'static str {
    match authentication {
        Authentication::Certificate => "",
        Authentication::Kerberos => " (Kerberos)",
    }
}

/// What is going on, what is waited for, what else runs.
fn going_on(view: &RelationshipView) -> String {
    let mut parts = vec![];
    if !view.activity.is_empty() {
        parts.push(view.activity.clone());
    }
    if let Some(seconds) = view.retry_in_s {
        parts.push(format!("next try in {}", duration(seconds)));
    }
    if let Some(name) = &view.test_vm {
        parts.push(format!("test VM `{name}`"));
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
}

fn issues(issues: &[Issue]) -> String {
    let mut sorted: Vec<&Issue> = issues.iter().collect();
    sorted.sort_by_key(|issue| Reverse(issue.severity));
    let line = |issue: &&Issue| {
        let message = format!("{}: {}", health(issue.severity), issue.message);
        match &issue.hint {
            Some(hint) => format!("{message}\n  hint: {hint}"),
            None => message,
        }
    };
    sorted.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The worst that is known of a relationship.
fn severity(view: &RelationshipView) -> Health {
    view.issues.iter().map(|issue| issue.severity).fold(view.health, Health::max)
}

/// In capitals when somebody has to get up.
fn health(health: Health) -> String {
    match health {
        Health::Critical => "CRITICAL".to_owned(),
        other => other.to_string(),
    }
}
