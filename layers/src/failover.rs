//! What the commit of a failover does to a store, and the end of a store.

use crate::{
    error::{LayersError, Result},
    store::Store,
};
use model::{DeltaId, durable};
use std::path::PathBuf;

/// What becomes of the files of a store that is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// They stay; nothing here looks at them again.
    Keep,
    /// They are removed, except these and the VM's own disks: where a VM runs from its bottom layer or its
    /// overlay, that file is its disk now.
    RemoveExcept(Vec<PathBuf>),
}

impl Store {
    /// Hides every point but one, the latest too: it is the one that a failed-over VM runs on.
    pub fn hide_all_but(&self, delta: DeltaId) -> Result<()> {
        self.visible_point(delta)?;
        let mut others = self.points()?;
        others.retain(|point| point.delta != delta);
        let others: Vec<DeltaId> = others.iter().map(|point| point.delta).collect();
        Ok(self.catalog.hide_points(self.vm, &others)?)
    }

    /// Forgets the points after one, which were hidden before, and removes their files. The caller has
    /// recorded their cluster lists. Pinned ones are refused.
    pub fn drop_layers_after(&self, delta: DeltaId) -> Result<()> {
        let _layers = self.lock_layers()?;
        let sequence = self.point(delta)?.sequence;
        let mut later = self.catalog.points(self.vm)?;
        later.retain(|point| point.sequence > sequence);
        if let Some(visible) = later.iter().find(|point| point.visible) {
            return Err(LayersError::StillVisible { delta: visible.delta });
        }
        let later: Vec<DeltaId> = later.iter().map(|point| point.delta).collect();
        self.refuse_users(&later)?;
        self.catalog.delete_points(self.vm, &later)?;
        self.step("drop: recorded")?;
        later.iter().try_for_each(|delta| self.remove_files_of(*delta))
    }

    /// Forgets everything about the VM except its cluster lists. The VM's own disks, adopted in place, are
    /// never removed.
    pub fn forget_all(&self, files: Files) -> Result<()> {
        let _layers = self.lock_unsettled();
        let keep = match &files {
            Files::Keep => self.our_files()?,
            Files::RemoveExcept(keep) => keep.clone(),
        };
        // First, or a crash would leave files that recovery takes for its own.
        let in_place = self.catalog.layers(self.vm)?.into_iter().filter(|layer| layer.in_place);
        let mut kept = self.kept()?;
        kept.extend(keep.into_iter().chain(in_place.map(|layer| layer.path)));
        kept.retain(|path| path.starts_with(&self.folder) && path.exists());
        kept.sort();
        kept.dedup();
        let kept = serde_json::to_string(&kept).expect("paths of ours are UTF-8");
        self.catalog.put_meta(&self.kept_key(), &kept)?;
        self.step("forget: kept files recorded")?;
        self.catalog.delete_all_points(self.vm)?;
        self.step("forget: recorded")?;
        let kept = self.kept()?;
        for path in self.our_files()?.into_iter().filter(|path| !kept.contains(path)) {
            durable::remove(&path).map_err(LayersError::io(&path))?;
            self.step("forget: file removed")?;
        }
        Ok(())
    }

    /// Paths of files that look like ours and are a VM's disks by now.
    pub(crate) fn kept(&self) -> Result<Vec<PathBuf>> {
        let Some(json) = self.catalog.get_meta(&self.kept_key())? else { return Ok(vec![]) };
        serde_json::from_str(&json).map_err(|_| LayersError::Damaged {
            path: self.catalog.path().to_owned(),
            what: "the list of kept files",
        })
    }

    fn kept_key(&self) -> String {
        format!("layers.kept.{}", self.vm)
    }

    /// Refuses when one of the points is pinned, or being read.
    fn refuse_users(&self, deltas: &[DeltaId]) -> Result<()> {
        let pins = self.catalog.pins(self.vm)?;
        if let Some(pin) = pins.iter().find(|pin| deltas.contains(&pin.delta)) {
            let reason = format!("{} ({})", pin.reason, pin.owner);
            return Err(LayersError::Pinned { delta: pin.delta, reason });
        }
        match self.held().into_iter().find(|delta| deltas.contains(delta)) {
            Some(delta) => Err(LayersError::Pinned { delta, reason: "it is being read".to_owned() }),
            None => Ok(()),
        }
    }
}
