//! The façade: commands and views as plain data, the composition of the daemon, its workers and shutdown.
//! Knows no wire format but the control socket's JSON lines.

mod accounts;
mod addresses;
pub mod api;
mod arrivals;
mod bandwidth;
pub mod certs;
mod changes;
mod clock;
mod commands;
pub mod config;
mod control;
pub mod daemon;
mod disk_space;
mod events;
mod files;
mod health;
mod host;
pub mod inventory;
mod jobs;
mod link;
mod listeners;
mod owner;
mod pace;
mod peer;
mod service_settings;
mod steps;
mod turns;
mod upkeep;
mod views;
mod watch;

pub use changes::Change;
pub use commands::{execute, in_background};
pub use host::{DiskRecord, Host, document};
