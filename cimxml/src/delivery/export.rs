//! One indication to one listener: `ExportIndication` over HTTP (DSP0200, 5.3.2.1), again until it is taken.

use super::Options;
use crate::write::{self, InstanceView};
use bytes::Bytes;
use cim::{Instance, Schema, embedded, xml};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

/// How long a listener's answer may be.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a listener did not take an indication.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("there is no TLS for https destinations here")]
    NoTls,
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("the listener answered {0}")]
    Status(StatusCode),
    #[error("the listener's answer is no export response: {0}")]
    Answer(String),
    #[error("the listener refused it with code {code}: {description}")]
    Refused { code: String, description: String },
    #[error("the listener did not answer in time")]
    Timeout,
}

/// Sends an indication until it is taken, with growing pauses; the last error where it never is.
pub async fn send(
    destination: &Uri,
    indication: &Instance,
    schema: &Schema,
    options: &Options,
) -> Result<(), ExportError> {
    let body = message(indication, schema);
    let mut pause = options.pause;
    let mut attempt = 1;
    loop {
        let sent = tokio::time::timeout(options.timeout, post(destination, body.clone(), options)).await;
        match sent.unwrap_or(Err(ExportError::Timeout)) {
            Ok(()) => return Ok(()),
            Err(error) if attempt >= options.attempts => return Err(error),
            Err(error) => tracing::debug!(%destination, %error, attempt, "delivery is tried again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(options.pause_max);
        attempt += 1;
    }
}

/// The request's body. A repeated one has the same message id, and the same identifier in the indication.
pub fn message(indication: &Instance, schema: &Schema) -> Bytes {
    let mut body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\">\
         <MESSAGE ID=\"{}\" PROTOCOLVERSION=\"1.0\"><SIMPLEEXPREQ><EXPMETHODCALL NAME=\"ExportIndication\">\
         <EXPPARAMVALUE NAME=\"NewIndication\">",
        Uuid::new_v4()
    );
    write::instance(&mut body, indication, Some(schema), &InstanceView::default());
    body.push_str("</EXPPARAMVALUE></EXPMETHODCALL></SIMPLEEXPREQ></MESSAGE></CIM>\n");
    Bytes::from(body)
}

async fn post(destination: &Uri, body: Bytes, options: &Options) -> Result<(), ExportError> {
    let tls = destination.scheme_str() == Some("https");
    let host = destination.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = destination.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await.map_err(ExportError::Connect)?;
    let request = request(destination, body)?;
    let response = if tls {
        let config = options.tls.borrow().clone().ok_or(ExportError::NoTls)?;
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| ExportError::Connect(std::io::Error::other(error)))?;
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(ExportError::Connect)?;
        exchange(stream, request).await?
    } else {
        exchange(tcp, request).await?
    };
    judge(&response)
}

fn request(destination: &Uri, body: Bytes) -> Result<Request<Full<Bytes>>, ExportError> {
    let path = destination.path_and_query().map_or("/", |it| it.as_str());
    let authority = destination.authority().map_or("", |it| it.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let request = Request::post(path)
        .header(HOST, host)
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/xml; charset=\"utf-8\"")
        .header("CIMExport", "MethodRequest")
        .header("CIMExportMethod", "ExportIndication")
        .body(Full::new(body));
    request.map_err(|error| ExportError::Connect(std::io::Error::other(error)))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ExportError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let response: Response<Incoming> = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| ExportError::Answer(error.to_string()))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::pin!(asked, connection);
    // The connection is driven beside the exchange, and ends with it.
    tokio::select! {
        response = &mut asked => response,
        ended = &mut connection => {
            ended?;
            asked.await
        }
    }
}

fn judge(response: &Response<Bytes>) -> Result<(), ExportError> {
    if response.status() != StatusCode::OK {
        return Err(ExportError::Status(response.status()));
    }
    let answer = |error: String| ExportError::Answer(error);
    let text = std::str::from_utf8(response.body()).map_err(|error| answer(error.to_string()))?;
    let text = embedded::blank_prologue(text).map_err(|error| answer(error.to_string()))?;
    let document = xml::parse(&text).map_err(|error| answer(error.to_string()))?;
    let named = |name: &'static str| document.descendants().find(move |node| node.has_tag_name(name));
    if let Some(error) = named("ERROR") {
        let attribute = |name| error.attribute(name).unwrap_or_default().to_owned();
        return Err(ExportError::Refused { code: attribute("CODE"), description: attribute("DESCRIPTION") });
    }
    named("EXPMETHODRESPONSE").map(|_| ()).ok_or_else(|| answer("it has no EXPMETHODRESPONSE".to_owned()))
}
