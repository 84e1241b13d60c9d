//! What the documents promise: every room is in the code map, every dependency has its reason, and what
//! they name exists.

use super::walls::Member;
use anyhow::{Context, Result};
use std::path::Path;

/// Members that the code map of ARCHITECTURE.md lacks.
pub fn check_map(architecture: &str, members: &[Member]) -> Vec<String> {
    let missing = members.iter().filter(|member| !has_row(architecture, &member.name));
    missing.map(|member| format!("ARCHITECTURE.md: the code map lacks {}", member.name)).collect()
}

/// Dependencies without a reason in CONTRIBUTING.md, reasons without a dependency, and versions that are
/// stated outside the workspace's manifest. `manifests`: (path, text) of the members.
pub fn check_dependencies(
    workspace: &str,
    manifests: &[(String, String)],
    contributing: &str,
) -> Result<Vec<String>> {
    let workspace: toml::Table = workspace.parse().context("Cargo.toml is not TOML")?;
    let table = workspace["workspace"]["dependencies"].as_table().context("Cargo.toml: no dependencies")?;
    let outside: Vec<&String> =
        table.iter().filter(|(_, value)| value.get("path").is_none()).map(|(name, _)| name).collect();
    let mut problems = vec![];
    let mut used = vec![];
    for (path, text) in manifests {
        let manifest: toml::Table = text.parse().with_context(|| format!("{path} is not TOML"))?;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                used.push(name.clone());
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    problems.push(format!("{path}: {name}: its version belongs in the root's Cargo.toml"));
                }
            }
        }
    }
    for name in &outside {
        if !used.contains(name) {
            problems.push(format!("Cargo.toml: {name} is used by no member"));
        }
        if !has_row(contributing, name) {
            problems.push(format!("CONTRIBUTING.md: no reason for {name}"));
        }
    }
    let (_, reasons) = contributing.split_once("\n## Dependencies\n").unwrap_or(("", contributing));
    let reasons = reasons.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let stale = reasons.filter(|(name, _)| !outside.iter().any(|other| other == name));
    problems.extend(stale.map(|(name, _)| format!("CONTRIBUTING.md: {name} is no dependency")));
    Ok(problems)
}

/// A table row that begins with the name.
fn has_row(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.starts_with(&format!("| `{name}`")))
}

/// Links to files, and paths of this repository in backquotes, that lead nowhere. `top`: the names in the
/// repository's root.
pub fn check_links(root: &Path, top: &[String], path: &Path, text: &str) -> Vec<String> {
    let folder = root.join(path).parent().expect("a file lies somewhere").to_owned();
    let mut problems = vec![];
    for (index, line) in text.lines().enumerate() {
        let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.filter(|link| !link.contains("://") && !link.starts_with(['#', '<']));
        let links = links.map(|link| (link, folder.join(link.split('#').next().unwrap_or_default())));
        let quoted = line.split('`').skip(1).step_by(2).filter(|word| is_path(word, top));
        let quoted = quoted.map(|word| (word, root.join(word)));
        for (name, target) in links.chain(quoted) {
            if !target.exists() {
                problems.push(format!("{}:{}: {name} does not exist", path.display(), index + 1));
            }
        }
    }
    problems
}

/// Whether a word in backquotes means a file of this repository: it begins in its root and has no wildcard.
fn is_path(word: &str, top: &[String]) -> bool {
    let plain = word.chars().all(|char| char.is_alphanumeric() || "/._-".contains(char));
    let begins = word.split_once('/').is_some_and(|(first, _)| top.iter().any(|name| name == first));
    plain && begins && !word.starts_with("target/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_not_in_the_map_is_found() {
        let members = ["here", "gone"].map(|name| Member { name: name.into(), dependencies: vec![] });
        assert_eq!(
            check_map("| `here` | x |\n`gone`\n", &members),
            ["ARCHITECTURE.md: the code map lacks gone"]
        );
    }

    #[test]
    fn reasons_and_dependencies_match() {
        let workspace =
            "[workspace.dependencies]\nours = { path = \"ours\" }\na = \"1\"\nb = { version = \"1\" }\n";
        let uses = "[dependencies]\na.workspace = true\n[dev-dependencies]\nb = { workspace = true, features = [] }\n";
        let manifests = |text: &str| [("x/Cargo.toml".to_owned(), text.to_owned())];
        let reasons = "| `a` | why |\n| `b` | why |\n";
        let check =
            |text: &str, reasons: &str| check_dependencies(workspace, &manifests(text), reasons).unwrap();
        assert_eq!(check(uses, reasons), [""; 0]);
        assert_eq!(check(uses, "| `a` | why |\n"), ["CONTRIBUTING.md: no reason for b"]);
        assert_eq!(
            check(uses, &format!("{reasons}| `c` | why |\n")),
            ["CONTRIBUTING.md: c is no dependency"]
        );
        let versions = uses.replace("a.workspace = true", "a = \"1\"");
        assert_eq!(
            check(&versions, reasons),
            ["x/Cargo.toml: a: its version belongs in the root's Cargo.toml"]
        );
        assert_eq!(
            check("[dependencies]\na.workspace = true\n", reasons),
            ["Cargo.toml: b is used by no member"]
        );
    }

    #[test]
    fn links_and_paths_that_lead_nowhere_are_found() {
        let root = crate::root();
        let top = ["xtask".to_owned()];
        let check = |text: &str| check_links(&root, &top, Path::new("xtask/x.md"), text);
        assert_eq!(
            check("[a](src/main.rs#x) [b](https://x.y/z) [c](#d) `xtask/src/main.rs` `a/b` `xtask/*`"),
            [""; 0]
        );
        assert_eq!(check("[a](gone.md)"), ["xtask/x.md:1: gone.md does not exist"]);
        assert_eq!(check("\nsee `xtask/gone.rs`"), ["xtask/x.md:2: xtask/gone.rs does not exist"]);
    }
}
