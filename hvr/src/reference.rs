//! What is served, for people: every class and method with its state, from the schema and the two tables.

use crate::{
    classes::{Make, rows},
    methods::{How, methods},
    schema::{self, CIMV2, V2},
};
use cim::{Class, Schema};
use std::fmt::Write;

/// The tables of docs/api.md.
pub fn reference() -> String {
    methods_table() + &classes_of(V2) + &classes_of(CIMV2) + "\n"
}

/// Classes that clients meet: no abstract ones, and no indications, which are not instances of anything.
pub fn concrete(schema: &Schema) -> impl Iterator<Item = &Class> {
    let is_indication = |class: &Class| class.qualifiers.iter().any(|it| it.name.is("Indication"));
    let classes = schema.classes().map(AsRef::as_ref);
    classes.filter(move |class: &&Class| !class.is_abstract() && !is_indication(class))
}

fn classes_of(namespace: &str) -> String {
    let schema = schema::schema(namespace);
    let mut text = format!("\n### Classes of `{namespace}`\n\n| class | instances |\n|---|---|\n");
    let mut classes: Vec<&Class> = concrete(&schema).collect();
    classes.sort_by(|a, b| a.name.cmp(&b.name));
    for class in classes {
        let mut of: Vec<&str> = rows()
            .filter(|row| class.name.is(row.class))
            .map(|row| match row.make {
                Make::Host(_) => "the host's",
                Make::Vm(..) => "each VM's",
                Make::Job(_) => "each job's",
                Make::Never(why) => why,
            })
            .collect();
        of.dedup();
        let none = rows().any(|row| class.name.is(row.class) && matches!(row.make, Make::Never(_)));
        let of = of.join(", ");
        writeln!(text, "| `{}` | {}{of} |", class.name, if none { "none: " } else { "" }).unwrap();
    }
    text
}

fn methods_table() -> String {
    let mut text = "\n### Methods\n\n| method | role | state |\n|---|---|---|\n".to_owned();
    for method in methods() {
        let state = match method.how {
            How::Works(_) if method.note.is_empty() => "works".to_owned(),
            How::Works(_) => format!("works; {}", method.note),
            How::Refused(code, why) => format!("refused, {code}: {why}"),
        };
        let role = format!("{:?}", method.role).to_lowercase();
        writeln!(text, "| `{}.{}` | {role} | {state} |", method.class, method.name).unwrap();
    }
    text
}
