//! Literals, aliases and instances.

use super::lex::Token;
use super::parse::Parser;
use crate::{CimType, Instance, Keys, Name, ObjectPath, ParseError, Value};
use std::collections::HashSet;

/// How deep instances may stand in instances.
const DEPTH_MAX: usize = 16;

impl Parser<'_, '_> {
    /// Qualifiers on instances mean nothing (DSP0004, 5.6.1), and are not declared where WMI writes them.
    pub(super) fn skip_qualifiers(&mut self) -> Result<(), ParseError> {
        if !self.eat('[') {
            return Ok(());
        }
        let mut open = 1;
        while open > 0 {
            match self.next() {
                Token::Sign('[') => open += 1,
                Token::Sign(']') => open -= 1,
                Token::End => return Err(self.expected("']'")),
                _ => {}
            }
        }
        Ok(())
    }

    /// A literal of exactly this type.
    pub(super) fn typed(
        &mut self,
        name: &Name,
        cim_type: &CimType,
        is_array: bool,
    ) -> Result<Value, ParseError> {
        let position = self.position;
        let value = self.value()?;
        let textual = matches!(cim_type, CimType::String | CimType::DateTime | CimType::Reference(_));
        let wrong = |element: &Value| match element {
            Value::Null => false,
            Value::String(_) => !textual,
            Value::Char16(_) => *cim_type != CimType::Char16,
            _ => textual,
        };
        let elements = match &value {
            Value::Array(elements) => elements.as_slice(),
            scalar => std::slice::from_ref(scalar),
        };
        let misshapen = matches!(value, Value::Array(_)) != is_array && !value.is_null();
        if misshapen || elements.iter().any(wrong) {
            self.position = position;
            let brackets = if is_array { " in braces" } else { "" };
            return Err(self.expected(&format!("a {cim_type}{brackets} for {name}")));
        }
        cim_type.conform(name.as_str(), is_array, value).map_err(|error| {
            self.position = position;
            self.refuse(error)
        })
    }

    /// A literal, an alias, an instance, or an array of them, of whatever type it has by itself.
    pub(super) fn value(&mut self) -> Result<Value, ParseError> {
        if !self.eat('{') {
            return self.scalar();
        }
        let mut elements = vec![];
        if self.eat('}') {
            return Ok(Value::Array(elements));
        }
        loop {
            elements.push(self.scalar()?);
            if !self.eat(',') {
                self.want('}')?;
                return Ok(Value::Array(elements));
            }
        }
    }

    fn scalar(&mut self) -> Result<Value, ParseError> {
        if matches!(self.peek(), Token::Literal(Value::String(_))) {
            return self.string("a string").map(Value::String);
        }
        if let Token::Literal(value) = self.peek() {
            let value = value.clone();
            self.next();
            return Ok(value);
        }
        if *self.peek() == Token::Sign('$') {
            return self.reference();
        }
        if self.at_word("instance") {
            return self.instance().map(Value::from);
        }
        let value = match () {
            () if self.at_word("true") => Value::Boolean(true),
            () if self.at_word("false") => Value::Boolean(false),
            () if self.at_word("null") => Value::Null,
            () => return Err(self.expected("a value")),
        };
        self.next();
        Ok(value)
    }

    pub(super) fn alias(&mut self) -> Result<Name, ParseError> {
        self.want('$')?;
        self.name("the name of an alias")
    }

    /// The path of the instance that an alias stands for.
    fn reference(&mut self) -> Result<Value, ParseError> {
        let position = self.position;
        let alias = self.alias()?;
        let Some(instance) = self.state.aliases.get(&alias) else {
            self.position = position;
            return Err(self.refuse(format_args!("no instance has the alias ${alias}")));
        };
        let keys = self.state.keys(&instance.class).into_iter();
        let bindings: Vec<_> =
            keys.filter_map(|key| Some((key.clone(), instance.get(key.as_str())?.clone()))).collect();
        let keys = if bindings.is_empty() { Keys::Singleton } else { Keys::Bindings(bindings) };
        let namespace = self.state.namespace.clone();
        Ok(Value::from(ObjectPath { host: None, namespace, class: instance.class.clone(), keys }))
    }

    /// `instance of Class as $alias { name = value; … }`
    pub(super) fn instance(&mut self) -> Result<Instance, ParseError> {
        if self.depth == DEPTH_MAX {
            return Err(self.refuse(format_args!("instances stand more than {DEPTH_MAX} deep in instances")));
        }
        self.depth += 1;
        self.next();
        if !self.eat_word("of") {
            return Err(self.expected("of"));
        }
        let mut instance = Instance::new(self.name("the name of a class")?);
        let alias = if self.eat_word("as") { Some(self.alias()?) } else { None };
        self.want('{')?;
        let mut given = HashSet::new();
        while !self.eat('}') {
            self.skip_qualifiers()?;
            let position = self.position;
            let name = self.name("the name of a property, or }")?;
            if !given.insert(name.clone()) {
                self.position = position;
                return Err(self.refuse(format_args!("property {name} is given twice")));
            }
            self.want('=')?;
            instance.properties.push((name, self.value()?));
            self.want(';')?;
        }
        self.depth -= 1;
        if let Some(alias) = alias {
            self.state.aliases.insert(alias, instance.clone());
        }
        Ok(instance)
    }
}
