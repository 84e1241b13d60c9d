//! The listening end: accepts connections whose certificate our authorities signed, or whose ticket is a host's, and
//! hands calls and deltas to a [`Handler`]. HTTP/1.1 with two resources, `POST /call` and `POST /delta`.

use crate::{
    error::TransportAnswer,
    header::{DeltaHeader, PROTOCOL_HEADER, speaks, spoken},
    negotiate,
    realm::Kerberos,
    stream::{self, ChunkStream},
    tls::{self, Peer, Tls},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest control message.
pub const CALL_BYTES_MAX: usize = 16 << 20;
/// From the first byte to a finished TLS handshake, or a finished exchange of tickets.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// For the head of a request; also how long a connection may idle between requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(60);
/// For the body of a control message, and for the header of a delta.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(60);
/// A site of hosts with a few relationships each stays far below; more are an accident or an attack.
const CONNECTIONS_MAX: usize = 512;
/// How long a refused peer may take to hear why.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a shutdown waits for connections to close after all handlers are done.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

pub(crate) const OTHER_PROTOCOL: &str = "protocol version not spoken here";

/// What the host does with what arrives. `Err` is a refusal: the caller gets the JSON as its error. The
/// futures run on tasks of their own and are not dropped when the connection breaks.
pub trait Handler: Send + Sync + 'static {
    /// A control message.
    fn call<'a>(&'a self, peer: &'a Peer, request: Value) -> BoxFuture<'a, Result<Value, Value>>;

    /// A delta. The answer goes to the sender as soon as it is given; frames that were not read then are
    /// thrown away.
    fn receive<'a>(
        &'a self,
        peer: &'a Peer,
        header: DeltaHeader,
        chunks: ChunkStream,
    ) -> BoxFuture<'a, Result<Value, Value>>;
}

/// How a listener's callers prove who they are.
#[derive(Clone, Debug)]
pub enum Security {
    Tls(Arc<Tls>),
    Kerberos(Arc<Kerberos>),
}

impl From<Arc<Tls>> for Security {
    fn from(tls: Arc<Tls>) -> Self {
        Self::Tls(tls)
    }
}

impl From<Arc<Kerberos>> for Security {
    fn from(kerberos: Arc<Kerberos>) -> Self {
        Self::Kerberos(kerberos)
    }
}

#[derive(Debug)]
pub struct Server {
    pub local_addr: SocketAddr,
    stop: CancellationToken,
    abort: CancellationToken,
    connections: TaskTracker,
    handlers: TaskTracker,
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    security: Security,
    handler: Arc<dyn Handler>,
    /// No new requests; deltas are cut.
    stop: CancellationToken,
    /// No connections either.
    abort: CancellationToken,
    connections: TaskTracker,
    handlers: TaskTracker,
}

impl Server {
    /// Listens on `address` (port 0: any free one). Call inside a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        security: impl Into<Security>,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let security = security.into();
        if matches!(&security, Security::Tls(tls) if tls.current().server.is_none()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a server needs a certificate"));
        }
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let local_addr = listener.local_addr()?;
        let (stop, abort, connections, handlers) = Default::default();
        let server = Self { local_addr, stop, abort, connections, handlers };
        let shared = Shared {
            security,
            handler,
            stop: server.stop.clone(),
            abort: server.abort.clone(),
            connections: server.connections.clone(),
            handlers: server.handlers.clone(),
        };
        server.connections.spawn(accept(listener, shared));
        Ok(server)
    }

    /// Stops listening, lets control calls finish, cuts deltas, and waits until all handlers are done.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.connections.close();
        self.handlers.close();
        self.handlers.wait().await;
        // Only answers on their way to peers that do not read are lost.
        let _ = tokio::time::timeout(CLOSE_TIME_MAX, self.connections.wait()).await;
        self.abort.cancel();
        self.connections.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((tcp, from)) => {
                let connection = serve(tcp, from, shared.clone());
                shared.connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(tcp: TcpStream, from: SocketAddr, shared: Shared) {
    crate::connect::set_tcp_options(&tcp);
    match shared.security.clone() {
        Security::Tls(tls) => {
            if let Some((stream, peer)) = accept_tls(tcp, from, &tls, &shared).await {
                http(stream, from, peer, shared).await;
            }
        }
        Security::Kerberos(kerberos) => {
            let known = negotiate::answer(tcp, kerberos, HANDSHAKE_TIME_MAX);
            let known = tokio::select! {
                known = tokio::time::timeout(HANDSHAKE_TIME_MAX, known) => known,
                () = shared.stop.cancelled() => return,
            };
            match known {
                Ok(Some((stream, peer))) => http(stream, from, peer, shared).await,
                Ok(None) => {}
                Err(_) => tracing::info!(%from, "gave up on a slow exchange of tickets"),
            }
        }
    }
}

async fn accept_tls(
    tcp: TcpStream,
    from: SocketAddr,
    tls: &Tls,
    shared: &Shared,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    let Some(config) = tls.current().server else {
        tracing::error!(%from, "refused a connection: this host has no certificate any more");
        return None;
    };
    let handshake = TlsAcceptor::from(config).accept(tcp).into_fallible();
    let stream = tokio::select! {
        stream = tokio::time::timeout(HANDSHAKE_TIME_MAX, handshake) => stream,
        () = shared.stop.cancelled() => return None,
    };
    match stream {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(<[_]>::first).expect("the verifier demands one");
            let peer = tls::peer(certificate);
            Some((stream, peer))
        }
        Ok(Err((error, tcp))) => {
            tracing::info!(%from, %error, "refused a connection");
            tokio::select! {
                () = linger(tcp) => {}
                () = shared.abort.cancelled() => {}
            }
            None
        }
        Err(_) => {
            tracing::info!(%from, "gave up on a slow TLS handshake");
            None
        }
    }
}

/// Serves a caller that is known, whatever seals the connection.
async fn http<S>(stream: S, from: SocketAddr, peer: Peer, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let service = service_fn(|request| answer(request, peer.clone(), shared.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = shared.abort.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%from, peer = ?peer.names, %error, "a connection ended early");
    }
}

/// Keeps a refused connection until its peer closes, because a close with unread input becomes a reset, and a
/// reset overtakes the alert that says why.
async fn linger(mut tcp: TcpStream) {
    use tokio::io::AsyncWriteExt;
    let drain = async {
        let _ = tcp.shutdown().await;
        let mut scrap = vec![0; 16 << 10];
        while tcp.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
    };
    let _ = tokio::time::timeout(LINGER_TIME_MAX, drain).await;
}

async fn answer(
    request: Request<Incoming>,
    peer: Arc<Peer>,
    shared: Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = request.headers().get(PROTOCOL_HEADER).and_then(|value| value.to_str().ok());
    let known = version.and_then(|version| version.parse().ok()).is_some_and(speaks);
    let path = request.uri().path();
    let refused = if path != "/call" && path != "/delta" {
        Some((StatusCode::NOT_FOUND, "no such resource"))
    } else if request.method() != Method::POST {
        Some((StatusCode::METHOD_NOT_ALLOWED, "only POST is understood"))
    } else if !known {
        Some((StatusCode::UPGRADE_REQUIRED, OTHER_PROTOCOL))
    } else if shared.stop.is_cancelled() {
        Some((StatusCode::SERVICE_UNAVAILABLE, "shutting down"))
    } else {
        None
    };
    let answer = match refused {
        Some((status, why)) => {
            shared.handlers.spawn(stream::drain(request.into_body(), shared.stop.clone()));
            Err((status, TransportAnswer::new(why)))
        }
        None if path == "/call" => call(request, peer, shared).await,
        None => delta(request, peer, shared).await,
    };
    let (status, body) = match answer {
        Ok(Ok(answer)) => (StatusCode::OK, answer.to_string()),
        Ok(Err(refusal)) => (StatusCode::CONFLICT, refusal.to_string()),
        Err((status, answer)) => (status, serde_json::to_string(&answer).expect("plain strings")),
    };
    let response = Response::builder()
        .status(status)
        .header(PROTOCOL_HEADER, spoken())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)));
    Ok(response.expect("constant headers"))
}

/// The handler's answer, or the transport's own with its status.
type Answer = Result<Result<Value, Value>, (StatusCode, TransportAnswer)>;

async fn call(request: Request<Incoming>, peer: Arc<Peer>, shared: Shared) -> Answer {
    let body = Limited::new(request.into_body(), CALL_BYTES_MAX);
    let body = match tokio::time::timeout(MESSAGE_TIME_MAX, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, TransportAnswer::new("the message is too long")));
        }
        Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, TransportAnswer::new(error))),
        Err(_) => {
            return Err((StatusCode::REQUEST_TIMEOUT, TransportAnswer::new("the message took too long")));
        }
    };
    let request = serde_json::from_slice(&body)
        .map_err(|error| (StatusCode::BAD_REQUEST, TransportAnswer::new(error)))?;
    run(&shared, move |handler| async move { handler.call(&peer, request).await }).await
}

async fn delta(request: Request<Incoming>, peer: Arc<Peer>, shared: Shared) -> Answer {
    let mut body = request.into_body();
    let (header, first) = match read_header(&mut body).await {
        Ok(read) => read,
        Err(refusal) => {
            shared.handlers.spawn(stream::drain(body, shared.stop.clone()));
            return Err(refusal);
        }
    };
    let (chunks, pump) = stream::receive(&header, first, body, shared.stop.clone())
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, TransportAnswer::new(error)))?;
    shared.handlers.spawn(pump);
    run(&shared, move |handler| async move { handler.receive(&peer, header, chunks).await }).await
}

async fn read_header(body: &mut Incoming) -> Result<(DeltaHeader, Bytes), (StatusCode, TransportAnswer)> {
    let read = tokio::time::timeout(MESSAGE_TIME_MAX, stream::read_header(body)).await;
    match read {
        Ok(Ok((header, _))) if !speaks(header.protocol) => {
            Err((StatusCode::UPGRADE_REQUIRED, TransportAnswer::new(OTHER_PROTOCOL)))
        }
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, TransportAnswer::new(error))),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, TransportAnswer::new("the header took too long"))),
    }
}

/// Runs a handler on a task that outlives the connection.
async fn run<F>(shared: &Shared, work: impl FnOnce(Arc<dyn Handler>) -> F) -> Answer
where
    F: Future<Output = Result<Value, Value>> + Send + 'static,
{
    let task = shared.handlers.spawn(work(shared.handler.clone()));
    task.await.map_err(|error| {
        tracing::error!(%error, "a handler panicked");
        (StatusCode::INTERNAL_SERVER_ERROR, TransportAnswer::new("internal error"))
    })
}
