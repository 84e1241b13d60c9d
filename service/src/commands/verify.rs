//! Reading recovery points and comparing every cluster with its hash.

use super::{owner, point};
use crate::{
    api::{ErrorKind, Failure, Reply, error::chain},
    host::Host,
    jobs::CONSISTENCY_CHECK,
    owner::blocking,
    views,
};
use layers::LayersError;
use model::{DeltaId, Mode};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

pub fn verify(host: &Arc<Host>, vm: &str, chosen: Option<&str>) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    if record.mode == Mode::Primary {
        return Err(Failure::new(
            ErrorKind::WrongHost,
            "wrong-host",
            format!("the recovery points of {} are kept on {}", record.name, record.peer),
        )
        .hint(format!("run `relevo verify {}` on {}", record.name, record.peer)));
    }
    let points: Vec<DeltaId> = match chosen {
        Some(text) => vec![point(host, record.vm, text)?],
        None => views::points(host, record.vm)?.iter().map(|view| view.point).collect(),
    };
    // Those that are too old go while others are read.
    let may_go = chosen.is_none();
    let (job, cancel) = host.jobs.begin(Some((record.vm, &record.name)), "verify", CONSISTENCY_CHECK);
    let view = host.jobs.view(job).map(|view| Reply::Job(Box::new(view)));
    let host = host.clone();
    let name = record.name.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    let watcher = host.tasks.spawn(async move {
        cancel.cancelled().await;
        stopper.store(true, Ordering::Relaxed);
    });
    host.tasks.clone().spawn(async move {
        let (jobs, vm) = (host.jobs.clone(), record.vm);
        let result = blocking(move || verify_points(&host, vm, job, &points, may_go, &stop)).await;
        watcher.abort();
        jobs.end(job, result.map(|summary| format!("{name}: {summary}")));
    });
    view.ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

fn verify_points(
    host: &Host,
    vm: model::VmId,
    job: model::JobId,
    points: &[DeltaId],
    may_go: bool,
    cancel: &AtomicBool,
) -> Result<String, Failure> {
    let store = host.store(vm)?;
    let progress = host.jobs.progress(job).unwrap_or_default();
    let (mut verified, mut clusters, mut bytes, mut bad) = (0, 0, 0, vec![]);
    for (index, delta) in points.iter().enumerate() {
        progress.start(&format!("point {} of {}", index + 1, points.len()), 0);
        let report = store.verify(
            *delta,
            &mut |done, total| {
                progress.done.store(done, Ordering::Relaxed);
                progress.total.store(total, Ordering::Relaxed);
            },
            cancel,
        );
        if may_go && matches!(report, Err(LayersError::UnknownPoint { .. })) {
            continue;
        }
        let report = report.map_err(|error| {
            if cancel.load(Ordering::Relaxed) {
                Failure::new(ErrorKind::Cancelled, "cancelled", "cancelled")
            } else {
                Failure::new(
                    ErrorKind::Failed,
                    "verify",
                    format!("cannot read point {delta}: {}", chain(&error)),
                )
            }
        })?;
        verified += 1;
        clusters += report.clusters;
        bytes += report.bytes;
        bad.extend(
            report
                .mismatches
                .iter()
                .map(|m| format!("point {delta}, disk {}, cluster {}", m.disk, m.cluster)),
        );
    }
    if let Some(first) = bad.first() {
        return Err(Failure::new(
            ErrorKind::Corrupt,
            "corrupt",
            format!("{} clusters differ from their hashes, the first: {first}", bad.len()),
        )
        .hint("do not fail over to these points; `relevo scrub` on the primary repairs the latest one"));
    }
    Ok(format!("{verified} points verified: {clusters} clusters, {bytes} bytes, all as they were sent"))
}

pub async fn drop_point(host: &Arc<Host>, vm: &str, delta: DeltaId) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    let host_copy = host.clone();
    blocking(move || {
        let points = views::points(&host_copy, record.vm)?;
        let Some(view) = points.iter().find(|view| view.point == delta) else {
            return Err(Failure::new(
                ErrorKind::NotFound,
                "point-unknown",
                format!("there is no recovery point {delta}"),
            ));
        };
        if view.latest {
            return Err(Failure::new(
                ErrorKind::InvalidState,
                "latest",
                "the latest point cannot be dropped: the next delta builds on it",
            ));
        }
        if record.comes_home_as_of == Some(delta) {
            let message = format!("{} comes home as of this point: it cannot be dropped", record.name);
            return Err(Failure::new(ErrorKind::InvalidState, "in-use", message)
                .hint(format!("`relevo failback {} --cancel` gives the way home up", record.name)));
        }
        host_copy.store(record.vm)?.hide(&[delta]).map_err(|error| match error {
            LayersError::Pinned { .. } => Failure::new(ErrorKind::InvalidState, "in-use", chain(&error))
                .hint("commit or revert the failover first"),
            error => Failure::internal("hide the point", &error),
        })
    })
    .await?;
    crate::upkeep::after_point(host, owner.vm);
    Ok(Reply::Done { message: format!("point {delta} is dropped") })
}
