//! The parsers of `cim`: what is read is read the same after it was written, and a refusal names a place in the text.

use crate::world::{self, V2};
use cim::mof::{Declared, Mof};
use cim::{DateTime, ObjectPath, ParseError, QualifierDecl, Schema, embedded, mof, wql};
use std::collections::BTreeMap;

/// Parsers take text; what is none is refused before.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A place that the text has, or the one behind its end.
fn check_place(error: &ParseError, text: &str) {
    let (line, column) = (error.at.line as usize, error.at.column as usize);
    let lines: Vec<&str> = text.split('\n').collect();
    let length = lines.get(line.wrapping_sub(1)).map(|line| line.chars().count());
    assert!(length.is_some_and(|length| (1..=length + 1).contains(&column)), "{error} in {text:?}");
    assert!(!error.message.is_empty());
}

pub fn datetime(bytes: &[u8]) {
    if let Ok(read) = text(bytes).parse::<DateTime>() {
        assert_eq!(read.to_string().parse(), Ok(read));
        _ = (read.to_unix_ms(), read.to_interval_ms());
    }
}

pub fn path(bytes: &[u8]) {
    let text = text(bytes);
    match ObjectPath::parse(text) {
        Ok(path) => {
            for written in [path.to_string(), path.to_wbem_uri()] {
                let again = ObjectPath::parse(&written);
                assert!(again.as_ref().is_ok_and(|again| again.matches(&path)), "{written}: {again:?}");
            }
            _ = world::schema(V2).resolve_partial(&path);
        }
        Err(error) => check_place(&error, text),
    }
}

pub fn wql(bytes: &[u8]) {
    let text = text(bytes);
    let (schema, system) = (world::schema(V2), world::system());
    let context = wql::Context { schema, host: "host" };
    match wql::parse(text) {
        Ok(wql::Query::Select(query)) => {
            _ = wql::check_select(&query, schema);
            _ = wql::select(&query, system.clone(), context);
        }
        Ok(wql::Query::Event(query)) => {
            _ = wql::check_event(&query, schema);
            _ = query.condition.is_some_and(|it| wql::evaluate(&it, &system, context).is_some());
        }
        Ok(wql::Query::Associators(_) | wql::Query::References(_)) => {}
        Err(error) => check_place(&error, text),
    }
}

pub fn mof(bytes: &[u8]) {
    let text = text(bytes);
    let read = match mof::parse(text) {
        Ok(read) => read,
        Err(error) => return check_place(&error, text),
    };
    let written = to_mof(&read);
    let again = mof::parse(&written).unwrap_or_else(|error| panic!("{error} in {written}"));
    assert_eq!(to_mof(&again), written);
    _ = Schema::new(V2, &read);
}

/// Namespaces are not written, and a qualifier may be declared in each, in letters of another case.
fn to_mof(mof: &Mof) -> String {
    let named = |declared: &Declared<QualifierDecl>| {
        (declared.item.name.to_string().to_lowercase(), declared.item.to_mof())
    };
    let qualifiers: BTreeMap<_, _> = mof.qualifiers.iter().map(named).collect();
    qualifiers.into_values().chain(mof.classes.iter().map(|declared| declared.item.to_mof())).collect()
}

pub fn embedded(bytes: &[u8]) {
    let (text, schema) = (text(bytes), world::schema(V2));
    if let Err(error) = embedded::read(text) {
        check_place(&error, text);
    }
    if let Ok(read) = embedded::read_as(text, schema) {
        let written = embedded::write(&read, schema);
        let again = embedded::read_as(&written, schema);
        // What is NULL is written as unset.
        assert_eq!(again.map(|again| embedded::write(&again, schema)).as_ref(), Ok(&written));
    }
}
