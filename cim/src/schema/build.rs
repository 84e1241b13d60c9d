//! From declarations to a schema: inheritance and overriding (DSP0004, 5.1.2), and what is wrong with them.

use super::Schema;
use crate::class::qualifier;
use crate::mof::{Declared, Mof};
use crate::{
    CimType, Class, Location, Method, Name, Namespace, Parameter, Property, Qualifier, QualifierDecl, Scope,
    Value,
};
use std::collections::HashMap;
use std::sync::Arc;

/// A declaration that makes no sense in its schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct SchemaError {
    pub at: Location,
    pub message: String,
}

impl Schema {
    /// The schema of `namespace`: the declarations made for it, and those made for no namespace. All that is wrong
    /// is told at once.
    pub fn new(namespace: impl Into<Namespace>, mof: &Mof) -> Result<Schema, Vec<SchemaError>> {
        let namespace = namespace.into();
        let mut build = Build { schema: Schema::empty(namespace.clone()), errors: vec![] };
        let here = |declared: &Option<Namespace>| declared.as_ref().is_none_or(|it| *it == namespace);
        let qualifiers = mof.qualifiers.iter().filter(|declared| here(&declared.namespace));
        build.schema.qualifiers = qualifiers.map(|declared| declared.item.clone()).collect();
        let classes = mof.classes.iter().filter(|declared| here(&declared.namespace)).collect();
        let classes = build.in_order(classes);
        for declared in &classes {
            build.add(declared);
        }
        for declared in &classes {
            build.check_references(declared);
        }
        build
            .errors
            .sort_by(|a, b| (&a.at.file, a.at.line, a.at.column).cmp(&(&b.at.file, b.at.line, b.at.column)));
        if build.errors.is_empty() { Ok(build.schema) } else { Err(build.errors) }
    }

    fn empty(namespace: Namespace) -> Schema {
        let (index, children) = (HashMap::new(), HashMap::new());
        Schema { namespace, qualifiers: vec![], classes: vec![], index, children }
    }
}

struct Build {
    schema: Schema,
    errors: Vec<SchemaError>,
}

impl Build {
    fn refuse(&mut self, at: &Location, message: String) {
        self.errors.push(SchemaError { at: at.clone(), message });
    }

    /// Superclasses first. What has no known superclass, or descends from itself, is refused and left out.
    fn in_order<'a>(&mut self, classes: Vec<&'a Declared<Class>>) -> Vec<&'a Declared<Class>> {
        let mut known: HashMap<&Name, &Declared<Class>> = HashMap::new();
        let mut below: HashMap<&Name, Vec<&Declared<Class>>> = HashMap::new();
        let mut roots = vec![];
        for declared in classes {
            let name = &declared.item.name;
            if known.insert(name, declared).is_some() {
                self.refuse(&declared.at, format!("class {name} is declared twice"));
                continue;
            }
            match &declared.item.superclass {
                Some(superclass) => below.entry(superclass).or_default().push(declared),
                None => roots.push(declared),
            }
        }
        let mut ordered: Vec<&Declared<Class>> = vec![];
        let mut pending: Vec<_> = roots.into_iter().rev().collect();
        while let Some(declared) = pending.pop() {
            ordered.push(declared);
            pending.extend(below.remove(&declared.item.name).into_iter().flatten().rev());
        }
        for (superclass, orphans) in below {
            for orphan in orphans {
                let name = &orphan.item.name;
                let message = match known.contains_key(superclass) {
                    true => format!(
                        "class {name}: its superclass {superclass} descends from it, or from nothing known"
                    ),
                    false => format!("class {name}: there is no superclass {superclass}"),
                };
                self.refuse(&orphan.at, message);
            }
        }
        ordered
    }

    fn add(&mut self, declared: &Declared<Class>) {
        let mut class = declared.item.clone();
        let above = class.superclass.as_ref().and_then(|name| self.schema.class(name)).cloned();
        self.check_qualifiers(declared);
        if let Some(above) = &above {
            self.inherit(declared, &mut class, above);
            self.schema.children.entry(above.name.clone()).or_default().push(class.name.clone());
        }
        let origin = class.name.clone();
        let own = class.properties.iter_mut().map(|property| &mut property.class_origin);
        for unset in own.chain(class.methods.iter_mut().map(|method| &mut method.class_origin)) {
            unset.get_or_insert_with(|| origin.clone());
        }
        self.check_whole(declared, &class);
        self.schema.index.insert(class.name.clone(), self.schema.classes.len());
        self.schema.classes.push(Arc::new(class));
    }

    fn inherit(&mut self, declared: &Declared<Class>, class: &mut Class, above: &Class) {
        self.inherit_qualifiers(&declared.at, &class.name, &mut class.qualifiers, &above.qualifiers);
        let mut own: Vec<_> = class.properties.drain(..).zip(&declared.elements_at).collect();
        for inherited in &above.properties {
            let position = own.iter().position(|(property, _)| property.name == inherited.name);
            class.properties.push(match position {
                Some(position) => {
                    let (property, at) = own.remove(position);
                    self.override_property(at, property, inherited, &class.name)
                }
                None => {
                    let qualifiers = propagate(&inherited.qualifiers);
                    Property { propagated: true, qualifiers, ..inherited.clone() }
                }
            });
        }
        class.properties.extend(own.into_iter().map(|(property, _)| property));

        let methods_at = declared.elements_at.iter().skip(declared.item.properties.len());
        let mut own: Vec<_> = class.methods.drain(..).zip(methods_at).collect();
        for inherited in &above.methods {
            let position = own.iter().position(|(method, _)| method.name == inherited.name);
            class.methods.push(match position {
                Some(position) => {
                    let (method, at) = own.remove(position);
                    self.override_method(at, method, inherited, &class.name)
                }
                None => {
                    let qualifiers = propagate(&inherited.qualifiers);
                    Method { propagated: true, qualifiers, ..inherited.clone() }
                }
            });
        }
        class.methods.extend(own.into_iter().map(|(method, _)| method));
    }

    fn override_property(
        &mut self,
        at: &Location,
        mut property: Property,
        inherited: &Property,
        class: &Name,
    ) -> Property {
        let name = format!("{class}.{}", property.name);
        self.require_override(at, &name, &property.qualifiers);
        let same_kind = property.cim_type.keyword() == inherited.cim_type.keyword();
        if !same_kind || property.is_array != inherited.is_array {
            let shape = |it: &Property| format!("{}{}", it.cim_type, if it.is_array { "[]" } else { "" });
            let (own, theirs) = (shape(&property), shape(inherited));
            self.refuse(at, format!("{name}: {own} cannot override {theirs}"));
        }
        self.inherit_qualifiers(at, &name, &mut property.qualifiers, &inherited.qualifiers);
        if property.default.is_null() {
            property.default = inherited.default.clone();
        }
        property.class_origin.clone_from(&inherited.class_origin);
        property
    }

    fn override_method(
        &mut self,
        at: &Location,
        mut method: Method,
        inherited: &Method,
        class: &Name,
    ) -> Method {
        let name = format!("{class}.{}", method.name);
        self.require_override(at, &name, &method.qualifiers);
        if method.return_type != inherited.return_type {
            self.refuse(
                at,
                format!("{name}: {} cannot override {}", method.return_type, inherited.return_type),
            );
        }
        for parameter in &inherited.parameters {
            let own = method.parameters.iter().find(|own| own.name == parameter.name);
            let same = |own: &Parameter| {
                own.cim_type.keyword() == parameter.cim_type.keyword() && own.is_array == parameter.is_array
            };
            if own.is_some_and(|own| !same(own)) {
                self.refuse(at, format!("{name}: parameter {} has another type than above", parameter.name));
            }
        }
        self.inherit_qualifiers(at, &name, &mut method.qualifiers, &inherited.qualifiers);
        method.class_origin.clone_from(&inherited.class_origin);
        method
    }

    fn require_override(&mut self, at: &Location, name: &str, qualifiers: &[Qualifier]) {
        if qualifier(qualifiers, "Override").is_none() {
            self.refuse(at, format!("{name} is inherited; to override it takes the qualifier Override"));
        }
    }

    fn inherit_qualifiers(
        &mut self,
        at: &Location,
        element: impl std::fmt::Display,
        own: &mut Vec<Qualifier>,
        above: &[Qualifier],
    ) {
        for inherited in propagate(above) {
            match qualifier(own, inherited.name.as_str()) {
                None => own.push(inherited),
                Some(changed) if !inherited.flavor.overridable && changed.value != inherited.value => {
                    self.refuse(at, format!("{element}: qualifier {} cannot be overridden", inherited.name));
                }
                Some(_) => {}
            }
        }
    }

    fn check_qualifiers(&mut self, declared: &Declared<Class>) {
        let class = &declared.item;
        let class_scope = match class {
            _ if class.is_association() => Scope::Association,
            _ if qualifier(&class.qualifiers, "Indication").is_some() => Scope::Indication,
            _ => Scope::Class,
        };
        self.check_scope(&declared.at, class.name.as_str(), &class.qualifiers, &[class_scope, Scope::Class]);
        let mut places = declared.elements_at.iter();
        for (property, at) in class.properties.iter().zip(&mut places) {
            let reference = matches!(property.cim_type, CimType::Reference(_));
            let scope = if reference { Scope::Reference } else { Scope::Property };
            self.check_scope(at, property.name.as_str(), &property.qualifiers, &[scope]);
            self.check_value_map(at, property.name.as_str(), &property.qualifiers);
        }
        for (method, at) in class.methods.iter().zip(&mut places) {
            self.check_scope(at, method.name.as_str(), &method.qualifiers, &[Scope::Method]);
            self.check_value_map(at, method.name.as_str(), &method.qualifiers);
            for parameter in &method.parameters {
                self.check_scope(at, parameter.name.as_str(), &parameter.qualifiers, &[Scope::Parameter]);
                self.check_value_map(at, parameter.name.as_str(), &parameter.qualifiers);
            }
        }
    }

    fn check_scope(&mut self, at: &Location, element: &str, qualifiers: &[Qualifier], scopes: &[Scope]) {
        for used in qualifiers {
            let allowed = |it: &QualifierDecl| {
                it.scopes.contains(&Scope::Any) || scopes.iter().any(|scope| it.scopes.contains(scope))
            };
            match self.schema.qualifier(used.name.as_str()) {
                None => self.refuse(at, format!("{element}: qualifier {} is not declared", used.name)),
                Some(declared) if !allowed(declared) => {
                    self.refuse(
                        at,
                        format!("{element}: qualifier {} does not belong on a {:?}", used.name, scopes[0]),
                    );
                }
                Some(_) => {}
            }
        }
    }

    fn check_value_map(&mut self, at: &Location, element: &str, qualifiers: &[Qualifier]) {
        let count = |name| qualifier(qualifiers, name).and_then(|it| it.value.as_array()).map(<[Value]>::len);
        if let (Some(map), Some(values)) = (count("ValueMap"), count("Values"))
            && map != values
        {
            self.refuse(at, format!("{element}: ValueMap has {map} entries and Values {values}"));
        }
    }

    fn check_whole(&mut self, declared: &Declared<Class>, class: &Class) {
        let at = &declared.at;
        for key in class.keys().filter(|key| key.is_array) {
            self.refuse(at, format!("{}.{}: an array cannot be a key", class.name, key.name));
        }
        if class.is_association() && !class.is_abstract() {
            let references =
                class.properties.iter().filter(|it| matches!(it.cim_type, CimType::Reference(_)));
            if references.count() < 2 {
                self.refuse(at, format!("association {} has fewer than two references", class.name));
            }
            if class.keys().next().is_none() {
                self.refuse(at, format!("association {} has no keys", class.name));
            }
        }
    }

    /// Classes that properties and parameters name.
    fn check_references(&mut self, declared: &Declared<Class>) {
        let class = &declared.item;
        let mut named = vec![];
        let mut name_one = |at, element: &Name, cim_type: &CimType, embedded: Option<Name>| {
            let referred = match cim_type {
                CimType::Reference(class) => Some(class.clone()),
                _ => embedded.filter(|name| !name.as_str().is_empty()),
            };
            named.extend(referred.map(|referred| (at, element.clone(), referred)));
        };
        let mut places = declared.elements_at.iter();
        for (property, at) in class.properties.iter().zip(&mut places) {
            name_one(at, &property.name, &property.cim_type, property.embedded_class());
        }
        for (method, at) in class.methods.iter().zip(&mut places) {
            for parameter in &method.parameters {
                name_one(at, &parameter.name, &parameter.cim_type, parameter.embedded_class());
            }
        }
        for (at, element, referred) in named {
            if self.schema.class(&referred).is_none() {
                self.refuse(
                    at,
                    format!("{}.{element} refers to {referred}, which is not declared", class.name),
                );
            }
        }
    }
}

fn propagate(qualifiers: &[Qualifier]) -> Vec<Qualifier> {
    let travelling = qualifiers.iter().filter(|it| it.flavor.to_subclass);
    travelling.map(|it| Qualifier { propagated: true, ..it.clone() }).collect()
}
