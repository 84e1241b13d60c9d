//! MOF, the textual form of classes, qualifiers and instances (DSP0004, clause 7 and annex A): read and written.
//!
//! Qualifiers are declared before they are used; classes may stand in any order. What a declaration means for
//! others (superclasses, references) is for [`Schema::new`](crate::Schema::new) to check.

mod class;
mod lex;
mod parse;
mod value;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use parse::{parse, parse_files, parse_instance};

use crate::{Class, Instance, Location, Namespace, QualifierDecl};

/// The declarations of a text and of what it includes, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mof {
    pub qualifiers: Vec<Declared<QualifierDecl>>,
    pub classes: Vec<Declared<Class>>,
    /// Their values have the types of their literals: 64-bit numbers, strings.
    /// [`Schema::conform`](crate::Schema::conform) gives them those of the class.
    pub instances: Vec<Declared<Instance>>,
}

/// A declaration, where it stands and what it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<T> {
    pub item: T,
    pub at: Location,
    /// By `#pragma namespace`.
    pub namespace: Option<Namespace>,
    /// Of a class: where each of its properties stands, then each of its methods.
    pub elements_at: Vec<Location>,
}
