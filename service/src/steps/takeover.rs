//! Steps of a host that takes a VM over: overlays on a point, the domain on them, and what makes the store's
//! files the VM's own disks afterwards.

use super::{StepContext, capture_failure, hypervisor_failure, layers_failure, recoverable};
use crate::{
    api::error::chain,
    host::{DiskRecord, document},
};
use catalog::{ClusterList, OverlayKind};
use engine::{FailoverType, StepFailure};
use hypervisor::{DomainInfo, Hypervisor, xml};
use model::{DeltaId, DiskId, sums::SumsReader};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
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

pub fn make_overlay(c: &StepContext, point: Option<DeltaId>, overlay: u32) -> Result<(), StepFailure> {
    let Some(point) = point else {
        return Err(StepFailure::Refused("there is no recovery point".to_owned()));
    };
    let store = c.host.store(c.record.vm).map_err(|f| recoverable(&f))?;
    let bitmap = format!("relevo-{point}");
    store
        .make_overlay(OverlayKind::Failover, point, overlay, Some(&bitmap))
        .map(drop)
        .map_err(|error| StepFailure::Refused(format!("cannot make the failover overlay: {}", chain(&error))))
}

/// Defines the domain of the failed-over point on its overlays. Everything but the disks, the networks'
/// names and the generation id stays as the point's domain has it.
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
    let text = domain_on(&text, &disks, &overlays, &host.config.networks, !latest_planned)
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
    hypervisor.set_autostart(vm, false).map_err(|e| hypervisor_failure("take its autostart over", &e))
}

/// The domain with its replicated disks on `overlays`; the media of the others stay behind.
pub fn domain_on(
    text: &str,
    disks: &[DiskRecord],
    overlays: &[layers::OverlayDisk],
    networks: &BTreeMap<String, String>,
    new_genid: bool,
) -> hypervisor::Result<String> {
    let mut text = xml::remove_managed_parts(text)?;
    for target in xml::disk_targets(&text)? {
        let disk = disks.iter().find(|disk| disk.target == target);
        let overlay = disk.and_then(|disk| overlays.iter().find(|overlay| overlay.disk == disk.disk));
        text = match overlay {
            Some(overlay) => xml::set_disk_source(&text, &target, &overlay.path, "qcow2")?,
            None => xml::eject(&text, &target)?,
        };
    }
    if new_genid {
        text = xml::set_new_genid(&text)?;
    }
    xml::rename_networks(&text, networks)
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
    if already.iter().any(|list| list.label == DROPPED && list.delta == Some(point)) {
        return Ok(());
    }
    let points = store.points().map_err(|e| layers_failure("read the points", &e))?;
    let newest = points.last().is_some_and(|last| last.delta == point && last.base.is_some());
    let mut lists = vec![];
    for disk in host.disks(vm).map_err(|f| recoverable(&f))? {
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

pub fn hide_points(c: &StepContext) -> Result<(), StepFailure> {
    let store = c.host.store(c.record.vm).map_err(|f| recoverable(&f))?;
    let point = point_of(c)?;
    store.hide_all_but(point).map_err(|e| layers_failure("hide the other points", &e))?;
    store.drop_layers_after(point).map_err(|e| layers_failure("drop the later points", &e))
}

/// The store's files become the VM's own disks: from now on the catalog names them as such, and the store
/// forgets them.
pub fn promote(c: &StepContext) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let existing: Option<Vec<Chain>> = host.document(vm, document::CHAINS).map_err(|f| recoverable(&f))?;
    let store = host.store(vm).map_err(|f| recoverable(&f))?;
    if existing.is_none() {
        let point = point_of(c)?;
        let tops = overlay_disks(c)?;
        let mut disks = host.disks(vm).map_err(|f| recoverable(&f))?;
        let mut chains = vec![];
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
    store.forget_all(layers::Files::Keep).map_err(|e| layers_failure("hand the layers over to the VM", &e))
}

/// Merges what the VM ran on since the failover down into each disk's own file.
pub fn flatten(c: &StepContext) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let chains: Option<Vec<Chain>> = host.document(vm, document::CHAINS).map_err(|f| recoverable(&f))?;
    let Some(chains) = chains else { return Ok(()) };
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
    for path in chains.iter().flat_map(|chain| chain.between.iter().chain([&chain.top])) {
        model::durable::remove(path)
            .map_err(|e| StepFailure::Recoverable(format!("cannot remove {}: {e}", path.display())))?;
    }
    host.catalog
        .delete_cluster_lists(vm, DROPPED)
        .and_then(|()| host.catalog.delete_cluster_lists(vm, PEER))
        .map_err(|e| {
            StepFailure::Recoverable(format!("cannot drop the cluster lists: {}", chain_text(&e)))
        })?;
    host.drop_document(vm, document::CHAINS).map_err(|f| recoverable(&f))?;
    if hypervisor_lacks(c)? {
        return Ok(());
    }
    // The bitmaps went down with the overlay, or they did not: the next cut must know.
    let capture = host.capture(vm).map_err(|f| recoverable(&f))?;
    let recovered = capture.recover(c.record.latest).map_err(|e| capture_failure(&e))?;
    if let (false, Some(why)) = (recovered.tracking_intact, recovered.why) {
        tracing::info!(vm = %c.record.name, %why, "tracking did not survive the merge; the next turn compares");
    }
    Ok(())
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

/// Whether the VM was handed over: nothing is tracked of one that is not defined here.
fn hypervisor_lacks(c: &StepContext) -> Result<bool, StepFailure> {
    let found = c.host.hypervisor.outline(c.record.vm);
    found.map(|domain| domain.is_none()).map_err(|e| hypervisor_failure("look at the VM", &e))
}

/// Whether a disk was merged down already, by what the domain stands on, or where there is none by what was
/// `recorded`. What lies above is stale then: the VM has written below since.
fn is_merged(chain: &Chain, domain: Option<&DomainInfo>, recorded: Option<&Path>) -> bool {
    let disk = domain.and_then(|domain| domain.disks.iter().find(|disk| disk.target == chain.target));
    let stands_on = disk.map_or(recorded, |disk| disk.path());
    !chain.top.exists() || stands_on == Some(&chain.bottom)
}

fn merge_down(c: &StepContext, chain: &Chain, recorded: Option<&Path>) -> Result<(), StepFailure> {
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    let domain = hypervisor.domain(vm).map_err(|e| hypervisor_failure("look at the VM", &e))?;
    if is_merged(chain, domain.as_ref(), recorded) {
        return Ok(());
    }
    if hypervisor.is_active(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? {
        hypervisor
            .abort_block_job(vm, &chain.target)
            .map_err(|e| hypervisor_failure("clear an old block job", &e))?;
        return hypervisor
            .commit_active(vm, &chain.target, Some(&chain.bottom), |job| {
                c.progress.total.store(job.end_bytes, Ordering::Relaxed);
                c.progress.done.store(job.done_bytes, Ordering::Relaxed);
                if c.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(|e| hypervisor_failure("merge the overlay down", &e));
    }
    let output = Command::new("qemu-img")
        .args(["commit", "-q", "-f", "qcow2", "-b"])
        .args([&chain.bottom, &chain.top])
        .output()
        .map_err(|e| StepFailure::Recoverable(format!("cannot run qemu-img: {e}")))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(StepFailure::Recoverable(format!("cannot merge the overlay down: {}", stderr.trim())));
    }
    if domain.is_some() {
        let text =
            hypervisor.xml(vm, true).map_err(|e| hypervisor_failure("read the VM's definition", &e))?;
        let text = xml::set_disk_source(&text, &chain.target, &chain.bottom, &chain.bottom_format)
            .map_err(|e| hypervisor_failure("edit the VM's definition", &e))?;
        hypervisor.define(&text).map_err(|e| hypervisor_failure("define the VM", &e))?;
    }
    Ok(())
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
        assert!(is_merged(&chain, None, Some(&bottom)));
        assert!(!is_merged(&chain, None, Some(&top)));
        std::fs::remove_file(&top).unwrap();
        assert!(is_merged(&chain, None, Some(&top)));
    }
}
