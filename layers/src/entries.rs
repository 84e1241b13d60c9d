//! The entries of a layer that is being received: cluster and hash, 20 bytes each, in the order of
//! arrival. They become the layer's sums when it is sealed; until then they are what a resumed transfer
//! repeats to find where each cluster was put.

use model::{ClusterHash, sums::SumsWriter};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const ENTRY_BYTES: u64 = 20;

#[derive(Debug)]
pub struct Entries {
    path: PathBuf,
    out: BufWriter<File>,
    pub count: u64,
    pub last: Option<u32>,
}

impl Entries {
    /// Opens the list at `path`, keeping its first `count` entries, each of which is shown to `replay`.
    pub fn resume(
        path: &Path,
        count: u64,
        mut replay: impl FnMut(u32, &ClusterHash) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut last = None;
        let mut input = BufReader::new(&file);
        for _ in 0..count {
            let (cluster, hash) = read(&mut input)?;
            if last.is_some_and(|last| last >= cluster) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "entries out of order"));
            }
            replay(cluster, &hash)?;
            last = Some(cluster);
        }
        file.set_len(count * ENTRY_BYTES)?;
        file.seek(SeekFrom::Start(count * ENTRY_BYTES))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::new(file), count, last })
    }

    pub fn push(&mut self, cluster: u32, hash: &ClusterHash) -> io::Result<()> {
        self.out.write_all(&cluster.to_le_bytes())?;
        self.out.write_all(hash)?;
        self.count += 1;
        self.last = Some(cluster);
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_data()
    }

    /// Copies all entries into `sums`.
    pub fn copy_into(mut self, sums: &mut SumsWriter) -> crate::Result<()> {
        let fail = |path: &Path| crate::LayersError::io(path.to_owned());
        self.out.flush().map_err(fail(&self.path))?;
        let mut input = BufReader::new(File::open(&self.path).map_err(fail(&self.path))?);
        for _ in 0..self.count {
            let (cluster, hash) = read(&mut input).map_err(fail(&self.path))?;
            sums.push(cluster, hash)?;
        }
        Ok(())
    }
}

fn read(input: &mut impl Read) -> io::Result<(u32, ClusterHash)> {
    let mut entry = [0; ENTRY_BYTES as usize];
    input.read_exact(&mut entry)?;
    let cluster = u32::from_le_bytes(entry[..4].try_into().expect("four"));
    Ok((cluster, entry[4..].try_into().expect("sixteen")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_20_bytes_and_what_follows_the_mark_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e");
        let mut entries = Entries::resume(&path, 0, |_, _| Ok(())).unwrap();
        for cluster in [0x0102, 7_000_000, 7_000_001] {
            entries.push(cluster, &[0xab; 16]).unwrap();
        }
        entries.sync().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((&bytes[..4], &bytes[4..20]), (&[2, 1, 0, 0][..], &[0xab; 16][..]));
        let mut seen = vec![];
        let replay = |cluster, _: &ClusterHash| {
            seen.push(cluster);
            Ok(())
        };
        let entries = Entries::resume(&path, 2, replay).unwrap();
        assert_eq!((entries.count, entries.last, seen), (2, Some(7_000_000), vec![0x0102, 7_000_000]));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 40);
        assert!(Entries::resume(&path, 3, |_, _| Ok(())).is_err());
    }
}
