//! What a request acts on: from resource URI and selectors to a class and the path of an instance (DSP0227,
//! clause 8; wider where clients need it).

use crate::Server;
use crate::fault::{Fault, Kind};
use crate::message::Message;
use crate::reference::{Selectors, read_selectors};
use crate::resource::{Family, Resource};
use cim::{Caller, Class, Keys, Name, Namespace, ObjectPath, Schema, Value, query};
use std::sync::Arc;

/// The classes whose instance may be named with fewer keys than it has: libvirt gives only the `CreationClassName`
/// of a service, and calls that are meant for a class give nothing.
const SERVICES: &str = "CIM_Service";

/// A namespace, and the class in it where the URI names one.
pub struct Target {
    pub family: Family,
    pub namespace: Namespace,
    pub schema: Arc<Schema>,
    pub class: Option<Arc<Class>>,
    /// The namespace apart.
    pub keys: Vec<(Name, Value)>,
}

/// Finds namespace and class. `resource` is the URI of the request.
pub fn find(server: &Server, message: &Message<'_, '_>, resource: Resource) -> Result<Target, Fault> {
    let Resource::Instances { family, namespace, class } = resource else {
        return Err(Fault::new(Kind::ActionNotSupported, "the resource knows no such action"));
    };
    let selectors = message.selectors.map(read_selectors).transpose()?.unwrap_or_default();
    let namespace = namespace_of(server, namespace, &selectors)?;
    let schema = server.provider.schema(&namespace)?;
    let class = class.map(|name| schema.require(&name).cloned()).transpose()?;
    Ok(Target { family, namespace: schema.namespace().clone(), schema, class, keys: selectors.keys })
}

/// The URI's namespace, that of the selector, or the configured one.
pub fn namespace_of(
    server: &Server,
    of_uri: Option<Namespace>,
    selectors: &Selectors,
) -> Result<Namespace, Fault> {
    let default = || server.settings.default_namespace.clone();
    of_uri.or_else(|| selectors.namespace.clone()).or_else(default).ok_or_else(|| {
        Fault::new(
            Kind::InsufficientSelectors,
            "the selector __cimnamespace is missing: it names the namespace",
        )
    })
}

impl Target {
    pub fn class(&self) -> Result<&Arc<Class>, Fault> {
        self.class.as_ref().ok_or_else(|| {
            Fault::new(
                Kind::InvalidResource,
                "the resource URI names no class, which only an enumeration may do",
            )
        })
    }

    /// The complete path of the instance that the selectors name.
    pub async fn instance(&self, server: &Server, caller: &Caller) -> Result<ObjectPath, Fault> {
        let class = self.class()?;
        let keys = self.key_bindings(class)?;
        complete(server, caller, &self.schema, class, keys).await
    }

    /// As [`Target::instance`]; without selectors the class itself, for a static method.
    pub async fn callee(
        &self,
        server: &Server,
        caller: &Caller,
        is_static: bool,
    ) -> Result<ObjectPath, Fault> {
        if is_static && self.keys.is_empty() {
            return Ok(ObjectPath::class(self.namespace.clone(), &self.class()?.name));
        }
        self.instance(server, caller).await
    }

    /// The selectors that are keys. Those that name another property are passed over: some clients send them all.
    fn key_bindings(&self, class: &Class) -> Result<Vec<(Name, Value)>, Fault> {
        let mut keys = vec![];
        for (name, value) in &self.keys {
            match class.property(name.as_str()) {
                Some(property) if property.is_key() => keys.push((name.clone(), value.clone())),
                Some(_) => {}
                None => {
                    let what = format_args!("{} has no property {name} to select by", class.name);
                    return Err(Fault::new(Kind::UnexpectedSelectors, what));
                }
            }
        }
        Ok(keys)
    }
}

/// The complete path of the instance of `class` with these keys.
pub async fn complete(
    server: &Server,
    caller: &Caller,
    schema: &Schema,
    class: &Class,
    keys: Vec<(Name, Value)>,
) -> Result<ObjectPath, Fault> {
    let given = |key: &cim::Property| keys.iter().any(|(name, _)| *name == key.name);
    let missing: Vec<&str> = class.keys().filter(|key| !given(key)).map(|key| key.name.as_str()).collect();
    if !missing.is_empty() && !schema.is_a(&class.name, &SERVICES.into()) {
        let what = format_args!("{} is selected by {} as well", class.name, missing.join(", "));
        return Err(Fault::new(Kind::InsufficientSelectors, what));
    }
    let keys = if keys.is_empty() { Keys::Singleton } else { Keys::Bindings(keys) };
    let namespace = Some(schema.namespace().clone());
    let path = ObjectPath { host: None, namespace, class: class.name.clone(), keys };
    let partial =
        schema.resolve_partial(&path).map_err(|error| Fault::of(Kind::InvalidSelectorValue, error))?;
    query::complete_path(&*server.provider, caller, &partial).await.map_err(|error| match error.status {
        cim::Status::InvalidParameter => Fault::of(Kind::InsufficientSelectors, error),
        _ => Fault::from(error),
    })
}
