//! Responses: the envelope around what an operation answers, and refusals of HTTP's own (DSP0200, 7.3).

use crate::message::{Call, Message};
use crate::write;
use bytes::Bytes;
use cim::Error;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame as BodyFrame;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use std::convert::Infallible;
use std::io;

/// What a response carries.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What stands between `<IMETHODRESPONSE>` and its end, piece by piece.
pub type Pieces = BoxStream<'static, Result<String, Error>>;

/// How much is gathered before it is sent. Until so much is there, an error can still be answered as one.
const CHUNK_BYTES: usize = 64 << 10;

/// How much of a refusal's words goes into a header: they may quote the request.
const DETAIL_CHARS_MAX: usize = 400;

/// A request that HTTP itself refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// The `CIMError` header (DSP0200, 7.3.3), such as `request-not-valid`.
    pub error: Option<&'static str>,
    /// In words, for the `PGErrorDetail` header that clients show.
    pub detail: String,
}

impl Refusal {
    pub fn new(status: StatusCode, error: &'static str, detail: impl ToString) -> Refusal {
        Refusal { status, error: Some(error), detail: detail.to_string() }
    }

    pub fn bad(error: &'static str, detail: impl ToString) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error, detail)
    }
}

/// The envelope of one response.
pub struct Frame {
    head: String,
    tail: String,
    /// The prefix of the extension headers that answer an M-POST.
    extension: Option<String>,
}

impl Frame {
    pub fn new(message: &Message, extension: Option<String>) -> Frame {
        let (element, name) = match &message.call {
            Call::Intrinsic { method, .. } => ("IMETHODRESPONSE", method.as_str()),
            Call::Extrinsic { method, .. } => ("METHODRESPONSE", method.as_str()),
        };
        let (id, name) = (cim::xml::escape(&message.id), cim::xml::escape(name));
        let head = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\">\
             <MESSAGE ID=\"{id}\" PROTOCOLVERSION=\"1.0\"><SIMPLERSP><{element} NAME=\"{name}\">"
        );
        let tail = format!("</{element}></SIMPLERSP></MESSAGE></CIM>\n");
        Frame { head, tail, extension }
    }
}

/// The response to a request that was understood, whether its operation worked or not.
pub async fn answer(frame: Frame, pieces: Result<Pieces, Error>) -> Response<Body> {
    let Frame { head, tail, extension } = frame;
    let failed = |error: &Error| head.clone() + &error_element(error) + &tail;
    let mut pieces = match pieces {
        Ok(pieces) => pieces,
        Err(error) => return respond(extension, whole(failed(&error))),
    };
    let mut first = head.clone();
    while first.len() < CHUNK_BYTES {
        match pieces.next().await {
            Some(Ok(piece)) => first += &piece,
            Some(Err(error)) => return respond(extension, whole(failed(&error))),
            None => return respond(extension, whole(first + &tail)),
        }
    }
    let pieces = pieces.chain(stream::iter([Ok(tail)]));
    let rest = stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        let mut chunk = String::new();
        while chunk.len() < CHUNK_BYTES {
            match pieces.next().await {
                Some(Ok(piece)) => chunk += &piece,
                Some(Err(error)) => {
                    tracing::warn!(%error, "an answer breaks off");
                    return Some((Err(io::Error::other(error)), None));
                }
                None if chunk.is_empty() => return None,
                None => return Some((Ok(chunk), None)),
            }
        }
        Some((Ok(chunk), Some(pieces)))
    });
    let chunks = stream::iter([Ok(first)]).chain(rest);
    let frames = chunks.map(|chunk| chunk.map(|text| BodyFrame::data(Bytes::from(text))));
    respond(extension, StreamBody::new(frames).boxed_unsync())
}

/// The response to a request that was not understood.
pub fn refuse(refusal: &Refusal) -> Response<Body> {
    tracing::debug!(status = %refusal.status, error = refusal.error, detail = refusal.detail, "refused a request");
    let mut response = Response::new(whole(String::new()));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    if let Some(error) = refusal.error {
        headers.insert("cimerror", HeaderValue::from_static(error));
    }
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("POST, M-POST"));
    }
    let detail: String = refusal.detail.chars().take(DETAIL_CHARS_MAX).collect();
    if let Ok(detail) = percent_encode(&detail).parse() {
        headers.insert("pgerrordetail", detail);
    }
    response
}

/// The `ERROR` element: code, message, details.
fn error_element(error: &Error) -> String {
    let description = cim::xml::escape(&error.message);
    let mut xml = format!("<ERROR CODE=\"{}\" DESCRIPTION=\"{description}\">", error.status.code());
    for detail in &error.details {
        write::instance(&mut xml, detail, None, &write::InstanceView::default());
    }
    xml + "</ERROR>"
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn respond(extension: Option<String>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=\"utf-8\""));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let answers = HeaderValue::from_static("MethodResponse");
    let Some(prefix) = extension else {
        headers.insert("cimoperation", answers);
        return response;
    };
    headers.insert("ext", HeaderValue::from_static(""));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache=\"Ext\""));
    let man = format!("{}; ns={prefix}", crate::headers::EXTENSION_URI);
    if let (Ok(name), Ok(man)) = (HeaderName::try_from(format!("{prefix}-cimoperation")), man.parse()) {
        headers.insert(name, answers);
        headers.insert("man", man);
    }
    response
}

/// As RFC 3986 has it; what Pegasus does with the text of this header.
fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
