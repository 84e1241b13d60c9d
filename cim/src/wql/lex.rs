//! WQL's words.

use super::Literal;
use crate::ParseError;
use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Word(String),
    Literal(Literal),
    /// A comparison or a sign.
    Sign(&'static str),
    /// What stands between braces, and where it begins.
    Braced(String, usize),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => f.write_str(&crate::text::shorten(word)),
            Token::Literal(Literal::Text(text)) => write!(f, "'{}'", crate::text::shorten(text)),
            Token::Literal(Literal::Integer(integer)) => write!(f, "{integer}"),
            Token::Literal(Literal::Real(real)) => write!(f, "{real}"),
            Token::Literal(other) => write!(f, "{other:?}"),
            Token::Sign(sign) => f.write_str(sign),
            Token::Braced(..) => f.write_str("{"),
            Token::End => f.write_str("the end"),
        }
    }
}

/// Longer ones before their beginnings.
const SIGNS: [&str; 14] = ["<>", "<=", ">=", "!=", "=", "<", ">", "(", ")", ",", ".", "*", ";", "}"];

/// The words with the offsets at which they begin; the last one is [`Token::End`].
pub fn tokens(text: &str) -> Result<Vec<(Token, usize)>, ParseError> {
    let mut tokens = vec![];
    let mut offset = 0;
    loop {
        let rest = text[offset..].trim_start();
        offset = text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            tokens.push((Token::End, offset));
            return Ok(tokens);
        };
        let (token, length) = match first {
            '\'' | '"' => quoted(text, offset, first)?,
            '{' => braced(text, offset)?,
            _ if first.is_alphabetic() || first == '_' => {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Token::Word(rest[..length].to_owned()), length)
            }
            _ if first.is_ascii_digit() || "+-".contains(first) => number(text, offset)?,
            _ => {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
                let refuse = || ParseError::new(text, offset, format_args!("{first:?} has no meaning here"));
                let sign = sign.ok_or_else(refuse)?;
                (Token::Sign(sign), sign.len())
            }
        };
        tokens.push((token, offset));
        offset += length;
    }
}

/// A text in quotes. `\'`, `\"`, `\\` and a doubled quote stand for one character; another backslash for itself.
fn quoted(text: &str, start: usize, quote: char) -> Result<(Token, usize), ParseError> {
    let mut value = String::new();
    let mut chars = text[start + 1..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let escaped = |next: char| match c {
            '\\' => "\\'\"".contains(next),
            _ => c == quote && next == quote,
        };
        match chars.next_if(|(_, next)| escaped(*next)) {
            Some((_, next)) => value.push(next),
            None if c == quote => return Ok((Token::Literal(Literal::Text(value)), at + 2)),
            None => value.push(c),
        }
    }
    Err(ParseError::new(text, start, format_args!("no {quote} ends the text that begins here")))
}

fn braced(text: &str, start: usize) -> Result<(Token, usize), ParseError> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text[start + 1..].char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '}') => {
                let inside = &text[start + 1..start + 1 + at];
                return Ok((Token::Braced(inside.to_owned(), start + 1), at + 2));
            }
            _ => {}
        }
    }
    Err(ParseError::new(text, start, "no } ends the path that begins here"))
}

fn number(text: &str, start: usize) -> Result<(Token, usize), ParseError> {
    let rest = &text[start..];
    let mut previous = ' ';
    let ends = |(at, c): &(usize, char)| {
        let sign = (*at == 0 || "eE".contains(previous)) && "+-".contains(*c);
        let inside = c.is_ascii_alphanumeric() || *c == '.' || sign;
        previous = *c;
        !inside
    };
    let length = rest.char_indices().find(ends).map_or(rest.len(), |(at, _)| at);
    let written = &rest[..length];
    let integer = crate::value::integer(written).map(Literal::Integer);
    let literal = integer.or_else(|| crate::value::real(written).map(Literal::Real));
    let literal =
        literal.ok_or_else(|| ParseError::new(text, start, format_args!("{written} is no number")))?;
    Ok((Token::Literal(literal), length))
}
