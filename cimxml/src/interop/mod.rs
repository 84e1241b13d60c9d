//! The namespace `interop`: what a client learns of the server (DSP1033), and the filters, destinations and
//! subscriptions that clients make (DSP1054).
//!
//! Everything is held in memory; what clients make goes to a [`Store`] before it is seen.

mod discovery;
mod subscriptions;

pub use discovery::{Description, Profile};
pub use subscriptions::{FailurePolicy, Subscription};

use cim::memory::Memory;
use cim::wql::EventQuery;
use cim::{
    AssociationFilter, Caller, Error, Instance, InstanceStream, MethodResult, Name, Namespace, ObjectPath,
    Provider, Role, Schema, Served, Status, Value, embedded,
};
use futures::{FutureExt, StreamExt, future, stream};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;
use tokio::sync::watch;

/// What makes an operation on subscriptions allowed: whoever subscribes has the server connect to an address.
const SUBSCRIBER: Role = Role::Operator;
/// How many filters, destinations and subscriptions there may be in all.
const INSTANCES_MAX: usize = 1000;

/// Keeps what clients make over a restart.
pub trait Store: Send + Sync {
    /// What was saved last; nothing at first.
    fn load(&self) -> io::Result<Vec<String>>;

    /// Replaces what was saved, durably. The texts are instances in XML; called on a thread that may block.
    fn save(&self, instances: &[String]) -> io::Result<()>;
}

/// Tells the date.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The provider of `interop`.
pub struct Interop {
    schema: Arc<Schema>,
    memory: Memory,
    /// Instances elsewhere that follow a profile, by the path of the association.
    conforming: Vec<(ObjectPath, ObjectPath)>,
    description: Description,
    schemas: Vec<Arc<Schema>>,
    store: Arc<dyn Store>,
    clock: WallClock,
    /// Held while a change is checked, saved and made.
    changing: tokio::sync::Mutex<()>,
    /// What clients made, by [`ObjectPath::identity`].
    instances: Mutex<BTreeMap<String, Instance>>,
    version: watch::Sender<u64>,
}

impl Interop {
    /// The namespace of `schema`, with instances for itself and for the namespaces of `schemas`, and with what the
    /// store has. A stored instance that makes no sense any more is left out, with a warning.
    pub fn new(
        schema: Schema,
        schemas: Vec<Arc<Schema>>,
        description: Description,
        store: Arc<dyn Store>,
        clock: WallClock,
    ) -> Result<Interop, Error> {
        let schema = Arc::new(schema);
        let memory = Memory::new(vec![(*schema).clone()]);
        let schemas: Vec<_> = std::iter::once(schema.clone()).chain(schemas).collect();
        let conforming = discovery::populate(&memory, &schema, &schemas, &description)?;
        let stored = store
            .load()
            .map_err(|error| Error::failed(format_args!("cannot load subscriptions: {error}")))?;
        let interop = Interop {
            schema,
            memory,
            conforming,
            description,
            schemas,
            store,
            clock,
            changing: tokio::sync::Mutex::default(),
            instances: Mutex::default(),
            version: watch::Sender::new(0),
        };
        for text in stored {
            if let Err(error) = interop.restore(&text) {
                tracing::warn!(%error, "a stored subscription is left out");
            }
        }
        Ok(interop)
    }

    /// Changes whenever what clients made does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The subscriptions that deliver.
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let instances = self.instances();
        let subscriptions = instances.values().filter(|it| subscriptions::is_subscription(&it.class));
        subscriptions.filter_map(|it| subscriptions::read(it, &instances, self.schema.namespace())).collect()
    }

    /// Takes a subscription away, because it has expired or cannot be delivered.
    pub async fn remove(&self, path: &ObjectPath) -> Result<(), Error> {
        let _alone = self.changing.lock().await;
        self.take_away(path).await
    }

    /// Sets a subscription's state (`CIM_IndicationSubscription.SubscriptionState`).
    pub async fn set_state(&self, path: &ObjectPath, state: u16) -> Result<(), Error> {
        let _alone = self.changing.lock().await;
        let mut changed = self.find(path)?;
        changed.set("SubscriptionState", state);
        changed.set("TimeOfLastStateChange", subscriptions::date((self.clock)()));
        self.replace(changed).await
    }

    fn namespace(&self) -> &Namespace {
        self.schema.namespace()
    }

    fn instances(&self) -> MutexGuard<'_, BTreeMap<String, Instance>> {
        self.instances.lock().expect("nobody panics while holding this lock")
    }

    fn restore(&self, text: &str) -> Result<(), String> {
        let instance = embedded::read_as(text, &self.schema).map_err(|error| error.to_string())?;
        let add = || {
            let path = self.memory.insert(self.namespace(), &instance)?;
            let instance = self.schema.complete(&instance)?.at(path.clone());
            self.instances().insert(path.identity(), instance);
            Ok(())
        };
        add().map_err(|error: Error| error.to_string())
    }

    fn find(&self, path: &ObjectPath) -> Result<Instance, Error> {
        self.instances().get(&path.identity()).cloned().ok_or_else(|| Error::not_found(path))
    }

    /// Only filters, destinations and subscriptions are clients' own, and not for every client.
    fn admit(&self, caller: &Caller, class: &Name) -> Result<(), Error> {
        if !subscriptions::is_made_by_clients(&self.schema, class) {
            return Err(Error::not_supported(format_args!("changing instances of {class}")));
        }
        if caller.role < SUBSCRIBER {
            let message = format!("{} may not subscribe to indications", caller.user);
            return Err(Error::new(Status::AccessDenied, message));
        }
        Ok(())
    }

    async fn make(&self, caller: &Caller, given: Instance) -> Result<ObjectPath, Error> {
        self.admit(caller, &given.class)?;
        let _alone = self.changing.lock().await;
        let instance = {
            let instances = self.instances();
            if instances.len() >= INSTANCES_MAX {
                let message =
                    format!("there are {INSTANCES_MAX} filters, destinations and subscriptions already");
                return Err(Error::new(Status::ServerLimitsExceeded, message));
            }
            let given = subscriptions::with_defaults(given, &self.description, (self.clock)());
            let instance = self.schema.complete(&self.schema.conform(&given)?)?;
            let instance = subscriptions::check(instance, &self.schemas, &self.schema, &instances)?;
            let path = self.schema.path_of(&instance)?;
            if instances.contains_key(&path.identity()) {
                return Err(Error::new(Status::AlreadyExists, format_args!("{path} exists")));
            }
            instance.at(path)
        };
        let path = subscriptions::path(&instance)?.clone();
        self.save(|instances| _ = instances.insert(path.identity(), instance.clone())).await?;
        self.memory.insert(self.namespace(), &instance)?;
        self.version.send_modify(|version| *version += 1);
        Ok(path)
    }

    async fn change(
        &self,
        caller: &Caller,
        given: Instance,
        changed: Option<Vec<Name>>,
    ) -> Result<(), Error> {
        self.admit(caller, &given.class)?;
        let _alone = self.changing.lock().await;
        let mut merged = self.find(subscriptions::path(&given)?)?;
        let wanted = |name: &Name| changed.as_ref().is_none_or(|changed| changed.contains(name));
        let given = self.schema.conform(&given)?;
        for (name, value) in given.properties.into_iter().filter(|(name, _)| wanted(name)) {
            let is_key = merged.path.as_ref().is_some_and(|path| path.key(name.as_str()).is_some());
            if !is_key {
                merged.set(name, value);
            }
        }
        let merged = {
            let instances = self.instances();
            subscriptions::check(merged, &self.schemas, &self.schema, &instances)?
        };
        self.replace(merged).await
    }

    async fn replace(&self, instance: Instance) -> Result<(), Error> {
        let identity = subscriptions::path(&instance)?.identity();
        self.save(|instances| _ = instances.insert(identity, instance.clone())).await?;
        self.memory.modify(&internal(), instance, None).await?;
        self.version.send_modify(|version| *version += 1);
        Ok(())
    }

    async fn take_away(&self, path: &ObjectPath) -> Result<(), Error> {
        self.find(path)?;
        if let Some(user) = subscriptions::user_of(path, &self.instances()) {
            return Err(Error::failed(format_args!("{path} is used by {user}")));
        }
        self.save(|instances| _ = instances.remove(&path.identity())).await?;
        self.memory.delete(&internal(), path).await?;
        self.version.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Saves what there will be after the change, and only then makes it what there is.
    async fn save(&self, change: impl FnOnce(&mut BTreeMap<String, Instance>)) -> Result<(), Error> {
        let mut next = self.instances().clone();
        change(&mut next);
        let texts: Vec<_> = next.values().map(|instance| embedded::write(instance, &self.schema)).collect();
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || store.save(&texts)).await;
        let saved = saved.unwrap_or_else(|error| Err(io::Error::other(error)));
        saved.map_err(|error| Error::failed(format_args!("cannot save subscriptions: {error}")))?;
        *self.instances() = next;
        Ok(())
    }

    /// Instances in other namespaces that follow a profile: what their paths tell of them.
    fn conforming_elsewhere(&self, path: &ObjectPath, filter: &AssociationFilter) -> Vec<Instance> {
        let allowed =
            |wanted: &Option<Name>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted.is(name));
        let association = Name::from("CIM_ElementConformsToProfile");
        let named = filter.assoc_class.as_ref().is_none_or(|class| self.schema.is_a(&association, class));
        if !named
            || !allowed(&filter.role, "ConformantStandard")
            || !allowed(&filter.result_role, "ManagedElement")
        {
            return vec![];
        }
        let of_class = |element: &ObjectPath| {
            let schema = self.schemas.iter().find(|it| Some(it.namespace()) == element.namespace.as_ref());
            let wanted = filter.result_class.as_ref();
            wanted.is_none_or(|class| schema.is_some_and(|schema| schema.is_a(&element.class, class)))
        };
        let followed =
            self.conforming.iter().filter(|(profile, element)| profile.matches(path) && of_class(element));
        let by_keys = |element: &ObjectPath| {
            let properties = element.bindings().to_vec();
            Instance { properties, ..Instance::new(&element.class) }.at(element.clone())
        };
        followed.map(|(_, element)| by_keys(element)).collect()
    }
}

/// On whose behalf the namespace changes itself.
fn internal() -> Caller {
    Caller { user: "interop".to_owned(), role: Role::Administrator, locale: None, address: None }
}

/// A line for whoever asks later who changed what. The result is a status code (DSP0200), 0 where it was done.
fn audit<T>(caller: &Caller, operation: &str, on: &str, result: &Result<T, Error>) {
    let Caller { user, role, address, .. } = caller;
    let address = address.map(|address| address.to_string());
    let result = result.as_ref().err().map_or(0, |error| error.status.code());
    tracing::info!(target: "audit", user, address, ?role, operation, on, result);
}

impl Provider for Interop {
    fn namespaces(&self) -> Vec<Namespace> {
        self.memory.namespaces()
    }

    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>, Error> {
        self.memory.schema(namespace)
    }

    fn get<'a>(&'a self, caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, Instance> {
        self.memory.get(caller, path)
    }

    fn enumerate<'a>(
        &'a self,
        caller: &'a Caller,
        namespace: &'a Namespace,
        class: &'a Name,
    ) -> Served<'a, InstanceStream> {
        self.memory.enumerate(caller, namespace, class)
    }

    fn associators<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        let elsewhere = self.conforming_elsewhere(path, filter);
        let here = self.memory.associators(caller, path, filter);
        let both = |here: InstanceStream| here.chain(stream::iter(elsewhere.into_iter().map(Ok))).boxed();
        here.map(|here| here.map(both)).boxed()
    }

    fn references<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        self.memory.references(caller, path, filter)
    }

    fn invoke<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a ObjectPath,
        method: &'a Name,
        arguments: Vec<(Name, Value)>,
    ) -> Served<'a, MethodResult> {
        self.memory.invoke(caller, target, method, arguments)
    }

    fn create<'a>(
        &'a self,
        caller: &'a Caller,
        namespace: &'a Namespace,
        instance: Instance,
    ) -> Served<'a, ObjectPath> {
        if namespace != self.namespace() {
            return future::ready(Err(Error::invalid_namespace(namespace))).boxed();
        }
        async move {
            let class = instance.class.to_string();
            let made = self.make(caller, instance).await;
            let on = made.as_ref().map_or(class, ObjectPath::relative);
            audit(caller, "CreateInstance", &on, &made);
            made
        }
        .boxed()
    }

    fn modify<'a>(
        &'a self,
        caller: &'a Caller,
        instance: Instance,
        changed: Option<Vec<Name>>,
    ) -> Served<'a, ()> {
        async move {
            let on = instance.path.as_ref().map_or_else(|| instance.class.to_string(), ObjectPath::relative);
            let changed = self.change(caller, instance, changed).await;
            audit(caller, "ModifyInstance", &on, &changed);
            changed
        }
        .boxed()
    }

    fn delete<'a>(&'a self, caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, ()> {
        async move {
            let gone = match self.admit(caller, &path.class) {
                Ok(()) => self.remove(path).await,
                Err(refused) => Err(refused),
            };
            audit(caller, "DeleteInstance", &path.relative(), &gone);
            gone
        }
        .boxed()
    }

    fn events<'a>(
        &'a self,
        caller: &'a Caller,
        namespace: &'a Namespace,
        query: &'a EventQuery,
    ) -> Served<'a, InstanceStream> {
        self.memory.events(caller, namespace, query)
    }
}
