//! The namespaces as a provider: from a class or a path to the scopes that can have the instances, and from these,
//! through the table of classes, to the instances.

use crate::{
    classes::{self, Make, Row, rows_of},
    events, instance, methods,
    names::uuids,
    refusals::Refusals,
    schema::{self, CIMV2, V2},
    world::{self, Scope, Subject, World, error},
};
use cim::{
    AssociationFilter, Caller, Error, Instance, InstanceStream, MethodResult, Name, Namespace, ObjectPath,
    Provider, Schema, Served, Value, walk, wql,
};
use futures::{FutureExt, StreamExt, stream};
use model::{DeltaId, JobId, VmId};
use service::{
    Host,
    inventory::{self, Parts},
};
use std::{collections::BTreeSet, sync::Arc};

/// Hyper-V's namespaces of one host. Clones share everything.
#[derive(Clone)]
pub struct Hvr {
    pub(crate) host: Arc<Host>,
    pub(crate) refusals: Arc<Refusals>,
    v2: Arc<Schema>,
    cimv2: Arc<Schema>,
}

impl Hvr {
    pub fn new(host: Arc<Host>) -> Hvr {
        Hvr {
            host,
            refusals: Arc::default(),
            v2: Arc::new(schema::schema(V2)),
            cimv2: Arc::new(schema::schema(CIMV2)),
        }
    }

    pub(crate) fn v2(&self) -> &Arc<Schema> {
        &self.v2
    }

    pub(crate) async fn world(&self) -> Arc<World> {
        Arc::new(World::of(&self.host))
    }

    fn find(&self, namespace: &Namespace) -> Result<Arc<Schema>, Error> {
        let found = [&self.v2, &self.cimv2].into_iter().find(|schema| schema.namespace() == namespace);
        found.cloned().ok_or_else(|| Error::invalid_namespace(namespace))
    }

    fn schema_of(&self, path: &ObjectPath) -> Result<Arc<Schema>, Error> {
        let namespace = path.namespace.as_ref();
        self.find(
            namespace.ok_or_else(|| Error::invalid_parameter(format_args!("{path} names no namespace")))?,
        )
    }

    /// What is known of a scope; none where there is no such VM or job.
    pub(crate) async fn subject(&self, scope: Scope, parts: Parts) -> Result<Option<Subject>, Error> {
        let found = match scope {
            Scope::Host => Some(Subject::Host(Box::new(
                world::host_facts(&self.host).await.map_err(|failure| error(&failure))?,
            ))),
            Scope::Vm(vm) => {
                let machine = world::machine(&self.host, vm, parts).await;
                machine.map_err(|failure| error(&failure))?.map(|machine| Subject::Vm(Box::new(machine)))
            }
            Scope::Job(job) => {
                world::job(&self.host, &self.refusals, job).await.map(|view| Subject::Job(Box::new(view)))
            }
        };
        Ok(found)
    }

    /// Everything that these rows need, one subject after the other: the host, then VMs, then jobs.
    async fn subjects(
        &self,
        rows: &[&'static Row],
    ) -> Result<stream::BoxStream<'static, Result<Subject, Error>>, Error> {
        let mut subjects: Vec<Subject> = vec![];
        if rows.iter().any(|row| matches!(row.make, Make::Host(_))) {
            subjects.extend(self.subject(Scope::Host, Parts::default()).await?);
        }
        let mut jobs = vec![];
        if rows.iter().any(|row| matches!(row.make, Make::Job(_))) {
            jobs = world::jobs(&self.host, &self.refusals).await;
        }
        let mut ids = vec![];
        if rows.iter().any(|row| matches!(row.make, Make::Vm(..))) {
            ids = inventory::vm_ids(&self.host).await.map_err(|failure| error(&failure))?;
        }
        let machines = world::machines(self.host.clone(), ids, parts(rows));
        let machines = machines.map(|machine| {
            machine.map(|machine| Subject::Vm(Box::new(machine))).map_err(|failure| error(&failure))
        });
        let jobs = jobs.into_iter().map(|view| Ok(Subject::Job(Box::new(view))));
        Ok(stream::iter(subjects.into_iter().map(Ok)).chain(machines).chain(stream::iter(jobs)).boxed())
    }

    /// The instances that the rows make, as they are asked for.
    async fn instances(&self, rows: Vec<&'static Row>, schema: Arc<Schema>) -> Result<InstanceStream, Error> {
        let subjects = self.subjects(&rows).await?;
        let world = self.world().await;
        let make = move |subject| {
            let made = match subject {
                Ok(subject) => finished(&rows, &world, &subject, &schema),
                Err(error) => vec![Err(error)],
            };
            stream::iter(made)
        };
        Ok(subjects.flat_map(make).boxed())
    }

    /// The instances that the rows make from these scopes.
    pub(crate) async fn instances_of(
        &self,
        scopes: impl IntoIterator<Item = Scope>,
        rows: &[&'static Row],
        schema: &Schema,
    ) -> Result<Vec<Instance>, Error> {
        let world = self.world().await;
        let mut found = vec![];
        for scope in scopes {
            if let Some(subject) = self.subject(scope, parts(rows)).await? {
                for made in finished(rows, &world, &subject, schema) {
                    found.push(made?);
                }
            }
        }
        Ok(found)
    }

    /// Where what a path names can be: the VMs, points and jobs whose ids are in its keys; the host, where there are
    /// none, or where only the host has such instances.
    async fn scopes(&self, path: &ObjectPath) -> BTreeSet<Scope> {
        let ids = uuids::<VmId>(path);
        let mut own = classes::rows().filter(|row| path.class.is(row.class));
        let mut scopes = BTreeSet::new();
        if ids.is_empty() || own.all(|row| row.fits(&Scope::Host)) {
            scopes.insert(Scope::Host);
        }
        for id in ids {
            scopes.insert(Scope::Vm(id));
            scopes.insert(Scope::Job(JobId(id.0)));
            if is_settings(path) && self.host.owner(id).is_none() {
                let replica = inventory::vm_of_point(&self.host, DeltaId(id.0)).await;
                scopes.extend(replica.map(Scope::Vm));
            }
        }
        scopes
    }

    async fn fetch(&self, path: &ObjectPath) -> Result<Instance, Error> {
        let schema = self.schema_of(path)?;
        let path = schema.resolve(path)?;
        let rows: Vec<_> = classes::rows().filter(|row| path.class.is(row.class)).collect();
        let wanted = |scope: &Scope| rows.iter().any(|row| row.fits(scope));
        let scopes: Vec<_> = self.scopes(&path).await.into_iter().filter(wanted).collect();
        let found = self.instances_of(scopes, &rows, &schema).await?;
        let identity = path.identity();
        let is = |instance: &Instance| instance.path.as_ref().is_some_and(|own| own.identity() == identity);
        found.into_iter().find(is).ok_or_else(|| Error::not_found(&path))
    }

    /// The association instances that can refer to `path`.
    async fn near(
        &self,
        path: &ObjectPath,
        filter: &AssociationFilter,
        schema: &Arc<Schema>,
    ) -> Result<InstanceStream, Error> {
        let associations = walk::association_classes(schema, &path.class, filter);
        let is = |row: &Row| associations.iter().any(|association| association.name.is(row.class));
        let rows: Vec<_> = classes::rows().filter(|row| is(row)).collect();
        let own = uuids::<VmId>(path);
        if own.is_empty() {
            return self.instances(rows, schema.clone()).await;
        }
        // What refers to a VM is made from it, from its replica if it is a test VM, and from jobs.
        let mut scopes = self.scopes(path).await;
        for vm in own {
            if let Some(Subject::Vm(machine)) = self.subject(Scope::Vm(vm), Parts::default()).await? {
                scopes.extend(machine.test_of.map(Scope::Vm));
            }
        }
        let jobs: Vec<_> = rows.iter().copied().filter(|row| matches!(row.make, Make::Job(_))).collect();
        scopes.retain(|scope| !matches!(scope, Scope::Job(_)));
        let made = self.instances_of(scopes, &rows, schema).await?;
        let of_jobs = self.instances(jobs, schema.clone()).await?;
        Ok(stream::iter(made.into_iter().map(Ok)).chain(of_jobs).boxed())
    }
}

impl Row {
    fn fits(&self, scope: &Scope) -> bool {
        matches!(
            (&self.make, scope),
            (Make::Host(_), Scope::Host) | (Make::Vm(..), Scope::Vm(_)) | (Make::Job(_), Scope::Job(_))
        )
    }
}

/// All that the rows need of a VM.
pub fn parts(rows: &[&'static Row]) -> Parts {
    rows.iter().fold(Parts::default(), |all, row| match row.make {
        Make::Vm(parts, _) => Parts { vm: all.vm || parts.vm, points: all.points || parts.points },
        _ => all,
    })
}

fn finished(
    rows: &[&'static Row],
    world: &World,
    subject: &Subject,
    schema: &Schema,
) -> Vec<Result<Instance, Error>> {
    let made = rows.iter().flat_map(|row| row.instances(world, subject));
    made.map(|made| instance::finish(&made, schema)).collect()
}

/// Whether the path, or one that it refers to, may name a recovery point.
fn is_settings(path: &ObjectPath) -> bool {
    let referred = path.bindings().iter().filter_map(|(_, value)| value.as_path());
    path.class.is("Msvm_VirtualSystemSettingData") || referred.into_iter().any(is_settings)
}

impl Provider for Hvr {
    fn namespaces(&self) -> Vec<Namespace> {
        vec![self.v2.namespace().clone(), self.cimv2.namespace().clone()]
    }

    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>, Error> {
        self.find(namespace)
    }

    fn get<'a>(&'a self, _caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, Instance> {
        self.fetch(path).boxed()
    }

    fn enumerate<'a>(
        &'a self,
        _caller: &'a Caller,
        namespace: &'a Namespace,
        class: &'a Name,
    ) -> Served<'a, InstanceStream> {
        async move {
            let schema = self.find(namespace)?;
            schema.require(class)?;
            let rows = rows_of(&schema, class).collect();
            self.instances(rows, schema.clone()).await
        }
        .boxed()
    }

    fn associators<'a>(
        &'a self,
        _caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        async move {
            let schema = self.schema_of(path)?;
            let path = schema.resolve(path)?;
            let near = self.near(&path, filter, &schema).await?;
            let hvr = self.clone();
            let fetch: walk::Fetch = Arc::new(move |path| {
                let hvr = hvr.clone();
                async move { hvr.fetch(&path).await }.boxed()
            });
            Ok(walk::associators(near, path, filter.clone(), schema, fetch))
        }
        .boxed()
    }

    fn references<'a>(
        &'a self,
        _caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        async move {
            let schema = self.schema_of(path)?;
            let path = schema.resolve(path)?;
            // For references the filter's result class names the association (DSP0200, 5.3.2.16).
            let near = self.near(&path, filter, &schema).await?;
            Ok(walk::references(near, path, filter.clone(), schema))
        }
        .boxed()
    }

    fn invoke<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a ObjectPath,
        method: &'a Name,
        arguments: Vec<(Name, Value)>,
    ) -> Served<'a, MethodResult> {
        async move {
            let schema = self.schema_of(target)?;
            let target = schema.resolve(target)?;
            let class = schema.require(&target.class)?;
            if class.method(method.as_str()).is_none() {
                let message = format!("{} has no method {method}", class.name);
                return Err(Error::new(cim::Status::MethodNotFound, message));
            }
            if !target.is_class() {
                self.fetch(&target).await?;
            }
            let result = methods::invoke(self, caller, &target, method, arguments).await?;
            schema.result(class, method, result)
        }
        .boxed()
    }

    fn events<'a>(
        &'a self,
        _caller: &'a Caller,
        namespace: &'a Namespace,
        query: &'a wql::EventQuery,
    ) -> Served<'a, InstanceStream> {
        async move {
            let schema = self.find(namespace)?;
            wql::check_event(query, &schema)?;
            events::subscribe(self.clone(), schema, query.clone()).await
        }
        .boxed()
    }
}
