//! The chunks of a delta: from a manifest made at the cut, or discovered while a frozen disk is read.
//!
//! Memory is flat: one run of clusters, a window of reference hashes, and cluster sets (2 MiB per TiB).

use crate::{
    error::{CaptureError, Result},
    image::{Image, RUN_CLUSTERS},
    turn::PeerHashes,
};
use model::{
    CLUSTER_BYTES, Chunk, ChunkContent, ClusterHash, ClusterSet, DeltaId, Digest, DiskId, Repaired,
    ZERO_CLUSTER,
    clusters::cluster_count,
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
    pub(crate) finish: Option<Finish>,
    /// Of the disks that are read.
    pub(crate) repaired: Repaired,
    pub(crate) queue: VecDeque<Chunk>,
}

pub(crate) type Finish = Box<dyn FnOnce(Repaired) -> Result<()> + Send>;

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
    pub scrub: Option<Scrub>,
}

/// Tells what differs although nobody wrote it.
pub(crate) struct Scrub {
    /// Since the base.
    pub written: ClusterSet,
    /// The digest of the base, where there is one.
    pub sent: Option<Digest>,
    pub repaired: Repaired,
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
                    let repaired = self.repaired;
                    return self.finish.take().and_then(|finish| finish(repaired).err().map(Err));
                }
                Some(Source::Manifest(manifest)) => manifest.step(&mut self.queue),
                Some(Source::Scan(scan)) => scan.step(self.delta, &mut self.peer, &mut self.queue),
            };
            match step {
                Ok(true) => {}
                Ok(false) => {
                    if let Some(Source::Scan(Scan { scrub: Some(scrub), .. })) = self.disks.pop_front() {
                        self.repaired.add(scrub.repaired);
                    }
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
        let mut content = Vec::with_capacity(hashes.len());
        for (cluster, hash) in (first..).zip(&hashes) {
            content.push(self.sends(cluster, *hash)?);
        }
        queue_runs(queue, (self.index, first), bytes, &hashes, &content);
        Ok(true)
    }

    /// What of a cluster is to be sent, noted where that is to be known later.
    fn sends(&mut self, cluster: u32, hash: ClusterHash) -> Result<Sends> {
        if !self.candidates.as_ref().is_none_or(|set| set.contains(cluster)) {
            return Ok(Sends::Nothing);
        }
        if let Record::Looked(Some(sums)) = &mut self.record {
            sums.push(cluster, hash)?;
        }
        if hash == self.window.hashes[(cluster - self.window.first) as usize] {
            return Ok(Sends::Nothing);
        }
        if let Some(scrub) = &mut self.scrub {
            scrub.note(cluster, hash)?;
        }
        if let Record::Sums(Some(sums)) = &mut self.record {
            sums.push(cluster, hash)?;
        }
        Ok(if hash == ZERO_CLUSTER { Sends::Zero } else { Sends::Data })
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

impl Scrub {
    /// The cluster has this content here, and another one over there.
    fn note(&mut self, cluster: u32, hash: ClusterHash) -> Result<()> {
        if self.written.contains(cluster) {
            return Ok(());
        }
        let as_sent = match &self.sent {
            Some(sent) if cluster < sent.clusters() => sent.read(cluster, 1)?.first() == Some(&hash),
            Some(_) => hash == ZERO_CLUSTER,
            None => true,
        };
        if as_sent {
            self.repaired.damaged_on_replica += 1;
        } else {
            self.repaired.changed_on_primary += 1;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sends {
    Nothing,
    Zero,
    Data,
}

/// Queues the clusters from `first` on as chunks, each of what can go as one. Bytes are moved where all of
/// them go.
fn queue_runs(
    queue: &mut VecDeque<Chunk>,
    (disk, first): (u16, u32),
    bytes: Vec<u8>,
    hashes: &[ClusterHash],
    content: &[Sends],
) {
    let mut bytes = bytes;
    let mut start = 0;
    for run in content.chunk_by(Sends::eq) {
        let end = start + run.len();
        let content = match run[0] {
            Sends::Nothing => None,
            Sends::Zero => Some(ChunkContent::Zero { count: index(run.len()) }),
            Sends::Data => {
                let until = (end * CLUSTER_BYTES as usize).min(bytes.len());
                let whole = run.len() == hashes.len();
                let bytes = if whole {
                    std::mem::take(&mut bytes)
                } else {
                    bytes[start * CLUSTER_BYTES as usize..until].to_vec()
                };
                Some(ChunkContent::Data { bytes, hashes: hashes[start..end].to_vec() })
            }
        };
        queue.extend(content.map(|content| Chunk { disk, cluster: first + index(start), content }));
        start = end;
    }
}

fn index(count: usize) -> u32 {
    u32::try_from(count).expect("at most a run")
}
