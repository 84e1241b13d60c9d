//! Methods: the last part of the action names one, the body has its arguments (DSP0227, clause 9).

use crate::Server;
use crate::fault::{Fault, Kind};
use crate::input::{Declared, read_children};
use crate::message::Message;
use crate::output::{Element, Style, write_value};
use crate::reply::Reply;
use crate::resource::Resource;
use crate::target;
use cim::xml::escape;
use cim::{Caller, Class, Method, MethodResult, Name, Value};
use std::fmt::Write;

pub async fn invoke(
    server: &Server,
    caller: &Caller,
    message: &Message<'_, '_>,
    resource: Resource,
) -> Result<Reply, Fault> {
    let target = target::find(server, message, resource)?;
    let class = target.class()?.clone();
    let action = &message.header.action;
    let name = action.rsplit_once('/').map_or(action.as_str(), |(_, name)| name);
    let method = class.method(name).ok_or_else(|| {
        let error = cim::Error::new(
            cim::Status::MethodNotFound,
            format_args!("{} has no method {name} (the action is {action})", class.name),
        );
        Fault::from(error)
    })?;
    let given = read_arguments(message, &class, method, &target)?;
    let arguments = target.schema.arguments(&class, &method.name, given)?;
    let callee = target.callee(server, caller, method.is_static()).await?;
    let result = server.provider.invoke(caller, &callee, &method.name, arguments).await?;
    let result = target.schema.result(&class, &method.name, result)?;
    let style = Style {
        family: target.family,
        precise_arrays: message.header.flag("UsePreciseArrays").unwrap_or(false),
    };
    let uri = escape(&target.family.class_uri(&target.namespace, &class.name));
    let mut body = format!("<p:{}_OUTPUT xmlns:p=\"{uri}\">", method.name);
    write_result(&mut body, method, &result, &target.schema, style);
    _ = write!(body, "</p:{}_OUTPUT>", method.name);
    Ok(Reply::new(format!("{action}Response"), body))
}

fn read_arguments(
    message: &Message<'_, '_>,
    class: &Class,
    method: &Method,
    target: &target::Target,
) -> Result<Vec<(Name, Value)>, Fault> {
    let declared = |name: &str| {
        method.parameter(name).filter(|it| it.is_in()).map(|it| Declared {
            name: &it.name,
            cim_type: &it.cim_type,
            is_array: it.is_array,
            embedded: it.embedded_class(),
        })
    };
    let unknown = |name: &str| {
        let what = format_args!("{}.{} has no in parameter {name}", class.name, method.name);
        Fault::from(cim::Error::invalid_parameter(what))
    };
    let given = match message.body {
        Some(input) => read_children(input, &target.schema, declared, unknown)?,
        None => vec![],
    };
    let null =
        |name: &Name| given.iter().find(|(own, _)| own == name).is_none_or(|(_, value)| value.is_null());
    let missing = method.parameters.iter().find(|it| it.is_in() && it.is_required() && null(&it.name));
    match missing {
        Some(parameter) => {
            let what =
                format_args!("{}.{}: parameter {} is required", class.name, method.name, parameter.name);
            Err(Fault::of(Kind::MissingParameter, cim::Error::invalid_parameter(what)))
        }
        None => Ok(given),
    }
}

/// Out parameters in declared order, those without value or elements left out, then the return value, as Windows has
/// them.
fn write_result(
    body: &mut String,
    method: &Method,
    result: &MethodResult,
    schema: &cim::Schema,
    style: Style,
) {
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(<[Value]>::is_empty);
    for (name, value) in result.out.iter().filter(|(_, value)| !empty(value)) {
        let Some(parameter) = method.parameter(name.as_str()) else { continue };
        write_value(body, "p", &Element::of_parameter(parameter), value, schema, style);
    }
    let element = Element { name: &"ReturnValue".into(), is_array: false, inline: false };
    write_value(body, "p", &element, &result.return_value, schema, style);
}
