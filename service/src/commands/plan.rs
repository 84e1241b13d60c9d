//! What a dangerous command would do, before it does it: what stops, what starts, what is lost, and whether
//! the other host answers.

use super::{operate, owner, point};
use crate::{
    api::{Command, ErrorKind, FailoverKind, Failure, PlanView},
    host::Host,
    owner::refused,
    peer::PeerRequest,
    steps, views,
};
use engine::{Operation, Relationship};
use model::{DeltaId, Mode};
use std::sync::Arc;

pub async fn plan(host: &Arc<Host>, command: &Command) -> Result<PlanView, Failure> {
    match command {
        Command::VmStop { vm, .. } => Ok(simple(
            &format!("stop {vm}"),
            &[format!("{vm} is stopped as if its plug were pulled")],
            &["what the guest has not written yet"],
        )),
        Command::VmUndefine { vm } => {
            Ok(simple(&format!("undefine {vm}"), &["libvirt forgets the VM; its disks stay".to_owned()], &[]))
        }
        Command::Unprotect { vm, delete_replica } => {
            let record = owner(host, vm)?.record();
            let losses: &[&str] = if *delete_replica { &["all recovery points on this host"] } else { &[] };
            Ok(simple(
                &format!("end the replication of {}", record.name),
                &[format!("this host forgets its relationship with {}", record.peer)],
                losses,
            ))
        }
        Command::Retarget { vm, to, start, .. } => {
            let old = owner(host, vm)?.record();
            let (name, peer) = (&old.name, &old.peer);
            super::retarget::permit(host, &old, to)?;
            let copy = if *start { "begins now" } else { "waits for `relevo start`" };
            let left = format!(
                "{peer} keeps what it has, and can still be failed over to: `relevo unprotect {name}` there"
            );
            let steps = [
                format!("this host forgets its relationship with {peer}"),
                left,
                format!("{name} is replicated to {to}: the first copy {copy}"),
            ];
            let loss = format!("until that copy is complete, {to} cannot take {name} over");
            Ok(simple(&format!("move the replica of {name} to {to}"), &steps, &[loss.as_str()]))
        }
        Command::DropPoint { vm, point } => {
            let record = owner(host, vm)?.record();
            Ok(simple(
                &format!("drop a point of {}", record.name),
                &[format!("point {point} is hidden and its space is reclaimed")],
                &["that point"],
            ))
        }
        Command::Extended { command } => super::extended::plan(host, command),
        _ => operation_plan(host, command).await,
    }
}

fn simple(title: &str, steps: &[String], losses: &[&str]) -> PlanView {
    PlanView {
        title: title.to_owned(),
        steps: steps.to_vec(),
        losses: losses.iter().map(|loss| (*loss).to_owned()).collect(),
        peer_answers: None,
    }
}

async fn operation_plan(host: &Arc<Host>, command: &Command) -> Result<PlanView, Failure> {
    if let Command::Failover { vm, kind: FailoverKind::Test { point: chosen }, .. } = command {
        let record = owner(host, vm)?.record();
        let _ = chosen.as_deref().map(|text| point(host, record.vm, text)).transpose()?;
        return Ok(simple(
            &format!("test failover of {}", record.name),
            &[format!("`{} - Test` is made on overlays; replication goes on", record.name)],
            &[],
        ));
    }
    let (owner, operation) = operate::resolve(host, command).await?;
    let record = owner.record();
    if !operate::drives_from_peer(&record, &operation) {
        record.permit(&operation).map_err(|refusal| refused(&record, &operation, &refusal))?;
    }
    super::ready::check(host, &record, &operation).await?;
    let answers = steps::ask(host, &record, PeerRequest::Greet).await;
    let peer_answers = Some(answers.is_ok());
    let peer_runs = answers.as_ref().ok().and_then(|a| a.standing.as_ref()).is_some_and(|s| s.running);
    if matches!(operation, Operation::Failback { .. }) {
        operate::runs_over_there(&record, answers)?;
    }
    let (steps, losses) = describe(host, &record, &operation, peer_answers == Some(true), peer_runs)?;
    Ok(PlanView { title: format!("{} of {}", operation.name(), record.name), steps, losses, peer_answers })
}

fn describe(
    host: &Host,
    r: &Relationship,
    operation: &Operation,
    peer_answers: bool,
    peer_runs: bool,
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (name, peer, here) = (&r.name, &r.peer, &r.host);
    let mut losses = vec![];
    let steps = match operation {
        Operation::Failover { point, start } => {
            losses.extend(point.or(r.latest).map(|point| lost_since(host, r, point)).transpose()?);
            let mut steps = vec![];
            if peer_runs {
                losses.push(format!("{name} still runs on {peer}: it is paused there as soon as {peer} hears of this; use --planned if {peer} is well"));
            } else if !peer_answers {
                steps.push(format!("{peer} does not answer: if {name} still runs there, two of it run until the hosts meet again"));
            }
            let holder = &r.token.generation().owner;
            if host.extended(r.vm).is_some_and(|extended| extended.record().peer == *holder) {
                losses.push(format!("{holder} took {name} over: it is paused there as soon as {holder} hears of this; revert there first if {holder} answers"));
            }
            steps.push(format!("{here} takes the right to run {name}"));
            steps.push(if *start {
                format!("{name} is started here on an overlay")
            } else {
                format!("{name} is defined here on an overlay, not started")
            });
            steps.push("`relevo revert` takes this back, `relevo commit` makes it final".to_owned());
            steps
        }
        Operation::Prepare { .. } | Operation::PlannedFailover { .. } => {
            let (from, to) = if r.mode == Mode::Primary { (here, peer) } else { (peer, here) };
            need_peer(r, peer_answers)?;
            vec![
                format!("{name} is shut down on {from}"),
                "the last changes are shipped: nothing is lost".to_owned(),
                format!("{name} is started on {to}"),
                format!("`relevo reverse {name}` then replicates back, without a copy"),
            ]
        }
        Operation::Revert => {
            losses.push(format!("everything that {name} wrote here since the failover"));
            vec![
                format!("{name} is stopped here and its overlay thrown away"),
                format!("the right to run it goes back to {peer}"),
                "replication goes on".to_owned(),
            ]
        }
        Operation::Commit => {
            losses.push("all other recovery points; this cannot be reverted".to_owned());
            vec![format!("{name} goes on from the point that it was failed over to")]
        }
        Operation::Reverse => {
            need_peer(r, peer_answers)?;
            if peer_runs {
                losses.push(format!("{name} on {peer} is stopped for good"));
            }
            if let Some(extended) = host.extended(r.vm) {
                let third = extended.record().peer;
                losses.push(format!("nothing is forwarded to {third} any more; it keeps its points, and `relevo reverse {name} --extended` would make it the replica instead"));
            }
            vec![
                format!("{peer} becomes the replica; its disks stay where they are, as the replica's bottom"),
                "only the difference is sent".to_owned(),
                format!("{here} is the primary"),
            ]
        }
        Operation::ChangeToPrimary { peer: third, .. } => {
            losses.push(format!(
                "{peer} is left behind: it can become a replica again only by a new protection"
            ));
            vec![
                format!("{third} becomes the replica; only what differs is sent"),
                format!("{here} is the primary"),
            ]
        }
        Operation::Failback { point } => {
            let mut steps = vec![format!(
                "{name} is stopped on {here}, if it is there at all; what it wrote and never shipped is kept as a point"
            )];
            if let Some(point) = point {
                steps.push(format!(
                    "what differs in point {point} is pulled from {peer}, where {name} goes on running"
                ));
                steps.push(format!(
                    "{peer} then drops its points and sends what {name} writes there, to a point above"
                ));
                losses.push(format!("on {peer}: all recovery points but {point}, which comes here"));
            } else {
                steps.push(format!("the difference is pulled from {peer}, where {name} goes on running"));
            }
            let as_of = point.map_or(String::new(), |point| format!(" as it was at {point}"));
            steps.push(format!("`relevo failback {name} --complete` then brings it home{as_of}"));
            steps
        }
        Operation::CompleteFailback { point, force } => {
            need_peer(r, peer_answers)?;
            if let Some(point) = point.or(r.comes_home_as_of) {
                losses.push(format!(
                    "{name} comes home as it was at {point}: what it wrote later stays on {peer}, as a point that is kept until you drop it"
                ));
            }
            if *force {
                losses.push(format!("if the guest does not shut down on {peer}, its plug is pulled"));
            }
            vec![
                format!("{name} is shut down on {peer} and the last changes are shipped"),
                format!("{name} is started on {here}"),
                format!("{peer} is its replica again"),
            ]
        }
        Operation::Suspend => {
            vec![format!(
                "replication of {name} stops and its checkpoints are dropped; resuming compares all disks"
            )]
        }
        other => vec![other.name().to_owned()],
    };
    Ok((steps, losses))
}

fn need_peer(r: &Relationship, answers: bool) -> Result<(), Failure> {
    if answers {
        return Ok(());
    }
    Err(Failure::new(
        ErrorKind::PeerUnreachable,
        "peer-unreachable",
        format!("{} does not answer, and this needs it", r.peer),
    )
    .hint(format!(
        "is `relevo serve` running on {}? Without it only an unplanned failover is possible",
        r.peer
    )))
}

fn lost_since(host: &Host, r: &Relationship, point: DeltaId) -> Result<String, Failure> {
    let points = views::points(host, r.vm)?;
    let view = points.iter().find(|view| view.point == point);
    Ok(match view {
        Some(view) => format!(
            "what {} wrote in the last {} (since point {} of {})",
            r.name,
            views::duration(view.age_s),
            &view.point.to_string()[..8],
            view.cut_at
        ),
        None => "everything since that point".to_owned(),
    })
}
