//! What both protocols do with a provider: run a query, complete a path.

use crate::wql::{self, AssociationQuery, Context, Query, Select};
use crate::{
    Caller, Error, Instance, InstanceStream, Keys, Name, Namespace, ObjectPath, Provider, Schema, Status,
};
use futures::{StreamExt, TryStreamExt, future};
use std::sync::Arc;

/// Runs a query that asks for instances. Event queries and those for classes are refused with `NotSupported`.
/// `host` is what `__SERVER` answers.
pub async fn execute(
    provider: &dyn Provider,
    caller: &Caller,
    namespace: &Namespace,
    query: Query,
    host: &str,
) -> Result<InstanceStream, Error> {
    let schema = provider.schema(namespace)?;
    match query {
        Query::Select(query) => {
            wql::check_select(&query, &schema)?;
            let instances = provider.enumerate(caller, namespace, &query.class).await?;
            Ok(selected(instances, query, schema, host.to_owned()))
        }
        Query::Associators(query) => {
            let path = origin(provider, caller, namespace, &query, &schema).await?;
            let instances = provider.associators(caller, &path, &query.filter).await?;
            Ok(if query.keys_only { keys_only(instances, schema) } else { instances })
        }
        Query::References(query) => {
            let path = origin(provider, caller, namespace, &query, &schema).await?;
            let instances = provider.references(caller, &path, &query.filter).await?;
            Ok(if query.keys_only { keys_only(instances, schema) } else { instances })
        }
        Query::Event(_) => Err(Error::not_supported("running an event query once")),
    }
}

/// Those of the instances that the query selects, with its columns.
pub fn selected(
    instances: InstanceStream,
    query: Select,
    schema: Arc<Schema>,
    host: String,
) -> InstanceStream {
    let select = move |instance| {
        let context = Context { schema: &schema, host: &host };
        future::ready(Ok(wql::select(&query, instance, context)))
    };
    instances.try_filter_map(select).boxed()
}

/// The complete path of the one instance that `path` names by some of its keys, by none (`Class=@`), or by all.
/// `NotFound`, or `InvalidParameter` where several fit. A class path is refused with `InvalidParameter`.
pub async fn complete_path(
    provider: &dyn Provider,
    caller: &Caller,
    path: &ObjectPath,
) -> Result<ObjectPath, Error> {
    let namespace = path.namespace.as_ref();
    let namespace =
        namespace.ok_or_else(|| Error::invalid_parameter(format_args!("{path} names no namespace")))?;
    let schema = provider.schema(namespace)?;
    let partial = schema.resolve_partial(path)?;
    let class = schema.require(&path.class)?;
    let whole = class.keys().all(|key| partial.key(key.name.as_str()).is_some());
    match &partial.keys {
        Keys::Class => {
            return Err(Error::invalid_parameter(format_args!("{path} names a class, not an instance")));
        }
        _ if whole => return Ok(partial),
        _ => {}
    }
    let mut instances = provider.enumerate(caller, namespace, &path.class).await?;
    let mut found: Option<ObjectPath> = None;
    while let Some(instance) = instances.try_next().await? {
        let Some(candidate) = instance.path.filter(|candidate| fits(candidate, &partial)) else { continue };
        if found.is_some() {
            return Err(Error::invalid_parameter(format_args!("{path} fits several instances")));
        }
        found = Some(candidate);
    }
    found.ok_or_else(|| Error::not_found(path))
}

fn fits(candidate: &ObjectPath, partial: &ObjectPath) -> bool {
    partial.bindings().iter().all(|(name, value)| {
        let of =
            |path: &ObjectPath, value| ObjectPath { keys: Keys::Class, ..path.clone() }.with(name, value);
        let own = candidate.key(name.as_str());
        own.is_some_and(|own| of(partial, own.clone()).matches(&of(partial, value.clone())))
    })
}

async fn origin(
    provider: &dyn Provider,
    caller: &Caller,
    namespace: &Namespace,
    query: &AssociationQuery,
    schema: &Schema,
) -> Result<ObjectPath, Error> {
    if query.class_defs_only || query.schema_only {
        return Err(Error::not_supported("a query for classes"));
    }
    let filter = &query.filter;
    for named in filter.assoc_class.iter().chain(&filter.result_class) {
        schema.require(named)?;
    }
    if query.path.is_class() {
        let message = format!("{} names a class, not an instance", query.path);
        return Err(Error::new(Status::InvalidQuery, message));
    }
    let elsewhere = query.path.namespace.as_ref().is_some_and(|own| own != namespace);
    if elsewhere {
        return Err(Error::not_supported("a query across namespaces"));
    }
    complete_path(provider, caller, &ObjectPath { namespace: Some(namespace.clone()), ..query.path.clone() })
        .await
}

fn keys_only(instances: InstanceStream, schema: Arc<Schema>) -> InstanceStream {
    let keys = move |instance: Instance| {
        let class = schema.class(&instance.class);
        let keys: Vec<Name> =
            class.into_iter().flat_map(|class| class.keys()).map(|key| key.name.clone()).collect();
        instance.only(&keys)
    };
    instances.map_ok(keys).boxed()
}
