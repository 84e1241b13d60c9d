//! Writing instances, values and paths, in the forms of DSP0201 and with the attributes of its DTD only.

use cim::embedded::write_path;
use cim::xml::escape;
use cim::{CimType, Class, Instance, Name, ObjectPath, Schema, Value, embedded};
use std::fmt::Write;

/// What of an instance is wanted.
#[derive(Debug, Clone, Default)]
pub struct InstanceView {
    /// These properties only; none for all.
    pub properties: Option<Vec<Name>>,
    pub class_origin: bool,
}

/// `INSTANCE`, with what it carries. Without a schema, values say what type they have.
pub fn instance(xml: &mut String, instance: &Instance, schema: Option<&Schema>, view: &InstanceView) {
    let class = schema.and_then(|schema| schema.class(&instance.class));
    _ = write!(xml, "<INSTANCE CLASSNAME=\"{}\">", escape(instance.class.as_str()));
    let wanted = |name: &Name| view.properties.as_ref().is_none_or(|list| list.contains(name));
    for (name, value) in instance.properties.iter().filter(|(name, _)| wanted(name)) {
        property(xml, name, value, class.map(|class| &**class), schema, view.class_origin);
    }
    xml.push_str("</INSTANCE>");
}

fn property(
    xml: &mut String,
    name: &Name,
    value: &Value,
    class: Option<&Class>,
    schema: Option<&Schema>,
    class_origin: bool,
) {
    let declared = class.and_then(|class| class.property(name.as_str()));
    let cim_type = match declared {
        Some(declared) => declared.cim_type.clone(),
        None => value.cim_type().unwrap_or(CimType::String),
    };
    let is_array = declared.map_or(value.as_array().is_some(), |declared| declared.is_array);
    let element = property_element(&cim_type, is_array);
    _ = write!(xml, "<{element} NAME=\"{}\"", escape(declared.map_or(name, |it| &it.name).as_str()));
    match &cim_type {
        CimType::Reference(class) => _ = write!(xml, " REFERENCECLASS=\"{}\"", escape(class.as_str())),
        other => _ = write!(xml, " TYPE=\"{}\"", other.keyword()),
    }
    if let Some(origin) = declared.and_then(|it| it.class_origin.as_ref()).filter(|_| class_origin) {
        _ = write!(xml, " CLASSORIGIN=\"{}\"", escape(origin.as_str()));
    }
    embedded_attribute(xml, declared.and_then(cim::Property::embedded_class), value);
    // Not as an empty-element tag where it is NULL: wbemcli cannot read that.
    xml.push('>');
    self::value(xml, value, schema);
    _ = write!(xml, "</{element}>");
}

fn property_element(cim_type: &CimType, is_array: bool) -> &'static str {
    match cim_type {
        CimType::Reference(_) => "PROPERTY.REFERENCE",
        _ if is_array => "PROPERTY.ARRAY",
        _ => "PROPERTY",
    }
}

/// `EmbeddedObject`, where the value is read as an instance or class by whoever believes the attribute.
fn embedded_attribute(xml: &mut String, declared: Option<Name>, value: &Value) {
    let elements = value.as_array().unwrap_or(std::slice::from_ref(value));
    let is_text = |value: &Value| match value {
        Value::Instance(_) | Value::Class(_) | Value::Null => true,
        Value::String(text) => text.starts_with("<INSTANCE") || text.starts_with("<CLASS"),
        _ => false,
    };
    let inline = elements.iter().any(|it| matches!(it, Value::Instance(_) | Value::Class(_)));
    if !elements.iter().all(is_text) || (declared.is_none() && !inline) {
        return;
    }
    // `EmbeddedObject` qualifiers and classes allow any object, `EmbeddedInstance` only instances.
    let any = declared.is_some_and(|class| class.as_str().is_empty())
        || elements.iter().any(|it| matches!(it, Value::Class(_)));
    xml.push_str(if any { " EmbeddedObject=\"object\"" } else { " EmbeddedObject=\"instance\"" });
}

/// The element of a value; nothing for NULL.
pub fn value(xml: &mut String, value: &Value, schema: Option<&Schema>) {
    match value {
        Value::Null => {}
        Value::Array(elements) => {
            let references = elements.iter().any(|it| it.as_path().is_some());
            let element = if references { "VALUE.REFARRAY" } else { "VALUE.ARRAY" };
            _ = write!(xml, "<{element}>");
            for element in elements {
                match element {
                    Value::Null => xml.push_str("<VALUE.NULL/>"),
                    element => self::value(xml, element, schema),
                }
            }
            _ = write!(xml, "</{element}>");
        }
        Value::Reference(path) => {
            xml.push_str("<VALUE.REFERENCE>");
            write_path(xml, path);
            xml.push_str("</VALUE.REFERENCE>");
        }
        value => {
            xml.push_str("<VALUE>");
            xml.push_str(&escape(&text(value, schema)));
            xml.push_str("</VALUE>");
        }
    }
}

fn text(value: &Value, schema: Option<&Schema>) -> String {
    match value {
        Value::Instance(inner) => match schema {
            Some(schema) => embedded::write(inner, schema),
            None => {
                let mut xml = String::new();
                instance(&mut xml, inner, None, &InstanceView::default());
                xml
            }
        },
        Value::Class(inner) => embedded::write_class(inner, &[]),
        other => other.to_string(),
    }
}

/// `PARAMVALUE`, for method responses and for what Open and Pull operations answer besides.
pub fn parameter(
    xml: &mut String,
    name: &str,
    cim_type: &CimType,
    embedded: Option<Name>,
    value: &Value,
    schema: Option<&Schema>,
) {
    _ = write!(xml, "<PARAMVALUE NAME=\"{}\" PARAMTYPE=\"{}\"", escape(name), cim_type.keyword());
    embedded_attribute(xml, embedded, value);
    xml.push('>');
    self::value(xml, value, schema);
    xml.push_str("</PARAMVALUE>");
}

/// `INSTANCENAME` or `CLASSNAME`: the path without host and namespace.
pub fn name(xml: &mut String, path: &ObjectPath) {
    write_path(xml, &ObjectPath { host: None, namespace: None, ..path.clone() });
}

/// `INSTANCEPATH` or `CLASSPATH`, with `host` where the path has none.
pub fn full_path(xml: &mut String, path: &ObjectPath, host: &str) {
    write_path(xml, &with_host(path, host));
}

/// The path, on `host` where it names none.
pub fn with_host(path: &ObjectPath, host: &str) -> ObjectPath {
    let mut path = path.clone();
    if path.namespace.is_some() {
        path.host.get_or_insert_with(|| host.to_owned());
    }
    path
}
