//! WS-Management: a request in, a response out, over the provider seam of `cim`.
//!
//! Sources: DSP0226 (the protocol), DSP0227 and DSP0230 (CIM over it), MS-WSMV (what Windows does), and what clients
//! send: they are matched by namespace and answered with the prefixes that they look for literally. An answer never
//! grows beyond an envelope's limit: enumerations are pulled in pieces, one request at a time.
//!
//! It knows no sockets: TLS, users and the limits of bodies belong to whoever calls [`Server::handle`].

mod contexts;
mod decode;
mod duration;
mod enumeration;
mod eventing;
mod fault;
mod filter;
mod identify;
mod input;
mod invoke;
mod message;
mod ns;
mod output;
mod pull;
mod reference;
mod reply;
mod resource;
mod settings;
mod target;
mod transfer;

pub use reply::Body;
pub use settings::{Clock, Limits, Settings};

use bytes::Bytes;
use cim::{Caller, Provider};
use contexts::Contexts;
use fault::{Fault, Kind};
use http::{Method, Request, Response, StatusCode, header, request};
use message::{Header, Message};
use reply::{Reply, bare_envelope, envelope, plain, response};
use resource::Resource;
use roxmltree::Document;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A WS-Management service over a provider, with the enumerations and subscriptions that are open.
pub struct Server {
    provider: Arc<dyn Provider>,
    settings: Settings,
    contexts: Contexts,
}

/// Whether requests for this path are WS-Management's.
pub fn serves(path: &str) -> bool {
    matches!(path, "/wsman" | "/wsman/" | identify::ANONYMOUS_PATH)
}

/// Whether a request needs no user: then it is for [`Server::identify`], whatever it asks for.
pub fn is_anonymous(request: &request::Parts) -> bool {
    let said = request.headers.get(identify::ANONYMOUS_HEADER);
    let unauthenticated = said.is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"unauthenticated"));
    unauthenticated || request.uri.path() == identify::ANONYMOUS_PATH
}

impl Server {
    pub fn new(provider: Arc<dyn Provider>, settings: Settings, clock: Clock) -> Server {
        let contexts = Contexts::new(clock, settings.limits);
        Server { provider, settings, contexts }
    }

    /// Answers a request of a known user. What is wrong with it becomes a SOAP fault with status 500, as on Windows;
    /// only what never was SOAP gets another status.
    pub async fn handle(&self, request: Request<Bytes>, caller: &Caller) -> Response<Body> {
        let text = match read_text(&request) {
            Ok(text) => text,
            Err(refused) => return self.refuse(refused),
        };
        let repaired = declare_prefixes(&text);
        let document = match parse(&text, repaired.as_deref()) {
            Ok(document) => document,
            Err(fault) => return self.refuse(Refused::Fault(fault)),
        };
        match identify::answer(&document, &self.settings) {
            Ok(Some(body)) => return response(StatusCode::OK, bare_envelope(&body)),
            Ok(None) => {}
            Err(fault) => return self.refuse(Refused::Fault(fault)),
        }
        let id = message::message_id(&document);
        match message::read(&document) {
            Ok(message) => {
                let outcome = self.perform(&message, caller).await;
                self.finish(outcome, id.as_deref(), &message.header)
            }
            Err(fault) => self.finish(Err(fault), id.as_deref(), &Header::default()),
        }
    }

    /// Answers a request that [`is_anonymous`]: what speaks here, and nothing else.
    pub fn identify(&self, request: &Request<Bytes>) -> Response<Body> {
        let text = match read_text(request) {
            Ok(text) => text,
            Err(refused) => return self.refuse(refused),
        };
        let answer = parse(&text, None).and_then(|it| identify::answer(&it, &self.settings));
        match answer {
            Ok(Some(body)) => response(StatusCode::OK, bare_envelope(&body)),
            Ok(None) => self.denied("only Identify is answered without a user"),
            Err(fault) => self.refuse(Refused::Fault(fault)),
        }
    }

    /// The protocol's own way to say that a known user may not do this.
    pub fn denied(&self, reason: &str) -> Response<Body> {
        self.refuse(Refused::Fault(Fault::new(Kind::AccessDenied, reason)))
    }

    /// How many enumerations and subscriptions are open.
    pub fn open_contexts(&self) -> usize {
        self.contexts.count()
    }

    async fn perform(&self, message: &Message<'_, '_>, caller: &Caller) -> Result<Reply, Fault> {
        let header = &message.header;
        let locale = header.locale.clone().or_else(|| caller.locale.clone());
        let caller = &Caller { locale, ..caller.clone() };
        let part =
            |namespace: &str| header.action.strip_prefix(namespace).and_then(|it| it.strip_prefix('/'));
        // What goes by context or identifier alone: the URI may be another one than it was at the beginning.
        match (part(ns::ENUMERATION), part(ns::EVENTING)) {
            (Some("Pull"), _) => return enumeration::pull(self, caller, message).await,
            (Some("Release"), _) => return enumeration::release(self, caller, message),
            (_, Some("Renew")) => return eventing::renew(self, caller, message),
            (_, Some("GetStatus")) => return eventing::status(self, caller, message),
            (_, Some("Unsubscribe")) => return eventing::unsubscribe(self, caller, message),
            _ => {}
        }
        let uri = header.resource_uri.as_deref();
        let uri =
            uri.ok_or_else(|| Fault::new(Kind::InvalidResource, "the header ResourceURI is missing"))?;
        let resource = Resource::parse(uri)?;
        let deadline = self.deadline(header);
        match (part(ns::TRANSFER), part(ns::ENUMERATION), part(ns::EVENTING)) {
            (Some("Get"), ..) => before(deadline, transfer::get(self, caller, message, resource)).await,
            (Some("Put"), ..) => transfer::put(self, caller, message, resource).await,
            (Some("Create"), ..) => transfer::create(self, caller, message, resource).await,
            (Some("Delete"), ..) => transfer::delete(self, caller, message, resource).await,
            (_, Some("Enumerate"), _) => {
                before(deadline, enumeration::enumerate(self, caller, message, resource)).await
            }
            (.., Some("Subscribe")) => eventing::subscribe(self, caller, message, resource).await,
            (None, None, None) => invoke::invoke(self, caller, message, resource).await,
            _ => Err(Fault::new(
                Kind::ActionNotSupported,
                format_args!("there is no action {}", header.action),
            )),
        }
    }

    fn deadline(&self, header: &Header) -> Instant {
        let longest = self.settings.limits.operation_ms_max;
        Instant::now() + Duration::from_millis(header.timeout_ms.unwrap_or(longest).min(longest))
    }

    fn finish(&self, outcome: Result<Reply, Fault>, id: Option<&str>, header: &Header) -> Response<Body> {
        let fault = match outcome {
            Ok(reply) => {
                let envelope = envelope(&reply, id, &header.echoed);
                match header.max_envelope_bytes {
                    Some(max) if envelope.len() > max => Fault::new(
                        Kind::MaxEnvelopeSizeExceeded,
                        format_args!("the answer has {} bytes, more than MaxEnvelopeSize", envelope.len()),
                    ),
                    _ => return response(StatusCode::OK, envelope),
                }
            }
            Err(fault) => fault,
        };
        let reply =
            Reply { action: fault.action(), header: fault.header(), body: fault.body(&self.settings.host) };
        response(StatusCode::INTERNAL_SERVER_ERROR, envelope(&reply, id, &header.echoed))
    }

    fn refuse(&self, refused: Refused) -> Response<Body> {
        match refused {
            Refused::Status(status) => plain(status),
            Refused::Fault(fault) => self.finish(Err(fault), None, &Header::default()),
        }
    }
}

enum Refused {
    Status(StatusCode),
    Fault(Fault),
}

fn read_text(request: &Request<Bytes>) -> Result<Cow<'_, str>, Refused> {
    if request.method() != Method::POST {
        return Err(Refused::Status(StatusCode::METHOD_NOT_ALLOWED));
    }
    // Some clients send no content type at all.
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|it| it.to_str().unwrap_or_default());
    let mut parts = content_type.unwrap_or("application/soap+xml").split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    if !matches!(&*media, "application/soap+xml" | "application/xml" | "text/xml") {
        return Err(Refused::Status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let charset = parts.find_map(|it| {
        let (name, value) = it.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    decode::decode(request.body(), charset).map_err(Refused::Fault)
}

/// Reads the text, or what it was repaired to.
fn parse<'a>(text: &'a str, repaired: Option<&'a str>) -> Result<Document<'a>, Fault> {
    let error = match cim::xml::parse(text) {
        Ok(document) => return Ok(document),
        Err(error) => error,
    };
    let second = repaired.and_then(|it| cim::xml::parse(it).ok());
    second.ok_or_else(|| Fault::new(Kind::InvalidXml, error))
}

/// The text with our prefixes declared on its first element as far as they are not: wsl copies parts of our answers
/// into its requests without them.
fn declare_prefixes(text: &str) -> Option<String> {
    let start = text
        .match_indices('<')
        .map(|(at, _)| at)
        .find(|at| text[at + 1..].starts_with(|c: char| c.is_alphabetic()))?;
    let tag = &text[start..start + text[start..].find('>')?];
    let name_end = start + tag.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(tag.len());
    let missing = ns::PREFIXES.iter().filter(|(prefix, _)| !tag.contains(&format!("xmlns:{prefix}=")));
    let declared: String =
        missing.map(|(prefix, namespace)| format!(" xmlns:{prefix}=\"{namespace}\"")).collect();
    Some(format!("{}{declared}{}", &text[..name_end], &text[name_end..]))
}

async fn before(
    deadline: Instant,
    operation: impl Future<Output = Result<Reply, Fault>>,
) -> Result<Reply, Fault> {
    let late = |_| {
        Err(Fault::new(Kind::TimedOut, "the operation took longer than the client or the service allows"))
    };
    tokio::time::timeout_at(deadline, operation).await.unwrap_or_else(late)
}
