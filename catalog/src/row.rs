//! Conversions between columns and typed values that rusqlite does not know.

use rusqlite::{Row, types::Type};
use std::str::FromStr;

/// A text column parsed as an id, a host name or a word.
pub fn parsed<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error| conversion(row, column, Box::new(error)))
}

/// As [`parsed`], for a column that may be null.
pub fn parsed_option<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|error| conversion(row, column, Box::new(error)))).transpose()
}

pub fn conversion(
    row: &Row<'_>,
    column: &str,
    error: Box<dyn std::error::Error + Send + Sync>,
) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, error)
}

/// A column held a word that no variant of its enum has.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a known word")]
pub struct UnknownWord(pub String);
