//! Sums: what one layer, or one delta in the spool, holds of one disk: its clusters in ascending order,
//! each with its hash. Readers and writers stream, so that memory does not grow with the disk.
//!
//! Layout, little-endian: 32 bytes of header (magic `RLVOSUMS`, u32 version 1, u32 cluster bytes, u64 disk
//! bytes, u64 entries), then entries of 20 bytes: u32 cluster, 16 bytes hash ([`ZERO_CLUSTER`]: reads as
//! zero and masks what lies below). The count in the header is written last: a file whose length disagrees
//! with it was never finished.

use crate::{ClusterHash, ClusterSet, clusters::CLUSTER_BYTES};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    iter::Peekable,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"RLVOSUMS";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 32;
const ENTRY_BYTES: u64 = 20;

#[derive(Debug, thiserror::Error)]
pub enum SumsError {
    #[error("cannot access sums {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("sums {path} are damaged: {what}")]
    Damaged { path: PathBuf, what: &'static str },
}

#[derive(Debug)]
pub struct SumsWriter {
    path: PathBuf,
    out: BufWriter<File>,
    size_bytes: u64,
    count: u64,
    last: Option<u32>,
}

impl SumsWriter {
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self, SumsError> {
        let fail = |source| SumsError::Io { path: path.to_owned(), source };
        let mut out = BufWriter::new(File::create(path).map_err(fail)?);
        out.write_all(&[0; HEADER_BYTES as usize]).map_err(fail)?;
        Ok(Self { path: path.to_owned(), out, size_bytes, count: 0, last: None })
    }

    /// Appends an entry. Clusters come in ascending order, each once.
    pub fn push(&mut self, cluster: u32, hash: ClusterHash) -> Result<(), SumsError> {
        if self.last.is_some_and(|last| last >= cluster) {
            return Err(SumsError::Damaged { path: self.path.clone(), what: "entries out of order" });
        }
        self.last = Some(cluster);
        self.count += 1;
        let write = |out: &mut BufWriter<File>| {
            out.write_all(&cluster.to_le_bytes())?;
            out.write_all(&hash)
        };
        write(&mut self.out).map_err(|source| SumsError::Io { path: self.path.clone(), source })
    }

    /// Writes the header and fsyncs. The folder is the caller's.
    pub fn finish(mut self) -> Result<u64, SumsError> {
        let mut write = || {
            self.out.seek(SeekFrom::Start(0))?;
            self.out.write_all(MAGIC)?;
            self.out.write_all(&VERSION.to_le_bytes())?;
            self.out.write_all(&(CLUSTER_BYTES as u32).to_le_bytes())?;
            self.out.write_all(&self.size_bytes.to_le_bytes())?;
            self.out.write_all(&self.count.to_le_bytes())?;
            self.out.flush()?;
            self.out.get_ref().sync_all()
        };
        write().map_err(|source| SumsError::Io { path: self.path.clone(), source })?;
        Ok(self.count)
    }
}

/// Reads entries in ascending order of cluster.
#[derive(Debug)]
pub struct SumsReader {
    path: PathBuf,
    input: BufReader<File>,
    pub size_bytes: u64,
    /// Entries in all.
    pub count: u64,
    left: u64,
}

impl SumsReader {
    pub fn open(path: &Path) -> Result<Self, SumsError> {
        let fail = |source| SumsError::Io { path: path.to_owned(), source };
        let damaged = |what| SumsError::Damaged { path: path.to_owned(), what };
        let file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut input = BufReader::with_capacity(1 << 16, file);
        let mut header = [0; HEADER_BYTES as usize];
        input.read_exact(&mut header).map_err(|_| damaged("short header"))?;
        if &header[..8] != MAGIC || header[8..12] != VERSION.to_le_bytes() {
            return Err(damaged("magic or version"));
        }
        let size_bytes = u64::from_le_bytes(header[16..24].try_into().expect("eight"));
        let count = u64::from_le_bytes(header[24..32].try_into().expect("eight"));
        if count.checked_mul(ENTRY_BYTES).and_then(|bytes| bytes.checked_add(HEADER_BYTES)) != Some(length) {
            return Err(damaged("length"));
        }
        Ok(Self { path: path.to_owned(), input, size_bytes, count, left: count })
    }

    /// Goes on with the first entry at or after `cluster`, found by bisection.
    pub fn seek(&mut self, cluster: u32) -> Result<(), SumsError> {
        let fail = |source| SumsError::Io { path: self.path.clone(), source };
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; 4];
            self.input
                .get_ref()
                .read_exact_at(&mut bytes, HEADER_BYTES + middle * ENTRY_BYTES)
                .map_err(fail)?;
            if u32::from_le_bytes(bytes) < cluster { low = middle + 1 } else { high = middle }
        }
        self.input.seek(SeekFrom::Start(HEADER_BYTES + low * ENTRY_BYTES)).map_err(fail)?;
        self.left = self.count - low;
        Ok(())
    }

    /// All clusters as a set.
    pub fn clusters(path: &Path) -> Result<ClusterSet, SumsError> {
        Self::open(path)?.map(|entry| entry.map(|(cluster, _)| cluster)).collect()
    }
}

impl Iterator for SumsReader {
    type Item = Result<(u32, ClusterHash), SumsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let mut entry = [0; ENTRY_BYTES as usize];
        if let Err(source) = self.input.read_exact(&mut entry) {
            self.left = 0;
            return Some(Err(SumsError::Io { path: self.path.clone(), source }));
        }
        let cluster = u32::from_le_bytes(entry[..4].try_into().expect("four"));
        Some(Ok((cluster, entry[4..].try_into().expect("sixteen"))))
    }
}

/// What is seen through several layers: the union of their entries, the topmost one's where they meet.
pub struct Merged {
    /// Bottom first.
    layers: Vec<Peekable<SumsReader>>,
}

impl Merged {
    /// `layers`: paths of sums, bottom first.
    pub fn open(layers: &[PathBuf]) -> Result<Self, SumsError> {
        let layers = layers.iter().map(|path| SumsReader::open(path).map(Iterator::peekable));
        Ok(Self { layers: layers.collect::<Result<_, _>>()? })
    }

    /// As [`Self::open`], beginning with the first entry at or after `cluster`.
    pub fn open_at(layers: &[PathBuf], cluster: u32) -> Result<Self, SumsError> {
        let open = |path: &PathBuf| {
            let mut reader = SumsReader::open(path)?;
            reader.seek(cluster)?;
            Ok(reader.peekable())
        };
        Ok(Self { layers: layers.iter().map(open).collect::<Result<_, _>>()? })
    }
}

impl Iterator for Merged {
    type Item = Result<(u32, ClusterHash), SumsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut lowest = None;
        for layer in &mut self.layers {
            match layer.peek() {
                Some(Ok((cluster, _))) => {
                    lowest = Some(lowest.map_or(*cluster, |low: u32| low.min(*cluster)));
                }
                Some(Err(_)) => return layer.next(),
                None => {}
            }
        }
        let lowest = lowest?;
        let mut seen = None;
        for layer in &mut self.layers {
            if matches!(layer.peek(), Some(Ok((cluster, _))) if *cluster == lowest) {
                seen = layer.next();
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn write(path: &Path, entries: &BTreeMap<u32, u8>) {
        let mut writer = SumsWriter::create(path, 1 << 30).unwrap();
        for (cluster, tag) in entries {
            writer.push(*cluster, [*tag; 16]).unwrap();
        }
        writer.finish().unwrap();
    }

    proptest! {
        #[test]
        fn merging_layers_shows_the_topmost_entry(
            layers in proptest::collection::vec(proptest::collection::btree_map(0u32..300, any::<u8>(), 0..60), 1..5),
            from in 0u32..310,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut expected = BTreeMap::new();
            let mut paths = vec![];
            for (index, layer) in layers.iter().enumerate() {
                let path = dir.path().join(index.to_string());
                write(&path, layer);
                expected.extend(layer.iter().map(|(c, t)| (*c, [*t; 16])));
                paths.push(path);
            }
            let merged: BTreeMap<_, _> = Merged::open(&paths).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(&merged, &expected);
            let later: BTreeMap<_, _> = Merged::open_at(&paths, from).unwrap().map(Result::unwrap).collect();
            expected.retain(|cluster, _| *cluster >= from);
            prop_assert_eq!(later, expected);
        }
    }

    #[test]
    fn unfinished_or_disordered_sums_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut writer = SumsWriter::create(&path, 1 << 20).unwrap();
        writer.push(4, [1; 16]).unwrap();
        assert!(matches!(writer.push(4, [1; 16]), Err(SumsError::Damaged { .. })));
        drop(writer);
        assert!(SumsReader::open(&path).is_err());
    }
}
