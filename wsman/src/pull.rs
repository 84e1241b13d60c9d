//! Cursors: instances on their way out, rendered one by one and packed into envelopes.

use crate::fault::{Fault, Kind};
use crate::output::{Extent, Style, write_instance};
use crate::reference::write_endpoint;
use cim::{Instance, InstanceStream, Schema};
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// What of each instance goes out (DSP0226, 8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Object,
    Reference,
    ObjectAndReference,
}

/// An enumeration or a subscription in progress.
pub struct Cursor {
    pub stream: InstanceStream,
    pub schema: Arc<Schema>,
    pub style: Style,
    pub mode: Mode,
    pub extent: Extent,
    /// Rendered or refused, and not yet sent.
    pub pending: Option<Result<String, cim::Error>>,
    /// Of a subscription; none for an enumeration.
    pub events: Option<Events>,
}

/// What sets a subscription apart.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// After how long without an event the client wants to hear that all is well.
    pub heartbeat_ms: Option<u64>,
}

/// How much one answer may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub items_max: usize,
    pub bytes_max: usize,
    pub deadline: Instant,
}

/// Items of one answer.
#[derive(Debug, Default)]
pub struct Batch {
    /// The elements, one after the other.
    pub items: String,
    pub count: usize,
    /// Whether there are no more.
    pub ended: bool,
}

impl Cursor {
    /// Takes as many items as fit. At the deadline those that came by then; `TimedOut` if none did. An item that is
    /// too large for any answer stays, for a client that asks again with more room.
    pub async fn fill(&mut self, bounds: Bounds) -> Result<Batch, Fault> {
        let mut batch = Batch::default();
        loop {
            let next = match self.pending.take() {
                Some(pending) => Some(pending),
                // Looking for the next event must not keep those back that have come.
                None if self.events.is_some() && batch.count > 0 => match self.stream.next().now_or_never() {
                    Some(next) => next.map(|it| it.map(|it| self.render(&it))),
                    None => return Ok(batch),
                },
                None => match timeout_at(bounds.deadline, self.stream.next()).await {
                    Ok(next) => next.map(|it| it.map(|it| self.render(&it))),
                    Err(_) if batch.count > 0 => return Ok(batch),
                    Err(_) => {
                        return Err(Fault::new(
                            Kind::TimedOut,
                            "nothing came in the time that the client gave",
                        ));
                    }
                },
            };
            let Some(next) = next else {
                batch.ended = true;
                return Ok(batch);
            };
            match next {
                Ok(item)
                    if batch.count < bounds.items_max
                        && batch.items.len() + item.len() <= bounds.bytes_max =>
                {
                    batch.items += &item;
                    batch.count += 1;
                }
                Ok(item) if batch.count == 0 && bounds.items_max > 0 => {
                    let what = format_args!(
                        "an item has {} bytes, more than MaxEnvelopeSize leaves room for ({})",
                        item.len(),
                        bounds.bytes_max
                    );
                    let fault = Fault::new(Kind::MaxEnvelopeSizeExceeded, what);
                    self.pending = Some(Ok(item));
                    return Err(fault);
                }
                Err(error) if batch.count == 0 => return Err(error.into()),
                held_over => {
                    self.pending = Some(held_over);
                    return Ok(batch);
                }
            }
            if self.events.is_some() && batch.count == bounds.items_max {
                return Ok(batch);
            }
        }
    }

    fn render(&self, instance: &Instance) -> String {
        let mut xml = String::new();
        let both = self.mode == Mode::ObjectAndReference;
        if both {
            xml += "<w:Item>";
        }
        if self.mode != Mode::Reference {
            write_instance(&mut xml, instance, &self.schema, self.style, self.extent);
        }
        if let Some(path) = instance.path.as_ref().filter(|_| self.mode != Mode::Object) {
            xml += "<a:EndpointReference>";
            write_endpoint(&mut xml, path, self.style.family, self.schema.namespace());
            xml += "</a:EndpointReference>";
        }
        if both {
            xml += "</w:Item>";
        }
        xml
    }
}
