//! The calling end: control calls and deltas to peers, named by host and reached by address. Connections are
//! kept and used again.

use crate::{
    connect::{self, RequestBody, Security},
    encode::Compression,
    error::{CallError, LinkError, LinkProblem, SendError, TransportAnswer, classify},
    header::{DeltaHeader, PROTOCOL, PROTOCOL_HEADER, spoken},
    limit::Limiter,
    realm::Kerberos,
    send,
    server::CALL_BYTES_MAX,
    tls::Tls,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1::SendRequest};
use model::{Authentication, Chunk, HostName};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Shorter than the server's patience, so that a connection is not picked up as the server drops it.
const IDLE_MAX: Duration = Duration::from_secs(40);
/// More idle connections to one peer than this are closed.
const IDLE_COUNT_MAX: usize = 4;

/// How to reach a peer whose name does not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAddress {
    /// `10.0.0.2`, `10.0.0.2:9443`, `[::1]:9443`, `other.name:9443`; `None`: resolve the host's own name.
    pub address: Option<String>,
    /// The same where Kerberos is spoken.
    pub kerberos_address: Option<String>,
    pub bypass_proxy: bool,
}

/// Whom to call, and how both prove who they are.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub host: &'a HostName,
    pub by: Authentication,
    /// Past the proxy, if there is one.
    pub bypass_proxy: bool,
}

impl<'a> From<&'a HostName> for Target<'a> {
    fn from(host: &'a HostName) -> Self {
        Self { host, by: Authentication::Certificate, bypass_proxy: false }
    }
}

impl Target<'_> {
    fn way(&self) -> Way {
        (self.host.clone(), self.by, self.bypass_proxy)
    }
}

#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub peers: BTreeMap<HostName, PeerAddress>,
    /// Port of peers whose address names none.
    pub port: u16,
    /// The same where Kerberos is spoken.
    pub kerberos_port: u16,
    /// `http://host:port` of a proxy that understands CONNECT.
    pub proxy: Option<String>,
    /// For all of: name, TCP, proxy, TLS or the exchange of tickets.
    pub connect_timeout: Duration,
    /// From the request to the whole answer of a control call.
    pub call_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            peers: BTreeMap::new(),
            port: 9443,
            kerberos_port: 9080,
            proxy: None,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(60),
        }
    }
}

impl ClientOptions {
    /// The defaults, with the proxy that `HTTPS_PROXY` (or `https_proxy`) names.
    pub fn from_env() -> Self {
        let proxy = ["HTTPS_PROXY", "https_proxy"].iter().find_map(|name| std::env::var(name).ok());
        Self { proxy: proxy.filter(|proxy| !proxy.is_empty()), ..Self::default() }
    }
}

/// Counters of a running [`Client::send_delta`].
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames made, those that a resumed stream skips included.
    pub frames: AtomicU64,
    /// Bytes of data clusters in these frames, before compression.
    pub raw_bytes: AtomicU64,
    /// Bytes given to the link.
    pub sent_bytes: AtomicU64,
}

#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    pub compression: Compression,
    /// All of them apply: the relationship's and the host's.
    pub limiters: Vec<Arc<Limiter>>,
    pub progress: Arc<Progress>,
    pub cancel: CancellationToken,
}

#[derive(Debug)]
pub struct Client {
    tls: Arc<Tls>,
    kerberos: Option<Arc<Kerberos>>,
    options: RwLock<Arc<ClientOptions>>,
    idle: Mutex<HashMap<Way, Vec<Idle>>>,
}

/// An owned [`Target`].
type Way = (HostName, Authentication, bool);

/// A connection without a request on it.
#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
    /// When the ticket ends.
    until: Option<Instant>,
    /// Of the identity and the options that it was made with.
    identity: u64,
    options: Arc<ClientOptions>,
}

/// An answer: its status and JSON, or why there is none.
pub(crate) type Answer = Result<Result<Value, Value>, LinkError>;

impl Client {
    pub fn new(tls: Arc<Tls>, options: ClientOptions) -> Self {
        Self { tls, kerberos: None, options: RwLock::new(Arc::new(options)), idle: Mutex::default() }
    }

    /// For calls under Kerberos, too.
    #[must_use]
    pub fn with_kerberos(self, kerberos: Option<Arc<Kerberos>>) -> Self {
        Self { kerberos, ..self }
    }

    /// Replaces the addresses of peers; connections that exist are not used again.
    pub fn set_peers(&self, peers: BTreeMap<HostName, PeerAddress>) {
        let mut options = self.options.write().expect("no code panics under this lock");
        *options = Arc::new(ClientOptions { peers, ..(**options).clone() });
    }

    /// A control message and its answer.
    pub async fn call<R: DeserializeOwned>(
        &self,
        to: impl Into<Target<'_>>,
        request: &impl Serialize,
    ) -> Result<R, CallError> {
        let to = to.into();
        let host = || to.host.clone();
        let body =
            serde_json::to_vec(request).map_err(|source| CallError::Request { host: host(), source })?;
        let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync();
        let timeout = self.options().call_timeout;
        let answer = match tokio::time::timeout(timeout, self.post(to, "/call", body)).await {
            Ok(answer) => answer?,
            Err(_) => {
                let problem = LinkProblem::TimedOut { seconds: timeout.as_secs() };
                return Err(self.link_error(to, problem).into());
            }
        };
        let answer = answer.map_err(|answer| CallError::Refused { host: host(), answer })?;
        serde_json::from_value(answer).map_err(|source| CallError::Answer { host: host(), source })
    }

    /// Sends a delta and waits for the receiver's answer. `source` is read on a thread of its own and yields
    /// the whole delta, in the same chunks each time, wherever `header.from` starts; what lies before is read,
    /// compared and not sent. Dropping the future or cancelling it cuts the stream; the source is then dropped
    /// after the item that it is at.
    pub async fn send_delta<E>(
        &self,
        to: impl Into<Target<'_>>,
        header: DeltaHeader,
        source: impl Iterator<Item = Result<Chunk, E>> + Send + 'static,
        options: SendOptions,
    ) -> Result<Value, SendError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        send::send_delta(self, to.into(), &header, source, options).await
    }

    /// Posts a body and reads the answer. A kept connection that turns out to be closed before the request was
    /// on it is replaced by a new one.
    pub(crate) async fn post(&self, to: Target<'_>, path: &str, body: RequestBody) -> Answer {
        let options = self.options();
        let peer = options.peers.get(to.host).cloned().unwrap_or_default();
        let mut request = Request::post(path)
            .header("host", to.host.as_str())
            .header(
                "content-type",
                if path == "/call" { "application/json" } else { "application/octet-stream" },
            )
            .header(PROTOCOL_HEADER, PROTOCOL.to_string())
            .body(body)
            .expect("constant path and a host name");
        let cut = |problem| self.link_error(to, problem);
        loop {
            let (mut idle, kept) = match self.take_idle(to, &options) {
                Some(idle) => (idle, true),
                None => (self.connect(to, &options, &peer).await?, false),
            };
            match idle.sender.try_send_request(request).await {
                Ok(response) => {
                    let answer = read_answer(response).await.map_err(cut)?;
                    self.keep(to, idle);
                    return Ok(answer);
                }
                Err(mut error) => match error.take_message() {
                    Some(message) if kept => request = message,
                    _ => return Err(cut(classify(error.into_error()))),
                },
            }
        }
    }

    async fn connect(
        &self,
        to: Target<'_>,
        options: &Arc<ClientOptions>,
        peer: &PeerAddress,
    ) -> Result<Idle, LinkError> {
        let (security, identity) = match (to.by, &self.kerberos) {
            (Authentication::Certificate, _) => {
                let configs = self.tls.current();
                let identity = configs.generation;
                (Security::Tls(configs), identity)
            }
            (Authentication::Kerberos, Some(kerberos)) => (Security::Kerberos(kerberos.clone()), 0),
            (Authentication::Kerberos, None) => return Err(self.link_error(to, LinkProblem::NoKerberos)),
        };
        let (sender, good_for) = connect::connect(to, options, peer, security).await?;
        let since = Instant::now();
        let until = good_for.map(|good_for| since + good_for);
        Ok(Idle { sender, since, until, identity, options: options.clone() })
    }

    pub(crate) fn link_error(&self, to: Target<'_>, problem: LinkProblem) -> LinkError {
        let options = self.options();
        let peer = options.peers.get(to.host).cloned().unwrap_or_default();
        LinkError { host: to.host.clone(), address: connect::address(to, &options, &peer), problem }
    }

    fn options(&self) -> Arc<ClientOptions> {
        self.options.read().expect("no code panics under this lock").clone()
    }

    fn take_idle(&self, to: Target<'_>, options: &Arc<ClientOptions>) -> Option<Idle> {
        let identity = match to.by {
            Authentication::Certificate => self.tls.current().generation,
            Authentication::Kerberos => 0,
        };
        let mut idle = self.idle.lock().expect("no code panics under this lock");
        let kept = idle.get_mut(&to.way())?;
        kept.retain(|idle| idle.is_usable(identity, options));
        kept.pop()
    }

    fn keep(&self, to: Target<'_>, mut used: Idle) {
        used.since = Instant::now();
        let mut idle = self.idle.lock().expect("no code panics under this lock");
        let kept = idle.entry(to.way()).or_default();
        if kept.len() < IDLE_COUNT_MAX {
            kept.push(used);
        }
    }
}

impl Idle {
    fn is_usable(&self, identity: u64, options: &Arc<ClientOptions>) -> bool {
        self.identity == identity
            && Arc::ptr_eq(&self.options, options)
            && self.since.elapsed() < IDLE_MAX
            && self.until.is_none_or(|until| Instant::now() < until)
            && self.sender.is_ready()
    }
}

async fn read_answer(response: Response<Incoming>) -> Result<Result<Value, Value>, LinkProblem> {
    let status = response.status();
    let spoken_there = response.headers().get(PROTOCOL_HEADER).and_then(|value| value.to_str().ok());
    let Some(theirs) = spoken_there.map(str::to_owned) else {
        return Err(LinkProblem::NotRelevo { status: status.as_u16() });
    };
    if status == StatusCode::UPGRADE_REQUIRED {
        return Err(LinkProblem::ProtocolMismatch { ours: spoken(), theirs });
    }
    let body =
        Limited::new(response.into_body(), CALL_BYTES_MAX).collect().await.map_err(classify)?.to_bytes();
    let broken = |_| LinkProblem::NotRelevo { status: status.as_u16() };
    match status {
        StatusCode::OK => Ok(Ok(serde_json::from_slice(&body).map_err(broken)?)),
        StatusCode::CONFLICT => Ok(Err(serde_json::from_slice(&body).map_err(broken)?)),
        _ => {
            let answer: TransportAnswer = serde_json::from_slice(&body).map_err(broken)?;
            Err(LinkProblem::Failed { status: status.as_u16(), reason: answer.transport_error })
        }
    }
}
