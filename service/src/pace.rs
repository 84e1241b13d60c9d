//! What is done every so often, by the time that passes: no clock that is set holds it up.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// Whether it is time, which it is at first and then when `every` has passed since it last was.
    pub fn is_due(&mut self, every: Duration) -> bool {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= every);
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}
