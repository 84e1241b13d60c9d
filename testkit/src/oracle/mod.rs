//! The write oracle: do these disk images hold a prefix of the writer's history, the same on all of them?
//!
//! The writer in the guest (`testkit/guest/writer.rs`) carries out ops 1, 2, 3, … one after the other, each
//! flushed, each announced in a header on the first disk. So at every instant the disks hold exactly: all
//! ops before the header's, and of that one nothing, all, or some sectors. [`check`] demands this of every
//! sector of every slot. A lost write, a disk ahead of another, a B where A had come back, bytes of a branch
//! that was given up: each shows as a [`Violation`].

pub mod history;
mod image;
mod log;
#[cfg(test)]
mod tests;

pub use history::{Content, Epoch};
pub use image::ImageError;
pub use log::{Ack, Log, last_ack, read_log};

use history::{HEADER_BYTES, Header, History, SECTOR_BYTES, SlotState};
use image::Image;
use std::path::Path;

/// What a set of images holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Boots of the writer in order; empty when it never wrote.
    pub epochs: Vec<Epoch>,
    /// The last op that is there as a whole; 0 when none is.
    pub n: u64,
    /// Op `n + 1` was in flight and is there in part.
    pub torn: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error(transparent)]
    Unreadable(#[from] ImageError),
    #[error("the header on the first disk is damaged: {what}")]
    Header { what: &'static str },
    #[error("the history spans {expected} disks, not {found}")]
    Disks { expected: usize, found: usize },
    #[error("disk {disk} has {found} bytes, less than the {expected} that it had")]
    Shorter { disk: usize, expected: u64, found: u64 },
    #[error("the first disk is blank, but disk {disk} is not, at offset {offset_bytes}")]
    NotBlank { disk: usize, offset_bytes: u64 },
    #[error(
        "disk {disk} slot {slot} offset {offset_bytes}: found {found:?} where, before op {next}, only \
         {expected:?} can be"
    )]
    Slot { disk: usize, slot: usize, offset_bytes: u64, next: u64, expected: Vec<Content>, found: Found },
}

/// What lies in a sector that should hold something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Zero,
    /// Calls itself the bytes of this op; in their place only if the seed, the disk and the offset agree.
    Op {
        n: u64,
        epoch: u64,
    },
    /// Not from this history.
    Foreign,
}

/// An acknowledged op that images do not hold.
#[derive(Debug, thiserror::Error)]
#[error("op {} of epoch {:016x} was acknowledged, but the images end with op {} of {:x?}", ack.n, ack.epoch, verdict.n, verdict.epochs)]
pub struct Lost {
    pub ack: Ack,
    pub verdict: Verdict,
}

impl Verdict {
    /// Demands that the images hold what was acknowledged before they were cut.
    pub fn at_least(&self, ack: Option<Ack>) -> Result<(), Lost> {
        let Some(ack) = ack else { return Ok(()) };
        let index = self.epochs.iter().position(|epoch| epoch.id == ack.epoch);
        let holds = index.is_some_and(|index| {
            // A later boot redid the op at which it began: that one was this epoch's, too.
            let end = self.epochs.get(index + 1).map_or(u64::MAX, |later| later.first);
            (self.epochs[index].first..=end).contains(&ack.n) && ack.n <= self.n
        });
        if holds { Ok(()) } else { Err(Lost { ack, verdict: self.clone() }) }
    }
}

/// Checks the images of one VM's disks, in the guest's order; qcow2 (with its backing chain) or raw, told
/// apart by their content. Nothing may write to them meanwhile, except a guest that is frozen or paused.
pub fn check<P: AsRef<Path>>(images: &[P]) -> Result<Verdict, Violation> {
    let images: Vec<Image> =
        images.iter().map(|path| Image::open(path.as_ref())).collect::<Result<_, _>>()?;
    let first = images.first().ok_or(Violation::Disks { expected: 1, found: 0 })?;
    let bytes = first.read(0, HEADER_BYTES as u64)?;
    let header = Header::decode(bytes[..].try_into().expect("the length that was asked for"))
        .map_err(|what| Violation::Header { what })?;
    let Some(header) = header else {
        check_blank(&images)?;
        return Ok(Verdict { epochs: vec![], n: 0, torn: false });
    };
    let sizes = &header.geometry.disk_sizes_bytes;
    if sizes.len() != images.len() {
        return Err(Violation::Disks { expected: sizes.len(), found: images.len() });
    }
    for (disk, (expected, image)) in sizes.iter().zip(&images).enumerate() {
        if image.size_bytes < *expected {
            return Err(Violation::Shorter { disk, expected: *expected, found: image.size_bytes });
        }
    }
    check_slots(&header, &images)
}

fn check_slots(header: &Header, images: &[Image]) -> Result<Verdict, Violation> {
    let history = History::replay(header);
    let op = history.op(header.next);
    let (mut untouched, mut whole) = (true, true);
    for (disk, image) in images.iter().enumerate() {
        let area = image.read_slots(&history.slots[disk])?;
        for (slot, bytes) in area.iter().enumerate() {
            let before = sectors(&history, disk, slot, &[history.states[disk][slot]]);
            let tried = if (op.disk, op.slot) == (disk, slot) {
                let epochs = header.epochs_that_tried(op.n);
                epochs.into_iter().map(|epoch| history.after(&op, epoch)).collect()
            } else {
                vec![]
            };
            let after = sectors(&history, disk, slot, &tried);
            for (index, found) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
                let is = |allowed: &[(Content, Vec<u8>)]| {
                    allowed
                        .iter()
                        .any(|(_, bytes)| bytes.chunks(SECTOR_BYTES as usize).nth(index) == Some(found))
                };
                let (is_before, is_after) = (is(&before), is(&after));
                if !is_before && !is_after {
                    let offset_bytes = history.slots[disk][slot].offset_bytes + index as u64 * SECTOR_BYTES;
                    let expected = before.iter().chain(&after).map(|(content, _)| *content).collect();
                    let found = describe(&history, found);
                    return Err(Violation::Slot { disk, slot, offset_bytes, next: op.n, expected, found });
                }
                untouched &= is_before;
                whole &= is_after || tried.is_empty();
            }
        }
    }
    let n = if whole { op.n } else { op.n - 1 };
    Ok(Verdict { epochs: header.epochs.clone(), n, torn: !untouched && !whole })
}

/// The bytes that a slot in one of `states` may hold.
fn sectors(history: &History, disk: usize, slot: usize, states: &[SlotState]) -> Vec<(Content, Vec<u8>)> {
    let mut contents: Vec<Content> = states.iter().map(|state| state.content).collect();
    if states.iter().any(|state| state.discarded) {
        contents.push(Content::Zero);
    }
    contents.into_iter().map(|content| (content, history.bytes(disk, slot, content))).collect()
}

fn describe(history: &History, sector: &[u8]) -> Found {
    match history.origin(sector) {
        _ if sector.iter().all(|byte| *byte == 0) => Found::Zero,
        Some((n, epoch)) => Found::Op { n, epoch },
        None => Found::Foreign,
    }
}

/// Without a header there was no op, so the places where ops begin must be zero: the first MiB, the end.
fn check_blank(images: &[Image]) -> Result<(), Violation> {
    const LOOK_BYTES: u64 = 1 << 20;
    for (disk, image) in images.iter().enumerate() {
        for from in [0, image.size_bytes.saturating_sub(LOOK_BYTES) / SECTOR_BYTES * SECTOR_BYTES] {
            let bytes = image.read(from, LOOK_BYTES.min(image.size_bytes - from))?;
            if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                return Err(Violation::NotBlank { disk, offset_bytes: from + at as u64 });
            }
        }
    }
    Ok(())
}
