//! What an enumeration selects: all instances of a class, or those that a filter lets through.

use crate::Server;
use crate::fault::{Fault, Kind};
use crate::message::{attribute, elements, protocol_child, raw_text, text};
use crate::ns;
use crate::output::Extent;
use crate::reference::{read_endpoint, read_selectors};
use crate::target::{Target, complete};
use cim::wql::{self, Query};
use cim::{AssociationFilter, Caller, Instance, InstanceStream, Keys, Name, ObjectPath, Value, query};
use futures::{StreamExt, TryStreamExt, future};
use roxmltree::Node;

/// What is to be enumerated, read and checked; it can be opened more than once.
pub enum Selection {
    /// The instances of the URI's class.
    Class(Name, Polymorphism),
    Query(Query),
    /// Those of the class with these values.
    Selectors(Name, Vec<(Name, Value)>),
    Associated {
        origin: ObjectPath,
        filter: AssociationFilter,
        associations: bool,
        only: Option<Vec<Name>>,
    },
}

/// How instances of subclasses come (DSP0227, 8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polymorphism {
    /// As what they are.
    Include,
    /// As instances of the class that was asked for.
    Exclude,
    /// Not at all.
    None,
}

/// Reads what an `Enumerate` element asks for.
pub async fn read(
    server: &Server,
    caller: &Caller,
    target: &Target,
    enumerate: Node<'_, '_>,
) -> Result<Selection, Fault> {
    let Some(filter) = protocol_child(enumerate, "Filter") else {
        let Some(class) = &target.class else {
            let what = "an enumeration of * needs a filter that says what is wanted";
            return Err(Fault::new(Kind::Unsupported("FilteringRequired"), what));
        };
        if let Some((name, _)) = target.keys.first() {
            let what = format_args!("an enumeration is not narrowed by selectors, but by a filter: {name}");
            return Err(Fault::new(Kind::UnexpectedSelectors, what));
        }
        return Ok(Selection::Class(class.name.clone(), polymorphism(enumerate)?));
    };
    match attribute(filter, "Dialect").unwrap_or_default().trim() {
        ns::WQL => read_query(&raw_text(filter)).map(Selection::Query),
        ns::SELECTOR_FILTER => read_selector_filter(target, filter),
        ns::ASSOCIATION_FILTER => read_association_filter(server, caller, target, filter).await,
        other => {
            let what = format_args!("filters in {other:?} are not known");
            Err(Fault::new(Kind::FilterDialectUnavailable, what))
        }
    }
}

pub fn read_query(text: &str) -> Result<Query, Fault> {
    wql::parse(text).map_err(|error| {
        let error =
            cim::Error::new(cim::Status::InvalidQuery, format_args!("the query cannot be read: {error}"));
        Fault::of(Kind::CannotProcessFilter, error)
    })
}

fn polymorphism(enumerate: Node<'_, '_>) -> Result<Polymorphism, Fault> {
    match protocol_child(enumerate, "PolymorphismMode").map(text).as_deref() {
        None | Some("IncludeSubClassProperties") => Ok(Polymorphism::Include),
        Some("ExcludeSubClassProperties") => Ok(Polymorphism::Exclude),
        Some("None") => Ok(Polymorphism::None),
        Some(other) => {
            let what = format_args!("PolymorphismMode is not {other:?}");
            Err(Fault::new(Kind::Unsupported("PolymorphismMode"), what))
        }
    }
}

fn read_selector_filter(target: &Target, filter: Node<'_, '_>) -> Result<Selection, Fault> {
    let class = target.class()?;
    let wrong = |what: String| Fault::new(Kind::CannotProcessFilter, what);
    let set = elements(filter).find(|it| it.tag_name().name() == "SelectorSet");
    let set = set.ok_or_else(|| wrong("a selector filter has a SelectorSet".to_owned()))?;
    let mut selected = vec![];
    for (name, value) in read_selectors(set)?.keys {
        let unknown = || wrong(format!("{} has no property {name}", class.name));
        let property = class.property(name.as_str()).ok_or_else(unknown)?;
        let value = property.cim_type.conform(property.name.as_str(), false, value);
        selected.push((property.name.clone(), value.map_err(|error| wrong(error.to_string()))?));
    }
    Ok(Selection::Selectors(class.name.clone(), selected))
}

async fn read_association_filter(
    server: &Server,
    caller: &Caller,
    target: &Target,
    filter: Node<'_, '_>,
) -> Result<Selection, Fault> {
    let wrong = |what: &str| Fault::new(Kind::CannotProcessFilter, what);
    let (asked, associations) = protocol_child(filter, "AssociatedInstances")
        .map(|it| (it, false))
        .or_else(|| protocol_child(filter, "AssociationInstances").map(|it| (it, true)))
        .ok_or_else(|| wrong("an association filter holds AssociatedInstances or AssociationInstances"))?;
    let object =
        protocol_child(asked, "Object").ok_or_else(|| wrong("the filter does not name its Object"))?;
    let object = read_endpoint(object)?;
    if object.namespace.as_ref().is_some_and(|it| *it != target.namespace) {
        return Err(wrong("the Object is in another namespace than the enumeration"));
    }
    let named = |name: &str| {
        let given = protocol_child(asked, name).map(text).filter(|it| !it.is_empty());
        given.map(Name::from)
    };
    let (assoc_class, result_class) = (named("AssociationClassName"), named("ResultClassName"));
    for class in assoc_class.iter().chain(&result_class) {
        target.schema.require(class).map_err(|error| Fault::of(Kind::CannotProcessFilter, error))?;
    }
    let filter = match associations {
        true => AssociationFilter { assoc_class: result_class, role: named("Role"), ..Default::default() },
        false => AssociationFilter {
            assoc_class,
            result_class,
            role: named("Role"),
            result_role: named("ResultRole"),
        },
    };
    let only: Vec<Name> = elements(asked)
        .filter(|it| it.tag_name().name() == "IncludeResultProperty")
        .map(|it| Name::from(text(it)))
        .collect();
    let class = target.schema.require(&object.class)?.clone();
    let keys = match object.keys {
        Keys::Bindings(bindings) => bindings,
        _ => vec![],
    };
    let origin = complete(server, caller, &target.schema, &class, keys).await?;
    Ok(Selection::Associated { origin, filter, associations, only: Some(only).filter(|it| !it.is_empty()) })
}

impl Selection {
    /// What goes out of each instance.
    pub fn extent(&self) -> Extent {
        let columns = match self {
            Selection::Query(Query::Select(select)) => select.columns.is_some(),
            Selection::Query(Query::Associators(query) | Query::References(query)) => query.keys_only,
            Selection::Associated { only, .. } => only.is_some(),
            _ => false,
        };
        if columns { Extent::Carried } else { Extent::Whole }
    }

    /// Begins the enumeration.
    pub async fn open(
        &self,
        server: &Server,
        caller: &Caller,
        target: &Target,
    ) -> Result<InstanceStream, Fault> {
        let (provider, namespace) = (&*server.provider, &target.namespace);
        let filtering = |error: cim::Error| match error.status {
            cim::Status::InvalidQuery | cim::Status::NotSupported | cim::Status::InvalidParameter => {
                Fault::of(Kind::CannotProcessFilter, error)
            }
            _ => Fault::from(error),
        };
        match self {
            Selection::Class(class, polymorphism) => {
                let instances = provider.enumerate(caller, namespace, class).await?;
                Ok(shaped(instances, class.clone(), *polymorphism, target))
            }
            Selection::Query(query) => {
                let host = &server.settings.host;
                let running = query::execute(provider, caller, namespace, query.clone(), host);
                running.await.map_err(filtering)
            }
            Selection::Selectors(class, selected) => {
                let selected = selected.clone();
                let matches = move |instance: &Instance| {
                    let same = |(name, value): &(Name, Value)| {
                        instance.get(name.as_str()).is_some_and(|own| same_value(own, value))
                    };
                    future::ready(selected.iter().all(same))
                };
                let instances = provider.enumerate(caller, namespace, class).await?;
                Ok(instances.try_filter(matches).boxed())
            }
            Selection::Associated { origin, filter, associations, only } => {
                let instances = match associations {
                    true => provider.references(caller, origin, filter).await?,
                    false => provider.associators(caller, origin, filter).await?,
                };
                Ok(match only.clone() {
                    Some(only) => instances.map_ok(move |it| it.only(&only)).boxed(),
                    None => instances,
                })
            }
        }
    }
}

/// Keys compare as in paths: texts in any case.
fn same_value(own: &Value, other: &Value) -> bool {
    let key = |value: &Value| ObjectPath::class("x", "X").with("Key", value.clone());
    !own.is_null() && key(own).matches(&key(other))
}

fn shaped(
    instances: InstanceStream,
    class: Name,
    polymorphism: Polymorphism,
    target: &Target,
) -> InstanceStream {
    match polymorphism {
        Polymorphism::Include => instances,
        Polymorphism::None => instances.try_filter(move |it| future::ready(it.class == class)).boxed(),
        Polymorphism::Exclude => {
            let schema = target.schema.clone();
            let cut = move |mut instance: Instance| {
                let declared = schema.class(&class);
                instance
                    .properties
                    .retain(|(name, _)| declared.is_some_and(|it| it.property(name.as_str()).is_some()));
                instance.class = class.clone();
                instance
            };
            instances.map_ok(cut).boxed()
        }
    }
}
