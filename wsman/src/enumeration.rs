//! Enumerate, Pull, Release (DSP0226, clause 8).

use crate::contexts::Lifetime;
use crate::fault::{Fault, Kind};
use crate::filter;
use crate::message::{Message, protocol_child, text};
use crate::ns;
use crate::output::Style;
use crate::pull::{Batch, Bounds, Cursor, Mode};
use crate::reply::Reply;
use crate::resource::Resource;
use crate::target;
use crate::{Server, eventing};
use cim::Caller;
use futures::TryStreamExt;
use roxmltree::Node;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// What an answer needs beside its items: the envelope with its namespaces, header blocks and the wrapper.
const ENVELOPE_OVERHEAD_BYTES: usize = 3072;

pub async fn enumerate(
    server: &Server,
    caller: &Caller,
    message: &Message<'_, '_>,
    resource: Resource,
) -> Result<Reply, Fault> {
    let target = target::find(server, message, resource)?;
    let body = expect_body(message, "Enumerate")?;
    let mode = read_mode(body)?;
    let selection = filter::read(server, caller, &target, body).await?;
    let mut header = String::new();
    if message.header.wants_count {
        let count = selection.open(server, caller, &target).await?;
        let count = count.try_fold(0usize, |count, _| async move { Ok(count + 1) }).await?;
        header = format!("<w:TotalItemsCountEstimate>{count}</w:TotalItemsCountEstimate>");
    }
    let mut cursor = Cursor {
        stream: selection.open(server, caller, &target).await?,
        schema: target.schema.clone(),
        style: Style {
            family: target.family,
            precise_arrays: message.header.flag("UsePreciseArrays").unwrap_or(false),
        },
        mode,
        extent: selection.extent(),
        pending: None,
        events: None,
    };
    let lifetime = Lifetime::Idle(server.settings.limits.enumeration_ms);
    let mut answer = String::new();
    if protocol_child(body, "OptimizeEnumeration").is_none() {
        let id = server.contexts.open(&caller.user, lifetime, cursor)?;
        _ = write!(answer, "<n:EnumerationContext>{id}</n:EnumerationContext>");
    } else {
        let items_max = read_count(body, "MaxElements")?.unwrap_or(1);
        let batch = cursor.fill(bounds(server, message, items_max, None)).await?;
        match batch.ended {
            true => answer += "<n:EnumerationContext/>",
            false => {
                let id = server.contexts.open(&caller.user, lifetime, cursor)?;
                _ = write!(answer, "<n:EnumerationContext>{id}</n:EnumerationContext>");
            }
        }
        write_items(&mut answer, "w", &batch);
    }
    let body = format!("<n:EnumerateResponse>{answer}</n:EnumerateResponse>");
    let action = format!("{}/EnumerateResponse", ns::ENUMERATION);
    Ok(Reply { header, ..Reply::new(action, body) })
}

pub async fn pull(server: &Server, caller: &Caller, message: &Message<'_, '_>) -> Result<Reply, Fault> {
    let body = expect_body(message, "Pull")?;
    let items_max = read_count(body, "MaxElements")?.unwrap_or(1);
    let characters_max = read_count(body, "MaxCharacters")?;
    let mut lease = server.contexts.lease(&caller.user, &read_context(body)?)?;
    let mut bounds = bounds(server, message, items_max, characters_max);
    let mut heartbeat_at = None;
    if let Some(events) = lease.cursor().events {
        heartbeat_at = eventing::heartbeat_at(events).filter(|at| *at <= bounds.deadline);
        let end = Instant::now() + Duration::from_millis(lease.left_ms);
        bounds.deadline = bounds.deadline.min(end).min(heartbeat_at.unwrap_or(end));
    }
    let batch = match lease.cursor().fill(bounds).await {
        Ok(batch) => batch,
        Err(fault) => {
            let beats = fault.kind == Kind::TimedOut && heartbeat_at == Some(bounds.deadline);
            let reply = if beats { Ok(eventing::heartbeat(lease.id())) } else { Err(fault) };
            // What the provider refused ends the enumeration; what the client can mend does not.
            if reply.as_ref().err().is_none_or(|fault| fault.cim.is_none()) {
                lease.give_back();
            }
            return reply;
        }
    };
    let mut answer = String::new();
    if batch.ended {
        // The lease goes, and with it the context.
        write_items(&mut answer, "n", &batch);
    } else {
        _ = write!(answer, "<n:EnumerationContext>{}</n:EnumerationContext>", lease.id());
        write_items(&mut answer, "n", &batch);
        lease.give_back();
    }
    let action = format!("{}/PullResponse", ns::ENUMERATION);
    let mut reply = Reply::new(action, format!("<n:PullResponse>{answer}</n:PullResponse>"));
    if message.header.wants_count {
        reply.header = "<w:TotalItemsCountEstimate xsi:nil=\"true\"/>".to_owned();
    }
    Ok(reply)
}

pub fn release(server: &Server, caller: &Caller, message: &Message<'_, '_>) -> Result<Reply, Fault> {
    let body = expect_body(message, "Release")?;
    server.contexts.release(&caller.user, &read_context(body)?)?;
    Ok(Reply::new(format!("{}/ReleaseResponse", ns::ENUMERATION), ""))
}

pub fn expect_body<'a, 'i>(message: &Message<'a, 'i>, name: &str) -> Result<Node<'a, 'i>, Fault> {
    let found = message.body.filter(|it| it.tag_name().name() == name);
    found.ok_or_else(|| {
        Fault::new(Kind::InvalidXml, format_args!("the body does not hold the element {name}"))
    })
}

pub fn read_context(body: Node<'_, '_>) -> Result<String, Fault> {
    let id = protocol_child(body, "EnumerationContext").map(text).filter(|id| !id.is_empty());
    id.ok_or_else(|| Fault::new(Kind::InvalidEnumerationContext, "the request names no EnumerationContext"))
}

fn read_mode(body: Node<'_, '_>) -> Result<Mode, Fault> {
    match protocol_child(body, "EnumerationMode").map(text).as_deref() {
        None | Some("EnumerateObject") => Ok(Mode::Object),
        Some("EnumerateEPR") => Ok(Mode::Reference),
        Some("EnumerateObjectAndEPR") => Ok(Mode::ObjectAndReference),
        Some(other) => {
            let what = format_args!("EnumerationMode is not {other:?}");
            Err(Fault::new(Kind::Unsupported("EnumerationMode"), what))
        }
    }
}

/// A number of one or more.
pub fn read_count(body: Node<'_, '_>, name: &str) -> Result<Option<usize>, Fault> {
    let Some(text) = protocol_child(body, name).map(text) else { return Ok(None) };
    match text.parse() {
        Ok(count) if count > 0 => Ok(Some(count)),
        _ => {
            Err(Fault::new(Kind::InvalidXml, format_args!("{name} is a number of one or more, not {text:?}")))
        }
    }
}

fn bounds(
    server: &Server,
    message: &Message<'_, '_>,
    items_max: usize,
    characters_max: Option<usize>,
) -> Bounds {
    let limits = &server.settings.limits;
    let envelope = message.header.max_envelope_bytes.unwrap_or(usize::MAX).min(limits.envelope_bytes_max);
    let room = envelope.saturating_sub(ENVELOPE_OVERHEAD_BYTES);
    Bounds {
        items_max: items_max.min(limits.items_max),
        bytes_max: room.min(characters_max.unwrap_or(usize::MAX)),
        deadline: server.deadline(&message.header),
    }
}

fn write_items(answer: &mut String, prefix: &str, batch: &Batch) {
    _ = write!(answer, "<{prefix}:Items>{}</{prefix}:Items>", batch.items);
    if batch.ended {
        _ = write!(answer, "<{prefix}:EndOfSequence/>");
    }
}
