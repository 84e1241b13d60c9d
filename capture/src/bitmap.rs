//! Reading a dirty bitmap that is stored in a qcow2 image: no tool lists one without copying what it marks.
//!
//! docs/interop/qcow2.rst of QEMU, "Bitmaps extension". An image that QEMU has opened for writing lags behind it,
//! which the bitmap's flag says; one that was frozen under an overlay, or whose VM is off, does not.

use crate::error::{CaptureError, Result};
use model::{CLUSTER_BYTES, ClusterSet};
use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::Path,
};

const MAGIC: u32 = 0x5146_49fb;
const EXTENSION: u32 = 0x2385_2875;
const EXTENSIONS_END: u32 = 0;
/// Before the header says how long it is, in version 3.
const HEADER_BYTES: usize = 104;
const ENTRY_BYTES: usize = 24;
const IN_USE: u32 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// QEMU's own bounds.
const DIRECTORY_BYTES_MAX: u64 = 64 << 20;
const TABLE_ENTRIES_MAX: u32 = 0x0800_0000;

struct Entry {
    table_offset: u64,
    table_entries: u32,
    granularity: u32,
}

/// The clusters that the bitmap marks in a disk of this size. `None`: there is no such bitmap, or it is not what QEMU
/// last knew.
pub fn marked(path: &Path, name: &str, size_bytes: u64) -> Result<Option<ClusterSet>> {
    let fail = |source| CaptureError::Image { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let Some((entry, cluster_bytes)) = find(&file, name).map_err(fail)? else { return Ok(None) };
    read(&file, &entry, cluster_bytes, size_bytes).map(Some).map_err(fail)
}

fn find(file: &File, name: &str) -> io::Result<Option<(Entry, u64)>> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let cluster_bits = u32_at(&header, 20)?;
    if u32_at(&header, 0)? != MAGIC || u32_at(&header, 4)? < 3 || !(9..=21).contains(&cluster_bits) {
        return Ok(None);
    }
    let mut at = u64::from(u32_at(&header, 100)?);
    loop {
        let mut head = [0; 8];
        file.read_exact_at(&mut head, at)?;
        let (kind, length) = (u32_at(&head, 0)?, u64::from(u32_at(&head, 4)?));
        match kind {
            EXTENSIONS_END => return Ok(None),
            EXTENSION => break,
            _ => at += 8 + length.next_multiple_of(8),
        }
        if at > 1 << cluster_bits {
            return Err(malformed());
        }
    }
    let mut extension = [0; 24];
    file.read_exact_at(&mut extension, at + 8)?;
    let (count, bytes) = (u32_at(&extension, 0)?, u64_at(&extension, 8)?);
    if bytes > DIRECTORY_BYTES_MAX {
        return Err(malformed());
    }
    let mut directory = vec![0; usize::try_from(bytes).map_err(|_| malformed())?];
    file.read_exact_at(&mut directory, u64_at(&extension, 16)?)?;
    let entry = entry(&directory, count, name)?;
    Ok(entry.map(|entry| (entry, 1 << cluster_bits)))
}

fn entry(directory: &[u8], count: u32, name: &str) -> io::Result<Option<Entry>> {
    let mut rest = directory;
    for _ in 0..count {
        let name_bytes = usize::from(u16_at(rest, 18)?);
        let name_at = ENTRY_BYTES + u32_at(rest, 20)? as usize;
        let found = rest.get(name_at..name_at + name_bytes).ok_or_else(malformed)?;
        if found == name.as_bytes() {
            let granularity = u32::from(*rest.get(17).ok_or_else(malformed)?);
            if !(9..=31).contains(&granularity) {
                return Err(malformed());
            }
            let entry =
                Entry { table_offset: u64_at(rest, 0)?, table_entries: u32_at(rest, 8)?, granularity };
            return Ok((u32_at(rest, 12)? & IN_USE == 0).then_some(entry));
        }
        let next = (name_at + name_bytes).next_multiple_of(8);
        rest = rest.get(next..).ok_or_else(malformed)?;
    }
    Ok(None)
}

fn read(file: &File, entry: &Entry, cluster_bytes: u64, size_bytes: u64) -> io::Result<ClusterSet> {
    if entry.table_entries > TABLE_ENTRIES_MAX {
        return Err(malformed());
    }
    let mut table = vec![0; entry.table_entries as usize * 8];
    file.read_exact_at(&mut table, entry.table_offset)?;
    let mut marked = ClusterSet::new();
    let mut bits = vec![0; usize::try_from(cluster_bytes).map_err(|_| malformed())?];
    let bit_bytes = 1 << entry.granularity;
    for index in 0..u64::from(entry.table_entries) {
        let place = u64_at(&table, index as usize * 8)?;
        match (place & OFFSET, place & 1) {
            (0, 0) => continue,
            (0, _) => bits.fill(0xff),
            (offset, _) => {
                bits.fill(0);
                // The file may end within its last cluster.
                read_most(file, &mut bits, offset)?;
            }
        }
        let first = index * cluster_bytes * 8;
        for (byte, value) in (0_u64..).zip(&bits).filter(|(_, value)| **value != 0) {
            for bit in (0..8).filter(|bit| value >> bit & 1 == 1) {
                let start = (first + byte * 8 + bit).saturating_mul(bit_bytes);
                mark(&mut marked, start, bit_bytes, size_bytes);
            }
        }
    }
    Ok(marked)
}

fn mark(marked: &mut ClusterSet, start: u64, bytes: u64, size_bytes: u64) {
    let end = start.saturating_add(bytes).min(size_bytes);
    if start >= end {
        return;
    }
    let (first, last) = (start / CLUSTER_BYTES, (end - 1) / CLUSTER_BYTES);
    marked.insert_run(first as u32, (last - first + 1) as u32);
}

fn read_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => return Ok(()),
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the bitmaps of the image are malformed")
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or_else(malformed)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    bytes_at(bytes, at).map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    bytes_at(bytes, at).map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    bytes_at(bytes, at).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn run(program: &str, args: &[&str]) {
        assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
    }

    #[test]
    fn a_bitmap_that_qemu_stored_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        let disk = path.to_str().unwrap();
        run("qemu-img", &["create", "-q", "-f", "qcow2", disk, "64M"]);
        run("qemu-img", &["bitmap", "--add", "-g", "32768", disk, "first"]);
        run("qemu-io", &["-c", "write -q 0 1", "-c", "write -q 1M 100k", disk]);
        run("qemu-img", &["bitmap", "--add", disk, "a second one"]);
        run("qemu-io", &["-c", "write -q 67043328 64k", disk]);
        let size_bytes = 64 << 20;
        let list = |name| marked(&path, name, size_bytes).unwrap().map(|set| set.iter().collect::<Vec<_>>());
        assert_eq!(list("first"), Some(vec![0, 16, 17, 1023]));
        assert_eq!(list("a second one"), Some(vec![1023]));
        assert_eq!(list("a third one"), None);
        run("qemu-img", &["bitmap", "--add", disk, "a third one"]);
        assert_eq!(list("a third one"), Some(vec![]));
    }
}
