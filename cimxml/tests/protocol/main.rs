//! The protocol as clients see it, over instances in memory.

mod captures;
mod common;
mod http;
mod indications;
mod interop;
mod operations;
mod pull;
mod robust;
mod streaming;
