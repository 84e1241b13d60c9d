//! Jobs: operations that may take longer than a second, persisted, with progress that moves. A job follows
//! the relationship's work; after a restart it goes on with it.

use crate::{
    api::{Failure, JobState, JobView},
    changes::{Change, Changes},
    clock::{now_ms, rfc3339},
};
use catalog::Catalog;
use engine::{Operation, Relationship};
use model::{JobId, VmId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Ended jobs are kept this long (`TimeBeforeRemoval`).
const KEEP_ENDED_MS: i64 = 5 * 60 * 1000;

#[derive(Clone)]
pub struct Jobs {
    catalog: Catalog,
    changes: Changes,
    running: Arc<Mutex<HashMap<JobId, Running>>>,
}

/// A job that has not ended.
#[derive(Clone)]
struct Running {
    record: Record,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    ended: watch::Sender<bool>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    job: JobId,
    vm: Option<VmId>,
    vm_name: Option<String>,
    kind: String,
    kind_number: u16,
    created_ms: i64,
    ended_ms: Option<i64>,
    state: JobState,
    stage: String,
    failure: Option<Failure>,
    outcome: Option<String>,
    cancellable: bool,
}

/// Moves while a step works; read by whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    pub total: AtomicU64,
    pub stage: Mutex<String>,
}

impl Progress {
    pub fn set_stage(&self, stage: &str) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage.to_owned();
    }

    pub fn stage(&self) -> String {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn start(&self, stage: &str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.set_stage(stage);
    }
}

/// A first copy onto a seed.
const SEEDED: u16 = 117;
const EXPORT: u16 = 118;
/// A planned failover: until its last delta is on the other host.
const PREPARE: u16 = 100;
/// A reversal: until the other host has become the replica.
const REVERSE: u16 = 104;
/// Also of recovery points that are read without sending anything.
pub const CONSISTENCY_CHECK: u16 = 113;
/// Importing a first copy.
pub const IMPORT: u16 = 95;

/// `Msvm_ConcreteJob.JobType` of an operation on this relationship.
pub fn job_type(record: &Relationship, operation: &Operation) -> u16 {
    match operation {
        Operation::StartReplication if record.seed.is_some() => SEEDED,
        Operation::StartReplication => 94,
        Operation::UpdateDisks => 125,
        Operation::Export => EXPORT,
        Operation::Later { operation, .. } => job_type(record, operation),
        Operation::CancelStart => 109,
        Operation::Suspend | Operation::Resume | Operation::Seed { .. } | Operation::Yield => 96,
        Operation::Resynchronize if record.is_extended() => 121,
        Operation::Resynchronize => 107,
        Operation::CancelResynchronize => 110,
        Operation::Scrub => CONSISTENCY_CHECK,
        Operation::Failover { .. } | Operation::PlannedFailover { .. } => 97,
        Operation::Prepare { .. } => PREPARE,
        Operation::CancelPrepare => 101,
        Operation::Revert => 98,
        Operation::Commit => 99,
        Operation::Reverse | Operation::Feed { .. } => REVERSE,
        Operation::ChangeToPrimary { .. } => 123,
        Operation::Failback { .. } | Operation::CompleteFailback { .. } | Operation::CancelFailback => 124,
    }
}

impl Jobs {
    pub fn new(catalog: Catalog, changes: Changes) -> Self {
        Self { catalog, changes, running: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(
        &self,
        vm: Option<(VmId, &str)>,
        kind: &str,
        kind_number: u16,
    ) -> (JobId, CancellationToken) {
        let record = Record {
            job: JobId::random(),
            vm: vm.map(|(vm, _)| vm),
            vm_name: vm.map(|(_, name)| name.to_owned()),
            kind: kind.to_owned(),
            kind_number,
            created_ms: now_ms(),
            ended_ms: None,
            state: JobState::Running,
            stage: String::new(),
            failure: None,
            outcome: None,
            cancellable: matches!(
                kind_number,
                94 | CONSISTENCY_CHECK | SEEDED | EXPORT | PREPARE | REVERSE | IMPORT
            ),
        };
        self.persist(&record);
        let job = record.job;
        let cancel = self.track(record);
        self.changes.publish(Change::Job(job));
        (job, cancel)
    }

    fn track(&self, record: Record) -> CancellationToken {
        let cancel = CancellationToken::new();
        let running = Running {
            progress: Arc::default(),
            cancel: cancel.clone(),
            ended: watch::Sender::new(false),
            record,
        };
        self.lock().insert(running.record.job, running);
        cancel
    }

    /// Takes up the jobs of an earlier run that are still `live`; the others end with the reason.
    pub fn resume(&self, live: &[JobId]) {
        for row in self.catalog.jobs().unwrap_or_default() {
            let Ok(mut record) = serde_json::from_str::<Record>(&row.json) else { continue };
            if record.state.has_ended() {
                continue;
            }
            if live.contains(&record.job) {
                self.track(record);
            } else {
                record.state = JobState::Exception;
                record.ended_ms = Some(now_ms());
                record.failure = Some(Failure::new(
                    crate::api::ErrorKind::Failed,
                    "interrupted",
                    "the daemon was restarted while this ran",
                ));
                self.persist(&record);
            }
        }
    }

    pub fn progress(&self, job: JobId) -> Option<Arc<Progress>> {
        self.lock().get(&job).map(|running| running.progress.clone())
    }

    /// Ends a job; ending it twice changes nothing.
    pub fn end(&self, job: JobId, result: Result<String, Failure>) {
        let Some(mut running) = self.lock().remove(&job) else { return };
        let record = &mut running.record;
        record.ended_ms = Some(now_ms());
        record.stage = running.progress.stage();
        match result {
            Ok(outcome) => {
                record.state = JobState::Completed;
                record.outcome = Some(outcome);
            }
            Err(failure) => {
                let cancelled = failure.kind == crate::api::ErrorKind::Cancelled;
                record.state = if cancelled { JobState::Terminated } else { JobState::Exception };
                record.failure = Some(failure);
            }
        }
        self.persist(record);
        running.ended.send_replace(true);
        self.changes.publish(Change::Job(job));
        if let Err(error) = self.catalog.delete_jobs_ended_before(now_ms() - KEEP_ENDED_MS) {
            tracing::warn!(%error, "cannot sweep ended jobs");
        }
    }

    /// Asks a job to stop. `false`: there is no such running job, or it cannot be cancelled.
    pub fn cancel(&self, job: JobId) -> bool {
        let running = self.lock().get(&job).cloned();
        running.filter(|running| running.record.cancellable).map(|running| running.cancel.cancel()).is_some()
    }

    /// What is cancelled when a running job is asked to stop.
    pub fn canceller(&self, job: JobId) -> Option<CancellationToken> {
        self.lock().get(&job).map(|running| running.cancel.clone())
    }

    /// Waits for the end of a job; one that does not run has ended.
    pub async fn until_ended(&self, job: JobId) {
        if let Some(mut ended) = self.watch(job) {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    pub fn watch(&self, job: JobId) -> Option<watch::Receiver<bool>> {
        self.lock().get(&job).map(|running| running.ended.subscribe())
    }

    pub fn view(&self, job: JobId) -> Option<JobView> {
        if let Some(running) = self.lock().get(&job).cloned() {
            return Some(view(&running.record, Some(&running.progress)));
        }
        let row = self.catalog.job(job).ok().flatten()?;
        serde_json::from_str::<Record>(&row.json).ok().map(|record| view(&record, None))
    }

    pub fn views(&self) -> Vec<JobView> {
        let rows = self.catalog.jobs().unwrap_or_default();
        rows.iter().filter_map(|row| self.view(row.id)).collect()
    }

    fn persist(&self, record: &Record) {
        let row = catalog::Job {
            id: record.job,
            vm: record.vm,
            kind: record.kind.clone(),
            state: format!("{:?}", record.state).to_lowercase(),
            progress: if record.state == JobState::Completed { 100 } else { 0 },
            stage: record.stage.clone(),
            created_ms: record.created_ms,
            started_ms: Some(record.created_ms),
            ended_ms: record.ended_ms,
            json: serde_json::to_string(record).expect("plain data"),
        };
        if let Err(error) = self.catalog.save_job(&row) {
            tracing::error!(job = %record.job, %error, "cannot save a job");
        }
    }
}

fn view(record: &Record, progress: Option<&Progress>) -> JobView {
    let done = progress.map_or(0, |p| p.done.load(Ordering::Relaxed));
    let total = progress.map_or(0, |p| p.total.load(Ordering::Relaxed));
    let percent = match record.state {
        JobState::Completed => 100,
        // Reserved for the end: a job is not at 100 before it has ended.
        _ if total > 0 => u8::try_from((done.min(total) * 99) / total).unwrap_or(99),
        _ => 0,
    };
    JobView {
        job: record.job,
        vm: record.vm,
        vm_name: record.vm_name.clone(),
        kind: record.kind.clone(),
        kind_number: record.kind_number,
        state: record.state,
        progress_percent: percent,
        stage: progress.map_or_else(|| record.stage.clone(), Progress::stage),
        bytes_done: done,
        bytes_total: total,
        cancellable: record.cancellable && record.ended_ms.is_none(),
        submitted_at: rfc3339(record.created_ms),
        elapsed_s: (record.ended_ms.unwrap_or_else(now_ms) - record.created_ms) as f64 / 1000.0,
        failure: record.failure.clone(),
        outcome: record.outcome.clone(),
    }
}
