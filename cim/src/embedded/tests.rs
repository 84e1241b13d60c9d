use super::*;
use crate::mof::tests::things;
use crate::{DateTime, Instance, ObjectPath, Value};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn disk() -> Instance {
    Instance::new("X_Disk").with("Name", "a").with("State", 2u16)
}

#[test]
fn every_dialect_says_the_same() {
    let wmi = r#"<INSTANCE CLASSNAME="X_Disk"><PROPERTY NAME="__PATH" CLASSORIGIN="___SYSTEM" TYPE="string"><VALUE>\\H\root\x:X_Disk.Name="a"</VALUE></PROPERTY><PROPERTY.ARRAY NAME="__DERIVATION" CLASSORIGIN="___SYSTEM" TYPE="string"><VALUE.ARRAY><VALUE>CIM_Thing</VALUE></VALUE.ARRAY></PROPERTY.ARRAY><PROPERTY NAME="Caption" CLASSORIGIN="CIM_Thing" PROPAGATED="true" TYPE="string"></PROPERTY><PROPERTY NAME="Name" CLASSORIGIN="CIM_Thing" TYPE="string"><QUALIFIER NAME="key" TYPE="boolean"><VALUE>TRUE</VALUE></QUALIFIER><VALUE>a</VALUE></PROPERTY><PROPERTY NAME="State" CLASSORIGIN="X_Disk" TYPE="uint16"><VALUE>2</VALUE></PROPERTY></INSTANCE>"#;
    let mi = "\u{feff}<INSTANCE CLASSNAME=\"X_Disk\"><PROPERTY NAME=\"Name\" TYPE=\"string\" MODIFIED=\"TRUE\"><VALUE>a</VALUE></PROPERTY><PROPERTY NAME=\"State\" TYPE=\"uint16\" MODIFIED=\"TRUE\"><VALUE>2</VALUE></PROPERTY></INSTANCE>\0";
    let libvirt = "<?xml version=\"1.0\" encoding=\"utf-16\"?>\n<INSTANCE CLASSNAME=\"X_Disk\">\n  <PROPERTY NAME=\"Name\" TYPE=\"string\">\n    <VALUE>a</VALUE>\n  </PROPERTY>\n  <PROPERTY NAME=\"State\" TYPE=\"uint16\"><VALUE> 2 </VALUE></PROPERTY>\n</INSTANCE>\n";
    let doctype = "  <?xml version='1.0'?>\n<!-- > --><!DOCTYPE CIM SYSTEM 'file:///etc/passwd'><CIM><DECLARATION><DECLGROUP><VALUE.OBJECT><INSTANCE CLASSNAME='x_disk'><PROPERTY NAME='name'><VALUE><![CDATA[a]]></VALUE></PROPERTY><PROPERTY NAME='STATE' TYPE='string'><VALUE>+0x2</VALUE></PROPERTY></INSTANCE></VALUE.OBJECT></DECLGROUP></DECLARATION></CIM>";
    let mof = "\ninstance of X_Disk\n{\n\t__SERVER = \"H\";\n\t[key] Name = \"a\";\n\tState = 2;\n};\n";
    for text in [wmi, mi, libvirt, doctype, mof] {
        assert_eq!(read_as(text, &things()).unwrap(), disk(), "{text}");
    }
}

#[test]
fn unset_null_and_empty_are_three_things() {
    let text = r#"<INSTANCE CLASSNAME="X_Disk"><PROPERTY NAME="Caption" PROPAGATED="true" TYPE="string"/><PROPERTY NAME="State" TYPE="uint16"/><PROPERTY NAME="Name" TYPE="string"><VALUE/></PROPERTY><PROPERTY.ARRAY NAME="Bytes" TYPE="uint8"><VALUE.ARRAY><VALUE>1</VALUE><VALUE.NULL/></VALUE.ARRAY></PROPERTY.ARRAY></INSTANCE>"#;
    let instance = read_as(text, &things()).unwrap();
    assert_eq!(instance.get("Caption"), None);
    assert_eq!(instance.get("State"), Some(&Value::Null));
    assert_eq!(instance.text("Name"), Some(""));
    assert_eq!(instance.get("Bytes"), Some(&vec![Some(1u8), None].into()));
}

#[test]
fn captured_texts_are_read() {
    let libvirt = read(include_str!("../../tests/data/embedded/4-libvirt-9.0.xml")).unwrap();
    assert_eq!(libvirt.get("AutomaticStartupAction"), Some(&4u16.into()));
    let pywbem = read(include_str!("../../tests/data/embedded/5-pywbem-tocimxmlstr.xml")).unwrap();
    assert_eq!(pywbem.get("ReplicateHostKvpItems"), Some(&true.into()));
    assert_eq!(pywbem.get("IncludedDisks"), Some(&vec!["a", "b"].into()));
    assert_eq!(pywbem.properties.len(), 6);
}

#[test]
fn an_instance_is_written_as_wmi_does() {
    let text = write(&disk().with("Caption", "<&\">"), &things());
    let start = r#"<INSTANCE CLASSNAME="X_Disk"><PROPERTY NAME="Caption" TYPE="string"><VALUE>&lt;&amp;&quot;&gt;</VALUE></PROPERTY><PROPERTY NAME="Name" TYPE="string"><VALUE>a</VALUE></PROPERTY><PROPERTY NAME="State" TYPE="uint16"><VALUE>2</VALUE></PROPERTY><PROPERTY.ARRAY NAME="Bytes" PROPAGATED="true" TYPE="uint8"></PROPERTY.ARRAY>"#;
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn references_and_inner_instances_come_back() {
    let path = ObjectPath::class("root/x", "X_Disk").with("Name", "a\"\\<");
    let mut far = path.clone();
    far.host = Some("h:5989".to_owned());
    let mirror =
        Instance::new("X_Mirror").with("Antecedent", path).with("Dependent", far).with("Copy", disk());
    let again = read_as(&write(&mirror, &things()), &things()).unwrap();
    assert_eq!(again.get("Antecedent"), mirror.get("Antecedent"));
    assert_eq!(again.get("Dependent"), mirror.get("Dependent"));
    assert_eq!(of_value(again.get("Copy").unwrap(), &things()).unwrap(), Some(disk()));
    let text = write(&mirror, &things());
    assert_eq!(of_value(&text.as_str().into(), &things()).unwrap(), Some(again));
    let told = "<INSTANCE CLASSNAME='X_Mirror'><PROPERTY.REFERENCE NAME='Antecedent'><VALUE.REFERENCE>\\\\H\\root\\x:X_Disk.Name=\"a\"</VALUE.REFERENCE></PROPERTY.REFERENCE></INSTANCE>";
    let told = read_as(told, &things()).unwrap();
    assert_eq!(told.get("Antecedent").unwrap().as_path().unwrap().key("name"), Some(&"a".into()));
}

#[test]
fn what_wmi_writes_as_objects_is_read() {
    let inner = "<INSTANCE CLASSNAME='X_Disk'><PROPERTY NAME='Name'><VALUE>a</VALUE></PROPERTY><PROPERTY NAME='State' TYPE='uint16'><VALUE>2</VALUE></PROPERTY></INSTANCE>";
    let text = format!(
        "<INSTANCE CLASSNAME='X_Mirror'><QUALIFIER NAME='dynamic'/><PROPERTY.OBJECT NAME='Copy'><VALUE.OBJECT>{inner}</VALUE.OBJECT></PROPERTY.OBJECT></INSTANCE>"
    );
    let mirror = read_as(&text, &things()).unwrap();
    assert_eq!(mirror.get("Copy"), Some(&disk().into()));
}

fn refused(text: &str, expected: &Expect) {
    expected.assert_eq(&read_as(text, &things()).unwrap_err().to_string());
}

#[test]
fn what_is_wrong_has_a_place() {
    refused(
        "",
        &expect![
            "line 1, column 1: expected an instance, as `instance of` in MOF or as INSTANCE in XML, found the end"
        ],
    );
    refused(
        "hello",
        &expect![
            "line 1, column 1: expected an instance, as `instance of` in MOF or as INSTANCE in XML, found hello"
        ],
    );
    refused("<A/>", &expect!["line 1, column 1: expected an INSTANCE, found A"]);
    refused("<INSTANCE/>", &expect!["line 1, column 1: INSTANCE has no attribute CLASSNAME"]);
    refused("<INSTANCE CLASSNAME='Nope'/>", &expect!["line 1, column 1: there is no class Nope in root/x"]);
    refused(
        "\n<INSTANCE CLASSNAME='X_Disk'>\n <PROPERTY NAME='Size'/></INSTANCE>",
        &expect!["line 3, column 2: X_Disk has no property Size"],
    );
    refused(
        "\n<INSTANCE CLASSNAME='X_Disk'>\n <PROPERTY NAME='State'><VALUE>70000</VALUE></PROPERTY></INSTANCE>",
        &expect![[r#"line 3, column 2: State: "70000" is not a uint16 (0 to 65535)"#]],
    );
    refused(
        "<INSTANCE CLASSNAME='X_Disk'>\n <PROPERTY NAME='State'><VALUE>1</VALUE></INSTANCE>",
        &expect![
            "line 2, column 41: this is no well-formed XML: expected 'PROPERTY' tag, not 'INSTANCE' at 2:41"
        ],
    );
    refused(
        "<INSTANCE CLASSNAME='X_Disk'><PROPERTY NAME='Name'/><PROPERTY NAME='name'/></INSTANCE>",
        &expect!["line 1, column 53: property name is given twice"],
    );
    refused(
        "<!DOCTYPE A [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><INSTANCE CLASSNAME='X_Disk'/>",
        &expect!["line 1, column 13: declarations in a DOCTYPE are not accepted"],
    );
    refused(
        "<INSTANCE CLASSNAME='X_Disk'><PROPERTY NAME='Name'><VALUE>&a;</VALUE></PROPERTY></INSTANCE>",
        &expect!["line 1, column 59: this is no well-formed XML: unknown entity reference 'a' at 1:59"],
    );
    refused(
        "<INSTANCE CLASSNAME='X_Mirror'><PROPERTY NAME='Copy' EmbeddedObject='instance'><VALUE>&lt;INSTANCE</VALUE></PROPERTY></INSTANCE>",
        &expect![
            "line 1, column 80: in the embedded instance, line 1, column 1: this is no well-formed XML: the document does not have a root node"
        ],
    );
    refused(
        "instance of X_Disk {};\ninstance of X_Disk {};",
        &expect!["line 2, column 1: expected the end, found instance"],
    );
    refused("instance of X_Disk {\n Size = 1; };", &expect!["line 1, column 1: X_Disk has no property Size"]);
    refused("<!DOCTYPE", &expect!["line 1, column 1: what begins here does not end"]);
}

#[test]
fn depth_and_size_are_bounded() {
    let schema = things();
    let deep = format!(
        "<INSTANCE CLASSNAME='A'>{}",
        "<PROPERTY.OBJECT NAME='B'><VALUE.OBJECT><INSTANCE CLASSNAME='A'>".repeat(20)
    );
    let end = "</INSTANCE></VALUE.OBJECT></PROPERTY.OBJECT>".repeat(20);
    let error = read(&format!("{deep}{end}</INSTANCE>")).unwrap_err();
    assert!(error.message.contains("8 deep"), "{error}");
    assert!(read(&" ".repeat(5 << 20)).unwrap_err().message.contains("more than"));
    let many: String = (0..100_000).map(|index| format!("<PROPERTY NAME='P{index}'/>")).collect();
    let error = read(&format!("<INSTANCE CLASSNAME='A'>{many}</INSTANCE>")).unwrap_err();
    assert_eq!(error.message, "the instance has more than 1024 properties");
    let mut nested = Instance::new("X_Mirror");
    for _ in 0..6 {
        nested = Instance::new("X_Mirror").with("Copy", nested);
    }
    assert_eq!(read(&write(&nested, &schema)).unwrap(), nested);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}|(<|>|/|=|'|INSTANCE|PROPERTY|VALUE|\\.REFERENCE|\\.ARRAY| NAME='A'| CLASSNAME='X_Disk'|<!DOCTYPE|\\[|&lt;|<!\\[CDATA\\[){0,30}") {
        _ = read(&text);
        _ = read_as(&format!("<INSTANCE CLASSNAME='X_Disk'>{text}</INSTANCE>"), &things());
    }

    #[test]
    fn what_is_written_is_read_the_same(
        caption in "[\\t\\n\\r -~\u{a0}-\u{d7ff}]{0,30}",
        bytes in proptest::collection::vec(any::<Option<u8>>(), 1..4),
        least: i64,
        share: f32,
        since in 0..i64::from(u32::MAX) * 1000,
    ) {
        prop_assume!(share.is_finite());
        let disk = Instance::new("X_Disk")
            .with("Caption", caption)
            .with("Bytes", bytes)
            .with("Least", least)
            .with("Share", share)
            .with("Letter", Value::Char16(0x41))
            .with("Since", DateTime::from_unix_ms(since));
        let text = write(&disk, &things());
        prop_assert_eq!(&read_as(&text, &things()).unwrap(), &disk);
        prop_assert_eq!(&read(&text).unwrap(), &disk);
    }
}

#[test]
fn a_class_is_written_whole() {
    let schema = things();
    let sparse = schema.class(&"X_SparseDisk".into()).unwrap();
    let view = crate::ClassView {
        local_only: true,
        include_qualifiers: false,
        include_class_origin: true,
        properties: None,
    };
    let derivation = ["X_Disk".into(), "CIM_Thing".into()];
    expect![[r#"<CLASS NAME="X_SparseDisk" SUPERCLASS="X_Disk" DERIVATION="X_Disk,CIM_Thing"><PROPERTY NAME="Sparse" TYPE="boolean" CLASSORIGIN="X_SparseDisk"><VALUE>TRUE</VALUE></PROPERTY></CLASS>"#]]
    .assert_eq(&write_class(&sparse.view(&view), &derivation));
    let whole = write_class(schema.class(&"X_Disk".into()).unwrap(), &[]);
    let parts = [
        "<CLASS NAME=\"X_Disk\" SUPERCLASS=\"CIM_Thing\">",
        "<PROPERTY NAME=\"Caption\" TYPE=\"string\" CLASSORIGIN=\"CIM_Thing\" PROPAGATED=\"true\">",
        "<PROPERTY.ARRAY NAME=\"Bytes\" TYPE=\"uint8\" ARRAYSIZE=\"4\"",
        "<VALUE.ARRAY><VALUE>1</VALUE><VALUE>15</VALUE><VALUE.NULL/></VALUE.ARRAY></PROPERTY.ARRAY>",
        "<METHOD NAME=\"Resize\" TYPE=\"uint32\" CLASSORIGIN=\"X_Disk\">",
        "<PARAMETER.REFERENCE NAME=\"Job\" REFERENCECLASS=\"CIM_Thing\">",
        "<PARAMETER.ARRAY NAME=\"Modes\" TYPE=\"uint16\">",
    ];
    for part in parts {
        assert!(whole.contains(part), "{part} in {whole}");
    }
    assert!(crate::xml::parse(&whole).is_ok());
}
