//! Steps that need the peer, and the call that all of them use.

use super::{StepContext, StepOutcome, inplace};
use crate::{
    api::{ErrorKind, Failure, error::chain},
    host::Host,
    owner::libvirt,
    peer::{Answer, Message, OwnChanges, PeerRequest, PeerResult},
};
use engine::{Operation, Relationship, Settings, StepFailure, StepResult, Token, standing::TokenKind};
use model::{DeltaId, Generation, HostName, Mode, VmId};
use std::time::Duration;
use transport::{CallError, LinkError, LinkProblem, Target};

/// Between two looks at a peer that is working for us.
const POLL: Duration = Duration::from_millis(250);
/// A peer that works for us is asked as long as it says that it works; silence ends it after this many tries.
const SILENCE_MAX: u32 = 20;

/// Asks the peer of a relationship; the answer tells how it stands.
pub async fn ask(host: &Host, record: &Relationship, request: PeerRequest) -> Result<Answer, Failure> {
    let (hypervisor, vm) = (host.hypervisor.clone(), record.vm);
    let running = libvirt(move || hypervisor.is_active(vm).unwrap_or(false)).await.unwrap_or(false);
    let standing = Some(record.standing(running));
    send(host, target(&record.peer, &record.settings), Some(record.vm), standing, request).await
}

/// A host, called as these settings say.
pub fn target<'a>(host: &'a HostName, settings: &Settings) -> Target<'a> {
    Target { host, by: settings.authentication, bypass_proxy: settings.bypass_proxy }
}

/// Asks a host about no relationship that exists yet.
pub async fn ask_host(
    host: &Host,
    to: Target<'_>,
    record: Option<&Relationship>,
    request: PeerRequest,
) -> Result<Answer, Failure> {
    let standing = record.map(|record| record.standing(false));
    send(host, to, record.map(|record| record.vm), standing, request).await
}

async fn send(
    host: &Host,
    to: Target<'_>,
    vm: Option<VmId>,
    standing: Option<engine::Standing>,
    request: PeerRequest,
) -> Result<Answer, Failure> {
    let message = Message { from: host.name.clone(), vm, standing, request };
    host.client.call(to, &message).await.map_err(|error| call_failure(to.host, &error))
}

/// What an operator should know of a call that failed.
fn call_failure(to: &HostName, error: &CallError) -> Failure {
    match error {
        CallError::Link(link) => link_failure(link),
        CallError::Refused { answer, .. } => serde_json::from_value(answer.clone()).unwrap_or_else(|_| {
            Failure::new(ErrorKind::Failed, "refused", format!("{to} refused: {answer}"))
        }),
        _ => Failure::new(ErrorKind::Failed, "peer-answer", chain(error)),
    }
}

fn link_failure(error: &LinkError) -> Failure {
    let (kind, id) = match &error.problem {
        LinkProblem::NameUnresolved(_) => (ErrorKind::PeerUnreachable, "peer-name"),
        LinkProblem::ProtocolMismatch { .. } => (ErrorKind::IncompatiblePeer, "peer-version"),
        LinkProblem::UntrustedIssuer
        | LinkProblem::Expired
        | LinkProblem::NotYetValid
        | LinkProblem::WrongName { .. }
        | LinkProblem::NoClientCertificate
        | LinkProblem::RejectedByPeer { .. } => (ErrorKind::AccessDenied, "peer-certificate"),
        LinkProblem::NoKerberos => (ErrorKind::Configuration, "no-kerberos"),
        // Tickets come and go, as KDCs do: what waits for one is tried again.
        LinkProblem::Kerberos(_) => (ErrorKind::PeerUnreachable, "ticket"),
        LinkProblem::TicketRefused { .. } => (ErrorKind::PeerUnreachable, "ticket-refused"),
        _ => (ErrorKind::PeerUnreachable, "peer-unreachable"),
    };
    Failure::new(kind, id, chain(error)).hint(error.problem.hint())
}

fn failed(failure: &Failure) -> StepFailure {
    match failure.kind {
        ErrorKind::InUse => StepFailure::Busy(failure.message.clone()),
        ErrorKind::PeerUnreachable => StepFailure::Unreachable(failure.message.clone()),
        _ => StepFailure::Refused(failure.message.clone()),
    }
}

/// The release travels with our standing; it is through when the peer says that it was offered or taken.
pub async fn tell_release(c: StepContext) -> StepOutcome {
    let Token::Released { to, .. } = c.record.token.clone() else { return Ok(StepResult::Plain) };
    let answer = ask(&c.host, &c.record, PeerRequest::Greet).await;
    let standing = answer.map_err(|f| StepFailure::Recoverable(f.message))?.standing;
    let heard = standing.is_some_and(|standing| {
        standing.generation.number >= to.number
            && matches!(standing.token, TokenKind::Offered | TokenKind::Held)
    });
    if heard {
        Ok(StepResult::Plain)
    } else {
        Err(StepFailure::Busy("the peer has not taken note of the hand-over".to_owned()))
    }
}

pub async fn tell_withdraw(c: StepContext, instead: Generation) -> StepOutcome {
    let answer = ask(&c.host, &c.record, PeerRequest::Withdraw { instead }).await;
    match answer
        .map_err(|f| {
            StepFailure::Refused(format!(
                "the hand-over can only be withdrawn with the peer's answer: {}",
                f.message
            ))
        })?
        .result
    {
        PeerResult::Done => Ok(StepResult::Plain),
        PeerResult::Refused { failure } => Err(StepFailure::Refused(failure.message)),
        _ => Err(StepFailure::Refused("the peer's answer makes no sense".to_owned())),
    }
}

/// Why the peer did not carry an operation out.
enum Unfinished {
    /// It began, and gave up for this reason.
    GaveUp(String),
    Failed(StepFailure),
}

impl From<StepFailure> for Unfinished {
    fn from(failure: StepFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Has the peer carry an operation out and waits until `through` says that it is.
pub async fn operate(
    c: &StepContext,
    operation: Operation,
    changes: Option<OwnChanges>,
    through: impl Fn(&Answer) -> bool,
) -> Result<Answer, StepFailure> {
    attempt(c, operation, changes, through).await.map_err(|unfinished| match unfinished {
        Unfinished::GaveUp(why) => StepFailure::Refused(why),
        Unfinished::Failed(failure) => failure,
    })
}

async fn attempt(
    c: &StepContext,
    operation: Operation,
    changes: Option<OwnChanges>,
    through: impl Fn(&Answer) -> bool,
) -> Result<Answer, Unfinished> {
    let mut silent = 0;
    let mut begun = false;
    loop {
        if c.cancel.is_cancelled() {
            return Err(StepFailure::Cancelled.into());
        }
        let request = if begun {
            PeerRequest::Greet
        } else {
            PeerRequest::Operate { operation: operation.clone(), changes: changes.clone() }
        };
        match ask(&c.host, &c.record, request).await {
            Ok(answer) => {
                silent = 0;
                if let PeerResult::Refused { failure } = &answer.result {
                    return Err(failed(failure).into());
                }
                if through(&answer) {
                    return Ok(answer);
                }
                if begun && answer.work.is_none() {
                    let why = answer.last_failure.unwrap_or_else(|| "it did not say why".to_owned());
                    return Err(Unfinished::GaveUp(format!("{} gave up: {why}", c.record.peer)));
                }
                begun = true;
                if let Some(work) = &answer.work {
                    c.progress.set_stage(&format!("{}: {work}", c.record.peer));
                }
            }
            Err(failure) if failure.kind == ErrorKind::PeerUnreachable && begun && silent < SILENCE_MAX => {
                silent += 1;
            }
            Err(failure) => return Err(failed(&failure).into()),
        }
        tokio::time::sleep(POLL).await;
    }
}

pub async fn prepare(c: StepContext, force: bool, keep: bool) -> StepOutcome {
    let ours = c.record.host.clone();
    let operation = Operation::Prepare { force, then_fail_over: None, keep };
    let answer = operate(&c, operation, None, |answer| {
        answer.standing.as_ref().is_some_and(|s| s.token == TokenKind::Released && s.generation.owner == ours)
    })
    .await?;
    c.host.hear(c.record.vm, answer.standing).await;
    Ok(StepResult::Plain)
}

pub async fn fail_over(c: StepContext, start: bool) -> StepOutcome {
    let Some(point) = c.record.latest else {
        return Err(StepFailure::Refused("nothing was replicated yet".to_owned()));
    };
    let operation = Operation::Failover { point: Some(point), start };
    // It may be busy with the next operation by the time we look, and that may need us.
    let failing_over = engine::WorkKind::Failover.name();
    operate(&c, operation, None, |answer| {
        let holds = answer.standing.as_ref().is_some_and(|s| s.token == TokenKind::Held);
        holds && answer.work.as_deref() != Some(failing_over)
    })
    .await
    .map(|_| StepResult::Plain)
}

/// The peer makes the seed that it has the bottom of its replica.
pub async fn seed(c: StepContext, id: DeltaId) -> StepOutcome {
    operate(&c, Operation::Seed { id }, None, |answer| {
        answer.work.is_none() && answer.standing.as_ref().is_some_and(|s| s.latest.is_some())
    })
    .await
    .map(|_| StepResult::Plain)
}

/// The peer becomes our replica; what it wrote beyond what was acknowledged comes back with the answer.
pub async fn yield_to_us(c: StepContext) -> StepOutcome {
    operate(&c, Operation::Yield, None, |answer| {
        matches!(answer.result, PeerResult::Yielded { .. })
            || answer.standing.as_ref().is_some_and(|s| s.mode.is_replica()) && answer.work.is_none()
    })
    .await?;
    // Asked once more, the peer that is through says what it has.
    let request = PeerRequest::Operate { operation: Operation::Yield, changes: None };
    let answer = ask(&c.host, &c.record, request).await.map_err(|f| StepFailure::Recoverable(f.message))?;
    match answer.result {
        PeerResult::Yielded { base, changes } => {
            inplace::record_peer_changes(&c.host, c.record.vm, base, &changes)
                .map_err(|f| StepFailure::Recoverable(f.message))?;
            Ok(StepResult::Yielded { base })
        }
        PeerResult::Refused { failure } => Err(failed(&failure)),
        _ => Err(StepFailure::Recoverable("the peer is not our replica yet".to_owned())),
    }
}

/// The peer, which runs the VM, becomes the primary and feeds us from `base` on. With a `point`, it sends that one first; what
/// kept it from that may pass.
pub async fn feed(c: StepContext, base: DeltaId, point: Option<DeltaId>) -> StepOutcome {
    let changes =
        inplace::own_changes(&c.host, c.record.vm).map_err(|f| StepFailure::Recoverable(f.message))?;
    let is_primary = |answer: &Answer| answer.standing.as_ref().is_some_and(|s| s.mode == Mode::Primary);
    match attempt(&c, Operation::Feed { base, point }, Some(changes), is_primary).await {
        Ok(_) => Ok(StepResult::Plain),
        Err(Unfinished::GaveUp(why)) => Err(StepFailure::Recoverable(why)),
        Err(Unfinished::Failed(failure)) => Err(failure),
    }
}
