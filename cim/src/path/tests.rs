use super::*;
use crate::mof::tests::things;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn parse(text: &str) -> ObjectPath {
    ObjectPath::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn one_path_in_many_writings() {
    let path = ObjectPath::class("root/x/v2", "X_Disk").with("Name", "a\"\\b").with("Size", 5u64);
    let writings = [
        r#"\\HOST\root\x\v2:X_Disk.Name="a\"\\b",Size=5"#,
        r#"//HOST/root/x/v2:X_Disk.Name="a\"\\b",Size=5"#,
        r#"https://HOST:5989/root/x/v2:X_Disk.Name="a\"\\b",Size=5"#,
        r#"//[::1]:5989/root/x/v2:X_Disk.Name="a\"\\b",Size=5"#,
        r#"/root/x/v2:X_Disk.Name="a\"\\b",Size=5"#,
        r#"\root\x\v2:X_Disk.Name="a\"\\b",Size=5"#,
        r#"ROOT/x\v2:x_disk.SIZE=+0x5, name = 'a\"\b' "#,
        r#"X_Disk.Name="a\"\\b",Size=101b"#,
    ];
    for writing in writings {
        assert!(parse(writing).matches(&path), "{writing}");
    }
    assert_eq!(parse(writings[0]).host.as_deref(), Some("HOST"));
    assert_eq!(parse(writings[2]).host.as_deref(), Some("HOST:5989"));
    assert_eq!(path.to_string(), r#"root\x\v2:X_Disk.Name="a\"\\b",Size=5"#);
    assert_eq!(path.to_wbem_uri(), r#"/root/x/v2:X_Disk.Name="a\"\\b",Size=5"#);
    assert_eq!(path.relative(), r#"X_Disk.Name="a\"\\b",Size=5"#);
    assert_eq!(parse(writings[0]).to_string(), writings[0]);
    assert_eq!(parse(writings[1]).to_wbem_uri(), writings[1]);
    let other = ObjectPath::class("root/x/v2", "X_Disk").with("size", 5u8).with("name", "A\"\\B");
    assert_eq!(other.identity(), path.identity());
}

#[test]
fn classes_singletons_and_lone_keys() {
    assert_eq!(parse("X_Disk").keys, Keys::Class);
    assert_eq!(parse("/:X_Disk"), parse("X_Disk"));
    assert_eq!(parse("root/x:X_Disk"), ObjectPath::class("root/x", "X_Disk"));
    assert_eq!(parse("X_Disk=@").keys, Keys::Singleton);
    assert_eq!(parse("X_Disk=@").to_string(), "X_Disk=@");
    assert_eq!(parse("X_Disk=\"a\"").to_string(), "X_Disk=\"a\"");
    assert_eq!(things().resolve(&parse("x_disk='a'")).unwrap().to_string(), "root\\x:X_Disk.Name=\"a\"");
    // What scripts leave unescaped.
    assert_eq!(parse(r#"C.K="Microsoft:8A2B\HVR\0""#).key("k"), Some(&r"Microsoft:8A2B\HVR\0".into()));
    assert_eq!(parse("C.A=TRUE,B=-1,C=1.5").key("B"), Some(&Value::Sint64(-1)));
    let time = "20260101000000.000000+000";
    assert_eq!(parse(&format!("C.T={time}")).key("T").unwrap().to_string(), time);
}

#[test]
fn references_are_keys_too() {
    let disk = ObjectPath::class("root/x", "X_Disk").with("Name", "a\"b");
    let mirror =
        ObjectPath::class("root/x", "X_Mirror").with("Antecedent", disk.clone()).with("Dependent", disk);
    let text = mirror.to_string();
    assert_eq!(text.matches(r#"="root\\x:X_Disk.Name=\"a\\\"b\"""#).count(), 2, "{text}");
    assert!(parse(&text).matches(&mirror));
    assert_eq!(things().resolve(&parse(&text)).unwrap(), mirror);
}

#[test]
fn the_schema_names_what_is_missing() {
    let refused = |text: &str| things().resolve(&parse(text)).unwrap_err();
    assert!(refused("X_Mirror.Antecedent='X_Disk.Name=1'").message.ends_with("key Dependent is missing"));
    assert!(refused("X_Disk.Size=1").message.ends_with("X_Disk has no key Size"));
    assert!(refused("X_Mirror='a'").message.ends_with("several keys, each with a name"));
    assert_eq!(refused("Y=@").status.code(), 5);
    assert_eq!(things().resolve(&parse("X_Disk.Name=1")).unwrap().key("Name"), Some(&"1".into()));
}

fn refused(text: &str, expected: &Expect) {
    expected.assert_eq(&ObjectPath::parse(text).unwrap_err().to_string());
}

#[test]
fn errors_have_a_place_and_an_expectation() {
    refused("", &expect!["line 1, column 1: expected the name of a class, found the end"]);
    refused(
        r"\\host\root\x",
        &expect![
            "line 1, column 14: expected a colon and the name of a class after the namespace, found the end"
        ],
    );
    refused("//", &expect!["line 1, column 3: expected the name of a host, found the end"]);
    refused("C.", &expect!["line 1, column 3: expected the name of a key, found the end"]);
    refused("C.K", &expect!["line 1, column 4: expected = and the key's value, found the end"]);
    refused(
        "C.K=",
        &expect!["line 1, column 5: expected a quoted text, a number, TRUE or FALSE, found the end"],
    );
    refused(
        "C.K=x",
        &expect!["line 1, column 5: expected a quoted text, a number, TRUE or FALSE, found 'x'"],
    );
    refused("C.K=\"x", &expect![[r#"line 1, column 5: no " ends the value that begins here"#]]);
    refused("C.K=1,", &expect!["line 1, column 7: expected the name of a key, found the end"]);
    refused("C.K=1,k=2", &expect!["line 1, column 7: key k is given twice"]);
    refused("C.K=1 D", &expect!["line 1, column 7: expected the end of the path, found 'D'"]);
    refused("1C", &expect!["line 1, column 1: expected the name of a class, found '1'"]);
    refused("a b:C", &expect!["line 1, column 2: expected the name of a namespace, found ' '"]);
}

#[test]
fn keys_are_bounded() {
    let keys: Vec<_> = (0..100_000).map(|index| format!("K{index}=1")).collect();
    let error = ObjectPath::parse(&format!("C.{}", keys.join(","))).unwrap_err();
    assert_eq!(error.message, "the path has more than 1024 keys");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}|(/|\\\\|:|\\.|=|@|,|\"|'|C|K|1|-|TRUE| |\u{e9}){0,30}") {
        if let Ok(path) = ObjectPath::parse(&text) {
            let again = ObjectPath::parse(&path.to_string());
            prop_assert!(again.is_ok_and(|again| again.matches(&path)), "{} of {}", path, text);
        }
    }

    #[test]
    fn what_is_written_is_read_the_same(
        host in "([a-z0-9.-]{1,9})?",
        namespace in "[a-z]{1,4}(/[a-z0-9_]{1,4}){0,3}",
        text in "\\PC{0,20}",
        number: u64,
        negative in i64::MIN..0,
        truth: bool,
    ) {
        let mut path = ObjectPath::class(&*namespace, "C").with("T", text).with("N", number);
        path = path.with("M", negative).with("B", truth);
        path.host = Some(host).filter(|host| !host.is_empty());
        prop_assert_eq!(&parse(&path.to_string()), &path);
        prop_assert_eq!(&parse(&path.to_wbem_uri()), &path);
    }
}
