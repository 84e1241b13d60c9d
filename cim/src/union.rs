//! Several providers as one: each operation goes to the one that has the namespace.

use crate::wql::EventQuery;
use crate::{
    AssociationFilter, Caller, Error, Instance, InstanceStream, MethodResult, Name, Namespace, ObjectPath,
    Provider, Schema, Served, Value,
};
use futures::{FutureExt, future};
use std::sync::Arc;

/// The namespaces of all these providers; where two have the same one, the first answers.
pub struct Union(pub Vec<Arc<dyn Provider>>);

impl Union {
    fn find(&self, namespace: &Namespace) -> Result<&dyn Provider, Error> {
        let found = self.0.iter().find(|provider| provider.namespaces().contains(namespace));
        found.map(|provider| &**provider).ok_or_else(|| Error::invalid_namespace(namespace))
    }

    fn at(&self, path: &ObjectPath) -> Result<&dyn Provider, Error> {
        let namespace = path.namespace.as_ref();
        self.find(
            namespace.ok_or_else(|| Error::invalid_parameter(format_args!("{path} names no namespace")))?,
        )
    }
}

fn served<'a, T: Send + 'a>(
    provider: Result<&'a dyn Provider, Error>,
    operation: impl FnOnce(&'a dyn Provider) -> Served<'a, T>,
) -> Served<'a, T> {
    match provider {
        Ok(provider) => operation(provider),
        Err(error) => future::ready(Err(error)).boxed(),
    }
}

impl Provider for Union {
    fn namespaces(&self) -> Vec<Namespace> {
        self.0.iter().flat_map(|provider| provider.namespaces()).collect()
    }

    fn schema(&self, namespace: &Namespace) -> Result<Arc<Schema>, Error> {
        self.find(namespace)?.schema(namespace)
    }

    fn get<'a>(&'a self, caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, Instance> {
        served(self.at(path), |it| it.get(caller, path))
    }

    fn enumerate<'a>(
        &'a self,
        caller: &'a Caller,
        namespace: &'a Namespace,
        class: &'a Name,
    ) -> Served<'a, InstanceStream> {
        served(self.find(namespace), |it| it.enumerate(caller, namespace, class))
    }

    fn associators<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        served(self.at(path), |it| it.associators(caller, path, filter))
    }

    fn references<'a>(
        &'a self,
        caller: &'a Caller,
        path: &'a ObjectPath,
        filter: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        served(self.at(path), |it| it.references(caller, path, filter))
    }

    fn invoke<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a ObjectPath,
        method: &'a Name,
        arguments: Vec<(Name, Value)>,
    ) -> Served<'a, MethodResult> {
        served(self.at(target), |it| it.invoke(caller, target, method, arguments))
    }

    fn create<'a>(
        &'a self,
        caller: &'a Caller,
        namespace: &'a Namespace,
        instance: Instance,
    ) -> Served<'a, ObjectPath> {
        served(self.find(namespace), |it| it.create(caller, namespace, instance))
    }

    fn modify<'a>(
        &'a self,
        caller: &'a Caller,
        instance: Instance,
        changed: Option<Vec<Name>>,
    ) -> Served<'a, ()> {
        let path = instance.path.as_ref();
        let provider = path.ok_or_else(|| Error::invalid_parameter("the instance has no path"));
        served(provider.and_then(|path| self.at(path)), |it| it.modify(caller, instance, changed))
    }

    fn delete<'a>(&'a self, caller: &'a Caller, path: &'a ObjectPath) -> Served<'a, ()> {
        served(self.at(path), |it| it.delete(caller, path))
    }

    fn events<'a>(
        &'a self,
        caller: &'a Caller,
        namespace: &'a Namespace,
        query: &'a EventQuery,
    ) -> Served<'a, InstanceStream> {
        served(self.find(namespace), |it| it.events(caller, namespace, query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::mof;
    use futures::executor::block_on;

    #[test]
    fn each_namespace_answers_for_itself() {
        let provider = |namespace: &str| -> Arc<dyn Provider> {
            let mof =
                mof::parse("Qualifier Key : boolean = false, Scope(property); class X { [Key] string A; };");
            let memory = Memory::new(vec![Schema::new(namespace, &mof.unwrap()).unwrap()]);
            memory.insert(&namespace.into(), &Instance::new("X").with("A", namespace)).unwrap();
            Arc::new(memory)
        };
        let union = Union(vec![provider("root/a"), provider("root/b")]);
        let caller = Caller { user: "u".into(), role: crate::Role::Reader, locale: None, address: None };
        let get = |namespace: &str, key: &str| {
            block_on(union.get(&caller, &ObjectPath::class(namespace, "X").with("A", key)))
        };
        assert_eq!(get("root/b", "root/b").unwrap().text("A"), Some("root/b"));
        assert_eq!(get("root/a", "root/b").unwrap_err().status, crate::Status::NotFound);
        assert_eq!(get("root/c", "x").unwrap_err().status, crate::Status::InvalidNamespace);
        assert_eq!(union.namespaces().len(), 2);
    }
}
