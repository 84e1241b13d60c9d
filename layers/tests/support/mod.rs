//! A replica of a VM whose points are known byte by byte.
#![allow(dead_code, reason = "each test binary uses a part")]

use catalog::{Catalog, Point};
use layers::{DeltaWriter, Fault, Incoming, IncomingDisk, LayersError, Mark, Store};
use model::{
    CLUSTER_BYTES, Chunk, ChunkContent, DeltaId, DiskId, Generation, PointKind, VmId, hash_cluster,
    sums::SumsReader,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

pub const CLUSTER: usize = CLUSTER_BYTES as usize;

/// One change of one disk.
#[derive(Clone, Debug)]
pub enum Change {
    /// Clusters from the first on, each filled from this byte.
    Data {
        first: u32,
        count: u32,
        fill: u8,
    },
    Zero {
        first: u32,
        count: u32,
    },
    /// The disk gets this many bytes longer.
    Grow(u64),
}

pub struct Replica {
    pub catalog: Catalog,
    pub store: Store,
    pub vm: VmId,
    pub disks: Vec<DiskId>,
    pub generation: Generation,
    /// What each disk reads as at the latest point.
    pub now: Vec<Vec<u8>>,
    /// The same for each point.
    pub points: BTreeMap<DeltaId, Vec<Vec<u8>>>,
    pub latest: Option<DeltaId>,
    pub received_at_ms: i64,
    pub dir: tempfile::TempDir,
}

impl Replica {
    pub fn new(sizes: &[u64]) -> Self {
        // In memory where there is such a place: crash tests fsync thousands of times.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let catalog = Catalog::open(&dir.path().join("catalog.sqlite")).unwrap();
        let vm = VmId::random();
        let generation = Generation::first("a.example".parse().unwrap());
        catalog.save_relationship(vm, 0, "{}", &generation).unwrap();
        let store = Store::open(catalog.clone(), vm, &dir.path().join("storage"));
        Self {
            store,
            catalog,
            vm,
            disks: sizes.iter().map(|_| DiskId::random()).collect(),
            generation,
            now: sizes.iter().map(|size| vec![0; *size as usize]).collect(),
            points: BTreeMap::new(),
            latest: None,
            received_at_ms: 0,
            dir,
        }
    }

    /// As after a restart: another handle on the same files, with a fault if one is wanted.
    pub fn reopen(&mut self, fault: Option<Arc<Fault>>) {
        let catalog = Catalog::open(self.catalog.path()).unwrap();
        let store = Store::open(catalog.clone(), self.vm, &self.dir.path().join("storage"));
        self.store = match fault {
            Some(fault) => store.with_fault(fault),
            None => store,
        };
        self.catalog = catalog;
    }

    pub fn incoming(&self, delta: DeltaId) -> Incoming {
        let disks = self.disks.iter().zip(&self.now);
        Incoming {
            delta,
            base: self.latest,
            disks: disks
                .map(|(disk, now)| IncomingDisk { disk: *disk, size_bytes: now.len() as u64 })
                .collect(),
            cut_at_ms: self.received_at_ms,
            kind: PointKind::Regular,
            domain_xml: "<domain/>".into(),
            small_files: vec![("nvram".into(), vec![1, 2, 3])],
        }
    }

    /// Applies changes, per disk, to what the disks read as now, and returns them as a sender's chunks.
    pub fn change(&mut self, changes: &[Vec<Change>]) -> Vec<Chunk> {
        let mut chunks = vec![];
        for (index, changes) in changes.iter().enumerate() {
            let now = &mut self.now[index];
            let mut touched = BTreeMap::new();
            for change in changes {
                match *change {
                    Change::Grow(more) => now.resize(now.len() + more as usize, 0),
                    Change::Data { first, count, fill } => {
                        write(now, first, count, fill, &mut touched, false);
                    }
                    Change::Zero { first, count } => write(now, first, count, 0, &mut touched, true),
                }
            }
            chunks.extend(as_chunks(index as u16, now, &touched));
        }
        chunks
    }

    /// Receives and commits one delta.
    pub fn receive(&mut self, changes: &[Vec<Change>]) -> Result<Point, LayersError> {
        let chunks = self.change(changes);
        let mut writer = self.store.begin(self.incoming(DeltaId::random()))?;
        for chunk in &chunks {
            writer.write(chunk)?;
        }
        self.commit(writer)
    }

    pub fn commit(&mut self, writer: DeltaWriter) -> Result<Point, LayersError> {
        let sealed = writer.seal()?;
        self.received_at_ms += 1000;
        let point = self.store.commit(
            sealed,
            0,
            self.generation.number,
            self.generation.nonce,
            self.received_at_ms,
        )?;
        self.committed(point.delta);
        Ok(point)
    }

    /// Remembers what a committed point reads as.
    pub fn committed(&mut self, delta: DeltaId) {
        self.points.insert(delta, self.now.clone());
        self.latest = Some(delta);
    }

    /// Every visible point reads as it was received, by our reader and, for some disks, by QEMU's.
    pub fn check(&self, with_qemu: bool) {
        for point in self.store.points().unwrap() {
            let expected = &self.points[&point.delta];
            for (index, disk) in self.disks.iter().enumerate() {
                let reader = self.store.reader(point.delta, *disk).unwrap();
                assert_eq!(reader.size_bytes, expected[index].len() as u64);
                let mut read = vec![0xaa; expected[index].len()];
                reader.read(0, &mut read).unwrap();
                assert_same(&read, &expected[index], &format!("point {} disk {index}", point.sequence));
                self.check_sums(point.delta, *disk, &expected[index]);
                if with_qemu {
                    let chain = self.store.chain(point.delta).unwrap();
                    let (_, chain) = chain.iter().find(|(id, _)| id == disk).unwrap();
                    let top = chain.last().unwrap().path.clone();
                    assert_same(&qemu_reads(&top), &expected[index], "through qemu-img convert");
                }
            }
        }
    }

    fn check_sums(&self, delta: DeltaId, disk: DiskId, expected: &[u8]) {
        let mut hashes: BTreeMap<u32, _> =
            self.store.hashes(delta, disk).unwrap().map(Result::unwrap).collect();
        for (cluster, bytes) in (0..).zip(expected.chunks(CLUSTER)) {
            let hash = hashes.remove(&cluster).unwrap_or([0; 16]);
            assert_eq!(hash, hash_cluster(bytes), "hash of cluster {cluster}");
        }
        assert!(hashes.is_empty());
    }

    /// `qemu-img check` finds neither errors nor leaks in any layer.
    pub fn check_images(&self) {
        for layer in self.catalog.layers(self.vm).unwrap() {
            let path = self.folder().join(layer.disk.to_string()).join(&layer.path);
            qemu_img_check(&path);
            let sums = SumsReader::open(&path.with_extension("sums")).unwrap();
            assert_eq!(sums.size_bytes, layer.size_bytes);
        }
    }

    /// As [`Self::check_images`], where the bottom is a disk of the VM's own.
    pub fn check_images_except_own(&self) {
        for layer in self.catalog.layers(self.vm).unwrap().iter().filter(|layer| !layer.in_place) {
            qemu_img_check(&self.folder().join(layer.disk.to_string()).join(&layer.path));
        }
    }

    pub fn folder(&self) -> PathBuf {
        self.store.folder().to_owned()
    }

    /// All files in the store, relative to it.
    pub fn files(&self) -> Vec<String> {
        let mut files = vec![];
        for entry in std::fs::read_dir(self.folder()).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                files.push(path);
            }
        }
        let relative = |path: PathBuf| path.strip_prefix(self.folder()).unwrap().display().to_string();
        let mut files: Vec<String> = files.into_iter().map(relative).collect();
        files.sort();
        files
    }
}

fn write(now: &mut [u8], first: u32, count: u32, fill: u8, touched: &mut BTreeMap<u32, bool>, zero: bool) {
    for cluster in first..first + count {
        let start = cluster as usize * CLUSTER;
        if start < now.len() {
            let end = (start + CLUSTER).min(now.len());
            let value = if zero { 0 } else { fill.wrapping_add(cluster as u8) | 1 };
            now[start..end].fill(value);
            touched.insert(cluster, zero);
        }
    }
}

/// Chunks of up to three clusters, so that runs are split in odd places.
fn as_chunks(disk: u16, now: &[u8], touched: &BTreeMap<u32, bool>) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = vec![];
    for (cluster, zero) in touched {
        let start = *cluster as usize * CLUSTER;
        let piece = &now[start..(start + CLUSTER).min(now.len())];
        match chunks.last_mut() {
            Some(last) if last.cluster + last.count() == *cluster && last.count() < 3 => {
                match (&mut last.content, zero) {
                    (ChunkContent::Zero { count }, true) => {
                        *count += 1;
                        continue;
                    }
                    (ChunkContent::Data { bytes, hashes }, false) => {
                        bytes.extend_from_slice(piece);
                        hashes.push(hash_cluster(piece));
                        continue;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        let content = if *zero {
            ChunkContent::Zero { count: 1 }
        } else {
            ChunkContent::Data { bytes: piece.to_vec(), hashes: vec![hash_cluster(piece)] }
        };
        chunks.push(Chunk { disk, cluster: *cluster, content });
    }
    chunks
}

pub fn mark(frames: u64) -> Mark {
    Mark { frames, chain: [frames as u8; 32] }
}

pub fn assert_same(read: &[u8], expected: &[u8], what: &str) {
    // QEMU's disks are whole sectors.
    let read = &read[..read.len().min(expected.len())];
    let differs = read.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        differs.is_none() && read.len() == expected.len(),
        "{what}: {} of {} bytes, first difference {differs:?} (cluster {:?})",
        read.len(),
        expected.len(),
        differs.map(|at| at / CLUSTER)
    );
}

pub fn qemu_reads(image: &Path) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap();
    run("qemu-img", &["convert", "-U", "-O", "raw", image.to_str().unwrap(), raw.path().to_str().unwrap()]);
    std::fs::read(raw.path()).unwrap()
}

pub fn qemu_img_check(image: &Path) {
    run("qemu-img", &["check", "-q", image.to_str().unwrap()]);
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
