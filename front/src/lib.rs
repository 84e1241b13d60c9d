//! The HTTP front that the management listeners share: TLS, users, limits, compression. What the requests mean is
//! the [`Service`]'s business.
//!
//! ```text
//! accept ─ slot ─ TLS ─▶ head ─ access? ─ who? ─▶ body ─▶ Service::handle ─▶ gzip ─▶ client
//!          │             │       │        │       │
//!        closed        closed   404   401, 429  413, 408
//! ```
//!
//! A stranger is answered before a byte of the body is kept. Plain HTTP is for loopback only. No protocol of CIM and
//! no replication in here.

mod auth;
mod connection;
mod exchange;
mod gzip;
mod limits;
mod listener;
mod origin;
mod service;
mod tls;
pub mod users;

pub use auth::{Authenticator, Clock};
pub use kerberos::Account;
pub use limits::Limits;
pub use listener::{BindError, Listener, Settings};
pub use service::{Access, Body, Service};
pub use tls::{Tls, TlsError, TlsFiles};
