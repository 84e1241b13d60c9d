//! A point's hashes, from its layers' sums and without reading a disk: for comparing with another host and
//! for becoming a sender.

use crate::{
    error::{LayersError, Result},
    store::{Hold, Store},
};
use model::{ClusterHash, DeltaId, Digest, DiskId, ZERO_CLUSTER, clusters::cluster_count, sums::Merged};
use std::{ops::Range, path::Path};

/// Leaves, of 64 KiB, under one node of the comparison tree.
pub const NODE_LEAVES: u32 = 1024;

/// BLAKE3 over the hashes of a node's leaves.
pub type NodeHash = [u8; 32];

/// (cluster, hash) in ascending order; clusters that do not appear are zero. Merges stay off the point's
/// layers while this exists.
pub struct Hashes {
    merged: Merged,
    pub size_bytes: u64,
    _hold: Hold,
}

impl Iterator for Hashes {
    type Item = Result<(u32, ClusterHash)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.merged.next()?.map_err(LayersError::from))
    }
}

impl Store {
    pub fn hashes(&self, delta: DeltaId, disk: DiskId) -> Result<Hashes> {
        self.hashes_from(delta, disk, 0)
    }

    pub(crate) fn hashes_from(&self, delta: DeltaId, disk: DiskId, cluster: u32) -> Result<Hashes> {
        let hold = self.hold(delta)?;
        let layers = self.layers_below(delta, disk)?;
        let size_bytes = layers.last().expect("a chain has a layer").size_bytes;
        Ok(Hashes {
            merged: Merged::open_at(&self.sums_below(delta, disk)?, cluster)?,
            size_bytes,
            _hold: hold,
        })
    }

    /// The hash of each node of 64 MiB, zeroes included; the last node has the leaves that are left.
    pub fn node_hashes(&self, delta: DeltaId, disk: DiskId) -> Result<Vec<NodeHash>> {
        let mut nodes = vec![];
        self.each_node(delta, disk, 0..u32::MAX, &mut |_, leaves| nodes.push(node_hash(leaves)))?;
        Ok(nodes)
    }

    /// The leaves of the named nodes (ascending), zeroes included, in order.
    pub fn leaf_hashes(
        &self,
        delta: DeltaId,
        disk: DiskId,
        nodes: &[u32],
    ) -> Result<Vec<(u32, Vec<ClusterHash>)>> {
        let mut found = vec![];
        // Held over all of them, so that each node's reader does not stop a merge again.
        let _hold = self.hold(delta)?;
        for node in nodes {
            self.each_node(delta, disk, *node..node.saturating_add(1), &mut |node, leaves| {
                found.push((node, leaves.to_vec()));
            })?;
        }
        Ok(found)
    }

    /// Writes the digest of a disk of a point to `path`, in place of what is there.
    pub fn digest_into(&self, delta: DeltaId, disk: DiskId, path: &Path) -> Result<()> {
        let size_bytes = self.hashes(delta, disk)?.size_bytes;
        let mut digest = Digest::create(path, size_bytes)?;
        let mut failed = Ok(());
        self.each_node(delta, disk, 0..u32::MAX, &mut |node, leaves| {
            if failed.is_ok() && leaves.iter().any(|leaf| *leaf != ZERO_CLUSTER) {
                failed = digest.write(node * NODE_LEAVES, leaves);
            }
        })?;
        failed?;
        Ok(digest.set_state(Some(delta))?)
    }

    /// Visits the nodes of `range` that the disk has.
    fn each_node(
        &self,
        delta: DeltaId,
        disk: DiskId,
        range: Range<u32>,
        visit: &mut dyn FnMut(u32, &[ClusterHash]),
    ) -> Result<()> {
        let hashes = self.hashes_from(delta, disk, range.start.saturating_mul(NODE_LEAVES))?;
        let count = cluster_count(hashes.size_bytes);
        let mut hashes = hashes.peekable();
        for node in range.start..range.end.min(count.div_ceil(NODE_LEAVES)) {
            let first = node * NODE_LEAVES;
            let mut leaves = vec![ZERO_CLUSTER; (count - first).min(NODE_LEAVES) as usize];
            while let Some(entry) = hashes
                .next_if(|entry| entry.as_ref().map_or(true, |(cluster, _)| *cluster < first + NODE_LEAVES))
            {
                let (cluster, hash) = entry?;
                if let Some(leaf) = leaves.get_mut((cluster - first) as usize) {
                    *leaf = hash;
                }
            }
            visit(node, &leaves);
        }
        Ok(())
    }
}

/// The hash of a node over its leaves' hashes.
pub fn node_hash(leaves: &[ClusterHash]) -> NodeHash {
    *blake3::hash(leaves.as_flattened()).as_bytes()
}
