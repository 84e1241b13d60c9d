//! Get, Put, Create, Delete (DSP0226, clause 7), and Get of what is no instance: class declarations and the
//! configuration.

use crate::Server;
use crate::fault::{Fault, Kind};
use crate::input::read_instance;
use crate::message::{Message, elements, text};
use crate::ns;
use crate::output::{Element, Extent, Style, write_instance, write_value};
use crate::reference::{read_selectors, write_endpoint};
use crate::reply::Reply;
use crate::resource::Resource;
use crate::target::{self, Target, namespace_of};
use cim::xml::escape;
use cim::{Caller, Class, ClassView, Instance, Name, Value, embedded};
use roxmltree::Node;

pub async fn get(
    server: &Server,
    caller: &Caller,
    message: &Message<'_, '_>,
    resource: Resource,
) -> Result<Reply, Fault> {
    let reply = |body: String| Reply::new(format!("{}/GetResponse", ns::TRANSFER), body);
    match resource {
        Resource::Declarations => return declaration(server, message).map(reply),
        Resource::Config => return Ok(reply(config(server))),
        Resource::Instances { .. } => {}
    }
    let target = target::find(server, message, resource)?;
    let path = target.instance(server, caller).await?;
    let instance = server.provider.get(caller, &path).await?;
    let style = style(message, &target);
    let mut body = String::new();
    let Some(fragment) = &message.header.fragment else {
        write_instance(&mut body, &instance, &target.schema, style, Extent::Whole);
        return Ok(reply(body));
    };
    write_fragment(&mut body, fragment, &instance, &target, style)?;
    let header =
        format!("<w:FragmentTransfer s:mustUnderstand=\"true\">{}</w:FragmentTransfer>", escape(fragment));
    Ok(Reply { header, ..reply(body) })
}

/// One property. Anything but a property's name is an expression that we do not evaluate.
fn write_fragment(
    body: &mut String,
    fragment: &str,
    instance: &Instance,
    target: &Target,
    style: Style,
) -> Result<(), Fault> {
    let class = target.schema.require(&instance.class)?;
    let name = fragment.strip_suffix("/text()").unwrap_or(fragment);
    if !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        let what = format_args!("a fragment is the name of a property, not {fragment:?}");
        return Err(Fault::new(Kind::Unsupported("FragmentLevelAccess"), what));
    }
    let property = class.property(name).ok_or_else(|| {
        Fault::new(Kind::InvalidParameterName, format_args!("{} has no property {name}", class.name))
    })?;
    let value = instance.get(name).unwrap_or(&Value::Null);
    let uri = escape(&target.family.class_uri(&target.namespace, &class.name));
    *body += &format!("<w:XmlFragment xmlns:p=\"{uri}\">");
    write_value(body, "p", &Element::of_property(property), value, &target.schema, style);
    *body += "</w:XmlFragment>";
    Ok(())
}

/// A class as CIM-XML, which is how Windows' clients ask for it.
fn declaration(server: &Server, message: &Message<'_, '_>) -> Result<String, Fault> {
    let selectors = message.selectors.map(read_selectors).transpose()?.unwrap_or_default();
    let namespace = namespace_of(server, None, &selectors)?;
    let schema = server.provider.schema(&namespace)?;
    let named = selectors.keys.iter().find(|(name, _)| name.is("ClassName")).and_then(|(_, it)| it.as_str());
    let named = named.ok_or_else(|| {
        Fault::new(Kind::InsufficientSelectors, "the selector ClassName is missing: it names the class")
    })?;
    let class: &Class = schema.require(&named.into())?;
    let flag = |name: &str| message.header.flag(name);
    let view = ClassView {
        local_only: !flag("IncludeInheritedElements").unwrap_or(true),
        include_qualifiers: flag("IncludeQualifiers").unwrap_or(true),
        include_class_origin: flag("IncludeClassOrigin").unwrap_or(true),
        properties: None,
    };
    let mut derivation: Vec<Name> = vec![];
    if flag("IncludeInheritanceHierarchy").unwrap_or(false) {
        derivation.extend(schema.superclasses(&class.name).map(|it| it.name.clone()));
    }
    Ok(embedded::write_class(&class.view(&view), &derivation))
}

/// The limits that a client may adapt to, in the words of WinRM.
fn config(server: &Server) -> String {
    let limits = &server.settings.limits;
    format!(
        "<cfg:Config xmlns:cfg=\"{}\"><cfg:MaxEnvelopeSizekb>{}</cfg:MaxEnvelopeSizekb>\
         <cfg:MaxTimeoutms>{}</cfg:MaxTimeoutms><cfg:MaxBatchItems>{}</cfg:MaxBatchItems><cfg:Service>\
         <cfg:MaxConcurrentOperationsPerUser>{}</cfg:MaxConcurrentOperationsPerUser>\
         <cfg:EnumerationTimeoutms>{}</cfg:EnumerationTimeoutms></cfg:Service></cfg:Config>",
        ns::CONFIG,
        limits.envelope_bytes_max >> 10,
        limits.operation_ms_max,
        limits.items_max,
        limits.contexts_per_user_max,
        limits.enumeration_ms
    )
}

pub async fn put(
    server: &Server,
    caller: &Caller,
    message: &Message<'_, '_>,
    resource: Resource,
) -> Result<Reply, Fault> {
    refuse_fragment(message)?;
    let target = target::find(server, message, resource)?;
    let mut instance = representation(message, &target)?;
    let path = target.instance(server, caller).await?;
    instance.path = Some(path.clone());
    let changed = message.header.values("__MIInstanceModifiedPropertiesList");
    let changed: Vec<Name> = changed.into_iter().map(Name::from).collect();
    let changed = Some(changed).filter(|it| !it.is_empty());
    server.provider.modify(caller, instance, changed).await.map_err(Fault::representation)?;
    let instance = server.provider.get(caller, &path).await?;
    let mut body = String::new();
    write_instance(&mut body, &instance, &target.schema, style(message, &target), Extent::Whole);
    Ok(Reply::new(format!("{}/PutResponse", ns::TRANSFER), body))
}

pub async fn create(
    server: &Server,
    caller: &Caller,
    message: &Message<'_, '_>,
    resource: Resource,
) -> Result<Reply, Fault> {
    refuse_fragment(message)?;
    let target = target::find(server, message, resource)?;
    let instance = representation(message, &target)?;
    let created = server.provider.create(caller, &target.namespace, instance).await;
    let path = created.map_err(Fault::representation)?;
    let mut body = "<x:ResourceCreated>".to_owned();
    write_endpoint(&mut body, &path, target.family, &target.namespace);
    body += "</x:ResourceCreated>";
    Ok(Reply::new(format!("{}/CreateResponse", ns::TRANSFER), body))
}

pub async fn delete(
    server: &Server,
    caller: &Caller,
    message: &Message<'_, '_>,
    resource: Resource,
) -> Result<Reply, Fault> {
    refuse_fragment(message)?;
    let target = target::find(server, message, resource)?;
    let path = target.instance(server, caller).await?;
    server.provider.delete(caller, &path).await?;
    Ok(Reply::new(format!("{}/DeleteResponse", ns::TRANSFER), ""))
}

fn refuse_fragment(message: &Message<'_, '_>) -> Result<(), Fault> {
    match message.header.fragment {
        Some(_) => {
            Err(Fault::new(Kind::Unsupported("FragmentLevelAccess"), "only Get is limited to a fragment"))
        }
        None => Ok(()),
    }
}

/// The instance in the body of a Put or a Create: of the URI's class, or of one below it.
fn representation(message: &Message<'_, '_>, target: &Target) -> Result<Instance, Fault> {
    let expected = target.class()?;
    let missing = || {
        let what = format_args!("the body does not hold an instance of {}", expected.name);
        Fault::new(Kind::WrongRepresentation, what)
    };
    let node = message.body.ok_or_else(missing)?;
    let class = target.schema.class(&node.tag_name().name().into()).ok_or_else(missing)?;
    if !target.schema.is_a(&class.name, &expected.name) {
        return Err(missing());
    }
    refuse_text(node)?;
    read_instance(node, class, &target.schema).map_err(|fault| match fault.kind {
        Kind::InvalidParameterName | Kind::InvalidParameterType => {
            Fault { kind: Kind::InvalidRepresentation, ..fault }
        }
        _ => fault,
    })
}

fn refuse_text(node: Node<'_, '_>) -> Result<(), Fault> {
    match elements(node).next().is_none() && !text(node).is_empty() {
        true => Err(Fault::new(Kind::InvalidRepresentation, "the instance is text, where properties belong")),
        false => Ok(()),
    }
}

fn style(message: &Message<'_, '_>, target: &Target) -> Style {
    Style { family: target.family, precise_arrays: message.header.flag("UsePreciseArrays").unwrap_or(false) }
}
