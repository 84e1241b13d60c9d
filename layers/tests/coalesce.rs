//! Coalescing, and what a crash at any step of it leaves.

mod support;

use layers::{Fault, LayersError, OverlayKind, Policy, Step, Store};
use model::{CLUSTER_BYTES, DeltaId};
use proptest::prelude::*;
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};
use support::{Change, Replica};

const MIB: u64 = 1 << 20;

fn data(first: u32, count: u32, fill: u8) -> Change {
    Change::Data { first, count, fill }
}

/// Four points of two disks with overlaps, zeroes over data, data over zeroes, and growth.
fn four_points() -> Replica {
    let mut replica = Replica::new(&[4 * MIB, MIB + 512]);
    replica.receive(&[vec![data(0, 30, 1)], vec![data(0, 17, 2)]]).unwrap();
    replica.receive(&[vec![data(5, 10, 3), Change::Zero { first: 20, count: 5 }], vec![]]).unwrap();
    let grown = vec![Change::Grow(MIB), data(18, 12, 4)];
    replica.receive(&[vec![data(10, 14, 5), data(60, 4, 6)], grown]).unwrap();
    replica.receive(&[vec![Change::Zero { first: 0, count: 3 }], vec![data(0, 2, 7)]]).unwrap();
    replica
}

fn merge_all(replica: &Replica) -> u32 {
    let mut merged = 0;
    while let Step::Merged { .. } = replica.store.coalesce_step(&AtomicBool::new(false)).unwrap() {
        merged += 1;
    }
    merged
}

fn ids(replica: &Replica) -> Vec<DeltaId> {
    replica.store.points().unwrap().iter().map(|point| point.delta).collect()
}

/// Ends the operation at the `n`th step from now and remembers that step.
fn fault_at(n: usize) -> (Arc<Fault>, Arc<Mutex<Option<&'static str>>>) {
    let (count, at) = (AtomicUsize::new(0), Arc::new(Mutex::new(None)));
    let seen = at.clone();
    let fault = move |step| {
        let stop = count.fetch_add(1, Ordering::SeqCst) == n;
        if stop {
            *at.lock().unwrap() = Some(step);
        }
        stop
    };
    (Arc::new(fault), seen)
}

#[test]
fn hidden_points_are_merged_and_the_others_stay_as_they_were() {
    let mut replica = four_points();
    let points = ids(&replica);
    replica.store.hide(&points[..2]).unwrap();
    assert_eq!(merge_all(&replica), 2);
    assert_eq!(ids(&replica), points[2..]);
    replica.check(true);
    replica.check_images();
    assert_eq!(replica.catalog.layers(replica.vm).unwrap().len(), 4);
    assert!(replica.store.recover().unwrap().removed.is_empty());
    // The next delta and the next merges go on as usual.
    replica.receive(&[vec![data(1, 30, 9)], vec![Change::Zero { first: 0, count: 30 }]]).unwrap();
    replica.store.hide(&points[2..]).unwrap();
    assert_eq!(merge_all(&replica), 2);
    replica.check(true);
    replica.check_images();
    let chain = replica.store.chain(ids(&replica)[0]).unwrap();
    assert!(chain.iter().all(|(_, layers)| layers.len() == 1));
}

#[test]
fn a_crash_at_any_step_leaves_every_visible_point_as_it_was() {
    let mut steps = vec![];
    for n in 0.. {
        let mut replica = four_points();
        replica.store.hide(&ids(&replica)[..2]).unwrap();
        let (fault, seen) = fault_at(n);
        replica.reopen(Some(fault));
        let crashed = loop {
            match replica.store.coalesce_step(&AtomicBool::new(false)) {
                Ok(Step::Merged { .. }) => {}
                Ok(Step::Nothing) => break false,
                Err(LayersError::Stopped { .. }) => break true,
                other => panic!("{other:?}"),
            }
        };
        if !crashed {
            break;
        }
        let step = seen.lock().unwrap().unwrap();
        steps.push(step);
        replica.reopen(None);
        replica.store.recover().unwrap();
        replica.check(false);
        replica.check_images();
        merge_all(&replica);
        replica.check(false);
        replica.check_images();
        assert_eq!(replica.store.points().unwrap().len(), 2, "{step}");
        // Two points of two disks: image and sums each; their XML and NVRAM.
        assert_eq!(replica.files().len(), 12, "after {step}: {:?}", replica.files());
    }
    for step in ["merge: clusters written", "merge: table linked", "merge: layer renamed", "merge: recorded"]
    {
        assert!(steps.contains(&step), "{step} was never reached: {steps:?}");
    }
}

#[test]
fn a_crash_while_recovering_is_recovered_from() {
    for n in 0..12 {
        let mut replica = four_points();
        replica.store.hide(&ids(&replica)[..2]).unwrap();
        let fault: Arc<Fault> = Arc::new(|step| step == "merge: sums renamed");
        replica.reopen(Some(fault));
        replica.store.coalesce_step(&AtomicBool::new(false)).unwrap_err();
        replica.reopen(Some(fault_at(n).0));
        let again = replica.store.recover();
        replica.reopen(None);
        let recovered = replica.store.recover().unwrap();
        assert!(again.is_err() || recovered.removed.is_empty());
        replica.check(false);
        replica.check_images();
    }
}

#[test]
fn a_crash_while_receiving_leaves_the_points_and_no_rubbish() {
    for n in 0.. {
        let mut replica = four_points();
        let (points, now) = (ids(&replica), replica.now.clone());
        let (fault, seen) = fault_at(n);
        replica.reopen(Some(fault));
        let received = replica.receive(&[vec![data(2, 9, 1)], vec![data(1, 3, 2)]]);
        let step = *seen.lock().unwrap();
        replica.reopen(None);
        replica.store.recover().unwrap();
        if step == Some("commit: point visible") {
            // On the disk, though the caller never heard of it.
            assert_eq!(ids(&replica).len(), 5);
            replica.committed(*ids(&replica).last().unwrap());
        } else if received.is_err() {
            assert_eq!(ids(&replica), points, "{step:?}");
            assert_eq!(replica.files().len(), 24, "{step:?}: {:?}", replica.files());
            replica.now = now;
        }
        replica.check(false);
        replica.check_images();
        if received.is_ok() {
            assert!(n > 5, "too few steps were reached");
            break;
        }
        replica.receive(&[vec![data(2, 9, 1)], vec![]]).unwrap();
        replica.check(false);
    }
}

#[test]
fn a_pin_protects_its_chain_and_lets_the_layers_above_merge() {
    let mut replica = four_points();
    replica.receive(&[vec![data(0, 64, 8)], vec![]]).unwrap();
    let points = ids(&replica);
    replica.store.pin(points[1], "transfer", "c.example").unwrap();
    replica.store.hide(&[points[0], points[2]]).unwrap();
    let step = replica.store.coalesce_step(&AtomicBool::new(false)).unwrap();
    assert_eq!(step, Step::Merged { older: points[2], newer: points[3] });
    let step = replica.store.coalesce_step(&AtomicBool::new(false)).unwrap();
    assert_eq!(step, Step::Blocked { by: points[1] });
    replica.check(false);
    replica.store.unpin("transfer", "c.example").unwrap();
    assert_eq!(merge_all(&replica), 1);
    replica.check(true);
}

/// Points come every ten seconds or so by the store's clock; the tier keeps none of the older ones.
#[test]
fn a_pin_wins_over_the_tiers() {
    let replica = four_points();
    let points = ids(&replica);
    replica.store.pin(points[1], "test", "1").unwrap();
    let day = Policy { history: 0, spacing_s: 1, tiers: vec!["1x1d".parse().unwrap()] };
    let gone = layers::retention(&replica.store.points().unwrap(), &day);
    assert_eq!(gone, points[1..3], "the first one of the day and the latest stay");
    replica.store.hide(&gone).unwrap();
    let merged = Step::Merged { older: points[2], newer: points[3] };
    assert_eq!(replica.store.coalesce_step(&AtomicBool::new(false)).unwrap(), merged);
    let blocked = Step::Blocked { by: points[1] };
    assert_eq!(replica.store.coalesce_step(&AtomicBool::new(false)).unwrap(), blocked);
    replica.check(false);
    replica.store.unpin("test", "1").unwrap();
    assert_eq!(merge_all(&replica), 1);
    replica.check(true);
}

#[test]
fn a_point_that_is_being_read_is_not_written() {
    let replica = four_points();
    let points = ids(&replica);
    let reader = replica.store.reader(points[1], replica.disks[0]).unwrap();
    replica.store.hide(&points[..1]).unwrap();
    let blocked = Step::Blocked { by: points[1] };
    assert_eq!(replica.store.coalesce_step(&AtomicBool::new(false)).unwrap(), blocked);
    drop(reader);
    assert_eq!(merge_all(&replica), 1);
}

#[test]
fn the_latest_and_hidden_points_are_not_to_be_had() {
    let replica = four_points();
    let points = ids(&replica);
    assert!(matches!(replica.store.hide(&points[3..]), Err(LayersError::HidesLatest { .. })));
    replica.store.hide(&points[..1]).unwrap();
    let disk = replica.disks[0];
    assert!(matches!(replica.store.reader(points[0], disk), Err(LayersError::UnknownPoint { .. })));
    let overlay = replica.store.make_overlay(OverlayKind::Test, points[0], 1, None);
    assert!(matches!(overlay, Err(LayersError::UnknownPoint { .. })));
}

#[test]
fn a_point_that_the_vm_was_failed_over_to_is_not_hidden() {
    let replica = four_points();
    let points = ids(&replica);
    replica.store.make_overlay(OverlayKind::Failover, points[1], 1, None).unwrap();
    assert!(matches!(replica.store.hide(&points[1..2]), Err(LayersError::Pinned { .. })));
    replica.store.drop_overlay(OverlayKind::Failover, 1).unwrap();
    replica.store.hide(&points[1..2]).unwrap();
}

#[test]
fn a_cancelled_merge_leaves_sound_files_and_goes_on_later() {
    let replica = four_points();
    replica.store.hide(&ids(&replica)[..2]).unwrap();
    assert_eq!(replica.store.coalesce_step(&AtomicBool::new(true)).unwrap(), Step::Cancelled);
    replica.check(true);
    replica.check_images();

    // Cancelled in the middle: one disk is done, the other one is not.
    let mut replica = Replica::new(&[4 * MIB, MIB]);
    replica.receive(&[vec![data(0, 30, 1)], vec![data(0, 16, 2)]]).unwrap();
    replica.receive(&[vec![data(25, 30, 3)], vec![data(3, 9, 4)]]).unwrap();
    replica.receive(&[vec![data(1, 1, 5)], vec![data(1, 1, 6)]]).unwrap();
    replica.store.hide(&ids(&replica)[..2]).unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let setter = cancel.clone();
    let fault = move |step| {
        setter.fetch_or(step == "merge: sums merged", Ordering::SeqCst);
        false
    };
    replica.reopen(Some(Arc::new(fault)));
    assert_eq!(replica.store.coalesce_step(&cancel).unwrap(), Step::Cancelled);
    replica.check(true);
    replica.check_images();
    replica.reopen(None);
    assert_eq!(merge_all(&replica), 2);
    replica.check(true);
    replica.check_images();
    replica.store.recover().unwrap();
    assert_eq!(replica.files().len(), 6, "{:?}", replica.files());
}

#[test]
fn a_merge_that_is_interrupted_again_and_again_still_ends() {
    // Every disk's copying is broken off at its end; each attempt gets one disk further.
    let mut replica = Replica::new(&[MIB, MIB, MIB]);
    let all = |fill| vec![vec![data(0, 16, fill)], vec![data(2, 9, fill)], vec![data(3, 3, fill)]];
    replica.receive(&all(1)).unwrap();
    replica.receive(&all(2)).unwrap();
    replica.store.hide(&ids(&replica)[..1]).unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let (setter, batches) = (cancel.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = batches.clone();
    let fault = move |step| {
        if step == "merge: table linked" {
            counted.fetch_add(1, Ordering::SeqCst);
            setter.store(true, Ordering::SeqCst);
        }
        false
    };
    replica.reopen(Some(Arc::new(fault)));
    let mut attempts = 0;
    loop {
        cancel.store(false, Ordering::SeqCst);
        attempts += 1;
        match replica.store.coalesce_step(&cancel).unwrap() {
            Step::Cancelled => replica.check_images(),
            Step::Merged { .. } => break,
            other => panic!("{other:?}"),
        }
        // Another point being read in between must not confuse it.
        replica.check(false);
        assert!(attempts < 10, "it starts over each time");
    }
    assert_eq!((attempts, batches.load(Ordering::SeqCst)), (3, 3));
    replica.check(true);
    replica.check_images();
}

#[test]
fn a_point_half_overwritten_by_a_merge_can_be_merged_downwards() {
    // The merge of the second point is given up; then the first one is hidden and comes before it.
    let mut replica = Replica::new(&[2 * MIB]);
    replica.receive(&[vec![data(0, 32, 1)]]).unwrap();
    replica.receive(&[vec![data(4, 12, 2)]]).unwrap();
    let zero = Change::Zero { first: 8, count: 4 };
    replica.receive(&[vec![data(6, 6, 3), zero, data(20, 10, 4)]]).unwrap();
    let points = ids(&replica);
    replica.store.hide(&points[1..2]).unwrap();
    replica.reopen(Some(Arc::new(|step| step == "merge: batch durable")));
    replica.store.coalesce_step(&AtomicBool::new(false)).unwrap_err();
    replica.reopen(None);
    replica.check(true);
    replica.store.hide(&points[..1]).unwrap();
    assert_eq!(merge_all(&replica), 2);
    replica.check(true);
    replica.check_images();
}

#[test]
fn an_overlay_takes_the_files_from_a_running_merge() {
    let replica = four_points();
    let points = ids(&replica);
    replica.store.hide(&points[..1]).unwrap();
    let shared = Arc::new(OnceLock::<Store>::new());
    let (entered, merge_entered) = std::sync::mpsc::channel();
    let entered = Mutex::new(entered);
    let its_store = shared.clone();
    let fault = move |step| {
        if step == "merge: copying recorded" {
            entered.lock().unwrap().send(()).unwrap();
            let start = Instant::now();
            while !its_store.get().unwrap().is_awaited() {
                assert!(start.elapsed().as_secs() < 60, "nobody came to wait");
                std::thread::yield_now();
            }
        }
        false
    };
    let store = Store::open(replica.catalog.clone(), replica.vm, replica.folder().parent().unwrap());
    let store = shared.get_or_init(|| store.with_fault(Arc::new(fault)));
    std::thread::scope(|scope| {
        let merge = scope.spawn(|| store.coalesce_step(&AtomicBool::new(false)).unwrap());
        merge_entered.recv().unwrap();
        let overlay = store.make_overlay(OverlayKind::Test, points[1], 1, None).unwrap();
        assert_eq!(overlay.len(), 2);
        assert_eq!(merge.join().unwrap(), Step::Cancelled);
    });
    let blocked = Step::Blocked { by: points[1] };
    assert_eq!(store.coalesce_step(&AtomicBool::new(false)).unwrap(), blocked);
    replica.check(true);
    replica.check_images();
}

#[test]
fn a_rotten_cluster_is_not_merged_over_a_good_one() {
    let replica = four_points();
    let points = ids(&replica);
    let (_, chain) =
        replica.store.chain(points[1]).unwrap().into_iter().find(|(id, _)| *id == replica.disks[0]).unwrap();
    let image = &chain.last().unwrap().path;
    let bytes = std::fs::read(image).unwrap();
    let at = bytes.windows(64).position(|window| window == [(3 + 6) | 1; 64]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(image).unwrap(),
        b"rot",
        at as u64,
    )
    .unwrap();
    replica.store.hide(&points[..1]).unwrap();
    let merged = replica.store.coalesce_step(&AtomicBool::new(false));
    assert!(matches!(merged, Err(LayersError::Corrupt { .. })), "{merged:?}");
    let report = replica.store.verify(points[1], &mut |_, _| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!(report.mismatch_count, 1);
    assert_eq!(report.mismatches[0].disk, replica.disks[0]);
}

#[derive(Clone, Debug)]
enum Action {
    Receive(Vec<Vec<Change>>),
    /// Hide the visible point with this number, modulo their count, unless it is the latest.
    Hide(usize),
    /// Merge, ending at this step as by a crash.
    Merge(usize),
    /// Merge, cancelled at this step.
    Cancel(usize),
    Restart,
}

/// What happens at the step that the countdown ends at.
#[derive(Default)]
struct Faults {
    steps: AtomicUsize,
    crash: AtomicBool,
    cancel: AtomicBool,
}

impl Faults {
    fn set(&self, steps: usize, crash: bool) {
        self.steps.store(steps, Ordering::SeqCst);
        self.crash.store(crash, Ordering::SeqCst);
        self.cancel.store(false, Ordering::SeqCst);
    }

    fn fault(self: Arc<Self>) -> Arc<Fault> {
        Arc::new(move |_| {
            let now = self.steps.fetch_sub(1, Ordering::SeqCst) == 0;
            let crash = self.crash.load(Ordering::SeqCst);
            self.cancel.fetch_or(now && !crash, Ordering::SeqCst);
            now && crash
        })
    }
}

fn restart(replica: &mut Replica, faults: &Arc<Faults>) {
    faults.set(usize::MAX, false);
    replica.reopen(Some(faults.clone().fault()));
    replica.store.recover().unwrap();
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => (0u32..40, 1u32..12, any::<u8>()).prop_map(|(first, count, fill)| data(first, count, fill)),
        2 => (0u32..40, 1u32..12).prop_map(|(first, count)| Change::Zero { first, count }),
        1 => (1u64..400).prop_map(|sectors| Change::Grow(sectors * 512)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let changes = proptest::collection::vec(change(), 0..5);
    prop_oneof![
        4 => proptest::collection::vec(changes, 2).prop_map(Action::Receive),
        3 => any::<usize>().prop_map(Action::Hide),
        2 => (0usize..120).prop_map(Action::Merge),
        3 => (0usize..120).prop_map(Action::Cancel),
        1 => Just(Action::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_visible_point_reads_as_it_was_received(
        sectors in proptest::collection::vec(1u64..4000, 2),
        actions in proptest::collection::vec(action(), 1..24)
    ) {
        let mut replica = Replica::new(&[sectors[0] * 512, sectors[1] * 512]);
        let faults = Arc::new(Faults::default());
        replica.reopen(Some(faults.clone().fault()));
        for action in actions {
            match action {
                Action::Receive(changes) => { replica.receive(&changes).unwrap(); }
                Action::Hide(number) => {
                    let points = ids(&replica);
                    if points.len() > 1 {
                        replica.store.hide(&[points[number % (points.len() - 1)]]).unwrap();
                    }
                }
                Action::Merge(step) => {
                    faults.set(step, true);
                    match replica.store.coalesce_step(&faults.cancel) {
                        Ok(_) => {}
                        Err(LayersError::Stopped { .. }) => restart(&mut replica, &faults),
                        Err(error) => panic!("{error}"),
                    }
                }
                Action::Cancel(step) => {
                    faults.set(step, false);
                    replica.store.coalesce_step(&faults.cancel).unwrap();
                }
                Action::Restart => restart(&mut replica, &faults),
            }
            faults.set(usize::MAX, false);
            replica.check(false);
        }
        merge_all(&replica);
        replica.check(true);
        replica.check_images();
        for point in replica.store.points().unwrap() {
            let report = replica.store.verify(point.delta, &mut |_, _| {}, &AtomicBool::new(false)).unwrap();
            prop_assert_eq!(report.mismatch_count, 0);
            let bytes: usize = replica.points[&point.delta].iter().map(Vec::len).sum();
            prop_assert!(report.clusters >= bytes as u64 / CLUSTER_BYTES);
        }
    }
}
