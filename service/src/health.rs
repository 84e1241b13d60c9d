//! Health: what an operator should know of a relationship, by Hyper-V Replica's rules and ours.

use crate::{
    addresses,
    api::Issue,
    clock::{now_ms, rfc3339},
    host::{Host, document},
    owner::OwnerHandle,
    views::duration,
};
use engine::FailoverType;
use model::{Health, Mode, Repaired, ReplicationState as S, VmId};
use std::path::PathBuf;

/// A relationship whose last success is older is behind.
const BEHIND_S: i64 = 3600;
/// More missed cycles than this part is a warning.
const MISSED_PERCENT: u64 = 20;
/// Cycles that take longer on average are a warning.
const LATENCY_MAX_MS: u64 = 300_000;
/// A file system with less left is as good as full, however little a cut must leave.
const FULL_BYTES: u64 = 16 << 20;

pub fn worst(issues: &[Issue]) -> Health {
    issues.iter().map(|issue| issue.severity).max().unwrap_or(Health::Normal)
}

pub fn issues(host: &Host, owner: &OwnerHandle) -> Vec<Issue> {
    let snapshot = owner.snapshot();
    let r = &snapshot.record;
    let (name, peer) = (&r.name, &r.peer);
    let flag = if r.is_extended() { " --extended" } else { "" };
    let mut issues = vec![];
    let mut add = |severity, id: &str, message: String, hint: Option<String>| {
        issues.push(Issue { severity, id: id.to_owned(), message, hint });
    };
    if let Some(superseded) = r.superseded.as_ref().filter(|_| r.is_extended()) {
        add(
            Health::Critical,
            "superseded",
            format!("{peer} took {name} over (generation {}): nothing is forwarded to it", superseded.by),
            Some(format!("`relevo revert {name}` on {peer} lets it follow again")),
        );
    } else if let Some(superseded) = &r.superseded {
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
    if let Some(scheduled) = &r.scheduled {
        let (what, at) = (scheduled.operation.name(), rfc3339(scheduled.at_ms));
        add(Health::Normal, "scheduled", format!("{what} at {at}"), None);
    }
    match r.state {
        S::Ready => add(
            Health::Warning,
            "not-started",
            "the first copy has not begun".to_owned(),
            Some(format!("relevo start {name}{flag}")),
        ),
        S::WaitingForInitialReplication if r.exported.is_some() => add(
            Health::Warning,
            "exported",
            format!("the first copy is in files, and {peer} has not imported it"),
            Some(format!("on {peer}: relevo import {name} DIR")),
        ),
        S::WaitingForInitialReplication => {
            add(Health::Warning, "first-copy", "the first copy is not complete".to_owned(), None);
        }
        S::Recovered => add(
            Health::Warning,
            "uncommitted",
            format!("{name} is failed over and not committed"),
            Some(match r.failed_over.as_ref().map(|it| it.kind) {
                Some(FailoverType::Planned) => {
                    format!(
                        "`relevo reverse {name}` replicates it to {peer}, `relevo revert {name}` gives it back"
                    )
                }
                _ => format!("`relevo commit {name}` or `relevo revert {name}`"),
            }),
        ),
        S::Committed => add(
            Health::Warning,
            "unprotected",
            format!("{name} runs without a replica since its failover"),
            Some(match host.extended(r.vm) {
                Some(extended) => format!(
                    "`relevo reverse {name}` once {peer} is back, or `relevo reverse {name} --extended` to {}",
                    extended.record().peer
                ),
                None => format!("`relevo reverse {name}` once {peer} is back"),
            }),
        ),
        S::SyncedReplicationComplete => add(
            Health::Warning,
            "prepared",
            format!("{name} was handed over to {peer}"),
            Some(format!("`relevo reverse {name}` on {peer}")),
        ),
        S::Suspended => {
            let severity = if r.mode.is_replica() { Health::Critical } else { Health::Warning };
            add(
                severity,
                "suspended",
                "replication is suspended".to_owned(),
                Some(format!("relevo resume {name}{flag}")),
            );
        }
        S::Critical if r.superseded.is_none() => add(
            Health::Critical,
            "critical",
            "replication has stopped".to_owned(),
            Some(format!("relevo resume {name}{flag}")),
        ),
        S::WaitingForResynchronize | S::Resynchronizing | S::ResynchronizeSuspended => add(
            Health::Critical,
            "resync",
            format!("primary and replica are being compared or wait for it: {}", resync_reason(r)),
            (r.state != S::Resynchronizing).then(|| format!("relevo resume {name}{flag}")),
        ),
        S::DiskUpdateInProgress => {
            add(Health::Warning, "disk-update", "a changed set of disks is being copied".to_owned(), None);
        }
        S::DiskUpdateCritical => add(
            Health::Critical,
            "disk-update-failed",
            "the changed set of disks could not be taken up".to_owned(),
            Some(format!("relevo resume {name}")),
        ),
        S::FailbackInProgress => {
            add(Health::Warning, "failback", format!("the difference is being pulled from {peer}"), None);
        }
        S::FailbackComplete => add(
            Health::Warning,
            "failback-ready",
            match r.comes_home_as_of {
                Some(point) => format!("{name} is ready to come home as it was at point {point}"),
                None => format!("{name} is ready to come home"),
            },
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
            Some(format!("`relevo resume {name}{flag}` tries at once")),
        );
    } else if let Some(reason) = &r.retry.reason {
        add(Health::Warning, "waiting", reason.clone(), None);
    }
    let s = &r.statistics;
    let interval = &s.interval;
    if r.settings.app_consistent_every_s > 0
        && r.mode == Mode::Primary
        && let Some(reason) = &s.consistent_failure
    {
        add(
            Health::Warning,
            "not-app-consistent",
            format!(
                "the last point that should be application-consistent is not ({} in all): {reason}",
                s.consistent_failed
            ),
            Some("look after the guest agent in the VM (qemu-ga), and its freeze hooks".to_owned()),
        );
    }
    if let Some(outcome) = addresses::outcome(host, r.vm).filter(|outcome| !outcome.applied) {
        add(
            Health::Warning,
            "addresses",
            format!("the guest did not get its addresses after the failover: {}", outcome.message),
            Some(format!("`relevo failover-network {name} --apply` tries again")),
        );
    }
    if let Some(drill) = crate::commands::drill::last(host, r.vm).filter(|drill| !drill.passed) {
        add(
            Health::Warning,
            "drill",
            format!("the fire drill of {} failed: {}", rfc3339(drill.at_ms), drill.message),
            Some(format!("`relevo failover {name} --test` lets you look; `--test --drill` tries again")),
        );
    }
    let Repaired { changed_on_primary, damaged_on_replica } = s.repaired;
    if s.repaired.total() > 0 {
        let mut found = vec![];
        if damaged_on_replica > 0 {
            found.push(format!("{damaged_on_replica} clusters that {peer} had received were damaged there"));
        }
        if changed_on_primary > 0 {
            found.push(format!(
                "{changed_on_primary} clusters had changed on this host without a recorded write"
            ));
        }
        add(
            Health::Warning,
            "scrub",
            format!("a scrub found that {}; they were sent anew", found.join(", and ")),
            Some(format!(
                "look after the disks and the memory of that host, and `relevo verify` the older points; `relevo \
                 reset-statistics {name}` ends this warning"
            )),
        );
    }
    // While a cut is being made a guest is frozen on purpose.
    let cuts = matches!(r.work.as_ref().and_then(engine::Work::step), Some(engine::Step::Cut { .. }));
    if !cuts && host.capture_of(r.vm, vec![]).may_be_frozen() {
        add(
            Health::Critical,
            "frozen",
            format!(
                "the file systems of {name} may be frozen since an interrupted cut; thawing is tried again and again"
            ),
            Some(
                "where the guest agent has died, thaw inside the guest (fsfreeze -u), or reset the VM"
                    .to_owned(),
            ),
        );
    }
    let cycles = interval.succeeded + interval.missed;
    if cycles > 10 && interval.missed * 100 > cycles * MISSED_PERCENT {
        add(
            Health::Warning,
            "missed",
            format!("{} of {cycles} cycles of this monitoring interval came late", interval.missed),
            Some("a longer interval, or more bandwidth".to_owned()),
        );
    }
    // Without the longest, which may be a first copy or a comparison.
    let average_ms =
        (interval.latency_ms - interval.latency_ms_max).checked_div(interval.succeeded.saturating_sub(1));
    if let Some(average_ms) = average_ms.filter(|average| *average > LATENCY_MAX_MS) {
        add(
            Health::Warning,
            "latency",
            format!(
                "a cycle of this monitoring interval took {} on average",
                duration(average_ms as f64 / 1000.0)
            ),
            Some("more bandwidth, or less that writes in the guest".to_owned()),
        );
    }
    if r.state == S::Replicating
        && s.last_success_ms
            .is_some_and(|at| (now_ms() - at) / 1000 > BEHIND_S.max(2 * i64::from(r.settings.interval_s)))
    {
        add(Health::Warning, "behind", "nothing was replicated for more than an hour".to_owned(), None);
    }
    if r.is_extended() {
        return issues;
    }
    let entry = host.authorization(std::slice::from_ref(peer)).ok().flatten();
    let way_back = entry.is_some();
    if r.mode.is_replica() {
        match entry {
            None => add(
                Health::Critical,
                "not-authorized",
                format!("{peer} is not authorized on this host any more: what it sends is refused"),
                Some(format!("relevo authorize {peer} --storage DIR")),
            ),
            Some(entry) => {
                if let Err(failure) = host.may_feed(r.vm, peer, &entry) {
                    let message = format!("what {peer} sends is refused: {}", failure.message);
                    add(Health::Critical, "wrong-trust-group", message, failure.hint);
                }
            }
        }
    }
    if let Some((folder, free)) = full(host, r.vm, r.mode) {
        add(
            Health::Critical,
            "disk-full",
            format!("{} has {free} bytes left", folder.display()),
            Some("make room there; replication goes on by itself".to_owned()),
        );
    }
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
    issues.extend(host.watch.issues());
    issues
}

/// Why the disks are compared, and when, if that waits for its part of the day.
fn resync_reason(r: &engine::Relationship) -> String {
    let why = r.resync.as_deref().unwrap_or("asked for");
    if !r.awaits_window {
        return why.to_owned();
    }
    let start = r.settings.resync_window.start_min;
    format!("{why}; it begins by itself at {:02}:{:02}", start / 60, start % 60)
}

/// Where this host keeps what it sends or received, if that file system is as good as full.
fn full(host: &Host, vm: VmId, mode: Mode) -> Option<(PathBuf, u64)> {
    let folder = match mode {
        Mode::Primary => host.spool(),
        _ => host.document(vm, document::STORAGE).ok().flatten()?,
    };
    let at = folder.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(at).ok()?;
    let free = stat.f_bavail * stat.f_frsize;
    (free < host.config.spool.keep_free.min(FULL_BYTES)).then_some((folder, free))
}
