//! What can go wrong in the store.

use catalog::{CatalogError, CommitRefused};
use model::{DeltaId, DiskId, digest::DigestError, sums::SumsError};
use std::{io, path::PathBuf};

pub type Result<T> = std::result::Result<T, LayersError>;

#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    #[error("cannot access {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    CommitRefused(#[from] CommitRefused),
    #[error(transparent)]
    Sums(#[from] SumsError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("there is no recovery point {delta}")]
    UnknownPoint { delta: DeltaId },
    #[error("recovery point {delta} has no disk {disk}")]
    UnknownDisk { delta: DeltaId, disk: DiskId },
    #[error("recovery point {delta} is here already")]
    PointExists { delta: DeltaId },
    #[error("the delta's base is not the latest point ({})",
        latest.map_or("none".to_owned(), |id| id.to_string()))]
    WrongBase { latest: Option<DeltaId> },
    #[error("disk {disk} has {layers} layers already: busy until some of them are merged")]
    ChainFull { disk: DiskId, layers: usize },
    #[error("disk {disk} shrank from {from} to {to} bytes: a resynchronization is needed")]
    Shrunk { disk: DiskId, from: u64, to: u64 },
    #[error("another delta of this VM is being received")]
    Receiving,
    #[error(
        "delta {delta} names a small file `{name}`: expected letters, digits, hyphens, underscores and dots"
    )]
    FileName { delta: DeltaId, name: String },
    #[error("the chunk at cluster {cluster} of disk number {disk} does not fit: {what}")]
    Chunk { disk: u16, cluster: u32, what: &'static str },
    #[error("an earlier write of delta {delta} failed: it has to be begun again")]
    Broken { delta: DeltaId },
    #[error("{path} is damaged: {what}")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("cluster {cluster} of {path} does not have the content that was received")]
    Corrupt { path: PathBuf, cluster: u32 },
    #[error("recovery point {delta} is in use: {reason}")]
    Pinned { delta: DeltaId, reason: String },
    #[error("recovery point {delta} is still offered: hide it first")]
    StillVisible { delta: DeltaId },
    #[error("recovery point {delta} is the latest and cannot be hidden")]
    HidesLatest { delta: DeltaId },
    #[error("overlay {overlay} exists already, on recovery point {delta}")]
    OverlayExists { overlay: String, delta: DeltaId },
    #[error("`qemu-img {arguments}` failed: {message}")]
    QemuImg { arguments: String, message: String },
    #[error("cancelled")]
    Cancelled,
    #[error("stopped at `{step}`")]
    Stopped { step: &'static str },
}

impl LayersError {
    /// For `map_err`: an I/O error with the path that it concerns.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| {
            // A fault that was injected below comes back as what it is.
            match source.get_ref().and_then(|inner| inner.downcast_ref::<StoppedAt>()) {
                Some(StoppedAt(step)) => Self::Stopped { step },
                None => Self::Io { path, source },
            }
        }
    }
}

/// An injected fault on its way through `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("stopped at `{0}`")]
pub(crate) struct StoppedAt(pub &'static str);
