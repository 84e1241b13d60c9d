//! The point of the other host as of which a VM comes home: asked for by the host to which it returns, found by the one
//! that took it over.

use crate::{
    api::{ErrorKind, Failure},
    clock::context,
    host::Host,
    owner::refused,
    peer::{PeerRequest, PeerResult},
    steps,
};
use engine::{Operation, Relationship};
use model::{DeltaId, ReplicationState};

/// Asks the peer which of its points begins with these digits.
pub async fn ask_for(host: &Host, record: &Relationship, text: &str) -> Result<DeltaId, Failure> {
    let operation = Operation::Failback { point: None };
    record.admits(context(), &operation).map_err(|refusal| refused(record, &operation, &refusal))?;
    let answer = steps::ask(host, record, PeerRequest::FindPoint { text: text.to_owned() }).await?;
    super::operate::runs_over_there(record, Ok(answer.clone()))?;
    match answer.result {
        PeerResult::Point { point } => Ok(point),
        _ => {
            let message = format!("{} does not say which point `{text}` is", record.peer);
            Err(Failure::new(ErrorKind::StatusUnknown, "peer-status", message))
        }
    }
}

/// The point that is kept here, since the VM was failed over, and begins with these digits.
pub fn find(host: &Host, record: &Relationship, text: &str) -> Result<DeltaId, Failure> {
    let (name, here, state) = (&record.name, &record.host, record.state);
    let hint = format!(
        "`relevo points {name}` on {here} shows its points; one that was received since a failback began is chosen with `relevo failback {name} --complete --point`"
    );
    if !(record.mode.is_replica() && state == ReplicationState::Recovered && record.may_run()) {
        let message = format!(
            "{name} comes home as of a point of {here} only while it is failed over there and not committed: {here} is its {}, state `{state}`, and its earlier points are gone",
            record.mode
        );
        return Err(Failure::new(ErrorKind::InvalidState, "points-dropped", message).hint(hint));
    }
    let found = super::point(host, record.vm, text);
    found.map_err(|failure| {
        if failure.kind == ErrorKind::NotFound { unknown(host, record, text) } else { failure }.hint(hint)
    })
}

/// A point that was dropped is in the catalog until its layers are merged.
fn unknown(host: &Host, record: &Relationship, text: &str) -> Failure {
    let text = text.to_ascii_lowercase();
    let points = host.catalog.points(record.vm).unwrap_or_default();
    let was_kept = points.iter().any(|point| point.delta.to_string().starts_with(&text));
    let (name, here) = (&record.name, &record.host);
    if was_kept && !text.is_empty() {
        let message = format!("the recovery point `{text}` of {name} is gone on {here}");
        return Failure::new(ErrorKind::NotFound, "point-gone", message);
    }
    let message = format!("{here} has no recovery point `{text}` of {name}");
    Failure::new(ErrorKind::InvalidParameter, "point-unknown", message)
}
