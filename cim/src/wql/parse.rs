//! WQL's grammar.

use super::lex::{Token, tokens};
use super::{AssociationQuery, Comparison, Condition, EventQuery, Literal, Operand, Query, Select};
use crate::provider::AssociationFilter;
use crate::{Name, ObjectPath, ParseError};

/// How long a query may be. Clients ask for hundreds of names in one, each in 60 bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// How long a pattern may be: it is tried on every instance.
const PATTERN_BYTES_MAX: usize = 4096;
/// How many columns a query may name.
const COLUMNS_MAX: usize = 1024;
/// How deep parentheses and NOTs may stand in each other.
const DEPTH_MAX: usize = 64;

/// Classes whose instances are events: a query for them is a subscription.
const EVENTS: [&str; 10] = [
    "__InstanceOperationEvent",
    "__InstanceCreationEvent",
    "__InstanceModificationEvent",
    "__InstanceDeletionEvent",
    "__TimerEvent",
    "CIM_Indication",
    "CIM_InstIndication",
    "CIM_InstCreation",
    "CIM_InstModification",
    "CIM_InstDeletion",
];

/// Reads a query. A `SELECT` from a class of events, or with `WITHIN`, is an event query.
pub fn parse(text: &str) -> Result<Query, ParseError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ParseError::new("", 0, format_args!("the query has more than {TEXT_BYTES_MAX} bytes")));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, position: 0, depth: 0 };
    let query = parser.query()?;
    while parser.eat(";") {}
    match parser.peek() {
        Token::End => Ok(query),
        _ if parser.at_word("GROUP") => Err(parser.refuse("GROUP WITHIN is not supported")),
        _ if parser.at_word("HAVING") => Err(parser.refuse("HAVING is not supported")),
        _ if parser.at_word("ORDER") => Err(parser.refuse("WQL knows no ORDER BY")),
        _ => Err(parser.expected("AND, OR or the end of the query")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token, usize)>,
    position: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.position].0
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        // The last token is the end, and stays.
        self.position = (self.position + 1).min(self.tokens.len() - 1);
        token
    }

    fn refuse(&self, message: impl std::fmt::Display) -> ParseError {
        ParseError::new(self.text, self.tokens[self.position].1, message)
    }

    fn expected(&self, what: &str) -> ParseError {
        self.refuse(format_args!("expected {what}, found {}", self.peek()))
    }

    fn at_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(it) if it.eq_ignore_ascii_case(word))
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let eaten = self.at_word(word);
        if eaten {
            self.next();
        }
        eaten
    }

    fn want_word(&mut self, word: &str) -> Result<(), ParseError> {
        if self.eat_word(word) { Ok(()) } else { Err(self.expected(word)) }
    }

    fn eat(&mut self, sign: &str) -> bool {
        let eaten = matches!(self.peek(), Token::Sign(it) if *it == sign);
        if eaten {
            self.next();
        }
        eaten
    }

    fn name(&mut self, what: &str) -> Result<Name, ParseError> {
        let Token::Word(word) = self.peek() else { return Err(self.expected(what)) };
        let name = Name::from(word.as_str());
        self.next();
        Ok(name)
    }

    fn query(&mut self) -> Result<Query, ParseError> {
        if self.eat_word("ASSOCIATORS") {
            self.association_query(true).map(Query::Associators)
        } else if self.eat_word("REFERENCES") {
            self.association_query(false).map(Query::References)
        } else if self.eat_word("SELECT") {
            self.select()
        } else {
            Err(self.expected("SELECT, ASSOCIATORS OF or REFERENCES OF"))
        }
    }

    fn select(&mut self) -> Result<Query, ParseError> {
        let columns = if self.eat("*") { None } else { Some(self.columns()?) };
        self.want_word("FROM")?;
        let class = self.name("the name of a class")?;
        let within_ms = if self.eat_word("WITHIN") { Some(self.within_ms()?) } else { None };
        let condition = if self.eat_word("WHERE") { Some(self.condition()?) } else { None };
        if within_ms.is_some() || EVENTS.iter().any(|event| class.is(event)) {
            return Ok(Query::Event(EventQuery { columns, event: class, within_ms, condition }));
        }
        Ok(Query::Select(Select { columns, class, condition }))
    }

    fn columns(&mut self) -> Result<Vec<Name>, ParseError> {
        let mut columns: Vec<Name> = vec![];
        loop {
            let path = self.property("* or the name of a property")?;
            // Of an embedded instance (`TargetInstance.Name`) the whole is answered.
            columns.extend(path.into_iter().next().filter(|name| !columns.contains(name)));
            if columns.len() > COLUMNS_MAX {
                return Err(self.refuse(format_args!("the query names more than {COLUMNS_MAX} columns")));
            }
            if !self.eat(",") {
                return Ok(columns);
            }
        }
    }

    fn property(&mut self, what: &str) -> Result<Vec<Name>, ParseError> {
        let mut path = vec![self.name(what)?];
        while self.eat(".") {
            path.push(self.name("the name of a property")?);
        }
        Ok(path)
    }

    fn within_ms(&mut self) -> Result<u64, ParseError> {
        let seconds = match self.peek() {
            Token::Literal(Literal::Integer(seconds)) => *seconds as f64,
            Token::Literal(Literal::Real(seconds)) => *seconds,
            _ => return Err(self.expected("a number of seconds")),
        };
        if !(0.0..=4_294_967_295.0).contains(&seconds) {
            return Err(self.refuse("WITHIN takes 0 to 4294967295 seconds"));
        }
        self.next();
        Ok((seconds * 1000.0) as u64)
    }

    fn condition(&mut self) -> Result<Condition, ParseError> {
        let mut terms = vec![self.conjunction()?];
        while self.eat_word("OR") {
            terms.push(self.conjunction()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Condition::Or(terms) })
    }

    fn conjunction(&mut self) -> Result<Condition, ParseError> {
        let mut terms = vec![self.term()?];
        while self.eat_word("AND") {
            terms.push(self.term()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Condition::And(terms) })
    }

    fn term(&mut self) -> Result<Condition, ParseError> {
        if self.depth == DEPTH_MAX {
            return Err(self.refuse(format_args!("parentheses and NOTs stand more than {DEPTH_MAX} deep")));
        }
        self.depth += 1;
        let term = if self.eat_word("NOT") {
            Condition::Not(Box::new(self.term()?))
        } else if self.eat("(") {
            let inside = self.condition()?;
            if !self.eat(")") {
                return Err(self.expected("AND, OR or )"));
            }
            inside
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(term)
    }

    fn comparison(&mut self) -> Result<Condition, ParseError> {
        let left = self.operand("a property, a literal, NOT or (")?;
        if self.eat_word("IS") {
            let negated = self.eat_word("NOT");
            self.want_word("NULL")?;
            return Ok(negate(negated, Condition::IsNull(left)));
        }
        if self.eat_word("ISA") {
            let class = match self.peek() {
                Token::Literal(Literal::Text(text)) => Name::from(text.as_str()),
                Token::Word(word) => Name::from(word.as_str()),
                _ => return Err(self.expected("the name of a class in quotes")),
            };
            self.next();
            return Ok(Condition::Isa(left, class));
        }
        let negated = self.eat_word("NOT");
        if self.eat_word("LIKE") {
            let Token::Literal(Literal::Text(pattern)) = self.peek() else {
                return Err(self.expected("a pattern in quotes"));
            };
            if pattern.len() > PATTERN_BYTES_MAX {
                return Err(self.refuse(format_args!("the pattern has more than {PATTERN_BYTES_MAX} bytes")));
            }
            let like = Condition::Like(left, pattern.clone());
            self.next();
            return Ok(negate(negated, like));
        }
        let comparison = match self.peek() {
            _ if negated => return Err(self.expected("LIKE")),
            Token::Sign("=") => Comparison::Equal,
            Token::Sign("<>" | "!=") => Comparison::NotEqual,
            Token::Sign("<") => Comparison::Less,
            Token::Sign("<=") => Comparison::LessOrEqual,
            Token::Sign(">") => Comparison::Greater,
            Token::Sign(">=") => Comparison::GreaterOrEqual,
            _ => return Err(self.expected("=, <>, <, <=, >, >=, LIKE, IS or ISA")),
        };
        self.next();
        let right = self.operand("a property or a literal")?;
        Ok(Condition::Compare(left, comparison, right))
    }

    fn operand(&mut self, what: &str) -> Result<Operand, ParseError> {
        let literal = match self.peek() {
            Token::Literal(literal) => literal.clone(),
            _ if self.at_word("TRUE") => Literal::Boolean(true),
            _ if self.at_word("FALSE") => Literal::Boolean(false),
            _ if self.at_word("NULL") => Literal::Null,
            _ => return self.property(what).map(Operand::Property),
        };
        self.next();
        Ok(Operand::Literal(literal))
    }

    fn association_query(&mut self, associators: bool) -> Result<AssociationQuery, ParseError> {
        self.want_word("OF")?;
        let Token::Braced(inside, start) = self.peek() else {
            return Err(self.expected("a path in braces"));
        };
        let path = ObjectPath::parse(inside).map_err(|error| error.within(self.text, *start))?;
        self.next();
        let filter = AssociationFilter::default();
        let mut query =
            AssociationQuery { path, filter, class_defs_only: false, keys_only: false, schema_only: false };
        if !self.eat_word("WHERE") {
            return Ok(query);
        }
        self.association_option(&mut query, associators)?;
        while matches!(self.peek(), Token::Word(_)) {
            self.association_option(&mut query, associators)?;
        }
        Ok(query)
    }

    fn association_option(
        &mut self,
        query: &mut AssociationQuery,
        associators: bool,
    ) -> Result<(), ParseError> {
        let what = match associators {
            true => "AssocClass, ResultClass, Role, ResultRole, ClassDefsOnly, KeysOnly or SchemaOnly",
            false => "ResultClass, Role, ClassDefsOnly, KeysOnly or SchemaOnly",
        };
        let position = self.position;
        let option = self.name(what)?;
        match () {
            () if option.is("ClassDefsOnly") => query.class_defs_only = true,
            () if option.is("KeysOnly") => query.keys_only = true,
            () if option.is("SchemaOnly") => query.schema_only = true,
            () => {
                let filter = &mut query.filter;
                let slot = match () {
                    () if option.is("AssocClass") && associators => &mut filter.assoc_class,
                    () if option.is("ResultClass") && associators => &mut filter.result_class,
                    // What references answers are the associations.
                    () if option.is("ResultClass") => &mut filter.assoc_class,
                    () if option.is("Role") => &mut filter.role,
                    () if option.is("ResultRole") && associators => &mut filter.result_role,
                    () => {
                        self.position = position;
                        return Err(match option.folded().starts_with("required") {
                            true => self.refuse(format_args!("{option} is not supported")),
                            false => self.expected(what),
                        });
                    }
                };
                if !self.eat("=") {
                    return Err(self.expected("="));
                }
                *slot = Some(self.name("a name")?);
            }
        }
        Ok(())
    }
}

fn negate(negated: bool, condition: Condition) -> Condition {
    if negated { Condition::Not(Box::new(condition)) } else { condition }
}
