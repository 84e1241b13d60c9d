//! Reading a request (DSP0201): one operation, its parameters as they are spelt. Types are the schema's matter.

use crate::answer::Refusal;
use cim::{Instance, Name, Namespace, ObjectPath, ParseError, Value, embedded, xml};
use hyper::StatusCode;
use roxmltree::Node;
use std::fmt;

/// A request.
#[derive(Debug)]
pub struct Message {
    pub id: String,
    pub protocol_version: String,
    pub call: Call,
}

/// What is asked for.
#[derive(Debug)]
pub enum Call {
    Intrinsic {
        method: String,
        namespace: Namespace,
        parameters: Vec<(Name, Argument)>,
    },
    /// `target` has no namespace: it stands in `namespace`.
    Extrinsic {
        method: Name,
        namespace: Namespace,
        target: ObjectPath,
        arguments: Vec<(Name, Value)>,
    },
}

/// An intrinsic method's parameter: texts, arrays of texts and NULL as values.
#[derive(Debug)]
pub enum Argument {
    Value(Value),
    Path(ObjectPath),
    Instance(Instance),
    /// A class or a qualifier, which only operations that change the schema take.
    Declaration,
}

/// Reads the body. What is not well-formed, not valid or of another version is refused as DSP0200 has it (7.3.3).
pub fn read(body: &[u8]) -> Result<Message, Refusal> {
    let malformed = |error: String| Refusal::bad("request-not-well-formed", error);
    let text = std::str::from_utf8(body).map_err(|error| malformed(format!("this is no UTF-8: {error}")))?;
    let text = embedded::blank_prologue(text).map_err(|error| malformed(error.to_string()))?;
    let document = xml::parse(&text).map_err(|error| malformed(error.to_string()))?;
    let root = document.root_element();
    require(root, "CIM")?;
    check_version(root, "CIMVERSION", "unsupported-cim-version")?;
    check_version(root, "DTDVERSION", "unsupported-dtd-version")?;
    let message = only_child(root, &["MESSAGE"])?;
    let request = only_child(message, &["SIMPLEREQ", "MULTIREQ"])?;
    if request.has_tag_name("MULTIREQ") {
        let detail = "a message holds one request";
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "multiple-requests-unsupported", detail));
    }
    let call = elements(request).filter(|it| !it.has_tag_name("CORRELATOR"));
    let call = only(request, call, &["IMETHODCALL", "METHODCALL"])?;
    let (id, protocol_version) = (attribute(message, "ID")?, attribute(message, "PROTOCOLVERSION")?);
    let call = if call.has_tag_name("IMETHODCALL") { intrinsic(call)? } else { extrinsic(call)? };
    Ok(Message { id: id.to_owned(), protocol_version: protocol_version.to_owned(), call })
}

fn intrinsic(call: Node<'_, '_>) -> Result<Call, Refusal> {
    let mut children = elements(call);
    let space = children.next().ok_or_else(|| invalid(call, "expected LOCALNAMESPACEPATH in IMETHODCALL"))?;
    let namespace = namespace(space)?;
    let parameters = children.map(|child| {
        require(child, "IPARAMVALUE")?;
        Ok((Name::from(attribute(child, "NAME")?), argument(child)?))
    });
    let parameters = parameters.collect::<Result<_, Refusal>>()?;
    Ok(Call::Intrinsic { method: attribute(call, "NAME")?.to_owned(), namespace, parameters })
}

fn extrinsic(call: Node<'_, '_>) -> Result<Call, Refusal> {
    let mut children = elements(call);
    let target = children.next().filter(|it| it.tag_name().name().starts_with("LOCAL"));
    let target =
        target.ok_or_else(|| invalid(call, "expected LOCALINSTANCEPATH or LOCALCLASSPATH in METHODCALL"))?;
    let mut target = valid(embedded::path(target))?;
    let arguments = children.map(|child| {
        require(child, "PARAMVALUE")?;
        let value = optional_child(child)?.map(value).transpose()?.unwrap_or(Value::Null);
        Ok((Name::from(attribute(child, "NAME")?), value))
    });
    let arguments = arguments.collect::<Result<_, Refusal>>()?;
    let namespace = target.namespace.take().ok_or_else(|| invalid(call, "the path names no namespace"))?;
    Ok(Call::Extrinsic { method: attribute(call, "NAME")?.into(), namespace, target, arguments })
}

fn argument(parameter: Node<'_, '_>) -> Result<Argument, Refusal> {
    let Some(held) = optional_child(parameter)? else { return Ok(Argument::Value(Value::Null)) };
    Ok(match held.tag_name().name() {
        "INSTANCE" => Argument::Instance(valid(embedded::instance(held))?),
        "VALUE.NAMEDINSTANCE" => {
            let mut parts = elements(held);
            let (Some(path), Some(instance)) = (parts.next(), parts.next()) else {
                return Err(invalid(held, "expected INSTANCENAME and INSTANCE in VALUE.NAMEDINSTANCE"));
            };
            require(instance, "INSTANCE")?;
            let path = valid(embedded::path(path))?;
            Argument::Instance(valid(embedded::instance(instance))?.at(path))
        }
        "CLASS" | "QUALIFIER.DECLARATION" => Argument::Declaration,
        _ => match value(held)? {
            Value::Reference(path) => Argument::Path(*path),
            value => Argument::Value(value),
        },
    })
}

/// A parameter's value. Embedded instances stay the texts that they are: whoever knows their class reads them best.
fn value(held: Node<'_, '_>) -> Result<Value, Refusal> {
    Ok(match held.tag_name().name() {
        "VALUE" => Value::String(text(held)),
        "VALUE.NULL" => Value::Null,
        "VALUE.ARRAY" | "VALUE.REFARRAY" => {
            let element = |it: Node<'_, '_>| match it.tag_name().name() {
                "VALUE" | "VALUE.NULL" | "VALUE.REFERENCE" => value(it),
                other => Err(invalid(it, format_args!("expected a VALUE, found {other}"))),
            };
            Value::Array(elements(held).map(element).collect::<Result<_, _>>()?)
        }
        "INSTANCE" => valid(embedded::instance(held))?.into(),
        _ => valid(embedded::path(held))?.into(),
    })
}

fn namespace(node: Node<'_, '_>) -> Result<Namespace, Refusal> {
    require(node, "LOCALNAMESPACEPATH")?;
    let parts: Vec<_> = elements(node).map(|part| attribute(part, "NAME")).collect::<Result<_, _>>()?;
    Ok(Namespace::from(&*parts.join("/")))
}

fn check_version(root: Node<'_, '_>, name: &str, error: &'static str) -> Result<(), Refusal> {
    let version = attribute(root, name)?;
    if version == "2" || version.starts_with("2.") {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, error, format!("{name} is {version}, not 2.x")))
}

fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

fn text(node: Node<'_, '_>) -> String {
    node.children().filter(Node::is_text).filter_map(|it| it.text()).collect()
}

fn invalid(node: Node<'_, '_>, message: impl fmt::Display) -> Refusal {
    let at = node.document().text_pos_at(node.range().start);
    Refusal::bad("request-not-valid", format!("line {}, column {}: {message}", at.row, at.col))
}

fn valid<T>(read: Result<T, ParseError>) -> Result<T, Refusal> {
    read.map_err(|error| Refusal::bad("request-not-valid", error))
}

fn require(node: Node<'_, '_>, name: &str) -> Result<(), Refusal> {
    match node.tag_name().name() {
        found if found == name => Ok(()),
        found => Err(invalid(node, format_args!("expected {name}, found {found}"))),
    }
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, Refusal> {
    let missing = || invalid(node, format_args!("{} has no attribute {name}", node.tag_name().name()));
    node.attribute(name).ok_or_else(missing)
}

fn only_child<'a, 'i>(node: Node<'a, 'i>, names: &[&str]) -> Result<Node<'a, 'i>, Refusal> {
    only(node, elements(node), names)
}

fn only<'a, 'i>(
    node: Node<'a, 'i>,
    mut children: impl Iterator<Item = Node<'a, 'i>>,
    names: &[&str],
) -> Result<Node<'a, 'i>, Refusal> {
    let (first, second) = (children.next(), children.next());
    first.filter(|it| second.is_none() && names.contains(&it.tag_name().name())).ok_or_else(|| {
        invalid(node, format_args!("expected {} in {}", names.join(" or "), node.tag_name().name()))
    })
}

fn optional_child<'a, 'i>(node: Node<'a, 'i>) -> Result<Option<Node<'a, 'i>>, Refusal> {
    let mut children = elements(node);
    let first = children.next();
    match children.next() {
        Some(second) => Err(invalid(second, format_args!("{} has one value", node.tag_name().name()))),
        None => Ok(first),
    }
}
