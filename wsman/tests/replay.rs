//! What real clients sent is answered, each with what the protocol asks for.

mod common;

use common::{field, outcome, post, server};
use expect_test::expect_file;
use http::Request;
use std::fmt::Write;

struct Capture {
    name: String,
    request: Request<bytes::Bytes>,
}

/// `*.req` have a request line and headers; the others are bodies.
fn captures() -> Vec<Capture> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    let capture = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(path).unwrap();
        let split = bytes.windows(4).position(|it| it == b"\r\n\r\n").filter(|_| name.ends_with(".req"));
        let mut request = Request::post("/wsman");
        let body = match split {
            Some(split) => {
                for line in std::str::from_utf8(&bytes[..split]).unwrap().lines().skip(1) {
                    let (name, value) = line.split_once(": ").unwrap();
                    request = request.header(name, value);
                }
                bytes[split + 4..].to_vec()
            }
            None => bytes,
        };
        Capture { name, request: request.body(body.into()).unwrap() }
    };
    files.iter().map(capture).collect()
}

/// With names of this server: the captures were taken from others.
fn adapted(sent: &str, context: &str) -> String {
    let names = [
        ("vmms", "replicasvc"),
        (">VM0<", &format!(">{}<", common::VMS[0])),
        ("Microsoft:VM0\\0", &format!("Microsoft:{}\\HVR\\0", common::VMS[0])),
        (">x</wsman:Selector>", &format!(">{}</wsman:Selector>", common::VMS[0])),
        (">y</wsman:Selector>", ">Msvm_ComputerSystem</wsman:Selector>"),
        ("CIM_ComputerSystem", "Msvm_ComputerSystem"),
        ("CIM_VLANEndpoint", "Win32_OperatingSystem"),
        ("root/OMI", "root/virtualization/v2"),
        ("from OMI_Identify", "from Msvm_ComputerSystem"),
    ];
    let mut sent = sent.to_owned();
    for (from, to) in names {
        sent = sent.replace(from, to);
    }
    match sent.split_once("EnumerationContext>") {
        Some((before, rest)) => {
            let (_, after) = rest.split_once('<').unwrap();
            format!("{before}EnumerationContext>{context}<{after}")
        }
        None => sent,
    }
}

#[tokio::test]
async fn every_capture_gets_its_answer() {
    let mut answers = String::new();
    let (mut series, mut context, mut server) = (String::new(), String::new(), server());
    for mut capture in captures() {
        let of = capture.name.rsplit_once('-').unwrap().0.to_owned();
        if std::mem::replace(&mut series, of.clone()) != of {
            server = common::server();
        }
        let sent = adapted(std::str::from_utf8(capture.request.body()).unwrap(), &context);
        *capture.request.body_mut() = sent.clone().into();
        let response = server.handle(capture.request, &common::caller()).await;
        let (status, xml) = common::text(response).await;
        roxmltree::Document::parse(&xml).unwrap_or_else(|error| panic!("{}: {error}\n{xml}", capture.name));
        let id = sent.split("MessageID").nth(1).and_then(|it| it.split(['>', '<']).nth(1)).map(str::trim);
        assert_eq!(field(&xml, "a:RelatesTo"), id, "{}", capture.name);
        context = field(&xml, "n:EnumerationContext").unwrap_or_default().to_owned();
        let items = xml.matches("_Type\">").count() + xml.matches("<a:EndpointReference>").count();
        let reason = xml.split("xml:lang=\"en-US\">").nth(1).and_then(|it| it.split("</s:Text>").next());
        _ = write!(answers, "{}: {}", capture.name, outcome(status, &xml));
        match reason.filter(|_| xml.contains("<s:Fault>")) {
            Some(reason) => _ = writeln!(answers, "\n    {reason}"),
            None => _ = writeln!(answers, ", {items} items"),
        }
    }
    expect_file!["replay.txt"].assert_eq(&answers);
}

#[tokio::test]
async fn a_request_in_utf_16_is_read() {
    let server = server();
    for capture in captures().into_iter().filter(|it| it.name.starts_with("pypsrp-enum-wql")) {
        let text = std::str::from_utf8(capture.request.body()).unwrap().to_owned();
        let body: Vec<u8> =
            [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let request = Request::post("/wsman").header("Content-Type", "application/soap+xml;charset=UTF-16");
        let response = server.handle(request.body(body.into()).unwrap(), &common::caller()).await;
        let (status, xml) = common::text(response).await;
        assert_eq!(outcome(status, &xml), "200 EnumerateResponse");
    }
}

#[tokio::test]
async fn what_never_was_soap_gets_no_envelope() {
    let server = server();
    let ask = async |request: Request<&'static str>| {
        let request = request.map(bytes::Bytes::from);
        server.handle(request, &common::caller()).await.status().as_u16()
    };
    assert_eq!(ask(Request::get("/wsman").body("").unwrap()).await, 405);
    let form = Request::post("/wsman").header("Content-Type", "application/x-www-form-urlencoded");
    assert_eq!(ask(form.body("a=b").unwrap()).await, 415);
    assert_eq!(post(&server, "").await.0.as_u16(), 500);
}
