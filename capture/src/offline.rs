//! A cut of a VM that is off: libvirt refuses checkpoints and backup then, so the storage daemon makes the
//! bitmaps and the copies, all disks in one transaction.
//!
//! The new checkpoint is told to libvirt without validation, which would need a running VM; `recover`
//! validates it once the VM runs.

use crate::{
    Capture,
    cut::Moment,
    error::{CaptureError, Result},
    journal::Turn,
    live::base,
    places::checkpoint_name,
    qsd::StorageDaemon,
    spool, tools,
};
use hypervisor::checkpoint_record;
use model::{CLUSTER_BYTES, ClusterSet, DeltaId, DiskId};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

impl Capture {
    pub(crate) fn back_up_offline(&self, turn: &Turn) -> Result<Moment> {
        let base = base(turn)?;
        let targets: Vec<PathBuf> =
            self.disks.iter().map(|disk| self.spool_path(turn.attempt, disk.disk)).collect();
        let dirty_bytes = self.copy_dirty(base, Some(turn.delta), &targets)?;
        self.fault.at("copied offline")?;
        self.record_checkpoint(turn.delta)?;
        Ok(Moment { cut_at_ms: (self.clock)(), application_consistent: None, dirty_bytes })
    }

    /// Tells libvirt of a checkpoint whose bitmaps stand in the images.
    pub(crate) fn record_checkpoint(&self, delta: DeltaId) -> Result<()> {
        let name = checkpoint_name(delta);
        let known = self.hypervisor.checkpoints(self.vm)?;
        if known.iter().any(|checkpoint| checkpoint.name == name) {
            return Ok(());
        }
        let parent = known.last().map(|checkpoint| checkpoint.name.as_str());
        let record = checkpoint_record(&name, parent, &self.targets(), (self.clock)() / 1000)?;
        Ok(self.hypervisor.redefine_checkpoint(self.vm, &record, false)?)
    }

    /// Copies what changed since `base` into new files, and adds the bitmap of `new` at the same instant;
    /// bytes that the bitmaps of `base` counted.
    fn copy_dirty(&self, base: DeltaId, new: Option<DeltaId>, targets: &[PathBuf]) -> Result<u64> {
        for (disk, target) in self.disks.iter().zip(targets) {
            spool::remove(target)?;
            tools::create_empty(target, self.info(&self.domain()?, disk)?.size_bytes)?;
        }
        let mut daemon = StorageDaemon::start(&self.nodes(targets), &self.storage_daemon_pid_path())?;
        let dirty_bytes = self.dirty_bytes(&mut daemon, base)?;
        let _room = spool::require_room(&self.spool_folder(), dirty_bytes, self.limits)?;
        let mut actions = vec![];
        for index in 0..self.disks.len() {
            if let Some(new) = new {
                actions.push(action(
                    "block-dirty-bitmap-add",
                    &json!({"node": format!("disk{index}"), "name": checkpoint_name(new),
                            "granularity": CLUSTER_BYTES, "persistent": true}),
                ));
            }
            actions.push(action(
                "blockdev-backup",
                &json!({"job-id": format!("job{index}"), "device": format!("disk{index}"),
                        "target": format!("spool{index}"), "sync": "bitmap",
                        "bitmap": checkpoint_name(base), "bitmap-mode": "never"}),
            ));
        }
        daemon.call("transaction", &json!({ "actions": actions }))?;
        for index in 0..self.disks.len() {
            daemon.wait_job(&format!("job{index}"))?;
        }
        daemon.quit()?;
        Ok(dirty_bytes)
    }

    /// Block nodes of all disks (to be written to: a bitmap is added) and their targets.
    fn nodes(&self, targets: &[PathBuf]) -> Vec<Value> {
        let file = |path: &Path| json!({"driver": "file", "filename": path});
        let mut nodes = vec![];
        for (index, (disk, target)) in self.disks.iter().zip(targets).enumerate() {
            nodes.push(json!({"driver": "qcow2", "node-name": format!("disk{index}"),
                              "file": file(&disk.path), "discard": "unmap"}));
            nodes.push(json!({"driver": "qcow2", "node-name": format!("spool{index}"),
                              "file": file(target), "discard": "unmap"}));
        }
        nodes
    }

    /// Bytes that the base's bitmaps count; a missing or inconsistent one is lost tracking.
    fn dirty_bytes(&self, daemon: &mut StorageDaemon, base: DeltaId) -> Result<u64> {
        let name = checkpoint_name(base);
        let nodes = daemon.call("query-named-block-nodes", &json!({"flat": true}))?;
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        let mut bytes = 0;
        for (index, disk) in self.disks.iter().enumerate() {
            let node = nodes.iter().find(|node| node["node-name"] == format!("disk{index}"));
            let bitmaps = node.and_then(|node| node["dirty-bitmaps"].as_array());
            let bitmap = bitmaps.and_then(|bitmaps| bitmaps.iter().find(|bitmap| bitmap["name"] == name));
            let lost = |what: &str| {
                let why = format!("disk {}: the bitmap of checkpoint {name} is {what}", disk.target);
                CaptureError::NotTracked { base, why }
            };
            let bitmap = bitmap.ok_or_else(|| lost("missing"))?;
            if bitmap["inconsistent"] == true {
                return Err(lost("inconsistent"));
            }
            bytes += bitmap["count"].as_u64().ok_or_else(|| lost("without a count"))?;
        }
        Ok(bytes)
    }

    /// The clusters that changed since `base`, by the bitmaps of a VM that is off. They are copied to the
    /// spool to be seen: no tool lists a stored bitmap.
    pub(crate) fn dirty_clusters(&self, base: DeltaId) -> Result<Vec<(DiskId, ClusterSet)>> {
        self.make_folders()?;
        let attempt = model::AttemptId::random();
        let targets: Vec<PathBuf> =
            self.disks.iter().map(|disk| self.spool_path(attempt, disk.disk)).collect();
        let copied = self.copy_dirty(base, None, &targets).and_then(|_| {
            let touched = |path: &PathBuf| crate::image::Image::open_alone(path)?.touched();
            self.disks.iter().zip(&targets).map(|(disk, path)| Ok((disk.disk, touched(path)?))).collect()
        });
        for target in &targets {
            spool::remove(target)?;
        }
        copied
    }
}

fn action(kind: &str, data: &Value) -> Value {
    json!({"type": kind, "data": data})
}
