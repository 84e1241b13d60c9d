//! How many deltas this host sends at once. The others wait, first come, first served. One place is kept for
//! cycles: first copies and comparisons never hold all of them.

use crate::api::TransfersView;
use engine::{Step, Work};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The stage of whoever waits.
pub const WAITS: &str = "waits for its turn";

/// Semaphores serve in the order in which they were asked.
pub struct Turns {
    max: u32,
    /// What long transfers need first, so that they do not wait where cycles do.
    long: Arc<Semaphore>,
    all: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// A place, given back when dropped.
pub struct Turn {
    _long: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

/// Does the step that is next, or under way, need a place. What an operator asked for with the VM off does not.
pub fn is_sent(work: &Work) -> bool {
    work.kind.is_turn() && !work.waits && matches!(work.step(), Some(Step::Cut { .. } | Step::Ship { .. }))
}

impl Turns {
    /// At least two.
    pub fn new(max: u32) -> Self {
        let places = |count: u32| Arc::new(Semaphore::new(count as usize));
        Self { max, long: places(max - 1), all: places(max), waiting: AtomicU32::new(0) }
    }

    /// `None`: others have to end first, or come first.
    pub fn try_take(&self, long: bool) -> Option<Turn> {
        let long = if long { Some(self.long.clone().try_acquire_owned().ok()?) } else { None };
        Some(Turn { _long: long, _place: self.all.clone().try_acquire_owned().ok()? })
    }

    /// Waits for a place; dropped meanwhile, it gives up its place in the queue.
    pub async fn take(&self, long: bool) -> Turn {
        let _waits = Waits::new(&self.waiting);
        let long = if long { Some(acquire(&self.long).await) } else { None };
        Turn { _long: long, _place: acquire(&self.all).await }
    }

    pub fn view(&self) -> TransfersView {
        let free = u32::try_from(self.all.available_permits()).unwrap_or(self.max);
        TransfersView {
            under_way: self.max.saturating_sub(free),
            max: self.max,
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

async fn acquire(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    places.clone().acquire_owned().await.expect("never closed")
}

struct Waits<'a>(&'a AtomicU32);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::pin::Pin;

    type Waiting<'a> = Pin<Box<dyn Future<Output = Turn> + 'a>>;

    /// Asks, and is in the queue from then on.
    fn ask(turns: &Turns, long: bool) -> Waiting<'_> {
        let mut asked: Waiting<'_> = Box::pin(turns.take(long));
        assert!((&mut asked).now_or_never().is_none(), "there was a place");
        asked
    }

    fn served(asked: &mut Waiting<'_>) -> Option<Turn> {
        asked.now_or_never()
    }

    #[test]
    fn whoever_asked_first_is_served_first() {
        let turns = Turns::new(2);
        let held = [turns.try_take(false).unwrap(), turns.try_take(false).unwrap()];
        let (mut first, mut second) = (ask(&turns, false), ask(&turns, false));
        assert_eq!(turns.view(), TransfersView { under_way: 2, max: 2, waiting: 2 });
        drop(held);
        assert!(turns.try_take(false).is_none(), "the newcomer took the place of one who waits");
        let held = (served(&mut second).unwrap(), served(&mut first).unwrap());
        assert_eq!(turns.view(), TransfersView { under_way: 2, max: 2, waiting: 0 });
        let (mut third, mut fourth) = (ask(&turns, false), ask(&turns, false));
        drop(held.0);
        assert!(served(&mut fourth).is_none());
        assert!(served(&mut third).is_some());
    }

    #[test]
    fn long_transfers_leave_a_place_for_cycles_and_do_not_wait_in_their_way() {
        let turns = Turns::new(3);
        let long = [turns.try_take(true).unwrap(), turns.try_take(true).unwrap()];
        assert!(turns.try_take(true).is_none());
        let mut third = ask(&turns, true);
        let cycle = turns.try_take(false).expect("a place is kept for cycles");
        let mut next = ask(&turns, false);
        drop(cycle);
        let cycle = served(&mut next).expect("a long transfer that waits is not in the way");
        drop(long);
        assert!(served(&mut third).is_some());
        drop(cycle);
    }

    #[test]
    fn whoever_gives_up_waiting_is_not_waited_for() {
        let turns = Turns::new(2);
        let held = (turns.try_take(true).unwrap(), turns.try_take(false).unwrap());
        let (gone, mut stays) = (ask(&turns, true), ask(&turns, true));
        drop(gone);
        assert_eq!(turns.view().waiting, 1);
        drop(held.0);
        assert!(served(&mut stays).is_some());
    }
}
