//! What every Rust file has to keep to: short, safe, and no sleeping in tests.

use super::has_word;
use std::path::Path;

const LINES_MAX: usize = 800;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// Files that may hold code that the compiler cannot check, and why.
const UNCHECKED: &[(&str, &str)] = &[
    ("hypervisor/src/ffi.rs", "libvirt's functions that no crate wraps"),
    ("kerberos/src/ffi.rs", "credentials from a keytab that is named, which no crate wraps"),
    ("testkit/guest/writer.rs", "two ioctls of block devices, in the guest"),
];

/// Test code that may sleep, and why. All other tests poll a condition through testkit.
const SLEEPERS: &[(&str, &str)] = &[
    ("capture/tests/support/mod.rs", "polls a condition, without testkit"),
    ("hypervisor/tests/support/mod.rs", "polls a condition, without testkit"),
    ("testkit/src/host.rs", "the poll helper"),
    ("transport/src/limit.rs", "the runtime's clock is a virtual one"),
    ("transport/tests/link.rs", "polls a condition on the runtime's own clock, and waits for stillness"),
];

/// In two parts, so that this file does not find itself.
const UNSAFE: &str = concat!("un", "safe");
const ALLOW_UNSAFE: &str = concat!("allow(un", "safe_code");
const SLEEP: &str = concat!("sle", "ep(");

/// A file's own code: what comes before its tests.
pub fn own_code<'a>(path: &Path, text: &'a str) -> &'a str {
    if is_test(path) {
        return "";
    }
    text.split_once("#[cfg(test)]\nmod ").map_or(text, |(own, _)| own)
}

fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests") || path.ends_with("tests.rs")
}

/// What is wrong with a Rust file at `path` in the repository.
pub fn check(path: &Path, text: &str) -> Vec<String> {
    let mut problems = vec![];
    let is_in = |list: &[(&str, &str)]| list.iter().any(|(name, _)| Path::new(name) == path);
    let lines = text.lines().count();
    if lines > LINES_MAX && !is_in(LONG) {
        problems.push(format!("{}: {lines} lines, more than {LINES_MAX}: split it", path.display()));
    }
    let tests_from = own_code(path, text).lines().count();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let at = format!("{}:{}", path.display(), index + 1);
        if (has_word(code, UNSAFE) || code.contains(ALLOW_UNSAFE)) && !is_in(UNCHECKED) {
            problems.push(format!("{at}: {UNSAFE} code belongs in hypervisor/src/ffi.rs"));
        }
        if index >= tests_from && code.contains(SLEEP) && !is_in(SLEEPERS) {
            problems.push(format!("{at}: a test that sleeps: poll a condition through testkit"));
        }
    }
    problems
}

/// Files in the tables above that are not there any more.
pub fn check_tables(root: &Path) -> Vec<String> {
    let listed = [LONG, UNCHECKED, SLEEPERS].concat();
    let gone = listed.into_iter().filter(|(name, _)| !root.join(name).exists());
    gone.map(|(name, _)| format!("xtask/src/tidy/sources.rs: {name} is listed but does not exist")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_found_in_its_line() {
        let path = Path::new("layers/src/x.rs");
        let found = check(path, &format!("fn f() {{\n    {UNSAFE} {{ g() }}\n}}\n"));
        assert!(found.len() == 1 && found[0].starts_with("layers/src/x.rs:2: "), "{found:?}");
        assert_eq!(check(path, &format!("#![{ALLOW_UNSAFE})]\n")).len(), 1);
        assert_eq!(check(path, &format!("// {UNSAFE} is not used\n#![deny({UNSAFE}_code)]\n")), [""; 0]);
        assert_eq!(check(path, &"\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(check(path, &"\n".repeat(LINES_MAX)), [""; 0]);
    }

    #[test]
    fn only_tests_are_kept_from_sleeping() {
        let line = format!("thread::{SLEEP}SECOND);\n");
        assert_eq!(check(Path::new("service/src/x.rs"), &line), [""; 0]);
        assert_eq!(
            check(Path::new("service/src/x.rs"), &format!("{line}#[cfg(test)]\nmod tests {{\n{line}}}\n"))
                .len(),
            1
        );
        assert_eq!(check(Path::new("service/tests/x.rs"), &line).len(), 1);
        assert_eq!(check(Path::new("service/src/x/tests.rs"), &line).len(), 1);
        assert_eq!(check(Path::new("transport/tests/link.rs"), &line), [""; 0]);
    }
}
