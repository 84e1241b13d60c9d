//! docs/cli.md says what the code does: its JSON documents are what the samples serialise to, its exit codes
//! are all that there are, its examples parse, and no command is missing.
//! `UPDATE_EXPECT=1 cargo test` rewrites the JSON blocks.

use crate::{
    cli::tests::{examples, leaf_names, parses},
    output, samples,
};
use service::api::{ErrorKind, Reply};
use std::path::{Path, PathBuf};

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")
}

fn page() -> String {
    std::fs::read_to_string(path()).unwrap()
}

/// What stands in the fenced blocks of `language`.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("\n```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// The documents by the name of their heading.
fn documents() -> Vec<(&'static str, String)> {
    vec![
        ("A sentence", output::content(&Reply::Done { message: "web is protected".into() })),
        ("Host", output::content(&Reply::Host(samples::host()))),
        ("VMs", output::content(&Reply::Vms(vec![samples::vm()]))),
        ("Authorizations", output::content(&Reply::Authorizations(vec![samples::authorization()]))),
        ("Relationships", output::content(&Reply::Relationships(vec![samples::broken_relationship()]))),
        ("Points", output::content(&Reply::Points(vec![samples::point(), samples::older_point()]))),
        ("Plan", output::content(&Reply::Plan(samples::plan()))),
        ("Job", output::content(&Reply::Job(Box::new(samples::job())))),
        ("Failure", output::failure_content(&samples::failure())),
    ]
}

#[test]
fn the_json_documents_are_what_the_code_prints() {
    let mut page = page();
    for (heading, document) in documents() {
        let start =
            page.find(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
        let from = start + page[start..].find("\n```json\n").expect("a block") + "\n```json\n".len();
        let to = from + page[from..].find("```").expect("its end");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            page.replace_range(from..to, &format!("{document}\n"));
        } else {
            assert_eq!(page[from..to], format!("{document}\n"), "{heading}");
        }
    }
    assert_eq!(blocks(&page, "json").len(), documents().len(), "a block that no sample stands for");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path(), page).unwrap();
    }
}

#[test]
fn every_exit_code_is_in_the_table_and_no_other() {
    let page = page();
    let table = page.split("\n## Exit codes\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<(u8, String)> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            Some((cells.next()?.parse().ok()?, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect();
    let name = |kind: &ErrorKind| serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned();
    let mut expected = vec![(0, String::new())];
    expected.extend(ErrorKind::ALL.iter().map(|kind| (kind.exit_code(), name(kind))));
    assert_eq!(rows, expected);
}

#[test]
fn every_command_has_an_example_and_every_example_parses() {
    let lines: Vec<String> = blocks(&page(), "console").iter().flat_map(|block| examples(block)).collect();
    for line in &lines {
        parses(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    for name in leaf_names() {
        let starts = |line: &String| *line == name || line.starts_with(&format!("{name} "));
        assert!(lines.iter().any(starts), "no example of `{name}`");
    }
}
