//! What may stand before an XML text's first element, blanked out: byte order mark, declaration, DOCTYPE.

use crate::ParseError;

/// The text with blanks where its prologue was, so that places stay what they are.
pub fn blank_prologue(text: &str) -> Result<String, ParseError> {
    let mut rest = 0;
    // A UTF-16 text that was decoded bytewise, or with its mark, begins and ends in these.
    let residue = |c: char| c.is_whitespace() || "\u{feff}\u{fffe}\u{ff}\u{fe}\0".contains(c);
    loop {
        rest = text.len() - text[rest..].trim_start_matches(residue).len();
        let ended = match &text[rest..] {
            it if it.starts_with("<?") => it.find("?>").map(|end| end + 2),
            it if it.starts_with("<!--") => it.find("-->").map(|end| end + 3),
            it if it.get(..9).is_some_and(|it| it.eq_ignore_ascii_case("<!DOCTYPE")) => doctype(text, rest)?,
            _ => break,
        };
        rest += ended.ok_or_else(|| ParseError::new(text, rest, "what begins here does not end"))?;
    }
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let prologue: String = text[..rest].chars().map(blank).collect();
    Ok(prologue + text[rest..].trim_end_matches(residue))
}

/// The length of a document type declaration.
fn doctype(text: &str, start: usize) -> Result<Option<usize>, ParseError> {
    let mut quote = None;
    for (at, c) in text[start..].char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => {
                return Err(ParseError::new(text, start + at, "declarations in a DOCTYPE are not accepted"));
            }
            (None, '>') => return Ok(Some(at + 1)),
            _ => {}
        }
    }
    Ok(None)
}
