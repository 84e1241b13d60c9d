//! References: selectors and endpoint references to object paths, and back (DSP0227, clause 8).

use crate::fault::{Fault, Kind};
use crate::message::{attribute, elements, raw_text, text};
use crate::ns;
use crate::resource::{Family, Resource};
use cim::xml::escape;
use cim::{Keys, Name, Namespace, ObjectPath, Schema, Status, Value};
use roxmltree::Node;
use std::fmt::Write;

/// How deep references may stand in the selectors of references.
const DEPTH_MAX: usize = 8;

pub const NAMESPACE_SELECTOR: &str = "__cimnamespace";

/// Selectors in the order given, the namespace apart.
#[derive(Debug, Default)]
pub struct Selectors {
    pub namespace: Option<Namespace>,
    pub keys: Vec<(Name, Value)>,
}

/// Reads a `SelectorSet`.
pub fn read_selectors(set: Node<'_, '_>) -> Result<Selectors, Fault> {
    selectors_at(set, 0)
}

fn selectors_at(set: Node<'_, '_>, depth: usize) -> Result<Selectors, Fault> {
    let mut selectors = Selectors::default();
    for selector in elements(set).filter(|it| it.tag_name().name() == "Selector") {
        let name = Name::from(attribute(selector, "Name").unwrap_or_default().trim());
        if name.as_str().is_empty() {
            return Err(Fault::new(Kind::UnexpectedSelectors, "a selector has no name"));
        }
        if name.is(NAMESPACE_SELECTOR) {
            selectors.namespace = Some(Namespace::from(text(selector).as_str()));
            continue;
        }
        if selectors.keys.iter().any(|(other, _)| *other == name) {
            return Err(Fault::new(Kind::DuplicateSelectors, format_args!("selector {name} is given twice")));
        }
        let value = match elements(selector).next() {
            Some(_) => Value::from(endpoint(selector, depth + 1)?),
            None => Value::from(text(selector)),
        };
        selectors.keys.push((name, value));
    }
    Ok(selectors)
}

/// Whether the element holds an endpoint reference, wrapped or not.
pub fn is_endpoint(node: Node<'_, '_>) -> bool {
    let is = |it: &Node<'_, '_>| {
        let name = it.tag_name().name();
        matches!(name, "EndpointReference" | "ReferenceParameters" | "ReferenceProperties")
    };
    elements(node).any(|it| is(&it))
}

/// Reads the endpoint reference in an element, be it wrapped in `EndpointReference` or not. Keys are texts.
pub fn read_endpoint(node: Node<'_, '_>) -> Result<ObjectPath, Fault> {
    endpoint(node, 0)
}

fn endpoint(node: Node<'_, '_>, depth: usize) -> Result<ObjectPath, Fault> {
    let refuse = |what: &str| Err(Fault::new(Kind::InvalidSelectorValue, what));
    if depth == DEPTH_MAX {
        return refuse("references stand too deep in selectors");
    }
    let find = |node: Node<'_, '_>, names: &[&str]| {
        let found = elements(node).find(|it| names.contains(&it.tag_name().name()));
        found.map(|it| it.id())
    };
    let document = node.document();
    let inner = find(node, &["EndpointReference"]).and_then(|id| document.get_node(id)).unwrap_or(node);
    let parameters = find(inner, &["ReferenceParameters", "ReferenceProperties"]);
    let Some(parameters) = parameters.and_then(|id| document.get_node(id)) else {
        return refuse("the reference has no ReferenceParameters");
    };
    let uri = elements(parameters).find(|it| it.tag_name().name() == "ResourceURI").map(text);
    let Some(uri) = uri else { return refuse("the reference has no ResourceURI") };
    let Resource::Instances { namespace, class: Some(class), .. } = Resource::parse(&uri)? else {
        return refuse("the reference names no class");
    };
    let set = elements(parameters).find(|it| it.tag_name().name() == "SelectorSet");
    let selectors = set.map(|set| selectors_at(set, depth)).transpose()?.unwrap_or_default();
    let namespace = namespace.or(selectors.namespace);
    let keys = if selectors.keys.is_empty() { Keys::Singleton } else { Keys::Bindings(selectors.keys) };
    Ok(ObjectPath { host: None, namespace, class, keys })
}

/// Reads a reference in any of the forms that clients send as a value: an endpoint reference, an instance with its
/// keys, or a WMI path. `declared` is the class of the reference.
pub fn read_reference(node: Node<'_, '_>, declared: &Name, schema: &Schema) -> Result<ObjectPath, Fault> {
    if is_endpoint(node) {
        let path = read_endpoint(node)?;
        return Ok(only_keys(path, schema));
    }
    if elements(node).next().is_none() {
        let text = raw_text(node);
        return ObjectPath::parse(text.trim()).map(|path| only_keys(path, schema)).map_err(|error| {
            let what = format_args!("this is no path: {error}");
            Fault::of(Kind::InvalidParameterType, cim::Error::new(Status::TypeMismatch, what))
        });
    }
    let class = instance_class(node).unwrap_or_else(|| declared.clone());
    let keys = elements(node).map(|it| (Name::from(it.tag_name().name()), Value::from(text(it))));
    let keys = Keys::Bindings(keys.collect());
    Ok(only_keys(ObjectPath { host: None, namespace: None, class, keys }, schema))
}

/// The class that `xsi:type="p:Class_Type"` names. The prefix need not be bound.
pub fn instance_class(node: Node<'_, '_>) -> Option<Name> {
    let name = attribute(node, "type")?.trim();
    let name = name.rsplit_once(':').map_or(name, |(_, name)| name);
    name.strip_suffix("_Type").filter(|name| !name.is_empty()).map(Name::from)
}

/// Without selectors that are no keys: some clients send every property.
fn only_keys(mut path: ObjectPath, schema: &Schema) -> ObjectPath {
    let here = path.namespace.as_ref().is_none_or(|it| it == schema.namespace());
    if let (true, Some(class), Keys::Bindings(bindings)) = (here, schema.class(&path.class), &mut path.keys) {
        bindings.retain(|(name, _)| match class.property(name.as_str()) {
            Some(property) => property.is_key(),
            // Left for whoever resolves the path to refuse.
            None => true,
        });
    }
    path
}

/// Writes `a:Address` and `a:ReferenceParameters`. Where the path names no namespace, it is in `here`.
pub fn write_endpoint(xml: &mut String, path: &ObjectPath, family: Family, here: &Namespace) {
    let namespace = path.namespace.as_ref().unwrap_or(here);
    let uri = escape(&family.class_uri(namespace, &path.class));
    _ = write!(
        xml,
        "<a:Address>{}</a:Address><a:ReferenceParameters><w:ResourceURI>{uri}</w:ResourceURI><w:SelectorSet>\
         <w:Selector Name=\"{NAMESPACE_SELECTOR}\">{}</w:Selector>",
        ns::ANONYMOUS,
        escape(namespace.as_str())
    );
    for (name, value) in path.bindings() {
        _ = write!(xml, "<w:Selector Name=\"{}\">", escape(name.as_str()));
        match value {
            Value::Reference(inner) => {
                xml.push_str("<a:EndpointReference>");
                write_endpoint(xml, inner, family, namespace);
                xml.push_str("</a:EndpointReference>");
            }
            Value::Boolean(it) => _ = write!(xml, "{it}"),
            value => xml.push_str(&escape(&value.to_string())),
        }
        xml.push_str("</w:Selector>");
    }
    xml.push_str("</w:SelectorSet></a:ReferenceParameters>");
}
