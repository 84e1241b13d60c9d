//! The calling end: control calls and deltas to peers, named by host and reached by address.

use crate::{
    encode::Compression,
    error::{CallError, SendError},
    header::DeltaHeader,
    limit::Limiter,
    tls::Tls,
};
use model::{Chunk, HostName};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How to reach a peer whose name does not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAddress {
    /// `10.0.0.2`, `10.0.0.2:9443`, `[::1]:9443`, `other.name:9443`; `None`: resolve the host's own name.
    pub address: Option<String>,
    pub bypass_proxy: bool,
}

#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub peers: BTreeMap<HostName, PeerAddress>,
    /// Port of peers whose address names none.
    pub port: u16,
    /// `http://[user:password@]host:port` of a proxy that understands CONNECT.
    pub proxy: Option<String>,
    pub connect_timeout: Duration,
    /// From the request to the whole answer of a control call.
    pub call_timeout: Duration,
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
pub struct Client {}

impl Client {
    pub fn new(tls: Arc<Tls>, options: ClientOptions) -> Self {
        let _ = (tls, options);
        unimplemented!()
    }

    /// Replaces the addresses of peers; connections that exist are not used again.
    pub fn set_peers(&self, peers: BTreeMap<HostName, PeerAddress>) {
        let _ = peers;
        unimplemented!()
    }

    /// A control message and its answer.
    pub async fn call<R: DeserializeOwned>(
        &self,
        to: &HostName,
        request: &impl Serialize,
    ) -> Result<R, CallError> {
        let _ = (to, request);
        unimplemented!()
    }

    /// Sends a delta and waits for the receiver's answer. `source` is read on a thread of its own and yields
    /// the whole delta, in the same chunks each time, wherever `header.from` starts.
    pub async fn send_delta<E>(
        &self,
        to: &HostName,
        header: DeltaHeader,
        source: impl Iterator<Item = Result<Chunk, E>> + Send + 'static,
        options: SendOptions,
    ) -> Result<serde_json::Value, SendError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let _ = (to, header, source, options);
        unimplemented!()
    }
}
