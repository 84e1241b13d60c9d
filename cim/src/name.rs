//! Names of classes, properties, methods and namespaces: compared without regard to case, kept as written.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A CIM identifier. Two names are equal when they differ only in the case of ASCII letters (DSP0004, 5.1.3);
/// cloning is cheap.
#[derive(Clone)]
pub struct Name(Arc<str>);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` is this name, in whatever case.
    pub fn is(&self, text: &str) -> bool {
        self.0.eq_ignore_ascii_case(text)
    }

    /// The form by which names are found in maps.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Name {
        Name(text.into())
    }
}

impl From<String> for Name {
    fn from(text: String) -> Name {
        Name(text.into())
    }
}

impl From<&Name> for Name {
    fn from(name: &Name) -> Name {
        name.clone()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_folded(&self.0, state);
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        folded(&self.0).cmp(folded(&other.0))
    }
}

/// A namespace such as `root/cimv2`. Equal in whatever case, and with either kind of slash; kept with forward ones
/// and without those at its ends.
#[derive(Clone)]
pub struct Namespace(Arc<str>);

impl Namespace {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// With backslashes, as WMI paths print it.
    pub fn with_backslashes(&self) -> String {
        self.0.replace('/', "\\")
    }
}

impl From<&str> for Namespace {
    fn from(text: &str) -> Namespace {
        let parts = text.split(['/', '\\']).filter(|part| !part.is_empty());
        Namespace(parts.collect::<Vec<_>>().join("/").into())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Namespace) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Namespace {}

impl Hash for Namespace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_folded(&self.0, state);
    }
}

fn hash_folded<H: Hasher>(text: &str, state: &mut H) {
    folded(text).for_each(|byte| state.write_u8(byte));
}

fn folded(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().map(|byte| byte.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_differ_only_by_letters() {
        let names: HashSet<Name> = ["InstanceID", "instanceid", "InstanceIDs"].map(Name::from).into();
        assert_eq!(names.len(), 2);
        assert_eq!(Name::from("Caption").to_string(), "Caption");
        assert!(Name::from("b") > Name::from("A"));
    }

    #[test]
    fn namespaces_take_either_slash() {
        let namespace = Namespace::from("\\ROOT\\CIMV2\\");
        assert_eq!(namespace, Namespace::from("root/cimv2"));
        assert_eq!(namespace.with_backslashes(), "ROOT\\CIMV2");
    }
}
