//! The replication link between two hosts: HTTPS with certificates on both sides, or HTTP sealed by Kerberos; control
//! calls as JSON, and a delta as one streamed request body of frames that resumes where the receiver last made it
//! durable.
//!
//! ```text
//! reader thread ─ chunks ─▶ encoder thread ─ batches ─▶ limiter ─▶ TLS ═══▶ TLS ─▶ decoder ─ chunks ─▶ handler
//!                                                            (or records sealed by GSS-API)
//! ```
//!
//! What is above TLS is the same above sealed records: a stream of bytes, and who the peer is.
//!
//! What the requests mean is the caller's: bodies are opaque JSON here. No libvirt, no SQL, no replication
//! logic. The bytes are described in `docs/format/wire.md`.

pub mod authorize;
pub mod certs;
pub mod client;
mod connect;
pub mod decode;
pub mod encode;
pub mod error;
pub mod fault;
pub mod frame;
pub mod header;
pub mod limit;
mod negotiate;
mod realm;
mod sealed;
mod send;
pub mod server;
pub mod stream;
pub mod tls;

pub use authorize::{Authorization, HostPattern, authorize};
pub use client::{Client, ClientOptions, PeerAddress, Progress, SendOptions, Target};
pub use encode::Compression;
pub use error::{CallError, LinkError, LinkProblem, SendError};
pub use header::{DeltaDisk, DeltaHeader, Mark, PROTOCOL, PROTOCOL_OLDEST};
pub use limit::Limiter;
pub use realm::{Kerberos, KerberosOptions, RealmError};
pub use server::{Handler, Security, Server};
pub use stream::{ChunkStream, ReceiveError, Received, Totals};
pub use tls::{Credential, Peer, Tls, TlsIdentity};
