//! What can go wrong in the catalog.

use model::{DeltaId, Generation};
use std::{io, path::PathBuf};

pub type Result<T> = std::result::Result<T, CatalogError>;

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("cannot create catalog {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot open catalog {path}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("{path} is an SQLite file, but not a catalog of Relevo")]
    Foreign { path: PathBuf },
    #[error("catalog {path} has schema {found}, newer than {supported}, which this version of Relevo knows")]
    Newer { path: PathBuf, found: u32, supported: u32 },
    #[error("cannot copy the catalog to {path} before its migration")]
    Copy { path: PathBuf, source: rusqlite::Error },
    #[error("cannot make the copy {path} of the catalog durable")]
    CopySync { path: PathBuf, source: io::Error },
    #[error("cannot migrate the catalog from schema {from}")]
    Migrate { from: u32, source: rusqlite::Error },
    #[error("the catalog holds a value that cannot be understood")]
    Damaged { source: rusqlite::Error },
    #[error("the catalog cannot be read or written")]
    Query { source: rusqlite::Error },
}

impl From<rusqlite::Error> for CatalogError {
    fn from(source: rusqlite::Error) -> Self {
        match source {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => Self::Damaged { source },
            _ => Self::Query { source },
        }
    }
}

/// Why a point did not become visible. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CommitRefused {
    #[error("the sender's generation is not that of the relationship ({})",
        current.as_ref().map_or("none".to_owned(), ToString::to_string))]
    StaleGeneration { current: Option<Generation> },
    #[error("the delta's base is not the latest point ({})",
        latest.map_or("none".to_owned(), |id| id.to_string()))]
    WrongBase { latest: Option<DeltaId> },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl From<rusqlite::Error> for CommitRefused {
    fn from(source: rusqlite::Error) -> Self {
        Self::Catalog(source.into())
    }
}
