//! Ways to begin a first copy, and what begins at a later time; the import of a copy that was carried over.

use super::{operate, owner};
use crate::{
    api::{ErrorKind, Failure, FirstCopy, Reply, error::chain},
    clock::{now_ms, rfc3339},
    files::{self, Manifest},
    host::{Host, document},
    jobs::{IMPORT, Progress},
    link::store_failure,
    owner::{OwnerHandle, blocking},
    peer::PeerRequest,
    steps,
};
use engine::{Operation, Relationship};
use layers::{Incoming, IncomingDisk, Sealed};
use model::{Mode, ReplicationState};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};
use tokio_util::sync::CancellationToken;

/// How far ahead a start may lie.
const AHEAD_MAX_MS: i64 = 7 * 24 * 3600 * 1000;

/// Data between two durable marks of an import.
const MARK_EVERY_BYTES: u64 = 64 << 20;

pub async fn start(host: &Arc<Host>, vm: &str, way: FirstCopy, at_ms: Option<i64>) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    match way {
        FirstCopy::Seeded if record.seed.is_none() => Err(no_seed(&record)),
        FirstCopy::Network | FirstCopy::Seeded => {
            begin(host, &owner, Operation::StartReplication, at_ms).await
        }
        FirstCopy::Export { .. } if at_ms.is_some() => Err(Failure::new(
            ErrorKind::InvalidParameter,
            "export-later",
            "an export begins at once: it is the import that can wait",
        )),
        FirstCopy::Export { folder } => {
            ready_to_export(host, &record, &folder)?;
            operate::begin(host, &owner, Operation::Export).await
        }
    }
}

/// Notes where the first copy goes, if it may begin now.
pub fn ready_to_export(host: &Host, record: &Relationship, folder: &Path) -> Result<(), Failure> {
    let operation = Operation::Export;
    record.permit(&operation).map_err(|refusal| crate::owner::refused(record, &operation, &refusal))?;
    files::writable(folder)?;
    let own = files::folder_of(folder, &record.name, record.vm);
    host.put_document(record.vm, document::EXPORT, &own)
}

/// At once, or at its time.
pub async fn begin(
    host: &Arc<Host>,
    owner: &OwnerHandle,
    operation: Operation,
    at_ms: Option<i64>,
) -> Result<Reply, Failure> {
    let Some(at_ms) = at_ms else { return operate::begin(host, owner, operation).await };
    in_range(at_ms)?;
    let (name, what) = (owner.record().name, operation.name());
    owner.operate(Operation::Later { at_ms, operation: Box::new(operation) }, None).await?;
    Ok(Reply::Done { message: format!("{name}: {what} at {}", rfc3339(at_ms)) })
}

/// Refuses a time that has passed, or that lies more than a week ahead.
pub fn in_range(at_ms: i64) -> Result<(), Failure> {
    let now = now_ms();
    if (now..=now + AHEAD_MAX_MS).contains(&at_ms) {
        return Ok(());
    }
    let message = format!(
        "start time {}: allowed is from now to {}, seven days ahead",
        rfc3339(at_ms),
        rfc3339(now + AHEAD_MAX_MS)
    );
    Err(Failure::new(ErrorKind::InvalidParameter, "start-time", message))
}

fn no_seed(record: &Relationship) -> Failure {
    let message = format!("the replica of {} on {} has no seed", record.name, record.peer);
    Failure::new(ErrorKind::InvalidState, "no-seed", message).hint(format!(
        "end the protection on both hosts, mark the copy on {} with `relevo seed`, and protect again",
        record.peer
    ))
}

/// Takes up a first copy that was carried over, under a job.
pub async fn import(host: &Arc<Host>, vm: &str, folder: PathBuf) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    let name = record.name.clone();
    if record.mode == Mode::Primary {
        let message =
            format!("a first copy of {name} is imported on {}, which holds its replica", record.peer);
        return Err(Failure::new(ErrorKind::WrongHost, "wrong-host", message)
            .hint(format!("on {}: relevo import {name} DIR", record.peer)));
    }
    if record.state != ReplicationState::WaitingForInitialReplication || record.latest.is_some() {
        let message = format!("{name} does not wait for a first copy: its state is `{}`", record.state);
        return Err(Failure::new(ErrorKind::InvalidState, "invalid-state", message));
    }
    let (finder, record_copy) = (host.clone(), record.clone());
    let (folder, manifest) = blocking(move || fitting(&finder, &record_copy, &folder)).await?;
    if !owner.begin_receiving(manifest.delta) {
        let message = format!("something of {name} is being received");
        return Err(Failure::new(ErrorKind::InUse, "busy", message));
    }
    let (job, cancel) = host.jobs.begin(Some((record.vm, &name)), "import", IMPORT);
    let view = host.jobs.view(job).map(|view| Reply::Job(Box::new(view)));
    let host = host.clone();
    host.tasks.clone().spawn(async move {
        let delta = manifest.delta;
        let progress = host.jobs.progress(job).unwrap_or_default();
        let worker = host.clone();
        let written = blocking(move || write(&worker, &folder, &manifest, &progress, &cancel)).await;
        let result = match written {
            Ok(sealed) => {
                let generation = owner.record().token.generation().clone();
                let committed = owner.commit(delta, sealed, generation, None).await;
                committed.map_err(|_| {
                    let message = format!("{name} does not wait for a first copy any more");
                    Failure::new(ErrorKind::InvalidState, "invalid-state", message)
                })
            }
            Err(failure) => Err(failure),
        };
        owner.end_receiving(delta);
        if result.is_ok() {
            crate::upkeep::after_point(&host, owner.vm);
            // The primary asks by itself soon; told, it goes on at once.
            if let Err(failure) = steps::ask(&host, &owner.record(), PeerRequest::Greet).await {
                tracing::info!(vm = %name, %failure, "the primary does not know of the import yet");
            }
        }
        host.jobs.end(job, result.map(|()| format!("{name}: imported")));
    });
    view.ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

/// The copy in the folder, if it is one of this relationship.
fn fitting(host: &Host, record: &Relationship, folder: &Path) -> Result<(PathBuf, Manifest), Failure> {
    let (folder, manifest) = files::find(host, folder, &record.name, record.vm)?;
    let differs = |what: String| {
        let message = format!("the copy in {} does not fit: {what}", folder.display());
        Err(Failure::new(ErrorKind::InvalidParameter, "export-differs", message)
            .hint("export it anew on the primary"))
    };
    if (manifest.vm, &manifest.from) != (record.vm, &record.peer) {
        return differs(format!("it is of {} ({}), from {}", manifest.name, manifest.vm, manifest.from));
    }
    let disks = host.disks(record.vm)?;
    let known = |disk: &transport::DeltaDisk| disks.iter().any(|own| own.disk == disk.disk);
    if manifest.disks.len() != disks.len() || !manifest.disks.iter().all(known) {
        return differs("its disks are those of an earlier protection".to_owned());
    }
    Ok((folder, manifest))
}

fn write(
    host: &Host,
    folder: &Path,
    manifest: &Manifest,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Sealed, Failure> {
    let store = host.store(manifest.vm)?;
    let malformed = || Failure::new(ErrorKind::Corrupt, "export-damaged", "a small file is malformed");
    let small_files = manifest.small_files.iter();
    let small_files = small_files.map(|(name, text)| Some((name.clone(), text.bytes()?)));
    let incoming = Incoming {
        delta: manifest.delta,
        base: None,
        disks: manifest
            .disks
            .iter()
            .map(|disk| IncomingDisk { disk: disk.disk, size_bytes: disk.size_bytes })
            .collect(),
        cut_at_ms: manifest.cut_at_ms,
        kind: manifest.kind,
        domain_xml: manifest.domain_xml.clone(),
        small_files: small_files.collect::<Option<_>>().ok_or_else(malformed)?,
    };
    progress.start("import", manifest.data_bytes);
    let mut writer = store.begin(incoming).map_err(|error| store_failure(&error))?;
    let durable = writer.resume_mark();
    let mut since_mark = 0;
    files::read(folder, manifest, &mut |chunk, mark| {
        if cancel.is_cancelled() || host.shutdown.is_cancelled() {
            return Err(Failure::new(ErrorKind::Cancelled, "cancelled", "the import was stopped"));
        }
        if let model::ChunkContent::Data { bytes, .. } = &chunk.content {
            progress.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            since_mark += bytes.len() as u64;
        }
        if mark.frames <= durable.frames {
            return Ok(());
        }
        writer.write(&chunk).map_err(|error| store_failure(&error))?;
        if since_mark >= MARK_EVERY_BYTES {
            since_mark = 0;
            let mark = layers::Mark { frames: mark.frames, chain: mark.chain };
            writer.mark(mark).map_err(|error| store_failure(&error))?;
        }
        Ok(())
    })?;
    writer.seal().map_err(|error| {
        let message = format!("the copy cannot be completed: {}", chain(&error));
        Failure::new(ErrorKind::Failed, "replica-store", message)
    })
}
