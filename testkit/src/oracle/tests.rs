//! The checker against simulated guests on plain files: what may happen passes, what must not is caught.

use super::*;
use history::{Geometry, Kind};
use proptest::prelude::*;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
};

/// A writer without a guest: the same history, on files.
struct Simulated {
    dir: tempfile::TempDir,
    header: Header,
    history: History,
}

impl Simulated {
    fn new(seed: u64, sizes: &[u64], slot_bytes: u64) -> Self {
        let disk_sizes_bytes = sizes.to_vec();
        let geometry = Geometry { seed, area_bytes: 512 << 10, slot_bytes, disk_sizes_bytes };
        assert!(geometry.is_usable());
        let dir = tempfile::tempdir().unwrap();
        for (disk, size) in sizes.iter().enumerate() {
            File::create(dir.path().join(disk.to_string())).unwrap().set_len(*size).unwrap();
        }
        let history = History::new(&geometry);
        Self { dir, header: Header { geometry, next: 1, epochs: vec![] }, history }
    }

    fn paths(&self) -> Vec<PathBuf> {
        let disks = 0..self.header.geometry.disk_sizes_bytes.len();
        disks.map(|disk| self.dir.path().join(disk.to_string())).collect()
    }

    fn disk(&self, disk: usize) -> File {
        OpenOptions::new().read(true).write(true).open(&self.paths()[disk]).unwrap()
    }

    /// A copy of the disks and of the writer's state, to go on differently.
    fn branch(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for path in self.paths() {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        Self { dir, header: self.header.clone(), history: self.history.clone() }
    }

    fn boot(&mut self, id: u64) {
        self.header.epochs.push(Epoch { id, first: self.header.next });
        self.history = History::replay(&self.header);
    }

    fn announce(&self) {
        self.disk(0).write_all_at(&self.header.encode(), 0).unwrap();
    }

    /// Writes the sectors of op `next` that `takes` lets through.
    fn write_some(&self, takes: impl Fn(usize) -> bool) {
        let op = self.history.op(self.header.next);
        let state = self.history.after(&op, self.header.epochs.last().unwrap().id);
        let content = if op.kind == Kind::Discard { Content::Zero } else { state.content };
        let bytes = self.history.bytes(op.disk, op.slot, content);
        let offset_bytes = self.history.slots[op.disk][op.slot].offset_bytes;
        for (index, sector) in bytes.chunks(512).enumerate().filter(|(index, _)| takes(*index)) {
            self.disk(op.disk).write_all_at(sector, offset_bytes + index as u64 * 512).unwrap();
        }
    }

    /// Does op `next`, or only believes that it did.
    fn step(&mut self, really: bool) {
        self.announce();
        let op = self.history.op(self.header.next);
        if really {
            // Disks may discard any part of what they were told, or nothing.
            self.write_some(|sector| op.kind != Kind::Discard || (sector as u64 + op.n).is_multiple_of(3));
        }
        self.history.apply(&op, self.header.epochs.last().unwrap().id);
        self.header.next += 1;
    }

    fn run(&mut self, ops: u64) {
        (0..ops).for_each(|_| self.step(true));
    }

    fn check(&self) -> Result<Verdict, Violation> {
        check(&self.paths())
    }

    /// Runs on until the next op fits.
    fn run_to(&mut self, fits: impl Fn(&Self, &history::Op) -> bool) {
        while !fits(self, &self.history.op(self.header.next)) {
            self.step(true);
        }
    }

    /// Runs on until op `n` is announced and done, and `n`'s slot still holds its bytes.
    fn is_last_in_its_slot(&self, n: u64, within: u64) -> bool {
        let op = self.history.op(n);
        (n + 1..n + within).all(|later| {
            let later = self.history.op(later);
            (later.disk, later.slot) != (op.disk, op.slot)
        })
    }
}

const SIZES: [u64; 2] = [(2 << 20) + 512, (1 << 20) + 7 * 512];

/// A guest that has run for a while.
fn running(seed: u64) -> Simulated {
    let mut guest = Simulated::new(seed, &SIZES, 0);
    guest.boot(0xa);
    guest.run(60);
    guest
}

fn slot_violation(result: Result<Verdict, Violation>) -> (usize, usize, Found) {
    match result {
        Err(Violation::Slot { disk, slot, found, .. }) => (disk, slot, found),
        other => panic!("not caught: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Boots, ops, a cut in the middle of an op: always a prefix, and never less than what was acknowledged.
    #[test]
    fn every_instant_of_a_history_passes(
        seed in any::<u64>(),
        sizes in proptest::collection::vec((130u64..5000).prop_map(|sectors| sectors * 512), 1..=3),
        slot_bytes in prop_oneof![Just(0u64), (1u64..200).prop_map(|sectors| sectors * 512)],
        boots in proptest::collection::vec((1u64..40, any::<u64>()), 1..5),
    ) {
        let mut guest = Simulated::new(seed, &sizes, slot_bytes);
        prop_assert_eq!(guest.check().unwrap(), Verdict { epochs: vec![], n: 0, torn: false });
        let mut acked = None;
        for (index, (ops, part)) in boots.into_iter().enumerate() {
            guest.boot(index as u64 + 1);
            guest.run(ops);
            let ack = Ack { epoch: index as u64 + 1, n: guest.header.next - 1 };
            let verdict = guest.check().unwrap();
            prop_assert_eq!(verdict.n, ack.n);
            verdict.at_least(Some(ack)).unwrap();
            guest.announce();
            guest.write_some(|sector| part >> (sector % 64) & 1 == 1);
            acked = Some(ack);
        }
        let verdict = guest.check().unwrap();
        verdict.at_least(acked).unwrap();
        prop_assert!((acked.unwrap().n..=acked.unwrap().n + 1).contains(&verdict.n));
        // The same images as qcow2 give the same answer.
        let converted: Vec<PathBuf> = guest.paths().iter().map(|raw| raw.with_extension("qcow2")).collect();
        for (raw, qcow2) in guest.paths().iter().zip(&converted) {
            let mut convert = std::process::Command::new("qemu-img");
            convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(qcow2);
            prop_assert!(convert.status().unwrap().success());
        }
        prop_assert_eq!(check(&converted).unwrap(), verdict);
    }

    #[test]
    fn headers_survive_their_encoding(seed in any::<u64>(), next in any::<u64>(), epochs in 1usize..=history::EPOCHS_MAX,
                                      at in 0..HEADER_BYTES, flip in 1u8..) {
        let geometry = Geometry { seed, area_bytes: 1 << 20, slot_bytes: 4096, disk_sizes_bytes: vec![1 << 30; 8] };
        let epochs = (0..epochs as u64).map(|index| Epoch { id: index ^ seed, first: index }).collect();
        let header = Header { geometry, next, epochs };
        let mut bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes), Ok(Some(header)));
        bytes[at] ^= flip;
        prop_assert!(Header::decode(&bytes).is_err());
    }

    #[test]
    fn any_changed_byte_in_a_slot_is_caught(seed in any::<u64>(), pick in any::<u64>(), flip in 1u8..) {
        let mut guest = running(seed);
        guest.run_to(|guest, op| guest.history.states[op.disk][op.slot].content != Content::Zero);
        let history = &guest.history;
        let live = |disk: usize, slot: &usize| !history.states[disk][*slot].discarded;
        let disk = pick as usize % 2;
        let slots: Vec<usize> = (0..history.slots[disk].len()).filter(|slot| live(disk, slot)).collect();
        let slot = slots[(pick >> 8) as usize % slots.len()];
        let place = history.slots[disk][slot];
        let offset_bytes = place.offset_bytes + (pick >> 16) % place.size_bytes;
        let mut byte = [0];
        guest.disk(disk).read_exact_at(&mut byte, offset_bytes).unwrap();
        guest.disk(disk).write_all_at(&[byte[0] ^ flip], offset_bytes).unwrap();
        let (found_disk, found_slot, _) = slot_violation(guest.check());
        prop_assert_eq!((found_disk, found_slot), (disk, slot));
    }
}

#[test]
fn slots_reach_the_last_byte_and_do_not_overlap() {
    let sizes = [SIZES[0], 128 << 10, 64 << 10, 512];
    for slot_bytes in [0, 3 * 512, 1 << 20] {
        let area_bytes = 1 << 20;
        let geometry = Geometry { seed: 1, area_bytes, slot_bytes, disk_sizes_bytes: sizes.to_vec() };
        for (disk, size) in sizes.iter().enumerate() {
            let slots = geometry.slots(disk);
            let mut free_from = if disk == 0 { HEADER_BYTES as u64 } else { 0 };
            for slot in &slots {
                assert!(slot.offset_bytes >= free_from && slot.size_bytes > 0);
                free_from = slot.offset_bytes + slot.size_bytes;
            }
            assert_eq!(free_from, *size);
        }
    }
}

#[test]
fn a_missing_op_is_caught() {
    for seed in 0..20 {
        let mut guest = running(seed);
        guest.run_to(|guest, op| op.kind == Kind::Write && guest.is_last_in_its_slot(op.n, 10));
        let lost = guest.history.op(guest.header.next);
        guest.step(false);
        guest.run(5);
        let (disk, slot, _) = slot_violation(guest.check());
        assert_eq!((disk, slot), (lost.disk, lost.slot));
    }
}

#[test]
fn lost_zeroes_are_caught() {
    for zero in [Kind::WriteZeroes, Kind::ZeroOut] {
        let mut guest = running(3);
        guest.run_to(|guest, op| {
            let state = guest.history.states[op.disk][op.slot];
            let holds_bytes = state.content != Content::Zero && !state.discarded;
            op.kind == zero && holds_bytes && guest.is_last_in_its_slot(op.n, 10)
        });
        let lost = guest.history.op(guest.header.next);
        let Content::Op { n, epoch } = guest.history.states[lost.disk][lost.slot].content else { panic!() };
        guest.step(false);
        guest.run(5);
        assert_eq!(slot_violation(guest.check()), (lost.disk, lost.slot, Found::Op { n, epoch }));
    }
}

#[test]
fn a_disk_that_is_ahead_or_behind_is_caught() {
    let mut early = running(4);
    let later_write = |disk: usize| {
        move |guest: &Simulated, op: &history::Op| {
            op.kind == Kind::Write && op.disk == disk && guest.is_last_in_its_slot(op.n, 20)
        }
    };
    early.run_to(later_write(1));
    let mut late = early.branch();
    // The op is announced in `early` as the one in flight; two more make it certain that both are apart.
    late.run(3);
    late.run_to(later_write(1));
    late.run(2);
    let (early, late) = (early.paths(), late.paths());
    slot_violation(check(&[&early[0], &late[1]]));
    slot_violation(check(&[&late[0], &early[1]]));
    check(&late).unwrap();
}

#[test]
fn a_b_where_a_had_come_back_is_caught() {
    let mut guest = running(5);
    guest.run_to(|guest, op| {
        let state = guest.history.states[op.disk][op.slot];
        let differs = state.content != Content::Zero && state.previous != state.content && !state.discarded;
        op.kind == Kind::Restore && differs && guest.is_last_in_its_slot(op.n, 10)
    });
    let op = guest.history.op(guest.header.next);
    let Content::Op { n, epoch } = guest.history.states[op.disk][op.slot].content else { panic!() };
    guest.step(false);
    guest.run(3);
    assert_eq!(slot_violation(guest.check()), (op.disk, op.slot, Found::Op { n, epoch }));
}

/// Two branches from one point: the same ops, but under other epochs.
#[test]
fn bytes_of_a_lost_branch_are_caught() {
    let mut lost = running(6);
    let mut taken_over = lost.branch();
    lost.run(30);
    taken_over.boot(0xb);
    taken_over.run(30);
    taken_over.check().unwrap();
    let (lost, taken_over) = (lost.paths(), taken_over.paths());
    let (_, _, found) = slot_violation(check(&[&taken_over[0], &lost[1]]));
    assert!(matches!(found, Found::Op { epoch: 0xa, .. }), "{found:?}");
}

#[test]
fn a_point_holds_what_was_acknowledged_in_its_own_branch_only() {
    let mut old = running(7);
    let mut new = old.branch();
    old.run(10);
    new.boot(0xb);
    new.run(20);
    let verdict = new.check().unwrap();
    let ack = |epoch, n| verdict.at_least(Some(Ack { epoch, n }));
    verdict.at_least(None).unwrap();
    ack(0xa, 60).unwrap();
    // Op 61 was redone by the later boot: it may have been acknowledged before that one.
    ack(0xa, 61).unwrap();
    ack(0xa, 62).unwrap_err();
    ack(0xb, 80).unwrap();
    ack(0xb, 81).unwrap_err();
    ack(0xb, 60).unwrap_err();
    ack(0xc, 10).unwrap_err();
}

#[test]
fn an_op_that_two_boots_tried_may_be_a_mixture() {
    let mut guest = running(8);
    guest.run_to(|_, op| op.kind == Kind::Write);
    guest.announce();
    guest.write_some(|sector| sector % 2 == 0);
    guest.boot(0xb);
    guest.announce();
    guest.write_some(|sector| sector % 3 == 0);
    let verdict = guest.check().unwrap();
    assert_eq!(verdict.n, guest.header.next - 1);
    guest.boot(0xc);
    guest.run(1);
    assert_eq!(guest.check().unwrap().n, verdict.n + 1);
}

#[test]
fn bytes_without_a_header_are_caught() {
    let guest = running(9);
    guest.disk(0).write_all_at(&[0; HEADER_BYTES], 0).unwrap();
    assert!(matches!(guest.check(), Err(Violation::NotBlank { .. })));
    let blank = Simulated::new(1, &SIZES, 0);
    blank.disk(1).write_all_at(&[1], SIZES[1] - 1).unwrap();
    let Err(Violation::NotBlank { disk: 1, offset_bytes }) = blank.check() else { panic!() };
    assert_eq!(offset_bytes, SIZES[1] - 1);
}

#[test]
fn missing_damaged_and_short_images_are_told_apart() {
    let guest = running(10);
    let paths = guest.paths();
    assert!(matches!(check(&paths[..1]), Err(Violation::Disks { expected: 2, found: 1 })));
    guest.disk(1).set_len(SIZES[1] - 512).unwrap();
    assert!(matches!(guest.check(), Err(Violation::Shorter { disk: 1, .. })));
    // A disk that grew is not for the oracle to judge.
    guest.disk(1).set_len(SIZES[1] + (1 << 20)).unwrap();
    assert!(!matches!(guest.check(), Err(Violation::Shorter { .. })));
    fs::write(&paths[1], b"QFI\xfb and no more").unwrap();
    assert!(matches!(guest.check(), Err(Violation::Unreadable(ImageError::Refused { .. }))));
    fs::remove_file(&paths[1]).unwrap();
    assert!(matches!(guest.check(), Err(Violation::Unreadable(ImageError::Absent { .. }))));
    guest.disk(0).write_all_at(b"?", 20).unwrap();
    assert!(matches!(check(&[&paths[0], &paths[0]]), Err(Violation::Header { what: "checksum" })));
}
