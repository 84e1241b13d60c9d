//! A provider that holds its instances in memory: for namespaces whose instances clients make, and for tests of what
//! stands above a provider.

#[cfg(test)]
mod tests;

use crate::wql::{self, Context, EventQuery};
use crate::{
    AssociationFilter, Caller, Error, Instance, InstanceStream, MethodResult, Name, Namespace, ObjectPath,
    Provider, Schema, Served, Status, Value, walk,
};
use futures::channel::mpsc;
use futures::{FutureExt, StreamExt, future, stream};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// How many events wait for a subscriber that does not ask for them; further ones are lost to it.
const EVENTS_WAITING_MAX: usize = 1000;

/// What [`Memory`] calls for every method.
pub type Methods =
    Box<dyn Fn(&Caller, &ObjectPath, &Name, Vec<(Name, Value)>) -> Result<MethodResult, Error> + Send + Sync>;

/// Instances by namespace and path; every change is told to the subscribers.
pub struct Memory {
    schemas: Vec<Arc<Schema>>,
    instances: Arc<Mutex<Instances>>,
    subscribers: Mutex<Vec<Subscriber>>,
    methods: Methods,
}

/// By [`ObjectPath::identity`].
type Instances = BTreeMap<String, Instance>;

struct Subscriber {
    query: EventQuery,
    schema: Arc<Schema>,
    events: mpsc::Sender<Result<Instance, Error>>,
}

impl Memory {
    pub fn new(schemas: Vec<Schema>) -> Memory {
        let refuse: Methods = Box::new(|_, target, method, _| {
            let message = format!("{}.{method} is not available", target.class);
            Err(Error::new(Status::MethodNotAvailable, message))
        });
        Memory {
            schemas: schemas.into_iter().map(Arc::new).collect(),
            instances: Arc::default(),
            subscribers: Mutex::default(),
            methods: refuse,
        }
    }

    /// With this answer to method calls.
    #[must_use]
    pub fn with_methods(mut self, methods: Methods) -> Memory {
        self.methods = methods;
        self
    }

    /// Adds an instance with all properties of its class. `AlreadyExists`, and what [`Schema::conform`] refuses.
    pub fn insert(&self, namespace: &Namespace, instance: &Instance) -> Result<ObjectPath, Error> {
        let schema = self.schema(namespace)?;
        if schema.require(&instance.class)?.is_abstract() {
            return Err(Error::not_supported(format_args!(
                "an instance of the abstract class {}",
                instance.class
            )));
        }
        let instance = schema.complete(&schema.conform(instance)?)?;
        let path = schema.path_of(&instance)?;
        let instance = instance.at(path.clone());
        let mut instances = self.instances();
        if instances.contains_key(&path.identity()) {
            return Err(Error::new(Status::AlreadyExists, format_args!("{path} exists")));
        }
        instances.insert(path.identity(), instance.clone());
        drop(instances);
        self.tell("Creation", instance, None);
        Ok(path)
    }

    fn instances(&self) -> MutexGuard<'_, Instances> {
        lock(&self.instances)
    }

    fn resolve(&self, path: &ObjectPath) -> Result<ObjectPath, Error> {
        let namespace = path.namespace.as_ref();
        let namespace =
            namespace.ok_or_else(|| Error::invalid_parameter(format_args!("{path} names no namespace")))?;
        self.schema(namespace)?.resolve(path)
    }

    fn change(&self, instance: &Instance, changed: Option<&[Name]>) -> Result<(), Error> {
        let path =
            instance.path.as_ref().ok_or_else(|| Error::invalid_parameter("the instance has no path"))?;
        let path = self.resolve(path)?;
        let schema = self.schema(path.namespace.as_ref().expect("a resolved path has a namespace"))?;
        let given = schema.conform(&Instance { class: path.class.clone(), ..instance.clone() })?;
        let wanted = |name: &Name| changed.is_none_or(|changed| changed.contains(name));
        let mut instances = self.instances();
        let stored = instances.get_mut(&path.identity()).ok_or_else(|| Error::not_found(&path))?;
        let before = stored.clone();
        for (name, value) in given.properties.into_iter().filter(|(name, _)| wanted(name)) {
            if path.key(name.as_str()).is_none() {
                stored.set(name, value);
            }
        }
        let after = stored.clone();
        drop(instances);
        self.tell("Modification", after, Some(before));
        Ok(())
    }

    fn remove(&self, path: &ObjectPath) -> Result<(), Error> {
        let path = self.resolve(path)?;
        let removed = self.instances().remove(&path.identity()).ok_or_else(|| Error::not_found(&path))?;
        self.tell("Deletion", removed, None);
        Ok(())
    }

    /// Tells an event to those who asked for it, in the words of their query: WMI's or CIM's.
    fn tell(&self, kind: &str, instance: Instance, before: Option<Instance>) {
        let namespace = instance.path.as_ref().and_then(|path| path.namespace.clone());
        lock(&self.subscribers).retain_mut(|subscriber| {
            if namespace.as_ref().is_some_and(|it| it == subscriber.schema.namespace())
                && let Some(event) = subscriber.event(kind, &instance, before.as_ref())
            {
                // One that is full loses the event, and stays.
                _ = subscriber.events.try_send(Ok(event));
            }
            !subscriber.events.is_closed()
        });
    }

    fn associations(&self, namespace: &Namespace) -> InstanceStream {
        let schema = self.schema(namespace).ok();
        let is_association = |instance: &Instance| {
            let class = schema.as_ref().and_then(|schema| schema.class(&instance.class));
            class.is_some_and(|class| class.is_association())
        };
        self.stream(namespace, is_association)
    }

    /// One instance is copied at a time; one that has gone meanwhile is left out.
    fn stream(&self, namespace: &Namespace, wanted: impl Fn(&Instance) -> bool) -> InstanceStream {
        let here = |instance: &Instance| {
            instance.path.as_ref().is_some_and(|it| it.namespace.as_ref() == Some(namespace))
        };
        let found = self.instances();
        let found = found.iter().filter(|(_, instance)| here(instance) && wanted(instance));
        let identities: Vec<String> = found.map(|(identity, _)| identity.clone()).collect();
        let instances = self.instances.clone();
        let get = move |identity: String| future::ready(lock(&instances).get(&identity).cloned().map(Ok));
        stream::iter(identities).filter_map(get).boxed()
    }
}

impl Subscriber {
    fn event(&self, kind: &str, instance: &Instance, before: Option<&Instance>) -> Option<Instance> {
        let wmi = format!("__Instance{kind}Event");
        let asked = &self.query.event;
        let in_cims_words = asked.folded().starts_with("cim_");
        let class = if in_cims_words { format!("CIM_Inst{kind}") } else { wmi };
        let base = ["__InstanceOperationEvent", "CIM_InstIndication", "CIM_Indication"];
        if !asked.is(&class) && !base.iter().any(|base| asked.is(base)) {
            return None;
        }
        let target = if in_cims_words { "SourceInstance" } else { "TargetInstance" };
        let mut event = Instance::new(class).with(target, instance.clone());
        if let Some(before) = before {
            event.set("PreviousInstance", before.clone());
        }
        let context = Context { schema: &self.schema, host: "" };
        let condition = self.query.condition.as_ref();
        let selected = condition.is_none_or(|it| wql::evaluate(it, &event, context) == Some(true));
        selected.then(|| wql::project(event, self.query.columns.as_deref(), context))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding this lock")
}

impl Provider for Memory {
    fn namespaces(&self) -> Vec<Namespace> {
        self.schemas.iter().map(|schema| schema.namespace().clone()).collect()
    }

    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>, Error> {
        let found = self.schemas.iter().find(|schema| schema.namespace() == namespace);
        found.cloned().ok_or_else(|| Error::invalid_namespace(namespace))
    }

    fn get<'a>(&'a self, _caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, Instance> {
        let found = self.resolve(path).and_then(|path| {
            self.instances().get(&path.identity()).cloned().ok_or_else(|| Error::not_found(&path))
        });
        future::ready(found).boxed()
    }

    fn enumerate<'a>(
        &'a self,
        _caller: &'a Caller,
        namespace: &'a Namespace,
        class: &'a Name,
    ) -> Served<'a, InstanceStream> {
        let found = self.schema(namespace).and_then(|schema| {
            schema.require(class)?;
            Ok(self.stream(namespace, |instance| schema.is_a(&instance.class, class)))
        });
        future::ready(found).boxed()
    }

    fn associators<'a>(
        &'a self,
        _caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        let found = self.resolve(path).and_then(|path| {
            let namespace = path.namespace.clone().expect("a resolved path has a namespace");
            let schema = self.schema(&namespace)?;
            let instances = self.instances.clone();
            let fetch: walk::Fetch = Arc::new(move |path| {
                let found = lock(&instances).get(&path.identity()).cloned();
                future::ready(found.ok_or_else(|| Error::not_found(&path))).boxed()
            });
            Ok(walk::associators(self.associations(&namespace), path, filter.clone(), schema, fetch))
        });
        future::ready(found).boxed()
    }

    fn references<'a>(
        &'a self,
        _caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        let found = self.resolve(path).and_then(|path| {
            let namespace = path.namespace.clone().expect("a resolved path has a namespace");
            let schema = self.schema(&namespace)?;
            Ok(walk::references(self.associations(&namespace), path, filter.clone(), schema))
        });
        future::ready(found).boxed()
    }

    fn invoke<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a ObjectPath,
        method: &'a Name,
        arguments: Vec<(Name, Value)>,
    ) -> Served<'a, MethodResult> {
        future::ready((self.methods)(caller, target, method, arguments)).boxed()
    }

    fn create<'a>(
        &'a self,
        _caller: &'a Caller,
        namespace: &'a Namespace,
        instance: Instance,
    ) -> Served<'a, ObjectPath> {
        future::ready(self.insert(namespace, &instance)).boxed()
    }

    fn modify<'a>(
        &'a self,
        _caller: &'a Caller,
        instance: Instance,
        changed: Option<Vec<Name>>,
    ) -> Served<'a, ()> {
        future::ready(self.change(&instance, changed.as_deref())).boxed()
    }

    fn delete<'a>(&'a self, _caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, ()> {
        future::ready(self.remove(path)).boxed()
    }

    fn events<'a>(
        &'a self,
        _caller: &'a Caller,
        namespace: &'a Namespace,
        query: &'a EventQuery,
    ) -> Served<'a, InstanceStream> {
        let subscribed = self.schema(namespace).and_then(|schema| {
            wql::check_event(query, &schema)?;
            let (events, waiting) = mpsc::channel(EVENTS_WAITING_MAX);
            lock(&self.subscribers).push(Subscriber { query: query.clone(), schema, events });
            Ok(waiting.boxed())
        });
        future::ready(subscribed).boxed()
    }
}
