//! How many deltas this host receives at once. Whoever offers one while there is no place is told `busy`, asks again
//! every second, and keeps its place in the queue as long as it does. One place is kept for cycles.

use crate::api::TransfersView;
use engine::Standing;
use model::{DeltaId, ReplicationState, VmId};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Whoever has not asked for so long, several times the wait of one that was told `busy`, has given up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

pub struct Arrivals {
    max: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inside: Vec<Arrival>,
    /// In the order in which they came.
    queue: Vec<(Arrival, Instant)>,
}

#[derive(Clone, Copy)]
struct Arrival {
    vm: VmId,
    long: bool,
}

/// A place, given back when dropped.
pub struct Entered<'a> {
    arrivals: &'a Arrivals,
    vm: VmId,
}

/// Is what a sender that stands like this offers a first copy or a comparison, as far as can be told.
pub fn is_long(theirs: &Standing, base: Option<DeltaId>) -> bool {
    use ReplicationState as S;
    base.is_none() || matches!(theirs.state, S::WaitingForInitialReplication | S::Resynchronizing)
}

impl Arrivals {
    /// At least two.
    pub fn new(max: u32) -> Self {
        Self { max, state: Mutex::default() }
    }

    /// Would a delta of this VM be let in now; if not, it waits in the queue.
    pub fn may_enter(&self, vm: VmId, long: bool, now: Instant) -> bool {
        self.lock().ask(self.max, Arrival { vm, long }, now)
    }

    /// Lets a delta in; `None`: it waits in the queue.
    pub fn enter(&self, vm: VmId, long: bool, now: Instant) -> Option<Entered<'_>> {
        let mut state = self.lock();
        let arrival = Arrival { vm, long };
        if state.is_inside(vm) || !state.ask(self.max, arrival, now) {
            return None;
        }
        state.queue.retain(|(waiting, _)| waiting.vm != vm);
        state.inside.push(arrival);
        Some(Entered { arrivals: self, vm })
    }

    pub fn view(&self, now: Instant) -> TransfersView {
        let state = self.lock();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let live =
            state.queue.iter().filter(|(_, asked)| now.saturating_duration_since(*asked) < GIVEN_UP_AFTER);
        TransfersView { under_way: count(state.inside.len()), max: self.max, waiting: count(live.count()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.arrivals.lock().inside.retain(|arrival| arrival.vm != self.vm);
    }
}

impl State {
    fn is_inside(&self, vm: VmId) -> bool {
        self.inside.iter().any(|arrival| arrival.vm == vm)
    }

    /// Takes note that somebody asks; is there a place once those before it have theirs.
    fn ask(&mut self, max: u32, asking: Arrival, now: Instant) -> bool {
        if self.is_inside(asking.vm) {
            return true;
        }
        self.queue.retain(|(_, asked)| now.saturating_duration_since(*asked) < GIVEN_UP_AFTER);
        match self.queue.iter_mut().find(|(waiting, _)| waiting.vm == asking.vm) {
            Some(waiting) => *waiting = (asking, now),
            None => self.queue.push((asking, now)),
        }
        let (mut all, mut long) = (self.inside.len(), self.inside.iter().filter(|a| a.long).count());
        let max = max as usize;
        for (waiting, _) in &self.queue {
            let fits = all < max && (!waiting.long || long + 1 < max);
            if waiting.vm == asking.vm {
                return fits;
            }
            all += usize::from(fits);
            long += usize::from(fits && waiting.long);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vms<const N: usize>() -> [VmId; N] {
        std::array::from_fn(|_| VmId::random())
    }

    #[test]
    fn whoever_came_first_is_let_in_first_as_long_as_it_asks() {
        let (arrivals, begin) = (Arrivals::new(2), Instant::now());
        let at = |s| begin + Duration::from_secs(s);
        let [a, b, c, d] = vms();
        let first = arrivals.enter(a, false, at(0)).unwrap();
        let second = arrivals.enter(b, false, at(0)).unwrap();
        assert!(!arrivals.may_enter(c, false, at(0)) && !arrivals.may_enter(d, false, at(1)));
        assert_eq!(arrivals.view(at(1)), TransfersView { under_way: 2, max: 2, waiting: 2 });
        drop(first);
        assert!(!arrivals.may_enter(d, false, at(2)), "c was first");
        assert!(arrivals.enter(d, false, at(2)).is_none());
        assert!(arrivals.may_enter(c, false, at(2)));
        let third = arrivals.enter(c, false, at(2)).unwrap();
        drop((second, third));
        assert!(arrivals.enter(c, false, at(3)).is_some(), "there is room for both");
        // One that asks no more is not waited for.
        let _held = (arrivals.enter(a, false, at(20)).unwrap(), arrivals.enter(b, false, at(20)));
        assert!(!arrivals.may_enter(c, false, at(20)) && !arrivals.may_enter(d, false, at(24)));
        drop(_held.1);
        assert!(!arrivals.may_enter(d, false, at(24)));
        assert!(arrivals.may_enter(d, false, at(25)));
    }

    #[test]
    fn long_transfers_leave_a_place_for_cycles_and_do_not_wait_in_their_way() {
        let (arrivals, now) = (Arrivals::new(2), Instant::now());
        let [a, b, c, d] = vms();
        let _long = arrivals.enter(a, true, now).unwrap();
        assert!(!arrivals.may_enter(b, true, now));
        let cycle = arrivals.enter(c, false, now).expect("a place is kept");
        assert!(!arrivals.may_enter(d, false, now));
        drop(cycle);
        assert!(arrivals.may_enter(d, false, now), "b waits for a long one to end, not for this place");
    }

    #[test]
    fn a_vm_has_one_place() {
        let (arrivals, now) = (Arrivals::new(2), Instant::now());
        let [a] = vms();
        let entered = arrivals.enter(a, false, now);
        assert!(arrivals.may_enter(a, false, now) && arrivals.enter(a, false, now).is_none());
        drop(entered);
        assert!(arrivals.enter(a, false, now).is_some());
    }

    proptest! {
        #[test]
        fn never_more_than_allowed_and_whoever_asks_long_enough_is_let_in(
            max in 2u32..5, asks in proptest::collection::vec((0usize..8, any::<bool>()), 1..60)
        ) {
            let (arrivals, now) = (Arrivals::new(max), Instant::now());
            let vms: [VmId; 8] = vms();
            let mut inside = vec![];
            for (index, long) in asks {
                inside.extend(arrivals.enter(vms[index], long, now));
                let (all, long) = {
                    let state = arrivals.lock();
                    (state.inside.len(), state.inside.iter().filter(|arrival| arrival.long).count())
                };
                prop_assert!(all <= max as usize && long < max as usize);
                prop_assert_eq!(all, inside.len());
            }
            inside.clear();
            // Everybody who waits gets in, in turn, when nobody else comes.
            let first = || arrivals.lock().queue.first().copied();
            while let Some((first, _)) = first() {
                let entered = arrivals.enter(first.vm, first.long, now);
                prop_assert!(entered.is_some());
            }
        }
    }
}
