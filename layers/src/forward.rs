//! Forwarding points to a third host: what of a point is new to it, and that as a sender's chunks.
//!
//! The clusters that are new since another point are those of the layers between the two. For this that point's
//! layers must stay apart from the ones above: a *bookmark* keeps a point, hidden or not, from being merged
//! into the next one, and leaves all other merges alone. A pin does not do: it would stop every merge below
//! it, and there is always a point that was forwarded last.

use crate::{
    error::{LayersError, Result},
    hashes::Hashes,
    read::PointReader,
    store::Store,
};
use model::{
    CLUSTER_BYTES, Chunk, ChunkContent, ClusterHash, ClusterSet, DeltaId, DiskId, ZERO_CLUSTER,
    clusters::{cluster_count, cluster_length},
    hash_cluster,
    sums::SumsReader,
};
use std::{collections::VecDeque, iter::Peekable};

/// Reason of the pins that bookmarks are.
pub(crate) const BOOKMARK: &str = "bookmark";
/// Data in one chunk: 1 MiB.
const RUN_CLUSTERS: u32 = 16;
/// Zero clusters in one chunk.
const ZERO_RUN_MAX: u32 = 1 << 16;

impl Store {
    /// Bookmarks a point that is offered; twice is once.
    pub fn bookmark(&self, delta: DeltaId) -> Result<()> {
        let _layers = self.lock_layers()?;
        self.readable_point(delta)?;
        Ok(self.catalog.add_pin(self.vm, delta, BOOKMARK, &delta.to_string())?)
    }

    /// The bookmarked points, by sequence.
    pub fn bookmarks(&self) -> Result<Vec<DeltaId>> {
        let pins = self.catalog.pins(self.vm)?;
        let is_marked = |delta| pins.iter().any(|pin| pin.reason == BOOKMARK && pin.delta == delta);
        let points = self.catalog.points(self.vm)?;
        Ok(points.iter().map(|point| point.delta).filter(|delta| is_marked(*delta)).collect())
    }

    /// Removes all bookmarks but one.
    pub fn drop_bookmarks(&self, except: Option<DeltaId>) -> Result<()> {
        for delta in self.bookmarks()?.into_iter().filter(|delta| Some(*delta) != except) {
            self.catalog.delete_pins(self.vm, BOOKMARK, &delta.to_string())?;
        }
        Ok(())
    }

    /// The clusters of a disk that may differ between two points, in whichever order: those of the layers
    /// between them.
    pub fn clusters_between(&self, one: DeltaId, other: DeltaId, disk: DiskId) -> Result<ClusterSet> {
        let _layers = self.lock_layers()?;
        let (one, other) = (self.point(one)?.sequence, self.point(other)?.sequence);
        let between = one.min(other) + 1..=one.max(other);
        let points = self.catalog.points(self.vm)?;
        let layers = self.catalog.layers(self.vm)?;
        let mut clusters = ClusterSet::new();
        for point in points.iter().filter(|point| between.contains(&point.sequence)) {
            if layers.iter().any(|layer| layer.delta == point.delta && layer.disk == disk) {
                clusters.union(&SumsReader::clusters(&self.sums_path(disk, point.delta))?);
            }
        }
        Ok(clusters)
    }

    /// The clusters of these disks of a point as a sender's chunks, the same each time: those in the set, or
    /// without one all that are not zero. Merges stay off the point's layers while they are read.
    pub fn chunks(&self, delta: DeltaId, disks: Vec<(DiskId, Option<ClusterSet>)>) -> Result<PointChunks> {
        let mut sources = VecDeque::new();
        for (index, (disk, wanted)) in (0..).zip(disks) {
            let hashes = self.hashes(delta, disk)?;
            let count = cluster_count(hashes.size_bytes);
            let clusters = match wanted {
                Some(set) => Wanted::Listed(set.iter().filter(|cluster| *cluster < count).collect()),
                None => Wanted::Data,
            };
            let reader = self.reader(delta, disk)?;
            sources.push_back(Source { index, hashes: hashes.peekable(), reader, clusters });
        }
        Ok(PointChunks { sources })
    }
}

/// See [`Store::chunks`]. Ends after the first error.
pub struct PointChunks {
    sources: VecDeque<Source>,
}

struct Source {
    index: u16,
    hashes: Peekable<Hashes>,
    reader: PointReader,
    clusters: Wanted,
}

enum Wanted {
    /// All that are not zero.
    Data,
    Listed(VecDeque<u32>),
}

impl Iterator for PointChunks {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(source) = self.sources.front_mut() {
            match source.chunk() {
                Ok(Some(chunk)) => return Some(Ok(chunk)),
                Ok(None) => drop(self.sources.pop_front()),
                Err(error) => {
                    self.sources.clear();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Source {
    /// The next run of clusters that all are zero or all are not.
    fn chunk(&mut self) -> Result<Option<Chunk>> {
        let Some((first, hash)) = self.entry(|_, _| true)? else { return Ok(None) };
        let zero = hash == ZERO_CLUSTER;
        let max = if zero { ZERO_RUN_MAX } else { RUN_CLUSTERS };
        let mut hashes = vec![hash];
        while hashes.len() < max as usize {
            let next = first + hashes.len() as u32;
            let follows = |cluster, hash| cluster == next && (hash == ZERO_CLUSTER) == zero;
            let Some((_, hash)) = self.entry(follows)? else { break };
            hashes.push(hash);
        }
        let content = if zero {
            ChunkContent::Zero { count: hashes.len() as u32 }
        } else {
            ChunkContent::Data { bytes: self.read(first, &hashes)?, hashes }
        };
        Ok(Some(Chunk { disk: self.index, cluster: first, content }))
    }

    /// Takes the next wanted cluster, with its hash, if it is `fitting`.
    fn entry(&mut self, fitting: impl Fn(u32, ClusterHash) -> bool) -> Result<Option<(u32, ClusterHash)>> {
        let Wanted::Listed(listed) = &mut self.clusters else {
            while self.hashes.next_if(|entry| matches!(entry, Ok((_, ZERO_CLUSTER)))).is_some() {}
            return match self.hashes.peek() {
                Some(Ok((cluster, hash))) if !fitting(*cluster, *hash) => Ok(None),
                _ => self.hashes.next().transpose(),
            };
        };
        let Some(cluster) = listed.front().copied() else { return Ok(None) };
        while self.hashes.next_if(|entry| matches!(entry, Ok((at, _)) if *at < cluster)).is_some() {}
        let hash = match self.hashes.peek() {
            Some(Ok((at, hash))) if *at == cluster => *hash,
            Some(Err(_)) => return self.hashes.next().transpose(),
            // What no layer holds is zero.
            _ => ZERO_CLUSTER,
        };
        if !fitting(cluster, hash) {
            return Ok(None);
        }
        listed.pop_front();
        Ok(Some((cluster, hash)))
    }

    /// Reads clusters and compares them with their hashes: what rots here must not be passed on.
    fn read(&self, first: u32, hashes: &[ClusterHash]) -> Result<Vec<u8>> {
        let size_bytes = self.reader.size_bytes;
        let last = first + hashes.len() as u32 - 1;
        let start = u64::from(first) * CLUSTER_BYTES;
        let end = u64::from(last) * CLUSTER_BYTES + cluster_length(size_bytes, last);
        let mut bytes = vec![0; (end - start) as usize];
        self.reader.read(start, &mut bytes)?;
        let mut clusters = bytes.chunks(CLUSTER_BYTES as usize).zip(hashes);
        match clusters.position(|(bytes, hash)| hash_cluster(bytes) != *hash) {
            Some(index) => Err(LayersError::Corrupt {
                path: self.reader.path().to_owned(),
                cluster: first + index as u32,
            }),
            None => Ok(bytes),
        }
    }
}
