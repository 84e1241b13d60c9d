//! Steps of a host that takes a VM over: overlays on a point, the domain on them, and what makes the store's
//! files the VM's own disks afterwards.

use super::{StepContext, StepOutcome, capture_failure, hypervisor_failure, layers_failure, recoverable};
use crate::{
    api::error::chain,
    host::{DiskRecord, document},
};
use catalog::{ClusterList, OverlayKind};
use engine::{FailoverType, Step, StepFailure, StepResult};
use hypervisor::{DomainInfo, DomainState, Hypervisor, xml};
use model::{DeltaId, DiskId, PointKind, clusters::cluster_count, sums::SumsReader};
use serde::{Deserialize, Serialize};
use std::{
    ops::ControlFlow,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::Ordering,
};

/// Label of the cluster lists of everything that was dropped since the failed-over point.
pub const DROPPED: &str = "dropped";
/// Label of what the peer wrote beyond what was acknowledged.
pub const PEER: &str = "peer";

/// A disk's files from the one that it is merged into up to the overlay that it runs on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chain {
    pub disk: DiskId,
    pub target: String,
    pub bottom: PathBuf,
    /// `qcow2` or `raw`.
    pub bottom_format: String,
    /// Between bottom and top, bottom first.
    pub between: Vec<PathBuf>,
    pub top: PathBuf,
}

fn point_of(c: &StepContext) -> Result<DeltaId, StepFailure> {
    let point = c.record.failed_over.as_ref().map(|f| f.point);
    point.ok_or_else(|| StepFailure::Fatal("no failover is recorded".to_owned()))
}

pub fn make_overlay(c: &StepContext, point: Option<DeltaId>, overlay: u32) -> StepOutcome {
    let Some(point) = point else {
        return Err(StepFailure::Refused("there is no recovery point".to_owned()));
    };
    let store = c.host.store(c.record.vm).map_err(|f| recoverable(&f))?;
    let bitmap = format!("relevo-{point}");
    let refused = |error: layers::LayersError| {
        StepFailure::Refused(format!("cannot make the failover overlay: {}", chain(&error)))
    };
    store.make_overlay(OverlayKind::Failover, point, overlay, Some(&bitmap)).map_err(refused)?;
    let points = store.points().map_err(refused)?;
    let kind = points.iter().find(|kept| kept.delta == point).map_or(PointKind::Regular, |kept| kept.kind);
    Ok(StepResult::Overlay { kind })
}

/// Defines the domain of the failed-over point on its overlays. Everything but the disks, the names of networks
/// and processors and the generation id stays as the point's domain has it.
pub fn define_overlay(c: &StepContext) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    super::domain::require_right(c)?;
    let point = point_of(c)?;
    let failed_over = c.record.failed_over.as_ref().expect("checked by point_of");
    let store = host.store(vm).map_err(|f| recoverable(&f))?;
    let overlays = store
        .overlay(OverlayKind::Failover, failed_over.overlay)
        .map_err(|e| layers_failure("find the failover overlay", &e))?;
    let text = super::domain_xml(&store, point).map_err(|f| recoverable(&f))?;
    let latest_planned = failed_over.kind == FailoverType::Planned && c.record.latest == Some(point);
    let disks = host.disks(vm).map_err(|f| recoverable(&f))?;
    let small_files = super::small_files(&store, point).map_err(|f| recoverable(&f))?;
    let text = domain_on(&text, &disks, &overlays, !latest_planned)
        .and_then(|text| xml::rename_networks(&text, &host.config.networks))
        .and_then(|text| xml::rename_cpu(&text, &host.config.cpu_models))
        .and_then(|text| {
            place_nvram(
                &text,
                &small_files,
                &store.folder().join(format!("nvram-{}.fd", failed_over.overlay)),
            )
        })
        .map_err(|e| hypervisor_failure("edit the point's domain", &e))?;
    let hypervisor = &host.hypervisor;
    if hypervisor.is_active(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? {
        return Ok(());
    }
    place_tpm(hypervisor, &text, &small_files);
    hypervisor
        .define(&text)
        .map_err(|e| StepFailure::Refused(format!("cannot define the VM: {}", chain(&e))))?;
    hypervisor.set_autostart(vm, false).map_err(|e| hypervisor_failure("take its autostart over", &e))?;
    crate::addresses::become_due(host, vm).map_err(|f| recoverable(&f))
}

/// The domain with its replicated disks on `overlays`; the other disks and what lies in drives stay behind.
pub fn domain_on(
    text: &str,
    disks: &[DiskRecord],
    overlays: &[layers::OverlayDisk],
    new_genid: bool,
) -> hypervisor::Result<String> {
    let mut text = xml::remove_managed_parts(text)?;
    for target in xml::disk_targets(&text)? {
        // Over time several disks may have had one target; a point has one of them.
        let mut here = disks.iter().filter(|disk| disk.target == target);
        let overlay = here.find_map(|disk| overlays.iter().find(|overlay| overlay.disk == disk.disk));
        text = match overlay {
            Some(overlay) => xml::set_disk_source(&text, &target, &overlay.path, "qcow2")?,
            None => xml::leave_out(&text, &target)?,
        };
    }
    if new_genid {
        text = xml::set_new_genid(&text)?;
    }
    Ok(text)
}

/// Puts the point's UEFI variables beside its layers, where the domain finds them.
pub fn place_nvram(text: &str, small_files: &[(String, Vec<u8>)], path: &Path) -> hypervisor::Result<String> {
    let Some((_, bytes)) = small_files.iter().find(|(name, _)| name == "nvram") else {
        return Ok(text.to_owned());
    };
    if let Err(error) = model::durable::replace_file(path, bytes) {
        tracing::warn!(path = %path.display(), %error, "cannot place the UEFI variables; libvirt makes new ones");
        return Ok(text.to_owned());
    }
    xml::set_nvram(text, path)
}

/// Puts the point's TPM state where libvirt's emulator looks for it. Without it the guest would meet a blank TPM,
/// yet that is no reason to leave it off.
pub fn place_tpm(hypervisor: &Hypervisor, text: &str, small_files: &[(String, Vec<u8>)]) {
    /// Whom libvirt runs the emulator as, unless told otherwise.
    const EMULATOR: &str = "tss";
    let folder = match hypervisor.tpm_state(text) {
        Ok(Some(folder)) => folder,
        Ok(None) => return,
        Err(error) => return tracing::warn!(%error, "cannot tell where the TPM's state belongs"),
    };
    let owner = crate::accounts::user_id(EMULATOR);
    let place = |name: &str, bytes: &[u8]| -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
        let path = folder.join(name);
        model::durable::replace_file(&path, bytes)?;
        owner.map_or(Ok(()), |owner| std::os::unix::fs::chown(&path, Some(owner), None))
    };
    for (name, bytes) in small_files {
        if let Some(name) = name.strip_prefix("tpm-")
            && let Err(error) = place(name, bytes)
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot place the TPM's state; the guest meets a blank one");
        }
    }
}

/// Makes the point the base of tracking of the VM that runs on its overlay.
pub fn track(c: &StepContext) -> Result<(), StepFailure> {
    let point = point_of(c)?;
    let mut capture = c.host.capture(c.record.vm).map_err(|f| recoverable(&f))?;
    capture.disks = overlay_disks(c)?;
    capture.track_from(point).map_err(|e| StepFailure::Refused(chain(&e)))
}

/// The VM's disks while it runs on the failover overlay.
fn overlay_disks(c: &StepContext) -> Result<Vec<capture::Disk>, StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let number = c.record.failed_over.as_ref().map_or(0, |f| f.overlay);
    let store = host.store(vm).map_err(|f| recoverable(&f))?;
    let overlays = store
        .overlay(OverlayKind::Failover, number)
        .map_err(|e| layers_failure("find the failover overlay", &e))?;
    let disks = host.disks(vm).map_err(|f| recoverable(&f))?;
    Ok(disks
        .into_iter()
        .filter_map(|disk| {
            let overlay = overlays.iter().find(|overlay| overlay.disk == disk.disk)?;
            Some(capture::Disk {
                disk: disk.disk,
                target: disk.target,
                path: overlay.path.clone(),
                format: capture::DiskFormat::Qcow2,
                size_bytes: disk.size_bytes,
            })
        })
        .collect())
}

pub fn drop_overlay(c: &StepContext, overlay: u32) -> Result<(), StepFailure> {
    let store = c.host.store(c.record.vm).map_err(|f| recoverable(&f))?;
    store
        .drop_overlay(OverlayKind::Failover, overlay)
        .map_err(|e| layers_failure("drop the failover overlay", &e))
}

/// Before anything is dropped: which clusters the later points hold, and the digest of the point.
pub fn record_lists(c: &StepContext) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let point = point_of(c)?;
    let store = host.store(vm).map_err(|f| recoverable(&f))?;
    let capture = host.capture(vm).map_err(|f| recoverable(&f))?;
    let already =
        host.catalog.cluster_lists(vm).map_err(|e| recoverable(&super::internal("read the lists", &e)))?;
    let sent = sent_point(c);
    // Nothing is dropped yet before the lists of a failback to a point, and older ones would not lead to that point.
    if sent.is_none() && already.iter().any(|list| list.label == DROPPED && list.delta == Some(point)) {
        return Ok(());
    }
    let points = store.points().map_err(|e| layers_failure("read the points", &e))?;
    let known = third_has(c, &store, point)?.map(|known| known.into_iter().chain(sent).collect::<Vec<_>>());
    let newest = points.last().is_some_and(|last| last.delta == point && last.base.is_some());
    let all = host.catalog.points(vm).map_err(|e| recoverable(&super::internal("read the points", &e)))?;
    let from = all.iter().position(|kept| kept.delta == point).unwrap_or(all.len());
    let mut leads_to: Vec<DeltaId> = all[from..].iter().map(|kept| kept.delta).collect();
    leads_to.extend(points.last().filter(|_| newest).and_then(|last| last.base));
    leads_to.extend(known.iter().flatten());
    host.put_document(vm, document::LEADS_TO, &leads_to).map_err(|f| recoverable(&f))?;
    let mut lists = vec![];
    let in_point = store.disks(point).map_err(|e| layers_failure("read the point's disks", &e))?;
    let disks = host.disks(vm).map_err(|f| recoverable(&f))?;
    for disk in disks.into_iter().filter(|disk| in_point.contains(&disk.disk)) {
        let mut clusters = store
            .clusters_after(point, disk.disk)
            .map_err(|e| layers_failure("list the later points' clusters", &e))?;
        if newest {
            // The primary may not have heard that this delta arrived: what it wrote back to what it was
            // before is no change to it, and differs from what is here.
            let sums = store.folder().join(disk.disk.to_string()).join(format!("{point}.sums"));
            let own = SumsReader::clusters(&sums).map_err(|e| {
                StepFailure::Recoverable(format!("cannot list the point's own clusters: {}", chain(&e)))
            })?;
            clusters.union(&own);
        }
        match &known {
            Some(known) => {
                for state in known {
                    let between = store
                        .clusters_between(*state, point, disk.disk)
                        .map_err(|e| layers_failure("list what a third host has", &e))?;
                    clusters.union(&between);
                }
            }
            None => clusters.insert_run(0, cluster_count(disk.size_bytes)),
        }
        let digest = capture.digest_path(disk.disk);
        if let Some(folder) = digest.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|e| StepFailure::Recoverable(format!("cannot make {}: {e}", folder.display())))?;
        }
        store
            .digest_into(point, disk.disk, &digest)
            .map_err(|e| layers_failure("write the point's digest", &e))?;
        lists.push(ClusterList {
            disk: disk.disk,
            label: DROPPED.to_owned(),
            delta: Some(point),
            source: "layers".to_owned(),
            clusters,
        });
    }
    host.catalog
        .save_cluster_lists(vm, &lists)
        .map_err(|e| StepFailure::Recoverable(format!("cannot save the cluster lists: {}", chain(&e))))
}

/// The point that the peer has from here, where it asked for one.
fn sent_point(c: &StepContext) -> Option<DeltaId> {
    c.record.work.as_ref()?.plan.iter().find_map(|step| match step {
        Step::SendPoint { point, .. } => Some(*point),
        _ => None,
    })
}

/// The states that a third host may have, noted for a comparison with it; the lists have to lead to each of them.
/// `None`: it has one of which nothing is known here. Without a third host there are none.
fn third_has(
    c: &StepContext,
    store: &layers::Store,
    point: DeltaId,
) -> Result<Option<Vec<DeltaId>>, StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let Some(extended) = host.extended(vm).map(|owner| owner.record()) else { return Ok(Some(vec![])) };
    let mut known = store.bookmarks().map_err(|e| layers_failure("read the bookmarks", &e))?;
    known.push(point);
    let told = [extended.latest, extended.peer_latest];
    if told.into_iter().flatten().any(|state| !known.contains(&state)) {
        host.drop_document(vm, document::LISTED).map_err(|f| recoverable(&f))?;
        return Ok(None);
    }
    host.put_document(vm, document::LISTED, &(&extended.peer, &known)).map_err(|f| recoverable(&f))?;
    Ok(Some(known))
}

pub fn hide_points(c: &StepContext) -> Result<(), StepFailure> {
    let store = c.host.store(c.record.vm).map_err(|f| recoverable(&f))?;
    let point = point_of(c)?;
    if let Some(extended) = c.host.extended(c.record.vm) {
        if extended.record().work.is_some() {
            return Err(StepFailure::Busy("a point is still being forwarded".to_owned()));
        }
        // What the third host has is in the lists.
        store.drop_bookmarks(None).map_err(|e| layers_failure("drop the bookmarks", &e))?;
    }
    store.hide_all_but(point).map_err(|e| layers_failure("hide the other points", &e))?;
    store.drop_layers_after(point).map_err(|e| layers_failure("drop the later points", &e))
}

/// The store's files become the VM's own disks: from now on the catalog names them as such, and the store
/// forgets them.
pub fn promote(c: &StepContext) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let existing: Option<Vec<Chain>> = host.document(vm, document::CHAINS).map_err(|f| recoverable(&f))?;
    let store = host.store(vm).map_err(|f| recoverable(&f))?;
    let mut chains = existing.clone().unwrap_or_default();
    if existing.is_none() {
        let point = point_of(c)?;
        let tops = overlay_disks(c)?;
        let mut disks = host.disks(vm).map_err(|f| recoverable(&f))?;
        disks.retain(|disk| tops.iter().any(|top| top.disk == disk.disk));
        for (id, layers) in store.chain(point).map_err(|e| layers_failure("read the point's layers", &e))? {
            let Some(top) = tops.iter().find(|top| top.disk == id) else { continue };
            let Some((bottom, between)) = layers.split_first() else { continue };
            chains.push(Chain {
                disk: id,
                target: top.target.clone(),
                bottom: bottom.path.clone(),
                bottom_format: format_name(bottom.format).to_owned(),
                between: between.iter().map(|layer| layer.path.clone()).collect(),
                top: top.path.clone(),
            });
            for disk in disks.iter_mut().filter(|disk| disk.disk == id) {
                disk.path = Some(top.path.clone());
                disk.format = "qcow2".to_owned();
            }
        }
        host.save_disks(vm, &disks).map_err(|f| recoverable(&f))?;
        host.put_document(vm, document::CHAINS, &chains).map_err(|f| recoverable(&f))?;
    }
    // There are no points left to forward.
    if let Some(extended) = host.extended(vm) {
        let dropped = crate::commands::extended::drop_relationship(host, extended, true);
        tokio::runtime::Handle::current().block_on(dropped).map_err(|f| recoverable(&f))?;
    }
    // What the VM stands on is its own now. Lists of clusters and copies of the definition have served.
    let images =
        chains.into_iter().flat_map(|chain| chain.between.into_iter().chain([chain.bottom, chain.top]));
    store
        .forget_all(layers::Files::RemoveExcept(images.collect()))
        .map_err(|e| layers_failure("hand the layers over to the VM", &e))
}

/// Merges what the VM ran on since the failover down into each disk's own file.
pub fn flatten(c: &StepContext) -> Result<StepResult, StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let chains: Option<Vec<Chain>> = host.document(vm, document::CHAINS).map_err(|f| recoverable(&f))?;
    let Some(chains) = chains else { return Ok(StepResult::Plain) };
    let mut disks = host.disks(vm).map_err(|f| recoverable(&f))?;
    for chain in &chains {
        if c.cancel.is_cancelled() {
            return Err(StepFailure::Cancelled);
        }
        let recorded = disks.iter().find(|disk| disk.disk == chain.disk).and_then(|disk| disk.path.clone());
        merge_down(c, chain, recorded.as_deref())?;
        for disk in disks.iter_mut().filter(|disk| disk.disk == chain.disk) {
            disk.path = Some(chain.bottom.clone());
            disk.format.clone_from(&chain.bottom_format);
        }
        host.save_disks(vm, &disks).map_err(|f| recoverable(&f))?;
    }
    let asides: Vec<_> = chains.iter().map(|chain| aside(&chain.top)).collect();
    let merged = chains.iter().flat_map(|chain| chain.between.iter().chain([&chain.top]));
    for path in merged.chain(&asides) {
        model::durable::remove(path)
            .map_err(|e| StepFailure::Recoverable(format!("cannot remove {}: {e}", path.display())))?;
    }
    host.catalog
        .delete_cluster_lists(vm, DROPPED)
        .and_then(|()| host.catalog.delete_cluster_lists(vm, PEER))
        .map_err(|e| {
            StepFailure::Recoverable(format!("cannot drop the cluster lists: {}", chain_text(&e)))
        })?;
    for served in [document::LISTED, document::LEADS_TO, document::PEER_SINCE] {
        host.drop_document(vm, served).map_err(|f| recoverable(&f))?;
    }
    host.drop_document(vm, document::CHAINS).map_err(|f| recoverable(&f))?;
    if !is_defined(c)? {
        return Ok(StepResult::Plain);
    }
    // The bitmaps went down with the overlay, or they did not: the next cut must know.
    let capture = host.capture(vm).map_err(|f| recoverable(&f))?;
    let recovered = capture.recover(c.record.latest).map_err(|e| capture_failure(&e))?;
    match (recovered.tracking_intact, recovered.why) {
        (false, Some(why)) => Ok(StepResult::TrackingLost { why }),
        _ => Ok(StepResult::Plain),
    }
}

pub fn format_name(format: catalog::LayerFormat) -> &'static str {
    match format {
        catalog::LayerFormat::Raw => "raw",
        catalog::LayerFormat::Qcow2 => "qcow2",
    }
}

fn chain_text(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error)
}

/// Nothing is tracked of a VM that was handed over and is not defined here any more.
fn is_defined(c: &StepContext) -> Result<bool, StepFailure> {
    let found = c.host.hypervisor.sketch(c.record.vm);
    found.map(|domain| domain.is_some()).map_err(|e| hypervisor_failure("look at the VM", &e))
}

/// What merging a disk down still takes.
#[derive(Debug, PartialEq, Eq)]
enum Merge {
    /// The overlay went down; the definition may still name it.
    Define,
    /// By libvirt, under the running VM.
    Online,
    Offline,
}

/// By what the domain stands on, or where there is none by what was `recorded`. What lies above a disk that
/// stands on its own file is stale: the VM has written below since.
fn what_is_left(chain: &Chain, domain: Option<&DomainInfo>, recorded: Option<&Path>, runs: bool) -> Merge {
    let disk = domain.and_then(|domain| domain.disks.iter().find(|disk| disk.target == chain.target));
    let merged = disk.map_or(recorded, |disk| disk.path()) == Some(&chain.bottom);
    match (merged || !chain.top.exists(), runs) {
        (true, _) => Merge::Define,
        (false, true) => Merge::Online,
        (false, false) => Merge::Offline,
    }
}

fn merge_down(c: &StepContext, chain: &Chain, recorded: Option<&Path>) -> Result<(), StepFailure> {
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    let runs = || hypervisor.is_active(vm).map_err(|e| hypervisor_failure("look at the VM", &e));
    let runs_now = runs()?;
    if hypervisor.state(vm).map_err(|e| hypervisor_failure("look at the VM", &e))?
        == Some(DomainState::Migrated)
    {
        return Err(StepFailure::Recoverable("the VM was migrated to another host".to_owned()));
    }
    let domain = hypervisor.sketch(vm).map_err(|e| hypervisor_failure("look at the VM", &e))?;
    if !runs_now && domain.as_ref().is_some_and(|domain| domain.has_managed_save) {
        let why = "the VM's state is saved on its overlay: start it, or drop the state with `virsh managedsave-remove`";
        return Err(StepFailure::Recoverable(why.to_owned()));
    }
    let left = what_is_left(chain, domain.as_ref(), recorded, runs_now);
    if left == Merge::Online {
        hypervisor
            .commit_active(vm, &chain.target, Some(&chain.bottom), |job| {
                c.progress.total.store(job.end_bytes, Ordering::Relaxed);
                c.progress.done.store(job.done_bytes, Ordering::Relaxed);
                if c.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(|e| hypervisor_failure("merge the overlay down", &e))?;
    }
    if left == Merge::Offline {
        commit_offline(chain)?;
        // Nobody starts the VM on the overlay from here on. Whoever was faster has written to it: back, and again.
        let aside = aside(&chain.top);
        let moved = |result: std::io::Result<()>| {
            result.map_err(|e| StepFailure::Recoverable(format!("cannot move {}: {e}", chain.top.display())))
        };
        moved(model::durable::rename(&chain.top, &aside))?;
        if runs()? {
            moved(model::durable::rename(&aside, &chain.top))?;
            return Err(StepFailure::Busy("the VM was started while its overlay was merged down".to_owned()));
        }
    }
    if domain.is_none() {
        return Ok(());
    }
    if runs_now {
        let defined = hypervisor.define_after_commit(vm, &chain.target, &chain.top);
        return defined.map_err(|e| hypervisor_failure("define the VM", &e));
    }
    let text = hypervisor.xml(vm, true).map_err(|e| hypervisor_failure("read the VM's definition", &e))?;
    let text = xml::set_disk_source(&text, &chain.target, &chain.bottom, &chain.bottom_format)
        .map_err(|e| hypervisor_failure("edit the VM's definition", &e))?;
    hypervisor.define(&text).map_err(|e| hypervisor_failure("define the VM", &e))?;
    Ok(())
}

/// `qemu-img` holds the images' locks meanwhile: no VM starts on them.
fn commit_offline(chain: &Chain) -> Result<(), StepFailure> {
    let output = Command::new("qemu-img")
        .args(["commit", "-q", "-f", "qcow2", "-b"])
        .args([&chain.bottom, &chain.top])
        .output()
        .map_err(|e| StepFailure::Recoverable(format!("cannot run qemu-img: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(StepFailure::Recoverable(format!("cannot merge the overlay down: {}", stderr.trim())))
}

/// Where an overlay lies that went down and is not stood upon any more.
fn aside(top: &Path) -> PathBuf {
    let mut name = top.as_os_str().to_owned();
    name.push(".merged");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_above_a_disk_that_was_merged_down_is_not_merged_again() {
        let folder = tempfile::tempdir().unwrap();
        let (top, bottom) = (folder.path().join("top"), folder.path().join("bottom"));
        std::fs::write(&top, "").unwrap();
        let chain = Chain {
            disk: DiskId::random(),
            target: "vda".into(),
            bottom: bottom.clone(),
            bottom_format: "qcow2".into(),
            between: vec![],
            top: top.clone(),
        };
        // The VM was handed over: it is not defined here any more.
        let left = |recorded: &Path, runs| what_is_left(&chain, None, Some(recorded), runs);
        assert_eq!(left(&bottom, false), Merge::Define);
        assert_eq!((left(&top, false), left(&top, true)), (Merge::Offline, Merge::Online));
        std::fs::rename(&top, aside(&top)).unwrap();
        assert_eq!(left(&top, false), Merge::Define);
    }
}
