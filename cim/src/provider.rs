//! The seam between a protocol and a namespace: the operations of DSP0200 on typed values.

use crate::wql::EventQuery;
use crate::{Error, Instance, Name, Namespace, ObjectPath, Schema, Value};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::net::SocketAddr;
use std::sync::Arc;

/// Instances one after the other, made as they are asked for: whoever polls bounds the memory. It outlives the
/// request that opened it, because both protocols pull from it in later requests.
pub type InstanceStream = BoxStream<'static, Result<Instance, Error>>;

/// What an operation answers, later.
pub type Served<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// On whose behalf an operation runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user: String,
    pub role: Role,
    /// The language wanted, as in RFC 4646 (`de-DE`).
    pub locale: Option<String>,
    pub address: Option<SocketAddr>,
}

/// What a user may do; each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Reader,
    Operator,
    Administrator,
}

/// Which neighbours of an instance are wanted (DSP0200, 5.3.2.14 to 17). None asks for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssociationFilter {
    /// The association's class or a superclass of it. For references this is the `result_class` of DSP0200.
    pub assoc_class: Option<Name>,
    /// The class of the instance at the other end, or a superclass of it. References have none.
    pub result_class: Option<Name>,
    /// The association's property that refers to where we stand.
    pub role: Option<Name>,
    /// The association's property that refers to the other end. References have none.
    pub result_role: Option<Name>,
}

/// What a method answers: its return value, and its out parameters in the order of the schema.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodResult {
    pub return_value: Value,
    pub out: Vec<(Name, Value)>,
}

/// A tree of namespaces as both protocols see it.
///
/// Paths that come in have a namespace and typed, complete keys ([`Schema::resolve`]); those that go
/// out are complete. An operation on a namespace that is not there answers `InvalidNamespace`, on an unknown class
/// `InvalidClass`.
pub trait Provider: Send + Sync {
    fn namespaces(&self) -> Vec<Namespace>;

    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>, Error>;

    /// The instance with all properties. `NotFound` where there is none.
    fn get<'a>(&'a self, caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, Instance>;

    /// The instances of the class and of its subclasses, each with its path.
    fn enumerate<'a>(
        &'a self,
        caller: &'a Caller,
        namespace: &'a Namespace,
        class: &'a Name,
    ) -> Served<'a, InstanceStream>;

    /// The instances at the other ends of the associations that refer to `path`, each once.
    fn associators<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream>;

    /// The association instances that refer to `path`, each once.
    fn references<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream>;

    /// Calls a method on an instance, or on a class where `target` has no keys. The arguments have been held
    /// to the schema ([`Schema::arguments`]). A method's own refusal is a return value, never an [`Error`].
    fn invoke<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a ObjectPath,
        method: &'a Name,
        arguments: Vec<(Name, Value)>,
    ) -> Served<'a, MethodResult>;

    /// Makes the instance in `namespace` and answers its path.
    fn create<'a>(
        &'a self,
        _caller: &'a Caller,
        _namespace: &'a Namespace,
        instance: Instance,
    ) -> Served<'a, ObjectPath> {
        refuse(format!("creating instances of {}", instance.class))
    }

    /// Changes the instance at `instance.path`: the properties named in `changed`, or all that it carries.
    fn modify<'a>(
        &'a self,
        _caller: &'a Caller,
        instance: Instance,
        _changed: Option<Vec<Name>>,
    ) -> Served<'a, ()> {
        refuse(format!("modifying instances of {}", instance.class))
    }

    fn delete<'a>(&'a self, _caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, ()> {
        refuse(format!("deleting instances of {}", path.class))
    }

    /// Indications that the query selects, from now on: instances of its event class with `TargetInstance` and
    /// `PreviousInstance` (WMI), or `SourceInstance` and `PreviousInstance` (CIM).
    fn events<'a>(
        &'a self,
        _caller: &'a Caller,
        _namespace: &'a Namespace,
        query: &'a EventQuery,
    ) -> Served<'a, InstanceStream> {
        refuse(format!("subscribing to {}", query.event))
    }
}

fn refuse<T: Send>(what: String) -> Served<'static, T> {
    Box::pin(async move { Err(Error::not_supported(what)) })
}
