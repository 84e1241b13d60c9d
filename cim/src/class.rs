//! Classes as MOF declares them: properties, methods, parameters, qualifiers.

use crate::{CimType, Name, Value};

/// A class. As declared it holds its own elements; as a [`Schema`](crate::Schema) hands it out also the inherited
/// ones, with `class_origin` and `propagated` filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    pub name: Name,
    pub superclass: Option<Name>,
    pub qualifiers: Vec<Qualifier>,
    pub properties: Vec<Property>,
    pub methods: Vec<Method>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    pub name: Name,
    pub cim_type: CimType,
    pub is_array: bool,
    /// The declared size of a fixed array.
    pub array_size: Option<u32>,
    /// What an instance has when nobody sets it; [`Value::Null`] where nothing is declared.
    pub default: Value,
    pub qualifiers: Vec<Qualifier>,
    /// The class that introduced it.
    pub class_origin: Option<Name>,
    /// Whether it is inherited unchanged.
    pub propagated: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    pub name: Name,
    pub return_type: CimType,
    pub parameters: Vec<Parameter>,
    pub qualifiers: Vec<Qualifier>,
    /// The class that introduced it.
    pub class_origin: Option<Name>,
    /// Whether it is inherited unchanged.
    pub propagated: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    pub name: Name,
    pub cim_type: CimType,
    pub is_array: bool,
    pub array_size: Option<u32>,
    pub qualifiers: Vec<Qualifier>,
}

/// A qualifier on an element.
#[derive(Debug, Clone, PartialEq)]
pub struct Qualifier {
    pub name: Name,
    pub cim_type: CimType,
    pub value: Value,
    pub flavor: Flavor,
    /// Whether it comes from a superclass.
    pub propagated: bool,
}

/// How a qualifier travels to subclasses (DSP0004, 5.1.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flavor {
    pub overridable: bool,
    pub to_subclass: bool,
    pub translatable: bool,
    pub to_instance: bool,
}

impl Default for Flavor {
    fn default() -> Flavor {
        Flavor { overridable: true, to_subclass: true, translatable: false, to_instance: false }
    }
}

/// `Qualifier Name : type = default, Scope(...), Flavor(...);`
#[derive(Debug, Clone, PartialEq)]
pub struct QualifierDecl {
    pub name: Name,
    pub cim_type: CimType,
    pub is_array: bool,
    pub default: Value,
    pub scopes: Vec<Scope>,
    pub flavor: Flavor,
}

/// Kinds of elements that a qualifier may stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Schema,
    Class,
    Association,
    Indication,
    Qualifier,
    Property,
    Reference,
    Method,
    Parameter,
    Any,
}

impl Scope {
    pub const ALL: [Scope; 10] = [
        Scope::Schema,
        Scope::Class,
        Scope::Association,
        Scope::Indication,
        Scope::Qualifier,
        Scope::Property,
        Scope::Reference,
        Scope::Method,
        Scope::Parameter,
        Scope::Any,
    ];

    /// The word in MOF.
    pub fn keyword(self) -> &'static str {
        match self {
            Scope::Schema => "schema",
            Scope::Class => "class",
            Scope::Association => "association",
            Scope::Indication => "indication",
            Scope::Qualifier => "qualifier",
            Scope::Property => "property",
            Scope::Reference => "reference",
            Scope::Method => "method",
            Scope::Parameter => "parameter",
            Scope::Any => "any",
        }
    }
}

/// What of a class is wanted (DSP0200, 5.3.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassView {
    /// Only elements and qualifiers that the class itself declares.
    pub local_only: bool,
    pub include_qualifiers: bool,
    pub include_class_origin: bool,
    /// These properties only; none for all.
    pub properties: Option<Vec<Name>>,
}

impl Class {
    /// The class with no more than is wanted.
    pub fn view(&self, view: &ClassView) -> Class {
        let mut class = self.clone();
        if view.local_only {
            class.properties.retain(|property| !property.propagated);
            class.methods.retain(|method| !method.propagated);
        }
        if let Some(wanted) = &view.properties {
            class.properties.retain(|property| wanted.contains(&property.name));
        }
        let keep = |qualifiers: &mut Vec<Qualifier>| {
            qualifiers.retain(|it| view.include_qualifiers && !(view.local_only && it.propagated));
        };
        keep(&mut class.qualifiers);
        for property in &mut class.properties {
            keep(&mut property.qualifiers);
            property.class_origin.take_if(|_| !view.include_class_origin);
        }
        for method in &mut class.methods {
            keep(&mut method.qualifiers);
            method.parameters.iter_mut().for_each(|parameter| keep(&mut parameter.qualifiers));
            method.class_origin.take_if(|_| !view.include_class_origin);
        }
        class
    }

    pub fn property(&self, name: &str) -> Option<&Property> {
        self.properties.iter().find(|property| property.name.is(name))
    }

    pub fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.name.is(name))
    }

    pub fn is_association(&self) -> bool {
        is_set(&self.qualifiers, "Association")
    }

    pub fn is_abstract(&self) -> bool {
        is_set(&self.qualifiers, "Abstract")
    }

    /// The key properties, inherited ones first where the schema handed the class out.
    pub fn keys(&self) -> impl Iterator<Item = &Property> {
        self.properties.iter().filter(|property| property.is_key())
    }
}

impl Property {
    pub fn is_key(&self) -> bool {
        is_set(&self.qualifiers, "Key")
    }

    /// The class named by `EmbeddedInstance`, or an empty name where any `EmbeddedObject` may stand.
    pub fn embedded_class(&self) -> Option<Name> {
        embedded_class(&self.qualifiers)
    }
}

impl Parameter {
    /// Unless `In(false)` is written, a parameter goes in (DSP0004, 5.6.3.26).
    pub fn is_in(&self) -> bool {
        qualifier(&self.qualifiers, "In").is_none_or(|it| it.value != Value::Boolean(false))
    }

    pub fn is_out(&self) -> bool {
        is_set(&self.qualifiers, "Out")
    }

    /// Whether a call without it, or with NULL, is refused.
    pub fn is_required(&self) -> bool {
        is_set(&self.qualifiers, "Required")
    }

    /// The class named by `EmbeddedInstance`, or an empty name where any `EmbeddedObject` may stand.
    pub fn embedded_class(&self) -> Option<Name> {
        embedded_class(&self.qualifiers)
    }
}

impl Method {
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name.is(name))
    }

    /// Whether it may be called on the class.
    pub fn is_static(&self) -> bool {
        is_set(&self.qualifiers, "Static")
    }
}

/// The qualifier of that name.
pub(crate) fn qualifier<'a>(qualifiers: &'a [Qualifier], name: &str) -> Option<&'a Qualifier> {
    qualifiers.iter().find(|qualifier| qualifier.name.is(name))
}

fn is_set(qualifiers: &[Qualifier], name: &str) -> bool {
    qualifier(qualifiers, name).is_some_and(|it| it.value == Value::Boolean(true))
}

fn embedded_class(qualifiers: &[Qualifier]) -> Option<Name> {
    let named = qualifier(qualifiers, "EmbeddedInstance").and_then(|it| it.value.as_str());
    named.map(Name::from).or_else(|| is_set(qualifiers, "EmbeddedObject").then(|| Name::from("")))
}
