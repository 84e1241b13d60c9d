//! Operations on a relationship: each becomes the engine's, under a job.

use super::{owner, point};
use crate::{
    api::{Command, ErrorKind, FailoverKind, Failure, Reply},
    host::Host,
    jobs::job_type,
    owner::{Mail, OwnerHandle, refused},
    peer::Answer,
    steps::{self, StepContext},
};
use engine::{Operation, Relationship};
use model::{JobId, Mode, ReplicationState};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub async fn operate(host: &Arc<Host>, command: &Command) -> Result<Reply, Failure> {
    let (owner, operation) = resolve(host, command)?;
    let record = owner.record();
    if let Command::Suspend { release: true, .. } = command {
        owner.operate(Operation::Suspend, None).await?;
        owner.release().await?;
        let name = &record.name;
        return Ok(Reply::Done {
            message: format!(
                "{name} is suspended and its checkpoints are released; `relevo resume {name}` compares and goes on"
            ),
        });
    }
    let at_once = matches!(
        operation,
        Operation::Suspend | Operation::Resume | Operation::CancelResynchronize | Operation::CancelFailback
    );
    if at_once {
        let what = operation.name();
        owner.operate(operation, None).await?;
        return Ok(Reply::Done { message: format!("{}: {what} done", record.name) });
    }
    if drives_from_peer(&record, &operation) {
        return forward(host, record, operation);
    }
    record.permit(&operation).map_err(|refusal| refused(&record, &operation, &refusal))?;
    let (job, cancel) =
        host.jobs.begin(Some((record.vm, &record.name)), operation.name(), job_type(&operation));
    follow_cancel(host, &owner, job, cancel);
    if let Err(failure) = owner.operate(operation, Some(job)).await {
        host.jobs.end(job, Err(failure.clone()));
        return Err(failure);
    }
    host.jobs
        .view(job)
        .map(|view| Reply::Job(Box::new(view)))
        .ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

/// Passes an operator's wish to cancel a job on to the VM's owner.
pub fn follow_cancel(host: &Host, owner: &OwnerHandle, job: JobId, cancel: CancellationToken) {
    let (owner, ended, shutdown) = (owner.clone(), host.jobs.watch(job), host.shutdown.clone());
    host.tasks.spawn(async move {
        let ended = async {
            if let Some(mut ended) = ended {
                let _ = ended.wait_for(|ended| *ended).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => owner.send(Mail::CancelJob(job)).await,
            () = ended => {}
            () = shutdown.cancelled() => {}
        }
    });
}

/// Operations that either host may be asked for, and whose steps are driven by the other one.
pub fn drives_from_peer(record: &Relationship, operation: &Operation) -> bool {
    match operation {
        Operation::Reverse => record.mode == Mode::Primary && !record.may_run(),
        Operation::CompleteFailback { .. } => record.mode == Mode::Primary && record.may_run(),
        _ => false,
    }
}

/// Has the peer carry the operation out, under a job of this host that follows it.
fn forward(host: &Arc<Host>, record: Relationship, operation: Operation) -> Result<Reply, Failure> {
    let (job, cancel) =
        host.jobs.begin(Some((record.vm, &record.name)), operation.name(), job_type(&operation));
    let view = host.jobs.view(job).map(|view| Reply::Job(Box::new(view)));
    let context = StepContext {
        host: host.clone(),
        progress: host.jobs.progress(job).unwrap_or_default(),
        cancel,
        record,
    };
    let jobs = host.jobs.clone();
    host.tasks.spawn(async move {
        let (name, peer, what) = (context.record.name.clone(), context.record.peer.clone(), operation.name());
        let through = |answer: &Answer| {
            let primary = answer.standing.as_ref().is_some_and(|standing| standing.mode == Mode::Primary);
            primary && answer.work.is_none()
        };
        let result = match steps::operate(&context, operation, vec![], through).await {
            Ok(_) => Ok(format!("{name}: {what} done, by {peer}")),
            Err(failure) => Err(Failure::new(
                ErrorKind::Failed,
                "operation-failed",
                format!("{name}: {what} failed on {peer}: {}", failure.reason()),
            )),
        };
        jobs.end(job, result);
    });
    view.ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

/// Which operation on which VM a command is, on this host.
pub fn resolve(host: &Host, command: &Command) -> Result<(OwnerHandle, Operation), Failure> {
    let no_operation = || Failure::new(ErrorKind::Failed, "failed", "not an operation on a relationship");
    let (owner, operation) = match command {
        Command::Failover { vm, kind, start } => {
            let owner = owner(host, vm)?;
            let record = owner.record();
            let operation = match kind {
                FailoverKind::Planned if record.mode == Mode::Primary => {
                    Operation::Prepare { force: false, then_fail_over: Some(*start) }
                }
                FailoverKind::Planned => Operation::PlannedFailover { start: *start },
                FailoverKind::Unplanned { point: chosen } => {
                    if record.mode == Mode::Primary {
                        return Err(elsewhere(&record, "failover"));
                    }
                    let chosen = match chosen {
                        Some(text) => point(host, record.vm, text)?,
                        None => record.latest.ok_or_else(|| no_point(&record))?,
                    };
                    Operation::Failover { point: chosen, start: *start }
                }
                FailoverKind::Test { .. } => return Err(no_operation()),
            };
            (owner, operation)
        }
        Command::StartReplication { vm } => (owner(host, vm)?, Operation::StartReplication),
        Command::PrepareFailover { vm } => {
            (owner(host, vm)?, Operation::Prepare { force: false, then_fail_over: None })
        }
        Command::CancelFailover { vm } => (owner(host, vm)?, Operation::CancelPrepare),
        Command::BecomeReplica { vm } => (owner(host, vm)?, Operation::Yield),
        Command::CancelResync { vm } => (owner(host, vm)?, Operation::CancelResynchronize),
        Command::Revert { vm } => (owner(host, vm)?, Operation::Revert),
        Command::Commit { vm } => (owner(host, vm)?, Operation::Commit),
        Command::Reverse { vm } => (owner(host, vm)?, Operation::Reverse),
        Command::Failback { vm } => (owner(host, vm)?, Operation::Failback),
        Command::FailbackComplete { vm, point: chosen, force } => {
            let owner = owner(host, vm)?;
            let chosen = chosen.as_deref().map(|text| point(host, owner.vm, text)).transpose()?;
            (owner, Operation::CompleteFailback { point: chosen, force: *force })
        }
        Command::FailbackCancel { vm } => (owner(host, vm)?, Operation::CancelFailback),
        Command::Suspend { vm, .. } => (owner(host, vm)?, Operation::Suspend),
        Command::Resume { vm } => (owner(host, vm)?, Operation::Resume),
        Command::Resync { vm } => {
            let owner = owner(host, vm)?;
            // A first copy that was cancelled has nothing to compare with: it begins again.
            let ready = owner.record().state == ReplicationState::Ready;
            (owner, if ready { Operation::StartReplication } else { Operation::Resynchronize })
        }
        _ => return Err(no_operation()),
    };
    Ok((owner, operation))
}

fn no_point(record: &Relationship) -> Failure {
    Failure::new(
        ErrorKind::InvalidState,
        "no-point",
        format!("{} has no recovery point yet: its first copy is not complete", record.name),
    )
}

fn elsewhere(record: &Relationship, what: &str) -> Failure {
    let (name, peer) = (&record.name, &record.peer);
    Failure::new(
        ErrorKind::WrongHost,
        "wrong-host",
        format!("{what} of {name} runs on {peer}, which holds its replica"),
    )
    .hint(format!("on {peer}: relevo {what} {name}; from here: relevo failover {name} --planned"))
}
