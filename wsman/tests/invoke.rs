//! Methods: the forms in which clients give arguments, and what comes back.

mod common;

use common::*;
use expect_test::expect;

fn service() -> String {
    format!("{WMI}/Msvm_ReplicationService")
}

fn endpoint(family: &str) -> String {
    let uri = format!("{family}/Msvm_ComputerSystem");
    let keys = selectors(&[
        ("__cimnamespace", NAMESPACE),
        ("CreationClassName", "Msvm_ComputerSystem"),
        ("Name", VMS[0]),
        ("ElementName", "not a key"),
    ]);
    format!(
        "<a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>{uri}</w:ResourceURI>{keys}</a:ReferenceParameters>"
    )
}

const SETTINGS: &str = "&lt;INSTANCE CLASSNAME=\"Msvm_ReplicationSettingData\"&gt;&lt;/INSTANCE&gt;";

async fn create(system: &str, settings: &str) -> String {
    let uri = service();
    let body = format!(
        "<c:CreateReplicationRelationship_INPUT xmlns:c=\"{uri}\"><c:ComputerSystem>{system}</c:ComputerSystem>{settings}</c:CreateReplicationRelationship_INPUT>"
    );
    let keys = selectors(&[("CreationClassName", "Msvm_ReplicationService")]);
    let request = request(&format!("{uri}/CreateReplicationRelationship"), &uri, &keys, &body);
    post(&server(), request).await.1
}

#[tokio::test]
async fn a_job_comes_back_as_a_reference() {
    let settings = format!("<c:ReplicationSettingData>{SETTINGS}</c:ReplicationSettingData>");
    let xml = create(&endpoint(WMI), &settings).await;
    expect![[r#"<p:CreateReplicationRelationship_OUTPUT xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ReplicationService"><p:Job><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ConcreteJob</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector><w:Selector Name="InstanceID">6E1B3E5A-JOB</w:Selector></w:SelectorSet></a:ReferenceParameters></p:Job><p:ReturnValue>4096</p:ReturnValue></p:CreateReplicationRelationship_OUTPUT>"#]].assert_eq(body_of(&xml));
    assert_eq!(
        field(&xml, "a:Action"),
        Some(&*format!("{}/CreateReplicationRelationshipResponse", service()))
    );
}

#[tokio::test]
async fn references_come_in_every_form() {
    let path = |quote: &str| {
        format!(
            "\\\\HOST\\root\\virtualization\\v2:Msvm_ComputerSystem.CreationClassName={quote}Msvm_ComputerSystem{quote},Name={quote}{}{quote}",
            VMS[0]
        )
    };
    let keys =
        format!("<q:CreationClassName>Msvm_ComputerSystem</q:CreationClassName><q:Name>{}</q:Name>", VMS[0]);
    let forms = [
        endpoint(WMI),
        endpoint(DMTF),
        format!("<a:EndpointReference>{}</a:EndpointReference>", endpoint(WMI)),
        endpoint(WMI).replace("ReferenceParameters", "ReferenceProperties"),
        path("\""),
        path("&quot;"),
    ];
    let settings = format!("<c:ReplicationSettingData>{SETTINGS}</c:ReplicationSettingData>");
    for form in forms {
        let xml = create(&form, &settings).await;
        assert_eq!(field(&xml, "p:ReturnValue"), Some("4096"), "{form}: {xml}");
    }
    // An instance with its keys, as clients without the class's declaration write it.
    let uri = service();
    let body = format!(
        "<c:CreateReplicationRelationship_INPUT xmlns:c=\"{uri}\" xmlns:q=\"{WMI}/Msvm_ComputerSystem\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema\"><c:ComputerSystem xsi:type=\"p1:Msvm_ComputerSystem_Type\">{keys}</c:ComputerSystem><ReplicationSettingData>{SETTINGS}</ReplicationSettingData></c:CreateReplicationRelationship_INPUT>"
    );
    let sent = request(&format!("{uri}/createreplicationrelationship"), &uri, "", &body);
    let (_, xml) = post(&server(), sent).await;
    assert_eq!(field(&xml, "p:ReturnValue"), Some("4096"), "{xml}");
    let twice = create(&format!("{0}</c:ComputerSystem><c:ComputerSystem>{0}", path("'")), &settings).await;
    assert!(twice.contains("given twice"), "{twice}");
}

#[tokio::test]
async fn embedded_instances_come_as_text_or_inline() {
    let forms = [
        format!("<c:ReplicationSettingData>{SETTINGS}</c:ReplicationSettingData>"),
        "<c:ReplicationSettingData><![CDATA[<?xml version=\"1.0\"?><INSTANCE CLASSNAME=\"msvm_replicationsettingdata\"><PROPERTY NAME=\"RecoveryHistory\" TYPE=\"uint32\"><VALUE>24</VALUE></PROPERTY></INSTANCE>]]></c:ReplicationSettingData>".to_owned(),
        "<c:ReplicationSettingData type=\"q:Msvm_ReplicationSettingData_Type\"><c:RecoveryHistory>24</c:RecoveryHistory><c:IncludedDisks>a</c:IncludedDisks><c:IncludedDisks>b</c:IncludedDisks></c:ReplicationSettingData>".to_owned(),
        "<c:ReplicationSettingData><Msvm_ReplicationSettingData><RecoveryHistory>24</RecoveryHistory></Msvm_ReplicationSettingData></c:ReplicationSettingData>".to_owned(),
        "instance of Msvm_ReplicationSettingData { RecoveryHistory = 24; };".to_owned(),
    ];
    for (index, form) in forms.iter().enumerate() {
        let form = if index == 4 {
            format!("<c:ReplicationSettingData>{form}</c:ReplicationSettingData>")
        } else {
            form.clone()
        };
        let xml = create(&endpoint(WMI), &form).await;
        assert_eq!(field(&xml, "p:ReturnValue"), Some("4096"), "{form}: {xml}");
    }
    let xml = create(&endpoint(WMI), "<c:ReplicationSettingData>garbage</c:ReplicationSettingData>").await;
    assert_eq!(field(&xml, "p:ReturnValue"), Some("32773"), "a method's refusal is no fault");
}

#[tokio::test]
async fn embedded_instances_go_out_as_text() {
    let uri = service();
    let (_, xml) = post(&server(), request(&format!("{uri}/GetReplicationStatisticsEx"), &uri, "", "")).await;
    let text = field(&xml, "p:ReplicationStatistics").unwrap();
    assert!(
        text.starts_with(
            "&lt;INSTANCE CLASSNAME=&quot;Msvm_ReplicationStatistics&quot;&gt;&lt;PROPERTY NAME="
        )
    );
    assert_eq!(xml.matches("<p:ReplicationStatistics>").count(), 2);
    assert!(!xml.contains("ReplicationHealthIssues"), "{xml}");
    assert!(xml.contains(
        "</p:ReplicationStatistics><p:ReturnValue>0</p:ReturnValue></p:GetReplicationStatisticsEx_OUTPUT>"
    ));
}

#[tokio::test]
async fn values_are_read_by_their_types() {
    let uri = service();
    let times = [
        "20261120100000.000000+000",
        "2026-11-20T11:00:00+01:00",
        "<CIM_DateTime>20261120100000.000000+000</CIM_DateTime>",
        "<z:Datetime xmlns:z=\"http://schemas.dmtf.org/wbem/wscim/1/common\">2026-11-20T10:00:00Z</z:Datetime>",
    ];
    for time in times {
        // virt-who puts the input into the namespace of WS-Management.
        let body = format!(
            "<w:StartReplication_INPUT xmlns:q=\"{uri}\"><q:ComputerSystem nil=\"true\"/><q:InitialReplicationType> 1 </q:InitialReplicationType><q:StartTime>{time}</q:StartTime></w:StartReplication_INPUT>"
        );
        let (_, xml) = post(&server(), request(&format!("{uri}/StartReplication"), &uri, "", &body)).await;
        assert_eq!(field(&xml, "p:ReturnValue"), Some("0"), "{time}: {xml}");
    }
}
