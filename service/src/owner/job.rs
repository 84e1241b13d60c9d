//! The job that an owner's relationship is busy with: who began it, what it stands for, and how it ends.

use super::*;
use engine::GIVEN_UP;
use serde::{Deserialize, Serialize};

/// The operation that a job stands for, kept so that the job survives a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JobLink {
    pub(super) job: JobId,
    pub(super) operation: Operation,
}

pub(super) fn job_key(record: &Relationship) -> &'static str {
    document::JOB[usize::from(record.is_extended())]
}

/// The jobs that the relationships of an earlier run were busy with.
pub fn live_job(host: &Host, record: &Relationship) -> Option<JobId> {
    let link: JobLink = host.document(record.vm, job_key(record)).ok().flatten()?;
    stands_for(&link.operation, record).then_some(link.job)
}

/// Is the record still busy with this operation.
pub(super) fn stands_for(operation: &Operation, record: &Relationship) -> bool {
    let waits = record.waiting.as_ref() == Some(operation);
    // What only changes the state has no work that would have to be cleaned up.
    let works = operation.work_kind().is_some_and(|kind| {
        record.work.as_ref().is_some_and(|work| [kind, engine::WorkKind::Abandon].contains(&work.kind))
    });
    // Between two tries nothing is under way.
    let goes_on = matches!(
        (operation, record.state),
        (Operation::Resynchronize, ReplicationState::Resynchronizing)
            | (Operation::UpdateDisks, ReplicationState::DiskUpdateInProgress)
    );
    waits || works || goes_on
}

impl Owner {
    /// A job for what an event has begun, and nobody asked for now.
    pub(super) fn begin_job_of_itself(&mut self, before: &Relationship) {
        if let (Some(begun), None) = (&before.scheduled, &self.record.scheduled) {
            self.begin_job(begun.operation.clone());
        }
        let scrubs =
            |r: &Relationship| r.work.as_ref().is_some_and(|work| work.kind == engine::WorkKind::Scrub);
        if scrubs(&self.record) && !scrubs(before) && self.job.is_none() {
            self.begin_job(Operation::Scrub);
        }
    }

    /// A job for what has begun by itself.
    fn begin_job(&mut self, operation: Operation) {
        let r = &self.record;
        if !stands_for(&operation, r) {
            tracing::warn!(vm = %r.name, operation = operation.name(), state = %r.state, "put off, and not possible now");
            return;
        }
        self.link_job(self.new_job(&operation), operation);
    }

    /// A job that can be cancelled, for what no operator of this host asked for.
    pub(super) fn new_job(&self, operation: &Operation) -> JobId {
        let r = &self.record;
        let kind = crate::jobs::job_type(r, operation);
        let (job, cancel) = self.host.jobs.begin(Some((r.vm, &r.name)), operation.name(), kind);
        if let Some(owner) = self.host.relationship(r.vm, r.index) {
            owner.follow_cancel(&self.host, job, cancel);
        }
        job
    }

    /// The job ends with the operation, which may have been done at once. A job that was followed before is given up
    /// for it: the record is busy with one operation.
    pub(super) fn link_job(&mut self, job: JobId, operation: Operation) {
        if !stands_for(&operation, &self.record) {
            // Whoever hears that it is done finds it so.
            self.persist();
            let done = format!("{}: {} done", self.record.name, operation.name());
            return self.host.jobs.end(job, Ok(done));
        }
        if let Some(other) = self.job.take() {
            let why = format!("made way for: {}", operation.name());
            self.host.jobs.end(other.job, Err(self.cancelled(&other.operation, &why)));
        }
        let link = JobLink { job, operation };
        if let Err(failure) = self.host.put_document(self.record.vm, job_key(&self.record), &link) {
            tracing::error!(vm = %self.record.name, %failure, "cannot link the job");
        }
        if let Some(progress) = self.host.jobs.progress(job) {
            self.progress = progress;
        }
        self.job = Some(link);
    }

    pub(super) fn cancelled(&self, operation: &Operation, why: &str) -> Failure {
        let message = format!("{}: {} {why}", self.record.name, operation.name());
        Failure::new(ErrorKind::Cancelled, "cancelled", message)
    }

    /// Ends the job when the record is no longer busy with what it stands for.
    pub(super) fn follow_job(&mut self, end: End) {
        let Some(link) = self.job.take_if(|link| !stands_for(&link.operation, &self.record)) else { return };
        self.progress = Arc::default();
        // Whoever hears that the job has ended finds nothing under way.
        self.publish();
        let name = &self.record.name;
        // What only changes the state is done once it has begun, however the work ended that it had given up.
        let failure = end.failure.filter(|_| link.operation.work_kind().is_some());
        let result = match end.not_begun.or(failure) {
            None => Ok(format!("{name}: {} done", link.operation.name())),
            Some(reason) if reason == GIVEN_UP => {
                // For the host that asked for it.
                self.last_failure = Some("it was cancelled there".to_owned());
                Err(self.cancelled(&link.operation, "was given up"))
            }
            Some(reason) => {
                tracing::error!(event = events::OPERATION_FAILED, vm = %name, operation = link.operation.name(), reason, "the operation failed");
                Err(Failure::new(
                    ErrorKind::Failed,
                    "operation-failed",
                    format!("{name}: {} failed: {reason}", link.operation.name()),
                ))
            }
        };
        self.host.jobs.end(link.job, result);
        if let Err(failure) = self.host.drop_document(self.record.vm, job_key(&self.record)) {
            tracing::error!(vm = %name, %failure, "cannot unlink the job");
        }
    }
}
