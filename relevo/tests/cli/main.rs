//! The built binary, from outside.

mod commands;
mod fake;
#[allow(dead_code)] // not every sample is needed here
#[path = "../../src/samples.rs"]
mod samples;
mod terminal;
mod users;
