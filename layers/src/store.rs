//! One VM's store: its folder, its catalog rows, its lock.
//!
//! The layer lock is held by whoever changes files below an existing point or starts to use them. A merge
//! holds it for long and gives it up at the next cluster when somebody else wants it.

use crate::{
    coalesce::Copied,
    error::{LayersError, Result, StoppedAt},
};
use catalog::{Catalog, Layer, LayerFormat, Point};
use model::{DeltaId, DiskId, VmId};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Layers of one disk on top of each other. libvirt refuses 200, and starts get slow long before.
pub const CHAIN_LAYERS_MAX: usize = 64;

/// Called at named steps; `true` ends the operation there, as a crash would. For tests of recovery.
pub type Fault = dyn Fn(&'static str) -> bool + Send + Sync;

/// One file of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    pub path: PathBuf,
    pub format: LayerFormat,
}

pub struct Store {
    pub(crate) catalog: Catalog,
    pub(crate) vm: VmId,
    /// The VM's folder.
    pub(crate) folder: PathBuf,
    pub(crate) fault: Arc<Fault>,
    lock: Mutex<()>,
    waiting: AtomicUsize,
    /// Points that this process is reading, with the number of readers.
    held: Arc<Mutex<HashMap<DeltaId, u32>>>,
    pub(crate) receiving: Arc<AtomicBool>,
    pub(crate) copied: Mutex<Option<Copied>>,
}

impl Store {
    /// The store of `vm` under the storage folder `folder`; its files are in `<folder>/<vm>`. Run
    /// [`Self::recover`] before anything else after a restart.
    pub fn open(catalog: Catalog, vm: VmId, folder: &Path) -> Self {
        Self {
            catalog,
            vm,
            folder: folder.join(vm.to_string()),
            fault: Arc::new(|_| false),
            lock: Mutex::new(()),
            waiting: AtomicUsize::new(0),
            held: Arc::default(),
            receiving: Arc::default(),
            copied: Mutex::default(),
        }
    }

    pub fn with_fault(mut self, fault: Arc<Fault>) -> Self {
        self.fault = fault;
        self
    }

    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// The VM's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The points that are offered, by sequence.
    pub fn points(&self) -> Result<Vec<Point>> {
        Ok(self.catalog.points(self.vm)?.into_iter().filter(|point| point.visible).collect())
    }

    pub fn latest(&self) -> Result<Option<Point>> {
        Ok(self.points()?.pop())
    }

    /// The point, hidden or not.
    pub(crate) fn point(&self, delta: DeltaId) -> Result<Point> {
        let points = self.catalog.points(self.vm)?;
        points.into_iter().find(|point| point.delta == delta).ok_or(LayersError::UnknownPoint { delta })
    }

    /// The point, if it is offered: a hidden one's layers may be half overwritten.
    pub(crate) fn visible_point(&self, delta: DeltaId) -> Result<Point> {
        let point = self.point(delta)?;
        if point.visible { Ok(point) } else { Err(LayersError::UnknownPoint { delta }) }
    }

    /// The point, if its layers are whole: it is offered, or bookmarked.
    pub(crate) fn readable_point(&self, delta: DeltaId) -> Result<Point> {
        if self.bookmarks()?.contains(&delta) { self.point(delta) } else { self.visible_point(delta) }
    }

    /// The disks of a point.
    pub fn disks(&self, delta: DeltaId) -> Result<Vec<DiskId>> {
        self.point(delta)?;
        let layers = self.catalog.layers(self.vm)?;
        Ok(layers.into_iter().filter(|layer| layer.delta == delta).map(|layer| layer.disk).collect())
    }

    /// The files of each disk of a point, bottom first.
    pub fn chain(&self, delta: DeltaId) -> Result<Vec<(DiskId, Vec<LayerRef>)>> {
        let chain = |disk| {
            let layers = self.layers_below(delta, disk)?;
            let refs = layers.iter().map(|layer| LayerRef { path: self.path(layer), format: layer.format });
            Ok((disk, refs.collect()))
        };
        self.disks(delta)?.into_iter().map(chain).collect()
    }

    /// The rows of a disk's layers at a point, bottom first.
    pub(crate) fn layers_below(&self, delta: DeltaId, disk: DiskId) -> Result<Vec<Layer>> {
        self.point(delta)?;
        let mut layers: HashMap<_, _> = self
            .catalog
            .layers(self.vm)?
            .into_iter()
            .filter(|layer| layer.disk == disk)
            .map(|layer| (layer.delta, layer))
            .collect();
        let mut chain = vec![];
        let mut next = Some(delta);
        while let Some(layer) = next.and_then(|delta| layers.remove(&delta)) {
            next = layer.base;
            chain.push(layer);
        }
        if chain.is_empty() {
            return Err(LayersError::UnknownDisk { delta, disk });
        }
        chain.reverse();
        Ok(chain)
    }

    pub(crate) fn disk_folder(&self, disk: DiskId) -> PathBuf {
        self.folder.join(disk.to_string())
    }

    /// A layer's image; an absolute path replaces the folder.
    pub(crate) fn path(&self, layer: &Layer) -> PathBuf {
        self.disk_folder(layer.disk).join(&layer.path)
    }

    pub(crate) fn sums_path(&self, disk: DiskId, delta: DeltaId) -> PathBuf {
        self.disk_folder(disk).join(format!("{delta}.sums"))
    }

    pub(crate) fn sums_below(&self, delta: DeltaId, disk: DiskId) -> Result<Vec<PathBuf>> {
        let layers = self.layers_below(delta, disk)?;
        Ok(layers.iter().map(|layer| self.sums_path(disk, layer.delta)).collect())
    }

    /// Takes the layer lock; a merge that holds it stops at its next cluster. What a failed merge left
    /// behind is settled first, so that the files are what the catalog says.
    pub(crate) fn lock_layers(&self) -> Result<MutexGuard<'_, ()>> {
        let guard = self.lock_unsettled();
        self.settle_merge()?;
        Ok(guard)
    }

    pub(crate) fn lock_unsettled(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        guard
    }

    /// Whether somebody waits for the files that a merge is using.
    pub fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Keeps merges off the layers of a point while this process reads them. Only the first reader of a
    /// point has to stop a merge.
    pub fn hold(&self, delta: DeltaId) -> Result<Hold> {
        let another = self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&delta)
            .map(|readers| *readers += 1);
        if another.is_some() {
            return Ok(Hold { delta, held: self.held.clone() });
        }
        let _layers = self.lock_layers()?;
        self.readable_point(delta)?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner).entry(delta).or_default() += 1;
        Ok(Hold { delta, held: self.held.clone() })
    }

    pub(crate) fn held(&self) -> Vec<DeltaId> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(crate) fn step(&self, step: &'static str) -> Result<()> {
        if (self.fault)(step) { Err(LayersError::Stopped { step }) } else { Ok(()) }
    }

    /// As [`Self::step`], for code that speaks `io::Error`.
    pub(crate) fn io_step(&self, step: &'static str) -> io::Result<()> {
        if (self.fault)(step) { Err(io::Error::other(StoppedAt(step))) } else { Ok(()) }
    }
}

/// See [`Store::hold`].
#[derive(Debug)]
pub struct Hold {
    delta: DeltaId,
    held: Arc<Mutex<HashMap<DeltaId, u32>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(readers) = held.get_mut(&self.delta) {
            *readers -= 1;
            if *readers == 0 {
                held.remove(&self.delta);
            }
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("vm", &self.vm).field("folder", &self.folder).finish_non_exhaustive()
    }
}
