//! WS-CIM in: elements to values of the type that the schema asks for (DSP0230, clause 9, and what clients make of
//! it).

use crate::duration::parse_datetime;
use crate::fault::{Fault, Kind};
use crate::message::{attribute, elements, raw_text};
use crate::reference::{instance_class, read_reference};
use cim::{CimType, Class, Instance, Name, Schema, Status, Value, ValueError};
use roxmltree::Node;

/// How deep instances may stand in instances.
const DEPTH_MAX: usize = 8;

/// What is declared for an element: a property or a parameter.
pub struct Declared<'a> {
    pub name: &'a Name,
    pub cim_type: &'a CimType,
    pub is_array: bool,
    /// The class of embedded instances, empty where it may be any.
    pub embedded: Option<Name>,
}

/// The children of `node` as values of what `declared` finds for their names, in the order in which they first come.
/// Namespaces are not looked at: clients put parameters into that of the class, of WS-Management or of none.
/// An unknown name is refused with `unknown`.
pub fn read_children<'a>(
    node: Node<'_, '_>,
    schema: &Schema,
    declared: impl Fn(&str) -> Option<Declared<'a>>,
    unknown: impl Fn(&str) -> Fault,
) -> Result<Vec<(Name, Value)>, Fault> {
    children_at(node, schema, &declared, &unknown, 0)
}

fn children_at<'a>(
    node: Node<'_, '_>,
    schema: &Schema,
    declared: &dyn Fn(&str) -> Option<Declared<'a>>,
    unknown: &dyn Fn(&str) -> Fault,
    depth: usize,
) -> Result<Vec<(Name, Value)>, Fault> {
    let mut values: Vec<(Name, Value)> = vec![];
    for element in elements(node) {
        let name = element.tag_name().name();
        let declared = declared(name).ok_or_else(|| unknown(name))?;
        let value = read_scalar(element, &declared, schema, depth)?;
        let known = values.iter_mut().find(|(own, _)| own == declared.name).map(|(_, value)| value);
        match (known, value) {
            (None, Value::Null) => values.push((declared.name.clone(), Value::Null)),
            (None, value) => {
                let value = if declared.is_array { Value::Array(vec![value]) } else { value };
                values.push((declared.name.clone(), value));
            }
            (Some(Value::Array(elements)), value) => elements.push(value),
            (Some(first), value) if declared.is_array => *first = Value::Array(vec![first.clone(), value]),
            (Some(_), _) => {
                let what = format_args!("{} is given twice, and is no array", declared.name);
                return Err(Fault::new(Kind::InvalidParameterType, what));
            }
        }
    }
    Ok(values)
}

fn read_scalar(
    node: Node<'_, '_>,
    declared: &Declared<'_>,
    schema: &Schema,
    depth: usize,
) -> Result<Value, Fault> {
    if attribute(node, "nil").is_some_and(|it| matches!(it.trim(), "true" | "1")) {
        return Ok(Value::Null);
    }
    let nested = elements(node).next();
    let text = || raw_text(node);
    match (declared.cim_type, nested) {
        (CimType::Reference(class), _) => read_reference(node, class, schema).map(Value::from),
        (CimType::DateTime, nested) => {
            let text = raw_text(nested.unwrap_or(node));
            let value = parse_datetime(&text).map(Value::DateTime);
            value.map_or_else(|| declared.parse(&text), Ok)
        }
        (CimType::String, Some(_)) if declared.embedded.is_some() => {
            read_inline(node, declared, schema, depth + 1).map(Value::from)
        }
        (_, Some(nested)) => {
            let what = format_args!(
                "{} is a {}, and holds the element {}",
                declared.name,
                declared.cim_type,
                nested.tag_name().name()
            );
            Err(Fault::new(Kind::InvalidParameterType, what))
        }
        (CimType::String, None) => Ok(Value::String(text())),
        (_, None) => declared.parse(&text()),
    }
}

impl Declared<'_> {
    fn parse(&self, text: &str) -> Result<Value, Fault> {
        self.cim_type.parse(self.name.as_str(), text).map_err(mismatch)
    }
}

/// An embedded instance that stands there as elements instead of as text.
fn read_inline(
    node: Node<'_, '_>,
    declared: &Declared<'_>,
    schema: &Schema,
    depth: usize,
) -> Result<Instance, Fault> {
    let refuse = |what: String| Err(Fault::new(Kind::InvalidParameterType, what));
    if depth == DEPTH_MAX {
        return refuse(format!("{}: instances stand too deep in instances", declared.name));
    }
    // Some write the parameter's element around the instance's, some write the instance into it.
    let only = elements(node).next().filter(|_| elements(node).count() == 1);
    let wrapped = only.filter(|it| schema.class(&it.tag_name().name().into()).is_some());
    let holder = wrapped.unwrap_or(node);
    let named = instance_class(holder).or_else(|| wrapped.map(|it| it.tag_name().name().into()));
    let class = named.or_else(|| declared.embedded.clone().filter(|it| !it.as_str().is_empty()));
    let Some(class) = class else {
        return refuse(format!("{}: the embedded instance does not say its class", declared.name));
    };
    let Some(class) = schema.class(&class) else {
        return refuse(format!("{}: there is no class {class}", declared.name));
    };
    instance_at(holder, class, schema, depth)
}

/// An instance with the properties that the element has children for. What it does not fit is
/// `InvalidParameterType` or `InvalidParameterName`.
pub fn read_instance(node: Node<'_, '_>, class: &Class, schema: &Schema) -> Result<Instance, Fault> {
    instance_at(node, class, schema, 0)
}

fn instance_at(node: Node<'_, '_>, class: &Class, schema: &Schema, depth: usize) -> Result<Instance, Fault> {
    let declared = |name: &str| {
        class.property(name).map(|it| Declared {
            name: &it.name,
            cim_type: &it.cim_type,
            is_array: it.is_array,
            embedded: it.embedded_class(),
        })
    };
    let unknown = |name: &str| {
        let what = format_args!("{} has no property {name}", class.name);
        Fault::from(cim::Error::new(Status::NoSuchProperty, what))
    };
    let mut instance = Instance::new(&class.name);
    instance.properties = children_at(node, schema, &declared, &unknown, depth)?;
    Ok(instance)
}

fn mismatch(error: ValueError) -> Fault {
    Fault::of(Kind::InvalidParameterType, cim::Error::from(error))
}
