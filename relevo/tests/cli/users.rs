//! `relevo user` on a real root: what it keeps, and what it refuses.

use crate::fake::{code, relevo, run, stderr, stdout};
use crate::terminal::{Typed, on_a_terminal};
use expect_test::expect;
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

const SECRET: &str = "correct horse";

fn root() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let users = root.path().join("etc/users.toml");
    (root, users)
}

/// Runs a command with this on its standard input.
fn with_input(root: &Path, args: &str, input: &str) -> Output {
    let mut command = relevo(root, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that asks for nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Without the path, which is another each time.
fn said(root: &Path, output: &Output) -> String {
    format!("{}: {}", code(output), stderr(output).replace(&root.display().to_string(), "ROOT"))
}

#[test]
fn users_are_added_changed_shown_and_removed() {
    let (root, users) = root();
    let root = root.path();
    expect!["nobody may log in; `relevo user add` lets somebody\n"]
        .assert_eq(&stdout(&run(root, "user list")));
    let added = with_input(root, "user add anna --role operator", &format!("{SECRET}\nsecond line\n"));
    assert_eq!((code(&added), stdout(&added).as_str()), (0, "anna may log in as operator\n"));
    assert_eq!(fs::metadata(&users).unwrap().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(&users).unwrap();
    assert!(kept.contains("$argon2id$") && !kept.contains(SECRET), "{kept}");

    assert_eq!(code(&with_input(root, "user passwd anna", "battery staple\r\n")), 0);
    let changed = fs::read_to_string(&users).unwrap();
    assert_ne!(changed, kept);
    assert!(!changed.contains("battery"), "{changed}");

    assert_eq!(code(&run(root, "user add bert --no-password")), 0);
    assert_eq!(code(&run(root, "user map bert name:bert.example")), 0);
    assert_eq!(code(&run(root, "user role anna administrator")), 0);
    assert_eq!(code(&run(root, "user add carl --principal carl@EXAMPLE.ORG")), 0);
    assert_eq!(code(&run(root, "user map bert principal:bert@EXAMPLE.ORG")), 0);
    expect![[r#"
        USER  ROLE           PASSWORD  CERTIFICATES, PRINCIPALS
        anna  administrator  yes
        bert  reader         no        name:bert.example bert@EXAMPLE.ORG
        carl  reader         no        carl@EXAMPLE.ORG
    "#]]
    .assert_eq(&stdout(&run(root, "user list")));
    expect![[r#"
        [
          {
            "certificates": [],
            "name": "anna",
            "password": true,
            "principals": [],
            "role": "administrator"
          },
          {
            "certificates": [
              "name:bert.example"
            ],
            "name": "bert",
            "password": false,
            "principals": [
              "bert@EXAMPLE.ORG"
            ],
            "role": "reader"
          },
          {
            "certificates": [],
            "name": "carl",
            "password": false,
            "principals": [
              "carl@EXAMPLE.ORG"
            ],
            "role": "reader"
          }
        ]
    "#]]
    .assert_eq(&stdout(&run(root, "user list --json")));
    assert_eq!(code(&run(root, "user unmap bert name:bert.example")), 0);
    assert_eq!(code(&run(root, "user unmap bert principal:bert@EXAMPLE.ORG")), 0);
    assert_eq!(code(&run(root, "user remove anna")), 0);
    assert!(!fs::read_to_string(&users).unwrap().contains("anna"));
    assert_eq!(fs::metadata(&users).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let (root, users) = root();
    let root = root.path();
    assert_eq!(code(&with_input(root, "user add anna", SECRET)), 0);
    let before = fs::read(&users).unwrap();
    let long = "x".repeat(1025);
    let refused = [
        ("user add anna", SECRET),
        ("user add carl", "short\n"),
        ("user add carl", ""),
        ("user add carl", long.as_str()),
        ("user add carl", "with\ttabulator\n"),
        ("user add a:b", SECRET),
        ("user passwd carl", SECRET),
        ("user passwd anna", "short"),
        ("user role carl operator", ""),
        ("user remove carl", ""),
        ("user map anna sha256:12", ""),
        ("user unmap anna name:x", ""),
        ("user add carl --principal carl", ""),
        ("user map anna principal:anna", ""),
        ("user unmap anna principal:anna@EXAMPLE.ORG", ""),
        ("user add carl --dry-run", SECRET),
    ];
    let said: Vec<_> =
        refused.iter().map(|(args, input)| said(root, &with_input(root, args, input))).collect();
    expect![[r#"
        4: error: there is a user anna already
        hint: `relevo user passwd` and `relevo user role` change one
        2: error: a password has at least 8 characters
        2: error: a password has at least 8 characters
        2: error: a password has at most 1024 bytes
        2: error: a password has no control characters
        2: error: a user's name has 1 to 288 bytes, no colon and no control character, unlike "a:b"
        3: error: there is no user carl
        hint: `relevo user list` shows all
        2: error: a password has at least 8 characters
        3: error: there is no user carl
        hint: `relevo user list` shows all
        3: error: there is no user carl
        hint: `relevo user list` shows all
        2: error: a sha256 thumbprint has 64 hexadecimal digits, unlike "12"
        3: error: anna has no name:x
        2: error: "carl" is not a principal with its realm, such as anna@EXAMPLE.ORG
        2: error: "anna" is not a principal with its realm, such as anna@EXAMPLE.ORG
        3: error: anna has no anna@EXAMPLE.ORG
        2: error: `--dry-run` is not possible with `relevo user`
    "#]]
    .assert_eq(&said.concat());
    assert_eq!(code(&with_input(root, "user add carl --role king", SECRET)), 2);
    assert_eq!(fs::read(&users).unwrap(), before);
}

#[test]
fn a_file_that_others_can_read_is_not_used() {
    let (root, users) = root();
    let root = root.path();
    assert_eq!(code(&with_input(root, "user add anna", SECRET)), 0);
    fs::set_permissions(&users, fs::Permissions::from_mode(0o644)).unwrap();
    expect![[r#"
        12: error: ROOT/etc/users.toml can be read by others (mode 644); make it 600
    "#]]
    .assert_eq(&said(root, &run(root, "user list")));
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&users, "[users.anna]\nrole = \"king\"\npassword = \"$argon2id$secret\"\n").unwrap();
    let damaged = said(root, &with_input(root, "user add bert", SECRET));
    assert!(!damaged.contains("secret"), "{damaged}");
    expect![[r#"
        12: error: ROOT/etc/users.toml, line 3: not an argon2id hash
    "#]]
    .assert_eq(&damaged);
}

fn hidden<'a>(question: &'a str, answer: &'a str) -> Typed<'a> {
    Typed { question, answer, hidden: true }
}

#[test]
fn at_a_terminal_the_password_is_asked_for_twice_and_not_shown() {
    let (root, users) = root();
    let root = root.path();
    let twice = [hidden("Password of anna: ", "correct horse\n"), hidden("Once more: ", "correct horse\n")];
    let seen = on_a_terminal(root, "user add anna", &twice);
    assert_eq!((seen.code, seen.stdout.as_str()), (0, "anna may log in as reader\n"), "{}", seen.terminal);
    assert!(!seen.terminal.contains("horse"), "{}", seen.terminal);
    let before = fs::read(&users).unwrap();
    let different =
        [hidden("Password of anna: ", "correct horse\n"), hidden("Once more: ", "correct house\n")];
    let seen = on_a_terminal(root, "user passwd anna", &different);
    assert_eq!(seen.code, 2, "{}", seen.terminal);
    assert!(
        seen.terminal.contains("the two differ") && !seen.terminal.contains("house"),
        "{}",
        seen.terminal
    );
    assert_eq!(fs::read(&users).unwrap(), before);
}
