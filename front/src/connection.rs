//! One connection: TLS, then requests one after the other until either side closes.

use crate::{
    auth::{Authenticator, Negotiation},
    exchange,
    limits::Limits,
    origin::Slots,
    service::Service,
    tls::ClientCertificate,
    tls::Tls,
};
use http::HeaderValue;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::UnixTime;
use std::{convert::Infallible, future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An idle client is asked for a sign of life, so that a dead one gives its place back.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// How long an answer may lie before a client that takes nothing.
const UNACKNOWLEDGED_MAX_MS: u32 = 60_000;
/// How long a refused client may take to hear why.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);

/// What all connections of a listener have in common.
pub(crate) struct Shared {
    pub tls: Option<Arc<Tls>>,
    pub authenticator: Arc<Authenticator>,
    pub service: Arc<dyn Service>,
    pub challenges: Vec<HeaderValue>,
    pub limits: Limits,
    pub slots: Arc<Slots>,
    /// No new requests.
    pub stop: CancellationToken,
    /// No connections either.
    pub abort: CancellationToken,
    pub connections: TaskTracker,
    pub handlers: TaskTracker,
}

/// What the requests of one connection have in common.
pub(crate) struct Connection {
    pub shared: Arc<Shared>,
    pub from: SocketAddr,
    pub certificate: Option<ClientCertificate>,
    /// The exchange of tickets; over TLS only.
    pub negotiation: Option<Negotiation>,
}

pub(crate) async fn serve(tcp: TcpStream, from: SocketAddr, shared: Arc<Shared>) {
    set_tcp_options(&tcp);
    let Some(tls) = &shared.tls else {
        return http(tcp, Connection { shared, from, certificate: None, negotiation: None }).await;
    };
    let tls = tls.current();
    let acceptor = TlsAcceptor::from(tls.server(shared.authenticator.wants_certificates()));
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(shared.limits.handshake_time, acceptor.accept(tcp)) => accepted,
        () = shared.stop.cancelled() => return,
    };
    match accepted {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificate = tls.client(chain, UnixTime::now());
            let negotiation = Some(Negotiation::default());
            http::<TlsStream<TcpStream>>(stream, Connection { shared, from, certificate, negotiation }).await;
        }
        Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS with a client"),
        Err(_) => tracing::debug!(%from, "no TLS with a client in time"),
    }
}

async fn http<S>(stream: S, connection: Connection)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(connection);
    let Shared { limits, stop, abort, .. } = &*connection.shared;
    let service = service_fn(|request: http::Request<Incoming>| {
        let answer = exchange::answer(request, connection.clone());
        Box::pin(async move { Ok::<_, Infallible>(answer.await) })
    });
    let mut requests = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes_max)
        .max_headers(limits.headers_max)
        .serve_connection(TokioIo::new(stream), service);
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            ended = poll_fn(|context| requests.poll_without_shutdown(context)) => break ended,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut requests).graceful_shutdown();
            }
            () = abort.cancelled() => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(from = %connection.from, %error, "a connection ended early");
    }
    let stream = requests.into_parts().io.into_inner();
    tokio::select! {
        () = linger(stream) => {}
        () = stop.cancelled() => {}
    }
}

/// Closes our side and waits for the client's, because a close with unread input becomes a reset, and a reset
/// overtakes the answer that says why.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let closing = async {
        if stream.shutdown().await.is_ok() {
            let mut scrap = vec![0; 16 << 10];
            while stream.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
        }
    };
    let _ = tokio::time::timeout(LINGER_TIME_MAX, closing).await;
}

/// Best effort: a connection without these options works, it only notices a dead client later.
fn set_tcp_options(tcp: &TcpStream) {
    use rustix::net::sockopt;
    let set = || {
        sockopt::set_tcp_nodelay(tcp, true)?;
        sockopt::set_socket_keepalive(tcp, true)?;
        sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES)?;
        sockopt::set_tcp_user_timeout(tcp, UNACKNOWLEDGED_MAX_MS)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "cannot set the options of a connection");
    }
}
