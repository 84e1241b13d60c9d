//! MOF's grammar.

use super::lex::{Source, Token};
use super::{Declared, Mof};
use crate::{Instance, Location, Name, Namespace, ParseError, Value};
use std::collections::{HashMap, HashSet};

/// How long a text may be. All of CIM's own schema in one file has 10 MB.
const TEXT_BYTES_MAX: usize = 32 << 20;

/// Reads one text, which includes no others.
pub fn parse(text: &str) -> Result<Mof, ParseError> {
    let mut state = State::new(&|_| None);
    state.file(None, text)?;
    Ok(state.mof)
}

/// Reads one `instance of` and nothing else: what a client may send. Its values have the types of their literals.
pub fn parse_instance(text: &str) -> Result<Instance, ParseError> {
    let mut state = State::new(&|_| None);
    let source = Source::new(None, text);
    let tokens = source.tokens()?;
    let mut parser = Parser { state: &mut state, source: &source, tokens: &tokens, position: 0, depth: 0 };
    parser.skip_qualifiers()?;
    if !parser.at_word("instance") {
        return Err(parser.expected("an instance, as `instance of` in MOF or as INSTANCE in XML"));
    }
    let instance = parser.instance()?;
    parser.eat(';');
    if *parser.peek() == Token::End { Ok(instance) } else { Err(parser.expected("the end")) }
}

/// Reads the file `root` and what it includes by `#pragma include`, each file once. `read` answers the text of a
/// file by its name, which is `root` or relative to the file that includes it.
pub fn parse_files(root: &str, read: &dyn Fn(&str) -> Option<String>) -> Result<Mof, ParseError> {
    let mut state = State::new(read);
    let text = read(root).ok_or_else(|| Source::new(Some(root), "").error(0, "the file cannot be read"))?;
    state.included.insert(root.to_owned());
    state.file(Some(root), &text)?;
    Ok(state.mof)
}

pub(super) struct State<'a> {
    pub mof: Mof,
    pub namespace: Option<Namespace>,
    pub aliases: HashMap<Name, Instance>,
    included: HashSet<String>,
    read: &'a dyn Fn(&str) -> Option<String>,
}

/// A file that is being read, and the file that included it.
struct Opened {
    name: Option<String>,
    text: String,
    position: usize,
}

impl<'a> State<'a> {
    fn new(read: &'a dyn Fn(&str) -> Option<String>) -> State<'a> {
        let (aliases, included) = (HashMap::new(), HashSet::new());
        State { mof: Mof::default(), namespace: None, aliases, included, read }
    }

    /// Files that include others are put on a stack, so that a long chain of them costs no recursion.
    fn file(&mut self, name: Option<&str>, text: &str) -> Result<(), ParseError> {
        let mut stack = vec![Opened { name: name.map(str::to_owned), text: text.to_owned(), position: 0 }];
        while let Some(opened) = stack.pop() {
            let source = Source::new(opened.name.as_deref(), &opened.text);
            if opened.text.len() > TEXT_BYTES_MAX {
                return Err(source.error(0, format_args!("the text has more than {TEXT_BYTES_MAX} bytes")));
            }
            let tokens = source.tokens()?;
            let mut parser =
                Parser { state: self, source: &source, tokens: &tokens, position: opened.position, depth: 0 };
            if let Some((name, text)) = parser.declarations()? {
                let position = parser.position;
                stack.push(Opened { position, ..opened });
                stack.push(Opened { name: Some(name), text, position: 0 });
            }
        }
        Ok(())
    }

    pub fn declared<T>(&self, item: T, at: Location) -> Declared<T> {
        Declared { item, at, namespace: self.namespace.clone(), elements_at: vec![] }
    }

    /// Key properties of a class as far as it has been declared.
    pub fn keys(&self, class: &Name) -> Vec<Name> {
        let mut keys: Vec<Name> = vec![];
        let mut next = Some(class.clone());
        let mut left = self.mof.classes.len();
        while let Some(class) = next.take().filter(|_| left > 0) {
            left -= 1;
            let Some(declared) = self.mof.classes.iter().find(|declared| declared.item.name == class) else {
                break;
            };
            let own = declared.item.keys().map(|key| &key.name).filter(|name| !keys.contains(name));
            let own: Vec<_> = own.cloned().collect();
            keys.extend(own);
            next.clone_from(&declared.item.superclass);
        }
        keys
    }
}

/// Words of a file that is being read; what a declaration is made of stands in `class.rs` and `value.rs`.
pub(super) struct Parser<'a, 's> {
    pub state: &'a mut State<'s>,
    source: &'a Source<'a>,
    tokens: &'a [(Token, usize)],
    pub position: usize,
    pub depth: usize,
}

impl Parser<'_, '_> {
    pub fn peek(&self) -> &Token {
        &self.tokens[self.position].0
    }

    pub fn here(&self) -> Location {
        self.source.location(self.tokens[self.position].1)
    }

    pub fn next(&mut self) -> Token {
        let token = self.peek().clone();
        // The last token is the end, and stays.
        self.position = (self.position + 1).min(self.tokens.len() - 1);
        token
    }

    pub fn expected(&self, what: &str) -> ParseError {
        self.refuse(format_args!("expected {what}, found {}", self.peek()))
    }

    pub fn refuse(&self, message: impl std::fmt::Display) -> ParseError {
        self.source.error(self.tokens[self.position].1, message)
    }

    pub fn eat(&mut self, sign: char) -> bool {
        let eaten = *self.peek() == Token::Sign(sign);
        if eaten {
            self.next();
        }
        eaten
    }

    pub fn want(&mut self, sign: char) -> Result<(), ParseError> {
        if self.eat(sign) { Ok(()) } else { Err(self.expected(&format!("{sign:?}"))) }
    }

    pub fn at_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(it) if it.eq_ignore_ascii_case(word))
    }

    pub fn eat_word(&mut self, word: &str) -> bool {
        let eaten = self.at_word(word);
        if eaten {
            self.next();
        }
        eaten
    }

    pub fn name(&mut self, what: &str) -> Result<Name, ParseError> {
        match self.peek() {
            Token::Word(_) => match self.next() {
                Token::Word(word) => Ok(word.into()),
                _ => unreachable!("the token was a word"),
            },
            _ => Err(self.expected(what)),
        }
    }

    pub fn string(&mut self, what: &str) -> Result<String, ParseError> {
        let Token::Literal(Value::String(_)) = self.peek() else { return Err(self.expected(what)) };
        let mut text = String::new();
        while let Token::Literal(Value::String(part)) = self.peek() {
            text.push_str(part);
            self.next();
        }
        Ok(text)
    }

    /// Reads on to the end, or to a file that is to be read in between.
    fn declarations(&mut self) -> Result<Option<(String, String)>, ParseError> {
        loop {
            if *self.peek() == Token::End {
                return Ok(None);
            }
            if self.eat('#') {
                if let Some(included) = self.pragma()? {
                    return Ok(Some(included));
                }
                continue;
            }
            let at = self.here();
            if self.eat_word("Qualifier") {
                let declaration = self.qualifier_declaration()?;
                // A second declaration of the same is what including a common file twice leads to.
                let known = &self.state.mof.qualifiers;
                if !known.iter().any(|it| it.item == declaration && it.namespace == self.state.namespace) {
                    let declared = self.state.declared(declaration, at);
                    self.state.mof.qualifiers.push(declared);
                }
                continue;
            }
            let qualifiers_at = self.position;
            self.skip_qualifiers()?;
            if self.at_word("class") {
                self.position = qualifiers_at;
                self.class()?;
            } else if self.at_word("instance") {
                let instance = self.instance()?;
                self.want(';')?;
                let declared = self.state.declared(instance, at);
                self.state.mof.instances.push(declared);
            } else {
                return Err(self.expected("class, instance of, Qualifier or #pragma"));
            }
        }
    }

    fn pragma(&mut self) -> Result<Option<(String, String)>, ParseError> {
        if !self.eat_word("pragma") {
            return Err(self.expected("pragma"));
        }
        let pragma = self.name("the name of a pragma")?;
        self.want('(')?;
        let at = self.position;
        let argument = self.string("the pragma's argument in quotes")?;
        self.want(')')?;
        if pragma.is("namespace") {
            self.state.namespace = Some(Namespace::from(&*argument));
        } else if pragma.is("include") {
            let file = self.source.location(0).file;
            let name = beside(file.as_deref(), &argument);
            if !self.state.included.insert(name.clone()) {
                return Ok(None);
            }
            let text = (self.state.read)(&name)
                .ok_or_else(|| self.source.error(self.tokens[at].1, format_args!("{name} cannot be read")))?;
            return Ok(Some((name, text)));
        }
        // Other pragmas (locale, instancelocale, …) are hints, and unknown ones are ignored (DSP0004, 7.11).
        Ok(None)
    }
}

/// The name of a file that is included from another.
fn beside(file: Option<&str>, included: &str) -> String {
    let included = included.replace('\\', "/");
    match file.and_then(|file| file.rsplit_once('/')) {
        Some((folder, _)) if !included.starts_with('/') => format!("{folder}/{included}"),
        _ => included,
    }
}
