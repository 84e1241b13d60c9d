//! `root/virtualization/v2` and `root/cimv2` as a [`cim::Provider`] over the host's façade: what Hyper-V's clients
//! see of it. It knows no protocol, no SQL and no libvirt.
//!
//! A property is a line of the MOF and a line of the function that makes its class (`classes/`); a method is its
//! declaration in the MOF, a row and a function (`methods/`). The rest follows from these two tables.

mod classes;
mod errors;
mod events;
mod instance;
mod methods;
mod names;
mod provider;
mod reference;
mod refusals;
pub mod schema;
mod world;

#[cfg(test)]
mod tests;

pub use provider::Hvr;
pub use reference::reference;
