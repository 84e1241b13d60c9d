//! Steps of a turn: cut, ship, settle, abandon; and what the receiving side answers meanwhile.

use super::{StepContext, StepOutcome, ask, capture_failure, internal, recoverable, takeover};
use crate::{
    api::{ErrorKind, Failure, error::chain},
    host::Host,
    owner::blocking,
    peer::{
        DeltaExtra, PeerRequest, PeerResult,
        text::{SetText, hex, unhex},
    },
};
use capture::{Consistency, Cut, Prepared};
use engine::{CutKind, OfferAnswer, Relationship, Step, StepFailure, StepResult, WorkKind};
use model::{ClusterHash, ClusterSet, DeltaId, DiskId, PointKind, VmId};
use std::sync::{Arc, atomic::Ordering};
use tokio::runtime::Handle;
use transport::{DeltaDisk, DeltaHeader, Mark, SendError, SendOptions, header::PROTOCOL};

/// A stream that was cut is taken up again at once this often before the wait begins.
const RESUMES: u32 = 3;
/// Hashes asked for in one call: 64 MiB of disk.
const HASHES_MAX: u32 = 1024;

pub async fn cut(c: StepContext, delta: DeltaId, base: Option<DeltaId>, how: CutKind) -> StepOutcome {
    let prepared = blocking(move || prepare(&c.host, &c.record, delta, base, how)).await?;
    Ok(StepResult::Bytes { bytes: prepared.bytes.unwrap_or(0) })
}

/// Makes the cut, or finds it as it was made.
fn prepare(
    host: &Host,
    record: &Relationship,
    delta: DeltaId,
    base: Option<DeltaId>,
    how: CutKind,
) -> Result<Prepared, StepFailure> {
    let capture = host.capture(record.vm).map_err(|f| recoverable(&f))?;
    let cut = match how {
        CutKind::Incremental => Cut::Incremental,
        CutKind::Full => Cut::Full,
        CutKind::Compare => candidates(host, record, &capture)?,
    };
    capture.cut(delta, base, cut, Consistency::Crash).map_err(|e| capture_failure(&e))
}

/// After a failover only some clusters can differ: what was dropped with the later points, what the peer
/// wrote, and what the overlay that the VM runs on holds.
fn candidates(host: &Host, record: &Relationship, capture: &capture::Capture) -> Result<Cut, StepFailure> {
    let lists = host
        .catalog
        .cluster_lists(record.vm)
        .map_err(|e| recoverable(&internal("read the cluster lists", &e)))?;
    let after_failover =
        record.failed_over.is_some() && lists.iter().any(|list| list.label == takeover::DROPPED);
    if !after_failover {
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
        let capture = c.host.capture(c.record.vm).map_err(|f| recoverable(&f))?;
        let handing_over = c.record.work.as_ref().is_some_and(|work| work.kind == WorkKind::Prepare);
        match capture.settle(delta) {
            Ok(()) => {}
            // Settled, and released for the hand-over, before an interruption.
            Err(capture::CaptureError::UnknownDelta { .. }) if handing_over => {}
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
        let capture = c.host.capture(c.record.vm).map_err(|f| recoverable(&f))?;
        capture.abandon(delta).map_err(|e| capture_failure(&e))
    })
    .await
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
    let mut resumes = 0;
    let mut from_start = false;
    loop {
        let Some(mark) = offer(&c, delta, base).await? else {
            return Ok(StepResult::Bytes { bytes: 0 });
        };
        let from = if from_start { Mark::START } else { mark };
        match send(&c, delta, base, how, from).await {
            Ok(bytes) => return Ok(StepResult::Bytes { bytes }),
            Err(SendFailure::ChainMismatch) => from_start = true,
            Err(SendFailure::Cut(reason)) if resumes < RESUMES && !c.cancel.is_cancelled() => {
                resumes += 1;
                tracing::info!(vm = %c.record.name, %reason, resumes, "stream cut: resuming");
            }
            Err(SendFailure::Cut(reason)) => return Err(StepFailure::Recoverable(reason)),
            // The answer may have been on its way when the turn was cancelled: what the peer has is not
            // given up.
            Err(SendFailure::Step(StepFailure::Cancelled)) => {
                return match offer(&c, delta, base).await {
                    Ok(None) => Ok(StepResult::Bytes { bytes: 0 }),
                    _ => Err(StepFailure::Cancelled),
                };
            }
            Err(SendFailure::Step(failure)) => return Err(failure),
        }
    }
}

/// `None`: the peer has it already.
async fn offer(c: &StepContext, delta: DeltaId, base: Option<DeltaId>) -> Result<Option<Mark>, StepFailure> {
    let answer =
        ask(&c.host, &c.record, PeerRequest::Offer { delta, base }).await.map_err(|f| recoverable(&f))?;
    let (answer, mark) = match answer.result {
        PeerResult::Offer { answer, mark } => (answer, mark),
        PeerResult::Refused { failure } => return Err(recoverable(&failure)),
        _ => return Err(StepFailure::Recoverable("the peer's answer makes no sense".to_owned())),
    };
    match answer {
        OfferAnswer::Have => Ok(None),
        OfferAnswer::Send => Ok(Some(mark)),
        other => Err(not_wanted(&other, &c.record)),
    }
}

fn not_wanted(answer: &OfferAnswer, record: &Relationship) -> StepFailure {
    let peer = &record.peer;
    match answer {
        OfferAnswer::Busy => StepFailure::Busy(format!("{peer} is busy with the replica")),
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
    from: Mark,
) -> Result<u64, SendFailure> {
    let step = SendFailure::Step;
    let (context, handle) = (c.clone(), Handle::current());
    let (prepared, reader) = blocking(move || {
        let prepared = prepare(&context.host, &context.record, delta, base, how)?;
        let capture = context.host.capture(context.record.vm).map_err(|f| recoverable(&f))?;
        let peer = prepared
            .needs_peer_hashes
            .then(|| peer_hashes(context.host.clone(), context.record.clone(), handle));
        let reader = capture.reader(delta, peer).map_err(|e| capture_failure(&e))?;
        Ok((prepared, reader))
    })
    .await
    .map_err(step)?;
    let total = prepared.bytes.unwrap_or_else(|| prepared.disks.iter().map(|disk| disk.size_bytes).sum());
    c.progress.start("ship", total);
    let extra = DeltaExtra {
        from: c.host.name.clone(),
        standing: c.record.standing(true),
        cut_at_ms: prepared.cut_at_ms,
        kind: PointKind::Regular,
        domain_xml: prepared.domain_xml,
        small_files: prepared
            .small_files
            .iter()
            .map(|(name, bytes)| (name.clone(), SetText::of_bytes(bytes)))
            .collect(),
    };
    let header = DeltaHeader {
        protocol: PROTOCOL,
        vm: c.record.vm,
        delta,
        base,
        disks: prepared.disks.iter().map(|d| DeltaDisk { disk: d.disk, size_bytes: d.size_bytes }).collect(),
        from,
        extra: serde_json::to_value(extra).expect("plain data"),
    };
    let counters = Arc::new(transport::Progress::default());
    let own =
        c.record.settings.bandwidth_bytes_per_s.map(|limit| Arc::new(transport::Limiter::new(Some(limit))));
    let options = SendOptions {
        limiters: own.into_iter().chain([c.host.limiter.clone()]).collect(),
        progress: counters.clone(),
        cancel: c.cancel.clone(),
        ..SendOptions::default()
    };
    let sending = c.host.client.send_delta(&c.record.peer, header, reader, options);
    let result = watch(c, &counters, sending).await;
    match result {
        Ok(_) => Ok(counters.sent_bytes.load(Ordering::Relaxed)),
        Err(SendError::ChainMismatch { .. }) => Err(SendFailure::ChainMismatch),
        Err(SendError::Cancelled { .. }) => Err(step(StepFailure::Cancelled)),
        Err(SendError::Refused { answer, .. }) => Err(step(refused(&answer, &c.record))),
        Err(SendError::Link(error)) => Err(SendFailure::Cut(chain(&error))),
        Err(error) => Err(step(StepFailure::Recoverable(chain(&error)))),
    }
}

/// Copies the link's counters to the job's progress while it sends.
async fn watch<T>(c: &StepContext, counters: &transport::Progress, sending: impl Future<Output = T>) -> T {
    const EVERY: std::time::Duration = std::time::Duration::from_millis(200);
    let mut sending = std::pin::pin!(sending);
    loop {
        tokio::select! {
            result = &mut sending => return result,
            () = tokio::time::sleep(EVERY) => {
                c.progress.done.store(counters.raw_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
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
fn peer_hashes(host: Arc<Host>, record: Relationship, handle: Handle) -> capture::PeerHashes {
    let mut cache: Option<(DiskId, u32, Vec<ClusterHash>)> = None;
    Box::new(move |disk, first, count| {
        let mut hashes = Vec::with_capacity(count as usize);
        let mut at = first;
        while at < first + count {
            let node = at / HASHES_MAX * HASHES_MAX;
            if !matches!(&cache, Some((cached, start, _)) if *cached == disk && *start == node) {
                let fetched = handle.block_on(fetch_hashes(&host, &record, disk, node, HASHES_MAX))?;
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

async fn fetch_hashes(
    host: &Host,
    record: &Relationship,
    disk: DiskId,
    first: u32,
    count: u32,
) -> Result<Vec<ClusterHash>, Box<dyn std::error::Error + Send + Sync>> {
    let answer = ask(host, record, PeerRequest::Hashes { disk, first, count }).await?;
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

/// Answers a peer that compares: hashes of our latest point, past the disk's end zero.
pub fn hashes(
    host: &Host,
    vm: VmId,
    latest: Option<DeltaId>,
    disk: DiskId,
    first: u32,
    count: u32,
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
    let nodes = store
        .leaf_hashes(latest, disk, &[first / HASHES_MAX])
        .map_err(|error| internal("read the replica's hashes", &error))?;
    let mut hashes = nodes.into_iter().next().map(|(_, hashes)| hashes).unwrap_or_default();
    hashes.resize(count as usize, model::ZERO_CLUSTER);
    Ok(hashes.iter().map(|hash| hex(hash)).collect())
}

/// Where an interrupted transfer of `delta` can go on.
pub fn receiving_mark(host: &Host, vm: VmId, delta: DeltaId) -> Option<Mark> {
    let mark = super::transfer_mark(&host.catalog, vm, delta)?;
    Some(Mark { frames: mark.frames, chain: mark.chain })
}
