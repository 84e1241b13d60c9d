//! What the parsers of the management protocols must hold for any bytes: one function per parser, which panics where
//! one does not. `cargo xtask fuzz` has an engine look for such bytes; the tests run the corpus that is kept.

mod parsers;
mod protocols;
mod world;

#[path = "../../cimxml/tests/protocol/common/dtd.rs"]
mod dtd;

/// A parser, and what it is held to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line, and its folder's below `corpus`.
    pub name: &'static str,
    /// Panics where these bytes show a fault.
    pub check: fn(&[u8]),
    /// Folders in the repository with more examples.
    pub seeds: &'static [&'static str],
}

pub const TARGETS: &[Target] = &[
    Target { name: "datetime", check: parsers::datetime, seeds: &[] },
    Target { name: "path", check: parsers::path, seeds: &[] },
    Target { name: "wql", check: parsers::wql, seeds: &[] },
    Target { name: "mof", check: parsers::mof, seeds: &["hvr/schema"] },
    Target { name: "embedded", check: parsers::embedded, seeds: &[] },
    Target { name: "wsman", check: protocols::wsman, seeds: &["wsman/tests/captures"] },
    Target { name: "cimxml", check: protocols::cimxml, seeds: &["cimxml/tests/captures"] },
];

pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
