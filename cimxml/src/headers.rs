//! The headers of a request (DSP0200, clause 7): POST and M-POST, the operation, and whether head and body agree.

use crate::answer::Refusal;
use crate::message::{Call, Message};
use cim::Namespace;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;

/// What names the extension headers of an M-POST.
pub const EXTENSION_URI: &str = "http://www.dmtf.org/cim/mapping/http/v1.0";

/// What the head says about the body.
#[derive(Debug, PartialEq, Eq)]
pub struct Framing {
    /// The prefix of the extension headers, where it was an M-POST.
    pub extension: Option<String>,
    method: String,
    object: String,
    protocol_version: Option<String>,
}

/// Reads the head. Header values may be percent-encoded, as some clients do.
pub fn read(head: &Parts) -> Result<Framing, Refusal> {
    let extension = match head.method.as_str() {
        "POST" => None,
        "M-POST" => Some(extension_prefix(head)?),
        other => {
            let detail = format!("CIM operations come by POST or M-POST, not {other}");
            return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, error: None, detail });
        }
    };
    let header = |name: &str| {
        let name = extension.as_ref().map_or_else(|| name.to_owned(), |prefix| format!("{prefix}-{name}"));
        head.headers.get(name).map(|value| percent_decode(value.as_bytes()).trim().to_owned())
    };
    check_content_type(head)?;
    if header("CIMBatch").is_some() {
        let detail = "a message holds one request";
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "multiple-requests-unsupported", detail));
    }
    let operation = header("CIMOperation");
    if !operation.as_ref().is_some_and(|it| it.eq_ignore_ascii_case("MethodCall")) {
        let detail = format!("the header CIMOperation is {operation:?}, not MethodCall");
        return Err(Refusal::bad("unsupported-operation", detail));
    }
    let required = |name: &str| {
        header(name).ok_or_else(|| Refusal::bad("header-mismatch", format!("the header {name} is missing")))
    };
    let (method, object) = (required("CIMMethod")?, required("CIMObject")?);
    let protocol_version = header("CIMProtocolVersion");
    Ok(Framing { method, object, protocol_version, extension })
}

/// Refuses a body that says something else than its head. Keys in `CIMObject` are not compared: clients write them
/// in many ways.
pub fn compare(framing: &Framing, message: &Message) -> Result<(), Refusal> {
    let mismatch = |detail: String| Err(Refusal::bad("header-mismatch", detail));
    let (method, namespace, class) = match &message.call {
        Call::Intrinsic { method, namespace, .. } => (method.as_str(), namespace, None),
        Call::Extrinsic { method, namespace, target, .. } => {
            (method.as_str(), namespace, Some(&target.class))
        }
    };
    if !framing.method.eq_ignore_ascii_case(method) {
        return mismatch(format!(
            "CIMMethod value \"{}\" does not match CIM request method \"{method}\"",
            framing.method
        ));
    }
    let (space, object) = match framing.object.split_once(':') {
        Some((space, object)) => (space, object),
        None => (framing.object.as_str(), ""),
    };
    // A key may follow the class after a dot, or after `=` where it has no name.
    let named = object.split(['.', '=']).next().unwrap_or_default().trim();
    let same_class = class.is_none_or(|class| class.is(named));
    if Namespace::from(space) != *namespace || !same_class {
        return mismatch(format!(
            "CIMObject value \"{}\" does not match CIM request object \"{namespace}{}\"",
            framing.object,
            class.map(|class| format!(":{class}")).unwrap_or_default()
        ));
    }
    check_protocol_version(framing.protocol_version.as_deref(), &message.protocol_version)
}

/// Without the header, 1.0 is assumed; minor versions are compatible.
fn check_protocol_version(header: Option<&str>, body: &str) -> Result<(), Refusal> {
    let head = header.unwrap_or("1.0");
    let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
    if major(head) != major(body) {
        let detail = format!(
            "CIMProtocolVersion value \"{head}\" does not match CIM request protocol version \"{body}\""
        );
        return Err(Refusal::bad("header-mismatch", detail));
    }
    if major(body) != "1" {
        let detail = format!("protocol version {body} is not 1.x");
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "unsupported-protocol-version", detail));
    }
    Ok(())
}

fn check_content_type(head: &Parts) -> Result<(), Refusal> {
    let Some(value) = head.headers.get(CONTENT_TYPE) else { return Ok(()) };
    let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let xml = parts.next().is_some_and(|kind| kind == "application/xml" || kind == "text/xml");
    let charset = parts.find_map(|part| part.strip_prefix("charset=")).map(|it| it.trim_matches('"'));
    if xml && charset.is_none_or(|it| it == "utf-8" || it == "utf8" || it == "us-ascii") {
        return Ok(());
    }
    let detail = format!("the content type is {value}, not application/xml or text/xml in UTF-8");
    Err(Refusal { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, error: None, detail })
}

/// From `Man: http://www.dmtf.org/cim/mapping/http/v1.0 ; ns=NN` (RFC 2774).
fn extension_prefix(head: &Parts) -> Result<String, Refusal> {
    let man = head.headers.get("man").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let declared = man.as_deref().and_then(|man| man.split_once(';'));
    let prefix = declared.and_then(|(uri, parameters)| {
        let ours = uri.trim().trim_matches('"').eq_ignore_ascii_case(EXTENSION_URI);
        let mut parameters = parameters.split(';').map(str::trim);
        parameters.find_map(|it| it.strip_prefix("ns=")).filter(|_| ours)
    });
    let prefix =
        prefix.filter(|it| it.len() <= 4 && !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()));
    prefix.map(str::to_owned).ok_or_else(|| Refusal {
        status: StatusCode::NOT_EXTENDED,
        error: None,
        detail: format!("an M-POST has a header Man: {EXTENSION_URI}; ns=NN"),
    })
}

fn percent_decode(bytes: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16).map(|it| it as u8);
        let pair = match tail {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        decoded.push(pair.map_or(*first, |(high, low)| high << 4 | low));
        rest = if pair.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_decoded_where_they_mean_something() {
        let decoded = |text: &str| percent_decode(text.as_bytes());
        assert_eq!(decoded("root%2Fcimv2%3aA.B%3D%22%C3%A4%22"), "root/cimv2:A.B=\"ä\"");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
