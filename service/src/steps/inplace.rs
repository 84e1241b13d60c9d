//! Steps of a host whose VM runs elsewhere now: its disks, where they stand, become the bottom layers of a
//! replica.

use super::{StepContext, capture_failure, internal, layers_failure, recoverable, takeover};
use crate::{
    api::Failure,
    host::{Host, document},
    peer::{OwnChanges, text::SetText},
};
use catalog::ClusterList;
use engine::StepFailure;
use model::{DeltaId, VmId};
use std::path::PathBuf;

/// Label of what this host wrote beyond what was acknowledged; told to the new primary.
const OWN: &str = "own";

/// Finds what the VM wrote here since the last acknowledged delta, remembers it for the peer, and brings the
/// digest up to the disks' content.
pub fn rehash(c: &StepContext, id: DeltaId) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    takeover::flatten(c)?;
    let capture = host.capture(vm).map_err(|f| recoverable(&f))?;
    let save = |e: &catalog::CatalogError| recoverable(&internal("save the cluster lists", e));
    let known = host.catalog.cluster_lists(vm).map_err(|e| save(&e))?;
    if !known.iter().any(|list| list.label == OWN && list.delta == Some(id)) {
        let base = c.record.latest;
        if base.is_some() {
            let recovered = capture.recover(base).map_err(|e| capture_failure(&e))?;
            if let Some(pending) = recovered.pending {
                capture.abandon(pending.delta).map_err(|e| capture_failure(&e))?;
            }
        }
        let changed = capture.take_stock(base, id).map_err(|e| capture_failure(&e))?;
        tracing::info!(vm = %c.record.name, source = ?changed.source,
            clusters = changed.disks.iter().map(|(_, set)| set.len()).sum::<u64>(), "own changes");
        // Where the peer has nothing of ours there is no difference to tell.
        let lists = if base.is_some() { changed.disks } else { vec![] };
        let lists: Vec<_> = lists
            .into_iter()
            .map(|(disk, clusters)| ClusterList {
                disk,
                label: OWN.to_owned(),
                delta: Some(id),
                source: "tracking".to_owned(),
                clusters,
            })
            .collect();
        host.put_document(vm, document::OWN_SINCE, &(id, base)).map_err(|f| recoverable(&f))?;
        // Before the new digest: with the old one goes what told the difference.
        host.catalog.save_cluster_lists(vm, &lists).map_err(|e| save(&e))?;
    }
    capture.keep_stock(id).map_err(|e| capture_failure(&e))
}

/// The entry that lets the new primary in says where its layers go, and who may feed this replica.
fn be_fed(c: &StepContext) -> Result<(), Failure> {
    let (host, vm) = (&c.host, c.record.vm);
    let entry = host.authorization(std::slice::from_ref(&c.record.peer))?;
    if let Some(entry) = &entry {
        host.put_document(vm, document::TRUST_GROUP, &entry.trust_group)?;
    }
    if host.document::<PathBuf>(vm, document::STORAGE)?.is_none() {
        let folder = entry.map_or_else(|| host.dirs.state.join("replicas"), |entry| entry.storage);
        host.put_document(vm, document::STORAGE, &folder)?;
    }
    Ok(())
}

/// One catalog transaction makes the VM's disks the read-only bottom of a point with this id.
pub fn adopt(c: &StepContext, id: DeltaId) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    takeover::flatten(c)?;
    be_fed(c).map_err(|f| recoverable(&f))?;
    let store = host.store(vm).map_err(|f| recoverable(&f))?;
    if store.latest().map_err(|e| layers_failure("read the points", &e))?.map(|point| point.delta) == Some(id)
    {
        return Ok(());
    }
    let capture = host.capture(vm).map_err(|f| recoverable(&f))?;
    capture.release().and_then(|()| capture.forget_bitmaps()).map_err(|e| capture_failure(&e))?;
    let mut adopted = vec![];
    for disk in &capture.disks {
        let sums = capture.digest_path(disk.disk).with_extension("sums");
        capture.sums_of_digest(disk.disk, &sums).map_err(|e| capture_failure(&e))?;
        adopted.push(layers::AdoptedDisk {
            disk: disk.disk,
            path: disk.path.clone(),
            format: match disk.format {
                capture::DiskFormat::Raw => layers::LayerFormat::Raw,
                capture::DiskFormat::Qcow2 => layers::LayerFormat::Qcow2,
            },
            size_bytes: disk.size_bytes,
            sums,
        });
    }
    // A note keeps a point until an operator drops it.
    let note = match (c.record.superseded.is_some(), c.record.keeps_last) {
        (true, _) => "what this host wrote and never shipped",
        (false, true) => "what the VM wrote here last; it went home as of an earlier point",
        (false, false) => "",
    };
    let xml: Option<String> = host.document(vm, document::OWN_XML).map_err(|f| recoverable(&f))?;
    let generation = c.record.token.generation();
    let now = crate::clock::now_ms();
    let adoption = layers::Adoption {
        delta: id,
        disks: adopted,
        domain_xml: xml.unwrap_or_default(),
        cut_at_ms: now,
        received_at_ms: now,
        index: 0,
        generation_number: generation.number,
        generation_nonce: generation.nonce,
        note: note.to_owned(),
    };
    store.adopt(&adoption).map(drop).map_err(|e| layers_failure("adopt the disks", &e))
}

/// What this host told, or has to tell, the new primary.
pub fn own_changes(host: &Host, vm: VmId) -> Result<OwnChanges, Failure> {
    let lists = host.catalog.cluster_lists(vm).map_err(|e| internal("read the cluster lists", &e))?;
    let noted: Option<(DeltaId, Option<DeltaId>)> = host.document(vm, document::OWN_SINCE)?;
    let own = |list: &ClusterList| list.label == OWN && list.delta == noted.map(|(id, _)| id);
    let disks = lists.iter().filter(|list| own(list));
    let disks: Vec<_> = disks.map(|list| (list.disk, SetText::of_set(&list.clusters))).collect();
    // Without a list nothing is known, which is not the same as nothing changed.
    let since = noted.and_then(|(_, since)| since).filter(|_| !disks.is_empty());
    Ok(OwnChanges { since, disks })
}

/// What the peer, whose disks stand at `state`, wrote: candidates of the comparison that follows.
pub fn record_peer_changes(
    host: &Host,
    vm: VmId,
    state: DeltaId,
    changes: &OwnChanges,
) -> Result<(), Failure> {
    let malformed = || {
        Failure::new(
            crate::api::ErrorKind::InvalidParameter,
            "malformed",
            "the peer's cluster lists are malformed",
        )
    };
    let mut lists = vec![];
    for (disk, text) in &changes.disks {
        lists.push(ClusterList {
            disk: *disk,
            label: takeover::PEER.to_owned(),
            delta: Some(state),
            source: "peer".to_owned(),
            clusters: text.set().ok_or_else(malformed)?,
        });
    }
    host.catalog.save_cluster_lists(vm, &lists).map_err(|e| internal("save the cluster lists", &e))?;
    // Last: until it stands there, all is compared.
    host.put_document(vm, document::PEER_SINCE, &(state, changes.since))
}
