//! The demo's story holds: protect, test, application-consistent, planned, unplanned, the return of a dead host, the way home, the third site.

use anyhow::Result;
use std::path::Path;
use testkit::{pair::Pair, story};

const BINARY: &str = env!("CARGO_BIN_EXE_relevo");

#[test]
fn the_story_of_the_demo_holds() -> Result<()> {
    story::tell(Pair::start(Path::new(BINARY))?).map(drop)
}

#[test]
fn the_story_holds_where_libvirt_is_a_process_of_its_own_and_qemu_not_roots() -> Result<()> {
    story::tell(Pair::start_as_in_production(Path::new(BINARY))?).map(drop)
}
