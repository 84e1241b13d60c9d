//! Whether paths, instances and arguments fit the schema; they come out typed, and spelt as declared.

use super::Schema;
use crate::{CimType, Class, Error, Instance, Keys, MethodResult, Name, ObjectPath, Status, Value};

impl Schema {
    /// The path in this namespace, with the class's own spelling and with typed keys in declared order. Unknown
    /// and missing keys are refused with `InvalidParameter`, an unknown class with `InvalidClass`. A class path
    /// stays one.
    pub fn resolve(&self, path: &ObjectPath) -> Result<ObjectPath, Error> {
        let resolved = self.resolve_partial(path)?;
        let class = self.require(&path.class)?;
        let missing: Vec<_> = class.keys().filter(|key| resolved.key(key.name.as_str()).is_none()).collect();
        if resolved.is_class() || missing.is_empty() {
            return Ok(resolved);
        }
        let names: Vec<_> = missing.iter().map(|key| key.name.as_str()).collect();
        Err(Error::invalid_parameter(format_args!("{path}: key {} is missing", names.join(", "))))
    }

    /// As [`Schema::resolve`], but keys may be missing.
    pub fn resolve_partial(&self, path: &ObjectPath) -> Result<ObjectPath, Error> {
        let class = self.require(&path.class)?;
        let keys = match &path.keys {
            Keys::Bindings(bindings) => Keys::Bindings(self.resolve_keys(class, path, bindings)?),
            keys => keys.clone(),
        };
        let namespace = Some(self.namespace.clone());
        Ok(ObjectPath { host: path.host.clone(), namespace, class: class.name.clone(), keys })
    }

    fn resolve_keys(
        &self,
        class: &Class,
        path: &ObjectPath,
        bindings: &[(Name, Value)],
    ) -> Result<Vec<(Name, Value)>, Error> {
        let only = class.keys().next().filter(|_| class.keys().count() == 1);
        let is = |name: &Name, key: &Name| name == key || (name.as_str().is_empty() && only.is_some());
        let unknown = bindings.iter().find(|(name, _)| !class.keys().any(|key| is(name, &key.name)));
        if let Some((name, _)) = unknown {
            let message = match name.as_str() {
                "" => format!("{path}: {} has several keys, each with a name", class.name),
                name => format!("{path}: {} has no key {name}", class.name),
            };
            return Err(Error::invalid_parameter(message));
        }
        let mut resolved = vec![];
        for key in class.keys() {
            let Some((_, value)) = bindings.iter().find(|(name, _)| is(name, &key.name)) else { continue };
            let value = match &key.cim_type {
                // A path tells numbers from texts only by quotes, which writers forget.
                CimType::String if value.as_str().is_none() => Value::String(value.to_string()),
                other => self.resolve_reference(other.conform(key.name.as_str(), false, value.clone())?)?,
            };
            resolved.push((key.name.clone(), value));
        }
        Ok(resolved)
    }

    /// The path by which `instance` is found: the values of its keys. `InvalidParameter` where one is missing or
    /// NULL; a class without keys has one instance.
    pub fn path_of(&self, instance: &Instance) -> Result<ObjectPath, Error> {
        let class = self.require(&instance.class)?;
        let mut bindings = vec![];
        for key in class.keys() {
            let name = key.name.as_str();
            let value = instance.get(name).filter(|value| !value.is_null());
            let value =
                value.ok_or_else(|| Error::invalid_parameter(format_args!("key {name} is missing")))?;
            bindings.push((key.name.clone(), key.cim_type.conform(name, false, value.clone())?));
        }
        let keys = if bindings.is_empty() { Keys::Singleton } else { Keys::Bindings(bindings) };
        Ok(ObjectPath {
            host: None,
            namespace: Some(self.namespace.clone()),
            class: class.name.clone(),
            keys,
        })
    }

    /// The instance with declared spellings and types, in declared order; properties that it does not carry stay
    /// absent, system properties (`__…`) go. `NoSuchProperty` and `TypeMismatch` name the property.
    pub fn conform(&self, instance: &Instance) -> Result<Instance, Error> {
        let class = self.require(&instance.class)?;
        let own = |name: &Name| !name.as_str().starts_with("__");
        let given = || instance.properties.iter().filter(|(name, _)| own(name));
        if let Some((name, _)) = given().find(|(name, _)| class.property(name.as_str()).is_none()) {
            let message = format!("{} has no property {name}", class.name);
            return Err(Error::new(Status::NoSuchProperty, message));
        }
        let mut conformed = Instance { path: instance.path.clone(), ..Instance::new(&class.name) };
        for property in &class.properties {
            let Some((_, value)) = given().find(|(name, _)| *name == property.name) else { continue };
            let name = property.name.as_str();
            let value = property.cim_type.conform(name, property.is_array, value.clone())?;
            conformed.properties.push((property.name.clone(), value));
        }
        Ok(conformed)
    }

    /// The instance with all properties of its class: what it lacks has its default.
    pub fn complete(&self, instance: &Instance) -> Result<Instance, Error> {
        let class = self.require(&instance.class)?;
        let mut complete = Instance { path: instance.path.clone(), ..Instance::new(&class.name) };
        for property in &class.properties {
            let value = instance.get(property.name.as_str()).unwrap_or(&property.default);
            complete.properties.push((property.name.clone(), value.clone()));
        }
        Ok(complete)
    }

    /// A method's in parameters, typed, spelt and ordered as declared; those not given are absent. `MethodNotFound`; `InvalidParameter` for an unknown, a repeated or a missing required parameter;
    /// `TypeMismatch`.
    pub fn arguments(
        &self,
        class: &Class,
        method: &Name,
        given: Vec<(Name, Value)>,
    ) -> Result<Vec<(Name, Value)>, Error> {
        let method = class.method(method.as_str()).ok_or_else(|| {
            Error::new(Status::MethodNotFound, format_args!("{} has no method {method}", class.name))
        })?;
        let refuse = |name: &Name, what| {
            Err(Error::invalid_parameter(format_args!(
                "{}.{}: parameter {name} {what}",
                class.name, method.name
            )))
        };
        for (index, (name, _)) in given.iter().enumerate() {
            if !method.parameters.iter().any(|it| it.name == *name && it.is_in()) {
                return refuse(name, "is not one of the method's in parameters");
            }
            if given[..index].iter().any(|(other, _)| other == name) {
                return refuse(name, "is given twice");
            }
        }
        let mut given = given;
        let mut arguments = vec![];
        for parameter in method.parameters.iter().filter(|parameter| parameter.is_in()) {
            let position = given.iter().position(|(name, _)| *name == parameter.name);
            let value = position.map(|position| given.swap_remove(position).1);
            if parameter.is_required() && value.as_ref().is_none_or(Value::is_null) {
                return refuse(&parameter.name, "is required");
            }
            let Some(value) = value else { continue };
            let value = parameter.cim_type.conform(parameter.name.as_str(), parameter.is_array, value)?;
            arguments.push((parameter.name.clone(), self.resolve_reference(value)?));
        }
        Ok(arguments)
    }

    /// What a method answered, typed, spelt and ordered as declared. A failure is the provider's.
    pub fn result(&self, class: &Class, method: &Name, result: MethodResult) -> Result<MethodResult, Error> {
        let declared = class.method(method.as_str()).ok_or_else(|| {
            Error::new(Status::MethodNotFound, format_args!("{} has no method {method}", class.name))
        })?;
        let outs = || declared.parameters.iter().filter(|parameter| parameter.is_out());
        if let Some((name, _)) = result.out.iter().find(|(name, _)| !outs().any(|it| it.name == *name)) {
            return Err(Error::failed(format_args!(
                "{}.{method} answered {name}, which is no out parameter",
                class.name
            )));
        }
        let mut out = vec![];
        for parameter in outs() {
            let Some((_, value)) = result.out.iter().find(|(name, _)| *name == parameter.name) else {
                continue;
            };
            let value =
                parameter.cim_type.conform(parameter.name.as_str(), parameter.is_array, value.clone());
            out.push((parameter.name.clone(), value.map_err(Error::failed)?));
        }
        let return_value = declared.return_type.conform("ReturnValue", false, result.return_value);
        Ok(MethodResult { return_value: return_value.map_err(Error::failed)?, out })
    }

    /// References in this namespace get typed keys; those elsewhere stay as they are.
    fn resolve_reference(&self, value: Value) -> Result<Value, Error> {
        match value {
            Value::Reference(path) if path.namespace.as_ref().is_none_or(|it| *it == self.namespace) => {
                Ok(Value::from(self.resolve_partial(&path)?))
            }
            Value::Array(elements) => {
                let elements = elements.into_iter().map(|element| self.resolve_reference(element));
                Ok(Value::Array(elements.collect::<Result<_, _>>()?))
            }
            other => Ok(other),
        }
    }
}
