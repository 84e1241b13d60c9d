//! placeholder

/// How a sender spends its processor on a narrower stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    Off,
    /// None while the link takes all that we make; harder the longer the queue before it.
    #[default]
    Adaptive,
    /// This zstd level, for every cluster.
    Always(i32),
}
