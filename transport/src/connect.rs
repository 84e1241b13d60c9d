//! From a host's name to an HTTP connection: address, proxy, TCP, TLS or Kerberos. The certificate, or the principal, is
//! verified against the host's name whatever the address is.

use crate::{
    client::{ClientOptions, PeerAddress, Target},
    error::{LinkError, LinkProblem, classify},
    negotiate,
    realm::Kerberos,
    tls::Configs,
};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use model::Authentication;
use rustls_pki_types::ServerName;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// The body of a request: a message, or a delta that can fail on its way.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// An idle peer is asked for a sign of life, so that a dead link is noticed while an answer is awaited.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Data that nobody acknowledges. Also bounds a receiver that takes nothing at all: longer than one slow fsync.
const UNACKNOWLEDGED_MAX_MS: u32 = 120_000;
/// More than any proxy says before it connects.
const PROXY_ANSWER_BYTES_MAX: usize = 8192;

/// What a connection is made with: who we are, and whom we believe.
pub(crate) enum Security {
    Tls(Configs),
    Kerberos(Arc<Kerberos>),
}

/// The address to name in errors, and to connect to.
pub(crate) fn address(to: Target<'_>, options: &ClientOptions, peer: &PeerAddress) -> String {
    let (address, port) = match to.by {
        Authentication::Certificate => (&peer.address, options.port),
        Authentication::Kerberos => (&peer.kerberos_address, options.kerberos_port),
    };
    match address {
        None => format!("{}:{port}", to.host),
        Some(address) if has_port(address) => address.clone(),
        Some(address) if address.contains(':') && !address.starts_with('[') => format!("[{address}]:{port}"),
        Some(address) => format!("{address}:{port}"),
    }
}

fn has_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    // A bare IPv6 address has colons and no port.
    port.parse::<u16>().is_ok() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'))
}

/// An HTTP connection, and how long it may be used; `None`: as long as it lasts.
pub(crate) type Connected = (SendRequest<RequestBody>, Option<Duration>);

pub(crate) async fn connect(
    to: Target<'_>,
    options: &ClientOptions,
    peer: &PeerAddress,
    security: Security,
) -> Result<Connected, LinkError> {
    let address = address(to, options, peer);
    let fail = |address, problem| LinkError { host: to.host.clone(), address, problem };
    // Before anything else, and in a time of its own: a KDC that is away is not the peer's silence.
    let ticket = match &security {
        Security::Kerberos(kerberos) => {
            let ticket = kerberos.ticket(to.host).await;
            Some(ticket.map_err(|error| fail(address.clone(), LinkProblem::Kerberos(error)))?)
        }
        Security::Tls(_) => None,
    };
    let proxy = options.proxy.as_deref().filter(|_| !peer.bypass_proxy && !to.bypass_proxy);
    let connected = async {
        let tcp = match proxy {
            None => tcp_connect(&address).await?,
            Some(proxy) => tunnel(proxy, &address).await?,
        };
        set_tcp_options(&tcp);
        match (&security, ticket) {
            (Security::Kerberos(kerberos), Some(ticket)) => {
                let sealed = negotiate::call(tcp, to.host, kerberos, ticket).await?;
                let good_for = sealed.good_for();
                Ok((http(sealed).await?, Some(good_for)))
            }
            (Security::Kerberos(_), None) => Err(LinkProblem::NoKerberos),
            (Security::Tls(configs), _) => {
                let name = ServerName::try_from(to.host.as_str().to_owned())
                    .map_err(|_| LinkProblem::WrongName { presented: vec![] })?;
                let tls = TlsConnector::from(configs.client.clone());
                let tls = tls.connect(name, tcp).await.map_err(classify)?;
                Ok((http(tls).await?, None))
            }
        }
    };
    let timeout = options.connect_timeout;
    let connected = tokio::time::timeout(timeout, connected).await;
    let connected = connected.unwrap_or(Err(LinkProblem::TimedOut { seconds: timeout.as_secs() }));
    connected.map_err(|problem| {
        let address = proxy.map_or(address.clone(), |proxy| format!("{address} through {proxy}"));
        fail(address, problem)
    })
}

/// HTTP on a connection whose other end is known.
async fn http<S>(stream: S) -> Result<SendRequest<RequestBody>, LinkProblem>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(classify)?;
    // Ends by itself when the connection does; its errors reach the request that is on it.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
    Ok(sender)
}

/// Tries every address that the name has; the last one's problem counts.
async fn tcp_connect(address: &str) -> Result<TcpStream, LinkProblem> {
    let found = tokio::net::lookup_host(address).await.map_err(LinkProblem::NameUnresolved)?;
    let mut problem =
        LinkProblem::NameUnresolved(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in found {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                problem = LinkProblem::ConnectionRefused;
            }
            Err(error) => problem = LinkProblem::Unreachable(error),
        }
    }
    Err(problem)
}

/// A tunnel through an HTTP proxy, which resolves the address itself.
async fn tunnel(proxy: &str, address: &str) -> Result<TcpStream, LinkProblem> {
    let fail = |reason: String| LinkProblem::Proxy { proxy: proxy.to_owned(), reason };
    let authority = proxy.strip_prefix("http://").unwrap_or(proxy).trim_end_matches('/');
    if authority.contains('@') || authority.contains('/') {
        return Err(fail("only http://HOST:PORT without a password is supported".to_owned()));
    }
    let mut tcp = tcp_connect(authority).await.map_err(|problem| fail(problem.to_string()))?;
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.map_err(|error| fail(error.to_string()))?;
    // One byte at a time: what follows the answer belongs to TLS.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == PROXY_ANSWER_BYTES_MAX {
            return Err(fail("its answer does not end".to_owned()));
        }
        answer.push(tcp.read_u8().await.map_err(|error| fail(error.to_string()))?);
    }
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    if status.is_some_and(|status| status.starts_with('2')) { Ok(tcp) } else { Err(fail(first)) }
}

/// Best effort: a link without these options works, it only notices a dead peer later.
pub(crate) fn set_tcp_options(tcp: &TcpStream) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_the_default_port_unless_it_has_one() {
        let options = ClientOptions { port: 9443, ..ClientOptions::default() };
        let to: model::HostName = "b.example".parse().unwrap();
        let at = |text: Option<&str>| {
            let peer = PeerAddress { address: text.map(str::to_owned), ..PeerAddress::default() };
            address((&to).into(), &options, &peer)
        };
        let other = PeerAddress { kerberos_address: Some("10.0.0.2".to_owned()), ..PeerAddress::default() };
        let kerberos = Target { by: Authentication::Kerberos, ..(&to).into() };
        assert_eq!(address(kerberos, &options, &other), "10.0.0.2:9080");
        assert_eq!(address((&to).into(), &options, &other), "b.example:9443");
        assert_eq!(at(None), "b.example:9443");
        assert_eq!(at(Some("10.0.0.2")), "10.0.0.2:9443");
        assert_eq!(at(Some("10.0.0.2:1")), "10.0.0.2:1");
        assert_eq!(at(Some("fe80::1")), "[fe80::1]:9443");
        assert_eq!(at(Some("[fe80::1]")), "[fe80::1]:9443");
        assert_eq!(at(Some("[fe80::1]:1")), "[fe80::1]:1");
    }
}
