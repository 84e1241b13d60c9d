//! What a restart finds, before the engine goes on.

use crate::{
    api::{Failure, error::chain},
    host::{Host, document},
};
use engine::Relationship;
use model::{DeltaId, Mode, PointKind};

/// What the catalog, the files and libvirt say.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest durable point, where the record may be one event behind.
    pub latest: Option<Option<(DeltaId, PointKind)>>,
    pub tracking_lost: Option<String>,
    pub running: bool,
}

pub fn recover(host: &Host, record: &Relationship) -> Result<Found, Failure> {
    let vm = record.vm;
    let running = host.hypervisor.is_active(vm).unwrap_or(false);
    let mut found = Found { running, ..Found::default() };
    if let Err(failure) = crate::commands::drill::clean_up(host, vm) {
        tracing::error!(vm = %record.name, %failure, "cannot clean up an interrupted fire drill");
    }
    let promoted = host.document::<serde_json::Value>(vm, document::CHAINS)?.is_some();
    let has_storage = host.document::<serde_json::Value>(vm, document::STORAGE)?.is_some();
    if record.mode.is_replica() && has_storage && !promoted {
        let store = host.store(vm)?;
        let recovered = store.recover().map_err(|e| Failure::internal("recover the store", &e))?;
        if !recovered.removed.is_empty() || recovered.finished_merges > 0 {
            tracing::info!(vm = %record.name, removed = recovered.removed.len(), merges = recovered.finished_merges,
                "cleaned up after an interruption");
        }
        // While failed over the record's latest stays: it is what the peer's offers are compared with.
        if record.failed_over.is_none() && !record.is_occupied() {
            let latest = store.latest().map_err(|e| Failure::internal("read the points", &e))?;
            found.latest = Some(latest.map(|point| (point.delta, point.kind)));
        }
    }
    if record.mode == Mode::Primary {
        // A cut makes up for what cannot be done now, as while the VM is away.
        host.set_unrecovered(vm, true);
        let defined = host.hypervisor.domain(vm).is_ok_and(|domain| domain.is_some());
        if defined {
            match recover_tracking(host, record) {
                Ok(lost) => found.tracking_lost = lost,
                Err(failure) => {
                    tracing::warn!(vm = %record.name, %failure, "the tracking is looked at before the next cut");
                }
            }
        }
    }
    Ok(found)
}

/// Has the tracking of changes recover if it has not since the daemon's start; why it is lost, if it is.
pub fn recover_tracking(host: &Host, record: &Relationship) -> Result<Option<String>, Failure> {
    if !host.is_unrecovered(record.vm) {
        return Ok(None);
    }
    let capture = host.capture(record.vm)?;
    let recovered =
        capture.recover(record.latest).map_err(|e| Failure::internal("recover the tracking", &e))?;
    let ours = record.work.as_ref().and_then(engine::Work::delta);
    if let Some(pending) = &recovered.pending
        && ours != Some(pending.delta)
    {
        capture
            .abandon(pending.delta)
            .map_err(|e| Failure::new(crate::api::ErrorKind::Failed, "failed", chain(&e)))?;
    }
    host.set_unrecovered(record.vm, false);
    let lost = !recovered.tracking_intact && record.latest.is_some() && record.resync.is_none();
    Ok(lost.then(|| recovered.why.unwrap_or_else(|| "the tracking of changes was interrupted".to_owned())))
}
