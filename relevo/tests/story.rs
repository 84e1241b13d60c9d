//! The demo's story holds: protect, test, planned, unplanned, the return of a dead host, the way home.

use std::path::Path;

#[test]
fn the_story_of_the_demo_holds() {
    let told = testkit::story::tell(Path::new(env!("CARGO_BIN_EXE_relevo")));
    if let Err(error) = told {
        panic!("{error:#}");
    }
}
