//! A compiler that others wrote takes the schema, and finds the same classes in it.

use hvr::schema::{CIMV2, V2, schema};
use std::path::Path;
use testkit::clients;

#[test]
fn pywbems_compiler_takes_the_schema() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_mof.py");
    let mut python = clients::python_program("python").unwrap_or_else(|missing| panic!("{missing}"));
    let said = clients::said(python.arg(script)).unwrap().unwrap_or_else(|error| panic!("{error}"));
    let own = ["interop", CIMV2, V2].map(|name| format!("{name} {}", schema(name).classes().count()));
    assert_eq!(said.lines().collect::<Vec<_>>(), own);
}
