//! What the two tables promise together: every class and method of the schema has its place, and the instances that
//! are made fit it.

mod api;
mod instances;
pub mod samples;
