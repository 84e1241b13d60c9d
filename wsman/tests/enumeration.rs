//! Enumerate, Pull, Release: modes, filters, sizes, lifetimes.

mod common;

use cim::memory::Memory;
use cim::{Caller, Instance, Schema, mof};
use common::*;
use expect_test::expect;
use std::sync::Arc;
use std::time::Duration;
use wsman::{Limits, Server};

const OPTIMIZED: &str = "<w:OptimizeEnumeration/><w:MaxElements>100</w:MaxElements>";
const WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";

fn enumerate(class: &str, content: &str) -> String {
    request(ENUMERATE, &format!("{WMI}/{class}"), "", &format!("<n:Enumerate>{content}</n:Enumerate>"))
}

fn pull(context: &str, content: &str, header: &str) -> String {
    let body = format!("<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>{content}</n:Pull>");
    request(PULL, &format!("{WMI}/*"), header, &body)
}

fn context(xml: &str) -> &str {
    field(xml, "n:EnumerationContext").unwrap_or_else(|| panic!("no context in {xml}"))
}

fn wql(query: &str) -> String {
    enumerate("*", &format!("{OPTIMIZED}<w:Filter Dialect=\"{WQL}\">{query}</w:Filter>"))
}

/// The names of the items' elements, and how many there are.
fn items(xml: &str) -> Vec<String> {
    let tags = xml.split('<').filter(|tag| tag.contains("_Type\""));
    tags.map(|tag| tag.split(' ').next().unwrap().trim_start_matches("p:").to_owned()).collect()
}

#[tokio::test]
async fn a_pull_without_a_number_brings_one_item() {
    let server = server();
    let (_, xml) = post(&server, enumerate("Msvm_ReplicationRelationship", "")).await;
    expect![[
        r#"<n:EnumerateResponse><n:EnumerationContext>uuid:ID</n:EnumerationContext></n:EnumerateResponse>"#
    ]]
    .assert_eq(&without_ids(body_of(&xml)));
    let context = context(&xml).to_owned();
    for last in [false, false, true] {
        let (_, xml) = post(&server, pull(&context, "", "")).await;
        assert_eq!(items(&xml), ["Msvm_ReplicationRelationship"]);
        assert_eq!(xml.contains("<n:EndOfSequence/>"), last);
        assert_eq!(xml.contains(&context), !last, "{xml}");
        assert!(body_of(&xml).starts_with("<n:PullResponse>") && xml.contains("<n:Items><p:"));
    }
    assert_eq!(server.open_contexts(), 0);
    let (status, xml) = post(&server, pull(&context, "", "")).await;
    assert_eq!(outcome(status, &xml), "500 n:InvalidEnumerationContext");
}

#[tokio::test]
async fn an_optimized_enumeration_answers_at_once() {
    let server = server();
    let class = "Msvm_SystemReplicationRelationship";
    let mode = |mode: &str| format!("{OPTIMIZED}<w:EnumerationMode>{mode}</w:EnumerationMode>");
    let (_, xml) = post(&server, enumerate(class, &mode("EnumerateObjectAndEPR"))).await;
    let body = body_of(&xml);
    let one = body.find("</w:Item>").unwrap() + "</w:Item>".len();
    expect![[r#"<n:EnumerateResponse><n:EnumerationContext/><w:Items><w:Item><p:Msvm_SystemReplicationRelationship xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_SystemReplicationRelationship" xsi:type="p:Msvm_SystemReplicationRelationship_Type"><p:Antecedent><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector><w:Selector Name="Name">0B1F1C9E-0000-4000-8000-000000000001</w:Selector><w:Selector Name="CreationClassName">Msvm_ComputerSystem</w:Selector></w:SelectorSet></a:ReferenceParameters></p:Antecedent><p:Dependent><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ReplicationRelationship</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector><w:Selector Name="InstanceID">Microsoft:0B1F1C9E-0000-4000-8000-000000000001\HVR\0</w:Selector></w:SelectorSet></a:ReferenceParameters></p:Dependent></p:Msvm_SystemReplicationRelationship><a:EndpointReference><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_SystemReplicationRelationship</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector><w:Selector Name="Antecedent"><a:EndpointReference><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector><w:Selector Name="Name">0B1F1C9E-0000-4000-8000-000000000001</w:Selector><w:Selector Name="CreationClassName">Msvm_ComputerSystem</w:Selector></w:SelectorSet></a:ReferenceParameters></a:EndpointReference></w:Selector><w:Selector Name="Dependent"><a:EndpointReference><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ReplicationRelationship</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector><w:Selector Name="InstanceID">Microsoft:0B1F1C9E-0000-4000-8000-000000000001\HVR\0</w:Selector></w:SelectorSet></a:ReferenceParameters></a:EndpointReference></w:Selector></w:SelectorSet></a:ReferenceParameters></a:EndpointReference></w:Item>"#]].assert_eq(&body[..one]);
    assert!(body.ends_with("</w:Item></w:Items><w:EndOfSequence/></n:EnumerateResponse>"), "{body}");
    let (_, xml) = post(&server, enumerate("Msvm_ReplicationRelationship", &mode("EnumerateEPR"))).await;
    assert!(xml.contains("<w:Items><a:EndpointReference><a:Address>"), "{xml}");
    assert!(items(&xml).is_empty());
    let (_, xml) = post(&server, enumerate("Msvm_ReplicationRelationship", "<w:OptimizeEnumeration/>")).await;
    assert_eq!(items(&xml).len(), 1, "MaxElements is one where it is not given");
    let (_, xml) = post(&server, pull(context(&xml), "<w:MaxElements>50</w:MaxElements>", "")).await;
    assert_eq!(items(&xml).len(), 2, "either namespace");
    let (_, xml) = post(&server, wql("SELECT * FROM Msvm_ConcreteJob")).await;
    expect![[r#"<n:EnumerateResponse><n:EnumerationContext/><w:Items></w:Items><w:EndOfSequence/></n:EnumerateResponse>"#]]
        .assert_eq(body_of(&xml));
}

#[tokio::test]
async fn subclasses_come_as_the_client_wants_them() {
    let server = server();
    let ask = async |class: &str, mode: &str| {
        let mode = format!("{OPTIMIZED}<b:PolymorphismMode>{mode}</b:PolymorphismMode>");
        post(&server, enumerate(class, &mode)).await.1
    };
    let whole = ask("CIM_ComputerSystem", "IncludeSubClassProperties").await;
    assert_eq!(items(&whole), ["Msvm_ComputerSystem"; 4]);
    assert!(whole.contains("<p:ReplicationState "));
    let cut = ask("CIM_ComputerSystem", "ExcludeSubClassProperties").await;
    assert_eq!(items(&cut), ["CIM_ComputerSystem"; 4]);
    assert!(cut.contains("<p:ElementName>") && !cut.contains("<p:ReplicationState"), "{cut}");
    assert!(items(&ask("CIM_ComputerSystem", "None").await).is_empty());
    assert_eq!(items(&ask("Msvm_ComputerSystem", "None").await).len(), 4);
    let wrong = ask("CIM_ComputerSystem", "Some").await;
    assert!(wrong.contains("w:UnsupportedFeature"));
}

#[tokio::test]
async fn filters_select() {
    let server = server();
    let vm = VMS[1];
    let found = async |request: String| {
        let (status, xml) = post(&server, request).await;
        assert_eq!(status, 200, "{xml}");
        items(&xml)
    };
    let systems = wql(&format!(
        "SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER AND Name = '{}'",
        vm.to_lowercase()
    ));
    assert_eq!(found(systems).await, ["Msvm_ComputerSystem"]);
    let origin = format!("{{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm}'}}");
    let related = wql(&format!("ASSOCIATORS OF {origin} WHERE ResultClass = Msvm_ReplicationRelationship"));
    assert_eq!(found(related).await, ["Msvm_ReplicationRelationship"]);
    let references = wql(&format!("REFERENCES OF {origin}"));
    assert_eq!(found(references).await, ["Msvm_SystemReplicationRelationship"]);
    let dialect = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter";
    let filter = format!(
        "{OPTIMIZED}<w:Filter Dialect=\"{dialect}\">{}</w:Filter>",
        selectors(&[("name", &vm.to_lowercase()), ("EnabledState", "2")])
    );
    assert_eq!(found(enumerate("Msvm_ComputerSystem", &filter)).await, ["Msvm_ComputerSystem"]);
    let none = filter.replace(">2<", ">3<");
    assert!(found(enumerate("Msvm_ComputerSystem", &none)).await.is_empty());
    let columns = post(&server, wql("SELECT ElementName FROM Msvm_ReplicationRelationship")).await.1;
    assert!(!columns.contains("<p:InstanceID>") && !columns.contains("xsi:nil"), "{columns}");
}

#[tokio::test]
async fn association_filters_go_to_the_other_end_or_to_the_association() {
    let server = server();
    let keys = selectors(&[("CreationClassName", "Msvm_ComputerSystem"), ("Name", VMS[2])]);
    let object = format!(
        "<b:Object><a:Address>x</a:Address><a:ReferenceParameters><w:ResourceURI>{DMTF}/Msvm_ComputerSystem</w:ResourceURI>{keys}</a:ReferenceParameters></b:Object>"
    );
    let ask = async |kind: &str, more: &str| {
        let dialect = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter";
        let body = format!(
            "<n:Enumerate>{OPTIMIZED}<w:Filter Dialect=\"{dialect}\"><b:{kind}>{object}{more}</b:{kind}></w:Filter></n:Enumerate>"
        );
        let namespace = selectors(&[("__cimnamespace", NAMESPACE)]);
        post(&server, request(ENUMERATE, "http://schemas.dmtf.org/wbem/wscim/1/*", &namespace, &body)).await.1
    };
    let all = ask("AssociatedInstances", "").await;
    assert_eq!(items(&all), ["Msvm_ReplicationRelationship"]);
    assert!(all.contains(&format!("xmlns:p=\"{DMTF}/Msvm_ReplicationRelationship\"")), "{all}");
    let refined = "<b:AssociationClassName>CIM_Dependency</b:AssociationClassName><b:Role>Antecedent</b:Role><b:ResultClassName>CIM_ManagedElement</b:ResultClassName><b:ResultRole>Dependent</b:ResultRole>";
    assert_eq!(items(&ask("AssociatedInstances", refined).await).len(), 1);
    let other =
        refined.replace(">Antecedent<", ">Dependent<").replace("<b:ResultRole>Dependent</b:ResultRole>", "");
    assert!(items(&ask("AssociatedInstances", &other).await).is_empty());
    let only =
        ask("AssociatedInstances", "<b:IncludeResultProperty>ElementName</b:IncludeResultProperty>").await;
    assert!(only.contains("<p:ElementName>") && !only.contains("<p:InstanceID"), "{only}");
    let references =
        ask("AssociationInstances", "<b:ResultClassName>CIM_Dependency</b:ResultClassName>").await;
    assert_eq!(items(&references), ["Msvm_SystemReplicationRelationship"]);
}

/// As many instances as wanted, each with a text of so many bytes.
fn many(count: usize, bytes: usize) -> Memory {
    let mof =
        "Qualifier Key : boolean = false, Scope(property); class X_Item { [Key] uint32 Id; string Text; };";
    let memory = Memory::new(vec![Schema::new(NAMESPACE, &mof::parse(mof).unwrap()).unwrap()]);
    for id in 0..count {
        let item = Instance::new("X_Item").with("Id", id as u32).with("Text", "x".repeat(bytes));
        memory.insert(&NAMESPACE.into(), &item).unwrap();
    }
    memory
}

#[tokio::test]
async fn a_thousand_instances_flow_in_envelopes_that_stay_small() {
    let server = server_over(Arc::new(many(1000, 3000)), Limits::default());
    let small = "<w:MaxEnvelopeSize s:mustUnderstand=\"true\">102400</w:MaxEnvelopeSize>";
    for (header, bytes_max, requests_min) in [("", 512_000, 6), (small, 102_400, 30)] {
        let all = "<w:MaxElements>32000</w:MaxElements>";
        let body = format!("<n:Enumerate><w:OptimizeEnumeration/>{all}</n:Enumerate>");
        let (_, mut xml) = post(&server, request(ENUMERATE, &format!("{WMI}/X_Item"), header, &body)).await;
        let (mut count, mut requests) = (items(&xml).len(), 1);
        while !xml.contains("EndOfSequence") {
            xml = post(&server, pull(context(&xml), all, header)).await.1;
            assert!(xml.len() <= bytes_max, "{}", xml.len());
            assert!(xml.len() > bytes_max - 8000 || xml.contains("EndOfSequence"), "{}", xml.len());
            count += items(&xml).len();
            requests += 1;
        }
        assert_eq!(count, 1000);
        assert!(requests >= requests_min);
    }
}

#[tokio::test]
async fn an_item_that_does_not_fit_waits_for_more_room() {
    let server = server_over(Arc::new(many(2, 20_000)), Limits::default());
    let (_, xml) = post(&server, enumerate("X_Item", "")).await;
    let context = context(&xml).to_owned();
    let small = "<w:MaxEnvelopeSize>8192</w:MaxEnvelopeSize>";
    let (status, xml) = post(&server, pull(&context, "", small)).await;
    assert_eq!(outcome(status, &xml), "500 w:EncodingLimit MaxEnvelopeSizeExceeded");
    let (_, xml) = post(&server, pull(&context, "<n:MaxElements>9</n:MaxElements>", "")).await;
    assert_eq!(items(&xml).len(), 2);
    let get = request(GET, &format!("{WMI}/X_Item"), &format!("{small}{}", selectors(&[("Id", "1")])), "");
    let (status, xml) = post(&server, get).await;
    assert_eq!(outcome(status, &xml), "500 w:EncodingLimit MaxEnvelopeSizeExceeded");
}

#[tokio::test]
async fn the_number_of_items_is_told_on_request() {
    let server = server();
    let body = "<n:Enumerate/>";
    let asked = "<w:RequestTotalItemsCountEstimate s:mustUnderstand=\"true\"/>";
    let uri = format!("{WMI}/Msvm_ReplicationRelationship");
    let (_, xml) = post(&server, request(ENUMERATE, &uri, asked, body)).await;
    assert_eq!(field(&xml, "w:TotalItemsCountEstimate"), Some("3"));
    let (_, xml) = post(&server, pull(context(&xml), "<n:MaxElements>9</n:MaxElements>", "")).await;
    assert_eq!(items(&xml).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_context_lives_for_so_long_after_each_pull() {
    let server = server();
    let (_, xml) = post(&server, enumerate("Msvm_ComputerSystem", "")).await;
    let context = context(&xml).to_owned();
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(239)).await;
        let (status, xml) = post(&server, pull(&context, "", "")).await;
        assert_eq!(outcome(status, &xml), "200 PullResponse");
    }
    tokio::time::advance(Duration::from_secs(241)).await;
    assert_eq!(server.open_contexts(), 0);
    let (status, xml) = post(&server, pull(&context, "", "")).await;
    assert_eq!(outcome(status, &xml), "500 n:InvalidEnumerationContext");
}

async fn post_as(server: &Server, user: &str, body: String) -> String {
    let caller = Caller { user: user.into(), ..caller() };
    let request = http::Request::post("/wsman").body(body.into()).unwrap();
    let (status, xml) = text(server.handle(request, &caller).await).await;
    format!("{} {}", outcome(status, &xml), field(&xml, "n:EnumerationContext").unwrap_or_default())
}

#[tokio::test]
async fn contexts_are_their_users_and_bounded() {
    let limits = Limits { contexts_max: 5, contexts_per_user_max: 3, ..Limits::default() };
    let server = server_over(Arc::new(memory()), limits);
    let open = || enumerate("Msvm_ComputerSystem", "");
    let mut ids = vec![];
    for _ in 0..3 {
        let answer = post_as(&server, "a", open()).await;
        ids.push(answer.rsplit_once(' ').unwrap().1.to_owned());
    }
    assert_eq!(post_as(&server, "a", open()).await, "500 w:QuotaLimit ");
    assert!(post_as(&server, "b", open()).await.starts_with("200 "));
    assert!(post_as(&server, "c", open()).await.starts_with("200 "));
    assert_eq!(post_as(&server, "d", open()).await, "500 w:QuotaLimit ");
    assert_eq!(post_as(&server, "b", pull(&ids[0], "", "")).await, "500 n:InvalidEnumerationContext ");
    let release = |id: &str| {
        let body = format!("<n:Release><n:EnumerationContext>{id}</n:EnumerationContext></n:Release>");
        request(RELEASE, &format!("{WMI}/Msvm_ComputerSystem"), "", &body)
    };
    assert_eq!(post_as(&server, "b", release(&ids[0])).await, "500 n:InvalidEnumerationContext ");
    assert_eq!(post_as(&server, "a", release(&ids[0])).await, "200 ReleaseResponse ");
    assert!(post_as(&server, "a", open()).await.starts_with("200 "));
    assert_eq!(server.open_contexts(), 5);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_enumerations_are_bounded_and_answered() {
    let limits = Limits::default();
    let server = server_over(Arc::new(memory()), limits);
    let mut opened = 0;
    for number in 0..10_000 {
        let answer = post_as(&server, &format!("user {}", number % 4), enumerate("CIM_Service", "")).await;
        match answer.starts_with("200 ") {
            true => opened += 1,
            false => assert_eq!(answer, "500 w:QuotaLimit "),
        }
    }
    assert_eq!((opened, server.open_contexts()), (limits.contexts_max, limits.contexts_max));
    // Whoever comes meanwhile is served all the same, as long as nothing has to be kept for it.
    let optimized = enumerate("Msvm_ComputerSystem", OPTIMIZED);
    assert!(post_as(&server, "other", optimized).await.starts_with("200 "));
    tokio::time::advance(Duration::from_millis(limits.enumeration_ms)).await;
    assert_eq!(server.open_contexts(), 0);
    assert!(post_as(&server, "other", enumerate("CIM_Service", "")).await.starts_with("200 "));
}
