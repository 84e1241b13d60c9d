//! The chunks of a delta: from a manifest made at the cut, or discovered while a frozen disk is read.
//!
//! Memory is flat: one run of clusters, a window of reference hashes, and cluster sets (2 MiB per TiB).

use crate::{
    error::{CaptureError, Result},
    image::{Image, RUN_CLUSTERS},
    turn::PeerHashes,
};
use model::{
    CLUSTER_BYTES, Chunk, ChunkContent, ClusterHash, ClusterSet, DeltaId, Digest, DiskId, ZERO_CLUSTER,
    clusters::{cluster_count, cluster_length},
    sums::{SumsReader, SumsWriter},
};
use std::{collections::VecDeque, iter::Peekable};

/// Reference hashes asked for at once: 64 KiB of them for 256 MiB of disk.
const WINDOW_CLUSTERS: u32 = 4096;
/// Zero clusters in one chunk.
const ZERO_RUN_MAX: u32 = 1 << 16;

/// The chunks of one delta: disks in order, clusters ascending, at most 1 MiB of data in each. The same each
/// time. Ends after the first error.
pub struct Reader {
    pub(crate) delta: DeltaId,
    pub(crate) disks: VecDeque<Source>,
    pub(crate) peer: Option<PeerHashes>,
    /// Runs once all disks are read, before `None` is returned.
    pub(crate) finish: Option<Box<dyn FnOnce() -> Result<()> + Send>>,
    pub(crate) queue: VecDeque<Chunk>,
}

pub(crate) enum Source {
    Manifest(Manifest),
    Scan(Scan),
}

/// A disk whose clusters to send are listed with their hashes.
pub(crate) struct Manifest {
    pub index: u16,
    pub image: Image,
    pub size_bytes: u64,
    pub sums: Peekable<SumsReader>,
}

/// A frozen disk whose clusters to send are those that differ from the reference.
pub(crate) struct Scan {
    pub index: u16,
    pub disk: DiskId,
    pub image: Image,
    pub size_bytes: u64,
    pub next: u32,
    pub candidates: Option<ClusterSet>,
    pub reference: Reference,
    pub record: Record,
    pub window: Window,
}

pub(crate) enum Reference {
    /// Nothing is there yet: whatever is not zero differs.
    Nothing,
    Digest(Digest),
    Peer,
}

pub(crate) enum Record {
    /// Hashes of all clusters: the whole disk is read, also beside the candidates.
    Digest(Digest),
    /// Hashes of what is sent.
    Sums(Option<SumsWriter>),
    /// Hashes of all that was looked at.
    Looked(Option<SumsWriter>),
}

#[derive(Default)]
pub(crate) struct Window {
    first: u32,
    hashes: Vec<ClusterHash>,
}

impl Iterator for Reader {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(chunk) = self.queue.pop_front() {
                return Some(Ok(chunk));
            }
            let step = match self.disks.front_mut() {
                None => {
                    return self.finish.take().and_then(|finish| finish().err().map(Err));
                }
                Some(Source::Manifest(manifest)) => manifest.step(&mut self.queue),
                Some(Source::Scan(scan)) => scan.step(self.delta, &mut self.peer, &mut self.queue),
            };
            match step {
                Ok(true) => {}
                Ok(false) => {
                    self.disks.pop_front();
                }
                Err(error) => {
                    self.disks.clear();
                    self.finish = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Manifest {
    /// Queues one chunk; `false` at the end.
    fn step(&mut self, queue: &mut VecDeque<Chunk>) -> Result<bool> {
        let Some((first, hash)) = self.sums.next().transpose()? else { return Ok(false) };
        let zero = hash == ZERO_CLUSTER;
        let max = if zero { ZERO_RUN_MAX } else { RUN_CLUSTERS };
        let mut hashes = vec![hash];
        let mut count = 1;
        while count < max {
            let follows = |entry: &Result<(u32, ClusterHash), _>| matches!(entry, Ok((c, h)) if *c == first + count && (*h == ZERO_CLUSTER) == zero);
            let Some(entry) = self.sums.next_if(follows) else { break };
            let (_, hash) = entry?;
            if !zero {
                hashes.push(hash);
            }
            count += 1;
        }
        let content = if zero {
            ChunkContent::Zero { count }
        } else {
            let (bytes, found) = self.image.read(first, count, self.size_bytes)?;
            if found != hashes {
                let source = std::io::Error::other(format!("clusters from {first} changed since the cut"));
                return Err(CaptureError::Image { path: self.image.path().to_owned(), source });
            }
            ChunkContent::Data { bytes, hashes }
        };
        queue.push_back(Chunk { disk: self.index, cluster: first, content });
        Ok(true)
    }
}

impl Scan {
    /// Looks at one run of clusters; `false` at the end.
    fn step(
        &mut self,
        delta: DeltaId,
        peer: &mut Option<PeerHashes>,
        queue: &mut VecDeque<Chunk>,
    ) -> Result<bool> {
        let end = cluster_count(self.size_bytes);
        if self.next >= end {
            self.finish()?;
            return Ok(false);
        }
        let (first, count) = (self.next, RUN_CLUSTERS.min(end - self.next));
        self.next += count;
        let wanted = |cluster| self.candidates.as_ref().is_none_or(|set| set.contains(cluster));
        let any_wanted = (first..first + count).any(wanted);
        if !any_wanted && !matches!(self.record, Record::Digest(_)) {
            return Ok(true);
        }
        let (bytes, hashes) = if self.image.is_hole(first, count)? {
            (vec![], vec![ZERO_CLUSTER; count as usize])
        } else {
            self.image.read(first, count, self.size_bytes)?
        };
        if let Record::Digest(digest) = &mut self.record
            && hashes.iter().any(|hash| *hash != ZERO_CLUSTER)
        {
            digest.write(first, &hashes)?;
        }
        if !any_wanted {
            return Ok(true);
        }
        self.look(first, count, end, delta, peer)?;
        for (index, hash) in (0u32..).zip(&hashes) {
            let cluster = first + index;
            let wanted = self.candidates.as_ref().is_none_or(|set| set.contains(cluster));
            if let (true, Record::Looked(Some(sums))) = (wanted, &mut self.record) {
                sums.push(cluster, *hash)?;
            }
            if !wanted || *hash == self.window.hashes[(cluster - self.window.first) as usize] {
                continue;
            }
            if let Record::Sums(Some(sums)) = &mut self.record {
                sums.push(cluster, *hash)?;
            }
            let start = index as usize * CLUSTER_BYTES as usize;
            let content = if *hash == ZERO_CLUSTER {
                ChunkContent::Zero { count: 1 }
            } else {
                let length = cluster_length(self.size_bytes, cluster) as usize;
                ChunkContent::Data { bytes: bytes[start..start + length].to_vec(), hashes: vec![*hash] }
            };
            append(queue, Chunk { disk: self.index, cluster, content });
        }
        Ok(true)
    }

    /// Makes the window of reference hashes cover these clusters.
    fn look(
        &mut self,
        first: u32,
        count: u32,
        end: u32,
        delta: DeltaId,
        peer: &mut Option<PeerHashes>,
    ) -> Result<()> {
        let covered = self.window.first + self.window.hashes.len() as u32;
        if !self.window.hashes.is_empty() && first >= self.window.first && first + count <= covered {
            return Ok(());
        }
        let asked = WINDOW_CLUSTERS.min(end - first);
        let hashes = match &self.reference {
            Reference::Nothing => vec![ZERO_CLUSTER; asked as usize],
            Reference::Digest(digest) => digest.read(first, asked)?,
            Reference::Peer => {
                let ask = peer.as_mut().ok_or(CaptureError::NoReference { delta, disk: self.disk })?;
                let disk = self.disk;
                let hashes =
                    ask(disk, first, asked).map_err(|source| CaptureError::PeerHashes { disk, source })?;
                if hashes.len() != asked as usize {
                    return Err(CaptureError::PeerHashesCount { disk, asked, given: hashes.len() });
                }
                hashes
            }
        };
        self.window = Window { first, hashes };
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        match &mut self.record {
            Record::Digest(digest) => digest.set_state(None)?,
            Record::Sums(sums) | Record::Looked(sums) => {
                if let Some(sums) = sums.take() {
                    sums.finish()?;
                }
            }
        }
        Ok(())
    }
}

/// Appends a cluster to the queue, to its last chunk where it continues that.
fn append(queue: &mut VecDeque<Chunk>, chunk: Chunk) {
    let continued = queue
        .back_mut()
        .filter(|last| last.disk == chunk.disk && last.cluster + last.count() == chunk.cluster);
    match (continued.map(|last| &mut last.content), &chunk.content) {
        (Some(ChunkContent::Zero { count }), ChunkContent::Zero { count: more }) => *count += more,
        (
            Some(ChunkContent::Data { bytes, hashes }),
            ChunkContent::Data { bytes: more_bytes, hashes: more },
        ) if hashes.len() < RUN_CLUSTERS as usize => {
            bytes.extend_from_slice(more_bytes);
            hashes.extend_from_slice(more);
        }
        _ => queue.push_back(chunk),
    }
}
