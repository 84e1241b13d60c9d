//! `cargo xtask tidy`: what the compiler does not hold. Says every fault that it finds, then fails.

mod docs;
mod sources;
mod walls;

use crate::output;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Paths that only mean something on one machine. In two parts, so that this file does not find itself.
/// CIM's namespaces begin at a root, too: there, only the hidden folders of its home are meant.
const PLACES: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/."), concat!("/ho", "me/ubuntu")];

pub fn check(root: &Path) -> Result<()> {
    let members = walls::members(&output(
        Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root),
    )?)?;
    let mut problems = walls::check_graph(&members);
    problems.extend(sources::check_tables(root));

    let files = tracked(root)?;
    let mut top: Vec<String> = files.iter().filter_map(|path| first_part(path)).collect();
    top.dedup();
    for path in &files {
        // Binary files have nothing that we could read.
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        problems.extend(check_places(path, &text));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => {
                problems.extend(sources::check(path, &text));
                problems.extend(walls::check_names(path, sources::own_code(path, &text)));
            }
            Some("md") => problems.extend(docs::check_links(root, &top, path, &text)),
            _ => {}
        }
    }

    let read = |name: &str| {
        fs::read_to_string(root.join(name))
            .with_context(|| format!("cannot read {}", root.join(name).display()))
    };
    problems.extend(docs::check_map(&read("ARCHITECTURE.md")?, &members));
    let manifest = |member: &walls::Member| {
        let path = format!("{}/Cargo.toml", member.name);
        read(&path).map(|text| (path, text))
    };
    let manifests: Vec<_> = members.iter().map(manifest).collect::<Result<_>>()?;
    problems.extend(docs::check_dependencies(&read("Cargo.toml")?, &manifests, &read("CONTRIBUTING.md")?)?);

    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy found {} faults", problems.len());
    }
    println!("tidy: {} members, {} files", members.len(), files.len());
    Ok(())
}

/// Files of the repository, those not yet committed included.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let names = output(Command::new("git").args(list).current_dir(root))?;
    Ok(names.split_terminator('\0').map(PathBuf::from).filter(|path| root.join(path).is_file()).collect())
}

fn first_part(path: &Path) -> Option<String> {
    Some(path.iter().next()?.to_string_lossy().into_owned())
}

fn check_places(path: &Path, text: &str) -> Vec<String> {
    let mut problems = vec![];
    for (index, line) in text.lines().enumerate() {
        for place in PLACES.iter().filter(|place| line.contains(**place)) {
            problems.push(format!("{}:{}: {place} is a place on one machine", path.display(), index + 1));
        }
    }
    problems
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || char == '_');
    line.match_indices(word).any(|(at, _)| {
        !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(has_word("a.word(", "word") && has_word("word", "word"));
        assert!(!has_word("words", "word") && !has_word("sword", "word") && !has_word("word_x", "word"));
    }

    #[test]
    fn a_place_on_one_machine_is_found() {
        let found = check_places(Path::new("x"), &format!("a\nsee {}x\n", PLACES[0]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("x:2: "));
    }
}
