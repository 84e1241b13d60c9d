use super::*;
use expect_test::expect;
use proptest::prelude::*;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

fn parse(text: &str) -> Result<Users, String> {
    file::parse(Path::new("users.toml"), text).map_err(|error| error.to_string())
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash::new(text).unwrap()
}

#[test]
fn a_principal_is_one_users_and_has_a_realm() {
    let mut users = Users::default();
    users.add("anna", Role::Reader).unwrap();
    users.add("bert", Role::Reader).unwrap();
    for bad in ["anna", "@X.ORG", "anna@", "an na@X.ORG", ""] {
        assert!(matches!(users.map_principal("anna", bad), Err(UsersError::Principal { .. })), "{bad}");
    }
    users.map_principal("anna", "anna@X.ORG").unwrap();
    let taken = users.map_principal("bert", "anna@X.ORG").unwrap_err();
    assert_eq!(taken.to_string(), "anna@X.ORG belongs to anna already");
    let who = |users: &Users, text: &str| {
        users.by_principal(&Principal(text.to_owned())).map(|(name, _)| name.to_owned())
    };
    assert_eq!(who(&users, "anna@X.ORG").as_deref(), Some("anna"));
    assert_eq!((who(&users, "anna@Y.ORG"), who(&users, "Anna@X.ORG")), (None, None));
    users.unmap_principal("anna", "anna@X.ORG").unwrap();
    assert!(users.unmap_principal("anna", "anna@X.ORG").is_err());
    assert_eq!(who(&users, "anna@X.ORG"), None);
}

#[test]
fn users_are_kept_in_a_file_that_only_its_owner_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    assert_eq!(load(&path).unwrap(), Users::default());
    edit(&path, |users| {
        users.add("HOST\\anna", Role::Administrator)?;
        users.set_password("HOST\\anna", Some(hash("correct horse")))?;
        users.add("bert", Role::Reader)?;
        users.map("bert", "name:Bert@Example".parse().unwrap())
    })
    .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let users = load(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let secret = String::from(users.get("HOST\\anna").unwrap().password.clone().unwrap());
    expect![[r#"
        # Who may log in, and as what. Change it with `relevo user`.

        [users.'HOST\anna']
        role = "administrator"
        password = "HASH"

        [users.bert]
        role = "reader"
        certificates = ["name:bert@example"]
    "#]]
    .assert_eq(&text.replace(&secret, "HASH"));
    let hash = users.get("HOST\\anna").unwrap().password.as_ref().unwrap();
    assert!(hash.verify("correct horse", &mut password::Memory::default()));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(load(&path), Err(UsersError::ReadableByOthers { mode: 0o640, .. })));
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    edit(&path, |users| users.add("anna", Role::Reader)).unwrap();
    let before = fs::read(&path).unwrap();
    let failed = edit(&path, |users| {
        users.add("bert", Role::Reader)?;
        users.add("anna", Role::Administrator)
    });
    assert!(matches!(failed, Err(UsersError::Exists { name }) if name == "anna"));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(matches!(edit(&path, |users| users.remove("carl")), Err(UsersError::Unknown { .. })));
}

#[test]
fn a_changed_file_is_read_again_and_a_damaged_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    let file = UsersFile::open(&path).unwrap();
    assert_eq!(file.current().users.list().count(), 0);

    edit(&path, |users| users.add("anna", Role::Reader)).unwrap();
    assert_eq!(file.current().users.get("anna").unwrap().role, Role::Reader);
    edit(&path, |users| users.set_role("anna", Role::Operator)).unwrap();
    let current = file.current();
    assert_eq!((current.generation, current.users.get("anna").unwrap().role), (2, Role::Operator));
    assert_eq!(file.current().generation, 2);

    fs::write(&path, "[users.anna").unwrap();
    assert_eq!(file.current().users.list().count(), 1);
    fs::remove_file(&path).unwrap();
    assert_eq!(file.current().users.list().count(), 0);
}

#[test]
fn what_is_wrong_in_a_file_is_named_without_its_secrets() {
    let hash = String::from(hash("correct horse"));
    let faults = [
        "[users.anna]\nrole = \"king\"".to_owned(),
        "[users.anna]\nrole = \"reader\"\npasword = \"x\"".to_owned(),
        format!("[users.anna]\nrole = \"reader\"\npassword = \"{hash}x$\""),
        format!("[users.anna]\nrole = \"reader\"\npassword = \"{}\"", hash.replace("argon2id", "argon2i")),
        "[users.anna]\nrole = \"reader\"\npassword = \"plain text\"".to_owned(),
        "[users.\"a:b\"]\nrole = \"reader\"".to_owned(),
        "[users.a]\nrole = \"reader\"\ncertificates = [\"sha1:12\"]".to_owned(),
        "[users.a]\nrole = \"reader\"\ncertificates = [\"name:*\"]".to_owned(),
        "[users.a]\nrole = \"reader\"\ncertificates = [\"name:x\"]\n\
         [users.b]\nrole = \"reader\"\ncertificates = [\"name:X\"]"
            .to_owned(),
        format!("[users.anna]\nrole = \"reader\"\npassword = \"{hash}"),
    ];
    let said: Vec<String> = faults.iter().map(|text| parse(text).unwrap_err()).collect();
    assert!(said.iter().all(|said| !said.contains("$argon") && !said.contains("plain text")), "{said:?}");
    expect![[r#"
        users.toml, line 2: unknown variant `king`, expected one of `reader`, `operator`, `administrator`
        users.toml, line 3: unknown field `pasword`, expected one of `role`, `password`, `certificates`, `principals`
        users.toml, line 3: not an argon2id hash
        users.toml, line 3: not an argon2id hash
        users.toml, line 3: not an argon2id hash
        users.toml: a user's name has 1 to 288 bytes, no colon and no control character, unlike "a:b"
        users.toml, line 3: a sha1 thumbprint has 40 hexadecimal digits, unlike "12"
        users.toml, line 3: "*" is nobody's name
        users.toml: name:x belongs to a already
        users.toml, line 3: invalid basic string, expected `"`"#]]
    .assert_eq(&said.join("\n"));
}

#[test]
fn a_certificate_stands_for_at_most_one_user() {
    let mut users = Users::default();
    for name in ["anna", "bert"] {
        users.add(name, Role::Reader).unwrap();
    }
    let pin = format!("sha256:{}", "aB:".repeat(32));
    users.map("anna", pin.parse().unwrap()).unwrap();
    assert!(
        matches!(users.map("bert", pin.parse().unwrap()), Err(UsersError::Mapped { user, .. }) if user == "anna")
    );
    users.map("anna", "name:anna.example".parse().unwrap()).unwrap();
    users.map("bert", "name:bert.example".parse().unwrap()).unwrap();

    let who = |users: &Users, sha256: &str, names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = ClientCertificate { sha256: sha256.to_owned(), sha1: "0".repeat(40), names };
        users.by_certificate(&certificate).map(|(name, _)| name.to_owned())
    };
    let pinned = "ab".repeat(32);
    assert_eq!(who(&users, &pinned, &["bert.example"]).as_deref(), Some("anna"));
    assert_eq!(who(&users, "", &["x", "Bert.Example"]).as_deref(), Some("bert"));
    assert_eq!(who(&users, "", &["anna.example", "bert.example"]), None);
    assert_eq!(who(&users, "", &[]), None);

    users.unmap("anna", &pin.parse().unwrap()).unwrap();
    assert_eq!(who(&users, &pinned, &[]), None);
    assert!(matches!(users.unmap("anna", &pin.parse().unwrap()), Err(UsersError::NotMapped { .. })));
}

fn mapping() -> impl Strategy<Value = CertificateMapping> {
    prop_oneof![
        "[0-9a-f]{64}".prop_map(CertificateMapping::Sha256),
        "[0-9a-f]{40}".prop_map(CertificateMapping::Sha1),
        "[a-z@.][a-z0-9@. -]{0,20}[a-z]".prop_map(CertificateMapping::Name),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        names in proptest::collection::btree_set("[^:\\p{Cc}]{1,20}", 0..5),
        roles in proptest::collection::vec(0..3_usize, 5),
        mappings in proptest::collection::btree_set(mapping(), 0..10),
    ) {
        let mut users = Users::default();
        for (name, role) in names.iter().zip(roles) {
            users.add(name, [Role::Reader, Role::Operator, Role::Administrator][role]).unwrap();
        }
        for (mapping, name) in mappings.into_iter().zip(names.iter().cycle()) {
            users.map(name, mapping).unwrap();
        }
        prop_assert_eq!(parse(&toml::to_string(&users).unwrap()).unwrap(), users);
    }

    #[test]
    fn no_file_panics(text in "(\\[users\\.[a\"]{1,3}\\]\n|role = \"(reader|x)\"\n|certificates = \\[|\"sha1:|\\PC|\n){0,12}") {
        let _ = parse(&text);
    }
}
