//! Filters, destinations and subscriptions: what they must say, and what they say to the delivery (DSP1054).

use super::Description;
use cim::wql::{self, EventQuery, Query};
use cim::{DateTime, Error, Instance, Name, Namespace, ObjectPath, Schema, Status, Value};
use hyper::Uri;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const FILTER: &str = "CIM_IndicationFilter";
const DESTINATION: &str = "CIM_ListenerDestinationCIMXML";
const SUBSCRIPTION: &str = "CIM_IndicationSubscription";
/// `SubscriptionState`
const ENABLED: u16 = 2;

/// Indications that go somewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub path: ObjectPath,
    pub filter_name: String,
    pub namespaces: Vec<Namespace>,
    pub query: EventQuery,
    pub destination: Uri,
    /// None lasts without end.
    pub expires: Option<SystemTime>,
    pub on_failure: FailurePolicy,
    /// How long deliveries fail before `on_failure` applies.
    pub failure_trigger: Duration,
}

/// `OnFatalErrorPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// Goes on trying with what comes next.
    Ignore,
    Disable,
    Remove,
}

pub fn is_made_by_clients(schema: &Schema, class: &Name) -> bool {
    [FILTER, DESTINATION, SUBSCRIPTION].iter().any(|own| schema.is_a(class, &Name::from(*own)))
}

pub fn is_subscription(class: &Name) -> bool {
    class.is(SUBSCRIPTION)
}

pub fn path(instance: &Instance) -> Result<&ObjectPath, Error> {
    instance.path.as_ref().ok_or_else(|| Error::invalid_parameter("the instance has no path"))
}

pub fn date(time: SystemTime) -> DateTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    DateTime::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What a client may leave out: the host and the class in the keys, a name, and where a subscription begins.
pub fn with_defaults(given: Instance, description: &Description, now: SystemTime) -> Instance {
    let absent = |instance: &Instance, name: &str| instance.get(name).is_none_or(Value::is_null);
    let mut instance = given;
    let defaults = if is_subscription(&instance.class) {
        vec![
            ("OnFatalErrorPolicy", Value::from(2u16)),
            ("RepeatNotificationPolicy", Value::from(2u16)),
            ("SubscriptionState", Value::from(ENABLED)),
            ("SubscriptionStartTime", Value::from(date(now))),
            ("TimeOfLastStateChange", Value::from(date(now))),
        ]
    } else {
        let keys = description.on_system(instance.class.as_str());
        let named = ("Name", Value::from(Uuid::new_v4().to_string()));
        let keys = ["SystemCreationClassName", "SystemName", "CreationClassName"]
            .map(|name| (name, keys.get(name).cloned().unwrap_or(Value::Null)));
        let mut defaults = keys.to_vec();
        defaults.push(named);
        if instance.class.is(DESTINATION) {
            defaults.push(("PersistenceType", Value::from(2u16)));
        }
        defaults
    };
    for (name, value) in defaults {
        if absent(&instance, name) {
            instance.set(name, value);
        }
    }
    instance
}

/// Refuses what could never deliver: a query that does not parse or fit its namespaces, a destination that is no URL,
/// a subscription to what is not there. References come out as paths in this namespace.
pub fn check(
    mut instance: Instance,
    schemas: &[Arc<Schema>],
    schema: &Schema,
    instances: &BTreeMap<String, Instance>,
) -> Result<Instance, Error> {
    match () {
        () if schema.is_a(&instance.class, &FILTER.into()) => check_filter(&instance, schemas, schema)?,
        () if schema.is_a(&instance.class, &DESTINATION.into()) => {
            let url = instance.text("Destination").unwrap_or_default();
            destination(url).ok_or_else(|| {
                let message = format!("Destination: {url:?} is no http or https URL with a host");
                Error::invalid_parameter(message)
            })?;
        }
        () => {
            for (role, class) in [("Filter", FILTER), ("Handler", "CIM_ListenerDestination")] {
                let referred = instance.get(role).and_then(Value::as_path);
                let missing = || Error::invalid_parameter(format_args!("{SUBSCRIPTION}: {role} is missing"));
                let referred = referred.ok_or_else(missing)?;
                let elsewhere = referred.namespace.as_ref().is_some_and(|it| it != schema.namespace());
                let local = ObjectPath { host: None, namespace: None, ..referred.clone() };
                let local = schema.resolve(&local)?;
                let there = instances.contains_key(&local.identity()) && !elsewhere;
                if !there || !schema.is_a(&local.class, &class.into()) {
                    return Err(Error::invalid_parameter(format_args!("{role}: there is no {referred}")));
                }
                instance.set(role, local);
            }
        }
    }
    Ok(instance)
}

fn check_filter(instance: &Instance, schemas: &[Arc<Schema>], schema: &Schema) -> Result<(), Error> {
    let language = instance.text("QueryLanguage").unwrap_or_default();
    let text = instance.text("Query").unwrap_or_default();
    let query = event_query(language, text)?;
    for namespace in namespaces(instance, schema.namespace()) {
        let served = schemas.iter().find(|it| *it.namespace() == namespace);
        let served = served.ok_or_else(|| {
            Error::invalid_parameter(format_args!("SourceNamespaces: there is no namespace {namespace}"))
        })?;
        if served.class(&query.event).is_none() {
            let message = format!("Query: there is no class {} in {namespace}", query.event);
            return Err(Error::new(Status::InvalidQuery, message));
        }
        wql::check_event(&query, served).map_err(|error| Error { status: Status::InvalidQuery, ..error })?;
    }
    Ok(())
}

/// A query in WQL, or in what CQL has in common with it.
fn event_query(language: &str, text: &str) -> Result<EventQuery, Error> {
    match crate::operations::parse_query(language, text)? {
        Query::Event(query) => Ok(query),
        _ => {
            let message = "Query: this asks for instances; a filter asks for indications";
            Err(Error::new(Status::InvalidQuery, message))
        }
    }
}

/// Where things happen: `SourceNamespaces`, its predecessor, or this namespace.
fn namespaces(filter: &Instance, own: &Namespace) -> Vec<Namespace> {
    let listed = filter.get("SourceNamespaces").and_then(Value::as_array).unwrap_or_default();
    let one = filter.text("SourceNamespace").into_iter();
    let named: Vec<_> = match listed {
        [] => one.map(Namespace::from).collect(),
        listed => listed.iter().filter_map(Value::as_str).map(Namespace::from).collect(),
    };
    if named.is_empty() { vec![own.clone()] } else { named }
}

fn destination(url: &str) -> Option<Uri> {
    let url: Uri = url.trim().parse().ok()?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    (known && url.host().is_some_and(|host| !host.is_empty())).then_some(url)
}

/// What a subscription says to the delivery. None where it does not deliver.
pub fn read(
    subscription: &Instance,
    instances: &BTreeMap<String, Instance>,
    own: &Namespace,
) -> Option<Subscription> {
    let referred = |role| instances.get(&subscription.get(role)?.as_path()?.identity());
    let (filter, handler) = (referred("Filter")?, referred("Handler")?);
    let number = |name| subscription.get(name).and_then(Value::as_i128);
    if number("SubscriptionState") != Some(ENABLED.into()) {
        return None;
    }
    let seconds = |name| number(name).and_then(|it| u64::try_from(it).ok()).map(Duration::from_secs);
    let start = match subscription.get("SubscriptionStartTime") {
        Some(Value::DateTime(start)) => start.to_unix_ms().and_then(|it| u64::try_from(it).ok()),
        _ => None,
    };
    let start = UNIX_EPOCH + Duration::from_millis(start.unwrap_or_default());
    Some(Subscription {
        path: subscription.path.clone()?,
        filter_name: filter.text("Name")?.to_owned(),
        namespaces: namespaces(filter, own),
        query: event_query(filter.text("QueryLanguage")?, filter.text("Query")?).ok()?,
        destination: destination(handler.text("Destination")?)?,
        expires: seconds("SubscriptionDuration").and_then(|lasts| start.checked_add(lasts)),
        on_failure: match number("OnFatalErrorPolicy") {
            Some(3) => FailurePolicy::Disable,
            Some(4) => FailurePolicy::Remove,
            _ => FailurePolicy::Ignore,
        },
        failure_trigger: seconds("FailureTriggerTimeInterval").unwrap_or_default(),
    })
}

/// The subscription that refers to a filter or destination.
pub fn user_of(path: &ObjectPath, instances: &BTreeMap<String, Instance>) -> Option<ObjectPath> {
    let identity = path.identity();
    let refers = |it: &Instance| {
        let mut paths = it.properties.iter().filter_map(|(_, value)| value.as_path());
        paths.any(|referred| referred.identity() == identity)
    };
    let user = instances.values().find(|it| is_subscription(&it.class) && refers(it));
    user.and_then(|it| it.path.clone())
}
