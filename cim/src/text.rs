//! Where a text is wrong, said the same way by all parsers.

use std::fmt;
use std::sync::Arc;

/// A place in a text; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// The file, where the text came from one.
    pub file: Option<Arc<str>>,
    pub line: u32,
    pub column: u32,
}

impl Location {
    /// The place of the byte at `offset`, in a text that came from no file.
    pub fn of(text: &str, offset: usize) -> Location {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Location {
            file: None,
            line: count(before.bytes().filter(|byte| *byte == b'\n').count()).saturating_add(1),
            column: count(before[line_start..].chars().count()).saturating_add(1),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file}:{}:{}", self.line, self.column),
            None => write!(f, "line {}, column {}", self.line, self.column),
        }
    }
}

/// A text that a parser refuses: where, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct ParseError {
    pub at: Location,
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, offset: usize, message: impl fmt::Display) -> ParseError {
        ParseError { at: Location::of(text, offset), message: message.to_string() }
    }

    /// The error of a text that begins at `offset` of another.
    pub(crate) fn within(mut self, text: &str, offset: usize) -> ParseError {
        let start = Location::of(text, offset);
        if self.at.line == 1 {
            self.at.column = self.at.column.saturating_add(start.column - 1);
        }
        self.at.line = self.at.line.saturating_add(start.line - 1);
        self
    }
}

/// The beginning of a text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
