//! The page that lists every class and method with its state, written from the schema and the two tables.

use crate::{
    classes::{Make, rows},
    methods::{find, methods},
    reference::{concrete, reference},
    schema::{self, CIMV2, V2},
};
use cim::{Class, Role};
use std::{collections::HashSet, path::Path};

const BEGIN: &str = "<!-- begin: printed by hvr/src/tests/api.rs -->\n";
const END: &str = "<!-- end -->\n";

#[test]
fn every_class_has_its_instances_or_a_reason() {
    for namespace in [V2, CIMV2] {
        let schema = schema::schema(namespace);
        for class in concrete(&schema) {
            assert!(rows().any(|row| class.name.is(row.class)), "{}: no row in classes/", class.name);
        }
    }
    let (v2, cimv2) = (schema::schema(V2), schema::schema(CIMV2));
    for row in rows() {
        let declared = [&v2, &cimv2].iter().any(|schema| schema.class(&row.class.into()).is_some());
        assert!(declared, "{} is not declared", row.class);
    }
}

#[test]
fn every_method_has_its_row_and_every_row_its_method() {
    let v2 = schema::schema(V2);
    let instances = |class: &Class| {
        let makes = |make: &Make| !matches!(make, Make::Never(_));
        rows().any(|row| class.name.is(row.class) && makes(&row.make))
    };
    for class in concrete(&v2).filter(|class| instances(class)) {
        for method in &class.methods {
            assert!(find(&class.name, &method.name).is_some(), "{}.{}: no row", class.name, method.name);
        }
    }
    let mut seen = HashSet::new();
    for method in methods() {
        let class = v2.require(&method.class.into()).unwrap();
        assert!(class.method(method.name).is_some(), "{}.{} is not declared", method.class, method.name);
        assert!(seen.insert((method.class, method.name)), "{}.{} twice", method.class, method.name);
    }
}

#[test]
fn what_changes_something_takes_more_than_a_reader() {
    for method in methods().filter(|method| method.role == Role::Reader) {
        assert!(method.name.starts_with("Get"), "{}", method.name);
    }
}

#[test]
fn the_page_lists_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let page = std::fs::read_to_string(&path).expect("docs/api.md");
    let (head, rest) = page.split_once(BEGIN).expect("the block's begin");
    let (written, tail) = rest.split_once(END).expect("the block's end");
    let printed = reference();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{printed}{END}{tail}")).expect("docs/api.md");
        return;
    }
    assert!(
        written == printed,
        "docs/api.md differs; UPDATE_EXPECT=1 rewrites it. What there is:\n{printed}"
    );
}
