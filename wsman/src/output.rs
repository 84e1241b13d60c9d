//! WS-CIM out: instances and values as elements (DSP0230, clause 9).

use crate::duration::datetime_element;
use crate::reference::write_endpoint;
use crate::resource::Family;
use cim::embedded;
use cim::xml::escape;
use cim::{Instance, Name, Parameter, Property, Schema, Value};
use std::fmt::Write;

/// How a client wants its answers.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub family: Family,
    /// Whether an array without elements and one that is NULL are to be told apart.
    pub precise_arrays: bool,
}

/// What of an instance is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All properties of its class, NULL ones as such: some clients need every element.
    Whole,
    /// What the instance carries.
    Carried,
}

/// Writes `<p:Class xmlns:p="…" xsi:type="p:Class_Type">` with its properties.
pub fn write_instance(xml: &mut String, instance: &Instance, schema: &Schema, style: Style, extent: Extent) {
    let class = schema.class(&instance.class).map_or(&instance.class, |class| &class.name);
    let name = escape(class.as_str());
    let uri = escape(&style.family.class_uri(schema.namespace(), class));
    _ = write!(xml, "<p:{name} xmlns:p=\"{uri}\" xsi:type=\"p:{name}_Type\">");
    write_properties(xml, "p", instance, schema, style, extent);
    _ = write!(xml, "</p:{name}>");
}

fn write_properties(
    xml: &mut String,
    prefix: &str,
    instance: &Instance,
    schema: &Schema,
    style: Style,
    extent: Extent,
) {
    let class = schema.class(&instance.class);
    if let Some(class) = class.filter(|_| extent == Extent::Whole) {
        for property in &class.properties {
            let value = instance.get(property.name.as_str()).unwrap_or(&Value::Null);
            write_value(xml, prefix, &Element::of_property(property), value, schema, style);
        }
        return;
    }
    for (name, value) in &instance.properties {
        let element = match class.and_then(|class| class.property(name.as_str())) {
            Some(property) => Element::of_property(property),
            None => Element { name, is_array: value.as_array().is_some(), inline: false },
        };
        write_value(xml, prefix, &element, value, schema, style);
    }
}

/// What a value is written as.
pub struct Element<'a> {
    pub name: &'a Name,
    pub is_array: bool,
    /// Whether an embedded instance stands there as elements, as for `EmbeddedObject`; otherwise it is text, as
    /// Hyper-V gives it for `EmbeddedInstance`.
    pub inline: bool,
}

impl Element<'_> {
    pub fn of_property(property: &Property) -> Element<'_> {
        let inline = property.embedded_class().is_some_and(|it| it.as_str().is_empty());
        Element { name: &property.name, is_array: property.is_array, inline }
    }

    pub fn of_parameter(parameter: &Parameter) -> Element<'_> {
        let inline = parameter.embedded_class().is_some_and(|it| it.as_str().is_empty());
        Element { name: &parameter.name, is_array: parameter.is_array, inline }
    }
}

/// Writes a property or a parameter, an array as one element for each of its own.
pub fn write_value(
    xml: &mut String,
    prefix: &str,
    element: &Element<'_>,
    value: &Value,
    schema: &Schema,
    style: Style,
) {
    let name = element.name;
    match value {
        Value::Null if element.is_array && style.precise_arrays => {
            let namespace = crate::ns::WSMV;
            _ = write!(
                xml,
                "<{prefix}:{name} xmlns:msftwinrm=\"{namespace}\" msftwinrm:IsNullArray=\"true\" xsi:nil=\"true\"/>"
            );
        }
        // An empty one is none at all: openwsman counts a nil as an element.
        Value::Array(values) => {
            for value in values {
                write_scalar(xml, prefix, element, value, schema, style);
            }
        }
        scalar => write_scalar(xml, prefix, element, scalar, schema, style),
    }
}

fn write_scalar(
    xml: &mut String,
    prefix: &str,
    element: &Element<'_>,
    value: &Value,
    schema: &Schema,
    style: Style,
) {
    let name = element.name;
    if let Value::Instance(instance) = value
        && element.inline
    {
        // The class's prefix has to be another one than that of the element.
        let (inner, class) = (format!("{prefix}1"), &instance.class);
        let uri = escape(&style.family.class_uri(schema.namespace(), class));
        _ = write!(xml, "<{prefix}:{name} xmlns:{inner}=\"{uri}\" xsi:type=\"{inner}:{class}_Type\">");
        write_properties(xml, &inner, instance, schema, style, Extent::Whole);
        _ = write!(xml, "</{prefix}:{name}>");
        return;
    }
    if value.is_null() {
        _ = write!(xml, "<{prefix}:{name} xsi:nil=\"true\"/>");
        return;
    }
    _ = write!(xml, "<{prefix}:{name}>");
    match value {
        Value::Reference(path) => write_endpoint(xml, path, style.family, schema.namespace()),
        Value::DateTime(datetime) => xml.push_str(&datetime_element(datetime)),
        Value::Boolean(it) => _ = write!(xml, "{it}"),
        Value::Char16(it) => _ = write!(xml, "{it}"),
        Value::Real32(it) if it.is_finite() => _ = write!(xml, "{it:?}"),
        Value::Real64(it) if it.is_finite() => _ = write!(xml, "{it:?}"),
        Value::Instance(instance) => xml.push_str(&escape(&embedded::write(instance, schema))),
        Value::Class(class) => xml.push_str(&escape(&embedded::write_class(class, &[]))),
        other => xml.push_str(&escape(&other.to_string())),
    }
    _ = write!(xml, "</{prefix}:{name}>");
}
