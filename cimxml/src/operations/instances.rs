//! Instances, one and all of a class, read and changed (DSP0200, 5.4.2.2 to 5.4.2.12, 5.4.2.18 and 19).

use super::{Operation, as_parameter, nothing, path_of, returned, whole};
use crate::answer::Pieces;
use crate::write::{self, InstanceView};
use cim::{Error, Instance, Name, Schema, Status, Value};

/// What else may be said of which no instance takes notice: they have no qualifiers, and are never local.
const IGNORED: [&str; 2] = ["LocalOnly", "IncludeQualifiers"];

pub async fn get(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let path = operation.parameters.instance_path("InstanceName", &operation.schema)?;
    let view = operation.instance_view()?;
    operation.parameters.finish()?;
    let instance = operation.server.provider.get(operation.caller, &path).await?;
    let mut xml = "<IRETURNVALUE>".to_owned();
    write::instance(&mut xml, &instance, Some(&operation.schema), &view);
    Ok(whole(xml + "</IRETURNVALUE>"))
}

pub async fn enumerate(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let class = operation.parameters.required_class("ClassName")?;
    let view = operation.instance_view()?;
    let view = operation.narrowed(&class, view)?;
    operation.parameters.finish()?;
    let instances =
        operation.server.provider.enumerate(operation.caller, &operation.namespace, &class).await?;
    let schema = operation.schema;
    Ok(returned(instances, move |instance| {
        let mut xml = "<VALUE.NAMEDINSTANCE>".to_owned();
        write::name(&mut xml, path_of(&instance)?);
        write::instance(&mut xml, &instance, Some(&schema), &view);
        Ok(xml + "</VALUE.NAMEDINSTANCE>")
    }))
}

pub async fn enumerate_names(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let class = operation.parameters.required_class("ClassName")?;
    operation.parameters.finish()?;
    let instances =
        operation.server.provider.enumerate(operation.caller, &operation.namespace, &class).await?;
    Ok(returned(instances, |instance| {
        let mut xml = String::new();
        write::name(&mut xml, path_of(&instance)?);
        Ok(xml)
    }))
}

pub async fn create(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let given = operation.parameters.instance("NewInstance")?;
    operation.parameters.finish()?;
    let class = &operation.schema.require(&given.class)?.name;
    let given = operation.schema.conform(&given).map_err(as_parameter)?;
    tracing::debug!(%class, namespace = %operation.namespace, "creates an instance");
    let path = operation.server.provider.create(operation.caller, &operation.namespace, given).await?;
    let mut xml = "<IRETURNVALUE>".to_owned();
    write::name(&mut xml, &path);
    Ok(whole(xml + "</IRETURNVALUE>"))
}

pub async fn modify(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let given = operation.parameters.instance("ModifiedInstance")?;
    let changed = operation.parameters.names("PropertyList")?;
    operation.parameters.ignore(&["IncludeQualifiers"]);
    operation.parameters.finish()?;
    let path = given.path.clone();
    let path = path.ok_or_else(|| Error::invalid_parameter("ModifyInstance: the instance has no path"))?;
    let path = operation.schema.resolve(&path)?;
    if given.class != path.class {
        let message = format!("ModifyInstance: {path} names no instance of {}", given.class);
        return Err(Error::invalid_parameter(message));
    }
    let mut instance = conform(&operation.schema, &given)?.at(path);
    // What is to change and has no new value gets the one that nobody set (DSP0200, 5.4.2.8).
    for name in changed.iter().flatten() {
        if instance.get(name.as_str()).is_none() {
            let unset = default(&operation.schema, &instance.class, name)?;
            instance.set(name, unset);
        }
    }
    operation.server.provider.modify(operation.caller, instance, changed).await?;
    Ok(nothing())
}

pub async fn delete(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let path = operation.parameters.instance_path("InstanceName", &operation.schema)?;
    operation.parameters.finish()?;
    operation.server.provider.delete(operation.caller, &path).await?;
    Ok(nothing())
}

pub async fn get_property(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let path = operation.parameters.instance_path("InstanceName", &operation.schema)?;
    let name = Name::from(operation.parameters.required_text("PropertyName")?);
    operation.parameters.finish()?;
    default(&operation.schema, &path.class, &name)?;
    let instance = operation.server.provider.get(operation.caller, &path).await?;
    let mut xml = "<IRETURNVALUE>".to_owned();
    let value = instance.get(name.as_str()).unwrap_or(&Value::Null);
    write::value(&mut xml, value, Some(&operation.schema));
    Ok(whole(xml + "</IRETURNVALUE>"))
}

pub async fn set_property(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let path = operation.parameters.instance_path("InstanceName", &operation.schema)?;
    let name = Name::from(operation.parameters.required_text("PropertyName")?);
    let value = operation.parameters.value("NewValue")?;
    operation.parameters.finish()?;
    let given = Instance::new(&path.class).with(&name, value);
    let instance = operation.schema.conform(&given)?.at(path);
    operation.server.provider.modify(operation.caller, instance, Some(vec![name])).await?;
    Ok(nothing())
}

impl Operation<'_> {
    /// `PropertyList` and `IncludeClassOrigin`, and what no instance takes notice of.
    pub fn instance_view(&mut self) -> Result<InstanceView, Error> {
        self.parameters.ignore(&IGNORED);
        let properties = self.parameters.names("PropertyList")?;
        let class_origin = self.parameters.boolean("IncludeClassOrigin", false)?;
        Ok(InstanceView { properties, class_origin })
    }

    /// `DeepInheritance`: without it, subclasses add no properties.
    pub fn narrowed(&mut self, class: &Name, view: InstanceView) -> Result<InstanceView, Error> {
        let declared = self.schema.require(class)?;
        if self.parameters.boolean("DeepInheritance", true)? {
            return Ok(view);
        }
        let own = declared.properties.iter().map(|property| property.name.clone());
        let wanted = own.filter(|name| view.properties.as_ref().is_none_or(|list| list.contains(name)));
        Ok(InstanceView { properties: Some(wanted.collect()), ..view })
    }
}

fn conform(schema: &Schema, given: &Instance) -> Result<Instance, Error> {
    schema.conform(given).map_err(|error| match error.status {
        Status::TypeMismatch => as_parameter(error),
        _ => error,
    })
}

/// What a property has when nobody sets it. `NoSuchProperty` where the class has none of that name.
fn default(schema: &Schema, class: &Name, name: &Name) -> Result<Value, Error> {
    let property = schema.require(class)?.property(name.as_str());
    let unknown = || Error::new(Status::NoSuchProperty, format_args!("{class} has no property {name}"));
    property.map(|property| property.default.clone()).ok_or_else(unknown)
}
