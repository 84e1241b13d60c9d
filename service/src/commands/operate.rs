//! Operations on a relationship: each becomes the engine's, under a job.

use super::{owner, point};
use crate::{
    api::{Command, ErrorKind, FailoverKind, Failure, Reply},
    clock::context,
    host::Host,
    jobs::job_type,
    owner::{OwnerHandle, refused},
    peer::{Answer, PeerRequest, PeerResult, UNKNOWN_HERE},
    steps::{self, StepContext},
};
use engine::{Operation, Relationship, standing::TokenKind};
use model::{Mode, ReplicationState};
use std::sync::Arc;

pub async fn operate(host: &Arc<Host>, command: &Command) -> Result<Reply, Failure> {
    let (owner, operation) = resolve(host, command).await?;
    carry_out(host, command, owner, operation).await
}

/// Has an owner carry an operation out, which was made of `command`.
pub async fn carry_out(
    host: &Arc<Host>,
    command: &Command,
    owner: OwnerHandle,
    operation: Operation,
) -> Result<Reply, Failure> {
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
    if drives_from_peer(&record, &operation) {
        return forward(host, record, operation);
    }
    if let Command::Resync { at_ms: Some(at_ms), .. } | Command::StartReplication { at_ms: Some(at_ms), .. } =
        command
    {
        return super::start::begin(host, &owner, operation, Some(*at_ms)).await;
    }
    begin(host, &owner, operation).await
}

/// Begins an operation under a job, which may have ended with the answer.
pub async fn begin(host: &Arc<Host>, owner: &OwnerHandle, operation: Operation) -> Result<Reply, Failure> {
    let record = owner.record();
    let admitted = record.admits(context(), &operation);
    admitted.map_err(|refusal| refused(&record, &operation, &refusal))?;
    super::ready::check(host, &record, &operation).await?;
    if matches!(operation, Operation::Failback { .. }) {
        runs_over_there(&record, steps::ask(host, &record, PeerRequest::Greet).await)?;
    }
    let (job, cancel) =
        host.jobs.begin(Some((record.vm, &record.name)), operation.name(), job_type(&record, &operation));
    owner.follow_cancel(host, job, cancel);
    if let Err(failure) = owner.operate(operation, Some(job)).await {
        host.jobs.end(job, Err(failure.clone()));
        return Err(failure);
    }
    host.jobs
        .view(job)
        .map(|view| Reply::Job(Box::new(view)))
        .ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

/// A VM comes home from where it runs: from a peer that failed it over, or has become its primary.
pub fn runs_over_there(record: &Relationship, answer: Result<Answer, Failure>) -> Result<(), Failure> {
    let (name, peer) = (&record.name, &record.peer);
    let not_there = |why: String| Failure::new(ErrorKind::InvalidState, "not-failed-over", why);
    let answer = answer.map_err(|failure| match failure.id.as_str() {
        UNKNOWN_HERE => not_there(failure.message),
        _ => failure,
    })?;
    if let PeerResult::Refused { failure } = answer.result {
        return Err(failure);
    }
    let Some(standing) = answer.standing else {
        let message = format!("{peer} does not say how it stands to {name}");
        return Err(Failure::new(ErrorKind::StatusUnknown, "peer-status", message));
    };
    let failed_over = matches!(standing.state, ReplicationState::Recovered | ReplicationState::Committed);
    let (mode, state) = (standing.mode, standing.state);
    match answer.work {
        _ if standing.token == TokenKind::Held && (failed_over || mode == Mode::Primary) => Ok(()),
        Some(work) => {
            Err(Failure::new(ErrorKind::InUse, "peer-busy", format!("{name}: {peer} is busy with: {work}"))
                .hint("try again when that has ended"))
        }
        None => {
            Err(not_there(format!("{name} was not failed over to {peer}: it is its {mode}, state `{state}`")))
        }
    }
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
        host.jobs.begin(Some((record.vm, &record.name)), operation.name(), job_type(&record, &operation));
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
        let result = match steps::operate(&context, operation, None, through).await {
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

/// Which operation on which VM a command is, on this host. The peer is asked for a point that it keeps.
pub async fn resolve(host: &Host, command: &Command) -> Result<(OwnerHandle, Operation), Failure> {
    let (owner, operation) = resolve_here(host, command)?;
    match command {
        Command::Failback { point: Some(text), .. } => {
            let point = super::home::ask_for(host, &owner.record(), text).await?;
            Ok((owner, Operation::Failback { point: Some(point) }))
        }
        _ => Ok((owner, operation)),
    }
}

fn resolve_here(host: &Host, command: &Command) -> Result<(OwnerHandle, Operation), Failure> {
    let no_operation = || Failure::new(ErrorKind::Failed, "failed", "not an operation on a relationship");
    let (owner, operation) = match command {
        Command::Failover { vm, kind, start } => {
            let owner = owner(host, vm)?;
            let record = owner.record();
            let operation = match kind {
                FailoverKind::Planned if record.mode == Mode::Primary => {
                    Operation::Prepare { force: false, then_fail_over: Some(*start), keep: false }
                }
                FailoverKind::Planned => Operation::PlannedFailover { start: *start },
                FailoverKind::Unplanned { point: chosen } => {
                    if record.mode == Mode::Primary {
                        return Err(elsewhere(&record, "failover"));
                    }
                    let chosen = chosen.as_deref().map(|text| point(host, record.vm, text)).transpose()?;
                    if chosen.is_none() && record.latest.is_none() {
                        return Err(no_point(&record));
                    }
                    Operation::Failover { point: chosen, start: *start }
                }
                FailoverKind::Test { .. } => return Err(no_operation()),
            };
            (owner, operation)
        }
        Command::CancelStart { vm } => (owner(host, vm)?, Operation::CancelStart),
        Command::PrepareFailover { vm } => {
            (owner(host, vm)?, Operation::Prepare { force: false, then_fail_over: None, keep: false })
        }
        Command::CancelFailover { vm } => (owner(host, vm)?, Operation::CancelPrepare),
        Command::BecomeReplica { vm } => (owner(host, vm)?, Operation::Yield),
        Command::Scrub { vm } => (owner(host, vm)?, Operation::Scrub),
        Command::CancelResync { vm } => (owner(host, vm)?, Operation::CancelResynchronize),
        Command::Revert { vm } => (owner(host, vm)?, Operation::Revert),
        Command::Commit { vm } => (owner(host, vm)?, Operation::Commit),
        Command::Reverse { vm } => (owner(host, vm)?, Operation::Reverse),
        Command::ChangeToPrimary { vm } => (owner(host, vm)?, super::extended::change_to_primary(host, vm)?),
        Command::Failback { vm, .. } => (owner(host, vm)?, Operation::Failback { point: None }),
        Command::FailbackComplete { vm, point: chosen, force } => {
            let owner = owner(host, vm)?;
            let chosen = chosen.as_deref().map(|text| point(host, owner.vm, text)).transpose()?;
            (owner, Operation::CompleteFailback { point: chosen, force: *force })
        }
        Command::FailbackCancel { vm } => (owner(host, vm)?, Operation::CancelFailback),
        Command::Suspend { vm, .. } => (owner(host, vm)?, Operation::Suspend),
        Command::Resume { vm } => (owner(host, vm)?, Operation::Resume),
        Command::Resync { vm, .. } => {
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
