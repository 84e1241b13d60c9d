//! An instance: the name of its class and the values of its properties, in order.

use crate::{Name, ObjectPath, Value};

/// What a provider answers and a client sends. A property that is absent was not given; one that is
/// [`Value::Null`] is NULL. Types are the schema's matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub class: Name,
    pub properties: Vec<(Name, Value)>,
    /// Where it lives; none for embedded instances and for those that are still to be created.
    pub path: Option<ObjectPath>,
}

impl Instance {
    pub fn new(class: impl Into<Name>) -> Instance {
        Instance { class: class.into(), properties: vec![], path: None }
    }

    /// With this property set.
    #[must_use]
    pub fn with(mut self, name: impl Into<Name>, value: impl Into<Value>) -> Instance {
        self.set(name, value);
        self
    }

    /// With this path.
    #[must_use]
    pub fn at(mut self, path: ObjectPath) -> Instance {
        self.path = Some(path);
        self
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.properties.iter().find(|(own, _)| own.is(name)).map(|(_, value)| value)
    }

    /// The value of a string property; none where it is absent, NULL or something else.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// Without the properties that are not in the list.
    #[must_use]
    pub fn only(mut self, properties: &[Name]) -> Instance {
        self.properties.retain(|(name, _)| properties.contains(name));
        self
    }

    /// Replaces a property's value, or adds it at the end.
    pub fn set(&mut self, name: impl Into<Name>, value: impl Into<Value>) {
        let (name, value) = (name.into(), value.into());
        match self.properties.iter_mut().find(|(own, _)| *own == name) {
            Some((_, old)) => *old = value,
            None => self.properties.push((name, value)),
        }
    }
}
