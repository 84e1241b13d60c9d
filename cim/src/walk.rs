//! From an instance along its associations to its neighbours (DSP0200, 5.3.2.14 to 17): what a provider that knows
//! its association instances, and a protocol that is asked about classes, need.

use crate::{
    AssociationFilter, CimType, Class, Error, Instance, InstanceStream, Name, ObjectPath, Property, Schema,
};
use crate::{Status, Value};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, future, stream};
use std::collections::HashSet;
use std::sync::Arc;

/// Fetches the instance at a path.
pub type Fetch = Arc<dyn Fn(ObjectPath) -> BoxFuture<'static, Result<Instance, Error>> + Send + Sync>;

/// The association classes that can refer to instances of `class`, abstract ones left out, as far as the filter lets
/// them through.
pub fn association_classes<'a>(
    schema: &'a Schema,
    class: &Name,
    filter: &AssociationFilter,
) -> Vec<&'a Arc<Class>> {
    let wanted = |association: &Class| {
        let named = filter.assoc_class.as_ref().is_none_or(|name| schema.is_a(&association.name, name));
        named && ends(schema, association, class, filter).next().is_some()
    };
    let associations = schema.classes().filter(|class| class.is_association() && !class.is_abstract());
    associations.filter(|association| wanted(association)).collect()
}

/// The classes at the other ends of those: what Associators answers for a class.
pub fn associated_classes<'a>(
    schema: &'a Schema,
    class: &Name,
    filter: &AssociationFilter,
) -> Vec<&'a Arc<Class>> {
    let mut found: Vec<&Arc<Class>> = vec![];
    for association in association_classes(schema, class, filter) {
        for (_, other) in ends(schema, association, class, filter) {
            let Some(other) = other.and_then(referred_class).and_then(|name| schema.class(name)) else {
                continue;
            };
            let wanted = filter.result_class.as_ref().is_none_or(|name| schema.is_a(&other.name, name));
            if wanted && !found.iter().any(|known| known.name == other.name) {
                found.push(other);
            }
        }
    }
    found
}

/// Those of the association instances that refer to `path` and pass the filter, each once.
pub fn references(
    associations: InstanceStream,
    path: ObjectPath,
    filter: AssociationFilter,
    schema: Arc<Schema>,
) -> InstanceStream {
    let mut seen = HashSet::new();
    let wanted = move |association: &Instance| {
        let named = filter.assoc_class.as_ref().is_none_or(|name| schema.is_a(&association.class, name));
        let identity = association.path.as_ref().map(ObjectPath::identity);
        named
            && near(association, &path, &filter).next().is_some()
            && identity.is_none_or(|it| seen.insert(it))
    };
    filtered(associations, wanted)
}

/// The instances at the other ends of the association instances that refer to `path`, each once. What `fetch` does
/// not find is left out: an association may outlive what it refers to.
pub fn associators(
    associations: InstanceStream,
    path: ObjectPath,
    filter: AssociationFilter,
    schema: Arc<Schema>,
    fetch: Fetch,
) -> InstanceStream {
    let result_class = filter.result_class.clone();
    let near = references(associations, path.clone(), filter.clone(), schema.clone());
    let mut seen = HashSet::new();
    let others = near.flat_map(move |association| {
        let others = association.map(|association| far(&association, &path, &filter));
        let others = match others {
            Ok(others) => others.into_iter().filter(|it| seen.insert(it.identity())).map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(others)
    });
    let fetched = others.and_then(move |path| fetch(path)).filter(|instance| {
        let gone = instance.as_ref().is_err_and(|error| error.status == Status::NotFound);
        future::ready(!gone)
    });
    let wanted = move |instance: &Instance| {
        result_class.as_ref().is_none_or(|name| schema.is_a(&instance.class, name))
    };
    filtered(fetched.boxed(), wanted)
}

/// The instances of exactly this class.
pub fn exact_class(instances: InstanceStream, class: Name) -> InstanceStream {
    filtered(instances, move |instance| instance.class == class)
}

/// The instances with no more properties than `class` has: what its subclasses add is left out.
pub fn without_subclass_properties(instances: InstanceStream, class: &Class) -> InstanceStream {
    let names: Vec<Name> = class.properties.iter().map(|property| property.name.clone()).collect();
    instances.map_ok(move |instance| instance.only(&names)).boxed()
}

fn filtered(
    instances: InstanceStream,
    mut wanted: impl FnMut(&Instance) -> bool + Send + 'static,
) -> InstanceStream {
    instances.try_filter(move |instance| future::ready(wanted(instance))).boxed()
}

fn referred_class(property: &Property) -> Option<&Name> {
    match &property.cim_type {
        CimType::Reference(class) => Some(class),
        _ => None,
    }
}

/// The reference properties of an association that can refer to `class`, each with each of the others.
fn ends<'a>(
    schema: &'a Schema,
    association: &'a Class,
    class: &'a Name,
    filter: &'a AssociationFilter,
) -> impl Iterator<Item = (&'a Property, Option<&'a Property>)> {
    let related = |one: &Name, other: &Name| schema.is_a(one, other) || schema.is_a(other, one);
    let references =
        move || association.properties.iter().filter(|property| referred_class(property).is_some());
    let is =
        |role: &Option<Name>, property: &Property| role.as_ref().is_none_or(|role| *role == property.name);
    let here = references().filter(move |near| {
        is(&filter.role, near) && referred_class(near).is_some_and(|named| schema.is_a(class, named))
    });
    here.flat_map(move |near| {
        let others = references().filter(move |far| {
            let result = filter.result_class.as_ref().zip(referred_class(far));
            far.name != near.name
                && is(&filter.result_role, far)
                && result.is_none_or(|(wanted, named)| related(wanted, named))
        });
        let others: Vec<_> = others.map(Some).collect();
        let unlimited = filter.result_role.is_none() && filter.result_class.is_none();
        let alone = others.is_empty() && unlimited;
        others.into_iter().chain(alone.then_some(None)).map(move |far| (near, far))
    })
}

/// The properties by which an association instance refers to `path`.
fn near<'a>(
    association: &'a Instance,
    path: &'a ObjectPath,
    filter: &'a AssociationFilter,
) -> impl Iterator<Item = &'a Name> {
    let role = |name: &Name| filter.role.as_ref().is_none_or(|role| role == name);
    let refers = association.properties.iter().filter(move |(name, value)| {
        role(name) && value.as_path().is_some_and(|referred| referred.matches(path))
    });
    refers.map(|(name, _)| name)
}

/// What an association instance refers to besides.
fn far(association: &Instance, path: &ObjectPath, filter: &AssociationFilter) -> Vec<ObjectPath> {
    let near: Vec<_> = near(association, path, filter).collect();
    let role = |name: &Name| filter.result_role.as_ref().is_none_or(|role| role == name);
    let other = |name: &Name| role(name) && near.iter().any(|near| *near != name);
    let others = association.properties.iter().filter(|(name, _)| other(name));
    others
        .filter_map(
            |(_, value)| if let Value::Reference(path) = value { Some((**path).clone()) } else { None },
        )
        .collect()
}
