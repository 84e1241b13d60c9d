//! One request and its answer.

use crate::{
    auth::{Negotiated, Verdict},
    connection::Connection,
    gzip,
    limits::Limits,
    service::{Access, Body},
};
use bytes::Bytes;
use cim::Caller;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{
        ACCEPT_LANGUAGE, AUTHORIZATION, CONNECTION, CONTENT_TYPE, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE,
    },
    request,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use std::{sync::Arc, time::Duration};

/// The body of a refused request is thrown away up to here, so that the connection lives on: clients that log in
/// only after a 401 send all twice.
const REFUSED_BODY_BYTES_MAX: u64 = 64 << 10;
/// Longer than any language tag that means something (RFC 5646, section 4.4.1).
const LANGUAGE_BYTES_MAX: usize = 35;

/// Why a request does not reach the service.
enum Refusal {
    Absent,
    /// `Some`: a ticket owes another token, and nothing else is offered.
    Unauthorized {
        next: Option<HeaderValue>,
    },
    Locked {
        wait: Duration,
    },
    TooLong {
        bytes_max: usize,
    },
    TooSlow,
    Broken,
    Stopping,
}

pub(crate) async fn answer(request: Request<Incoming>, connection: Arc<Connection>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let takes_gzip = gzip::is_offered(&head.headers);
    let response = match admit(&head, &connection).await {
        Ok(Admitted { caller, proof }) => {
            let mut response = match read(body, caller.is_some(), &connection.shared.limits).await {
                Ok(body) => serve(head, body, caller, &connection).await,
                // What is left of the body is not worth waiting for.
                Err(refusal) => closing(refuse(refusal, &connection)),
            };
            if let Some(proof) = proof {
                response.headers_mut().insert(WWW_AUTHENTICATE, proof);
            }
            response
        }
        Err(refusal) => {
            let expects = head.headers.contains_key(EXPECT);
            let response = refuse(refusal, &connection);
            if drain(body, expects, connection.shared.limits.body_time).await {
                response
            } else {
                closing(response)
            }
        }
    };
    if takes_gzip { gzip::compress(response) } else { response }
}

struct Admitted {
    /// On whose behalf the request is; `None` where anybody may ask.
    caller: Option<Caller>,
    /// What proves to a client with a ticket who we are.
    proof: Option<HeaderValue>,
}

async fn admit(head: &request::Parts, connection: &Connection) -> Result<Admitted, Refusal> {
    let shared = &connection.shared;
    if shared.stop.is_cancelled() {
        return Err(Refusal::Stopping);
    }
    match shared.service.access(head) {
        Access::Absent => return Err(Refusal::Absent),
        Access::Anybody => return Ok(Admitted { caller: None, proof: None }),
        Access::Users => {}
    }
    let from = connection.from;
    let certificate = connection.certificate.as_ref();
    let negotiated = match &connection.negotiation {
        Some(negotiation) => shared.authenticator.negotiate(negotiation, &head.headers, from.ip()).await,
        None => None,
    };
    let Negotiated { verdict, answer } = match negotiated {
        Some(negotiated) => negotiated,
        None => {
            let verdict = shared.authenticator.authenticate(&head.headers, from.ip(), certificate).await;
            Negotiated { verdict, answer: None }
        }
    };
    match verdict {
        Verdict::Admitted { user, role } => {
            let caller = Caller { user, role, locale: language(&head.headers), address: Some(from) };
            Ok(Admitted { caller: Some(caller), proof: answer })
        }
        Verdict::Refused => Err(Refusal::Unauthorized { next: answer }),
        Verdict::Locked { wait } => Err(Refusal::Locked { wait }),
    }
}

/// The language that comes first, as clients send the one that they like best.
fn language(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(ACCEPT_LANGUAGE)?.to_str().ok()?;
    let tag = value.split([',', ';']).next()?.trim();
    let is_tag = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (is_tag && (1..=LANGUAGE_BYTES_MAX).contains(&tag.len())).then(|| tag.to_owned())
}

async fn read(body: Incoming, is_of_user: bool, limits: &Limits) -> Result<Bytes, Refusal> {
    let bytes_max = if is_of_user { limits.body_bytes_max } else { limits.stranger_body_bytes_max };
    let too_long = Refusal::TooLong { bytes_max };
    // What is announced too long is refused before it is sent.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_long);
    }
    let collected = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(limits.body_time, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long),
        Ok(Err(_)) => Err(Refusal::Broken),
        Err(_) => Err(Refusal::TooSlow),
    }
}

/// Has the service answer on a task of its own: an operation that has begun is not dropped half-way.
async fn serve(
    mut head: request::Parts,
    body: Bytes,
    caller: Option<Caller>,
    connection: &Connection,
) -> Response<Body> {
    head.headers.remove(AUTHORIZATION);
    let request = Request::from_parts(head, body);
    let service = connection.shared.service.clone();
    let handled =
        connection.shared.handlers.spawn(async move { service.handle(request, caller.as_ref()).await });
    handled.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request was not answered");
        text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    })
}

/// Throws away the body of a refused request, if it is short and on its way. `false`: it was not.
async fn drain(mut body: Incoming, expects: bool, time: Duration) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // A client that asks first must not be told to go on.
    if expects || body.size_hint().lower() > REFUSED_BODY_BYTES_MAX {
        return false;
    }
    let read = async {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.ok()?.data_ref().map_or(0, Bytes::len) as u64;
            if bytes > REFUSED_BODY_BYTES_MAX {
                return None;
            }
        }
        Some(())
    };
    matches!(tokio::time::timeout(time, read).await, Ok(Some(())))
}

fn refuse(refusal: Refusal, connection: &Connection) -> Response<Body> {
    match refusal {
        Refusal::Absent => text(StatusCode::NOT_FOUND, "no such resource"),
        Refusal::Unauthorized { next } => {
            let mut response = text(StatusCode::UNAUTHORIZED, "");
            let offered = match &next {
                Some(next) => std::slice::from_ref(next),
                None => connection.shared.challenges.as_slice(),
            };
            for challenge in offered {
                response.headers_mut().append(WWW_AUTHENTICATE, challenge.clone());
            }
            response
        }
        Refusal::Locked { wait } => {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let message = format!("too many failed attempts to log in; wait {seconds} s");
            let mut response = text(StatusCode::TOO_MANY_REQUESTS, message);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
            response
        }
        Refusal::TooLong { bytes_max } => {
            text(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {bytes_max} bytes"))
        }
        Refusal::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
        Refusal::Broken => text(StatusCode::BAD_REQUEST, "the request ended early"),
        Refusal::Stopping => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
    }
}

fn closing(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn text(status: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let message = message.into();
    let mut response = Response::builder().status(status);
    if !message.is_empty() {
        response = response.header(CONTENT_TYPE, "text/plain; charset=utf-8");
    }
    let body = Full::new(message).map_err(|never| match never {}).boxed_unsync();
    response.body(body).expect("constant headers")
}
