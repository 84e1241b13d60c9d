//! CIM-XML (DSP0200, DSP0201): requests in, responses out, over a [`cim::Provider`].
//!
//! ```text
//! http ─▶ message::read ─▶ operations ─▶ Provider
//!  ▲                          │ pieces of XML, one per instance
//!  └────────── answer ◀───────┘
//! ```
//!
//! [`Server::handle`] knows no socket and no user database: whoever listens says who calls. All paths are served alike,
//! none without a caller; a refused login is plain HTTP (401 with `WWW-Authenticate`), the protocol adds nothing.
//! [`interop`] is the namespace in which clients discover the server and subscribe, [`delivery`] sends them what they
//! subscribed to.

mod answer;
pub mod delivery;
mod enumeration;
mod headers;
pub mod interop;
mod message;
mod operations;
mod parameters;
mod write;

pub use answer::Body;
pub use enumeration::{Clock, Limits};

use bytes::Bytes;
use cim::{Caller, Provider};
use enumeration::Contexts;
use hyper::{Request, Response};
use std::sync::Arc;

/// Answers requests from what a provider has.
pub struct Server {
    provider: Arc<dyn Provider>,
    /// The host in the paths that go out.
    host: String,
    contexts: Arc<Contexts>,
}

impl Server {
    /// `clock` is what open enumerations expire by.
    pub fn new(provider: Arc<dyn Provider>, host: impl Into<String>, limits: Limits, clock: Clock) -> Server {
        Server { provider, host: host.into(), contexts: Arc::new(Contexts::new(limits, clock)) }
    }

    /// Answers one request. The body streams: what it holds at a time does not grow with the number of instances.
    /// A provider that fails before the first bytes are sent is answered with its status, one that fails later breaks
    /// the body off.
    pub async fn handle(&self, request: Request<Bytes>, caller: &Caller) -> Response<Body> {
        let (head, body) = request.into_parts();
        let framing = match headers::read(&head) {
            Ok(framing) => framing,
            Err(refusal) => return answer::refuse(&refusal),
        };
        let message = match message::read(&body).and_then(|message| {
            headers::compare(&framing, &message)?;
            Ok(message)
        }) {
            Ok(message) => message,
            Err(refusal) => return answer::refuse(&refusal),
        };
        let frame = answer::Frame::new(&message, framing.extension);
        let pieces = operations::run(self, caller, message.call).await;
        answer::answer(frame, pieces).await
    }
}
