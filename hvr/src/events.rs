//! Life cycle events: the host says which VM or job changed, a subscription looks anew and compares with what it saw
//! last. Nothing is asked again and again.

use crate::{
    classes::{Make, Row, rows_of},
    provider::Hvr,
    world::{self, Scope},
};
use cim::{
    DateTime, Error, Instance, InstanceStream, ObjectPath, Schema, Value,
    wql::{self, Context, EventQuery},
};
use futures::{StreamExt, stream};
use service::{Change, inventory};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

/// Changes that are looked at together, each thing once.
const TOGETHER_MAX: usize = 256;

/// 1601-01-01 before 1970-01-01, in units of 100 ns: the beginning of Windows' time.
const WINDOWS_EPOCH: u64 = 116_444_736_000_000_000;

/// A subscriber, and the instances that it knows of, by where they live.
struct Subscription {
    hvr: Hvr,
    schema: Arc<Schema>,
    query: EventQuery,
    rows: Vec<&'static Row>,
    seen: BTreeMap<Scope, Vec<Instance>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Creation,
    Modification,
    Deletion,
}

/// An instance that came, changed or went; with what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: Kind,
    pub instance: Instance,
    pub previous: Option<Instance>,
}

/// Events from now on.
pub async fn subscribe(hvr: Hvr, schema: Arc<Schema>, query: EventQuery) -> Result<InstanceStream, Error> {
    // Before the first look, so that nothing falls between the two.
    let changes = hvr.host.changes().ready_chunks(TOGETHER_MAX);
    let rows = evented(&schema, &query);
    let mut subscription = Subscription { hvr, schema, query, rows, seen: BTreeMap::new() };
    subscription.look_at(subscription.everything().await?).await?;
    let next = |(mut subscription, mut changes): (Subscription, _)| async move {
        let changed: Vec<Change> = StreamExt::next(&mut changes).await?;
        let events = subscription.after(&changed).await;
        Some((stream::iter(events), (subscription, changes)))
    };
    Ok(stream::unfold((subscription, changes), next).flatten().boxed())
}

/// What changes by itself: of the class that the query is about, or of all but associations.
fn evented(schema: &Schema, query: &EventQuery) -> Vec<&'static Row> {
    let changing = |row: &&Row| matches!(row.make, Make::Vm(..) | Make::Job(_));
    match query.target_class() {
        Some(class) => rows_of(schema, class).filter(changing).collect(),
        None => {
            let is_thing =
                |row: &&Row| schema.class(&row.class.into()).is_some_and(|class| !class.is_association());
            crate::classes::rows().filter(changing).filter(is_thing).collect()
        }
    }
}

impl Subscription {
    async fn everything(&self) -> Result<BTreeSet<Scope>, Error> {
        let mut scopes: BTreeSet<Scope> = self.seen.keys().copied().collect();
        if self.rows.iter().any(|row| matches!(row.make, Make::Vm(..))) {
            let ids = inventory::vm_ids(&self.hvr.host).await.map_err(|failure| world::error(&failure))?;
            scopes.extend(ids.into_iter().map(Scope::Vm));
        }
        if self.rows.iter().any(|row| matches!(row.make, Make::Job(_))) {
            let jobs = world::jobs(&self.hvr.host, &self.hvr.refusals).await;
            scopes.extend(jobs.iter().filter(|job| !job.state.has_ended()).map(|job| Scope::Job(job.job)));
        }
        Ok(scopes)
    }

    async fn after(&mut self, changed: &[Change]) -> Vec<Result<Instance, Error>> {
        let scopes = if changed.contains(&Change::Missed) {
            self.everything().await
        } else {
            Ok(changed.iter().filter_map(scope).collect())
        };
        let events = match scopes {
            Ok(scopes) => self.look_at(scopes).await,
            Err(error) => Err(error),
        };
        match events {
            Ok(events) => events.into_iter().filter_map(|event| self.tell(event)).map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// Compares these scopes with what was seen of them.
    async fn look_at(&mut self, scopes: BTreeSet<Scope>) -> Result<Vec<Event>, Error> {
        let mut events = vec![];
        for scope in scopes {
            let fits = |row: &&'static Row| {
                matches!((&row.make, scope), (Make::Vm(..), Scope::Vm(_)) | (Make::Job(_), Scope::Job(_)))
            };
            let rows: Vec<_> = self.rows.iter().copied().filter(fits).collect();
            if rows.is_empty() {
                continue;
            }
            let now = self.hvr.instances_of([scope], &rows, &self.schema).await?;
            let before = self.seen.remove(&scope).unwrap_or_default();
            events.extend(differences(before, &now));
            // A job that has ended does not change any more, and ends without being seen again.
            let over = matches!(scope, Scope::Job(_)) && now.iter().all(has_ended);
            if !now.is_empty() && !over {
                self.seen.insert(scope, now);
            }
        }
        Ok(events)
    }

    fn tell(&self, event: Event) -> Option<Instance> {
        let indication = indication(event, &self.query)?;
        let host = self.hvr.host.name.to_string();
        let context = Context { schema: &self.schema, host: &host };
        let condition = self.query.condition.as_ref();
        let selected = condition.is_none_or(|it| wql::evaluate(it, &indication, context) == Some(true));
        selected.then(|| wql::project(indication, self.query.columns.as_deref(), context))
    }
}

fn scope(change: &Change) -> Option<Scope> {
    match change {
        Change::Vm(vm) => Some(Scope::Vm(*vm)),
        Change::Job(job) => Some(Scope::Job(*job)),
        Change::Missed => None,
    }
}

/// `JobState` 7 and above; an association of a job has none, and stays.
fn has_ended(instance: &Instance) -> bool {
    instance.get("JobState").and_then(Value::as_i128).is_some_and(|state| state >= 7)
}

/// What came, changed and went between two looks at the same scope.
pub fn differences(mut before: Vec<Instance>, now: &[Instance]) -> Vec<Event> {
    let identity = |instance: &Instance| instance.path.as_ref().map(ObjectPath::identity);
    let mut events = vec![];
    for instance in now {
        let own = identity(instance);
        let known = before.iter().position(|other| identity(other) == own);
        let previous = known.map(|index| before.swap_remove(index));
        let kind = match &previous {
            Some(previous) if previous == instance => continue,
            Some(_) => Kind::Modification,
            None => Kind::Creation,
        };
        events.push(Event { kind, instance: instance.clone(), previous });
    }
    let gone = before.into_iter();
    events.extend(gone.map(|instance| Event { kind: Kind::Deletion, instance, previous: None }));
    events
}

/// The event in the words of the query, WMI's or CIM's, if the query asks for its kind.
pub fn indication(event: Event, query: &EventQuery) -> Option<Instance> {
    let (wmi, cim) = match event.kind {
        Kind::Creation => ("__InstanceCreationEvent", "CIM_InstCreation"),
        Kind::Modification => ("__InstanceModificationEvent", "CIM_InstModification"),
        Kind::Deletion => ("__InstanceDeletionEvent", "CIM_InstDeletion"),
    };
    let asked = &query.event;
    let in_cims_words = asked.folded().starts_with("cim_");
    let class = if in_cims_words { cim } else { wmi };
    let above = ["__Event", "__InstanceOperationEvent", "CIM_InstIndication", "CIM_Indication"];
    if !asked.is(class) && !above.iter().any(|above| asked.is(above)) {
        return None;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut indication = if in_cims_words {
        let path = event.instance.path.as_ref().map(ToString::to_string);
        Instance::new(class)
            .with("IndicationTime", DateTime::from_unix_ms(now.as_millis() as i64))
            .with("SourceInstanceModelPath", path)
            .with("SourceInstance", event.instance)
    } else {
        let time = WINDOWS_EPOCH + now.as_nanos() as u64 / 100;
        Instance::new(class).with("TIME_CREATED", time).with("TargetInstance", event.instance)
    };
    if let Some(previous) = event.previous {
        indication.set("PreviousInstance", previous);
    }
    Some(indication)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;
    use cim::wql::Query;

    fn thing(name: &str, state: u16) -> Instance {
        let path = names::by_id("Msvm_ReplicationRelationship", name);
        Instance::new("Msvm_ReplicationRelationship").with("ReplicationState", state).at(path)
    }

    fn query(text: &str) -> EventQuery {
        match wql::parse(text).unwrap() {
            Query::Event(query) => query,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_came_changed_and_went_is_told_and_what_stayed_is_not() {
        let before = vec![thing("a", 1), thing("b", 3), thing("c", 3)];
        let now = [thing("a", 2), thing("c", 3), thing("d", 1)];
        let told: Vec<_> = differences(before, &now)
            .into_iter()
            .map(|event| {
                let state = |instance: &Instance| instance.get("ReplicationState").and_then(Value::as_i128);
                (event.kind, state(&event.instance), event.previous.as_ref().and_then(state))
            })
            .collect();
        let expected = [
            (Kind::Modification, Some(2), Some(1)),
            (Kind::Creation, Some(1), None),
            (Kind::Deletion, Some(3), None),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn an_event_speaks_the_words_of_its_query() {
        let event =
            Event { kind: Kind::Modification, instance: thing("a", 2), previous: Some(thing("a", 1)) };
        let wmi = query("SELECT * FROM __InstanceModificationEvent WITHIN 1");
        let told = indication(event.clone(), &wmi).unwrap();
        assert!(told.class.is("__InstanceModificationEvent"));
        assert_eq!(told.get("TargetInstance").and_then(Value::as_instance), Some(&thing("a", 2)));
        assert_eq!(told.get("PreviousInstance").and_then(Value::as_instance), Some(&thing("a", 1)));
        let cim = query("SELECT * FROM CIM_InstModification");
        let told = indication(event.clone(), &cim).unwrap();
        assert!(told.get("SourceInstance").is_some() && told.get("TargetInstance").is_none());
        assert!(indication(event.clone(), &query("SELECT * FROM __InstanceOperationEvent")).is_some());
        assert!(indication(event, &query("SELECT * FROM __InstanceDeletionEvent")).is_none());
    }
}
