//! What the host watches of itself, whatever its VMs do: the clock, and when its certificate ends.

use crate::{
    api::Issue,
    clock::{Jumps, now_ms, rfc3339},
    host::Host,
    owner::blocking,
    views::duration,
};
use model::Health;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a jump is told.
const TOLD_MS: i64 = 3_600_000;
/// How long before its end a certificate is a matter of concern.
const EXPIRES_SOON_MS: i64 = 14 * 86_400_000;

#[derive(Debug, Default)]
pub struct Watch {
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// When, and by how many milliseconds.
    jump: Option<(i64, i64)>,
    certificate_ends_ms: Option<i64>,
}

/// Looks until the host stops.
pub async fn watch(host: Arc<Host>) {
    let mut jumps = Jumps::default();
    loop {
        let copy = host.clone();
        let ends = blocking(move || crate::certs::own_ends_ms(&copy.dirs)).await;
        host.watch.note(|seen| seen.certificate_ends_ms = ends);
        tokio::select! {
            () = host.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now_ms = now_ms();
        if let Some(by_ms) = jumps.look(now_ms) {
            tracing::warn!(by_ms, "the clock of this host jumped");
            host.watch.note(|seen| seen.jump = Some((now_ms, by_ms)));
        }
    }
}

impl Watch {
    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn issues(&self) -> Vec<Issue> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        issues(&seen, now_ms())
    }
}

fn issues(seen: &Seen, now_ms: i64) -> Vec<Issue> {
    let mut issues = vec![];
    let mut add = |severity, id: &str, message: String, hint: &str| {
        issues.push(Issue { severity, id: id.to_owned(), message, hint: Some(hint.to_owned()) });
    };
    if let Some((at_ms, by_ms)) = seen.jump.filter(|(at_ms, _)| (now_ms - at_ms).abs() < TOLD_MS) {
        let (by, way) = (duration(by_ms.abs() as f64 / 1000.0), if by_ms < 0 { "back" } else { "forward" });
        let message = format!("the clock of this host jumped {way} by {by} at {}", rfc3339(at_ms));
        add(
            Health::Warning,
            "clock",
            message,
            "keep the clock by NTP; the times of points around it are off",
        );
    }
    let hint = "`relevo cert issue`, `relevo cert install`: a running daemon takes it up";
    if let Some(ends_ms) = seen.certificate_ends_ms {
        let left_ms = ends_ms - now_ms;
        if left_ms <= 0 {
            let message = format!("this host's certificate expired at {}", rfc3339(ends_ms));
            add(Health::Critical, "certificate-expired", message, hint);
        } else if left_ms < EXPIRES_SOON_MS {
            let message = format!("this host's certificate expires in {}", duration(left_ms as f64 / 1000.0));
            add(Health::Warning, "certificate-expires", message, hint);
        }
    }
    issues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_told_for_an_hour_and_a_certificate_before_and_after_its_end() {
        const DAY_MS: i64 = 86_400_000;
        let ids = |seen: &Seen, now_ms| issues(seen, now_ms).into_iter().map(|i| i.id).collect::<Vec<_>>();
        let seen = Seen { jump: Some((DAY_MS, -100_000)), certificate_ends_ms: Some(100 * DAY_MS) };
        assert_eq!(ids(&seen, DAY_MS + 1), ["clock"]);
        assert!(issues(&seen, DAY_MS + 1)[0].message.contains("jumped back by 1 min 40 s"));
        assert_eq!(ids(&seen, 2 * DAY_MS), [""; 0]);
        assert_eq!(ids(&seen, 90 * DAY_MS), ["certificate-expires"]);
        assert_eq!(ids(&seen, 101 * DAY_MS), ["certificate-expired"]);
    }
}
