//! What operations answer, in the exact form that clients read, and how they refuse.

use crate::common::{
    HOST, V2, VM, World, captured, class, count, error_of, intrinsic, out, path, request, text, world,
};
use expect_test::{Expect, expect};

/// The answer, a line for each element that opens, without the XML declaration.
fn check(answer: &str, expected: Expect) {
    let lines = answer.split_once('\n').unwrap().1.trim_end().replace("><", ">\n<");
    expected.assert_eq(&lines);
}

fn of_vm() -> String {
    path("ObjectName", "Msvm_ComputerSystem", &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", VM)])
}

#[tokio::test]
async fn an_instance_is_written_with_the_types_of_its_class() {
    let wanted = "<IPARAMVALUE NAME=\"PropertyList\"><VALUE.ARRAY><VALUE>elementname</VALUE><VALUE>EnabledState\
                  </VALUE><VALUE>InstallDate</VALUE><VALUE>OperationalStatus</VALUE><VALUE>Caption</VALUE>\
                  </VALUE.ARRAY></IPARAMVALUE><IPARAMVALUE NAME=\"IncludeClassOrigin\"><VALUE>TRUE</VALUE></IPARAMVALUE>";
    let path = of_vm().replace("ObjectName", "InstanceName");
    let answer = world().ask(intrinsic(V2, "GetInstance", &(path + wanted))).await;
    check(
        &answer,
        expect![[r#"
        <CIM CIMVERSION="2.0" DTDVERSION="2.0">
        <MESSAGE ID="7" PROTOCOLVERSION="1.0">
        <SIMPLERSP>
        <IMETHODRESPONSE NAME="GetInstance">
        <IRETURNVALUE>
        <INSTANCE CLASSNAME="Msvm_ComputerSystem">
        <PROPERTY NAME="Caption" TYPE="string" CLASSORIGIN="CIM_ManagedElement">
        </PROPERTY>
        <PROPERTY NAME="ElementName" TYPE="string" CLASSORIGIN="CIM_ManagedElement">
        <VALUE>vm0 &lt;&amp;&gt;</VALUE>
        </PROPERTY>
        <PROPERTY NAME="InstallDate" TYPE="datetime" CLASSORIGIN="CIM_ManagedSystemElement">
        <VALUE>20270115080000.000000+000</VALUE>
        </PROPERTY>
        <PROPERTY.ARRAY NAME="OperationalStatus" TYPE="uint16" CLASSORIGIN="CIM_ManagedSystemElement">
        </PROPERTY.ARRAY>
        <PROPERTY NAME="EnabledState" TYPE="uint16" CLASSORIGIN="CIM_EnabledLogicalElement">
        <VALUE>2</VALUE>
        </PROPERTY>
        </INSTANCE>
        </IRETURNVALUE>
        </IMETHODRESPONSE>
        </SIMPLERSP>
        </MESSAGE>
        </CIM>"#]],
    );
}

#[tokio::test]
async fn a_method_answers_its_return_value_and_a_path_that_can_be_used() {
    let answer = world().ask(captured("pywbem-Invoke-createrel-01")).await;
    check(
        &answer,
        expect![[r#"
        <CIM CIMVERSION="2.0" DTDVERSION="2.0">
        <MESSAGE ID="1001" PROTOCOLVERSION="1.0">
        <SIMPLERSP>
        <METHODRESPONSE NAME="CreateReplicationRelationship">
        <RETURNVALUE PARAMTYPE="uint32">
        <VALUE>4096</VALUE>
        </RETURNVALUE>
        <PARAMVALUE NAME="Job" PARAMTYPE="reference">
        <VALUE.REFERENCE>
        <INSTANCEPATH>
        <NAMESPACEPATH>
        <HOST>host1.example</HOST>
        <LOCALNAMESPACEPATH>
        <NAMESPACE NAME="root"/>
        <NAMESPACE NAME="virtualization"/>
        <NAMESPACE NAME="v2"/>
        </LOCALNAMESPACEPATH>
        </NAMESPACEPATH>
        <INSTANCENAME CLASSNAME="Msvm_ConcreteJob">
        <KEYBINDING NAME="InstanceID">
        <KEYVALUE VALUETYPE="string" TYPE="string">job-1</KEYVALUE>
        </KEYBINDING>
        </INSTANCENAME>
        </INSTANCEPATH>
        </VALUE.REFERENCE>
        </PARAMVALUE>
        </METHODRESPONSE>
        </SIMPLERSP>
        </MESSAGE>
        </CIM>"#]],
    );
}

#[tokio::test]
async fn embedded_instances_go_out_as_text_that_says_so() {
    let call = "<METHODCALL NAME=\"GetReplicationStatistics\"><LOCALCLASSPATH><LOCALNAMESPACEPATH><NAMESPACE \
                NAME=\"root\"/><NAMESPACE NAME=\"virtualization\"/><NAMESPACE NAME=\"v2\"/></LOCALNAMESPACEPATH>\
                <CLASSNAME NAME=\"Msvm_ReplicationService\"/></LOCALCLASSPATH></METHODCALL>";
    let object = "root/virtualization/v2:Msvm_ReplicationService";
    let answer = world().ask(request("GetReplicationStatistics", object, call)).await;
    assert!(answer.contains(
        "<PARAMVALUE NAME=\"ReplicationStatistics\" PARAMTYPE=\"string\" EmbeddedObject=\"instance\"><VALUE.ARRAY>\
         <VALUE>&lt;INSTANCE CLASSNAME=&quot;Msvm_ReplicationStatistics&quot;&gt;&lt;PROPERTY NAME="
    ));
}

#[tokio::test]
async fn an_association_is_written_with_whole_paths() {
    let answer = world().ask(captured("pywbem-References-01")).await;
    check(
        &answer,
        expect![[r#"
        <CIM CIMVERSION="2.0" DTDVERSION="2.0">
        <MESSAGE ID="1001" PROTOCOLVERSION="1.0">
        <SIMPLERSP>
        <IMETHODRESPONSE NAME="References">
        <IRETURNVALUE>
        <VALUE.OBJECTWITHPATH>
        <INSTANCEPATH>
        <NAMESPACEPATH>
        <HOST>host1.example</HOST>
        <LOCALNAMESPACEPATH>
        <NAMESPACE NAME="root"/>
        <NAMESPACE NAME="virtualization"/>
        <NAMESPACE NAME="v2"/>
        </LOCALNAMESPACEPATH>
        </NAMESPACEPATH>
        <INSTANCENAME CLASSNAME="Msvm_SystemReplicationRelationship">
        <KEYBINDING NAME="Antecedent">
        <VALUE.REFERENCE>
        <LOCALINSTANCEPATH>
        <LOCALNAMESPACEPATH>
        <NAMESPACE NAME="root"/>
        <NAMESPACE NAME="virtualization"/>
        <NAMESPACE NAME="v2"/>
        </LOCALNAMESPACEPATH>
        <INSTANCENAME CLASSNAME="Msvm_ComputerSystem">
        <KEYBINDING NAME="Name">
        <KEYVALUE VALUETYPE="string" TYPE="string">8A2B0C4E-0000-0000-0000-000000000001</KEYVALUE>
        </KEYBINDING>
        <KEYBINDING NAME="CreationClassName">
        <KEYVALUE VALUETYPE="string" TYPE="string">Msvm_ComputerSystem</KEYVALUE>
        </KEYBINDING>
        </INSTANCENAME>
        </LOCALINSTANCEPATH>
        </VALUE.REFERENCE>
        </KEYBINDING>
        <KEYBINDING NAME="Dependent">
        <VALUE.REFERENCE>
        <LOCALINSTANCEPATH>
        <LOCALNAMESPACEPATH>
        <NAMESPACE NAME="root"/>
        <NAMESPACE NAME="virtualization"/>
        <NAMESPACE NAME="v2"/>
        </LOCALNAMESPACEPATH>
        <INSTANCENAME CLASSNAME="Msvm_ReplicationRelationship">
        <KEYBINDING NAME="InstanceID">
        <KEYVALUE VALUETYPE="string" TYPE="string">Microsoft:VM0\0</KEYVALUE>
        </KEYBINDING>
        </INSTANCENAME>
        </LOCALINSTANCEPATH>
        </VALUE.REFERENCE>
        </KEYBINDING>
        </INSTANCENAME>
        </INSTANCEPATH>
        <INSTANCE CLASSNAME="Msvm_SystemReplicationRelationship">
        <PROPERTY.REFERENCE NAME="Antecedent" REFERENCECLASS="Msvm_ComputerSystem">
        <VALUE.REFERENCE>
        <LOCALINSTANCEPATH>
        <LOCALNAMESPACEPATH>
        <NAMESPACE NAME="root"/>
        <NAMESPACE NAME="virtualization"/>
        <NAMESPACE NAME="v2"/>
        </LOCALNAMESPACEPATH>
        <INSTANCENAME CLASSNAME="Msvm_ComputerSystem">
        <KEYBINDING NAME="Name">
        <KEYVALUE VALUETYPE="string" TYPE="string">8A2B0C4E-0000-0000-0000-000000000001</KEYVALUE>
        </KEYBINDING>
        <KEYBINDING NAME="CreationClassName">
        <KEYVALUE VALUETYPE="string" TYPE="string">Msvm_ComputerSystem</KEYVALUE>
        </KEYBINDING>
        </INSTANCENAME>
        </LOCALINSTANCEPATH>
        </VALUE.REFERENCE>
        </PROPERTY.REFERENCE>
        <PROPERTY.REFERENCE NAME="Dependent" REFERENCECLASS="Msvm_ReplicationRelationship">
        <VALUE.REFERENCE>
        <LOCALINSTANCEPATH>
        <LOCALNAMESPACEPATH>
        <NAMESPACE NAME="root"/>
        <NAMESPACE NAME="virtualization"/>
        <NAMESPACE NAME="v2"/>
        </LOCALNAMESPACEPATH>
        <INSTANCENAME CLASSNAME="Msvm_ReplicationRelationship">
        <KEYBINDING NAME="InstanceID">
        <KEYVALUE VALUETYPE="string" TYPE="string">Microsoft:VM0\0</KEYVALUE>
        </KEYBINDING>
        </INSTANCENAME>
        </LOCALINSTANCEPATH>
        </VALUE.REFERENCE>
        </PROPERTY.REFERENCE>
        </INSTANCE>
        </VALUE.OBJECTWITHPATH>
        </IRETURNVALUE>
        </IMETHODRESPONSE>
        </SIMPLERSP>
        </MESSAGE>
        </CIM>"#]],
    );
}

#[tokio::test]
async fn a_qualifier_is_declared() {
    let answer = world().ask(intrinsic(V2, "GetQualifier", &text("QualifierName", "valuemap"))).await;
    check(
        &answer,
        expect![[r#"
        <CIM CIMVERSION="2.0" DTDVERSION="2.0">
        <MESSAGE ID="7" PROTOCOLVERSION="1.0">
        <SIMPLERSP>
        <IMETHODRESPONSE NAME="GetQualifier">
        <IRETURNVALUE>
        <QUALIFIER.DECLARATION NAME="ValueMap" TYPE="string" ISARRAY="true">
        <SCOPE PROPERTY="true" METHOD="true" PARAMETER="true"/>
        </QUALIFIER.DECLARATION>
        </IRETURNVALUE>
        </IMETHODRESPONSE>
        </SIMPLERSP>
        </MESSAGE>
        </CIM>"#]],
    );
}

#[tokio::test]
async fn a_class_is_shown_as_far_as_it_is_asked_for() {
    let world = world();
    let get = async |more: &str| {
        let parameters = class("ClassName", "msvm_replicationrelationship") + more;
        world.ask(intrinsic(V2, "GetClass", &parameters)).await
    };
    let own = get("").await;
    assert!(
        own.contains("<CLASS NAME=\"Msvm_ReplicationRelationship\" SUPERCLASS=\"CIM_ManagedSystemElement\">")
    );
    assert!(!own.contains("NAME=\"Caption\"") && !own.contains("CLASSORIGIN") && own.contains("<QUALIFIER "));
    let whole = get(&(text("LocalOnly", "false") + &text("IncludeClassOrigin", "TRUE"))).await;
    assert!(
        whole.contains(
            "NAME=\"Caption\" TYPE=\"string\" CLASSORIGIN=\"CIM_ManagedElement\" PROPAGATED=\"true\""
        )
    );
    let bare = get(&(text("IncludeQualifiers", "false") + &text("PropertyList", "ReplicationState"))).await;
    assert_eq!((count(&bare, "PROPERTY"), count(&bare, "QUALIFIER")), (1, 0));
}

#[tokio::test]
async fn classes_are_enumerated_from_where_and_as_deep_as_asked() {
    let world = world();
    let names = async |parameters: String| {
        let answer = world.ask(intrinsic(V2, "EnumerateClassNames", &parameters)).await;
        count(&answer, "CLASSNAME")
    };
    let deep = text("DeepInheritance", "TRUE");
    let (roots, all) = (names(String::new()).await, names(deep.clone()).await);
    assert!(roots < all && roots > 3, "{roots} {all}");
    assert_eq!(names(class("ClassName", "Msvm_ReplicationRelationship") + &deep).await, 0);
    let service = class("ClassName", "CIM_ManagedElement");
    assert!(names(service.clone()).await < names(service + &deep).await);
    let classes = world.ask(intrinsic(V2, "EnumerateClasses", &deep)).await;
    assert_eq!(count(&classes, "CLASS"), all);
}

#[tokio::test]
async fn walks_obey_their_refinements() {
    let world = world();
    let walk = async |method: &str, more: &str, element: &str| {
        let answer = world.ask(intrinsic(V2, method, &(of_vm() + more))).await;
        assert_eq!(error_of(&answer), None);
        count(&answer, element)
    };
    let role = |role: &str| text("Role", role);
    assert_eq!(walk("Associators", &role("Antecedent"), "VALUE.OBJECTWITHPATH").await, 1);
    assert_eq!(walk("Associators", &role("Dependent"), "VALUE.OBJECTWITHPATH").await, 0);
    let other = class("ResultClass", "Msvm_ConcreteJob");
    assert_eq!(walk("AssociatorNames", &other, "OBJECTPATH").await, 0);
    assert_eq!(walk("ReferenceNames", &class("ResultClass", "CIM_Dependency"), "OBJECTPATH").await, 1);
    assert_eq!(
        walk("References", &class("ResultClass", "CIM_HostedService"), "VALUE.OBJECTWITHPATH").await,
        0
    );
}

#[tokio::test]
async fn classes_have_neighbours_too() {
    let answer = world().ask(captured("pywbem-Associators-class-01")).await;
    assert!(answer.contains(&format!("<CLASSPATH><NAMESPACEPATH><HOST>{HOST}</HOST>")));
    assert!(answer.contains("<CLASS NAME=\"Msvm_ReplicationRelationship\""));
    assert_eq!(count(&answer, "QUALIFIER"), 0);
}

#[tokio::test]
async fn subclasses_add_properties_unless_told_not_to() {
    let world = world();
    let enumerate = async |more: String| {
        let parameters = class("ClassName", "CIM_ComputerSystem") + &more;
        world.ask(intrinsic(V2, "EnumerateInstances", &parameters)).await
    };
    let property = "NAME=\"OnTimeInMilliseconds\"";
    assert!(enumerate(String::new()).await.contains(property));
    let shallow = enumerate(text("DeepInheritance", "FALSE")).await;
    assert!(!shallow.contains(property) && shallow.contains("CLASSNAME=\"Msvm_ComputerSystem\""));
}

#[tokio::test]
async fn a_query_for_columns_answers_instances_with_their_paths() {
    let query = "SELECT InstanceID FROM Msvm_ReplicationRelationship WHERE ReplicationState = '4'";
    let parameters = text("QueryLanguage", "wql") + &text("Query", query);
    let answer = world().ask(intrinsic(V2, "ExecQuery", &parameters)).await;
    assert_eq!((count(&answer, "INSTANCEPATH"), count(&answer, "PROPERTY")), (1, 1));
}

#[tokio::test]
async fn one_property_is_read_and_set() {
    let world = world();
    let path = of_vm().replace("ObjectName", "InstanceName");
    let named = |name: &str| path.clone() + &text("PropertyName", name);
    let set = named("Caption") + "<IPARAMVALUE NAME=\"NewValue\"><VALUE>new</VALUE></IPARAMVALUE>";
    assert_eq!(error_of(&world.ask(intrinsic(V2, "SetProperty", &set)).await), None);
    let answer = world.ask(intrinsic(V2, "GetProperty", &named("caption"))).await;
    assert!(answer.contains("<IRETURNVALUE><VALUE>new</VALUE></IRETURNVALUE>"));
    let wrong = named("EnabledState") + "<IPARAMVALUE NAME=\"NewValue\"><VALUE>on</VALUE></IPARAMVALUE>";
    assert_eq!(code(&world, "SetProperty", &wrong).await, 13);
    assert_eq!(code(&world, "GetProperty", &named("Nope")).await, 12);
}

async fn code(world: &World, method: &str, parameters: &str) -> u32 {
    world.refused(intrinsic(V2, method, parameters)).await.map_or(0, |(code, _)| code)
}

#[tokio::test]
async fn refusals_name_what_is_wrong() {
    let world = world();
    let id = |value| path("InstanceName", "Msvm_ConcreteJob", &[("InstanceID", value)]);
    let twice = id("x") + &id("x");
    let elsewhere = "<IPARAMVALUE NAME=\"InstanceName\"><LOCALINSTANCEPATH><LOCALNAMESPACEPATH><NAMESPACE NAME=\"x\"/>\
                     </LOCALNAMESPACEPATH><INSTANCENAME CLASSNAME=\"Msvm_ConcreteJob\"/></LOCALINSTANCEPATH></IPARAMVALUE>";
    let job = class("ClassName", "Msvm_ConcreteJob");
    let table: [(&str, String, u32, &str); 20] = [
        ("GetInstance", id("x"), 6, "there is no instance"),
        ("GetInstance", String::new(), 4, "parameter InstanceName is missing"),
        ("GetInstance", twice, 4, "parameter InstanceName is given twice"),
        ("GetInstance", id("job-1") + &text("Nope", "x"), 4, "parameter Nope is not known"),
        ("GetInstance", elsewhere.into(), 4, "is not in root/virtualization/v2"),
        ("GetInstance", path("InstanceName", "Msvm_ConcreteJob", &[]), 4, "key InstanceID is missing"),
        ("GetInstance", path("InstanceName", "Msvm_ConcreteJob", &[("Id", "x")]), 4, "has no key Id"),
        ("GetInstance", class("InstanceName", "Msvm_ConcreteJob"), 4, "names a class"),
        ("GetInstance", path("InstanceName", "Nope", &[("InstanceID", "x")]), 5, "there is no class Nope"),
        ("EnumerateInstances", class("ClassName", "Nope"), 5, "there is no class Nope"),
        (
            "EnumerateInstances",
            job.clone() + &text("DeepInheritance", "maybe"),
            4,
            "\"maybe\" is not a boolean",
        ),
        ("GetClass", class("ClassName", "Nope"), 6, "there is no class Nope"),
        ("EnumerateClasses", class("ClassName", "Nope"), 5, "there is no class Nope"),
        ("GetQualifier", text("QualifierName", "Nope"), 6, "there is no qualifier Nope"),
        ("Associators", of_vm() + &class("AssocClass", "Nope"), 4, "there is no class Nope"),
        ("ExecQuery", text("QueryLanguage", "SQL") + &text("Query", "x"), 14, "SQL is not known"),
        ("ExecQuery", text("QueryLanguage", "WQL") + &text("Query", "SELECT"), 15, "line 1, column 7"),
        ("ExecQuery", text("QueryLanguage", "WQL"), 4, "parameter Query is missing"),
        ("DeleteClass", job, 7, "read-only"),
        ("Frobnicate", String::new(), 7, "there is no intrinsic method Frobnicate"),
    ];
    for (method, parameters, code, message) in table {
        let (found, text) = world.refused(intrinsic(V2, method, &parameters)).await.unwrap_or_default();
        assert_eq!(found, code, "{method} {parameters}: {text}");
        assert!(text.contains(message), "{method} {parameters}: {text}");
    }
    let unknown = world.refused(intrinsic("root/x", "EnumerateQualifiers", "")).await.unwrap();
    assert_eq!(unknown, (3, "there is no namespace root/x".into()));
}

#[tokio::test]
async fn instances_are_checked_against_their_class_before_they_are_made() {
    let world = world();
    let make = |property: &str| {
        let instance = format!("<INSTANCE CLASSNAME=\"Msvm_ConcreteJob\">{property}</INSTANCE>");
        format!("<IPARAMVALUE NAME=\"NewInstance\">{instance}</IPARAMVALUE>")
    };
    let state = |name: &str, value: &str| {
        format!("<PROPERTY NAME=\"{name}\" TYPE=\"string\"><VALUE>{value}</VALUE></PROPERTY>")
    };
    assert_eq!(code(&world, "CreateInstance", &make(&state("Nope", "x"))).await, 4);
    assert_eq!(code(&world, "CreateInstance", &make(&state("JobState", "x"))).await, 4);
    let made = world.ask(intrinsic(V2, "CreateInstance", &make(&state("InstanceID", "j2")))).await;
    assert!(made.contains("<INSTANCENAME CLASSNAME=\"Msvm_ConcreteJob\"><KEYBINDING NAME=\"InstanceID\">"));
    assert_eq!(code(&world, "CreateInstance", &make(&state("InstanceID", "J2"))).await, 11);
    let name = crate::common::instance_name("Msvm_ConcreteJob", &[("InstanceID", "j2")]);
    let modify = |property: &str, list: &str| {
        format!(
            "<IPARAMVALUE NAME=\"ModifiedInstance\"><VALUE.NAMEDINSTANCE>{name}<INSTANCE CLASSNAME=\"Msvm_ConcreteJob\">\
             {property}</INSTANCE></VALUE.NAMEDINSTANCE></IPARAMVALUE>{}",
            text("PropertyList", list)
        )
    };
    let changes = state("JobState", "7") + &state("ElementName", "left alone");
    assert_eq!(code(&world, "ModifyInstance", &modify(&changes, "JobState")).await, 0);
    assert_eq!(code(&world, "ModifyInstance", &modify("", "Nope")).await, 12);
    let get = path("InstanceName", "Msvm_ConcreteJob", &[("InstanceID", "j2")]);
    let answer = world.ask(intrinsic(V2, "GetInstance", &get)).await;
    assert!(
        answer.contains("NAME=\"JobState\" TYPE=\"uint16\"><VALUE>7</VALUE>")
            && !answer.contains("left alone")
    );
    assert_eq!(code(&world, "ModifyInstance", &modify("", "JobState")).await, 0);
    let answer = world.ask(intrinsic(V2, "GetInstance", &get)).await;
    assert!(!answer.contains("<VALUE>7</VALUE>"), "what is listed and not given gets its default");
    assert_eq!(code(&world, "DeleteInstance", &get).await, 0);
    assert_eq!(code(&world, "DeleteInstance", &get).await, 6);
}

#[tokio::test]
async fn a_method_that_refuses_returns_its_code() {
    let world = world();
    let call = |target: &str, method: &str, arguments: &str| {
        let space = "<LOCALNAMESPACEPATH><NAMESPACE NAME=\"root\"/><NAMESPACE NAME=\"virtualization\"/><NAMESPACE \
                     NAME=\"v2\"/></LOCALNAMESPACEPATH>";
        let target = format!("<LOCALCLASSPATH>{space}<CLASSNAME NAME=\"{target}\"/></LOCALCLASSPATH>");
        let call = format!("<METHODCALL NAME=\"{method}\">{target}{arguments}</METHODCALL>");
        request(method, "root/virtualization/v2:Msvm_ReplicationService", &call)
    };
    let refused = world.ask(call("Msvm_ReplicationService", "commitfailover", "")).await;
    assert!(
        refused.contains(
            "<METHODRESPONSE NAME=\"commitfailover\"><RETURNVALUE PARAMTYPE=\"uint32\"><VALUE>32775"
        )
    );
    let code = async |request| world.refused(request).await.unwrap().0;
    assert_eq!(code(call("Msvm_ReplicationService", "Nope", "")).await, 17);
    assert_eq!(code(call("Msvm_ReplicationService", "CommitFailover", "<PARAMVALUE NAME=\"X\"/>")).await, 4);
    let wrong = "<PARAMVALUE NAME=\"InitialReplicationType\"><VALUE>x</VALUE></PARAMVALUE>";
    assert_eq!(code(call("Msvm_ReplicationService", "StartReplication", wrong)).await, 4);
    assert_eq!(code(call("Msvm_ReplicationService", "Resynchronize", "")).await, 16);
    assert_eq!(out(&refused, "Job"), None);
}
