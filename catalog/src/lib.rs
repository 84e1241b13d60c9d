//! The catalog: what this host has to remember, in one SQLite file. All SQL of the project lives here,
//! one file per family of tables, behind typed queries.
//!
//! Contract: every call is one transaction and is on disk when it returns (WAL, `synchronous=FULL`).
//! There is one writer, the connection in a [`Catalog`], which is cheap to clone and may be used from any
//! thread. Files come first and rows second: what a row names was fsynced before the row was written.
//! Times are milliseconds since 1970 given by the caller; JSON columns are opaque. The format, and what a
//! crash leaves, are described in `docs/format/catalog.md`.

mod authorizations;
mod documents;
mod error;
mod jobs;
mod lists;
mod open;
mod overlays;
mod points;
mod receiving;
mod relationships;
mod row;

pub use authorizations::Authorization;
pub use documents::Disk;
pub use error::{CatalogError, CommitRefused, Result};
pub use jobs::Job;
pub use lists::ClusterList;
pub use open::{APPLICATION_ID, SCHEMA_VERSION};
pub use overlays::{Overlay, OverlayKind, Pin};
pub use points::{Expected, Layer, LayerFormat, Merge, MergeStage, NewPoint, Point};
pub use receiving::Receiving;
pub use relationships::Relationship;

use rusqlite::Connection;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A handle on this host's catalog.
#[derive(Clone)]
pub struct Catalog {
    path: Arc<PathBuf>,
    writer: Arc<Mutex<Connection>>,
}

impl Catalog {
    /// Opens the catalog at `path`, creating it if there is none and migrating it if it is older.
    pub fn open(path: &Path) -> Result<Self> {
        let writer = open::open(path, open::MIGRATIONS)?;
        Ok(Self { path: Arc::new(path.to_owned()), writer: Arc::new(Mutex::new(writer)) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The one writer. A panic while it was held rolled its transaction back, so the lock stays usable.
    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("path", &self.path).finish_non_exhaustive()
    }
}
