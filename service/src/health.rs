//! Health: what an operator should know of a relationship, by Hyper-V Replica's rules and ours.

use crate::{
    api::Issue,
    clock::{now_ms, rfc3339},
    host::Host,
    owner::OwnerHandle,
    views::duration,
};
use model::{Health, Mode, ReplicationState as S};

/// A relationship whose last success is older is behind.
const BEHIND_S: i64 = 3600;
/// More missed cycles than this part is a warning.
const MISSED_PERCENT: u64 = 20;

pub fn worst(issues: &[Issue]) -> Health {
    issues.iter().map(|issue| issue.severity).max().unwrap_or(Health::Normal)
}

pub fn issues(host: &Host, owner: &OwnerHandle) -> Vec<Issue> {
    let snapshot = owner.snapshot();
    let r = &snapshot.record;
    let (name, peer) = (&r.name, &r.peer);
    let mut issues = vec![];
    let mut add = |severity, id: &str, message: String, hint: Option<String>| {
        issues.push(Issue { severity, id: id.to_owned(), message, hint });
    };
    if let Some(superseded) = &r.superseded {
        let both = if superseded.was_running { "; until then both ran" } else { "" };
        add(
            Health::Critical,
            "superseded",
            format!(
                "{peer} took {name} over (generation {}); this host learnt of it at {} and paused its VM{both}",
                superseded.by,
                rfc3339(superseded.at_ms)
            ),
            Some(format!(
                "`relevo failback {name}` here brings it home; `relevo reverse {name}` on {peer} keeps it there"
            )),
        );
    }
    match r.state {
        S::Ready => add(
            Health::Warning,
            "not-started",
            "the first copy has not begun".to_owned(),
            Some(format!("relevo resync {name}")),
        ),
        S::WaitingForInitialReplication => {
            add(Health::Warning, "first-copy", "the first copy is not complete".to_owned(), None);
        }
        S::Recovered => add(
            Health::Warning,
            "uncommitted",
            format!("{name} is failed over and not committed"),
            Some(format!("`relevo commit {name}` or `relevo revert {name}`")),
        ),
        S::Committed => add(
            Health::Warning,
            "unprotected",
            format!("{name} runs without a replica since its failover"),
            Some(format!("`relevo reverse {name}` once {peer} is back")),
        ),
        S::SyncedReplicationComplete => add(
            Health::Warning,
            "prepared",
            format!("{name} was handed over to {peer}"),
            Some(format!("`relevo reverse {name}` on {peer}")),
        ),
        S::Suspended => {
            let severity = if r.mode == Mode::Replica { Health::Critical } else { Health::Warning };
            add(
                severity,
                "suspended",
                "replication is suspended".to_owned(),
                Some(format!("relevo resume {name}")),
            );
        }
        S::Critical if r.superseded.is_none() => add(
            Health::Critical,
            "critical",
            "replication has stopped".to_owned(),
            Some(format!("relevo resume {name}")),
        ),
        S::WaitingForResynchronize | S::Resynchronizing | S::ResynchronizeSuspended => add(
            Health::Critical,
            "resync",
            format!(
                "primary and replica are being compared or wait for it: {}",
                r.resync.as_deref().unwrap_or("asked for")
            ),
            (r.state != S::Resynchronizing).then(|| format!("relevo resume {name}")),
        ),
        S::FailbackInProgress => {
            add(Health::Warning, "failback", format!("the difference is being pulled from {peer}"), None);
        }
        S::FailbackComplete => add(
            Health::Warning,
            "failback-ready",
            format!("{name} is ready to come home"),
            Some(format!("relevo failback {name} --complete")),
        ),
        _ => {}
    }
    if let (Some(reason), Some(until)) = (&r.retry.reason, r.retry.until_ms)
        && r.retry.attempts > 0
    {
        let wait = duration((until - now_ms()).max(0) as f64 / 1000.0);
        add(
            Health::Critical,
            "failing",
            format!("{reason}; next try in {wait}"),
            Some(format!("`relevo resume {name}` tries at once")),
        );
    } else if let Some(reason) = &r.retry.reason {
        add(Health::Warning, "waiting", reason.clone(), None);
    }
    let s = &r.statistics;
    let cycles = s.cycles_succeeded + s.cycles_missed;
    if cycles > 10 && s.cycles_missed * 100 > cycles * MISSED_PERCENT {
        add(
            Health::Warning,
            "missed",
            format!("{} of {cycles} cycles came late", s.cycles_missed),
            Some("a longer interval, or more bandwidth".to_owned()),
        );
    }
    if r.state == S::Replicating
        && s.last_success_ms
            .is_some_and(|at| (now_ms() - at) / 1000 > BEHIND_S.max(2 * i64::from(r.settings.interval_s)))
    {
        add(Health::Warning, "behind", "nothing was replicated for more than an hour".to_owned(), None);
    }
    let way_back = host.authorization(std::slice::from_ref(peer)).ok().flatten().is_some();
    if r.mode == Mode::Primary && !way_back {
        add(
            Health::Warning,
            "way-back",
            format!("the way back is closed: {peer} is not authorized to replicate to this host"),
            Some(format!("relevo authorize {peer} --storage DIR")),
        );
    }
    if r.mode == Mode::Primary
        && let Ok(snapshots) = host.hypervisor.internal_snapshots(r.vm)
        && !snapshots.is_empty()
    {
        add(
            Health::Warning,
            "internal-snapshots",
            format!(
                "internal snapshots exist ({}); reverting to one would fail and leave the VM off",
                snapshots.join(", ")
            ),
            Some(format!("`relevo suspend {name} --release` before a revert")),
        );
    }
    issues
}
