//! Wrong requests: each gets its fault, in the words of DMTF and with the codes of Windows.

mod common;

use common::*;
use expect_test::{Expect, expect, expect_file};
use std::fmt::Write;

fn check(xml: &str, expected: &Expect) {
    expected.assert_eq(body_of(xml));
}

#[tokio::test]
async fn a_fault_says_it_in_every_way() {
    let server = server();
    let gone = selectors(&[("InstanceID", "gone")]);
    let (status, xml) =
        post(&server, request(GET, &format!("{WMI}/Msvm_ReplicationRelationship"), &gone, "")).await;
    assert_eq!(status, 500);
    assert_eq!(field(&xml, "a:Action"), Some("http://schemas.xmlsoap.org/ws/2004/08/addressing/fault"));
    assert_eq!(field(&xml, "a:RelatesTo"), Some("uuid:0c0ffee0-Ab"));
    check(
        &xml,
        &expect![[
            r#"<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>a:DestinationUnreachable</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">there is no instance root\virtualization\v2:Msvm_ReplicationRelationship.InstanceID=&quot;gone&quot;</s:Text></s:Reason><s:Detail><w:FaultDetail>http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/InvalidResourceURI</w:FaultDetail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="2150858752" Machine="HOST"><f:Message><f:ProviderFault provider="CIM">there is no instance root\virtualization\v2:Msvm_ReplicationRelationship.InstanceID=&quot;gone&quot;</f:ProviderFault></f:Message></f:WSManFault><p:MSFT_WmiError b:IsCIM_Error="true" xmlns:p="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError" xsi:type="p:MSFT_WmiError_Type"><p:CIMStatusCode>6</p:CIMStatusCode><p:ErrorType>0</p:ErrorType><p:Message>there is no instance root\virtualization\v2:Msvm_ReplicationRelationship.InstanceID=&quot;gone&quot;</p:Message><p:MessageID>HRESULT 0x80041002</p:MessageID><p:OwningEntity>Microsoft Corporation</p:OwningEntity><p:PerceivedSeverity>2</p:PerceivedSeverity><p:ProbableCause>0</p:ProbableCause><p:ProbableCauseDescription>CIM_ERR_NOT_FOUND</p:ProbableCauseDescription><p:error_Category>0</p:error_Category><p:error_Code>2147749890</p:error_Code><p:error_Type>HRESULT</p:error_Type><p:error_WindowsErrorMessage>there is no instance root\virtualization\v2:Msvm_ReplicationRelationship.InstanceID=&quot;gone&quot;</p:error_WindowsErrorMessage></p:MSFT_WmiError></s:Detail></s:Fault>"#
        ]],
    );
    let unknown = r#"<z:New xmlns:z="urn:z" s:mustUnderstand="1"/>"#;
    let (_, xml) = post(&server, request(GET, &format!("{WMI}/Msvm_ReplicationService"), unknown, "")).await;
    assert!(xml.contains(r#"<s:NotUnderstood qname="q:New" xmlns:q="urn:z"/></s:Header>"#), "{xml}");
    check(
        &xml,
        &expect![[
            r#"<s:Fault><s:Code><s:Value>s:MustUnderstand</s:Value></s:Code><s:Reason><s:Text xml:lang="en-US">the header New is not understood</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="2150858768" Machine="HOST"><f:Message>the header New is not understood</f:Message></f:WSManFault></s:Detail></s:Fault>"#
        ]],
    );
    let xpath = r#"<n:Enumerate><w:Filter Dialect="http://www.w3.org/TR/1999/REC-xpath-19991116">*</w:Filter></n:Enumerate>"#;
    let (_, xml) = post(&server, request(ENUMERATE, &format!("{WMI}/*"), "", xpath)).await;
    check(
        &xml,
        &expect![[
            r#"<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>n:FilterDialectRequestedUnavailable</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">filters in &quot;http://www.w3.org/TR/1999/REC-xpath-19991116&quot; are not known</s:Text></s:Reason><s:Detail><n:SupportedDialect>http://schemas.microsoft.com/wbem/wsman/1/WQL</n:SupportedDialect><n:SupportedDialect>http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter</n:SupportedDialect><n:SupportedDialect>http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter</n:SupportedDialect><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="2150858777" Machine="HOST"><f:Message>filters in &quot;http://www.w3.org/TR/1999/REC-xpath-19991116&quot; are not known</f:Message></f:WSManFault></s:Detail></s:Fault>"#
        ]],
    );
}

#[tokio::test]
async fn every_wrong_request_has_its_fault() {
    let service = format!("{WMI}/Msvm_ReplicationService");
    let relationship = format!("{WMI}/Msvm_ReplicationRelationship");
    let id = format!("Microsoft:{}\\HVR\\0", VMS[0]);
    let keys = selectors(&[("InstanceID", &id)]);
    let get = |header: &str| request(GET, &relationship, &format!("{keys}{header}"), "");
    let enumerate = |content: &str| {
        request(ENUMERATE, &format!("{WMI}/*"), "", &format!("<n:Enumerate>{content}</n:Enumerate>"))
    };
    let wql = |query: &str| {
        enumerate(&format!(
            "<w:OptimizeEnumeration/><w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">{query}</w:Filter>"
        ))
    };
    let invoke = |method: &str, body: &str| {
        let body = format!("<p:{method}_INPUT>{body}</p:{method}_INPUT>");
        request(&format!("{service}/{method}"), &service, "", &body)
    };
    let plain = get("");
    let requests = [
        ("no XML", "hello".to_owned()),
        ("cut off", plain[..plain.len() - 20].to_owned()),
        ("an entity", format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{plain}")),
        (
            "an entity of entities",
            "<!DOCTYPE a [<!ENTITY b 'cc'><!ENTITY d '&b;&b;'><!ENTITY e '&d;&d;'>]><a>&e;</a>".to_owned(),
        ),
        (
            "an entity from elsewhere",
            format!("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>{plain}"),
        ),
        ("too deep", "<a>".repeat(100_000)),
        ("too many attributes", format!("<a {}/>", "b=''".repeat(100_000))),
        ("no envelope", "<a/>".to_owned()),
        (
            "SOAP 1.1",
            plain.replace(
                "http://www.w3.org/2003/05/soap-envelope",
                "http://schemas.xmlsoap.org/soap/envelope/",
            ),
        ),
        ("no body", plain.replace("<s:Body></s:Body>", "")),
        ("no action", plain.replace("a:Action", "a:Auction").replace(" s:mustUnderstand=\"true\"", "")),
        ("no message id", plain.replace("a:MessageID", "a:Massage")),
        (
            "no resource",
            plain.replace("w:ResourceURI", "w:Resource").replace(" s:mustUnderstand=\"true\"", ""),
        ),
        (
            "another prefix's namespace",
            plain.replace("http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd", "urn:w"),
        ),
        ("answer elsewhere", plain.replace("role/anonymous", "role/other")),
        ("small envelope", get("<w:MaxEnvelopeSize>8191</w:MaxEnvelopeSize>")),
        ("no number", get("<w:MaxEnvelopeSize>big</w:MaxEnvelopeSize>")),
        ("no duration", get("<w:OperationTimeout>1 minute</w:OperationTimeout>")),
        (
            "option that must be",
            get("<w:OptionSet><w:Option Name=\"x\" MustComply=\"true\">1</w:Option></w:OptionSet>"),
        ),
        ("unknown namespace", plain.replace("virtualization/v2", "virtualization")),
        ("unknown class", plain.replace("Msvm_ReplicationRelationship", "Msvm_Foo")),
        ("no class", plain.replace("/Msvm_ReplicationRelationship", "/*")),
        ("no namespace", plain.replace(&relationship, &format!("{DMTF}/Msvm_ReplicationRelationship"))),
        (
            "foreign resource",
            plain.replace(&relationship, "http://schemas.dell.com/wbem/wscim/1/cim-schema/2/DCIM_LCService"),
        ),
        (
            "XML schema",
            plain.replace(&relationship, "http://schemas.dmtf.org/wbem/ws-cim/1/cim-schema/2/X.xsd"),
        ),
        ("no selectors", request(GET, &relationship, "", "")),
        (
            "not enough of them",
            request(GET, &format!("{WMI}/Msvm_ComputerSystem"), &selectors(&[("Name", VMS[0])]), ""),
        ),
        ("unknown selector", plain.replace("\"InstanceID\"", "\"Id\"")),
        (
            "selector twice",
            get("").replace(
                "</w:SelectorSet>",
                "<w:Selector Name=\"instanceid\">x</w:Selector></w:SelectorSet>",
            ),
        ),
        ("no name", plain.replace(" Name=\"InstanceID\"", "")),
        ("no such instance", plain.replace(VMS[0], "x")),
        ("unknown transfer", plain.replace("transfer/Get", "transfer/Steal")),
        (
            "unknown enumeration",
            plain
                .replace("transfer/Get", "/Steal")
                .replace("ws/2004/09//Steal", "ws/2004/09/enumeration/Steal"),
        ),
        ("action of nowhere", plain.replace(GET, "urn:nothing")),
        ("wrong body", enumerate("").replace("n:Enumerate>", "n:Pull>").replace("<n:Enumerate", "<n:Pull")),
        ("unfiltered star", enumerate("")),
        ("unknown mode", enumerate("<w:EnumerationMode>All</w:EnumerationMode>")),
        (
            "no elements",
            enumerate("<w:OptimizeEnumeration/><w:MaxElements>0</w:MaxElements>")
                .replace("/*<", "/Msvm_ComputerSystem<"),
        ),
        (
            "selected enumeration",
            enumerate("")
                .replace("/*<", "/Msvm_ComputerSystem<")
                .replace("</s:Header>", &format!("{keys}</s:Header>")),
        ),
        ("bad query", wql("SELECT * FORM X")),
        ("query for events", wql("SELECT * FROM __InstanceCreationEvent WITHIN 1")),
        ("query for an unknown class", wql("SELECT * FROM Msvm_Foo")),
        ("query for an unknown property", wql("SELECT * FROM Msvm_ComputerSystem WHERE Foo = 1")),
        ("query for classes", wql("ASSOCIATORS OF {Msvm_ComputerSystem} WHERE ClassDefsOnly")),
        ("no context", request(PULL, &service, "", "<n:Pull/>")),
        ("unknown method", invoke("Foo", "")),
        ("unknown parameter", invoke("StartReplication", "<p:Foo>1</p:Foo>")),
        ("out parameter", invoke("StartReplication", "<p:Job>1</p:Job>")),
        (
            "wrong type",
            invoke("StartReplication", "<p:InitialReplicationType>70000</p:InitialReplicationType>"),
        ),
        ("wrong date", invoke("StartReplication", "<p:StartTime>tomorrow</p:StartTime>")),
        (
            "element in a number",
            invoke("StartReplication", "<p:InitialReplicationType><p:a/></p:InitialReplicationType>"),
        ),
        ("no reference", invoke("CommitFailover", "<p:ComputerSystem>//</p:ComputerSystem>")),
        (
            "reference without class",
            invoke("CommitFailover", "<p:ComputerSystem><a:EndpointReference/></p:ComputerSystem>"),
        ),
        (
            "reference with an unknown key",
            invoke("CommitFailover", "<p:ComputerSystem>Msvm_ComputerSystem.Foo=1</p:ComputerSystem>"),
        ),
        ("put of something else", request(PUT, &relationship, &keys, "<p:Msvm_ComputerSystem/>")),
        ("put of nothing", request(PUT, &relationship, &keys, "")),
        (
            "put of an unknown property",
            request(
                PUT,
                &relationship,
                &keys,
                "<p:Msvm_ReplicationRelationship><p:Foo/></p:Msvm_ReplicationRelationship>",
            ),
        ),
        (
            "put of a wrong type",
            request(
                PUT,
                &relationship,
                &keys,
                "<p:Msvm_ReplicationRelationship><p:ReplicationState>x</p:ReplicationState></p:Msvm_ReplicationRelationship>",
            ),
        ),
        (
            "put of a fragment",
            request(
                PUT,
                &relationship,
                &format!("{keys}<w:FragmentTransfer>ReplicationState</w:FragmentTransfer>"),
                "",
            ),
        ),
        ("create without keys", request(CREATE, &relationship, "", "<p:Msvm_ReplicationRelationship/>")),
    ];
    let server = server();
    let mut answers = String::new();
    for (what, request) in requests {
        let (status, xml) = post(&server, request).await;
        roxmltree::Document::parse(&xml).unwrap();
        let code = xml
            .split("WSManFault")
            .nth(1)
            .and_then(|it| it.split("Code=\"").nth(1))
            .and_then(|it| it.split('"').next());
        let cim = field(&xml, "p:CIMStatusCode").map(|it| format!(", CIM {it}")).unwrap_or_default();
        let reason = xml.split("xml:lang=\"en-US\">").nth(1).and_then(|it| it.split("</s:Text>").next());
        let (code, reason) = (code.unwrap_or("-"), reason.unwrap_or("-"));
        _ = writeln!(answers, "{what}: {}, {code}{cim}\n    {reason}", outcome(status, &xml));
    }
    expect_file!["refusals.txt"].assert_eq(&answers);
}
