//! Object paths: which host, which namespace, which class, which keys.

mod parse;

#[cfg(test)]
mod tests;

use crate::text::ParseError;
use crate::{Name, Namespace, Value};
use std::fmt;
use std::str::FromStr;

/// The name of a class or of an instance. Parts that a path leaves out are none.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectPath {
    pub host: Option<String>,
    pub namespace: Option<Namespace>,
    pub class: Name,
    pub keys: Keys,
}

/// What tells an instance from the others of its class.
#[derive(Debug, Clone, PartialEq)]
pub enum Keys {
    /// No keys: the path names the class.
    Class,
    /// `Class=@`: the one instance of a class without keys.
    Singleton,
    /// Key properties, in the order given. A WMI path may leave out the name of a lone key: it is empty here.
    Bindings(Vec<(Name, Value)>),
}

impl ObjectPath {
    /// The path of a class, on no host.
    pub fn class(namespace: impl Into<Namespace>, class: impl Into<Name>) -> ObjectPath {
        ObjectPath { host: None, namespace: Some(namespace.into()), class: class.into(), keys: Keys::Class }
    }

    /// With one more key.
    #[must_use]
    pub fn with(mut self, name: impl Into<Name>, value: impl Into<Value>) -> ObjectPath {
        let binding = (name.into(), value.into());
        match &mut self.keys {
            Keys::Bindings(bindings) => bindings.push(binding),
            keys => *keys = Keys::Bindings(vec![binding]),
        }
        self
    }

    pub fn is_class(&self) -> bool {
        self.keys == Keys::Class
    }

    /// The key bindings; none for a class and for a singleton.
    pub fn bindings(&self) -> &[(Name, Value)] {
        match &self.keys {
            Keys::Bindings(bindings) => bindings,
            _ => &[],
        }
    }

    pub fn key(&self, name: &str) -> Option<&Value> {
        self.bindings().iter().find(|(own, _)| own.is(name)).map(|(_, value)| value)
    }
}

impl FromStr for ObjectPath {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<ObjectPath, ParseError> {
        ObjectPath::parse(text)
    }
}

/// As a WMI path, with as much of host and namespace as is known: `\\host\root\cimv2:Class.Key="v"`. A host without
/// a namespace cannot be written, and is left out.
impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            if let Some(host) = &self.host {
                write!(f, "\\\\{host}\\")?;
            }
            write!(f, "{}:", namespace.with_backslashes())?;
        }
        self.write_relative(f)
    }
}

impl ObjectPath {
    /// Whether both name the same thing on this host: keys in any order, their texts in any case as WMI has it, and
    /// a part that one of them leaves out fits all. Hosts are not compared: they have too many names.
    pub fn matches(&self, other: &ObjectPath) -> bool {
        let namespaces = self.namespace.as_ref().zip(other.namespace.as_ref());
        let (own, theirs) = (self.bindings(), other.bindings());
        let same_kind = std::mem::discriminant(&self.keys) == std::mem::discriminant(&other.keys);
        let lone = own.len() == 1
            && (own[0].0.as_str().is_empty()
                || theirs.first().is_some_and(|(name, _)| name.as_str().is_empty()));
        let found = |(name, value): &(Name, Value)| {
            let mut candidates = theirs.iter().filter(|(other, _)| other == name || lone);
            candidates.any(|(_, other)| same_key(value, other))
        };
        self.class == other.class
            && namespaces.is_none_or(|(own, theirs)| own == theirs)
            && same_kind
            && own.len() == theirs.len()
            && own.iter().all(found)
    }

    /// A text that is the same for all complete paths to one thing: lower case, keys in the order of their names,
    /// without host.
    pub fn identity(&self) -> String {
        let mut keys: Vec<_> =
            self.bindings().iter().map(|(name, value)| (name.folded(), key_identity(value))).collect();
        keys.sort();
        let namespace = self.namespace.as_ref().map_or("", Namespace::as_str).to_ascii_lowercase();
        format!("{namespace}:{}{keys:?}", self.class.folded())
    }

    /// The path without host and namespace, as in WMI's `__RELPATH`: `Class.Key="v"`.
    pub fn relative(&self) -> String {
        ObjectPath { host: None, namespace: None, ..self.clone() }.to_string()
    }

    /// As a WBEM URI without scheme (DSP0207): `//host/root/cimv2:Class.Key="v"`, or `/root/cimv2:Class.Key="v"`
    /// where the host is not known.
    pub fn to_wbem_uri(&self) -> String {
        let host = self.host.as_ref().map(|host| format!("//{host}")).unwrap_or_default();
        let namespace = self.namespace.as_ref().map_or("", Namespace::as_str);
        format!("{host}/{namespace}:{}", self.relative())
    }

    fn write_relative(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class)?;
        match &self.keys {
            Keys::Class => Ok(()),
            Keys::Singleton => f.write_str("=@"),
            Keys::Bindings(bindings) => {
                for (index, (name, value)) in bindings.iter().enumerate() {
                    let separator = if index > 0 {
                        ","
                    } else if name.as_str().is_empty() {
                        ""
                    } else {
                        "."
                    };
                    write!(f, "{separator}{name}=")?;
                    write_key(f, value)?;
                }
                Ok(())
            }
        }
    }
}

fn same_key(own: &Value, other: &Value) -> bool {
    match (own, other) {
        (Value::Reference(own), Value::Reference(other)) => own.matches(other),
        (Value::Reference(path), Value::String(text)) | (Value::String(text), Value::Reference(path)) => {
            ObjectPath::parse(text).is_ok_and(|other| path.matches(&other))
        }
        // A path does not say how wide a number is, nor that a text is a date.
        _ => own.to_string().to_lowercase() == other.to_string().to_lowercase(),
    }
}

fn key_identity(value: &Value) -> String {
    match value {
        Value::Reference(path) => path.identity(),
        other => other.to_string().to_lowercase(),
    }
}

fn write_key(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    if matches!(value, Value::Boolean(_)) || value.as_f64().is_some_and(f64::is_finite) {
        return write!(f, "{value}");
    }
    f.write_str("\"")?;
    for c in value.to_string().chars() {
        if c == '\\' || c == '"' {
            f.write_str("\\")?;
        }
        write!(f, "{c}")?;
    }
    f.write_str("\"")
}
