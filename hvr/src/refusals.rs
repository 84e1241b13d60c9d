//! Calls that were refused: kept for a while as jobs that have failed, so that a client can ask for the whole error
//! where the call itself answers no more than a return code.

use model::{JobId, VmId};
use service::api::{Failure, JobState, JobView};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// As long as ended jobs are.
const KEEP: Duration = Duration::from_secs(300);
/// So that a client that only makes mistakes costs no more than this; the oldest go first.
const KEPT_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Refusals(Mutex<VecDeque<(Instant, JobView)>>);

impl Refusals {
    /// Keeps a refusal; answers the job by which it can be asked for.
    pub fn keep(&self, vm: Option<VmId>, kind: &str, failure: Failure) -> JobId {
        let job = JobId::random();
        let view = JobView {
            job,
            vm,
            vm_name: None,
            kind: kind.to_owned(),
            kind_number: 0,
            state: JobState::Exception,
            progress_percent: 0,
            stage: String::new(),
            bytes_done: 0,
            bytes_total: 0,
            cancellable: false,
            submitted_at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            elapsed_s: 0.0,
            failure: Some(failure),
            outcome: None,
        };
        let mut kept = self.kept();
        kept.push_back((Instant::now(), view));
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        job
    }

    pub fn all(&self) -> Vec<JobView> {
        self.kept().iter().map(|(_, view)| view.clone()).collect()
    }

    pub fn find(&self, job: JobId) -> Option<JobView> {
        self.kept().iter().find(|(_, view)| view.job == job).map(|(_, view)| view.clone())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Instant, JobView)>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.front().is_some_and(|(at, _)| at.elapsed() > KEEP) {
            kept.pop_front();
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::api::ErrorKind;

    #[test]
    fn the_oldest_refusals_make_room() {
        let refusals = Refusals::default();
        let refuse = || refusals.keep(None, "X", Failure::new(ErrorKind::Failed, "x", "no"));
        let first = refuse();
        assert_eq!(refusals.find(first).unwrap().failure.unwrap().message, "no");
        for _ in 0..KEPT_MAX {
            refuse();
        }
        assert_eq!((refusals.find(first), refusals.all().len()), (None, KEPT_MAX));
    }
}
