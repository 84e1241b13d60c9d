//! Clusters of 64 KiB: the unit of tracking, shipping and storing. 64 KiB because that is the
//! granularity of libvirt's bitmaps and of qcow2's default cluster.

use serde::{Deserialize, Serialize};

/// Bytes per cluster. The last cluster of a disk may be shorter.
pub const CLUSTER_BYTES: u64 = 64 * 1024;

/// 128 bits of BLAKE3 of a cluster's bytes at its true length, or [`ZERO_CLUSTER`].
pub type ClusterHash = [u8; 16];

/// Stands for a cluster of zeroes, whatever its length, so that the digest of a hole is a hole.
pub const ZERO_CLUSTER: ClusterHash = [0; 16];

/// Clusters in a disk of `size_bytes`.
pub fn cluster_count(size_bytes: u64) -> u32 {
    u32::try_from(size_bytes.div_ceil(CLUSTER_BYTES)).expect("a disk is at most 256 TiB")
}

/// The true length in bytes of cluster `index` in a disk of `size_bytes`.
pub fn cluster_length(size_bytes: u64, index: u32) -> u64 {
    (size_bytes - u64::from(index) * CLUSTER_BYTES).min(CLUSTER_BYTES)
}

pub fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY-free fast path: whole u128 words first; the compiler vectorises this.
    let mut words = bytes.chunks_exact(128);
    words.all(|w| w.iter().fold(0u8, |acc, b| acc | b) == 0) && words.remainder().iter().all(|b| *b == 0)
}

pub fn hash_cluster(bytes: &[u8]) -> ClusterHash {
    if is_zero(bytes) {
        return ZERO_CLUSTER;
    }
    let mut hash = ZERO_CLUSTER;
    hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    hash
}

/// A run of consecutive clusters of one disk, on its way from a disk to a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Index of the disk in its delta's list of disks.
    pub disk: u16,
    /// First cluster.
    pub cluster: u32,
    pub content: ChunkContent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkContent {
    /// Consecutive clusters' bytes (only the last may be short, at the disk's end) and a hash for each.
    Data { bytes: Vec<u8>, hashes: Vec<ClusterHash> },
    /// This many clusters read as zeroes and mask what lies below them.
    Zero { count: u32 },
}

impl Chunk {
    /// Clusters in this chunk.
    pub fn count(&self) -> u32 {
        match &self.content {
            ChunkContent::Data { hashes, .. } => u32::try_from(hashes.len()).expect("bounded by the reader"),
            ChunkContent::Zero { count } => *count,
        }
    }
}

/// A set of clusters of one disk: a bitmap, 2 MiB per TiB of disk.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterSet {
    words: Vec<u64>,
}

impl ClusterSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, cluster: u32) {
        let word = cluster as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (cluster % 64);
    }

    pub fn insert_run(&mut self, first: u32, count: u32) {
        for cluster in first..first + count {
            self.insert(cluster);
        }
    }

    pub fn contains(&self, cluster: u32) -> bool {
        self.words.get(cluster as usize / 64).is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }

    pub fn union(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Clusters in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    u32::try_from(index).expect("a set holds 32-bit clusters") * 64 + bit
                })
            })
        })
    }

    /// Little-endian words, for storing.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The inverse of [`Self::to_bytes`]; trailing bytes short of a word are refused.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.len().is_multiple_of(8).then(|| Self {
            words: bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight"))).collect(),
        })
    }
}

impl std::fmt::Debug for ClusterSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromIterator<u32> for ClusterSet {
    fn from_iter<T: IntoIterator<Item = u32>>(clusters: T) -> Self {
        let mut set = Self::new();
        for cluster in clusters {
            set.insert(cluster);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_short_last_cluster_is_hashed_at_its_true_length() {
        assert_eq!(cluster_count(CLUSTER_BYTES + 1), 2);
        assert_eq!(cluster_length(CLUSTER_BYTES + 1, 1), 1);
        assert_eq!(hash_cluster(&[0; 17]), ZERO_CLUSTER);
        assert_ne!(hash_cluster(&[1; 17]), hash_cluster(&[1; 18]));
    }

    proptest! {
        #[test]
        fn a_cluster_set_is_a_set(a in proptest::collection::btree_set(0u32..5000, 0..200),
                                  b in proptest::collection::btree_set(0u32..5000, 0..200)) {
            let mut set: ClusterSet = a.iter().copied().collect();
            set.union(&b.iter().copied().collect());
            let expected: BTreeSet<u32> = a.union(&b).copied().collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), expected.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), expected.len() as u64);
            prop_assert_eq!(ClusterSet::from_bytes(&set.to_bytes()).unwrap(), set);
        }

        #[test]
        fn zero_is_zero(length in 0usize..70_000, at in 0usize..70_000) {
            let mut bytes = vec![0; length];
            prop_assert!(is_zero(&bytes));
            if at < length {
                bytes[at] = 1;
                prop_assert!(!is_zero(&bytes));
            }
        }
    }
}
