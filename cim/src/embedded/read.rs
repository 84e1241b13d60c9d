//! Reading embedded instances.

use super::prologue::blank_prologue;
use crate::{CimType, Instance, Keys, Name, Namespace, ObjectPath, ParseError, Schema, Value, mof, xml};
use roxmltree::Node;

/// How large a text may be. Hyper-V's own envelopes end at half a megabyte.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// How many properties an instance may have, and how many keys: the largest classes have some 150.
const PROPERTIES_MAX: usize = 1024;
/// How deep instances may stand in instances, and references in keys.
const DEPTH_MAX: usize = 8;

/// What an instance's text says before types are known: texts, arrays of texts, references, instances.
struct Raw {
    class: Name,
    /// The byte at which it begins.
    at: usize,
    properties: Vec<RawProperty>,
}

struct RawProperty {
    name: Name,
    /// From the `TYPE` attribute, where it is one.
    cim_type: Option<CimType>,
    is_array: bool,
    value: Value,
    /// The byte at which it begins.
    at: usize,
}

/// Reads an instance by the types that its text claims. A text that is not of its claimed type stays a string.
pub fn read(text: &str) -> Result<Instance, ParseError> {
    Ok(claimed(read_raw(text, 0)?.0))
}

/// Reads an instance of a class of the schema: spelt, ordered and typed as declared, whatever its text claims. An
/// unknown class or property and a value of the wrong type are refused with their place.
pub fn read_as(text: &str, schema: &Schema) -> Result<Instance, ParseError> {
    let (raw, text) = read_raw(text, 0)?;
    let refuse = |at, message: String| ParseError::new(&text, at, message);
    let Some(class) = schema.class(&raw.class) else {
        return Err(refuse(raw.at, format!("there is no class {} in {}", raw.class, schema.namespace())));
    };
    let mut typed = Instance::new(&class.name);
    for given in raw.properties {
        let Some(declared) = class.property(given.name.as_str()) else {
            return Err(refuse(given.at, format!("{} has no property {}", class.name, given.name)));
        };
        let value = declared.cim_type.conform(declared.name.as_str(), declared.is_array, given.value);
        let value = value.map_err(|error| refuse(given.at, error.to_string()))?;
        typed.set(&declared.name, value);
    }
    let place = |name: &Name| class.properties.iter().position(|property| property.name == *name);
    typed.properties.sort_by_key(|(name, _)| place(name));
    Ok(typed)
}

/// Reads an `INSTANCE` element of DSP0201.
pub fn instance(node: Node<'_, '_>) -> Result<Instance, ParseError> {
    Ok(claimed(raw_instance(node, 0)?))
}

/// Reads a path of DSP0201: `INSTANCEPATH`, `LOCALINSTANCEPATH`, `INSTANCENAME`, `CLASSPATH`, `LOCALCLASSPATH`,
/// `CLASSNAME` or a `VALUE.REFERENCE` around one of them. Keys have the types that they claim.
pub fn path(node: Node<'_, '_>) -> Result<ObjectPath, ParseError> {
    path_at(node, 0)
}

fn claimed(raw: Raw) -> Instance {
    let typed = |property: RawProperty| {
        let cim_type = property.cim_type.unwrap_or(CimType::String);
        let value = cim_type.conform(property.name.as_str(), property.is_array, property.value.clone());
        (property.name, value.unwrap_or(property.value))
    };
    Instance { properties: raw.properties.into_iter().map(typed).collect(), ..Instance::new(raw.class) }
}

/// What the text says, and the text to which places refer: the same one with a blank prologue.
fn read_raw(text: &str, depth: usize) -> Result<(Raw, String), ParseError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ParseError::new(
            "",
            0,
            format_args!("the instance has more than {TEXT_BYTES_MAX} bytes"),
        ));
    }
    if depth == DEPTH_MAX {
        return Err(ParseError::new(
            "",
            0,
            format_args!("instances stand more than {DEPTH_MAX} deep in instances"),
        ));
    }
    let blanked = blank_prologue(text)?;
    if !blanked.trim_start().starts_with('<') {
        return Ok((read_mof(&blanked)?, blanked));
    }
    let document = xml::parse(&blanked)?;
    let root = document.root_element();
    let found = root.descendants().find(|node| is(*node, "INSTANCE"));
    let wrapped = is(root, "INSTANCE") || is(root, "CIM") || root.tag_name().name().starts_with("VALUE.");
    let found = found
        .filter(|_| wrapped)
        .ok_or_else(|| error(root, format_args!("expected an INSTANCE, found {}", root.tag_name().name())))?;
    let raw = raw_instance(found, depth)?;
    drop(document);
    Ok((raw, blanked))
}

fn read_mof(text: &str) -> Result<Raw, ParseError> {
    let instance = mof::parse_instance(text)?;
    let at = text.len() - text.trim_start().len();
    let property = |(name, value): (Name, Value)| {
        let (cim_type, is_array) = (value.cim_type(), value.as_array().is_some());
        RawProperty { name, cim_type, is_array, value, at }
    };
    let own = instance.properties.into_iter().filter(|(name, _)| !is_system(name));
    Ok(Raw { class: instance.class, at, properties: own.map(property).collect() })
}

fn is_system(name: &Name) -> bool {
    name.as_str().starts_with("__")
}

fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    elements(node).find(|child| is(*child, name))
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|it| it.name().eq_ignore_ascii_case(name)).map(|it| it.value())
}

fn error(node: Node<'_, '_>, message: impl std::fmt::Display) -> ParseError {
    ParseError::new(node.document().input_text(), node.range().start, message)
}

fn required<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, ParseError> {
    attribute(node, name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| error(node, format_args!("{} has no attribute {name}", node.tag_name().name())))
}

/// All text of an element, CDATA sections included.
fn text(node: Node<'_, '_>) -> String {
    node.children().filter(Node::is_text).filter_map(|it| it.text()).collect()
}

fn raw_instance(node: Node<'_, '_>, depth: usize) -> Result<Raw, ParseError> {
    let mut raw =
        Raw { class: required(node, "CLASSNAME")?.into(), at: node.range().start, properties: vec![] };
    for element in elements(node).filter(|it| it.tag_name().name().starts_with("PROPERTY")) {
        let name = Name::from(required(element, "NAME")?);
        let Some(value) = property_value(element, depth)?.filter(|_| !is_system(&name)) else { continue };
        if raw.properties.len() == PROPERTIES_MAX {
            return Err(error(
                element,
                format_args!("the instance has more than {PROPERTIES_MAX} properties"),
            ));
        }
        if raw.properties.iter().any(|other| other.name == name) {
            return Err(error(element, format_args!("property {name} is given twice")));
        }
        let cim_type = attribute(element, "TYPE").and_then(CimType::from_keyword);
        let is_array = matches!(value, Value::Array(_)) || is(element, "PROPERTY.ARRAY");
        let at = element.range().start;
        raw.properties.push(RawProperty { name, cim_type, is_array, value, at });
    }
    Ok(raw)
}

/// None where nobody set the property.
fn property_value(element: Node<'_, '_>, depth: usize) -> Result<Option<Value>, ParseError> {
    let held = elements(element).find(|it| it.tag_name().name().starts_with("VALUE"));
    let Some(held) = held else {
        let unset = attribute(element, "PROPAGATED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
        return Ok((!unset).then_some(Value::Null));
    };
    let embedded = attribute(element, "EmbeddedObject").is_some_and(|it| it.eq_ignore_ascii_case("instance"));
    value(held, embedded, depth).map(Some)
}

fn value(held: Node<'_, '_>, embedded: bool, depth: usize) -> Result<Value, ParseError> {
    match held.tag_name().name() {
        "VALUE" if embedded => inner(held, || Ok(Value::from(claimed(read_raw(&text(held), depth + 1)?.0)))),
        "VALUE" => Ok(Value::String(text(held))),
        "VALUE.NULL" => Ok(Value::Null),
        "VALUE.REFERENCE" => path_at(held, 0).map(Value::from),
        "VALUE.OBJECT" | "VALUE.NAMEDINSTANCE" | "VALUE.NAMEDOBJECT" => match child(held, "INSTANCE") {
            Some(_) if depth + 1 == DEPTH_MAX => {
                Err(error(held, format_args!("instances stand more than {DEPTH_MAX} deep in instances")))
            }
            Some(instance) => Ok(Value::from(claimed(raw_instance(instance, depth + 1)?))),
            None => Err(error(held, "expected an INSTANCE in here")),
        },
        // VALUE.ARRAY, VALUE.REFARRAY, and WMI's VALUE.OBJECTARRAY: elements that are no arrays themselves.
        _ => {
            let scalar = |it: Node<'_, '_>| match it.tag_name().name() {
                name if name.ends_with("ARRAY") => Err(error(it, "an array holds no arrays")),
                name if !name.starts_with("VALUE") => {
                    Err(error(it, format_args!("expected a VALUE, found {name}")))
                }
                _ => value(it, embedded, depth),
            };
            elements(held).map(scalar).collect::<Result<_, _>>().map(Value::Array)
        }
    }
}

/// What is wrong inside an escaped text is said at the place of the text, with its own place after it.
fn inner<T>(held: Node<'_, '_>, read: impl FnOnce() -> Result<T, ParseError>) -> Result<T, ParseError> {
    read().map_err(|wrong| error(held, format_args!("in the embedded instance, {wrong}")))
}

fn path_at(node: Node<'_, '_>, depth: usize) -> Result<ObjectPath, ParseError> {
    if depth == DEPTH_MAX {
        return Err(error(node, format_args!("references stand more than {DEPTH_MAX} deep in keys")));
    }
    let missing = |what: &str| error(node, format_args!("expected {what} in {}", node.tag_name().name()));
    let inside = |names: &[&str]| elements(node).find(|it| names.contains(&it.tag_name().name()));
    match node.tag_name().name() {
        "CLASSNAME" => {
            let (host, namespace, class) = (None, None, required(node, "NAME")?.into());
            Ok(ObjectPath { host, namespace, class, keys: Keys::Class })
        }
        "INSTANCENAME" => instance_name(node, depth),
        "LOCALINSTANCEPATH" | "LOCALCLASSPATH" | "INSTANCEPATH" | "CLASSPATH" => {
            let named =
                inside(&["INSTANCENAME", "CLASSNAME"]).ok_or_else(|| missing("INSTANCENAME or CLASSNAME"))?;
            let mut path = path_at(named, depth)?;
            let space = inside(&["NAMESPACEPATH"]);
            path.host = space.and_then(|it| child(it, "HOST")).map(|it| text(it).trim().to_owned());
            let local = child(space.unwrap_or(node), "LOCALNAMESPACEPATH");
            path.namespace = Some(namespace(local.ok_or_else(|| missing("LOCALNAMESPACEPATH"))?)?);
            Ok(path)
        }
        "VALUE.REFERENCE" => match elements(node).next() {
            Some(inside) => path_at(inside, depth),
            // WMI and scripts write the path as text.
            None => text(node).trim().parse().map_err(|wrong| error(node, wrong)),
        },
        other => Err(error(node, format_args!("expected a path, found {other}"))),
    }
}

fn namespace(node: Node<'_, '_>) -> Result<Namespace, ParseError> {
    let parts = elements(node).filter(|it| is(*it, "NAMESPACE")).map(|it| required(it, "NAME"));
    Ok(Namespace::from(&*parts.collect::<Result<Vec<_>, _>>()?.join("/")))
}

fn instance_name(node: Node<'_, '_>, depth: usize) -> Result<ObjectPath, ParseError> {
    let mut bindings: Vec<(Name, Value)> = vec![];
    for binding in elements(node) {
        // A lone key may stand without KEYBINDING and name.
        let (name, held) = match binding.tag_name().name() {
            "KEYBINDING" => (Name::from(required(binding, "NAME")?), elements(binding).next()),
            _ => (Name::from(""), Some(binding)),
        };
        if bindings.len() == PROPERTIES_MAX {
            return Err(error(binding, format_args!("the path has more than {PROPERTIES_MAX} keys")));
        }
        if bindings.iter().any(|(other, _)| *other == name) {
            return Err(error(binding, format_args!("key {name} is given twice")));
        }
        let held = held.ok_or_else(|| error(binding, "expected KEYVALUE or VALUE.REFERENCE"))?;
        let value = match held.tag_name().name() {
            "VALUE.REFERENCE" => path_at(held, depth + 1).map(Value::from)?,
            "KEYVALUE" => key_value(held),
            other => {
                return Err(error(held, format_args!("expected KEYVALUE or VALUE.REFERENCE, found {other}")));
            }
        };
        bindings.push((name, value));
    }
    let keys = if bindings.is_empty() { Keys::Singleton } else { Keys::Bindings(bindings) };
    Ok(ObjectPath { host: None, namespace: None, class: required(node, "CLASSNAME")?.into(), keys })
}

fn key_value(node: Node<'_, '_>) -> Value {
    let text = text(node);
    let claimed = match attribute(node, "VALUETYPE") {
        Some("numeric") => vec![CimType::Uint64, CimType::Sint64, CimType::Real64],
        Some("boolean") => vec![CimType::Boolean],
        _ => vec![],
    };
    let typed = attribute(node, "TYPE").and_then(CimType::from_keyword);
    let mut kinds = typed.into_iter().chain(claimed);
    kinds.find_map(|kind| kind.parse("", &text).ok()).unwrap_or(Value::String(text))
}
