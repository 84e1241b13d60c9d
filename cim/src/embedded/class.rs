//! Writing classes (DSP0201, 5.2.3 and 5.3.2).

use crate::xml::escape;
use crate::{CimType, Class, Flavor, Name, Qualifier, QualifierDecl, Scope, Value};
use std::fmt::Write;

/// `CLASS`, with all that the class holds. What `derivation` names, nearest first, goes into the attribute
/// `DERIVATION` of Windows' clients, which the DTD does not know; none leaves it out.
pub fn write_class(class: &Class, derivation: &[Name]) -> String {
    let mut xml = format!("<CLASS NAME=\"{}\"", escape(class.name.as_str()));
    if let Some(superclass) = &class.superclass {
        _ = write!(xml, " SUPERCLASS=\"{}\"", escape(superclass.as_str()));
    }
    if !derivation.is_empty() {
        let names: Vec<&str> = derivation.iter().map(Name::as_str).collect();
        _ = write!(xml, " DERIVATION=\"{}\"", escape(&names.join(",")));
    }
    xml.push('>');
    qualifiers(&mut xml, &class.qualifiers);
    for property in &class.properties {
        let element = match &property.cim_type {
            CimType::Reference(_) => "PROPERTY.REFERENCE",
            _ if property.is_array => "PROPERTY.ARRAY",
            _ => "PROPERTY",
        };
        _ = write!(xml, "<{element} NAME=\"{}\"", escape(property.name.as_str()));
        kind(&mut xml, &property.cim_type);
        size(&mut xml, property.array_size);
        origin(&mut xml, property.class_origin.as_ref(), property.propagated);
        if let Some(embedded) = property.embedded_class() {
            let embedded = if embedded.as_str().is_empty() { "object" } else { "instance" };
            _ = write!(xml, " EmbeddedObject=\"{embedded}\"");
        }
        xml.push('>');
        qualifiers(&mut xml, &property.qualifiers);
        value(&mut xml, &property.default);
        _ = write!(xml, "</{element}>");
    }
    for method in &class.methods {
        _ = write!(
            xml,
            "<METHOD NAME=\"{}\" TYPE=\"{}\"",
            escape(method.name.as_str()),
            method.return_type.keyword()
        );
        origin(&mut xml, method.class_origin.as_ref(), method.propagated);
        xml.push('>');
        qualifiers(&mut xml, &method.qualifiers);
        for parameter in &method.parameters {
            let suffix = match (&parameter.cim_type, parameter.is_array) {
                (CimType::Reference(_), true) => ".REFARRAY",
                (CimType::Reference(_), false) => ".REFERENCE",
                (_, true) => ".ARRAY",
                _ => "",
            };
            _ = write!(xml, "<PARAMETER{suffix} NAME=\"{}\"", escape(parameter.name.as_str()));
            kind(&mut xml, &parameter.cim_type);
            size(&mut xml, parameter.array_size);
            xml.push('>');
            qualifiers(&mut xml, &parameter.qualifiers);
            _ = write!(xml, "</PARAMETER{suffix}>");
        }
        xml.push_str("</METHOD>");
    }
    xml + "</CLASS>"
}

/// `QUALIFIER.DECLARATION`
pub fn write_qualifier_declaration(declared: &QualifierDecl) -> String {
    let (name, keyword) = (escape(declared.name.as_str()), declared.cim_type.keyword());
    let is_array = declared.is_array;
    let mut xml = format!("<QUALIFIER.DECLARATION NAME=\"{name}\" TYPE=\"{keyword}\" ISARRAY=\"{is_array}\"");
    flavor(&mut xml, declared.flavor);
    xml.push_str("><SCOPE");
    // The DTD has no attributes for the others.
    let any = declared.scopes.contains(&Scope::Any);
    let sayable = |it: &Scope| !matches!(it, Scope::Schema | Scope::Qualifier | Scope::Any);
    for scope in Scope::ALL.into_iter().filter(|it| sayable(it) && (any || declared.scopes.contains(it))) {
        _ = write!(xml, " {}=\"true\"", scope.keyword().to_ascii_uppercase());
    }
    xml.push_str("/>");
    value(&mut xml, &declared.default);
    xml + "</QUALIFIER.DECLARATION>"
}

fn kind(xml: &mut String, cim_type: &CimType) {
    match cim_type {
        CimType::Reference(class) => _ = write!(xml, " REFERENCECLASS=\"{}\"", escape(class.as_str())),
        other => _ = write!(xml, " TYPE=\"{}\"", other.keyword()),
    }
}

fn size(xml: &mut String, array_size: Option<u32>) {
    if let Some(size) = array_size {
        _ = write!(xml, " ARRAYSIZE=\"{size}\"");
    }
}

fn origin(xml: &mut String, class_origin: Option<&Name>, propagated: bool) {
    if let Some(origin) = class_origin {
        _ = write!(xml, " CLASSORIGIN=\"{}\"", escape(origin.as_str()));
    }
    if propagated {
        xml.push_str(" PROPAGATED=\"true\"");
    }
}

fn qualifiers(xml: &mut String, qualifiers: &[Qualifier]) {
    for qualifier in qualifiers {
        let (name, keyword) = (escape(qualifier.name.as_str()), qualifier.cim_type.keyword());
        _ = write!(xml, "<QUALIFIER NAME=\"{name}\" TYPE=\"{keyword}\"");
        if qualifier.propagated {
            xml.push_str(" PROPAGATED=\"true\"");
        }
        flavor(xml, qualifier.flavor);
        xml.push('>');
        value(xml, &qualifier.value);
        xml.push_str("</QUALIFIER>");
    }
}

/// As far as it differs from what the DTD has by default.
fn flavor(xml: &mut String, flavor: Flavor) {
    for (attribute, value, default) in [
        ("OVERRIDABLE", flavor.overridable, true),
        ("TOSUBCLASS", flavor.to_subclass, true),
        ("TRANSLATABLE", flavor.translatable, false),
    ] {
        if value != default {
            _ = write!(xml, " {attribute}=\"{value}\"");
        }
    }
}

/// Nothing for NULL. Schemas have neither instances nor references as values.
fn value(xml: &mut String, value: &Value) {
    let scalar = |xml: &mut String, value: &Value| match value {
        Value::Null => xml.push_str("<VALUE.NULL/>"),
        value => _ = write!(xml, "<VALUE>{}</VALUE>", escape(&value.to_string())),
    };
    match value {
        Value::Null => {}
        Value::Array(elements) => {
            xml.push_str("<VALUE.ARRAY>");
            elements.iter().for_each(|element| scalar(xml, element));
            xml.push_str("</VALUE.ARRAY>");
        }
        value => scalar(xml, value),
    }
}
