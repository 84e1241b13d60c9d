//! Whole requests: whatever the body is, the answer is one of the protocol's.
//!
//! An enumeration is open in each server; `CONTEXT` in a request stands for its context.

use crate::{dtd, world};
use bytes::Bytes;
use http::{Request, request};
use http_body_util::BodyExt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        Builder::new_current_thread().enable_time().build().expect("a runtime needs nothing")
    });
}

const CONTEXT: &[u8] = b"CONTEXT";

pub fn wsman(bytes: &[u8]) {
    let settings = wsman::Settings {
        product_vendor: "Relevo".into(),
        product_version: "1.2.3".into(),
        security_profiles: vec![],
        host: "HOST1".into(),
        default_namespace: None,
        // Waiting for events would be all that is done.
        limits: wsman::Limits { operation_ms_max: 0, ..wsman::Limits::default() },
    };
    let server = wsman::Server::new(world::provider(), settings, Arc::new(|| Duration::from_secs(1)));
    let ask = async |body: Vec<u8>| {
        let request = Request::post("/wsman").body(Bytes::from(body)).expect("a plain request");
        let response = server.handle(request, &world::caller()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("answers do not break off").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("answers are UTF-8"))
    };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (_, open) = ask(include_bytes!("open/wsman.xml").to_vec()).await;
            let context = between(&open, "<n:EnumerationContext>", "<");
            let (status, answer) = ask(with_context(body(bytes), context)).await;
            assert!(matches!(status, 200 | 500), "{status}");
            roxmltree::Document::parse(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"));
        });
    });
}

pub fn cimxml(bytes: &[u8]) {
    let clock = Instant::now();
    let limits = cimxml::Limits::default();
    let server = cimxml::Server::new(world::provider(), "HOST1", limits, Arc::new(move || clock));
    let ask = async |body: Vec<u8>| {
        let request = framed(&body).body(Bytes::from(body)).expect("a plain request");
        let response = server.handle(request, &world::caller()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("answers do not break off").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("answers are UTF-8"))
    };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (_, open) = ask(include_bytes!("open/cimxml.xml").to_vec()).await;
            let context = between(&open, "NAME=\"EnumerationContext\"", "</PARAMVALUE>");
            let context = between(context, "<VALUE>", "<");
            let (status, answer) = ask(with_context(body(bytes), context)).await;
            match status {
                200 => dtd::assert_valid(&answer),
                status => assert!([400, 501].contains(&status), "{status}"),
            }
        });
    });
}

/// Without the head that captured requests have.
fn body(bytes: &[u8]) -> &[u8] {
    let head =
        bytes.starts_with(b"POST").then(|| bytes.windows(4).position(|it| it == b"\r\n\r\n")).flatten();
    head.map_or(bytes, |end| &bytes[end + 4..])
}

fn with_context(bytes: &[u8], context: &str) -> Vec<u8> {
    match bytes.windows(CONTEXT.len()).position(|it| it == CONTEXT) {
        Some(at) => [&bytes[..at], context.as_bytes(), &bytes[at + CONTEXT.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// The head that belongs to a CIM-XML body, as far as that can be told.
fn framed(body: &[u8]) -> request::Builder {
    let text = String::from_utf8_lossy(body);
    let attributes = |element: &str| -> Vec<String> {
        let starts = text.split(element).skip(1);
        starts.map(|rest| between(rest, "\"", "\"").escape_default().to_string()).collect()
    };
    let method = attributes("METHODCALL NAME=").pop().unwrap_or_default();
    let mut object = attributes("<NAMESPACE NAME=").join("/");
    if !text.contains("<IMETHODCALL") {
        object += &attributes("CLASSNAME=").first().map(|class| format!(":{class}")).unwrap_or_default();
    }
    Request::post("/cimom")
        .header("CIMOperation", "MethodCall")
        .header("CIMMethod", method)
        .header("CIMObject", object)
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or(rest, |(inside, _)| inside)
}
