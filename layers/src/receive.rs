//! Receiving a delta: `begin`, then `write` and `mark` as often as it takes, `seal`, `commit`.
//!
//! ```text
//!  <delta>.qcow2.partial, <delta>.entries.partial   while it is written; kept over a crash up to the mark
//!  <delta>.qcow2, <delta>.sums                      after seal; nobody's yet: made partial again, or removed
//!  the same, named by the catalog                   after commit: a recovery point
//! ```

use crate::{
    entries::Entries,
    error::{LayersError, Result},
    qcow2::{Backing, Writer},
    recover::delta_of,
    store::{CHAIN_LAYERS_MAX, Fault, Store},
};
use catalog::{Catalog, Expected, Layer, LayerFormat, NewPoint, Point, Receiving};
use model::{
    Chunk, ChunkContent, DeltaId, DiskId, PointKind, VmId, ZERO_CLUSTER,
    clusters::{CLUSTER_BYTES, cluster_count, cluster_length},
    durable, hash_cluster,
    sums::SumsWriter,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use uuid::Uuid;

/// A delta as its sender announces it.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub delta: DeltaId,
    /// The point that it builds on; `None`: a first copy.
    pub base: Option<DeltaId>,
    pub disks: Vec<IncomingDisk>,
    pub cut_at_ms: i64,
    pub kind: PointKind,
    pub domain_xml: String,
    /// (name, content): NVRAM, TPM state.
    pub small_files: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingDisk {
    pub disk: DiskId,
    pub size_bytes: u64,
}

/// How far a transfer has come, in the transport's words: frames, and the hash over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    pub frames: u64,
    pub chain: [u8; 32],
}

/// What the catalog keeps about a transfer: enough to tell whether a new attempt is the same one.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    base: Option<DeltaId>,
    disks: Vec<IncomingDisk>,
    mark: Mark,
    /// Durable entries of each disk.
    entries: Vec<u64>,
}

#[derive(Debug)]
struct DiskWriter {
    disk: DiskId,
    size_bytes: u64,
    folder: PathBuf,
    image: Writer,
    entries: Entries,
    base: Option<DeltaId>,
    /// The short last cluster of the disk before it grew, as it reads now: its hash covers more bytes than
    /// before, so the new layer needs it even if the sender did not touch it.
    tail: Option<(u32, Vec<u8>)>,
}

/// Takes in one delta. Dropped before it is sealed, it can be begun again where its last mark was.
pub struct DeltaWriter {
    catalog: Catalog,
    vm: VmId,
    folder: PathBuf,
    incoming: Incoming,
    disks: Vec<DiskWriter>,
    current: u16,
    mark: Mark,
    broken: bool,
    fault: Arc<Fault>,
    _slot: Slot,
}

/// Files that are complete and durable under their final names, and not yet a point: without a commit,
/// recovery removes what no mark of the transfer can bring back.
#[must_use]
#[derive(Debug)]
pub struct Sealed {
    incoming: Incoming,
    layers: Vec<Layer>,
}

impl Sealed {
    pub fn kind(&self) -> model::PointKind {
        self.incoming.kind
    }
}

/// The one place for a transfer per VM.
struct Slot(Arc<AtomicBool>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Store {
    /// Prepares to take in a delta, or goes on with it where its last durable mark was. Parts of any other
    /// delta are removed.
    pub fn begin(&self, incoming: Incoming) -> Result<DeltaWriter> {
        if self.receiving.swap(true, Ordering::SeqCst) {
            return Err(LayersError::Receiving);
        }
        let slot = Slot(self.receiving.clone());
        check_names(&incoming)?;
        let points = self.catalog.points(self.vm)?;
        // The VM's own disk may be the file that this delta became here in an earlier life.
        let is_own = |path: &Path| delta_of(path) == Some(incoming.delta);
        let own = self.catalog.layers(self.vm)?.iter().any(|layer| layer.in_place && is_own(&layer.path));
        let taken = own || self.kept()?.iter().any(|path| is_own(path));
        if taken || points.iter().any(|point| point.delta == incoming.delta) {
            return Err(LayersError::PointExists { delta: incoming.delta });
        }
        let latest = points.last().map(|point| point.delta);
        if latest != incoming.base {
            return Err(LayersError::WrongBase { latest });
        }
        let bases = incoming.disks.iter().map(|disk| self.base_layer(incoming.base, disk));
        let bases = bases.collect::<Result<Vec<_>>>()?;
        self.remove_other_transfers(incoming.delta)?;
        let mut progress = self.progress(&incoming)?;
        let mut disks = self.begin_disks(&incoming, &bases, progress.as_ref());
        if let (Err(error), true) = (&disks, progress.is_some()) {
            tracing::warn!(vm = %self.vm, delta = %incoming.delta, %error, "cannot resume a transfer: starting over");
            self.discard(incoming.delta)?;
            progress = None;
            disks = self.begin_disks(&incoming, &bases, None);
        }
        let disks = disks?;
        Ok(DeltaWriter {
            catalog: self.catalog.clone(),
            vm: self.vm,
            folder: self.folder.clone(),
            incoming,
            disks,
            current: 0,
            mark: progress.map(|progress| progress.mark).unwrap_or_default(),
            broken: false,
            fault: self.fault.clone(),
            _slot: slot,
        })
    }

    /// Makes a sealed delta a recovery point, if relationship and base still are what the sender expects.
    /// A refused one is removed.
    pub fn commit(
        &self,
        sealed: Sealed,
        index: u16,
        generation_number: u64,
        generation_nonce: Uuid,
        received_at_ms: i64,
    ) -> Result<Point> {
        self.step("commit: files sealed")?;
        let Sealed { incoming, layers } = sealed;
        let expected = Expected { index, generation_number, generation_nonce, base: incoming.base };
        let point = NewPoint {
            delta: incoming.delta,
            kind: incoming.kind,
            cut_at_ms: incoming.cut_at_ms,
            received_at_ms,
            note: String::new(),
            json: "{}".to_owned(),
        };
        let committed = self.catalog.commit_point(self.vm, &expected, &point, &layers);
        if committed.is_err() {
            self.discard(incoming.delta)?;
        }
        let point = committed?;
        self.step("commit: point visible")?;
        for layer in &layers {
            let entries = self.disk_folder(layer.disk).join(format!("{}.entries.partial", layer.delta));
            // The point is there, whatever becomes of them: the next recovery removes them.
            if let Err(error) = durable::remove(&entries) {
                tracing::warn!(path = %entries.display(), %error, "cannot remove what a transfer left");
            }
        }
        Ok(point)
    }

    /// Forgets a transfer and removes its files. A committed point is left alone.
    pub fn discard(&self, delta: DeltaId) -> Result<()> {
        if self.catalog.points(self.vm)?.iter().all(|point| point.delta != delta) {
            self.catalog.delete_receiving(self.vm, delta)?;
            self.remove_files_of(delta)?;
        }
        Ok(())
    }

    fn remove_other_transfers(&self, delta: DeltaId) -> Result<()> {
        for other in self.catalog.all_receiving(self.vm)? {
            if other.delta != delta {
                self.discard(other.delta)?;
            }
        }
        Ok(())
    }

    /// The durable part of an earlier attempt at the same delta; one that differs is dropped.
    fn progress(&self, incoming: &Incoming) -> Result<Option<Progress>> {
        let Some(row) = self.catalog.receiving(self.vm, incoming.delta)? else { return Ok(None) };
        let progress = serde_json::from_str::<Progress>(&row.json).ok().filter(|progress| {
            progress.base == incoming.base
                && progress.disks == incoming.disks
                && progress.entries.len() == incoming.disks.len()
        });
        if progress.is_none() {
            self.discard(incoming.delta)?;
        }
        Ok(progress)
    }

    /// The layer that a disk of a delta goes on top of.
    fn base_layer(&self, base: Option<DeltaId>, disk: &IncomingDisk) -> Result<Option<Layer>> {
        let Some(base) = base else { return Ok(None) };
        let layers = match self.layers_below(base, disk.disk) {
            Err(LayersError::UnknownDisk { .. }) => return Ok(None),
            layers => layers?,
        };
        if layers.len() >= CHAIN_LAYERS_MAX {
            return Err(LayersError::ChainFull { disk: disk.disk, layers: layers.len() });
        }
        let top = layers.into_iter().next_back();
        if let Some(from) = top.as_ref().map(|top| top.size_bytes).filter(|from| *from > disk.size_bytes) {
            return Err(LayersError::Shrunk { disk: disk.disk, from, to: disk.size_bytes });
        }
        Ok(top)
    }

    fn begin_disks(
        &self,
        incoming: &Incoming,
        bases: &[Option<Layer>],
        progress: Option<&Progress>,
    ) -> Result<Vec<DiskWriter>> {
        let disks = incoming.disks.iter().zip(bases).enumerate();
        let begin = |(index, (disk, base)): (usize, (_, &Option<Layer>))| {
            let durable = progress.map_or(0, |progress| progress.entries[index]);
            self.begin_disk(incoming.delta, disk, base.as_ref(), durable)
        };
        disks.map(begin).collect()
    }

    fn begin_disk(
        &self,
        delta: DeltaId,
        disk: &IncomingDisk,
        base: Option<&Layer>,
        durable: u64,
    ) -> Result<DiskWriter> {
        let folder = self.disk_folder(disk.disk);
        // QEMU runs as a user of its own and passes through to the images that libvirt gave it.
        DirBuilder::new().recursive(true).mode(0o711).create(&folder).map_err(LayersError::io(&folder))?;
        let backing = base.map(|base| {
            let name = base.path.to_str().ok_or(LayersError::Damaged {
                path: base.path.clone(),
                what: "the path is not UTF-8, which an image cannot name",
            })?;
            Ok::<_, LayersError>(Backing { name: name.to_owned(), format: base.format })
        });
        let image_path = folder.join(format!("{delta}.qcow2.partial"));
        let entries_path = folder.join(format!("{delta}.entries.partial"));
        if durable > 0 && !image_path.exists() {
            // The files were sealed and never committed.
            let sealed = folder.join(format!("{delta}.qcow2"));
            fs::rename(&sealed, &image_path).map_err(LayersError::io(sealed))?;
        }
        let mut image = Writer::create(&image_path, disk.size_bytes, backing.transpose()?)
            .map_err(LayersError::io(&image_path))?;
        let entries = Entries::resume(&entries_path, durable, |cluster, hash| {
            image.replay(cluster, *hash == ZERO_CLUSTER)
        })
        .map_err(LayersError::io(&entries_path))?;
        image.truncate().map_err(LayersError::io(&image_path))?;
        let mut tail = None;
        if let Some(base) = base.filter(|base| base.size_bytes < disk.size_bytes) {
            tail = self.short_tail(base, disk.size_bytes)?;
        }
        if entries.last.is_some_and(|last| tail.as_ref().is_some_and(|(cluster, _)| last >= *cluster)) {
            tail = None;
        }
        Ok(DiskWriter {
            disk: disk.disk,
            size_bytes: disk.size_bytes,
            folder,
            image,
            entries,
            base: base.map(|base| base.delta),
            tail,
        })
    }

    /// The last cluster below, if it is short, not zero, and longer from now on.
    fn short_tail(&self, base: &Layer, size_bytes: u64) -> Result<Option<(u32, Vec<u8>)>> {
        if base.size_bytes.is_multiple_of(CLUSTER_BYTES) || base.size_bytes == 0 {
            return Ok(None);
        }
        let cluster = cluster_count(base.size_bytes) - 1;
        let offset = u64::from(cluster) * CLUSTER_BYTES;
        let mut bytes = vec![0; cluster_length(size_bytes, cluster) as usize];
        let below = cluster_length(base.size_bytes, cluster) as usize;
        self.reader(base.delta, base.disk)?.read(offset, &mut bytes[..below])?;
        Ok((!model::clusters::is_zero(&bytes)).then_some((cluster, bytes)))
    }
}

impl DeltaWriter {
    /// Where the transfer goes on: zero, or the last mark of an earlier attempt.
    pub fn resume_mark(&self) -> Mark {
        self.mark
    }

    /// Writes a chunk: disks in their announced order, clusters ascending within each.
    pub fn write(&mut self, chunk: &Chunk) -> Result<()> {
        self.check_usable()?;
        self.check_chunk(chunk)?;
        self.current = chunk.disk;
        let disk = &mut self.disks[chunk.disk as usize];
        let written = disk.write(chunk.cluster, &chunk.content);
        self.broken = written.is_err();
        written
    }

    /// Makes everything so far durable and remembers `mark` with it: after a crash or a broken connection
    /// the transfer goes on here.
    pub fn mark(&mut self, mark: Mark) -> Result<()> {
        self.check_usable()?;
        // A half-failed fsync may have dropped dirty pages: nothing of this attempt is trusted any more.
        self.broken = true;
        for disk in &mut self.disks {
            disk.image.sync().map_err(LayersError::io(&disk.folder))?;
            disk.entries.sync().map_err(LayersError::io(&disk.folder))?;
            sync_folder(&disk.folder)?;
        }
        sync_folder(&self.folder)?;
        let progress = Progress {
            base: self.incoming.base,
            disks: self.incoming.disks.clone(),
            mark,
            entries: self.disks.iter().map(|disk| disk.entries.count).collect(),
        };
        let json = serde_json::to_string(&progress).expect("plain data");
        self.catalog.save_receiving(&Receiving { vm: self.vm, delta: self.incoming.delta, json })?;
        self.mark = mark;
        self.broken = false;
        Ok(())
    }

    /// Completes the files and makes them durable under their final names.
    pub fn seal(self) -> Result<Sealed> {
        self.check_usable()?;
        let Self { incoming, disks, folder, fault, .. } = self;
        let delta = incoming.delta;
        let step = |step| if fault(step) { Err(LayersError::Stopped { step }) } else { Ok(()) };
        let mut layers = vec![];
        for disk in disks {
            layers.push(disk.seal(delta, &step)?);
        }
        let small_file = |name: &str, content: &[u8]| {
            let path = folder.join(format!("{delta}.{name}"));
            durable::replace_file(&path, content).map_err(LayersError::io(path))
        };
        small_file(DOMAIN_XML, incoming.domain_xml.as_bytes())?;
        for (name, content) in &incoming.small_files {
            small_file(name, content)?;
        }
        // The disks' folders and the VM's own may be new.
        sync_folder(&folder)?;
        sync_folder(folder.parent().unwrap_or(Path::new("/")))?;
        step("seal: small files durable")?;
        Ok(Sealed { incoming, layers })
    }

    fn check_usable(&self) -> Result<()> {
        if self.broken { Err(LayersError::Broken { delta: self.incoming.delta }) } else { Ok(()) }
    }

    fn check_chunk(&self, chunk: &Chunk) -> Result<()> {
        let refuse = |what| Err(LayersError::Chunk { disk: chunk.disk, cluster: chunk.cluster, what });
        let Some(disk) = self.disks.get(chunk.disk as usize) else { return refuse("there is no such disk") };
        if chunk.disk < self.current {
            return refuse("its disk came before");
        }
        if disk.entries.last.is_some_and(|last| last >= chunk.cluster) {
            return refuse("the clusters are not in ascending order");
        }
        let count = match &chunk.content {
            ChunkContent::Data { hashes, .. } => hashes.len() as u64,
            ChunkContent::Zero { count } => u64::from(*count),
        };
        let end = u64::from(chunk.cluster) + count;
        if end > u64::from(cluster_count(disk.size_bytes)) {
            return refuse("it ends past the disk's end");
        }
        if let ChunkContent::Data { bytes, .. } = &chunk.content {
            let start = u64::from(chunk.cluster) * CLUSTER_BYTES;
            if bytes.len() as u64 != (end * CLUSTER_BYTES).min(disk.size_bytes).saturating_sub(start) {
                return refuse("bytes and hashes do not agree");
            }
        }
        Ok(())
    }
}

impl DiskWriter {
    fn write(&mut self, first: u32, content: &ChunkContent) -> Result<()> {
        let folder = self.folder.clone();
        let fail = || LayersError::io(folder.clone());
        let count = match content {
            ChunkContent::Data { hashes, .. } => hashes.len() as u32,
            ChunkContent::Zero { count } => *count,
        };
        if let Some((cluster, bytes)) = self.tail.take_if(|(cluster, _)| *cluster < first + count)
            && cluster < first
        {
            self.write_tail(cluster, &bytes)?;
        }
        match content {
            ChunkContent::Zero { count } => {
                self.image.zero(first, *count).map_err(fail())?;
                for cluster in first..first + count {
                    self.entries.push(cluster, &ZERO_CLUSTER).map_err(fail())?;
                }
            }
            ChunkContent::Data { bytes, hashes } => {
                let mut run = 0;
                while run < hashes.len() {
                    run += self.write_alike(first, run, bytes, hashes).map_err(fail())?;
                }
            }
        }
        Ok(())
    }

    /// Writes clusters from the chunk's cluster `start` on, as long as they all are zero or all are not: a
    /// cluster whose hash says zero is stored as zero, however it was sent. Returns their number.
    fn write_alike(
        &mut self,
        first: u32,
        start: usize,
        bytes: &[u8],
        hashes: &[model::ClusterHash],
    ) -> std::io::Result<usize> {
        let zero = hashes[start] == ZERO_CLUSTER;
        let count = hashes[start..].iter().take_while(|hash| (**hash == ZERO_CLUSTER) == zero).count();
        let from = start * CLUSTER_BYTES as usize;
        let to = ((start + count) * CLUSTER_BYTES as usize).min(bytes.len());
        let cluster = first + start as u32;
        if zero {
            self.image.zero(cluster, count as u32)?;
        } else {
            self.image.data(cluster, &bytes[from..to])?;
        }
        for (cluster, hash) in (cluster..).zip(&hashes[start..start + count]) {
            self.entries.push(cluster, hash)?;
        }
        Ok(count)
    }

    fn write_tail(&mut self, cluster: u32, bytes: &[u8]) -> Result<()> {
        let write = || {
            self.image.data(cluster, bytes)?;
            self.entries.push(cluster, &hash_cluster(bytes))
        };
        let mut write = write;
        write().map_err(LayersError::io(&self.folder))
    }

    fn seal(mut self, delta: DeltaId, step: &dyn Fn(&'static str) -> Result<()>) -> Result<Layer> {
        if let Some((cluster, bytes)) = self.tail.take() {
            self.write_tail(cluster, &bytes)?;
        }
        let Self { disk, size_bytes, folder, image, entries, base, .. } = self;
        let file = |suffix: &str| folder.join(format!("{delta}.{suffix}"));
        let (data_clusters, stored_bytes) = image.finish().map_err(LayersError::io(file("qcow2.partial")))?;
        step("seal: image finished")?;
        let mut sums = SumsWriter::create(&file("sums.partial"), size_bytes)?;
        entries.copy_into(&mut sums)?;
        sums.finish()?;
        step("seal: sums finished")?;
        for suffix in ["sums", "qcow2"] {
            let (from, to) = (file(&format!("{suffix}.partial")), file(suffix));
            durable::rename(&from, &to).map_err(LayersError::io(from))?;
            step("seal: file renamed")?;
        }
        Ok(Layer {
            disk,
            delta,
            base,
            path: format!("{delta}.qcow2").into(),
            format: LayerFormat::Qcow2,
            in_place: false,
            size_bytes,
            data_clusters,
            stored_bytes,
        })
    }
}

/// The name, after the delta's id, of the file with the domain's XML.
pub const DOMAIN_XML: &str = "domain.xml";

/// Small files' names come from another host: they must not leave the folder or take a name of ours.
fn check_names(incoming: &Incoming) -> Result<()> {
    for (name, _) in &incoming.small_files {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let ours = name == DOMAIN_XML || name.ends_with(".partial") || name.ends_with(".tmp");
        if name.is_empty() || name.len() > 128 || !plain || ours {
            return Err(LayersError::FileName { delta: incoming.delta, name: name.clone() });
        }
    }
    Ok(())
}

pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(LayersError::io(folder))
}
