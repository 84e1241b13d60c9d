//! Writing embedded instances as WMI does: without declaration and namespace, `NAME` as the first attribute, all
//! properties of the class, those without value marked as unset.

use crate::xml::escape;
use crate::{CimType, Instance, Keys, Name, ObjectPath, Schema, Value};
use std::fmt::Write;

/// The text of an instance. The schema tells which properties its class has; a class that it does not know is
/// written with what the instance carries.
pub fn write(instance: &Instance, schema: &Schema) -> String {
    let mut xml = format!("<INSTANCE CLASSNAME=\"{}\">", escape(instance.class.as_str()));
    match schema.class(&instance.class) {
        Some(class) => {
            for declared in &class.properties {
                let value = instance.get(declared.name.as_str()).unwrap_or(&Value::Null);
                property(&mut xml, &declared.name, &declared.cim_type, declared.is_array, value, schema);
            }
        }
        None => {
            for (name, value) in &instance.properties {
                let cim_type = value.cim_type().unwrap_or(CimType::String);
                property(&mut xml, name, &cim_type, value.as_array().is_some(), value, schema);
            }
        }
    }
    xml + "</INSTANCE>"
}

fn property(
    xml: &mut String,
    name: &Name,
    cim_type: &CimType,
    is_array: bool,
    value: &Value,
    schema: &Schema,
) {
    let element = match cim_type {
        CimType::Reference(_) => "PROPERTY.REFERENCE",
        _ if is_array => "PROPERTY.ARRAY",
        _ => "PROPERTY",
    };
    let unset = if value.is_null() { " PROPAGATED=\"true\"" } else { "" };
    let kind = match cim_type {
        CimType::Reference(class) => format!("REFERENCECLASS=\"{}\"", escape(class.as_str())),
        other => format!("TYPE=\"{}\"", other.keyword()),
    };
    let elements = value.as_array().unwrap_or(std::slice::from_ref(value));
    let inline = elements.iter().any(|element| element.as_instance().is_some());
    let embedded = if inline { " EmbeddedObject=\"instance\"" } else { "" };
    _ = write!(xml, "<{element} NAME=\"{}\"{unset} {kind}{embedded}>", escape(name.as_str()));
    match value {
        Value::Null => {}
        Value::Array(elements) => {
            xml.push_str("<VALUE.ARRAY>");
            elements.iter().for_each(|element| scalar(xml, element, schema));
            xml.push_str("</VALUE.ARRAY>");
        }
        value => scalar(xml, value, schema),
    }
    _ = write!(xml, "</{element}>");
}

fn scalar(xml: &mut String, value: &Value, schema: &Schema) {
    let text = match value {
        Value::Null => return xml.push_str("<VALUE.NULL/>"),
        Value::Reference(referred) => {
            xml.push_str("<VALUE.REFERENCE>");
            write_path(xml, referred);
            return xml.push_str("</VALUE.REFERENCE>");
        }
        Value::Instance(instance) => write(instance, schema),
        other => other.to_string(),
    };
    _ = write!(xml, "<VALUE>{}</VALUE>", escape(&text));
}

/// Appends a path in the form of DSP0201 that says what it says: `INSTANCENAME` without a namespace,
/// `LOCALINSTANCEPATH` without a host, `INSTANCEPATH` with both; for classes likewise.
pub fn write_path(xml: &mut String, path: &ObjectPath) {
    let kind = if path.is_class() { "CLASS" } else { "INSTANCE" };
    let element = match (&path.host, &path.namespace) {
        (_, None) => return name(xml, path),
        (None, _) => format!("LOCAL{kind}PATH"),
        _ => format!("{kind}PATH"),
    };
    _ = write!(xml, "<{element}>");
    if let Some(host) = &path.host {
        _ = write!(xml, "<NAMESPACEPATH><HOST>{}</HOST>", escape(host));
    }
    xml.push_str("<LOCALNAMESPACEPATH>");
    for part in path.namespace.iter().flat_map(|it| it.as_str().split('/')) {
        _ = write!(xml, "<NAMESPACE NAME=\"{}\"/>", escape(part));
    }
    xml.push_str("</LOCALNAMESPACEPATH>");
    if path.host.is_some() {
        xml.push_str("</NAMESPACEPATH>");
    }
    name(xml, path);
    _ = write!(xml, "</{element}>");
}

fn name(xml: &mut String, path: &ObjectPath) {
    let class = escape(path.class.as_str());
    if path.keys == Keys::Class {
        _ = write!(xml, "<CLASSNAME NAME=\"{class}\"/>");
        return;
    }
    _ = write!(xml, "<INSTANCENAME CLASSNAME=\"{class}\">");
    for (name, value) in path.bindings() {
        _ = write!(xml, "<KEYBINDING NAME=\"{}\">", escape(name.as_str()));
        match value {
            Value::Reference(referred) => {
                xml.push_str("<VALUE.REFERENCE>");
                write_path(xml, referred);
                xml.push_str("</VALUE.REFERENCE>");
            }
            value => {
                let cim_type = value.cim_type().unwrap_or(CimType::String);
                let kind = match &cim_type {
                    CimType::Boolean => "boolean",
                    it if it.is_numeric() => "numeric",
                    _ => "string",
                };
                let (keyword, text) = (cim_type.keyword(), escape(&value.to_string()));
                _ = write!(xml, "<KEYVALUE VALUETYPE=\"{kind}\" TYPE=\"{keyword}\">{text}</KEYVALUE>");
            }
        }
        xml.push_str("</KEYBINDING>");
    }
    xml.push_str("</INSTANCENAME>");
}
