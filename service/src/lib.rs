//! The façade: commands and views as plain data, the composition of the daemon, its workers and shutdown.
//! Knows no wire format but the control socket's JSON lines.

mod accounts;
pub mod api;
pub mod certs;
mod changes;
mod clock;
mod commands;
pub mod config;
mod control;
pub mod daemon;
mod disk_space;
mod health;
mod host;
pub mod inventory;
mod jobs;
mod link;
mod owner;
mod peer;
mod steps;
mod upkeep;
mod views;

pub use changes::Change;
pub use commands::{execute, in_background};
pub use host::Host;
