//! Extrinsic methods (DSP0200, 5.4.3).

use super::{as_parameter, whole};
use crate::Server;
use crate::answer::Pieces;
use crate::write;
use cim::{
    Caller, CimType, Error, Keys, MethodResult, Name, Namespace, ObjectPath, Schema, Status, Value, query,
};

/// Calls a method. On a class it goes, unless it is static, to the only instance, which is what scripts mean.
pub async fn invoke(
    server: &Server,
    caller: &Caller,
    method: &Name,
    namespace: &Namespace,
    target: ObjectPath,
    arguments: Vec<(Name, Value)>,
) -> Result<Pieces, Error> {
    let schema = server.provider.schema(namespace)?;
    let class = schema.require(&target.class)?;
    let declared = class.method(method.as_str()).ok_or_else(|| {
        Error::new(Status::MethodNotFound, format_args!("{} has no method {method}", class.name))
    })?;
    let mut target = ObjectPath { namespace: Some(namespace.clone()), ..target };
    if target.is_class() && !declared.is_static() {
        target.keys = Keys::Singleton;
    }
    let target = match &target.keys {
        Keys::Singleton => query::complete_path(&*server.provider, caller, &target).await?,
        _ => schema.resolve(&target)?,
    };
    let arguments = schema.arguments(class, method, arguments).map_err(as_parameter)?;
    let result = server.provider.invoke(caller, &target, &declared.name, arguments).await?;
    let result = schema.result(class, method, result)?;
    Ok(whole(write_result(&result, declared, &schema, &server.host)))
}

fn write_result(result: &MethodResult, declared: &cim::Method, schema: &Schema, host: &str) -> String {
    let mut xml = format!("<RETURNVALUE PARAMTYPE=\"{}\">", declared.return_type.keyword());
    write::value(&mut xml, &on_host(&result.return_value, host), Some(schema));
    xml.push_str("</RETURNVALUE>");
    for (name, value) in &result.out {
        let parameter = declared.parameter(name.as_str());
        let cim_type = parameter.map_or(CimType::String, |parameter| parameter.cim_type.clone());
        let embedded = parameter.and_then(cim::Parameter::embedded_class);
        write::parameter(&mut xml, name.as_str(), &cim_type, embedded, &on_host(value, host), Some(schema));
    }
    xml
}

/// References that go out say on which host they are, so that a client can use them as they are.
fn on_host(value: &Value, host: &str) -> Value {
    match value {
        Value::Reference(path) => write::with_host(path, host).into(),
        Value::Array(elements) => Value::Array(elements.iter().map(|it| on_host(it, host)).collect()),
        other => other.clone(),
    }
}
