//! The history that the writer in the guest produces, as pure functions of what its header says.
//!
//! Both sides compile this one file: the checker as part of this crate, the writer inside the guest by
//! `#[path]`. That is why it knows nothing but `std`, and why writer and checker cannot disagree.
//!
//! ```text
//! op n  := (disk, slot, kind), a function of (seed, n)
//! bytes := a function of (seed, n, epoch of n, place): a VM that went back to an older point writes other
//!          bytes for the same n than the branch that was lost, so a leak between branches is visible
//! header (first 4 KiB of the first disk, flushed before each op): seed, geometry, next n, epochs
//! ```
//!
//! Slots tile a fixed area at the start of each disk and never overlap; one more slot is the disk's last,
//! possibly short, cluster. Header, little-endian: magic, u64 seed, next, area bytes, slot bytes, disks,
//! 8 disk sizes, epochs, then (u64 id, u64 first n) each; u64 checksum in the last 8 bytes.

pub const SECTOR_BYTES: u64 = 512;
pub const HEADER_BYTES: usize = 4096;
pub const DISKS_MAX: usize = 8;
pub const EPOCHS_MAX: usize = 248;

const MAGIC: &[u8; 8] = b"RLVORACL";
const EPOCHS_AT: usize = 120;
const CHECKSUM_AT: usize = HEADER_BYTES - 8;
const CLUSTER_BYTES: u64 = 64 * 1024;

/// Slot sizes in KiB that tile 256 KiB: a whole cluster, parts of one, and two that straddle boundaries.
const MIXED_KIB: [u64; 7] = [64, 4, 12, 48, 8, 64, 56];

/// What fixes the history, besides the epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub seed: u64,
    /// Bytes from each disk's start that are tiled with slots.
    pub area_bytes: u64,
    /// Bytes of each slot; 0 mixes sizes from 4 to 64 KiB.
    pub slot_bytes: u64,
    pub disk_sizes_bytes: Vec<u64>,
}

/// One boot of the writer: ops from `first` on carry `id`, until a later epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub id: u64,
    pub first: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub geometry: Geometry,
    /// Ops before this one are on disk; this one is in flight.
    pub next: u64,
    /// In order of boots, so ascending in `first`; several may begin at the same op.
    pub epochs: Vec<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub offset_bytes: u64,
    pub size_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes fresh bytes.
    Write,
    /// Writes zeroes as data.
    WriteZeroes,
    /// Asks the disk to zero the slot (`BLKZEROOUT`).
    ZeroOut,
    /// Tells the disk that the slot is not needed (`BLKDISCARD`): each sector then keeps its bytes or is zero.
    Discard,
    /// Puts back what the slot held before its last change: A, B, A.
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    pub n: u64,
    pub disk: usize,
    pub slot: usize,
    pub kind: Kind,
}

/// What a slot's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Zero,
    Op { n: u64, epoch: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    pub content: Content,
    /// What [`Kind::Restore`] brings back.
    pub previous: Content,
    /// Discarded since: each sector may read as zero instead.
    pub discarded: bool,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let sizes = &self.geometry.disk_sizes_bytes;
        assert!(sizes.len() <= DISKS_MAX && self.epochs.len() <= EPOCHS_MAX, "a header that fits");
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(8, self.geometry.seed);
        put(16, self.next);
        put(24, self.geometry.area_bytes);
        put(32, self.geometry.slot_bytes);
        put(40, sizes.len() as u64);
        for (index, size) in sizes.iter().enumerate() {
            put(48 + 8 * index, *size);
        }
        put(112, self.epochs.len() as u64);
        for (index, epoch) in self.epochs.iter().enumerate() {
            put(EPOCHS_AT + 16 * index, epoch.id);
            put(EPOCHS_AT + 16 * index + 8, epoch.first);
        }
        let sum = checksum(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `Ok(None)`: all zero, so nothing was ever written.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Option<Self>, &'static str> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if &bytes[..8] != MAGIC {
            return Err("magic");
        }
        let get = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        if get(CHECKSUM_AT) != checksum(&bytes[..CHECKSUM_AT]) {
            return Err("checksum");
        }
        let (disks, epochs) = (get(40) as usize, get(112) as usize);
        if disks == 0 || disks > DISKS_MAX || epochs == 0 || epochs > EPOCHS_MAX {
            return Err("counts");
        }
        let geometry = Geometry {
            seed: get(8),
            area_bytes: get(24),
            slot_bytes: get(32),
            disk_sizes_bytes: (0..disks).map(|index| get(48 + 8 * index)).collect(),
        };
        if !geometry.is_usable() {
            return Err("geometry");
        }
        let epoch = |at: usize| Epoch { id: get(at), first: get(at + 8) };
        let epochs = (0..epochs).map(|index| epoch(EPOCHS_AT + 16 * index)).collect();
        Ok(Some(Self { geometry, next: get(16), epochs }))
    }

    /// The epoch whose bytes op `n` carries once it is done.
    pub fn epoch_of(&self, n: u64) -> u64 {
        self.epochs.iter().rev().find(|epoch| epoch.first <= n).map_or(0, |epoch| epoch.id)
    }

    /// Epochs that may have begun op `n`: the last one from before it, and those that redid it.
    pub fn epochs_that_tried(&self, n: u64) -> Vec<u64> {
        let before = self.epochs.iter().rev().find(|epoch| epoch.first < n);
        before.into_iter().chain(self.epochs.iter().filter(|epoch| epoch.first == n)).map(|e| e.id).collect()
    }
}

impl Geometry {
    /// Whether every disk has a slot, and all of them whole sectors. The first holds the header besides.
    pub fn is_usable(&self) -> bool {
        let sectors = |bytes: &u64| bytes.is_multiple_of(SECTOR_BYTES);
        let sizes = &self.disk_sizes_bytes;
        sizes.iter().all(|size| *size > 0 && sectors(size))
            && sizes.first().is_some_and(|size| *size > CLUSTER_BYTES)
            && sectors(&self.slot_bytes)
    }

    /// The slots of one disk in ascending order; the last is the disk's last cluster.
    pub fn slots(&self, disk: usize) -> Vec<Slot> {
        let size_bytes = self.disk_sizes_bytes[disk];
        let tail_at = size_bytes.saturating_sub(1) / CLUSTER_BYTES * CLUSTER_BYTES;
        let mixed: Vec<u64> = MIXED_KIB.iter().map(|kib| kib * 1024).collect();
        let sizes = if self.slot_bytes == 0 { mixed } else { vec![self.slot_bytes] };
        // The first cluster of the first disk belongs to the header.
        let mut offset_bytes = if disk == 0 { CLUSTER_BYTES } else { 0 };
        let mut slots = vec![];
        for size_bytes in sizes.into_iter().cycle() {
            if offset_bytes + size_bytes > tail_at.min(self.area_bytes) {
                break;
            }
            slots.push(Slot { offset_bytes, size_bytes });
            offset_bytes += size_bytes;
        }
        if tail_at >= offset_bytes {
            slots.push(Slot { offset_bytes: tail_at, size_bytes: size_bytes - tail_at });
        }
        slots
    }
}

/// The state of every slot after the ops applied so far.
#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    /// Per disk.
    pub slots: Vec<Vec<Slot>>,
    /// Per disk, as `slots`.
    pub states: Vec<Vec<SlotState>>,
}

impl History {
    pub fn new(geometry: &Geometry) -> Self {
        let blank = SlotState { content: Content::Zero, previous: Content::Zero, discarded: false };
        let slots: Vec<_> = (0..geometry.disk_sizes_bytes.len()).map(|disk| geometry.slots(disk)).collect();
        let states = slots.iter().map(|slots| vec![blank; slots.len()]).collect();
        Self { seed: geometry.seed, slots, states }
    }

    /// The state after all ops before `header.next`.
    pub fn replay(header: &Header) -> Self {
        let mut history = Self::new(&header.geometry);
        for n in 1..header.next {
            history.apply(&history.op(n), header.epoch_of(n));
        }
        history
    }

    /// Op `n`, from 1 on.
    pub fn op(&self, n: u64) -> Op {
        let random = mix(self.seed ^ mix(n));
        let disk = (random % self.slots.len() as u64) as usize;
        let last = self.slots[disk].len() - 1;
        // The short last cluster is where lengths go wrong: it gets more than its share.
        let slot = if (random >> 8).is_multiple_of(16) { last } else { (random >> 16) as usize % (last + 1) };
        let kind = match (random >> 48) % 100 {
            0..58 => Kind::Write,
            58..65 => Kind::WriteZeroes,
            65..72 => Kind::ZeroOut,
            72..80 => Kind::Discard,
            _ => Kind::Restore,
        };
        Op { n, disk, slot, kind }
    }

    /// The slot's state once `op`, made in `epoch`, is done.
    pub fn after(&self, op: &Op, epoch: u64) -> SlotState {
        let old = self.states[op.disk][op.slot];
        let new = |content| SlotState { content, previous: old.content, discarded: false };
        match op.kind {
            Kind::Write => new(Content::Op { n: op.n, epoch }),
            Kind::WriteZeroes | Kind::ZeroOut => new(Content::Zero),
            Kind::Discard => SlotState { discarded: true, ..old },
            Kind::Restore => new(old.previous),
        }
    }

    pub fn apply(&mut self, op: &Op, epoch: u64) {
        self.states[op.disk][op.slot] = self.after(op, epoch);
    }

    /// The bytes of `content` in a slot. Each sector names its op, epoch, seed and place, then random bytes.
    pub fn bytes(&self, disk: usize, slot: usize, content: Content) -> Vec<u8> {
        let Slot { offset_bytes, size_bytes } = self.slots[disk][slot];
        let Content::Op { n, epoch } = content else { return vec![0; size_bytes as usize] };
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        for sector in 0..size_bytes / SECTOR_BYTES {
            let place = (disk as u64) << 56 | (offset_bytes + sector * SECTOR_BYTES);
            let mut random = mix(self.seed ^ mix(n ^ mix(epoch ^ mix(place))));
            for word in [n, epoch, self.seed, place] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            for _ in 4..SECTOR_BYTES / 8 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.extend_from_slice(&(random ^ random >> 32).to_le_bytes());
            }
        }
        bytes
    }

    /// What wrote a sector, if it is one of this history's seed: (n, epoch).
    pub fn origin(&self, sector: &[u8]) -> Option<(u64, u64)> {
        let word = |index: usize| u64::from_le_bytes(sector[8 * index..][..8].try_into().expect("eight"));
        (word(2) == self.seed && word(0) != 0).then(|| (word(0), word(1)))
    }
}

/// splitmix64's finaliser: one word in, one well-mixed word out.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// FNV-1a: guards against torn and stray headers, not against malice.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
