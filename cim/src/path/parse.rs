//! Reading object paths: WMI paths, WBEM URIs (DSP0207), and what scripts make of them.

use super::{Keys, ObjectPath};
use crate::text::ParseError;
use crate::{DateTime, Name, Namespace, Value};

impl ObjectPath {
    /// Reads `\\host\ns:Class.Key="v"`, `//host/ns:Class.Key="v"`, `https://host:port/ns:Class.Key="v"` and their
    /// relative forms down to `Class`. Numbers become the 64-bit types and quoted texts strings, until a schema
    /// says better; a backslash before anything but a backslash or a quote stands for itself.
    pub fn parse(text: &str) -> Result<ObjectPath, ParseError> {
        Parser { text, offset: 0 }.path()
    }
}

/// How many keys a path may have.
const KEYS_MAX: usize = 1024;

struct Parser<'a> {
    text: &'a str,
    offset: usize,
}

fn is_slash(c: char) -> bool {
    c == '/' || c == '\\'
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.offset..]
    }

    fn error(&self, expected: &str) -> ParseError {
        let found = match self.rest().chars().next() {
            Some(c) => format!("{c:?}"),
            None => "the end".to_owned(),
        };
        ParseError::new(self.text, self.offset, format_args!("expected {expected}, found {found}"))
    }

    fn eat(&mut self, c: char) -> bool {
        let eaten = self.rest().starts_with(c);
        self.offset += if eaten { c.len_utf8() } else { 0 };
        eaten
    }

    fn take_while(&mut self, mut is: impl FnMut(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !is(c)).unwrap_or(rest.len())];
        self.offset += taken.len();
        taken
    }

    fn path(mut self) -> Result<ObjectPath, ParseError> {
        self.take_while(char::is_whitespace);
        self.scheme();
        let host = self.host()?;
        let namespace = self.namespace(host.is_some())?;
        let class = self.identifier("the name of a class")?;
        let keys = self.keys()?;
        self.take_while(char::is_whitespace);
        if !self.rest().is_empty() {
            return Err(self.error("the end of the path"));
        }
        Ok(ObjectPath { host, namespace, class, keys })
    }

    fn scheme(&mut self) {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(0);
        if length > 0 && rest[length..].starts_with("://") {
            self.offset += length + 1;
        }
    }

    fn host(&mut self) -> Result<Option<String>, ParseError> {
        let mut slashes = self.rest().chars().take_while(|c| is_slash(*c));
        if slashes.by_ref().count() < 2 {
            return Ok(None);
        }
        self.offset += 2;
        let host = self.take_while(|c| !is_slash(c));
        if host.is_empty() {
            return Err(self.error("the name of a host"));
        }
        Ok(Some(host.to_owned()))
    }

    fn namespace(&mut self, after_host: bool) -> Result<Option<Namespace>, ParseError> {
        let rest = self.rest();
        let absolute = after_host || rest.starts_with(is_slash);
        let end = rest.find([':', '.', '=', '"', '\'', ',']).filter(|end| rest[*end..].starts_with(':'));
        let Some(end) = end else {
            if absolute {
                self.offset = self.text.len();
                return Err(self.error("a colon and the name of a class after the namespace"));
            }
            return Ok(None);
        };
        let namespace = &rest[..end];
        if !namespace.contains(|c| !is_slash(c)) {
            // DSP0207 prints paths without namespace as `/:Class`.
            self.offset += end + 1;
            return Ok(None);
        }
        if let Some(wrong) = namespace.find(|c: char| c.is_whitespace() || c.is_control() || c == '{') {
            self.offset += wrong;
            return Err(self.error("the name of a namespace"));
        }
        self.offset += end + 1;
        Ok(Some(Namespace::from(namespace)))
    }

    fn identifier(&mut self, what: &str) -> Result<Name, ParseError> {
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.error(what));
        }
        match self.take_while(is_identifier) {
            "" => Err(self.error(what)),
            name => Ok(name.into()),
        }
    }

    fn keys(&mut self) -> Result<Keys, ParseError> {
        if self.eat('=') {
            if self.eat('@') {
                return Ok(Keys::Singleton);
            }
            return Ok(Keys::Bindings(vec![("".into(), self.value()?)]));
        }
        if !self.eat('.') {
            return Ok(Keys::Class);
        }
        if self.rest().starts_with("=@") || self.rest().starts_with('@') {
            self.eat('=');
            self.eat('@');
            return Ok(Keys::Singleton);
        }
        let mut bindings: Vec<(Name, Value)> = vec![];
        loop {
            self.take_while(char::is_whitespace);
            let start = self.offset;
            let name = self.identifier("the name of a key")?;
            if bindings.len() == KEYS_MAX {
                return Err(ParseError::new(
                    self.text,
                    start,
                    format_args!("the path has more than {KEYS_MAX} keys"),
                ));
            }
            if bindings.iter().any(|(other, _)| *other == name) {
                return Err(ParseError::new(self.text, start, format_args!("key {name} is given twice")));
            }
            self.take_while(char::is_whitespace);
            if !self.eat('=') {
                return Err(self.error("= and the key's value"));
            }
            self.take_while(char::is_whitespace);
            bindings.push((name, self.value()?));
            self.take_while(char::is_whitespace);
            if !self.eat(',') {
                return Ok(Keys::Bindings(bindings));
            }
        }
    }

    fn value(&mut self) -> Result<Value, ParseError> {
        match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote).map(Value::String),
            _ => self.bare(),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, ParseError> {
        let start = self.offset;
        self.eat(quote);
        let mut value = String::new();
        let mut chars = self.rest().char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next_if(|(_, next)| "\\\"'".contains(*next)) {
                    Some((_, escaped)) => value.push(escaped),
                    None => value.push('\\'),
                },
                _ if c == quote => {
                    self.offset += at + c.len_utf8();
                    return Ok(value);
                }
                _ => value.push(c),
            }
        }
        Err(ParseError::new(self.text, start, format_args!("no {quote} ends the value that begins here")))
    }

    fn bare(&mut self) -> Result<Value, ParseError> {
        let start = self.offset;
        let word = self.take_while(|c| c != ',' && !c.is_whitespace());
        let value = match word {
            _ if word.eq_ignore_ascii_case("true") => Some(Value::Boolean(true)),
            _ if word.eq_ignore_ascii_case("false") => Some(Value::Boolean(false)),
            _ => number(word).or_else(|| word.parse::<DateTime>().ok().map(Value::DateTime)),
        };
        value.ok_or_else(|| {
            self.offset = start;
            self.error("a quoted text, a number, TRUE or FALSE")
        })
    }
}

fn number(word: &str) -> Option<Value> {
    use crate::CimType::{Real64, Sint64, Uint64};
    let binary = word.strip_suffix(['b', 'B']).filter(|digits| !digits.starts_with("0x"));
    if let Some(number) = binary.and_then(|digits| u64::from_str_radix(digits, 2).ok()) {
        return Some(Value::Uint64(number));
    }
    let digits = word.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c));
    let kinds = [Uint64, Sint64, Real64].into_iter();
    kinds.filter(|_| digits).find_map(|kind| kind.parse("", word).ok())
}
