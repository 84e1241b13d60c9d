//! Steps of a turn: cut, ship, settle, abandon; and what the receiving side answers meanwhile.

use super::{StepContext, StepOutcome, ask, capture_failure, forward, internal, recoverable, takeover};
use crate::{
    api::{ErrorKind, Failure, error::chain},
    bandwidth,
    files::{self, FilesError, Manifest},
    host::{Host, document},
    jobs::Progress,
    owner::{Mail, blocking},
    peer::{
        DeltaExtra, PeerRequest, PeerResult,
        text::{SetText, hex, unhex},
    },
};
use capture::{CaptureError, Consistency, Cut, Prepared};
use engine::{CutKind, OfferAnswer, Relationship, Step, StepFailure, StepResult, WorkKind};
use model::{
    CLUSTER_BYTES, Chunk, ClusterHash, ClusterSet, DeltaId, DiskId, HostName, PointKind, Repaired, VmId,
};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::runtime::Handle;
use transport::{Compression, DeltaDisk, DeltaHeader, Mark, SendError, SendOptions, header::PROTOCOL};

/// A stream that was cut is taken up again at once this often before the wait begins.
const RESUMES: u32 = 3;
/// A peer that seals what it has whole is looked at so often, for five seconds, and then left to the next cycle.
const SEALING_LOOKS: u32 = 50;
const SEALING_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Hashes asked for in one call: 64 MiB of disk.
const HASHES_MAX: u32 = 1024;

pub async fn cut(c: StepContext, delta: DeltaId, base: Option<DeltaId>, how: CutKind) -> StepOutcome {
    if c.record.is_extended() {
        return super::local(c, move |c| forward::pick(c, delta, base, how)).await;
    }
    let (name, owner) = (c.record.name.clone(), c.host.relationship(c.record.vm, c.record.index));
    let prepared = blocking(move || prepare(&c.host, &c.record, delta, base, how)).await?;
    if let Some(owner) = owner {
        owner.follow_name(&prepared.domain_xml).await;
    }
    if let Some(Err(reason)) = &prepared.application_consistent {
        tracing::warn!(vm = %name, reason, "the cut is crash-consistent only");
    }
    Ok(StepResult::Cut { frozen: prepared.application_consistent })
}

/// Makes the cut, or finds it as it was made.
fn prepare(
    host: &Host,
    record: &Relationship,
    delta: DeltaId,
    base: Option<DeltaId>,
    how: CutKind,
) -> Result<Prepared, StepFailure> {
    if let Some(why) = super::recover_tracking(host, record).map_err(|f| recoverable(&f))?
        && matches!(how, CutKind::Incremental | CutKind::Scrub)
    {
        return Err(StepFailure::ResyncNeeded(why));
    }
    let capture = host.capture(record.vm).map_err(|f| recoverable(&f))?;
    let cut = match how {
        CutKind::Incremental => Cut::Incremental,
        CutKind::Full => Cut::Full,
        CutKind::Scrub => Cut::Scrub,
        CutKind::Compare => candidates(host, record, base, &capture)?,
    };
    let freezes = record.work.as_ref().is_some_and(|work| work.freezes);
    let consistency = match freezes {
        true => Consistency::Application { freeze_timeout_s: host.config.freeze_timeout_s },
        false => Consistency::Crash,
    };
    capture.cut(delta, base, cut, consistency).map_err(|e| capture_failure(&e))
}

/// After a failover only some clusters can differ: what was dropped with the later points, what the peer
/// wrote, and what the overlay that the VM runs on holds. That is so for a peer that stands at a state to which what was
/// dropped leads, or wrote from such a state on; all is compared with any other.
fn candidates(
    host: &Host,
    record: &Relationship,
    base: Option<DeltaId>,
    capture: &capture::Capture,
) -> Result<Cut, StepFailure> {
    let lists = host
        .catalog
        .cluster_lists(record.vm)
        .map_err(|e| recoverable(&internal("read the cluster lists", &e)))?;
    let after_failover =
        record.failed_over.is_some() && lists.iter().any(|list| list.label == takeover::DROPPED);
    // The lists were made for states of a third host.
    let listed: Option<(HostName, Vec<DeltaId>)> =
        host.document(record.vm, document::LISTED).map_err(|f| recoverable(&f))?;
    let leads_elsewhere = listed.is_some_and(|(third, states)| {
        third == record.peer && base.is_none_or(|base| !states.contains(&base))
    });
    let leads_to: Option<Vec<DeltaId>> =
        host.document(record.vm, document::LEADS_TO).map_err(|f| recoverable(&f))?;
    let leads_to = leads_to.unwrap_or_default();
    let told: Option<(DeltaId, Option<DeltaId>)> =
        host.document(record.vm, document::PEER_SINCE).map_err(|f| recoverable(&f))?;
    let since = told.filter(|(state, _)| Some(*state) == base).and_then(|(_, since)| since);
    let leads_there = base.into_iter().chain(since).any(|state| leads_to.contains(&state));
    if !after_failover || leads_elsewhere || !leads_there {
        tracing::info!(vm = %record.name, after_failover, leads_there, "all of the disks are compared");
        return Ok(Cut::Compare { candidates: None, own_allocation: false });
    }
    let of = |disk: &capture::Disk| {
        let mut set = ClusterSet::new();
        for list in lists.iter().filter(|list| list.disk == disk.disk) {
            set.union(&list.clusters);
        }
        set
    };
    Ok(Cut::Compare { candidates: Some(capture.disks.iter().map(of).collect()), own_allocation: true })
}

pub async fn settle(c: StepContext, delta: DeltaId) -> StepOutcome {
    super::local(c, move |c| {
        if c.record.is_extended() {
            return forward::forwarded(c, delta);
        }
        let capture = c.host.capture(c.record.vm).map_err(|f| recoverable(&f))?;
        let handing_over = c.record.work.as_ref().is_some_and(|work| work.kind == WorkKind::Prepare);
        match capture.settle(delta) {
            Ok(()) => {}
            // Settled, and released for the hand-over, before an interruption.
            Err(CaptureError::UnknownDelta { .. }) if handing_over => {}
            // The peer had it before its turn was taken back, as by a restart that found the spool damaged: the next
            // cut says that nothing is tracked since, and compares.
            Err(error @ CaptureError::UnknownDelta { .. }) if c.record.latest == Some(delta) => {
                tracing::warn!(vm = %c.record.name, %error, "the other host has a delta that was given up here");
            }
            Err(error) => return Err(capture_failure(&error)),
        }
        if handing_over {
            super::domain::take_overlays_off(c)?;
            super::domain::remember_quiet(c)?;
        }
        Ok(())
    })
    .await
}

pub async fn abandon(c: StepContext, delta: DeltaId) -> StepOutcome {
    super::local(c, move |c| {
        if c.record.is_extended() {
            return forward::give_up(c);
        }
        let capture = c.host.capture(c.record.vm).map_err(|f| recoverable(&f))?;
        capture.abandon(delta).map_err(|e| capture_failure(&e))
    })
    .await
}

/// Writes the delta into the folder that the operator named.
pub async fn export(c: StepContext, delta: DeltaId) -> StepOutcome {
    super::local(c, move |c| {
        let (host, r) = (&c.host, &c.record);
        let folder: Option<PathBuf> = host.document(r.vm, document::EXPORT).map_err(|f| recoverable(&f))?;
        let folder =
            folder.ok_or_else(|| StepFailure::Refused("the export's folder is not known".to_owned()))?;
        let prepared = prepare(host, r, delta, None, CutKind::Full)?;
        let capture = host.capture(r.vm).map_err(|f| recoverable(&f))?;
        c.progress.start("export", prepared.disks.iter().map(|disk| disk.size_bytes).sum());
        let manifest = Manifest {
            version: 0,
            vm: r.vm,
            name: r.name.clone(),
            from: host.name.clone(),
            delta,
            disks: delta_disks(&prepared),
            cut_at_ms: prepared.cut_at_ms,
            kind: PointKind::Regular,
            small_files: texts(&prepared.small_files),
            domain_xml: prepared.domain_xml,
            end: Mark::START,
            data_bytes: 0,
        };
        let tell = |bytes| {
            c.progress.done.store(bytes, Ordering::Relaxed);
            !c.cancel.is_cancelled()
        };
        files::write(&folder, manifest, || capture.reader(delta, None), &tell).map_err(|error| match error {
            FilesError::Cancelled => StepFailure::Cancelled,
            error => StepFailure::Recoverable(chain(&error)),
        })
    })
    .await
}

fn delta_disks(prepared: &Prepared) -> Vec<DeltaDisk> {
    prepared.disks.iter().map(|d| DeltaDisk { disk: d.disk, size_bytes: d.size_bytes }).collect()
}

fn texts(files: &[(String, Vec<u8>)]) -> Vec<(String, SetText)> {
    files.iter().map(|(name, bytes)| (name.clone(), SetText::of_bytes(bytes))).collect()
}

/// The cut that the work under way began with.
fn cut_of(record: &Relationship, delta: DeltaId) -> Option<(Option<DeltaId>, CutKind)> {
    record.work.as_ref()?.plan.iter().find_map(|step| match step {
        Step::Cut { delta: cut, base, how } if *cut == delta => Some((*base, *how)),
        _ => None,
    })
}

pub async fn ship(c: StepContext, delta: DeltaId) -> StepOutcome {
    let Some((base, how)) = cut_of(&c.record, delta) else {
        return Err(StepFailure::Fatal("a delta without its cut".to_owned()));
    };
    let source = if c.record.is_extended() { Source::Store } else { Source::Capture };
    transfer(c, delta, base, how, source).await
}

/// Sends what of a kept point differs from what the peer has.
pub async fn send_point(c: StepContext, point: DeltaId, base: DeltaId) -> StepOutcome {
    transfer(c, point, Some(base), CutKind::Compare, Source::Store).await
}

/// Where what is sent is read.
#[derive(Clone, Copy)]
enum Source {
    /// A cut of a VM that runs here.
    Capture,
    /// A point that was received.
    Store,
}

async fn transfer(
    c: StepContext,
    delta: DeltaId,
    base: Option<DeltaId>,
    how: CutKind,
    source: Source,
) -> StepOutcome {
    let mut resumes = 0;
    let mut from_start = false;
    let mut wanted = offer(&c, delta, base).await?;
    loop {
        let Some(mark) = wanted else {
            return shipped(&c, delta, how, 0).await;
        };
        let from = if from_start { Mark::START } else { mark };
        match send(&c, delta, base, how, source, from).await {
            Ok(bytes) => return shipped(&c, delta, how, bytes).await,
            Err(SendFailure::ChainMismatch) => from_start = true,
            Err(SendFailure::Cut(reason)) if resumes < RESUMES && !c.cancel.is_cancelled() => {
                resumes += 1;
                tracing::info!(vm = %c.record.name, %reason, resumes, "stream cut: resuming");
            }
            Err(SendFailure::Cut(reason)) => return Err(StepFailure::Unreachable(reason)),
            // The answer may have been on its way when the turn was cancelled: what the peer has is not
            // given up.
            Err(SendFailure::Step(StepFailure::Cancelled)) => {
                return match offer_again(&c, delta, base).await {
                    Ok(None) => shipped(&c, delta, how, 0).await,
                    _ => Err(StepFailure::Cancelled),
                };
            }
            Err(SendFailure::Step(failure)) => return Err(failure),
        }
        wanted = offer_again(&c, delta, base).await?;
    }
}

/// Offers a delta whose stream has ended: the peer may still be sealing what it has whole.
async fn offer_again(
    c: &StepContext,
    delta: DeltaId,
    base: Option<DeltaId>,
) -> Result<Option<Mark>, StepFailure> {
    for _ in 0..SEALING_LOOKS {
        match offer(c, delta, base).await {
            Err(StepFailure::Busy(_)) => tokio::time::sleep(SEALING_LOOK_EVERY).await,
            answer => return answer,
        }
    }
    offer(c, delta, base).await
}

/// The peer has it: what a scrub found is told with it.
async fn shipped(c: &StepContext, delta: DeltaId, how: CutKind, bytes: u64) -> StepOutcome {
    if how != CutKind::Scrub {
        return Ok(StepResult::Bytes { bytes });
    }
    let (host, vm, name) = (c.host.clone(), c.record.vm, c.record.name.clone());
    blocking(move || {
        let capture = host.capture(vm).map_err(|f| recoverable(&f))?;
        let repaired = capture.repaired(delta).map_err(|e| capture_failure(&e))?;
        let Repaired { changed_on_primary, damaged_on_replica } = repaired;
        if repaired.total() > 0 {
            tracing::error!(vm = %name, changed_on_primary, damaged_on_replica, "a scrub repaired the replica");
        } else {
            tracing::info!(vm = %name, "a scrub found nothing to repair");
        }
        Ok(StepResult::Scrubbed { bytes, repaired })
    })
    .await
}

/// `None`: the peer has it already.
async fn offer(c: &StepContext, delta: DeltaId, base: Option<DeltaId>) -> Result<Option<Mark>, StepFailure> {
    let last = c.record.work.as_ref().is_some_and(|work| work.kind == WorkKind::Prepare);
    let offer = PeerRequest::Offer { delta, base, last };
    let answer = ask(&c.host, &c.record, offer).await.map_err(|f| recoverable(&f))?;
    let standing = answer.standing;
    let (answer, mark) = match answer.result {
        PeerResult::Offer { answer, mark } => (answer, mark),
        PeerResult::Refused { failure } => return Err(recoverable(&failure)),
        _ => return Err(StepFailure::Recoverable("the peer's answer makes no sense".to_owned())),
    };
    match answer {
        OfferAnswer::Have => Ok(None),
        OfferAnswer::Send => Ok(Some(mark)),
        other => {
            // Where the peer stands is what the next cut counts from: before this one is given up.
            if let (Some(owner), Some(standing)) = (c.host.owner(c.record.vm), standing) {
                owner.send(Mail::Greeted(Ok(standing))).await;
            }
            Err(not_wanted(&other, &c.record))
        }
    }
}

fn not_wanted(answer: &OfferAnswer, record: &Relationship) -> StepFailure {
    let peer = &record.peer;
    match answer {
        OfferAnswer::Busy => {
            StepFailure::Busy(format!("{peer} is busy with the replica, or receives as much as it may"))
        }
        OfferAnswer::Suspended => StepFailure::Recoverable(format!("replication is suspended on {peer}")),
        OfferAnswer::ResyncNeeded { latest } => StepFailure::ResyncNeeded(match latest {
            Some(latest) => {
                format!("the replica on {peer} stands at {latest}, not at the last acknowledged delta")
            }
            None => format!("the replica on {peer} holds no point"),
        }),
        OfferAnswer::StaleGeneration | OfferAnswer::FailedOverUncommitted => StepFailure::Superseded,
        OfferAnswer::Have | OfferAnswer::Send => StepFailure::Fatal("unexpected".to_owned()),
    }
}

/// A delta that is ready to be sent.
pub(super) struct Parcel {
    pub disks: Vec<DeltaDisk>,
    pub cut_at_ms: i64,
    pub kind: PointKind,
    pub domain_xml: String,
    pub small_files: Vec<(String, Vec<u8>)>,
    /// At most so much data.
    pub bytes: u64,
    pub chunks: Box<dyn Iterator<Item = Result<Chunk, ChunkError>> + Send>,
}

/// Why a disk or a layer could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChunkError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Layers(#[from] layers::LayersError),
}

/// What was cut on this host.
fn captured(
    c: &StepContext,
    delta: DeltaId,
    base: Option<DeltaId>,
    how: CutKind,
    handle: Handle,
) -> Result<Parcel, StepFailure> {
    let prepared = prepare(&c.host, &c.record, delta, base, how)?;
    let capture = c.host.capture(c.record.vm).map_err(|f| recoverable(&f))?;
    let trust = if how == CutKind::Scrub { Trust::Nothing } else { Trust::Record };
    let peer = prepared.needs_peer_hashes.then(|| {
        let ask = peer_hashes(c.host.clone(), c.record.clone(), handle, trust);
        with_progress(ask, c.progress.clone(), &prepared)
    });
    let reader = capture.reader(delta, peer).map_err(|e| capture_failure(&e))?;
    let all = || prepared.disks.iter().map(|disk| disk.size_bytes).sum();
    Ok(Parcel {
        bytes: prepared.bytes.unwrap_or_else(all),
        disks: delta_disks(&prepared),
        cut_at_ms: prepared.cut_at_ms,
        kind: c.record.work.as_ref().and_then(|work| work.point_kind).unwrap_or(PointKind::Regular),
        domain_xml: prepared.domain_xml,
        small_files: prepared.small_files,
        chunks: Box::new(reader.map(|chunk| chunk.map_err(ChunkError::from))),
    })
}

enum SendFailure {
    Cut(String),
    ChainMismatch,
    Step(StepFailure),
}

async fn send(
    c: &StepContext,
    delta: DeltaId,
    base: Option<DeltaId>,
    how: CutKind,
    source: Source,
    from: Mark,
) -> Result<u64, SendFailure> {
    let step = SendFailure::Step;
    let (context, handle) = (c.clone(), Handle::current());
    let (parcel, targets) = blocking(move || {
        let parcel = match source {
            Source::Store => forward::parcel(&context, delta, base, how, handle),
            Source::Capture => captured(&context, delta, base, how, handle),
        }?;
        let disks = context.host.disks(context.record.vm).map_err(|f| recoverable(&f))?;
        let targets: Vec<_> = disks.into_iter().map(|disk| (disk.disk, disk.target)).collect();
        Ok((parcel, targets))
    })
    .await
    .map_err(step)?;
    c.progress.start("ship", parcel.bytes);
    let extra = DeltaExtra {
        from: c.host.name.clone(),
        standing: c.record.standing(true),
        cut_at_ms: parcel.cut_at_ms,
        kind: parcel.kind,
        domain_xml: parcel.domain_xml,
        small_files: texts(&parcel.small_files),
        targets,
    };
    let header = DeltaHeader {
        protocol: PROTOCOL,
        vm: c.record.vm,
        delta,
        base,
        disks: parcel.disks,
        from,
        extra: serde_json::to_value(extra).expect("plain data"),
    };
    let counters = Arc::new(transport::Progress::default());
    let own = Arc::new(transport::Limiter::new(bandwidth::own(&c.record.settings)));
    let options = SendOptions {
        limiters: vec![own.clone(), c.host.limiter.clone()],
        progress: counters.clone(),
        cancel: c.cancel.clone(),
        compression: if c.record.settings.compress { Compression::Adaptive } else { Compression::Off },
    };
    let to = super::target(&c.record.peer, &c.record.settings);
    let sending = c.host.client.send_delta(to, header, parcel.chunks, options);
    let result = watch(c, &counters, &own, sending).await;
    match result {
        Ok(_) => Ok(counters.sent_bytes.load(Ordering::Relaxed)),
        Err(SendError::ChainMismatch { .. }) => Err(SendFailure::ChainMismatch),
        Err(SendError::Cancelled { .. }) => Err(step(StepFailure::Cancelled)),
        Err(SendError::Refused { answer, .. }) => Err(step(refused(&answer, &c.record))),
        Err(SendError::Link(error)) => Err(SendFailure::Cut(chain(&error))),
        Err(SendError::Source { source, .. }) => Err(step(match source.downcast_ref() {
            Some(ChunkError::Capture(error)) => capture_failure(error),
            _ => StepFailure::Recoverable(chain(&*source)),
        })),
        Err(error) => Err(step(StepFailure::Recoverable(chain(&error)))),
    }
}

/// While it sends, copies the link's counters to the job's progress, and has the limit follow the settings and the time.
async fn watch<T>(
    c: &StepContext,
    counters: &transport::Progress,
    own: &transport::Limiter,
    sending: impl Future<Output = T>,
) -> T {
    const EVERY: Duration = Duration::from_millis(200);
    let mut sending = std::pin::pin!(sending);
    loop {
        tokio::select! {
            result = &mut sending => return result,
            () = tokio::time::sleep(EVERY) => {
                c.progress.done.fetch_max(counters.raw_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
                if let Some(owner) = c.host.relationship(c.record.vm, c.record.index) {
                    own.follow(bandwidth::own(&owner.record().settings));
                }
            }
        }
    }
}

/// How the receiver refused a delta: an answer to an offer that changed meanwhile, or a failure of its own.
fn refused(answer: &serde_json::Value, record: &Relationship) -> StepFailure {
    if let Ok(answer) = serde_json::from_value::<OfferAnswer>(answer.clone()) {
        return not_wanted(&answer, record);
    }
    match serde_json::from_value::<Failure>(answer.clone()) {
        Ok(failure) => StepFailure::Recoverable(format!("{}: {}", record.peer, failure.message)),
        Err(_) => StepFailure::Recoverable(format!("{} refused the delta: {answer}", record.peer)),
    }
}

/// Asks the peer for hashes from a reader's thread, a node at a time.
pub(super) fn peer_hashes(
    host: Arc<Host>,
    record: Relationship,
    handle: Handle,
    trust: Trust,
) -> capture::PeerHashes {
    let mut cache: Option<(DiskId, u32, Vec<ClusterHash>)> = None;
    Box::new(move |disk, first, count| {
        let mut hashes = Vec::with_capacity(count as usize);
        let mut at = first;
        while at < first + count {
            let node = at / HASHES_MAX * HASHES_MAX;
            if !matches!(&cache, Some((cached, start, _)) if *cached == disk && *start == node) {
                let fetched = handle.block_on(fetch_hashes(&host, &record, disk, node, trust))?;
                cache = Some((disk, node, fetched));
            }
            let Some((_, _, fetched)) = &cache else { return Err("no hashes".into()) };
            let until = (first + count).min(node + HASHES_MAX);
            hashes.extend_from_slice(&fetched[(at - node) as usize..(until - node) as usize]);
            at = until;
        }
        Ok(hashes)
    })
}

/// Moves the progress with what is compared: most of it is not sent.
fn with_progress(
    mut ask: capture::PeerHashes,
    progress: Arc<Progress>,
    prepared: &Prepared,
) -> capture::PeerHashes {
    let sizes: Vec<_> = prepared.disks.iter().map(|disk| (disk.disk, disk.size_bytes)).collect();
    Box::new(move |disk, first, count| {
        let before = sizes.iter().take_while(|(id, _)| *id != disk).map(|(_, size_bytes)| size_bytes);
        let done = before.sum::<u64>() + u64::from(first) * CLUSTER_BYTES;
        progress.done.fetch_max(done, Ordering::Relaxed);
        ask(disk, first, count)
    })
}

async fn fetch_hashes(
    host: &Host,
    record: &Relationship,
    disk: DiskId,
    first: u32,
    trust: Trust,
) -> Result<Vec<ClusterHash>, Box<dyn std::error::Error + Send + Sync>> {
    let count = HASHES_MAX;
    let request = match trust {
        Trust::Record => PeerRequest::Hashes { disk, first, count },
        Trust::Nothing => PeerRequest::ReadHashes { disk, first, count },
    };
    let answer = ask(host, record, request).await?;
    match answer.result {
        PeerResult::Hashes { hashes } if hashes.len() == count as usize => hashes
            .iter()
            .map(|text| unhex(text)?.try_into().ok())
            .collect::<Option<Vec<ClusterHash>>>()
            .ok_or_else(|| "the peer's hashes are malformed".into()),
        PeerResult::Refused { failure } => Err(Box::new(failure)),
        _ => Err("the peer's answer makes no sense".into()),
    }
}

/// What the hashes of a comparison are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// What was recorded when the clusters came.
    Record,
    /// The files, which are read.
    Nothing,
}

/// Answers a peer that compares: hashes of our latest point, past the disk's end zero.
pub fn hashes(
    host: &Host,
    vm: VmId,
    latest: Option<DeltaId>,
    disk: DiskId,
    (first, count): (u32, u32),
    trust: Trust,
) -> Result<Vec<String>, Failure> {
    if count > HASHES_MAX {
        return Err(Failure::new(
            ErrorKind::InvalidParameter,
            "too-many",
            "too many hashes asked for at once",
        ));
    }
    let latest = latest
        .ok_or_else(|| Failure::new(ErrorKind::InvalidState, "no-point", "this replica holds no point"))?;
    let store = host.store(vm)?;
    let node = first / HASHES_MAX;
    let leaves = match trust {
        Trust::Record => store
            .leaf_hashes(latest, disk, &[node])
            .map(|nodes| nodes.into_iter().next().map(|(_, hashes)| hashes).unwrap_or_default()),
        Trust::Nothing => store.read_leaf_hashes(latest, disk, node),
    };
    let mut hashes = match leaves {
        // It was added: nothing of it is here yet.
        Err(layers::LayersError::UnknownDisk { .. }) => vec![],
        leaves => leaves.map_err(|error| internal("read the replica's hashes", &error))?,
    };
    hashes.resize(count as usize, model::ZERO_CLUSTER);
    Ok(hashes.iter().map(|hash| hex(hash)).collect())
}

/// Where an interrupted transfer of `delta` can go on.
pub fn receiving_mark(host: &Host, vm: VmId, delta: DeltaId) -> Option<Mark> {
    let mark = super::transfer_mark(&host.catalog, vm, delta)?;
    Some(Mark { frames: mark.frames, chain: mark.chain })
}
