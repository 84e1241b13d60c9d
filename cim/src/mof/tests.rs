use super::*;
use crate::{CimType, ClassView, Name, Schema, Value};
use expect_test::{Expect, expect};
use proptest::prelude::*;

/// The qualifiers that the tests use, as DSP0004 declares them.
pub const QUALIFIERS: &str = r#"
Qualifier Abstract : boolean = false, Scope(class, association, indication), Flavor(Restricted);
Qualifier Association : boolean = false, Scope(association), Flavor(DisableOverride);
Qualifier Description : string = null, Scope(any), Flavor(Translatable);
Qualifier EmbeddedInstance : string = null, Scope(property, method, parameter);
Qualifier In : boolean = true, Scope(parameter), Flavor(DisableOverride);
Qualifier Key : boolean = false, Scope(property, reference), Flavor(DisableOverride);
Qualifier MaxLen : uint32 = null, Scope(property, method, parameter);
Qualifier Out : boolean = false, Scope(parameter), Flavor(DisableOverride);
Qualifier Override : string = null, Scope(property, reference, method), Flavor(Restricted);
Qualifier Required : boolean = false, Scope(property, reference, method, parameter), Flavor(DisableOverride);
Qualifier ValueMap : string[], Scope(property, method, parameter);
Qualifier Values : string[], Scope(property, method, parameter), Flavor(Translatable);
Qualifier Version : string = null, Scope(class, association, indication), Flavor(Restricted, Translatable);
"#;

/// A small model of things: two classes, an association, methods.
pub const THINGS: &str = r#"
[Abstract, Version("2.8.0"), Description("the root " /* joined */ "of \"all\"")]
class CIM_Thing { string Caption; [MaxLen(64)] string Name; };
class X_Disk : CIM_Thing {
    [Key, Override("Name")] string Name;
    [ValueMap {"0", "2"}, Values {"Unknown", "OK"}] uint16 State = 2;
    uint8 Bytes[4] = {1, 0x0f, NULL};
    sint64 Least = -9223372036854775808;
    real32 Share = 1.5e2; char16 Letter = '\x0041'; datetime Since = "20260101000000.000000+000";
    [Description("makes it larger")]
    uint32 Resize([In] uint64 Size, [In(false), Out] CIM_Thing REF Job, [Required] boolean Now, uint16 Modes[]);
};
class X_SparseDisk : X_Disk { boolean Sparse = true; };
[Association] class X_Mirror {
    [Key] X_Disk REF Antecedent; [Key] X_Disk REF Dependent;
    [EmbeddedInstance("X_Disk")] string Copy;
};
"#;

pub fn things() -> Schema {
    Schema::new("root/x", &parse(&format!("{QUALIFIERS}{THINGS}")).unwrap()).unwrap()
}

fn refused(text: &str, expected: &Expect) {
    let message = match parse(&format!("{QUALIFIERS}\n{text}")) {
        Err(error) => error.to_string(),
        Ok(mof) => {
            let errors = Schema::new("root/x", &mof).err().unwrap_or_default();
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
    };
    expected.assert_eq(&message);
}

#[test]
fn a_class_has_what_was_written() {
    let schema = things();
    let disk = schema.class(&"x_disk".into()).unwrap();
    let names: Vec<_> = disk.properties.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["Caption", "Name", "State", "Bytes", "Least", "Share", "Letter", "Since"]);
    let property = |name| disk.property(name).unwrap();
    assert_eq!(property("bytes").default, Value::Array(vec![1u8.into(), 15u8.into(), Value::Null]));
    assert_eq!(property("bytes").array_size, Some(4));
    assert_eq!(property("Least").default, i64::MIN.into());
    assert_eq!(property("Share").default, 150f32.into());
    assert_eq!(property("Letter").default, Value::Char16(65));
    assert_eq!(property("State").qualifiers[1].value, vec!["Unknown", "OK"].into());
    let resize = disk.method("Resize").unwrap();
    let ways: Vec<_> = resize.parameters.iter().map(|it| (it.is_in(), it.is_out())).collect();
    assert_eq!(ways, [(true, false), (false, true), (true, false), (true, false)]);
    assert_eq!(resize.parameters[1].cim_type, CimType::Reference("CIM_Thing".into()));
    let root = schema.class(&"CIM_Thing".into()).unwrap();
    assert_eq!(root.qualifiers[2].value, "the root of \"all\"".into());
}

#[test]
fn elements_and_qualifiers_are_inherited() {
    let schema = things();
    let sparse = schema.class(&"X_SparseDisk".into()).unwrap();
    assert!(!sparse.is_abstract(), "Abstract is restricted");
    let name = sparse.property("Name").unwrap();
    assert!(name.is_key() && name.propagated);
    assert_eq!(name.class_origin, Some("CIM_Thing".into()));
    let qualifiers: Vec<_> = name.qualifiers.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(qualifiers, ["Key", "MaxLen"], "Override stays behind");
    assert!(schema.is_a(&"X_SPARSEDISK".into(), &"cim_thing".into()));
    assert!(!schema.is_a(&"CIM_Thing".into(), &"X_Disk".into()));
    assert_eq!(schema.descendants(&"CIM_Thing".into()), ["X_Disk", "X_SparseDisk"].map(Name::from));
    let above: Vec<_> = schema.superclasses(&"X_SparseDisk".into()).map(|it| it.name.as_str()).collect();
    assert_eq!(above, ["X_Disk", "CIM_Thing"]);
}

#[test]
fn a_view_leaves_out() {
    let schema = things();
    let wanted = Some(vec![Name::from("sparse"), Name::from("Caption")]);
    let view = ClassView {
        local_only: true,
        include_qualifiers: false,
        include_class_origin: false,
        properties: wanted,
    };
    let sparse = schema.class(&"X_SparseDisk".into()).unwrap().view(&view);
    assert_eq!(sparse.properties.len(), 1);
    assert_eq!(sparse.properties[0].class_origin, None);
    assert!(sparse.methods.is_empty());
    let all = ClassView {
        local_only: false,
        include_qualifiers: true,
        include_class_origin: true,
        properties: None,
    };
    let whole = schema.class(&"X_SparseDisk".into()).unwrap();
    assert_eq!(whole.view(&all), **whole);
}

#[test]
fn what_is_written_is_read_the_same() {
    let mof = parse(&format!("{QUALIFIERS}{THINGS}")).unwrap();
    let mut text: String = mof.qualifiers.iter().map(|it| it.item.to_mof()).collect();
    text.extend(mof.classes.iter().map(|it| it.item.to_mof()));
    let again = parse(&text).unwrap();
    assert_eq!(
        mof.classes.iter().map(|it| &it.item).collect::<Vec<_>>(),
        again.classes.iter().map(|it| &it.item).collect::<Vec<_>>()
    );
    assert_eq!(
        mof.qualifiers.iter().map(|it| &it.item).collect::<Vec<_>>(),
        again.qualifiers.iter().map(|it| &it.item).collect::<Vec<_>>()
    );
    let schema = things();
    assert_eq!(schema.class(&"X_SparseDisk".into()).unwrap().to_mof(), mof.classes[2].item.to_mof());
}

#[test]
fn instances_and_aliases() {
    let text = r#"
        #pragma locale ("en_US")
        #pragma namespace ("root\\x")
        [Untold("thing")] instance of X_Disk as $Disk { Name = "a\\b"; [read : ToSubClass] State = 2; };
        instance of X_Mirror { Antecedent = $Disk; Copy = instance of X_Disk { Name = "c"; Bytes = {1, 2}; }; };
    "#;
    let mof = parse(&format!("{QUALIFIERS}{THINGS}{text}")).unwrap();
    let mirror = things().conform(&mof.instances[1].item).unwrap();
    assert_eq!(mof.instances[1].namespace, Some("root/x".into()));
    assert_eq!(mirror.get("Antecedent").unwrap().to_string(), r#"root\x:X_Disk.Name="a\\b""#);
    let copy = mirror.get("Copy").unwrap().as_instance().unwrap();
    assert_eq!(things().conform(copy).unwrap().get("Bytes"), Some(&vec![1u8, 2].into()));
}

#[test]
fn files_are_included_once_each() {
    let read = |name: &str| {
        let text = match name {
            "schema/all.mof" => {
                "#pragma include (\"q.mof\")\n#pragma include (\"sub/a.mof\")\nclass All : A {};"
            }
            "schema/q.mof" => QUALIFIERS,
            "schema/sub/a.mof" => {
                "#pragma include (\"../all.mof\")\n#pragma include (\"b.mof\")\nclass A : B {};"
            }
            "schema/sub/b.mof" => "class B {};",
            "schema/sub/../all.mof" => "",
            _ => return None,
        };
        Some(text.to_owned())
    };
    let mof = parse_files("schema/all.mof", &read).unwrap();
    let classes: Vec<_> = mof.classes.iter().map(|it| it.item.name.as_str()).collect();
    assert_eq!(classes, ["B", "A", "All"]);
    assert_eq!(mof.classes[1].at.to_string(), "schema/sub/a.mof:3:1");
    let error = parse_files("schema/none.mof", &read).unwrap_err().to_string();
    assert_eq!(error, "schema/none.mof:1:1: the file cannot be read");
    assert!(parse("\n#pragma include(\"a.mof\")").unwrap_err().to_string().starts_with("line 2, column 17"));
}

#[test]
fn errors_have_a_place_and_an_expectation() {
    let cases = [
        (
            "class A { string };",
            expect!["line 16, column 18: expected the name of a property or method, found '}'"],
        ),
        ("class A { uint8 B = 256; };", expect!["line 16, column 21: B: 256 is not a uint8 (0 to 255)"]),
        (
            "class A { uint8 B = \"1\"; };",
            expect![[r#"line 16, column 21: expected a uint8 for B, found "1""#]],
        ),
        (
            "class A { uint8 B[] = 1; };",
            expect!["line 16, column 23: expected a uint8 in braces for B, found 1"],
        ),
        (
            "class A { [Nonsense] uint8 B; };",
            expect!["line 16, column 12: qualifier Nonsense is not declared"],
        ),
        ("class A { uint8 B; string b; };", expect!["line 16, column 27: class A has two elements named b"]),
        ("class A { uint8 B }", expect!["line 16, column 19: expected ';', found '}'"]),
        (
            "class A { string B = \"x\\q\"; };",
            expect![[r#"line 16, column 24: expected one of \b \t \n \f \r \" \' \\ \x"#]],
        ),
        (
            "class A { string B = \"x\n\"; };",
            expect![[r#"line 16, column 22: no " ends the text that begins here"#]],
        ),
        ("/* class A", expect!["line 16, column 1: no */ ends the comment that begins here"]),
        (
            "klass A",
            expect!["line 16, column 1: expected class, instance of, Qualifier or #pragma, found klass"],
        ),
        ("instance of A { B = $C; };", expect!["line 16, column 21: no instance has the alias $C"]),
        ("class A : B {};", expect!["line 16, column 1: class A: there is no superclass B"]),
        (
            "class A : A {};",
            expect!["line 16, column 1: class A: its superclass A descends from it, or from nothing known"],
        ),
        ("class A {};\nclass a {};", expect!["line 17, column 1: class a is declared twice"]),
        (
            "class A { [In] string B; };",
            expect!["line 16, column 23: B: qualifier In does not belong on a Property"],
        ),
        ("class A { B REF C; };", expect!["line 16, column 17: A.C refers to B, which is not declared"]),
        (
            "class A { [ValueMap {\"1\"}, Values {}] uint8 C; };",
            expect!["line 16, column 45: C: ValueMap has 1 entries and Values 0"],
        ),
        (
            "class A { uint8 B; };\nclass C : A { uint16 B; };",
            expect![[r#"
            line 17, column 22: C.B is inherited; to override it takes the qualifier Override
            line 17, column 22: C.B: uint16 cannot override uint8"#]],
        ),
        (
            "class A { [Key] uint8 B; };\nclass C : A { [Override(\"B\"), Key(false)] uint8 B; };",
            expect!["line 17, column 49: C.B: qualifier Key cannot be overridden"],
        ),
        (
            "class A {};\n[Association] class B { A REF C; };",
            expect![[r#"
            line 17, column 15: association B has fewer than two references
            line 17, column 15: association B has no keys"#]],
        ),
    ];
    for (text, expected) in cases {
        refused(text, &expected);
    }
}

#[test]
fn depth_is_bounded() {
    let deep = "instance of A { B = ".repeat(50_000);
    assert!(parse(&deep).unwrap_err().message.contains("16 deep"));
    assert!(parse(&"{".repeat(400_000)).is_err());
    assert!(parse(&";".repeat(1_000_000)).unwrap_err().message.ends_with("more than 500000 words"));
    let open = format!("{}x", "[".repeat(400_000));
    assert!(parse(&open).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}|([\\[\\]{}();:=$#,\"'\\\\ ]|class|instance of|Key|A|1|0x|1e|NULL|//|/\\*){0,40}") {
        _ = parse(&text);
        _ = parse(&format!("{QUALIFIERS}class A {{ {text}"));
    }

    #[test]
    fn defaults_come_back(text in "\\PC{0,20}|[\\x00-\\x1f\"\\\\]{0,8}", integer: i64, real: f64) {
        prop_assume!(real.is_finite());
        let mut class = parse("class A { string S; sint64 I; real64 R; };").unwrap().classes.remove(0).item;
        class.properties[0].default = text.into();
        class.properties[1].default = integer.into();
        class.properties[2].default = real.into();
        prop_assert_eq!(&parse(&class.to_mof()).unwrap().classes[0].item, &class);
    }
}
