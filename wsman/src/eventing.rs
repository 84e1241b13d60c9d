//! Subscribe, Renew, GetStatus, Unsubscribe, with delivery by Pull (WS-Eventing; DSP0226, clause 10).
//!
//! Other delivery modes are refused: they would have us call the client.

use crate::Server;
use crate::contexts::Lifetime;
use crate::duration::{duration, parse_duration};
use crate::enumeration::expect_body;
use crate::fault::{Fault, Kind};
use crate::filter::read_query;
use crate::message::{Message, attribute, protocol_child, raw_text, text};
use crate::ns;
use crate::output::{Extent, Style};
use crate::pull::{Cursor, Events, Mode};
use crate::reply::Reply;
use crate::resource::Resource;
use crate::target;
use cim::Caller;
use cim::wql::{self, Query};
use cim::xml::escape;
use roxmltree::Node;
use std::time::Duration;
use tokio::time::Instant;

const HEARTBEAT: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/Heartbeat";
/// Heartbeats more often than that would be a way to keep us busy.
const HEARTBEAT_MS_MIN: u64 = 1000;

pub async fn subscribe(
    server: &Server,
    caller: &Caller,
    message: &Message<'_, '_>,
    resource: Resource,
) -> Result<Reply, Fault> {
    let body = expect_body(message, "Subscribe")?;
    let uri = message.header.resource_uri.clone().unwrap_or_default();
    let target = target::find(server, message, resource)?;
    let heartbeat_ms = read_delivery(body)?;
    let lifetime_ms = read_expires(server, body)?;
    refuse_bookmark(body)?;
    let query = read_filter(body)?;
    wql::check_event(&query, &target.schema).map_err(|error| Fault::of(Kind::CannotProcessFilter, error))?;
    let cursor = Cursor {
        stream: server.provider.events(caller, &target.namespace, &query).await?,
        schema: target.schema.clone(),
        style: Style {
            family: target.family,
            precise_arrays: message.header.flag("UsePreciseArrays").unwrap_or(false),
        },
        mode: Mode::Object,
        extent: if query.columns.is_some() { Extent::Carried } else { Extent::Whole },
        pending: None,
        events: Some(Events { heartbeat_ms }),
    };
    let id = server.contexts.open(&caller.user, Lifetime::Fixed(lifetime_ms), cursor)?;
    let answer = format!(
        "<e:SubscribeResponse><e:SubscriptionManager><a:Address>{}</a:Address><a:ReferenceParameters>\
         <w:ResourceURI>{}</w:ResourceURI><e:Identifier>{id}</e:Identifier></a:ReferenceParameters>\
         </e:SubscriptionManager><e:Expires>{}</e:Expires><n:EnumerationContext>{id}</n:EnumerationContext>\
         </e:SubscribeResponse>",
        ns::ANONYMOUS,
        escape(&uri),
        duration(lifetime_ms)
    );
    Ok(Reply::new(format!("{}/SubscribeResponse", ns::EVENTING), answer))
}

pub fn renew(server: &Server, caller: &Caller, message: &Message<'_, '_>) -> Result<Reply, Fault> {
    let body = expect_body(message, "Renew")?;
    let lifetime_ms = read_expires(server, body)?;
    let id = identifier(message)?;
    let renewed = server.contexts.renew(&caller.user, id, lifetime_ms);
    renewed.map_err(|fault| Fault::new(Kind::UnableToRenew, fault.reason))?;
    let expires = duration(lifetime_ms);
    let answer = format!("<e:RenewResponse><e:Expires>{expires}</e:Expires></e:RenewResponse>");
    Ok(Reply::new(format!("{}/RenewResponse", ns::EVENTING), answer))
}

pub fn status(server: &Server, caller: &Caller, message: &Message<'_, '_>) -> Result<Reply, Fault> {
    let left = server.contexts.left_ms(&caller.user, identifier(message)?).map_err(invalid)?;
    let expires = duration(left);
    let answer = format!("<e:GetStatusResponse><e:Expires>{expires}</e:Expires></e:GetStatusResponse>");
    Ok(Reply::new(format!("{}/GetStatusResponse", ns::EVENTING), answer))
}

pub fn unsubscribe(server: &Server, caller: &Caller, message: &Message<'_, '_>) -> Result<Reply, Fault> {
    server.contexts.release(&caller.user, identifier(message)?).map_err(invalid)?;
    Ok(Reply::new(format!("{}/UnsubscribeResponse", ns::EVENTING), ""))
}

/// WS-Eventing has no fault of its own for an unknown subscription.
fn invalid(fault: Fault) -> Fault {
    Fault::new(Kind::InvalidEventingMessage, fault.reason)
}

fn identifier<'a>(message: &'a Message<'_, '_>) -> Result<&'a str, Fault> {
    let given = message.header.identifier.as_deref();
    given.ok_or_else(|| Fault::new(Kind::InvalidEventingMessage, "the header Identifier is missing"))
}

/// The interval of heartbeats, in milliseconds.
fn read_delivery(body: Node<'_, '_>) -> Result<Option<u64>, Fault> {
    let delivery = protocol_child(body, "Delivery");
    let mode = delivery.and_then(|it| attribute(it, "Mode")).unwrap_or_default().trim();
    let Some(delivery) = delivery.filter(|_| mode == ns::DELIVERY_PULL) else {
        let what = format_args!("events are pulled; they are not delivered by {mode:?}");
        return Err(Fault::new(Kind::DeliveryModeUnavailable, what));
    };
    let Some(interval) = protocol_child(delivery, "Heartbeats").map(text) else { return Ok(None) };
    match parse_duration(&interval) {
        Some(ms) if ms > 0 => Ok(Some(ms.max(HEARTBEAT_MS_MIN))),
        _ => Err(Fault::new(
            Kind::InvalidEventingMessage,
            format_args!("Heartbeats is a duration such as PT30S, not {interval:?}"),
        )),
    }
}

fn read_expires(server: &Server, body: Node<'_, '_>) -> Result<u64, Fault> {
    let limits = &server.settings.limits;
    let Some(expires) = protocol_child(body, "Expires").map(text) else { return Ok(limits.subscription_ms) };
    match parse_duration(&expires) {
        Some(ms) if ms > 0 => Ok(ms.min(limits.subscription_ms_max)),
        _ => Err(Fault::new(
            Kind::InvalidExpirationTime,
            format_args!("Expires is a duration such as PT10M, not {expires:?}"),
        )),
    }
}

/// Events are not kept for those who were away: only the present can be asked for.
fn refuse_bookmark(body: Node<'_, '_>) -> Result<(), Fault> {
    let kept = protocol_child(body, "Bookmark").filter(|it| !text(*it).is_empty() || it.has_children());
    match kept {
        Some(_) => Err(Fault::new(Kind::InvalidBookmark, "events are not kept, and there are no bookmarks")),
        None => Ok(()),
    }
}

fn read_filter(body: Node<'_, '_>) -> Result<wql::EventQuery, Fault> {
    let wrong = |what: &str| Fault::new(Kind::CannotProcessFilter, what);
    let filter = protocol_child(body, "Filter")
        .ok_or_else(|| wrong("a subscription needs a filter that says which events are wanted"))?;
    let dialect = attribute(filter, "Dialect").unwrap_or_default().trim();
    if dialect != ns::WQL {
        return Err(Fault::new(
            Kind::FilterDialectUnavailable,
            format_args!("events are not filtered by {dialect:?}"),
        ));
    }
    match read_query(&raw_text(filter))? {
        Query::Event(query) => Ok(query),
        _ => Err(wrong("the query asks for instances, not for events")),
    }
}

/// When the client wants to hear that all is well, if no event comes before.
pub fn heartbeat_at(events: Events) -> Option<Instant> {
    events.heartbeat_ms.map(|ms| Instant::now() + Duration::from_millis(ms))
}

/// What a Pull answers then.
pub fn heartbeat(id: &str) -> Reply {
    let body = format!(
        "<n:PullResponse><n:EnumerationContext>{id}</n:EnumerationContext><n:Items>\
         <w:Event Action=\"{HEARTBEAT}\"/></n:Items></n:PullResponse>"
    );
    Reply::new(format!("{}/PullResponse", ns::ENUMERATION), body)
}
