//! The classes of one namespace: what each inherits, who descends from whom, and whether paths and instances fit.

mod build;
mod check;

pub use build::SchemaError;

use crate::{Class, Error, Name, Namespace, QualifierDecl};
use std::collections::HashMap;
use std::sync::Arc;

/// The classes and qualifiers of one namespace, checked, each class with all that it inherits.
#[derive(Debug, Clone)]
pub struct Schema {
    namespace: Namespace,
    qualifiers: Vec<QualifierDecl>,
    /// Superclasses before their subclasses.
    classes: Vec<Arc<Class>>,
    index: HashMap<Name, usize>,
    children: HashMap<Name, Vec<Name>>,
}

impl Schema {
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub fn qualifiers(&self) -> &[QualifierDecl] {
        &self.qualifiers
    }

    pub fn qualifier(&self, name: &str) -> Option<&QualifierDecl> {
        self.qualifiers.iter().find(|declared| declared.name.is(name))
    }

    /// All classes, superclasses before their subclasses.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.classes.iter()
    }

    /// The class with its inherited elements, inherited ones first.
    pub fn class(&self, name: &Name) -> Option<&Arc<Class>> {
        self.index.get(name).map(|index| &self.classes[*index])
    }

    /// As [`Schema::class`], with `InvalidClass` where there is none.
    pub fn require(&self, name: &Name) -> Result<&Arc<Class>, Error> {
        self.class(name).ok_or_else(|| Error::invalid_class(&self.namespace, name))
    }

    /// The superclass, its superclass, and so on up to the root.
    pub fn superclasses<'a>(&'a self, name: &Name) -> impl Iterator<Item = &'a Arc<Class>> {
        let above = |class: &Arc<Class>| class.superclass.as_ref().and_then(|name| self.class(name));
        std::iter::successors(self.class(name).and_then(above), move |class| above(class))
    }

    /// The classes directly below.
    pub fn children(&self, name: &Name) -> &[Name] {
        self.children.get(name).map_or(&[], Vec::as_slice)
    }

    /// All classes below, each before its own subclasses.
    pub fn descendants(&self, name: &Name) -> Vec<Name> {
        let mut pending: Vec<&Name> = self.children(name).iter().rev().collect();
        let mut found = vec![];
        while let Some(name) = pending.pop() {
            found.push(name.clone());
            pending.extend(self.children(name).iter().rev());
        }
        found
    }

    /// Whether `class` is `ancestor` or descends from it. False where either is unknown.
    pub fn is_a(&self, class: &Name, ancestor: &Name) -> bool {
        let known = self.class(class).is_some() && self.class(ancestor).is_some();
        known && (class == ancestor || self.superclasses(class).any(|above| above.name == *ancestor))
    }
}
