//! How a connection begins under Kerberos: SPNEGO over HTTP (RFC 4559), one connection, until both sides know each
//! other; then it is switched over (RFC 9110, 7.8) to sealed records, and HTTP starts anew inside them.

use crate::{
    error::{LinkProblem, TransportAnswer, classify},
    header::{PROTOCOL, PROTOCOL_HEADER, speaks, spoken},
    realm::Kerberos,
    sealed::Sealed,
    tls::Peer,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE, WWW_AUTHENTICATE},
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use kerberos::{Acceptor, Initiator, Session, negotiate};
use model::HostName;
use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpStream;

/// What the connection is switched over to.
pub(crate) const SEALED: &str = "relevo-sealed";
/// Tokens either way; Kerberos takes one.
const ROUNDS_MAX: usize = 4;
/// Tokens of hosts are small.
const HEAD_BYTES_MAX: usize = 64 << 10;
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// The calling end: shows the ticket and sees to it that the peer could read it.
pub(crate) async fn call(
    tcp: TcpStream,
    to: &HostName,
    kerberos: &Kerberos,
    (mut initiator, mut token): (Initiator, Vec<u8>),
) -> Result<Sealed, LinkProblem> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(classify)?;
    // Ends when it was switched over, or with the sender.
    tokio::spawn(connection.with_upgrades());
    for _ in 0..ROUNDS_MAX {
        let request = Request::get("/")
            .header(HOST, to.as_str())
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, SEALED)
            .header(AUTHORIZATION, negotiate::write(&token))
            .header(PROTOCOL_HEADER, PROTOCOL.to_string())
            .body(Empty::<Bytes>::new())
            .expect("a host name and constants");
        sender.ready().await.map_err(classify)?;
        let response = sender.send_request(request).await.map_err(classify)?;
        let answer =
            response.headers().get(WWW_AUTHENTICATE).and_then(|value| negotiate::read(value.as_bytes()));
        match (response.status(), answer) {
            (StatusCode::SWITCHING_PROTOCOLS, answer) => {
                if let Some(answer) = answer {
                    initiator.step(&answer).map_err(LinkProblem::Kerberos)?;
                }
                let session = initiator.finish().map_err(LinkProblem::Kerberos)?;
                let upgraded = hyper::upgrade::on(response).await.map_err(classify)?;
                return sealed(upgraded, session).map_err(classify);
            }
            (StatusCode::UNAUTHORIZED, Some(answer)) => {
                let next = initiator.step(&answer).map_err(LinkProblem::Kerberos)?;
                token =
                    next.ok_or(LinkProblem::TicketRefused { reason: "it wants another one".to_owned() })?;
                let _ = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
            }
            _ => return Err(refusal(response, kerberos).await),
        }
    }
    Err(LinkProblem::TicketRefused { reason: "it never has enough of them".to_owned() })
}

/// What an answer that does not switch over means.
async fn refusal(response: Response<Incoming>, kerberos: &Kerberos) -> LinkProblem {
    let status = response.status();
    let spoken_there = response.headers().get(PROTOCOL_HEADER).and_then(|value| value.to_str().ok());
    let Some(theirs) = spoken_there.map(str::to_owned) else {
        return LinkProblem::NotRelevo { status: status.as_u16() };
    };
    if status == StatusCode::UPGRADE_REQUIRED {
        return LinkProblem::ProtocolMismatch { ours: spoken(), theirs };
    }
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let answer = body.ok().and_then(|body| serde_json::from_slice::<TransportAnswer>(&body.to_bytes()).ok());
    let reason = answer.map_or_else(|| "it does not say why".to_owned(), |answer| answer.transport_error);
    if status == StatusCode::FORBIDDEN || status == StatusCode::UNAUTHORIZED {
        kerberos.forget_tickets();
        return LinkProblem::TicketRefused { reason };
    }
    LinkProblem::Failed { status: status.as_u16(), reason }
}

fn sealed(upgraded: Upgraded, session: Session) -> io::Result<Sealed> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>();
    let parts =
        parts.map_err(|_| io::Error::other("the connection is not the one that was switched over"))?;
    Ok(Sealed::new(parts.io.into_inner(), session, &parts.read_buf))
}

/// Where the called end is.
enum Stage {
    Begun(Option<Acceptor>),
    Known(OnUpgrade, Session, Peer),
}

/// The called end. `None`: the caller was refused, has been told why, and the log says so. Unbounded in time.
pub(crate) async fn answer(
    tcp: TcpStream,
    kerberos: Arc<Kerberos>,
    head_time: Duration,
) -> Option<(Sealed, Peer)> {
    let stage = Arc::new(Mutex::new(Stage::Begun(None)));
    let service = service_fn(|request| {
        let (stage, kerberos) = (stage.clone(), kerberos.clone());
        async move { Ok::<_, Infallible>(round(request, &stage, &kerberos).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(tcp), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended before its caller was known");
    }
    let stage =
        std::mem::replace(&mut *stage.lock().expect("no code panics under this lock"), Stage::Begun(None));
    let Stage::Known(upgrade, session, peer) = stage else { return None };
    let sealed = sealed(upgrade.await.ok()?, session).ok()?;
    Some((sealed, peer))
}

/// One token of the caller.
async fn round(
    mut request: Request<Incoming>,
    stage: &Mutex<Stage>,
    kerberos: &Arc<Kerberos>,
) -> Response<Full<Bytes>> {
    let version = request.headers().get(PROTOCOL_HEADER).and_then(|value| value.to_str().ok());
    if !version.and_then(|version| version.parse().ok()).is_some_and(speaks) {
        return refuse(StatusCode::UPGRADE_REQUIRED, crate::server::OTHER_PROTOCOL);
    }
    if request.headers().get(UPGRADE).is_none_or(|value| value != SEALED) {
        return refuse(StatusCode::BAD_REQUEST, "only sealed connections are served here");
    }
    let Some(token) = token(request.headers()) else {
        let mut response = refuse(StatusCode::UNAUTHORIZED, "a ticket is needed");
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(negotiate::SCHEME));
        return response;
    };
    let begun = match &mut *stage.lock().expect("no code panics under this lock") {
        Stage::Begun(acceptor) => acceptor.take(),
        Stage::Known(..) => return refuse(StatusCode::BAD_REQUEST, "the caller is known already"),
    };
    let account = kerberos.account.clone();
    let stepped = tokio::task::spawn_blocking(move || {
        let mut acceptor = begun.map_or_else(|| Acceptor::new(&account), Ok)?;
        let answer = acceptor.step(&token)?;
        Ok::<_, kerberos::KerberosError>((acceptor, answer))
    });
    let (acceptor, answer) = match stepped.await {
        Ok(Ok(stepped)) => stepped,
        Ok(Err(error)) => return refuse_ticket(&error),
        Err(_) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
    };
    let next = if acceptor.is_complete() {
        let session = match acceptor.finish() {
            Ok(session) => session,
            Err(error) => return refuse_ticket(&error),
        };
        let principal = session.peer.clone();
        let Some(peer) = kerberos.peer(principal.clone()) else {
            tracing::info!(%principal, "refused a connection: this principal is no host's");
            return refuse(StatusCode::FORBIDDEN, &format!("{principal} is no host's principal here"));
        };
        *stage.lock().expect("no code panics under this lock") =
            Stage::Known(hyper::upgrade::on(&mut request), session, peer);
        StatusCode::SWITCHING_PROTOCOLS
    } else {
        *stage.lock().expect("no code panics under this lock") = Stage::Begun(Some(acceptor));
        StatusCode::UNAUTHORIZED
    };
    let mut response = Response::builder().status(next).header(PROTOCOL_HEADER, spoken());
    if next == StatusCode::SWITCHING_PROTOCOLS {
        response = response.header(CONNECTION, "upgrade").header(UPGRADE, SEALED);
    }
    if let Some(answer) = answer {
        response = response.header(WWW_AUTHENTICATE, negotiate::write(&answer));
    }
    response.body(Full::default()).expect("constant headers and base64")
}

fn token(headers: &HeaderMap) -> Option<Vec<u8>> {
    negotiate::read(headers.get(AUTHORIZATION)?.as_bytes())
}

fn refuse_ticket(error: &kerberos::KerberosError) -> Response<Full<Bytes>> {
    tracing::info!(%error, "refused a connection");
    refuse(StatusCode::FORBIDDEN, &error.for_caller())
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let body = serde_json::to_string(&TransportAnswer::new(why)).expect("plain strings");
    let mut response = Response::builder()
        .status(status)
        .header(PROTOCOL_HEADER, spoken())
        .header("content-type", "application/json");
    if status != StatusCode::UNAUTHORIZED {
        response = response.header(CONNECTION, "close");
    }
    response.body(Full::new(Bytes::from(body))).expect("constant headers")
}
