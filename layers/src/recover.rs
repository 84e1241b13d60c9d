//! After a crash: the catalog says what belongs here; the rest of what looks like ours goes.

use crate::{
    error::{LayersError, Result},
    store::Store,
};
use model::{DeltaId, DiskId, durable};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub removed: Vec<PathBuf>,
    /// Merges whose renames were completed.
    pub finished_merges: u32,
}

impl Store {
    /// Brings the files in line with the catalog: settles an unfinished merge, removes files of ours
    /// that the catalog does not name, keeps the parts of a transfer that can be resumed. Files with names
    /// that are not ours, and those that [`Self::forget_all`] kept, are left alone.
    pub fn recover(&self) -> Result<Recovered> {
        if self.receiving.load(Ordering::SeqCst) {
            return Err(LayersError::Receiving);
        }
        let _layers = self.lock_unsettled();
        let finished = self.settle_merge()?;
        let mut recovered = Recovered { finished_merges: u32::from(finished), removed: vec![] };
        let named = self.named()?;
        for path in self.our_files()? {
            if !named.is_wanted(&path) {
                durable::remove(&path).map_err(LayersError::io(&path))?;
                self.step("recovery: file removed")?;
                recovered.removed.push(path);
            }
        }
        Ok(recovered)
    }

    /// Removes every file of a delta, in its disks' folders and in the VM's own.
    pub(crate) fn remove_files_of(&self, delta: DeltaId) -> Result<()> {
        for path in self.our_files()? {
            if delta_of(&path) == Some(delta) {
                durable::remove(&path).map_err(LayersError::io(&path))?;
                self.step("files removed")?;
            }
        }
        Ok(())
    }

    /// The files in the store whose names have the shapes of ours.
    pub(crate) fn our_files(&self) -> Result<Vec<PathBuf>> {
        let mut files = vec![];
        for path in list(&self.folder)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.parse::<DiskId>().is_ok() && path.is_dir() {
                files.extend(list(&path)?.into_iter().filter(|path| is_ours(path)));
            } else if delta_of(&path).is_some() && path.is_file() {
                files.push(path);
            }
        }
        Ok(files)
    }

    fn named(&self) -> Result<Named> {
        let mut paths: HashSet<PathBuf> = self.kept()?.into_iter().collect();
        for layer in self.catalog.layers(self.vm)? {
            paths.insert(self.path(&layer));
            paths.insert(self.sums_path(layer.disk, layer.delta));
        }
        for overlay in self.catalog.overlays(self.vm)? {
            paths.insert(self.disk_folder(overlay.disk).join(&overlay.path));
        }
        Ok(Named {
            folder: self.folder.clone(),
            paths,
            points: self.catalog.points(self.vm)?.iter().map(|point| point.delta).collect(),
            receiving: self.catalog.all_receiving(self.vm)?.iter().map(|entry| entry.delta).collect(),
        })
    }
}

/// What the catalog names.
struct Named {
    folder: PathBuf,
    paths: HashSet<PathBuf>,
    points: HashSet<DeltaId>,
    receiving: HashSet<DeltaId>,
}

impl Named {
    fn is_wanted(&self, path: &Path) -> bool {
        let delta = delta_of(path);
        let beside_disks = path.parent() == Some(&self.folder);
        // A sealed transfer that was not committed is resumed from its sealed files.
        self.paths.contains(path)
            || delta.is_some_and(|delta| self.receiving.contains(&delta) && !is_temporary(path))
            || delta.is_some_and(|delta| beside_disks && self.points.contains(&delta) && !is_temporary(path))
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(LayersError::io(folder))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<std::io::Result<Vec<_>>>().map_err(LayersError::io(folder))?;
    paths.sort();
    Ok(paths)
}

/// The delta that a file of ours belongs to: its name up to the first dot.
pub(crate) fn delta_of(path: &Path) -> Option<DeltaId> {
    let (id, _) = path.file_name()?.to_str()?.split_once('.')?;
    id.parse().ok()
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [".tmp", ".sums.partial", ".merged"].iter().any(|suffix| name.ends_with(suffix))
}

fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let overlay = name.strip_prefix("failover-").or(name.strip_prefix("test-")).is_some_and(|rest| {
        let number = rest.strip_suffix(".qcow2").or(rest.strip_suffix(".qcow2.partial"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    let endings = [".qcow2", ".sums", ".qcow2.partial", ".entries.partial", ".sums.partial", ".sums.merged"];
    overlay || delta_of(path).is_some() && endings.iter().any(|ending| name.ends_with(ending))
}
