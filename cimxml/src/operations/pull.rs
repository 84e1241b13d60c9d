//! Enumerations that are opened, pulled and closed (DSP0200, 5.4.2.24).

use super::associations::Walk;
use super::{Operation, each, nothing, path_of, queries};
use crate::answer::Pieces;
use crate::enumeration::{Items, Kind, Lease};
use crate::write::{self, InstanceView};
use cim::embedded::write_class;
use cim::wql::{self, Query};
use cim::{CimType, Class, ClassView, Error, InstanceStream, Name, Status, Value, query};
use futures::{StreamExt, stream};
use std::pin::Pin;
use std::time::Duration;

/// Where the instances of an enumeration come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Class,
    Walk(Walk),
}

/// What every Open operation may say.
struct Opening {
    wait: Duration,
    objects: u32,
}

/// Opens an enumeration of instances with their paths, or of paths only.
pub async fn open(
    mut operation: Operation<'_>,
    source: Source,
    with_instances: bool,
) -> Result<Pieces, Error> {
    let opening = operation.opening()?;
    let language = operation.parameters.text("FilterQueryLanguage")?.filter(|text| !text.trim().is_empty());
    let filter = operation.parameters.text("FilterQuery")?.filter(|text| !text.trim().is_empty());
    let (instances, view, class) = match source {
        Source::Class => operation.open_class().await?,
        Source::Walk(walk) => operation.open_walk(walk).await?,
    };
    let instances = operation.filtered(instances, &class, language, filter)?;
    let (schema, host) = (operation.schema.clone(), operation.server.host.clone());
    let items = if with_instances {
        each(instances, move |instance| {
            let mut xml = "<VALUE.INSTANCEWITHPATH>".to_owned();
            write::full_path(&mut xml, path_of(&instance)?, &host);
            write::instance(&mut xml, &instance, Some(&schema), &view);
            Ok(xml + "</VALUE.INSTANCEWITHPATH>")
        })
    } else {
        each(instances, move |instance| {
            let mut xml = String::new();
            write::full_path(&mut xml, path_of(&instance)?, &host);
            Ok(xml)
        })
    };
    let kind = if with_instances { Kind::InstancesWithPath } else { Kind::InstancePaths };
    operation.begin(kind, &opening, items, String::new())
}

pub async fn open_query(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let opening = operation.opening()?;
    let language = operation.parameters.required_text("FilterQueryLanguage")?;
    let text = operation.parameters.required_text("FilterQuery")?;
    let wants_class = operation.parameters.boolean("ReturnQueryResultClass", false)?;
    operation.parameters.finish()?;
    let query = queries::parse(&language, &text)?;
    let class = wants_class.then(|| operation.result_class(&query)).transpose()?;
    let instances = operation.run_query(query).await?;
    let schema = operation.schema.clone();
    let items = each(instances, move |instance| {
        let mut xml = String::new();
        write::instance(&mut xml, &instance, Some(&schema), &InstanceView::default());
        Ok(xml)
    });
    let class = class.map(|class| {
        let mut xml = "<PARAMVALUE NAME=\"QueryResultClass\">".to_owned();
        xml += &write_class(&class, &[]);
        xml + "</PARAMVALUE>"
    });
    operation.begin(Kind::Instances, &opening, items, class.unwrap_or_default())
}

pub fn pull(mut operation: Operation<'_>, kind: Kind) -> Result<Pieces, Error> {
    let id = operation.parameters.required_text("EnumerationContext")?;
    let objects = operation.parameters.uint32("MaxObjectCount")?;
    let objects = objects.ok_or_else(|| operation.parameters.missing("MaxObjectCount"))?;
    operation.parameters.finish()?;
    let contexts = &operation.server.contexts;
    let (lease, items) = contexts.lease(&operation.caller.user, &operation.namespace, kind, &id)?;
    Ok(batch(lease, items, objects.min(contexts.limits().objects_max), String::new()))
}

pub fn close(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let id = operation.parameters.required_text("EnumerationContext")?;
    operation.parameters.finish()?;
    operation.server.contexts.close(&operation.caller.user, &operation.namespace, &id)?;
    Ok(nothing())
}

impl Operation<'_> {
    fn opening(&mut self) -> Result<Opening, Error> {
        let contexts = &self.server.contexts;
        let wait = contexts.wait(self.parameters.uint32("OperationTimeout")?)?;
        if self.parameters.boolean("ContinueOnError", false)? {
            let message = "an enumeration ends at its first error; ContinueOnError is not supported";
            return Err(Error::new(Status::ContinuationOnErrorNotSupported, message));
        }
        let objects = self.parameters.uint32("MaxObjectCount")?.unwrap_or(0);
        Ok(Opening { wait, objects: objects.min(contexts.limits().objects_max) })
    }

    async fn open_class(&mut self) -> Result<(InstanceStream, InstanceView, Name), Error> {
        let class = self.parameters.required_class("ClassName")?;
        let view = self.instance_view()?;
        let view = self.narrowed(&class, view)?;
        self.parameters.finish()?;
        let instances = self.server.provider.enumerate(self.caller, &self.namespace, &class).await?;
        Ok((instances, view, class))
    }

    async fn open_walk(&mut self, walk: Walk) -> Result<(InstanceStream, InstanceView, Name), Error> {
        let path = self.parameters.instance_path("InstanceName", &self.schema)?;
        let filter = self.association_filter(walk)?;
        let view = self.instance_view()?;
        self.parameters.finish()?;
        let instances = self.neighbours(&path, &filter, walk).await?;
        let class = match walk {
            Walk::Associators => filter.result_class,
            Walk::References => filter.assoc_class,
        };
        Ok((instances, view, class.unwrap_or_else(|| Name::from(""))))
    }

    fn filtered(
        &self,
        instances: InstanceStream,
        class: &Name,
        language: Option<String>,
        filter: Option<String>,
    ) -> Result<InstanceStream, Error> {
        let (language, filter) = match (language, filter) {
            (None, None) => return Ok(instances),
            (Some(language), Some(filter)) => (language, filter),
            _ => {
                let message = "FilterQuery and FilterQueryLanguage are given together, or neither is";
                return Err(Error::invalid_parameter(message));
            }
        };
        if class.as_str().is_empty() {
            let message = "a filter is checked against a class: name one in ResultClass";
            return Err(Error::new(Status::FilteredEnumerationNotSupported, message));
        }
        let select = queries::parse_filter(&language, &filter, class)?;
        wql::check_select(&select, &self.schema)?;
        Ok(query::selected(instances, select, self.schema.clone(), self.server.host.clone()))
    }

    fn begin(&self, kind: Kind, opening: &Opening, items: Pieces, besides: String) -> Result<Pieces, Error> {
        let lease = self.server.contexts.open(&self.caller.user, &self.namespace, kind, opening.wait)?;
        Ok(batch(lease, items.peekable(), opening.objects, besides))
    }

    /// The class of which a query's instances are: that after FROM, with the selected columns.
    fn result_class(&self, query: &Query) -> Result<Class, Error> {
        let Query::Select(select) = query else {
            let message = "only a SELECT has a class that is known beforehand";
            return Err(Error::new(Status::QueryFeatureNotSupported, message));
        };
        let view = ClassView {
            local_only: false,
            include_qualifiers: true,
            include_class_origin: false,
            properties: select.columns.clone(),
        };
        Ok(self.schema.require(&select.class)?.view(&view))
    }
}

/// Where an answer of several objects stands.
enum Batch {
    Begin { lease: Lease, items: Items, left: u32 },
    Objects { lease: Lease, items: Items, left: u32 },
    End,
}

/// At most `objects` of what is left, then whether that was all, and if not by which name the rest is found.
fn batch(lease: Lease, items: Items, objects: u32, besides: String) -> Pieces {
    let first = Batch::Begin { lease, items, left: objects };
    let pieces = stream::unfold((first, besides), |(state, besides)| async move {
        let (piece, state) = step(state, &besides).await?;
        Some((piece, (state, besides)))
    });
    pieces.boxed()
}

async fn step(state: Batch, besides: &str) -> Option<(Result<String, Error>, Batch)> {
    match state {
        Batch::Begin { lease, items, left } => {
            Some((Ok("<IRETURNVALUE>".to_owned()), Batch::Objects { lease, items, left }))
        }
        Batch::Objects { lease, mut items, left } if left > 0 => match items.next().await {
            Some(Ok(item)) => Some((Ok(item), Batch::Objects { lease, items, left: left - 1 })),
            Some(Err(error)) => Some((Err(error), Batch::End)),
            None => Some((Ok(end(None, besides)), Batch::End)),
        },
        Batch::Objects { lease, mut items, .. } => {
            let at_end = Pin::new(&mut items).peek().await.is_none();
            let id = (!at_end).then(|| lease.park(items));
            Some((Ok(end(id, besides)), Batch::End))
        }
        Batch::End => None,
    }
}

fn end(id: Option<String>, besides: &str) -> String {
    let mut xml = "</IRETURNVALUE>".to_owned();
    let at_end = Value::Boolean(id.is_none());
    write::parameter(&mut xml, "EndOfSequence", &CimType::Boolean, None, &at_end, None);
    let id = Value::String(id.unwrap_or_default());
    write::parameter(&mut xml, "EnumerationContext", &CimType::String, None, &id, None);
    xml + besides
}
