//! The digest: one file per disk with a hash per cluster of the state that sender and receiver both
//! have, tagged with the id of the delta that completed that state. It describes exactly one state; a
//! reader compares [`Digest::state`] with the peer's latest durable id before it believes a hash.
//!
//! Layout, little-endian: 4096 bytes of header (magic `RLVODIGT`, u32 version 1, u32 cluster bytes,
//! u64 disk bytes, u8 tagged, 16 bytes delta id), then 16 bytes per cluster. Holes are zero clusters.
//!
//! A crash inside [`Digest::apply`] leaves the old tag over partly new hashes. That is safe only because
//! `apply` is called after the peer's acknowledgement was made durable elsewhere: the tag then differs
//! from the acknowledged id, and the caller applies the same manifest again or gives the digest up.

use crate::{
    ClusterHash, DeltaId, ZERO_CLUSTER,
    clusters::{CLUSTER_BYTES, cluster_count},
};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"RLVODIGT";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 4096;
const HASH_BYTES: u64 = 16;

#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    #[error("cannot access digest {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("digest {path} is not one of ours or damaged: {what}")]
    Damaged { path: PathBuf, what: &'static str },
}

#[derive(Debug)]
pub struct Digest {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    state: Option<DeltaId>,
}

impl Digest {
    /// Makes an empty (all zero), untagged digest for a disk of `size_bytes`, replacing any other.
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self, DigestError> {
        let fail = |source| DigestError::Io { path: path.to_owned(), source };
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map_err(fail)?;
        file.set_len(HEADER_BYTES + u64::from(cluster_count(size_bytes)) * HASH_BYTES).map_err(fail)?;
        let mut digest = Self { path: path.to_owned(), file, size_bytes, state: None };
        digest.set_state(None)?;
        crate::durable::sync_parent(path).map_err(fail)?;
        Ok(digest)
    }

    /// Opens an existing digest; `Ok(None)` when there is none.
    pub fn open(path: &Path) -> Result<Option<Self>, DigestError> {
        let fail = |source| DigestError::Io { path: path.to_owned(), source };
        let damaged = |what| DigestError::Damaged { path: path.to_owned(), what };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let mut header = [0; 41];
        file.read_exact_at(&mut header, 0).map_err(|_| damaged("short header"))?;
        if &header[..8] != MAGIC {
            return Err(damaged("magic"));
        }
        if header[8..12] != VERSION.to_le_bytes() || header[12..16] != (CLUSTER_BYTES as u32).to_le_bytes() {
            return Err(damaged("version or cluster size"));
        }
        let size_bytes = u64::from_le_bytes(header[16..24].try_into().expect("eight"));
        if file.metadata().map_err(fail)?.len()
            != HEADER_BYTES + u64::from(cluster_count(size_bytes)) * HASH_BYTES
        {
            return Err(damaged("length"));
        }
        let id = uuid::Uuid::from_bytes(header[25..41].try_into().expect("sixteen"));
        let state = (header[24] == 1).then_some(DeltaId(id));
        Ok(Some(Self { path: path.to_owned(), file, size_bytes, state }))
    }

    /// The delta whose state the hashes describe; `None` while they describe none.
    pub fn state(&self) -> Option<DeltaId> {
        self.state
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub fn clusters(&self) -> u32 {
        cluster_count(self.size_bytes)
    }

    /// Hashes of `count` clusters from `first`; clusters past the disk's end read as zero.
    pub fn read(&self, first: u32, count: u32) -> Result<Vec<ClusterHash>, DigestError> {
        let mut hashes = vec![ZERO_CLUSTER; count as usize];
        let present = self.clusters().saturating_sub(first).min(count) as usize;
        let mut bytes = vec![0; present * HASH_BYTES as usize];
        self.file.read_exact_at(&mut bytes, Self::offset(first)).map_err(|source| self.fail(source))?;
        for (hash, bytes) in hashes.iter_mut().zip(bytes.chunks_exact(16)) {
            hash.copy_from_slice(bytes);
        }
        Ok(hashes)
    }

    /// Writes hashes of consecutive clusters; not durable before [`Self::set_state`].
    pub fn write(&mut self, first: u32, hashes: &[ClusterHash]) -> Result<(), DigestError> {
        self.file.write_all_at(hashes.as_flattened(), Self::offset(first)).map_err(|source| self.fail(source))
    }

    /// Makes the written hashes durable, then the tag.
    pub fn set_state(&mut self, state: Option<DeltaId>) -> Result<(), DigestError> {
        self.file.sync_data().map_err(|source| self.fail(source))?;
        let mut header = [0; 41];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(CLUSTER_BYTES as u32).to_le_bytes());
        header[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        if let Some(id) = state {
            header[24] = 1;
            header[25..41].copy_from_slice(id.0.as_bytes());
        }
        self.file.write_all_at(&header, 0).map_err(|source| self.fail(source))?;
        self.file.sync_data().map_err(|source| self.fail(source))?;
        self.state = state;
        Ok(())
    }

    /// Applies a delta's hashes (cluster, hash) and tags the digest with `id`. The caller has made the
    /// peer's acknowledgement of `id` durable before (see the module's text).
    pub fn apply(
        &mut self,
        entries: impl Iterator<Item = (u32, ClusterHash)>,
        id: DeltaId,
    ) -> Result<(), DigestError> {
        for (cluster, hash) in entries {
            self.write(cluster, &[hash])?;
        }
        self.set_state(Some(id))
    }

    /// Grows (new clusters read as zero) or shrinks the digest with its disk. The tag is dropped first.
    pub fn resize(&mut self, size_bytes: u64) -> Result<(), DigestError> {
        self.size_bytes = size_bytes;
        self.set_state(None)?;
        let length = HEADER_BYTES + u64::from(cluster_count(size_bytes)) * HASH_BYTES;
        self.file.set_len(length).map_err(|source| self.fail(source))
    }

    fn offset(cluster: u32) -> u64 {
        HEADER_BYTES + u64::from(cluster) * HASH_BYTES
    }

    fn fail(&self, source: io::Error) -> DigestError {
        DigestError::Io { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_remembers_its_hashes_and_its_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        assert!(Digest::open(&path).unwrap().is_none());
        let id = DeltaId::random();
        Digest::create(&path, 10 * CLUSTER_BYTES + 1)
            .unwrap()
            .apply([(3, [7; 16]), (10, [8; 16])].into_iter(), id)
            .unwrap();
        let digest = Digest::open(&path).unwrap().unwrap();
        assert_eq!((digest.state(), digest.clusters()), (Some(id), 11));
        assert_eq!(digest.read(2, 2).unwrap(), [ZERO_CLUSTER, [7; 16]]);
        assert_eq!(digest.read(10, 2).unwrap(), [[8; 16], ZERO_CLUSTER]);
    }

    #[test]
    fn a_foreign_or_cut_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        std::fs::write(&path, b"hello").unwrap();
        assert!(matches!(Digest::open(&path), Err(DigestError::Damaged { .. })));
        Digest::create(&path, CLUSTER_BYTES).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(4100).unwrap();
        assert!(matches!(Digest::open(&path), Err(DigestError::Damaged { what: "length", .. })));
    }
}
