//! Answers: the envelope around a body, and the HTTP response around that.

use crate::ns;
use bytes::Bytes;
use cim::xml::escape;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use std::fmt::Write;
use uuid::Uuid;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What is inside an envelope.
#[derive(Debug)]
pub struct Reply {
    pub action: String,
    /// Further header blocks, as XML.
    pub header: String,
    pub body: String,
}

impl Reply {
    pub fn new(action: impl Into<String>, body: impl Into<String>) -> Reply {
        Reply { action: action.into(), header: String::new(), body: body.into() }
    }
}

/// `uuid:` and a random id in capitals, as Windows writes them.
pub fn new_id() -> String {
    format!("uuid:{}", Uuid::new_v4().to_string().to_ascii_uppercase())
}

/// The envelope. `relates_to` is the request's `MessageID`, to the letter; `echoed` are blocks of Microsoft's that a
/// client wants back.
pub fn envelope(reply: &Reply, relates_to: Option<&str>, echoed: &[(&str, String)]) -> String {
    let mut xml = envelope_start();
    _ = write!(
        xml,
        "<s:Header><a:Action>{}</a:Action><a:MessageID>{}</a:MessageID>",
        escape(&reply.action),
        new_id()
    );
    for (name, value) in echoed {
        _ = write!(xml, "<p:{name} s:mustUnderstand=\"false\">{}</p:{name}>", escape(value));
    }
    _ = write!(xml, "<a:To>{}</a:To>", ns::ANONYMOUS);
    if let Some(id) = relates_to {
        _ = write!(xml, "<a:RelatesTo>{}</a:RelatesTo>", escape(id));
    }
    _ = write!(xml, "{}</s:Header><s:Body>{}</s:Body></s:Envelope>", reply.header, reply.body);
    xml
}

/// An envelope without header, as Identify has it.
pub fn bare_envelope(body: &str) -> String {
    format!("<s:Envelope xmlns:s=\"{}\"><s:Header/><s:Body>{body}</s:Body></s:Envelope>", ns::SOAP)
}

fn envelope_start() -> String {
    let mut xml = String::from("<s:Envelope xml:lang=\"en-US\"");
    for (prefix, namespace) in ns::PREFIXES {
        _ = write!(xml, " xmlns:{prefix}=\"{namespace}\"");
    }
    xml + ">"
}

pub fn response(status: StatusCode, envelope: String) -> Response<Body> {
    let mut response = Response::new(body(envelope));
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static("application/soap+xml;charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// A response without envelope, for what never was SOAP.
pub fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(body(String::new()));
    *response.status_mut() = status;
    response
}

fn body(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}
