//! Get, Put, Create, Delete, and what is got that is no instance.

mod common;

use common::*;
use expect_test::expect;
use http::Request;

fn relationship_id() -> String {
    format!("Microsoft:{}\\HVR\\0", VMS[0])
}

fn get_relationship(uri: &str, more: &[(&str, &str)], header: &str) -> String {
    let id = relationship_id();
    let keys = [&[("InstanceID", id.as_str())], more].concat();
    request(GET, uri, &format!("{}{header}", selectors(&keys)), "")
}

#[tokio::test]
async fn get_answers_in_the_familys_namespace_with_every_property() {
    let server = server();
    let wmi = format!("{WMI}/Msvm_ReplicationRelationship");
    let activity = r#"<p:OperationID s:mustUnderstand="false">uuid:op</p:OperationID>"#;
    let (status, xml) = post(&server, get_relationship(&wmi, &[], activity)).await;
    assert_eq!(status, 200);
    expect![[r#"<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration" xmlns:e="http://schemas.xmlsoap.org/ws/2004/08/eventing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd" xmlns:b="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">"#]]
    .assert_eq(&xml[..xml.find("<s:Header>").unwrap()]);
    expect![[r#"<s:Header><a:Action>http://schemas.xmlsoap.org/ws/2004/09/transfer/GetResponse</a:Action><a:MessageID>uuid:ID</a:MessageID><p:OperationID s:mustUnderstand="false">uuid:op</p:OperationID><a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To><a:RelatesTo>uuid:0c0ffee0-Ab</a:RelatesTo></s:Header><s:Body><p:Msvm_ReplicationRelationship xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ReplicationRelationship" xsi:type="p:Msvm_ReplicationRelationship_Type"><p:InstanceID>Microsoft:0B1F1C9E-0000-4000-8000-000000000001\HVR\0</p:InstanceID><p:Caption xsi:nil="true"/><p:Description xsi:nil="true"/><p:ElementName>relationship of 0B1F1C9E-0000-4000-8000-000000000001</p:ElementName><p:InstallDate xsi:nil="true"/><p:Name xsi:nil="true"/><p:OperationalStatus xsi:nil="true"/><p:StatusDescriptions xsi:nil="true"/><p:Status xsi:nil="true"/><p:HealthState xsi:nil="true"/><p:CommunicationStatus xsi:nil="true"/><p:DetailedStatus xsi:nil="true"/><p:OperatingStatus xsi:nil="true"/><p:PrimaryStatus xsi:nil="true"/><p:ReplicationState>4</p:ReplicationState><p:ReplicationHealth>1</p:ReplicationHealth><p:FailedOverReplicationType xsi:nil="true"/><p:LastReplicationType xsi:nil="true"/><p:LastApplicationConsistentReplicationTime xsi:nil="true"/><p:LastReplicationTime xsi:nil="true"/><p:LastApplyTime xsi:nil="true"/></p:Msvm_ReplicationRelationship></s:Body></s:Envelope>"#]].assert_eq(&without_ids(&xml[xml.find("<s:Header>").unwrap()..]));
    let spellings = [
        (format!("{DMTF}/msvm_replicationrelationship"), "ROOT\\Virtualization\\v2", DMTF),
        (DMTF.replace("dmtf.org", "microsoft.com") + "/Msvm_ReplicationRelationship", NAMESPACE, ""),
        (format!("\n\t{} ", wmi.to_uppercase().replace("HTTP", "Http")), NAMESPACE, WMI),
    ];
    for (uri, namespace, answered) in spellings {
        let (status, xml) = post(&server, get_relationship(&uri, &[("__cimnamespace", namespace)], "")).await;
        assert_eq!(status, 200, "{xml}");
        let body = format!("xmlns:p=\"{answered}/Msvm_ReplicationRelationship\"");
        assert!(answered.is_empty() || xml.contains(&body), "{xml}");
    }
}

#[tokio::test]
async fn values_are_written_as_their_types_ask() {
    let server = server();
    let keys = selectors(&[("Name", VMS[0]), ("CreationClassName", "Msvm_ComputerSystem")]);
    let uri = format!("{WMI}/Msvm_ComputerSystem");
    let precise = r#"<w:OptionSet><w:Option Name="msftwinrm:UsePreciseArrays" Type="xs:boolean">true</w:Option></w:OptionSet>"#;
    let (_, xml) = post(&server, request(GET, &uri, &keys, "")).await;
    for part in [
        "<p:ElementName>vm0 &lt;&amp;&gt; ü</p:ElementName>",
        "<p:OperationalStatus>2</p:OperationalStatus><p:OperationalStatus>32768</p:OperationalStatus>",
        "<p:StatusDescriptions xsi:nil=\"true\"/>",
        "<p:InstallDate><cim:Datetime>2026-11-20T10:00:00Z</cim:Datetime></p:InstallDate>",
        "<p:Caption xsi:nil=\"true\"/>",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    let (_, xml) = post(&server, request(GET, &uri, &format!("{keys}{precise}"), "")).await;
    let null = "<p:StatusDescriptions xmlns:msftwinrm=\"http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd\" msftwinrm:IsNullArray=\"true\" xsi:nil=\"true\"/>";
    assert!(xml.contains(null), "{xml}");
}

#[tokio::test]
async fn a_fragment_is_one_property() {
    let server = server();
    let uri = format!("{WMI}/Msvm_ReplicationRelationship");
    let fragment =
        |text: &str| format!("<w:FragmentTransfer s:mustUnderstand=\"true\">{text}</w:FragmentTransfer>");
    let (_, xml) = post(&server, get_relationship(&uri, &[], &fragment("replicationstate"))).await;
    expect![[r#"<w:XmlFragment xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ReplicationRelationship"><p:ReplicationState>4</p:ReplicationState></w:XmlFragment>"#]]
    .assert_eq(body_of(&xml));
    assert!(xml.contains(&fragment("replicationstate")));
    let (status, xml) = post(&server, get_relationship(&uri, &[], &fragment("//p:ReplicationState"))).await;
    assert_eq!(outcome(status, &xml), "500 w:UnsupportedFeature FragmentLevelAccess");
}

#[tokio::test]
async fn selectors_may_be_more_or_fewer_than_the_keys_and_hold_references() {
    let server = server();
    let got = async |class: &str, selectors: String| {
        let (status, xml) = post(&server, request(GET, &format!("{WMI}/{class}"), &selectors, "")).await;
        outcome(status, &xml)
    };
    let id = relationship_id();
    let all = selectors(&[("InstanceID", &id), ("ReplicationState", "4"), ("Caption", "")]);
    assert_eq!(got("Msvm_ReplicationRelationship", all).await, "200 GetResponse");
    assert_eq!(got("Msvm_ReplicationService", String::new()).await, "200 GetResponse");
    let one = selectors(&[("CreationClassName", "msvm_replicationservice")]);
    assert_eq!(got("Msvm_ReplicationService", one).await, "200 GetResponse");
    assert_eq!(got("CIM_Service", selectors(&[("SystemName", "HOST")])).await, "200 GetResponse");
    let endpoint = |class: &str, keys: &[(&str, &str)]| {
        format!(
            "<a:EndpointReference><a:Address>x</a:Address><a:ReferenceParameters><w:ResourceURI>{WMI}/{class}</w:ResourceURI>{}</a:ReferenceParameters></a:EndpointReference>",
            selectors(keys)
        )
    };
    let association = selectors(&[
        (
            "Antecedent",
            &endpoint(
                "Msvm_ComputerSystem",
                &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", VMS[0])],
            ),
        ),
        ("Dependent", &endpoint("Msvm_ReplicationRelationship", &[("InstanceID", &id)])),
    ]);
    assert_eq!(got("Msvm_SystemReplicationRelationship", association).await, "200 GetResponse");
}

const FILTER: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/interop/CIM_IndicationFilter";
const FILTER_KEYS: [(&str, &str); 4] = [
    ("SystemCreationClassName", "S"),
    ("SystemName", "N"),
    ("CreationClassName", "CIM_IndicationFilter"),
    ("Name", "f"),
];

fn filter(properties: &[(&str, &str)]) -> String {
    let properties = properties.iter().map(|(name, value)| format!("<c:{name} xsi:type=\"cim:cimString\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema\">{value}</c:{name}>"));
    format!(
        "<c:CIM_IndicationFilter xmlns:c=\"{FILTER}\">{}</c:CIM_IndicationFilter>",
        properties.collect::<String>()
    )
}

#[tokio::test]
async fn an_instance_is_created_changed_and_deleted() {
    let server = server();
    let (status, xml) = post(
        &server,
        request(
            CREATE,
            FILTER,
            "",
            &filter(
                &[
                    &FILTER_KEYS[..],
                    &[("Query", "old"), ("SourceNamespaces", "a"), ("SourceNamespaces", "b")],
                ]
                .concat(),
            ),
        ),
    )
    .await;
    assert_eq!(status, 200, "{xml}");
    expect![[r#"<x:ResourceCreated><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/interop/CIM_IndicationFilter</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">interop</w:Selector><w:Selector Name="SystemCreationClassName">S</w:Selector><w:Selector Name="SystemName">N</w:Selector><w:Selector Name="CreationClassName">CIM_IndicationFilter</w:Selector><w:Selector Name="Name">f</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>"#]].assert_eq(body_of(&xml));
    let (status, xml) = post(&server, request(CREATE, FILTER, "", &filter(&FILTER_KEYS))).await;
    assert_eq!(outcome(status, &xml), "500 w:AlreadyExists");
    let keys = selectors(&FILTER_KEYS);
    let (_, xml) = post(&server, request(PUT, FILTER, &keys, &filter(&[("Query", "new")]))).await;
    assert_eq!(field(&xml, "p:Query"), Some("new"));
    assert_eq!(field(&xml, "p:SourceNamespaces"), Some("a"));
    // As Windows puts: everything, and a list of what is meant.
    let listed = format!(
        "{keys}<w:OptionSet><w:Option Name=\"wmiarray:__MIInstanceModifiedPropertiesList\">Query</w:Option></w:OptionSet>"
    );
    let body = filter(&[("Query", "newer"), ("SourceNamespaces", "c")]);
    let (_, xml) = post(&server, request(PUT, FILTER, &listed, &body)).await;
    assert_eq!((field(&xml, "p:Query"), field(&xml, "p:SourceNamespaces")), (Some("newer"), Some("a")));
    let (status, xml) = post(&server, request(DELETE, FILTER, &keys, "")).await;
    assert_eq!((outcome(status, &xml).as_str(), body_of(&xml)), ("200 DeleteResponse", ""));
    let (status, xml) = post(&server, request(GET, FILTER, &keys, "")).await;
    assert_eq!(outcome(status, &xml), "500 a:DestinationUnreachable InvalidResourceURI");
}

#[tokio::test]
async fn a_class_is_declared_in_cim_xml() {
    let server = server();
    let uri = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*";
    let named =
        selectors(&[("__cimnamespace", NAMESPACE), ("ClassName", "msvm_systemreplicationrelationship")]);
    let options = |options: &[(&str, &str)]| {
        let options =
            options.iter().map(|(name, value)| format!("<w:Option Name=\"wmi:{name}\">{value}</w:Option>"));
        format!("{named}<w:OptionSet>{}</w:OptionSet>", options.collect::<String>())
    };
    let lean = options(&[
        ("IncludeQualifiers", "false"),
        ("IncludeClassOrigin", "false"),
        ("IncludeInheritanceHierarchy", "true"),
    ]);
    let (_, xml) = post(&server, request(GET, uri, &lean, "")).await;
    expect![[r#"<CLASS NAME="Msvm_SystemReplicationRelationship" SUPERCLASS="CIM_Dependency" DERIVATION="CIM_Dependency"><PROPERTY.REFERENCE NAME="Antecedent" REFERENCECLASS="Msvm_ComputerSystem"></PROPERTY.REFERENCE><PROPERTY.REFERENCE NAME="Dependent" REFERENCECLASS="Msvm_ReplicationRelationship"></PROPERTY.REFERENCE></CLASS>"#]].assert_eq(body_of(&xml));
    let (_, xml) = post(&server, request(GET, uri, &named, "")).await;
    assert!(
        xml.contains("<QUALIFIER NAME=\"Association\" TYPE=\"boolean\"") && xml.contains("CLASSORIGIN="),
        "{xml}"
    );
}

#[tokio::test]
async fn identify_needs_no_header_and_answers_in_the_namespace_of_the_question() {
    let server = server();
    for namespace in ["identity", "identify"] {
        let namespace = format!("http://schemas.dmtf.org/wbem/wsman/{namespace}/1/wsmanidentity.xsd");
        let body = format!(
            r#"<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" xmlns:i="{namespace}"><e:Header/><e:Body><i:Identify/></e:Body></e:Envelope>"#
        );
        let (status, xml) = post(&server, body.clone()).await;
        assert_eq!(status, 200);
        assert!(xml.contains(&format!("<wsmid:IdentifyResponse xmlns:wsmid=\"{namespace}\">")), "{xml}");
        assert!(xml.contains("Stack: 3.0"));
        let anonymous = Request::post("/wsman-anon/identify").body(bytes::Bytes::from(body)).unwrap();
        let (parts, body) = anonymous.into_parts();
        assert!(wsman::is_anonymous(&parts) && wsman::serves(parts.uri.path()));
        let (status, again) = text(server.identify(&Request::from_parts(parts, body))).await;
        assert_eq!((status.as_u16(), again), (200, xml));
    }
    let get = request(GET, &format!("{WMI}/Msvm_ReplicationService"), "", "");
    let asked = Request::post("/wsman").header("WSMANIDENTIFY", "unauthenticated").body(get.into()).unwrap();
    let (parts, body) = asked.into_parts();
    assert!(wsman::is_anonymous(&parts));
    let (status, xml) = text(server.identify(&Request::from_parts(parts, body))).await;
    assert_eq!(outcome(status, &xml), "500 w:AccessDenied");
    assert!(!wsman::is_anonymous(&Request::post("/wsman").body(()).unwrap().into_parts().0));
}

#[tokio::test]
async fn the_configuration_tells_the_limits() {
    let (_, xml) =
        post(&server(), request(GET, "http://schemas.microsoft.com/wbem/wsman/1/config", "", "")).await;
    assert_eq!(field(&xml, "cfg:MaxEnvelopeSizekb"), Some("500"));
    assert_eq!(field(&xml, "cfg:MaxBatchItems"), Some("32000"));
}
