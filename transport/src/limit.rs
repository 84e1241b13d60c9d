//! Bandwidth limits: token buckets that can go into debt, so that a large batch needs no special case.

use std::{sync::Mutex, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// What an idle limiter lets through at once, as time at its rate.
const BURST: Duration = Duration::from_millis(100);

/// A limit in bytes per second, shared by all that it applies to and changeable while they wait.
#[derive(Debug)]
pub struct Limiter {
    bucket: Mutex<Bucket>,
    /// Whoever holds it is next. First come, first served: without it one stream can starve another.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug)]
struct Bucket {
    bytes_per_s: Option<u64>,
    /// Negative: in debt.
    tokens: f64,
    filled_at: Instant,
}

impl Limiter {
    /// `None`: no limit. Zero stops the traffic until the limit is raised.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        let bucket = Bucket { bytes_per_s, tokens: 0.0, filled_at: Instant::now() };
        Self { bucket: Mutex::new(bucket), turn: tokio::sync::Mutex::default(), changed: Notify::new() }
    }

    /// Takes effect at once, for waiters too.
    pub fn set(&self, bytes_per_s: Option<u64>) {
        let mut bucket = self.bucket.lock().expect("no code panics under this lock");
        bucket.fill();
        bucket.bytes_per_s = bytes_per_s;
        // Debt at the old rate is not time at the new one.
        bucket.tokens = bucket.tokens.min(0.0).max(-bucket.burst_bytes());
        drop(bucket);
        self.changed.notify_waiters();
    }

    /// As [`Self::set`], where it is another limit than before.
    pub fn follow(&self, bytes_per_s: Option<u64>) {
        let before = self.bucket.lock().expect("no code panics under this lock").bytes_per_s;
        if before != bytes_per_s {
            self.set(bytes_per_s);
        }
    }

    /// Waits until `count` bytes may go.
    pub async fn take(&self, count: usize) {
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on a change is not missed, whether or not it comes before the wait.
            changed.as_mut().enable();
            match self.try_take(count) {
                None => return,
                Some(Duration::MAX) => changed.await,
                Some(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = &mut changed => {}
                    }
                }
            }
        }
    }

    /// The most bytes that should go in one piece, so that a slow link sees a flow and not bursts.
    pub fn piece_bytes(&self) -> usize {
        const SMALLEST: f64 = 4096.0;
        let bucket = self.bucket.lock().expect("no code panics under this lock");
        bucket.bytes_per_s.map_or(usize::MAX, |_| bucket.burst_bytes().max(SMALLEST) as usize)
    }

    /// Takes `count` or says how long to wait before the next try.
    fn try_take(&self, count: usize) -> Option<Duration> {
        let mut bucket = self.bucket.lock().expect("no code panics under this lock");
        let rate = bucket.bytes_per_s?;
        if rate == 0 {
            return Some(Duration::MAX);
        }
        bucket.fill();
        if bucket.tokens >= 0.0 {
            bucket.tokens -= count as f64;
            return None;
        }
        // A timer never fires early by less than this; without it the last nanosecond would spin.
        let wait = Duration::from_secs_f64(-bucket.tokens / rate as f64);
        Some(wait.max(Duration::from_millis(1)))
    }
}

impl Bucket {
    fn burst_bytes(&self) -> f64 {
        self.bytes_per_s.unwrap_or(0) as f64 * BURST.as_secs_f64()
    }

    fn fill(&mut self) {
        let now = Instant::now();
        let rate = self.bytes_per_s.unwrap_or(0) as f64;
        self.tokens += now.duration_since(self.filled_at).as_secs_f64() * rate;
        self.tokens = self.tokens.min(self.burst_bytes());
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    const PIECE: usize = 10_000;

    /// A task that takes pieces for ever and counts them.
    fn taker(limiters: Vec<Arc<Limiter>>) -> (Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let task = tokio::spawn(async move {
            loop {
                for limiter in &limiters {
                    limiter.take(PIECE).await;
                }
                count.fetch_add(PIECE, Ordering::Relaxed);
            }
        });
        (taken, task)
    }

    /// Virtual time: the clock moves only when every task waits.
    #[tokio::test(start_paused = true)]
    async fn two_relationships_share_a_host_limit_and_keep_their_own() {
        let host = Arc::new(Limiter::new(Some(1_000_000)));
        let slow = Arc::new(Limiter::new(Some(200_000)));
        let (fast, fast_task) = taker(vec![host.clone()]);
        let (slow, slow_task) = taker(vec![slow, host]);
        tokio::time::sleep(Duration::from_secs(20)).await;
        fast_task.abort();
        slow_task.abort();
        let (fast, slow) = (fast.load(Ordering::Relaxed), slow.load(Ordering::Relaxed));
        assert!((19_000_000..=20_400_000).contains(&(fast + slow)), "{fast} + {slow}");
        assert!((3_500_000..=4_100_000).contains(&slow), "{slow}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_those_who_wait() {
        let limiter = Arc::new(Limiter::new(Some(0)));
        let (taken, task) = taker(vec![limiter.clone()]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        limiter.set(Some(100_000));
        tokio::time::sleep(Duration::from_secs(10)).await;
        task.abort();
        let taken = taken.load(Ordering::Relaxed);
        assert!((980_000..=1_030_000).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_limiter_saves_no_more_than_its_burst() {
        let limiter = Arc::new(Limiter::new(Some(1_000_000)));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let (taken, task) = taker(vec![limiter]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        task.abort();
        assert!(taken.load(Ordering::Relaxed) <= 1_120_000);
    }
}
