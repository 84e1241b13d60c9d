//! Bandwidth limits.

/// A shared limit in bytes per second.
#[derive(Debug)]
pub struct Limiter {}

impl Limiter {
    /// `None`: no limit.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        let _ = bytes_per_s;
        Self {}
    }

    /// Takes effect at once, for waiters too.
    pub fn set(&self, bytes_per_s: Option<u64>) {
        let _ = bytes_per_s;
    }
}
