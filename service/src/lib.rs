//! The façade: commands and views as plain data, the composition of the daemon, its workers and shutdown.
//! Knows no wire format but the control socket's JSON lines.

pub mod api;
