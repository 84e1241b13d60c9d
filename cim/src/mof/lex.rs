//! MOF's words: identifiers, literals and signs, without blanks and comments.

use crate::{Location, ParseError, Value};
use std::fmt;
use std::sync::Arc;

/// How many words a text may have: all of a namespace's classes in one file have a tenth of that.
const TOKENS_MAX: usize = 500_000;

/// A text with the beginnings of its lines, so that places are found without counting again.
pub struct Source<'a> {
    file: Option<Arc<str>>,
    text: &'a str,
    line_starts: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Word(String),
    /// A string, a character or a number.
    Literal(Value),
    Sign(char),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => f.write_str(word),
            Token::Literal(Value::String(text)) => write!(f, "{:?}", crate::text::shorten(text)),
            Token::Literal(value) => write!(f, "{value}"),
            Token::Sign(sign) => write!(f, "{sign:?}"),
            Token::End => f.write_str("the end"),
        }
    }
}

impl<'a> Source<'a> {
    pub fn new(file: Option<&str>, text: &'a str) -> Source<'a> {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Source { file: file.map(Arc::from), text, line_starts }
    }

    pub fn location(&self, offset: usize) -> Location {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let column = self.text[self.line_starts[line - 1]..offset].chars().count() + 1;
        let small = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Location { file: self.file.clone(), line: small(line), column: small(column) }
    }

    pub fn error(&self, offset: usize, message: impl fmt::Display) -> ParseError {
        ParseError { at: self.location(offset), message: message.to_string() }
    }

    /// The words with the offsets at which they begin; the last one is [`Token::End`].
    pub fn tokens(&self) -> Result<Vec<(Token, usize)>, ParseError> {
        let mut lexer = Lexer { source: self, offset: 0 };
        let mut tokens = vec![];
        if self.text.starts_with('\u{feff}') {
            lexer.offset = '\u{feff}'.len_utf8();
        }
        loop {
            lexer.skip_blanks()?;
            let start = lexer.offset;
            if tokens.len() == TOKENS_MAX {
                return Err(self.error(start, format_args!("the text has more than {TOKENS_MAX} words")));
            }
            let token = lexer.token()?;
            let ended = token == Token::End;
            tokens.push((token, start));
            if ended {
                return Ok(tokens);
            }
        }
    }
}

struct Lexer<'a> {
    source: &'a Source<'a>,
    offset: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source.text[self.offset..]
    }

    fn take_while(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !is(c)).unwrap_or(rest.len())];
        self.offset += taken.len();
        taken
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest().starts_with("//") {
                self.take_while(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                let Some(length) = self.rest()[2..].find("*/") else {
                    return Err(self.source.error(self.offset, "no */ ends the comment that begins here"));
                };
                self.offset += length + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token, ParseError> {
        let Some(first) = self.rest().chars().next() else { return Ok(Token::End) };
        match first {
            '"' => self.quoted('"').map(|text| Token::Literal(Value::String(text))),
            '\'' => self.character(),
            _ if first.is_ascii_digit() || "+-.".contains(first) => self.number(),
            _ if first.is_alphabetic() || first == '_' => {
                let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
                Ok(Token::Word(word.to_owned()))
            }
            _ if "{}[]();,:=$#".contains(first) => {
                self.offset += 1;
                Ok(Token::Sign(first))
            }
            _ => Err(self.source.error(self.offset, format_args!("{first:?} has no meaning here"))),
        }
    }

    fn character(&mut self) -> Result<Token, ParseError> {
        let start = self.offset;
        let text = self.quoted('\'')?;
        let mut units = text.encode_utf16();
        match (units.next(), units.next()) {
            (Some(unit), None) => Ok(Token::Literal(Value::Char16(unit))),
            _ => Err(self.source.error(start, "a char16 is one character")),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, ParseError> {
        let start = self.offset;
        self.offset += 1;
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote && c != '\\' && c != '\n'));
            match self.rest().chars().next() {
                Some('\\') => text.push(self.escape()?),
                Some(c) if c == quote => {
                    self.offset += 1;
                    return Ok(text);
                }
                _ => {
                    return Err(self
                        .source
                        .error(start, format_args!("no {quote} ends the text that begins here")));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let start = self.offset;
        let mut chars = self.rest()[1..].chars();
        let (c, length) = match chars.next() {
            Some('b') => ('\u{8}', 2),
            Some('t') => ('\t', 2),
            Some('n') => ('\n', 2),
            Some('f') => ('\u{c}', 2),
            Some('r') => ('\r', 2),
            Some(c @ ('"' | '\'' | '\\')) => (c, 2),
            Some('x' | 'X') => {
                let digits = chars.take(4).take_while(char::is_ascii_hexdigit).count();
                let hex = &self.rest()[2..2 + digits];
                let c = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32);
                (
                    c.ok_or_else(|| self.source.error(start, "\\x wants one to four hexadecimal digits"))?,
                    2 + digits,
                )
            }
            _ => {
                return Err(self
                    .source
                    .error(start, "expected one of \\b \\t \\n \\f \\r \\\" \\' \\\\ \\x"));
            }
        };
        self.offset += length;
        Ok(c)
    }

    fn number(&mut self) -> Result<Token, ParseError> {
        let start = self.offset;
        let sign = self.take_while(|c| c == '+' || c == '-');
        let mut digits = self.take_while(|c| c.is_ascii_alphanumeric() || c == '.');
        if digits.ends_with(['e', 'E']) && !digits.starts_with("0x") && self.rest().starts_with(['+', '-']) {
            let digits_start = start + sign.len();
            self.offset += 1;
            self.take_while(|c| c.is_ascii_digit());
            digits = &self.source.text[digits_start..self.offset];
        }
        let value = if sign.len() > 1 { None } else { number(sign == "-", digits) };
        let written = &self.source.text[start..self.offset];
        value.map(Token::Literal).ok_or_else(|| {
            self.source.error(start, format_args!("{written} is no number, or none of 64 bits"))
        })
    }
}

fn number(negative: bool, digits: &str) -> Option<Value> {
    let lower = digits.to_ascii_lowercase();
    let integer = |digits: &str, radix| u64::from_str_radix(digits, radix).ok();
    let magnitude = match &*lower {
        _ if lower.starts_with("0x") => integer(&lower[2..], 16),
        _ if lower.ends_with('b') => integer(&lower[..lower.len() - 1], 2),
        _ if lower.contains(['.', 'e']) => {
            let real: f64 = lower.parse().ok()?;
            return Some(Value::Real64(if negative { -real } else { real }));
        }
        // A leading zero makes it octal (DSP0004, annex A).
        _ if lower.len() > 1 && lower.starts_with('0') => integer(&lower, 8),
        _ => integer(&lower, 10),
    }?;
    if !negative {
        return Some(Value::Uint64(magnitude));
    }
    crate::CimType::Sint64.integer(-i128::from(magnitude))
}
