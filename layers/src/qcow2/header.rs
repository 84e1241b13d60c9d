//! The header cluster: fields, the backing format's extension, the backing file's name.

use catalog::LayerFormat;
use model::CLUSTER_BYTES;

const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 3;
const CLUSTER_BITS: u32 = CLUSTER_BYTES.trailing_zeros();
const REFCOUNT_ORDER: u32 = 4;
const HEADER_BYTES: usize = 104;
const BACKING_FORMAT_EXTENSION: u32 = 0xe279_2aca;
/// QEMU refuses longer names.
pub const BACKING_NAME_BYTES_MAX: usize = 1023;
/// Header, extension and the longest name fit.
pub const ENCODED_BYTES: usize = 4096;
const SECTOR_BYTES: u64 = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Relative to the image's folder, or absolute.
    pub name: String,
    pub format: LayerFormat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub size_bytes: u64,
    pub l1_entries: u32,
    pub l1_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u32,
    pub backing: Option<Backing>,
}

impl Header {
    /// The first bytes of the file. All that a merge changes lies in the first sector, which a power cut
    /// leaves old or new. The disk's size is rounded up to a sector as QEMU does with raw disks.
    pub fn encode(&self) -> [u8; ENCODED_BYTES] {
        let mut bytes = [0; ENCODED_BYTES];
        let mut at = 0;
        let mut put = |value: &[u8]| {
            bytes[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        };
        let format = self.backing.as_ref().map(|backing| backing.format.to_string()).unwrap_or_default();
        let name = self.backing.as_ref().map(|backing| backing.name.as_str()).unwrap_or_default();
        // Extension header and its data in whole words, then the empty extension that ends them.
        let extensions = if self.backing.is_some() { 8 + format.len().next_multiple_of(8) + 8 } else { 8 };
        let name_offset = if self.backing.is_some() { HEADER_BYTES + extensions } else { 0 };
        put(&MAGIC.to_be_bytes());
        put(&VERSION.to_be_bytes());
        put(&(name_offset as u64).to_be_bytes());
        put(&(name.len() as u32).to_be_bytes());
        put(&CLUSTER_BITS.to_be_bytes());
        put(&self.size_bytes.next_multiple_of(SECTOR_BYTES).to_be_bytes());
        put(&[0; 4]); // no encryption
        put(&self.l1_entries.to_be_bytes());
        put(&self.l1_offset.to_be_bytes());
        put(&self.refcount_table_offset.to_be_bytes());
        put(&self.refcount_table_clusters.to_be_bytes());
        put(&[0; 12]); // no snapshots
        put(&[0; 24]); // no feature bits
        put(&REFCOUNT_ORDER.to_be_bytes());
        put(&(HEADER_BYTES as u32).to_be_bytes());
        if self.backing.is_some() {
            put(&BACKING_FORMAT_EXTENSION.to_be_bytes());
            put(&(format.len() as u32).to_be_bytes());
            put(format.as_bytes());
            put(&[0; 8][..format.len().next_multiple_of(8) - format.len()]);
        }
        put(&[0; 8]);
        put(name.as_bytes());
        bytes
    }

    /// Reads a header that [`Self::encode`] wrote; anything else is refused with the reason.
    pub fn decode(bytes: &[u8; ENCODED_BYTES]) -> Result<Self, &'static str> {
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"));
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight"));
        if (u32_at(0), u32_at(4)) != (MAGIC, VERSION) {
            return Err("not a qcow2 file of version 3");
        }
        if (u32_at(20), u32_at(96), u32_at(60)) != (CLUSTER_BITS, REFCOUNT_ORDER, 0) {
            return Err("cluster size, refcount width or snapshots that layers do not have");
        }
        if bytes[72..96] != [0; 24] || u32_at(32) != 0 {
            return Err("features that layers do not have");
        }
        let backing = match usize::try_from(u64_at(8)).ok().filter(|offset| *offset != 0) {
            None => None,
            Some(offset) => {
                let name = bytes.get(offset..offset.saturating_add(u32_at(16) as usize));
                let name =
                    name.and_then(|name| str::from_utf8(name).ok()).ok_or("the backing file's name")?;
                let length = u32_at(HEADER_BYTES + 4) as usize;
                let format = bytes.get(HEADER_BYTES + 8..HEADER_BYTES + 8 + length.min(16));
                let format = format.and_then(|format| str::from_utf8(format).ok()).unwrap_or_default();
                let known = u32_at(HEADER_BYTES) == BACKING_FORMAT_EXTENSION;
                let format = format.parse().ok().filter(|_| known).ok_or("the backing file's format")?;
                Some(Backing { name: name.to_owned(), format })
            }
        };
        Ok(Self {
            size_bytes: u64_at(24),
            l1_entries: u32_at(36),
            l1_offset: u64_at(40),
            refcount_table_offset: u64_at(48),
            refcount_table_clusters: u32_at(56),
            backing,
        })
    }
}
