use super::*;
use crate::mof::tests::things;
use crate::{DateTime, Instance, Keys, ObjectPath, Value};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn disk() -> Instance {
    let path = ObjectPath::class("root/x", "X_Disk").with("Name", "Microsoft:8A2B\\Default");
    Instance::new("X_SparseDisk")
        .with("Name", "Microsoft:8A2B\\Default")
        .with("State", 2u16)
        .with("Least", -5i64)
        .with("Share", 1.5f32)
        .with("Letter", Value::Char16(0x61))
        .with("Since", "20260101120000.000000+060".parse::<DateTime>().unwrap())
        .with("Sparse", true)
        .with("Caption", Value::Null)
        .at(path)
}

fn selected(condition: &str) -> Option<bool> {
    let Query::Select(query) = parse(&format!("SELECT * FROM X_Disk WHERE {condition}")).unwrap() else {
        panic!()
    };
    check_select(&Select { class: "X_SparseDisk".into(), ..query.clone() }, &things()).unwrap();
    evaluate(&query.condition.unwrap(), &disk(), Context { schema: &things(), host: "HOST" })
}

#[test]
fn conditions_hold_or_not() {
    let holding = [
        "Name = 'microsoft:8a2b\\Default'",
        "Name = \"MICROSOFT:8A2B\\\\default\"",
        "name LIKE 'Microsoft:%' AND NAME LIKE '%\\Default'",
        "Name LIKE '%:[0-9][a]_[^c]%'",
        "NOT Name LIKE 'Hyper%'",
        "Name NOT LIKE 'Hyper%'",
        "State = '2' AND State = 2 AND State = 0x2 AND State = 2.0",
        "3 > State AND State >= 2 AND State <> 3 AND State != 1 AND State <= 2",
        "Least < 0 AND Least = -5",
        "Share > 1 AND Share < '1.6'",
        "Letter = 'A'",
        "Since = '20260101110000.000000+000' AND Since < '20260101110000.000001+000'",
        "Sparse = TRUE AND Sparse = 'true' AND Sparse = 1 AND Sparse <> false",
        "Caption IS NULL AND Name IS NOT NULL AND Caption = NULL AND Name <> NULL",
        "(State = 1 OR State = 2) AND Sparse = true",
        "State = 2 OR State = 1 AND State = 0",
        "__CLASS = 'x_sparsedisk' AND __CLASS ISA 'X_Disk'",
        "__PATH = '\\\\\\\\host\\\\root\\\\x:X_Disk.Name=\"Microsoft:8A2B\\\\\\\\Default\"'",
        "__PATH = 'X_Disk.Name=\"microsoft:8A2B\\\\\\\\Default\"' AND __RELPATH LIKE '%x_disk%'",
        "Name != __SERVER AND __SERVER = 'host'",
        "Caption = 'x' OR State = 2",
        "Caption <> Name",
        "Name = 'it''s' OR Name = 'it\\'s' OR State = 2",
    ];
    for condition in holding {
        assert_eq!(selected(condition), Some(true), "{condition}");
    }
    let failing = [
        "State = 1",
        "Caption IS NOT NULL",
        "Caption = 'x' AND State = 1",
        "Name LIKE 'Default'",
        "__CLASS ISA 'X_Mirror'",
    ];
    for condition in failing {
        assert_eq!(selected(condition), Some(false), "{condition}");
    }
    for condition in ["Caption = 'x'", "NOT Caption = 'x'", "Caption LIKE '%'", "Caption <> 'x' OR State = 1"]
    {
        assert_eq!(selected(condition), None, "{condition}");
    }
}

#[test]
fn a_selection_has_its_columns() {
    let schema = things();
    let context = Context { schema: &schema, host: "HOST" };
    let Query::Select(query) = parse("select state, __RELPATH,Name from x_disk;  ").unwrap() else {
        panic!()
    };
    let instance = select(&query, disk(), context).unwrap();
    let names: Vec<_> = instance.properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Name", "State", "__RELPATH"]);
    assert_eq!(instance.text("__RELPATH"), Some("X_Disk.Name=\"Microsoft:8A2B\\\\Default\""));
    let Query::Select(other) = parse("SELECT * FROM X_Mirror").unwrap() else { panic!() };
    assert_eq!(select(&other, disk(), context), None);
}

#[test]
fn queries_of_clients_are_read() {
    let queries = [
        "SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER AND Name = '8a2b'",
        "select * from Msvm_VirtualSystemSettingData where VirtualSystemType='Microsoft:Hyper-V:System:Realized'",
        "SELECT * FROM Msvm_ComputerSystem WHERE ElementName=\"vm\"",
        "SELECT ElementName, InstanceID FROM Msvm_ReplicationRelationship ",
    ];
    for query in queries {
        assert!(matches!(parse(query), Ok(Query::Select(_))), "{query}");
    }
    let text = "ASSOCIATORS OF {Msvm_VirtualSystemSettingData.InstanceID='Microsoft:8A}\\\\x'} WHERE AssocClass = A ResultClass=R role = x RESULTROLE = y KeysOnly";
    let Ok(Query::Associators(query)) = parse(text) else { panic!() };
    assert_eq!(query.path.keys, Keys::Bindings(vec![("InstanceID".into(), "Microsoft:8A}\\x".into())]));
    assert_eq!(query.filter.assoc_class, Some("A".into()));
    assert_eq!(query.filter.result_class, Some("R".into()));
    assert!(query.keys_only && query.filter.role.is_some() && query.filter.result_role.is_some());
    let Ok(Query::References(query)) =
        parse("REFERENCES OF {X_Disk.Name=\"a\"} WHERE ResultClass = X_Mirror")
    else {
        panic!()
    };
    assert_eq!(query.filter.assoc_class, Some("X_Mirror".into()));
}

#[test]
fn events_are_selected() {
    let text = "SELECT State, TargetInstance FROM __InstanceModificationEvent WITHIN 2.5 WHERE TargetInstance ISA 'X_Disk' AND TargetInstance.State != PreviousInstance.State AND (TargetInstance.State = '2' OR TargetInstance.State = '3')";
    let Ok(Query::Event(query)) = parse(text) else { panic!() };
    assert_eq!(query.within_ms, Some(2500));
    assert_eq!(check_event(&query, &things()).unwrap(), Some(&"X_Disk".into()));
    let event = |old: Option<u16>, new: u16| {
        let old = Instance::new("X_SparseDisk").with("State", old);
        let new = Instance::new("X_SparseDisk").with("State", new);
        Instance::new("__InstanceModificationEvent").with("TargetInstance", new).with("PreviousInstance", old)
    };
    let schema = things();
    let context = Context { schema: &schema, host: "" };
    let matches = |event: &Instance| evaluate(query.condition.as_ref().unwrap(), event, context);
    assert_eq!(matches(&event(Some(1), 2)), Some(true));
    assert_eq!(matches(&event(None, 2)), Some(true));
    assert_eq!(matches(&event(Some(2), 2)), Some(false));
    assert_eq!(matches(&event(Some(2), 4)), Some(false));
    assert!(matches!(parse("SELECT * FROM CIM_InstModification"), Ok(Query::Event(_))));
    assert!(matches!(parse("SELECT * FROM X WITHIN 1"), Ok(Query::Event(_))));
    let Ok(Query::Event(wrong)) = parse(&text.replace("Instance.State", "Instance.Size")) else { panic!() };
    assert_eq!(check_event(&wrong, &things()).unwrap_err().message, "X_Disk has no property Size");
}

#[test]
fn queries_about_what_is_not_there_are_refused() {
    let refused = |text: &str| {
        let Query::Select(query) = parse(text).unwrap() else { panic!() };
        let error = check_select(&query, &things()).unwrap_err();
        format!("{} {error}", error.status.name())
    };
    assert_eq!(refused("SELECT * FROM Y"), "CIM_ERR_INVALID_CLASS there is no class Y in root/x");
    assert_eq!(refused("SELECT Size FROM X_Disk"), "CIM_ERR_INVALID_QUERY X_Disk has no property Size");
    assert_eq!(
        refused("SELECT * FROM X_Disk WHERE NOT Size = 1"),
        "CIM_ERR_INVALID_QUERY X_Disk has no property Size"
    );
    assert_eq!(
        refused("SELECT * FROM X_Disk WHERE 'x' = State"),
        "CIM_ERR_INVALID_QUERY State is of type uint16, and \"x\" is not"
    );
    assert!(refused("SELECT * FROM X_Disk WHERE Bytes = 1").contains("is an array"));
}

fn refused(text: &str, expected: &Expect) {
    expected.assert_eq(&parse(text).unwrap_err().to_string());
}

#[test]
fn errors_have_a_place_and_an_expectation() {
    refused(
        "",
        &expect!["line 1, column 1: expected SELECT, ASSOCIATORS OF or REFERENCES OF, found the end"],
    );
    refused(
        "DELETE FROM A",
        &expect!["line 1, column 1: expected SELECT, ASSOCIATORS OF or REFERENCES OF, found DELETE"],
    );
    refused("SELECT FROM A", &expect!["line 1, column 13: expected FROM, found A"]);
    refused("SELECT * A", &expect!["line 1, column 10: expected FROM, found A"]);
    refused(
        "SELECT *\nFROM A WHERE",
        &expect!["line 2, column 13: expected a property, a literal, NOT or (, found the end"],
    );
    refused(
        "SELECT * FROM A WHERE B",
        &expect!["line 1, column 24: expected =, <>, <, <=, >, >=, LIKE, IS or ISA, found the end"],
    );
    refused(
        "SELECT * FROM A WHERE B = ",
        &expect!["line 1, column 27: expected a property or a literal, found the end"],
    );
    refused(
        "SELECT * FROM A WHERE (B = 1",
        &expect!["line 1, column 29: expected AND, OR or ), found the end"],
    );
    refused(
        "SELECT * FROM A WHERE B = 1 C = 2",
        &expect!["line 1, column 29: expected AND, OR or the end of the query, found C"],
    );
    refused(
        "SELECT * FROM A WHERE B = 'x",
        &expect!["line 1, column 27: no ' ends the text that begins here"],
    );
    refused(
        "SELECT * FROM A WHERE B LIKE 1",
        &expect!["line 1, column 30: expected a pattern in quotes, found 1"],
    );
    refused("SELECT * FROM A WHERE B ? 1", &expect!["line 1, column 25: '?' has no meaning here"]);
    refused("SELECT * FROM A WHERE B = 1x", &expect!["line 1, column 27: 1x is no number"]);
    refused(
        "SELECT * FROM __InstanceCreationEvent WITHIN x",
        &expect!["line 1, column 46: expected a number of seconds, found x"],
    );
    refused(
        "SELECT * FROM __InstanceCreationEvent WITHIN 1 GROUP WITHIN 10",
        &expect!["line 1, column 48: GROUP WITHIN is not supported"],
    );
    refused(
        "ASSOCIATORS OF {A.B=}",
        &expect!["line 1, column 21: expected a quoted text, a number, TRUE or FALSE, found the end"],
    );
    refused("ASSOCIATORS OF {A.B='}", &expect!["line 1, column 16: no } ends the path that begins here"]);
    refused("ASSOCIATORS OF A", &expect!["line 1, column 16: expected a path in braces, found A"]);
    refused(
        "REFERENCES OF {A} WHERE AssocClass = B",
        &expect![
            "line 1, column 25: expected ResultClass, Role, ClassDefsOnly, KeysOnly or SchemaOnly, found AssocClass"
        ],
    );
    refused(
        "ASSOCIATORS OF {A} WHERE RequiredQualifier = B",
        &expect!["line 1, column 26: RequiredQualifier is not supported"],
    );
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = format!("SELECT * FROM A WHERE {}", "(".repeat(50_000));
    assert!(parse(&deep).unwrap_err().message.contains("64 deep"));
    let deep = format!("SELECT * FROM A WHERE {}", "NOT ".repeat(10_000));
    assert!(parse(&deep).unwrap_err().message.contains("64 deep"));
    assert!(parse(&" ".repeat(65 << 10)).unwrap_err().message.contains("more than"));
    let columns =
        format!("SELECT {} FROM A", (0..2000).map(|it| format!("c{it}")).collect::<Vec<_>>().join(","));
    assert!(parse(&columns).unwrap_err().message.ends_with("more than 1024 columns"));
    let pattern = format!("SELECT * FROM A WHERE B LIKE '{}'", "[".repeat(5000));
    assert!(parse(&pattern).unwrap_err().message.ends_with("more than 4096 bytes"));
    // Patterns cost no more than text times pattern.
    assert!(!like::like(&"a".repeat(2000), &format!("{}b", "%a".repeat(1000))));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}|(SELECT |\\*|FROM |A|WHERE |AND |NOT |ISA |LIKE |IS |NULL|=|<>|'|\"|\\{|\\}|\\(|\\)|\\\\|1|-|\\.|e| ){0,40}") {
        _ = parse(&text);
        if let Ok(Query::Select(query)) = parse(&format!("SELECT * FROM A WHERE {text}")) {
            _ = evaluate(&query.condition.unwrap(), &disk(), Context { schema: &things(), host: "" });
        }
    }

    #[test]
    fn a_text_is_like_itself(text in "[^%_\\[]{0,20}", other in "[^%_\\[]{0,20}") {
        prop_assert!(like::like(&text, &text));
        let pattern = format!("{text}%");
        let whole = format!("{text}{other}");
        prop_assert!(like::like(&whole, &pattern));
    }
}
