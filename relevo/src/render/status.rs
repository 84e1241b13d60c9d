//! The screen that an operator looks at at three in the morning: the worst first, and what to do about it.

use super::{
    or_dash,
    points::kind,
    table::{Table, fields, indented},
    units::{count, duration, rate, size, whole},
};
use model::Health;
use service::api::{Issue, RelationshipView};
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
            view.mode.to_string(),
            view.state.to_string(),
            health(view.health),
            view.peer.to_string(),
            or_dash(view.rpo_s.map(duration)),
            view.points.to_string(),
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
        Some(point) => {
            format!("{} ({}), {} old, {}", point.cut_at, kind(point.kind), duration(point.age_s), point.point)
        }
        None => "none yet: a failover is not possible".to_owned(),
    };
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
        ("role", format!("{}, peer {}", view.mode, view.peer)),
        ("state", format!("{} ({})", view.state, view.state_number)),
        ("health", health(view.health)),
        ("going on", going_on(view)),
        ("job", or_dash(view.job)),
        ("power", view.power_state.clone()),
        ("right to run", format!("{right} (generation {})", view.generation)),
        ("test VM", or_dash(view.test_vm.clone())),
        ("RPO", format!("{} (interval {})", or_dash(view.rpo_s.map(duration)), whole(view.interval_s))),
        ("newest point", newest),
        ("points", view.points.to_string()),
        ("history", history),
        (
            "cycles",
            format!(
                "{} succeeded, {} missed, {} failed",
                view.cycles_succeeded, view.cycles_missed, view.cycles_failed
            ),
        ),
        ("last cycle", format!("{} in {} ms", size(view.last_cycle_bytes), view.last_cycle_ms)),
        ("sent", size(view.sent_bytes)),
        (
            "bandwidth",
            view.bandwidth_bytes_per_s
                .map_or("not limited".to_owned(), |limit| format!("at most {}", rate(limit as f64))),
        ),
    ]);
    let mut text = format!("{} ({})\n{}", view.name, view.vm, indented(&facts));
    if !view.issues.is_empty() {
        text.push_str(&format!("\n\n{}", indented(&issues(&view.issues))));
    }
    text
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
