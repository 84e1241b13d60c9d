//! Keeping a replica in shape: retention hides points, coalescing merges what was hidden, in the background
//! and out of the way of anything that needs the files.

use crate::{api::error::chain, changes::Change, events, host::Host, owner::blocking};
use engine::{Relationship, Settings};
use layers::{Policy, Step};
use model::{ReplicationState, VmId};
use std::{
    collections::HashSet,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// VMs whose upkeep is running; a point that arrives meanwhile is seen by the running one.
static RUNNING: LazyLock<Mutex<HashSet<VmId>>> = LazyLock::new(Mutex::default);

/// Starts the upkeep of a replica that has a new point, unless it runs already.
pub fn after_point(host: &Arc<Host>, vm: VmId) {
    if !RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(vm) {
        return;
    }
    let host = host.clone();
    host.tasks.clone().spawn(async move {
        let cancel = Arc::new(AtomicBool::new(false));
        let stop = cancel.clone();
        let shutdown = host.shutdown.clone();
        let watcher = tokio::spawn(async move {
            shutdown.cancelled().await;
            stop.store(true, Ordering::Relaxed);
        });
        blocking(move || keep(&host, vm, &cancel)).await;
        watcher.abort();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
    });
}

/// Are layers of this VM being merged, or looked through for it.
pub fn is_running(vm: VmId) -> bool {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).contains(&vm)
}

/// What these settings keep.
pub fn policy(settings: &Settings) -> Policy {
    Policy {
        history: settings.history,
        spacing_s: u64::from(settings.history_every_s),
        tiers: settings.tiers.clone(),
    }
}

fn keep(host: &Host, vm: VmId, cancel: &AtomicBool) {
    loop {
        let Some(owner) = host.owner(vm) else { return };
        let record = owner.record();
        let busy = record.work.is_some() || record.failed_over.is_some() || !record.mode.is_replica();
        let steady = matches!(
            record.state,
            ReplicationState::Replicating
                | ReplicationState::Suspended
                | ReplicationState::FailbackInProgress
                | ReplicationState::FailbackComplete
        );
        if busy || !steady {
            return;
        }
        match keep_once(host, &record, cancel) {
            Ok(Step::Merged { .. }) => {}
            Ok(Step::Nothing | Step::Cancelled | Step::Blocked { .. }) => return,
            Err(message) => {
                tracing::warn!(event = events::APPLY_FAILED, vm = %record.name, message, "upkeep of the replica failed");
                return;
            }
        }
    }
}

fn keep_once(host: &Host, record: &Relationship, cancel: &AtomicBool) -> Result<Step, String> {
    let vm = record.vm;
    let store = host.store(vm).map_err(|failure| failure.message)?;
    let points = store.points().map_err(|error| chain(&error))?;
    let seed = record.seed.filter(|seed| points.iter().any(|point| point.delta == *seed));
    let mut hide = layers::retention(&points, &policy(&record.settings));
    hide.extend(seed.filter(|seed| !hide.contains(seed)));
    hide.retain(|delta| Some(*delta) != record.comes_home_as_of);
    // What a former primary wrote and never shipped is an operator's to drop.
    hide.retain(|delta| points.iter().any(|point| point.delta == *delta && point.note.is_empty()));
    store.hide(&hide).map_err(|error| chain(&error))?;
    if !hide.is_empty() {
        host.changes.publish(Change::Vm(vm));
    }
    tracing::debug!(%vm, step = "merge layers", "upkeep");
    let merged = store.coalesce_step(cancel).map_err(|error| chain(&error));
    tracing::debug!(%vm, ended = "merge layers", "upkeep");
    merged
}
