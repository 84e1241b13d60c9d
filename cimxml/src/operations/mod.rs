//! The operations of DSP0200, one file per family.

mod associations;
mod classes;
mod instances;
mod methods;
mod pull;
mod queries;

pub use queries::parse as parse_query;

use crate::Server;
use crate::answer::Pieces;
use crate::enumeration::Kind;
use crate::message::Call;
use crate::parameters::Parameters;
use cim::{Caller, Error, InstanceStream, Name, Namespace, Schema, Status};
use futures::{StreamExt, stream};
use std::sync::Arc;

/// One intrinsic operation under way.
struct Operation<'a> {
    server: &'a Server,
    caller: &'a Caller,
    namespace: Namespace,
    schema: Arc<Schema>,
    parameters: Parameters,
}

/// Runs what was asked for. What it answers stands between the response element and its end.
pub async fn run(server: &Server, caller: &Caller, call: Call) -> Result<Pieces, Error> {
    match call {
        Call::Intrinsic { method, namespace, parameters } => {
            let schema = server.provider.schema(&namespace)?;
            let parameters = Parameters::new(&method, parameters)?;
            intrinsic(&method, Operation { server, caller, namespace, schema, parameters }).await
        }
        Call::Extrinsic { method, namespace, target, arguments } => {
            methods::invoke(server, caller, &method, &namespace, target, arguments).await
        }
    }
}

async fn intrinsic(method: &str, operation: Operation<'_>) -> Result<Pieces, Error> {
    use associations::Walk::{Associators, References};
    use pull::Source;
    match method {
        "GetInstance" => instances::get(operation).await,
        "EnumerateInstances" => instances::enumerate(operation).await,
        "EnumerateInstanceNames" => instances::enumerate_names(operation).await,
        "CreateInstance" => instances::create(operation).await,
        "ModifyInstance" => instances::modify(operation).await,
        "DeleteInstance" => instances::delete(operation).await,
        "GetProperty" => instances::get_property(operation).await,
        "SetProperty" => instances::set_property(operation).await,
        "GetClass" => classes::get(operation),
        "EnumerateClasses" => classes::enumerate(operation),
        "EnumerateClassNames" => classes::enumerate_names(operation),
        "GetQualifier" => classes::get_qualifier(operation),
        "EnumerateQualifiers" => classes::enumerate_qualifiers(operation),
        "Associators" => associations::objects(operation, Associators).await,
        "AssociatorNames" => associations::names(operation, Associators).await,
        "References" => associations::objects(operation, References).await,
        "ReferenceNames" => associations::names(operation, References).await,
        "ExecQuery" => queries::execute(operation).await,
        "OpenEnumerateInstances" => pull::open(operation, Source::Class, true).await,
        "OpenEnumerateInstancePaths" => pull::open(operation, Source::Class, false).await,
        "OpenAssociatorInstances" => pull::open(operation, Source::Walk(Associators), true).await,
        "OpenAssociatorInstancePaths" => pull::open(operation, Source::Walk(Associators), false).await,
        "OpenReferenceInstances" => pull::open(operation, Source::Walk(References), true).await,
        "OpenReferenceInstancePaths" => pull::open(operation, Source::Walk(References), false).await,
        "OpenQueryInstances" => pull::open_query(operation).await,
        "PullInstancesWithPath" => pull::pull(operation, Kind::InstancesWithPath),
        "PullInstancePaths" => pull::pull(operation, Kind::InstancePaths),
        "PullInstances" => pull::pull(operation, Kind::Instances),
        "CloseEnumeration" => pull::close(operation),
        "CreateClass" | "ModifyClass" | "DeleteClass" | "SetQualifier" | "DeleteQualifier" => {
            Err(Error::not_supported(format_args!("{method}: the schema is read-only, and changing it")))
        }
        "EnumerationCount" | "ExecuteQuery" => Err(Error::not_supported(method)),
        _ => Err(Error::new(Status::NotSupported, format_args!("there is no intrinsic method {method}"))),
    }
}

/// An answer that is there at once.
fn whole(xml: String) -> Pieces {
    stream::iter([Ok(xml)]).boxed()
}

/// An answer of nothing, as operations give that only do something.
fn nothing() -> Pieces {
    stream::empty().boxed()
}

/// `IRETURNVALUE` around what is written of each instance.
fn returned(
    instances: InstanceStream,
    write: impl FnMut(cim::Instance) -> Result<String, Error> + Send + 'static,
) -> Pieces {
    returned_items(each(instances, write))
}

fn returned_items(items: Pieces) -> Pieces {
    let around = |text: &str| stream::iter([Ok(text.to_owned())]);
    around("<IRETURNVALUE>").chain(items).chain(around("</IRETURNVALUE>")).boxed()
}

/// What is written of each instance.
fn each(
    instances: InstanceStream,
    mut write: impl FnMut(cim::Instance) -> Result<String, Error> + Send + 'static,
) -> Pieces {
    instances.map(move |instance| write(instance?)).boxed()
}

/// The path of an instance that a provider answered.
fn path_of(instance: &cim::Instance) -> Result<&cim::ObjectPath, Error> {
    let missing = || Error::failed(format_args!("an instance of {} came without its path", instance.class));
    instance.path.as_ref().ok_or_else(missing)
}

/// A class named in a parameter must be there; DSP0200 has `InvalidParameter` for it beside the operation's own class.
fn require_class(schema: &Schema, class: Option<&Name>) -> Result<(), Error> {
    match class {
        Some(class) => schema.require(class).map(|_| ()).map_err(as_parameter),
        None => Ok(()),
    }
}

/// Refusals that DSP0200 does not list for operations on instances become `InvalidParameter`.
fn as_parameter(error: Error) -> Error {
    match error.status {
        Status::TypeMismatch | Status::NoSuchProperty | Status::InvalidClass => {
            Error { status: Status::InvalidParameter, ..error }
        }
        _ => error,
    }
}
