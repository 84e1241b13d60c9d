//! Writes another layer's clusters into a finished layer.
//!
//! The points above see none of it, since the layer being merged masks every cluster that is written; what
//! must never break is the file itself. A batch therefore goes in four steps, each durable before the next:
//! data, new tables and refcounts; then what makes new refcounts and a moved L1 table found; then the L2
//! and L1 entries that point to the data. A crash leaves clusters that are counted and not used at worst;
//! [`Editor::reclaim`] finds them when the merge is taken up again.

use super::{
    BLOCK_ENTRIES, COPIED, Header, OFFSET_MASK, TABLE_ENTRIES, ZERO, header, l1_entries, read_table,
    refcount_table_clusters, write_table,
};
use model::{CLUSTER_BYTES, ClusterSet};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

/// L2 tables held before they are written: 64 KiB of memory and up to 512 MiB of disk each.
const BATCH_TABLES: usize = 64;

/// Where a layer keeps its clusters, read through one L2 table at a time.
#[derive(Debug)]
pub struct Map {
    file: File,
    length: u64,
    pub header: Header,
    l1: Vec<u64>,
    table: Option<(usize, Vec<u64>)>,
}

impl Map {
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_file(File::open(path)?)
    }

    fn from_file(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut bytes = [0; header::ENCODED_BYTES];
        file.read_exact_at(&mut bytes, 0)?;
        let header = Header::decode(&bytes).map_err(damaged)?;
        let needed = model::clusters::cluster_count(header.size_bytes.min(MAX_SIZE_BYTES)) as usize;
        let entries = header.l1_entries as usize;
        let l1_end = header.l1_offset.checked_add(entries as u64 * 8);
        if header.size_bytes > MAX_SIZE_BYTES
            || entries < needed.div_ceil(TABLE_ENTRIES)
            || l1_end.is_none_or(|end| end > length)
        {
            return Err(damaged("the L1 table does not fit"));
        }
        let l1 = read_table(&file, header.l1_offset, entries)?;
        Ok(Self { file, length, header, l1, table: None })
    }

    /// The file offset of a cluster's data; `None` when the layer holds none for it.
    pub fn data_offset(&mut self, cluster: u32) -> io::Result<Option<u64>> {
        let index = cluster as usize / TABLE_ENTRIES;
        if self.table.as_ref().is_none_or(|(loaded, _)| *loaded != index) {
            self.table = Some((index, self.read_l2(index)?));
        }
        let entry = self.table.as_ref().expect("just loaded").1[cluster as usize % TABLE_ENTRIES];
        Ok((entry & ZERO == 0 && entry & OFFSET_MASK != 0).then_some(entry & OFFSET_MASK))
    }

    pub fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// An L2 table whose entries all lie within the file; all unallocated where there is none.
    fn read_l2(&self, index: usize) -> io::Result<Vec<u64>> {
        let offset = self.l1.get(index).map_or(0, |entry| entry & OFFSET_MASK);
        if offset == 0 {
            return Ok(vec![0; TABLE_ENTRIES]);
        }
        if !self.is_cluster(offset) {
            return Err(damaged("an L1 entry points outside the file"));
        }
        let table = read_table(&self.file, offset, TABLE_ENTRIES)?;
        if table.iter().any(|entry| entry & OFFSET_MASK != 0 && !self.is_cluster(entry & OFFSET_MASK)) {
            return Err(damaged("an L2 entry points outside the file"));
        }
        Ok(table)
    }

    fn is_cluster(&self, offset: u64) -> bool {
        offset.is_multiple_of(CLUSTER_BYTES) && offset < self.length && offset != 0
    }
}

/// 256 TiB: cluster numbers have 32 bits.
const MAX_SIZE_BYTES: u64 = (1 << 32) * CLUSTER_BYTES - CLUSTER_BYTES;

#[derive(Debug)]
struct Table {
    entries: Vec<u64>,
    /// Its place, when the L1 table does not know it yet.
    new_offset: Option<u64>,
}

#[derive(Debug)]
pub struct Editor {
    map: Map,
    /// L2 tables of this batch.
    tables: BTreeMap<usize, Table>,
    refcount_table: Vec<u64>,
    refcount_table_changed: bool,
    /// Refcount blocks of this batch.
    blocks: BTreeMap<usize, Vec<u16>>,
    header_changed: bool,
    /// Clusters to reuse, and those that become free once the batch is durable.
    free: Vec<u64>,
    freed: Vec<u64>,
    end: u64,
}

impl Editor {
    pub fn open(path: &Path) -> io::Result<Self> {
        let map = Map::from_file(OpenOptions::new().read(true).write(true).open(path)?)?;
        let entries = map.header.refcount_table_clusters as usize * TABLE_ENTRIES;
        let table_end = map.header.refcount_table_offset.checked_add(entries as u64 * 8);
        if table_end.is_none_or(|end| end > map.length) {
            return Err(damaged("the refcount table does not fit"));
        }
        let refcount_table = read_table(&map.file, map.header.refcount_table_offset, entries)?;
        if refcount_table.iter().any(|offset| *offset != 0 && !map.is_cluster(*offset)) {
            return Err(damaged("a refcount block lies outside the file"));
        }
        let end = map.length.next_multiple_of(CLUSTER_BYTES);
        Ok(Self {
            map,
            tables: BTreeMap::new(),
            refcount_table,
            refcount_table_changed: false,
            blocks: BTreeMap::new(),
            header_changed: false,
            free: vec![],
            freed: vec![],
            end,
        })
    }

    /// Finds the clusters that an interrupted edit has left unused and makes them available. Reads all L2
    /// tables; two MiB of memory per TiB of file.
    pub fn reclaim(&mut self) -> io::Result<()> {
        let mut used = ClusterSet::new();
        let number = |offset: u64| u32::try_from(offset / CLUSTER_BYTES).map_err(|_| damaged("too long"));
        let header = &self.map.header;
        used.insert(0);
        let l1_clusters = (self.map.l1.len() * 8).div_ceil(CLUSTER_BYTES as usize) as u32;
        used.insert_run(number(header.l1_offset)?, l1_clusters);
        used.insert_run(number(header.refcount_table_offset)?, header.refcount_table_clusters);
        for offset in self.refcount_table.iter().filter(|offset| **offset != 0) {
            used.insert(number(*offset)?);
        }
        for index in 0..self.map.l1.len() {
            let offset = self.map.l1[index] & OFFSET_MASK;
            if offset != 0 {
                used.insert(number(offset)?);
                for entry in self.map.read_l2(index)? {
                    used.insert(number(entry & OFFSET_MASK)?);
                }
            }
        }
        for cluster in (0..number(self.end)?).rev().filter(|cluster| !used.contains(*cluster)) {
            let offset = u64::from(cluster) * CLUSTER_BYTES;
            self.set_refcount(offset, 0)?;
            self.free.push(offset);
        }
        Ok(())
    }

    /// Raises the disk's size; a smaller one changes nothing. The older file's unallocated clusters past
    /// its old end read as zero already, since no layer below is longer.
    pub fn grow(&mut self, size_bytes: u64) -> io::Result<()> {
        if size_bytes <= self.map.header.size_bytes {
            return Ok(());
        }
        self.map.header.size_bytes = size_bytes;
        self.header_changed = true;
        let entries = l1_entries(size_bytes);
        let before = self.map.l1.len();
        if entries > before {
            let old = self.map.header.l1_offset;
            self.map.l1.resize(entries, 0);
            self.map.header.l1_entries = entries as u32;
            self.map.header.l1_offset = self.allocate_run(entries.div_ceil(TABLE_ENTRIES))?;
            self.free_run(old, before.div_ceil(TABLE_ENTRIES));
            write_table(&self.map.file, self.map.header.l1_offset, &self.map.l1)?;
        }
        if refcount_table_clusters(entries) > self.map.header.refcount_table_clusters as usize {
            self.grow_refcount_table(refcount_table_clusters(entries))?;
        }
        Ok(())
    }

    /// Writes consecutive clusters; only the disk's last may be short.
    pub fn data(&mut self, first: u32, bytes: &[u8]) -> io::Result<()> {
        for (cluster, bytes) in (first..).zip(bytes.chunks(CLUSTER_BYTES as usize)) {
            let entry = *self.entry(cluster)?;
            let offset = match entry & OFFSET_MASK {
                0 => self.allocate()?,
                offset => offset,
            };
            self.map.file.write_all_at(bytes, offset)?;
            if (bytes.len() as u64) < CLUSTER_BYTES {
                // A grown disk shows the rest of this cluster one day.
                let rest = vec![0; CLUSTER_BYTES as usize - bytes.len()];
                self.map.file.write_all_at(&rest, offset + bytes.len() as u64)?;
            }
            *self.entry(cluster)? = offset | COPIED;
        }
        Ok(())
    }

    /// Makes a cluster read as zero. It keeps its place in the file for data that may come later.
    pub fn zero(&mut self, cluster: u32) -> io::Result<()> {
        let masks = self.map.header.backing.is_some();
        let entry = self.entry(cluster)?;
        if *entry & OFFSET_MASK != 0 || masks {
            *entry |= ZERO;
        }
        Ok(())
    }

    /// Whether enough is held that [`Self::commit`] should be called.
    pub fn batch_is_full(&self) -> bool {
        self.tables.len() >= BATCH_TABLES
    }

    /// Makes everything written so far durable, in the order that the module's text gives. `step` is
    /// called between the steps and may end the work there.
    pub fn commit(&mut self, step: &dyn Fn(&'static str) -> io::Result<()>) -> io::Result<()> {
        self.write_refcount_blocks()?;
        for table in self.tables.values() {
            if let Some(offset) = table.new_offset {
                write_table(&self.map.file, offset, &table.entries)?;
            }
        }
        step("merge: clusters written")?;
        self.map.file.sync_data()?;
        step("merge: clusters durable")?;
        if self.refcount_table_changed {
            write_table(&self.map.file, self.map.header.refcount_table_offset, &self.refcount_table)?;
            self.map.file.sync_data()?;
            self.refcount_table_changed = false;
        }
        if self.header_changed {
            self.map.file.write_all_at(&self.map.header.encode()[..], 0)?;
            self.map.file.sync_data()?;
            self.header_changed = false;
        }
        step("merge: refcounts found")?;
        self.link_tables(step)?;
        self.map.file.sync_all()?;
        self.release()?;
        self.map.length = self.end;
        self.map.table = None;
        step("merge: batch durable")
    }

    fn link_tables(&mut self, step: &dyn Fn(&'static str) -> io::Result<()>) -> io::Result<()> {
        for (index, table) in std::mem::take(&mut self.tables) {
            match table.new_offset {
                Some(offset) => {
                    self.map.l1[index] = offset | COPIED;
                    let entry = (offset | COPIED).to_be_bytes();
                    self.map.file.write_all_at(&entry, self.map.header.l1_offset + index as u64 * 8)?;
                }
                None => write_table(&self.map.file, self.map.l1[index] & OFFSET_MASK, &table.entries)?,
            }
            step("merge: table linked")?;
        }
        Ok(())
    }

    /// Frees what the old L1 and refcount tables took. A crash before this leaves them to `reclaim`.
    fn release(&mut self) -> io::Result<()> {
        if self.freed.is_empty() {
            return Ok(());
        }
        for offset in std::mem::take(&mut self.freed) {
            self.set_refcount(offset, 0)?;
            self.free.push(offset);
        }
        self.write_refcount_blocks()?;
        self.map.file.sync_data()
    }

    fn write_refcount_blocks(&mut self) -> io::Result<()> {
        for (index, block) in std::mem::take(&mut self.blocks) {
            let bytes: Vec<u8> = block.iter().flat_map(|count| count.to_be_bytes()).collect();
            self.map.file.write_all_at(&bytes, self.refcount_table[index])?;
        }
        // The file is as long as its clusters say, even where the last one was not written to its end.
        if self.map.file.metadata()?.len() < self.end {
            self.map.file.set_len(self.end)?;
        }
        Ok(())
    }

    fn entry(&mut self, cluster: u32) -> io::Result<&mut u64> {
        let index = cluster as usize / TABLE_ENTRIES;
        if index >= self.map.l1.len() {
            return Err(damaged("a cluster past the disk's end"));
        }
        if !self.tables.contains_key(&index) {
            let new = self.map.l1[index] & OFFSET_MASK == 0;
            let entries = self.map.read_l2(index)?;
            let new_offset = if new { Some(self.allocate()?) } else { None };
            self.tables.insert(index, Table { entries, new_offset });
        }
        let table = self.tables.get_mut(&index).expect("just inserted");
        Ok(&mut table.entries[cluster as usize % TABLE_ENTRIES])
    }

    fn allocate(&mut self) -> io::Result<u64> {
        let Some(offset) = self.free.pop() else { return self.allocate_run(1) };
        self.set_refcount(offset, 1)?;
        Ok(offset)
    }

    fn allocate_run(&mut self, clusters: usize) -> io::Result<u64> {
        let offset = self.end;
        self.end += clusters as u64 * CLUSTER_BYTES;
        for index in 0..clusters as u64 {
            self.set_refcount(offset + index * CLUSTER_BYTES, 1)?;
        }
        Ok(offset)
    }

    fn free_run(&mut self, offset: u64, clusters: usize) {
        self.freed.extend((0..clusters as u64).map(|index| offset + index * CLUSTER_BYTES));
    }

    fn set_refcount(&mut self, offset: u64, count: u16) -> io::Result<()> {
        let cluster = (offset / CLUSTER_BYTES) as usize;
        let index = cluster / BLOCK_ENTRIES;
        if index >= self.refcount_table.len() {
            self.grow_refcount_table(2 * self.map.header.refcount_table_clusters as usize)?;
        }
        if self.refcount_table[index] == 0 {
            if count == 0 {
                return Ok(());
            }
            let block = self.end;
            self.end += CLUSTER_BYTES;
            self.refcount_table[index] = block;
            self.refcount_table_changed = true;
            self.blocks.insert(index, vec![0; BLOCK_ENTRIES]);
            self.set_refcount(block, 1)?;
        }
        if !self.blocks.contains_key(&index) {
            let mut bytes = vec![0; CLUSTER_BYTES as usize];
            self.map.file.read_exact_at(&mut bytes, self.refcount_table[index])?;
            let block = bytes.chunks_exact(2).map(|count| u16::from_be_bytes([count[0], count[1]]));
            self.blocks.insert(index, block.collect());
        }
        self.blocks.get_mut(&index).expect("just inserted")[cluster % BLOCK_ENTRIES] = count;
        Ok(())
    }

    fn grow_refcount_table(&mut self, clusters: usize) -> io::Result<()> {
        let header = &mut self.map.header;
        let (old_offset, old_clusters) =
            (header.refcount_table_offset, header.refcount_table_clusters as usize);
        header.refcount_table_clusters = clusters as u32;
        self.refcount_table.resize(clusters * TABLE_ENTRIES, 0);
        self.refcount_table_changed = true;
        self.header_changed = true;
        self.map.header.refcount_table_offset = self.allocate_run(clusters)?;
        self.free_run(old_offset, old_clusters);
        Ok(())
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
