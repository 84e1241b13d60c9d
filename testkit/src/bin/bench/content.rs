//! What lies on a disk that is copied: three eighths of it random, three eighths like text, the rest holes;
//! the same each time.

use crate::tool;
use anyhow::Result;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

pub const CLUSTER_BYTES: u64 = 64 << 10;
const PIECE_BYTES: usize = 1 << 20;

/// Makes a qcow2 of this size. The first `blank_bytes` stay holes: there a guest may write.
pub fn make(path: &Path, size_bytes: u64, blank_bytes: u64) -> Result<()> {
    let raw = path.with_extension("raw");
    fill(&raw, size_bytes, blank_bytes)?;
    let mut convert = Command::new("qemu-img");
    tool(convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(path))?;
    fs::remove_file(&raw)?;
    Ok(())
}

pub fn fill(raw: &Path, size_bytes: u64, blank_bytes: u64) -> Result<()> {
    let file = File::create(raw)?;
    file.set_len(size_bytes)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let words: Vec<Vec<u8>> = (0..4096).map(|_| random.word()).collect();
    let mut piece = vec![0; PIECE_BYTES];
    for index in blank_bytes.div_ceil(PIECE_BYTES as u64)..size_bytes / PIECE_BYTES as u64 {
        match index % 8 {
            0..3 => random.fill(&mut piece),
            3..6 => {
                piece.clear();
                while piece.len() < PIECE_BYTES {
                    piece.extend_from_slice(&words[random.next() as usize % words.len()]);
                }
                piece.truncate(PIECE_BYTES);
            }
            _ => continue,
        }
        file.write_all_at(&piece, index * PIECE_BYTES as u64)?;
    }
    Ok(())
}

/// One percent of a disk's clusters, others in each run.
pub fn one_percent(run: u64, disk_bytes: u64) -> BTreeSet<u64> {
    let mut random = Random(run + 1);
    let count = disk_bytes / CLUSTER_BYTES;
    let mut clusters = BTreeSet::new();
    while (clusters.len() as u64) < count / 100 {
        clusters.insert(random.next() % count);
    }
    clusters
}

/// Writes these clusters of a qcow2 as a guest would.
pub fn rewrite(disk: &Path, clusters: &BTreeSet<u64>, pattern: u8) -> Result<()> {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "qcow2"]);
    for cluster in clusters {
        command.args(["-c", &format!("write -P {pattern} {} {CLUSTER_BYTES}", cluster * CLUSTER_BYTES)]);
    }
    tool(command.arg(disk)).map(drop)
}

/// xorshift64: fast, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_exact_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes());
        }
    }

    /// Two to nine letters and a space.
    fn word(&mut self) -> Vec<u8> {
        let letters = 2 + self.next() % 8;
        (0..letters).map(|_| b'a' + (self.next() % 26) as u8).chain([b' ']).collect()
    }
}
