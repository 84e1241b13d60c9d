//! What HTTP itself has to say about a request (DSP0200, clause 7).

use crate::common::{body, caller, captured, error_of, intrinsic, world};
use bytes::Bytes;
use hyper::{HeaderMap, Request};

const GET_CLASS: &str = "pywbem-GetClass-01";

/// Status, `CIMError` and, decoded, `PGErrorDetail`.
async fn refusal(request: Request<Bytes>) -> (u16, String, String) {
    let response = world().server.handle(request, &caller()).await;
    let header = |headers: &HeaderMap, name: &str| {
        headers.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let detail = percent_decoded(&header(response.headers(), "pgerrordetail"));
    (response.status().as_u16(), header(response.headers(), "cimerror"), detail)
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |decoded, part| {
        decoded + &char::from(u8::from_str_radix(&part[..2], 16).unwrap()).to_string() + &part[2..]
    })
}

fn with_header(name: &'static str, value: &str) -> Request<Bytes> {
    let mut request = captured(GET_CLASS);
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn without_header(name: &str) -> Request<Bytes> {
    let mut request = captured(GET_CLASS);
    request.headers_mut().remove(name);
    request
}

fn with_body(change: impl FnOnce(String) -> String) -> Request<Bytes> {
    captured(GET_CLASS).map(|body| Bytes::from(change(String::from_utf8(body.into()).unwrap())))
}

fn replaced(from: &str, to: &str) -> Request<Bytes> {
    with_body(|body| {
        assert!(body.contains(from));
        body.replace(from, to)
    })
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_own_code() {
    let get = Request::get("/cimom").body(Bytes::new()).unwrap();
    let table = [
        (get, 405, "", "CIM operations come by POST"),
        (with_header("content-type", "text/plain"), 415, "", "content type is text/plain"),
        (with_header("content-type", "application/xml; charset=utf-16"), 415, "", "utf-16"),
        (without_header("cimoperation"), 400, "unsupported-operation", ""),
        (with_header("cimoperation", "MethodRequest"), 400, "unsupported-operation", "MethodRequest"),
        (without_header("cimmethod"), 400, "header-mismatch", "CIMMethod is missing"),
        (without_header("cimobject"), 400, "header-mismatch", "CIMObject is missing"),
        (
            with_header("cimmethod", "GetInstance"),
            400,
            "header-mismatch",
            "does not match CIM request method \"GetClass\"",
        ),
        (with_header("cimobject", "root/cimv2"), 400, "header-mismatch", "CIMObject value \"root/cimv2\""),
        (
            with_header("cimprotocolversion", "2.0"),
            400,
            "header-mismatch",
            "CIMProtocolVersion value \"2.0\" does not",
        ),
        (replaced("PROTOCOLVERSION=\"1.0\"", "PROTOCOLVERSION=\"9.0\""), 400, "header-mismatch", "\"9.0\""),
        (replaced("CIMVERSION=\"2.0\"", "CIMVERSION=\"9.0\""), 501, "unsupported-cim-version", ""),
        (replaced("DTDVERSION=\"2.0\"", "DTDVERSION=\"9.0\""), 501, "unsupported-dtd-version", ""),
        (with_header("cimbatch", ""), 501, "multiple-requests-unsupported", ""),
        (replaced("SIMPLEREQ", "MULTIREQ"), 501, "multiple-requests-unsupported", ""),
        (with_body(|body| body.replace("</CIM>", "")), 400, "request-not-well-formed", ""),
        (with_body(|_| String::new()), 400, "request-not-well-formed", ""),
        (with_body(|_| "\u{0}".into()), 400, "request-not-well-formed", ""),
        (with_body(|_| "<a>".repeat(100_000)), 400, "request-not-well-formed", "128 deep"),
        (
            with_body(|_| "<!DOCTYPE CIM [<!ENTITY a \"b\">]><CIM/>".into()),
            400,
            "request-not-well-formed",
            "DOCTYPE",
        ),
        (
            with_body(|_| "<!DOCTYPE CIM [<!ENTITY a \"bb\"><!ENTITY c \"&a;&a;\">]><CIM>&c;</CIM>".into()),
            400,
            "request-not-well-formed",
            "DOCTYPE",
        ),
        (
            with_body(|_| "<!DOCTYPE CIM [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><CIM>&a;</CIM>".into()),
            400,
            "request-not-well-formed",
            "DOCTYPE",
        ),
        (
            with_body(|_| "<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"/>".into()),
            400,
            "request-not-valid",
            "expected MESSAGE",
        ),
        (with_body(|_| "<X/>".into()), 400, "request-not-valid", "expected CIM, found X"),
        (replaced("MESSAGE ID=\"1001\"", "MESSAGE"), 400, "request-not-valid", "MESSAGE has no attribute ID"),
        (replaced("SIMPLEREQ>", "SIMPLERSP>"), 400, "request-not-valid", "expected SIMPLEREQ"),
        (replaced("LOCALNAMESPACEPATH>", "NAMESPACEPATH>"), 400, "request-not-valid", "line 2, column"),
        (replaced("IPARAMVALUE", "PARAMVALUE"), 400, "request-not-valid", "expected IPARAMVALUE"),
    ];
    for (index, (request, status, error, detail)) in table.into_iter().enumerate() {
        let found = refusal(request).await;
        assert_eq!((found.0, &*found.1), (status, error), "row {index}: {}", found.2);
        assert!(found.2.contains(detail), "row {index}: {}", found.2);
    }
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_refused() {
    let request = captured(GET_CLASS).map(|_| Bytes::from_static(b"<CIM>\xff</CIM>"));
    assert_eq!(refusal(request).await.1, "request-not-well-formed");
}

#[tokio::test]
async fn clients_write_headers_in_many_ways() {
    let get = || captured(GET_CLASS);
    let requests = [
        with_header("cimobject", "root%2Fvirtualization%2fv2"),
        with_header("cimobject", "ROOT/Virtualization/v2"),
        with_header("cimoperation", "methodcall"),
        with_header("cimprotocolversion", "1.4"),
        with_header("content-type", "text/xml"),
        without_header("content-type"),
        with_body(|body| body.replace("?>", "?>\n<!DOCTYPE CIM SYSTEM \"http://x/cim.dtd\">")),
        with_body(|body| format!("\u{feff}{body}")),
        get(),
    ];
    for request in requests {
        let answer = world().ask(request).await;
        assert_eq!(error_of(&answer), None);
    }
}

#[tokio::test]
async fn an_extended_post_is_answered_as_one() {
    let mut request = intrinsic("interop", "EnumerateQualifiers", "");
    *request.method_mut() = "M-POST".parse().unwrap();
    let headers = request.headers_mut();
    for name in ["cimoperation", "cimmethod", "cimobject"] {
        let value = headers.remove(name).unwrap();
        headers.insert(format!("73-{name}").parse::<hyper::header::HeaderName>().unwrap(), value);
    }
    let without_man = request.clone();
    request.headers_mut().insert("man", "http://www.dmtf.org/cim/mapping/http/v1.0 ; ns=73".parse().unwrap());
    let response = world().server.handle(request, &caller()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["73-cimoperation"], "MethodResponse");
    assert_eq!(response.headers()["ext"], "");
    assert!(!response.headers().contains_key("cimoperation"));
    body(response).await;
    assert_eq!(refusal(without_man).await.0, 510);
}
