//! The front as clients meet it: real sockets, real TLS, a service that says what reached it.

mod answers;
mod certificates;
mod limits;
mod login;
mod support;
mod tickets;
