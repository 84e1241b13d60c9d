//! Kerberos as the listeners and the replication link use it: SPNEGO tokens back and forth until both sides know
//! each other, then messages sealed for the other side alone. MIT's GSS-API underneath, keys from a keytab.
//!
//! ```text
//! Initiator::begin ── token ─▶ Acceptor::step
//!    (asks the KDC)              (reads the keytab)
//! Initiator::step ◀── token ──      │
//!        │ finish                   │ finish
//!     Session::seal ═══ record ══▶ Session::open
//! ```
//!
//! No HTTP beyond the header's value, no sockets: who carries the tokens is the caller's business. What fails is told
//! apart by what an operator does about it.

mod account;
mod error;
mod exchange;
mod ffi;
pub mod negotiate;
mod principal;
mod session;

pub use account::Account;
pub use error::KerberosError;
pub use exchange::{Acceptor, Initiator};
pub use principal::Principal;
pub use session::{Message, RecordError, SEAL_BYTES_MAX, Session};
