//! Steps of a turn that forwards: what a replica received goes on to a third host, read from the layers of its
//! points. Nothing is cut, and no VM is touched.

use super::{
    StepContext, layers_failure, recoverable,
    turn::{ChunkError, Parcel, Trust, peer_hashes},
};
use crate::api::error::chain;
use engine::{CutKind, StepFailure};
use layers::{LayersError, Store};
use model::{CLUSTER_BYTES, ClusterHash, ClusterSet, DeltaId, DiskId, ZERO_CLUSTER, clusters::cluster_count};
use std::sync::Arc;
use tokio::runtime::Handle;
use transport::DeltaDisk;

/// Hashes compared at once: 16 KiB of them for 64 MiB of disk.
const COMPARED: u32 = layers::NODE_LEAVES;

fn store(c: &StepContext) -> Result<Arc<Store>, StepFailure> {
    c.host.store(c.record.vm).map_err(|f| recoverable(&f))
}

/// Bookmarks the point that is forwarded, so that it stays readable and its layers apart until the third host
/// has the next one.
pub fn pick(c: &StepContext, delta: DeltaId, base: Option<DeltaId>, how: CutKind) -> Result<(), StepFailure> {
    let store = store(c)?;
    match store.bookmark(delta) {
        Ok(()) => {}
        // A newer one has replaced it: the next turn forwards that.
        Err(LayersError::UnknownPoint { .. }) => return Err(StepFailure::Cancelled),
        Err(error) => return Err(layers_failure("bookmark the point that is forwarded", &error)),
    }
    match (how, base) {
        (CutKind::Incremental, Some(base)) => wanted(&store, delta, base).map(drop),
        _ => Ok(()),
    }
}

/// The third host has it: what it had before needs to be known no more.
pub fn forwarded(c: &StepContext, delta: DeltaId) -> Result<(), StepFailure> {
    let dropped = store(c)?.drop_bookmarks(Some(delta));
    dropped.map_err(|e| layers_failure("drop the bookmark of what was forwarded before", &e))
}

pub fn give_up(c: &StepContext) -> Result<(), StepFailure> {
    let dropped = store(c)?.drop_bookmarks(c.record.latest);
    dropped.map_err(|e| layers_failure("drop the bookmark of a point that is not forwarded", &e))
}

type Wanted = Vec<(DiskId, Option<ClusterSet>)>;

/// What is new since `base`, which the third host has.
fn wanted(store: &Store, delta: DeltaId, base: DeltaId) -> Result<Wanted, StepFailure> {
    let unknown =
        || StepFailure::ResyncNeeded(format!("point {base}, which the third host has, is gone here"));
    if !store.bookmarks().map_err(|e| layers_failure("read the bookmarks", &e))?.contains(&base) {
        return Err(unknown());
    }
    let mut wanted = vec![];
    for disk in disks(store, delta)? {
        let clusters = store.clusters_between(base, delta, disk).map_err(|error| match error {
            LayersError::UnknownPoint { .. } => unknown(),
            error => layers_failure("list what is new", &error),
        })?;
        wanted.push((disk, Some(clusters)));
    }
    Ok(wanted)
}

fn disks(store: &Store, delta: DeltaId) -> Result<Vec<DiskId>, StepFailure> {
    store.disks(delta).map_err(|e| layers_failure("read the point's disks", &e))
}

/// The clusters whose hashes differ from those of the third host's newest point. Neither host reads a disk.
fn differing(c: &StepContext, store: &Store, delta: DeltaId, handle: Handle) -> Result<Wanted, StepFailure> {
    let mut ask = peer_hashes(c.host.clone(), c.record.clone(), handle, Trust::Record);
    let mut wanted = vec![];
    for disk in disks(store, delta)? {
        let hashes = store.hashes(delta, disk).map_err(|e| layers_failure("read the point's hashes", &e))?;
        let count = cluster_count(hashes.size_bytes);
        let mut hashes = hashes.peekable();
        let mut set = ClusterSet::new();
        for first in (0..count).step_by(COMPARED as usize) {
            if c.cancel.is_cancelled() {
                return Err(StepFailure::Cancelled);
            }
            let length = COMPARED.min(count - first);
            let mut ours: Vec<ClusterHash> = vec![ZERO_CLUSTER; length as usize];
            while let Some(entry) =
                hashes.next_if(|entry| entry.as_ref().map_or(true, |(cluster, _)| *cluster < first + length))
            {
                let (cluster, hash) = entry.map_err(|e| layers_failure("read the point's hashes", &e))?;
                ours[(cluster - first) as usize] = hash;
            }
            let theirs = ask(disk, first, length).map_err(|e| StepFailure::Recoverable(chain(&*e)))?;
            let differ = (first..).zip(ours.iter().zip(&theirs)).filter(|(_, (a, b))| a != b);
            differ.for_each(|(cluster, _)| set.insert(cluster));
        }
        wanted.push((disk, Some(set)));
    }
    Ok(wanted)
}

/// The point as the third host needs it, with the instant of its cut on the primary.
pub(super) fn parcel(
    c: &StepContext,
    delta: DeltaId,
    base: Option<DeltaId>,
    how: CutKind,
    handle: Handle,
) -> Result<Parcel, StepFailure> {
    let store = store(c)?;
    let wanted = match (how, base) {
        (CutKind::Incremental, Some(base)) => wanted(&store, delta, base)?,
        (CutKind::Compare, Some(_)) => differing(c, &store, delta, handle)?,
        _ => disks(&store, delta)?.into_iter().map(|disk| (disk, None)).collect(),
    };
    let catalog = &c.host.catalog;
    let read = |e: &catalog::CatalogError| recoverable(&super::internal("read the catalog", e));
    let points = catalog.points(c.record.vm).map_err(|e| read(&e))?;
    let gone = || StepFailure::Recoverable(format!("point {delta} is gone"));
    let point = points.into_iter().find(|point| point.delta == delta).ok_or_else(gone)?;
    let layers = catalog.layers(c.record.vm).map_err(|e| read(&e))?;
    let size = |disk| {
        layers.iter().find(|layer| (layer.delta, layer.disk) == (delta, disk)).map_or(0, |it| it.size_bytes)
    };
    let clusters: u64 = wanted.iter().filter_map(|(_, set)| Some(set.as_ref()?.len())).sum();
    let whole: u64 = wanted.iter().filter(|(_, set)| set.is_none()).map(|(disk, _)| size(*disk)).sum();
    let disks = wanted.iter().map(|(disk, _)| DeltaDisk { disk: *disk, size_bytes: size(*disk) }).collect();
    let chunks = store.chunks(delta, wanted).map_err(|e| layers_failure("read the point", &e))?;
    Ok(Parcel {
        disks,
        cut_at_ms: point.cut_at_ms,
        kind: point.kind,
        domain_xml: super::domain_xml(&store, delta).map_err(|f| recoverable(&f))?,
        small_files: super::small_files(&store, delta).map_err(|f| recoverable(&f))?,
        bytes: whole + clusters * CLUSTER_BYTES,
        chunks: Box::new(chunks.map(|chunk| chunk.map_err(ChunkError::from))),
    })
}
