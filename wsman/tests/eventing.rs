//! Subscriptions that are pulled.

mod common;

use cim::{Instance, Provider};
use common::*;
use expect_test::expect;
use std::sync::Arc;
use std::time::Duration;
use wsman::{Limits, Server};

const QUERY: &str = "SELECT * FROM __InstanceModificationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ReplicationRelationship' AND TargetInstance.ReplicationState &lt;&gt; PreviousInstance.ReplicationState";

fn subscribe(query: &str, delivery: &str, more: &str) -> String {
    let body = format!(
        "<e:Subscribe><e:Delivery Mode=\"http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull\">{delivery}</e:Delivery>{more}<w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">{query}</w:Filter><w:SendBookmarks/></e:Subscribe>"
    );
    request(SUBSCRIBE, &format!("{WMI}/*"), "", &body)
}

fn pull(context: &str, timeout: &str) -> String {
    let body = format!(
        "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext><n:MaxElements>20</n:MaxElements></n:Pull>"
    );
    request(PULL, &format!("{WMI}/*"), &format!("<w:OperationTimeout>{timeout}</w:OperationTimeout>"), &body)
}

fn manage(action: &str, id: &str, body: &str) -> String {
    let header = format!("<e:Identifier s:mustUnderstand=\"true\">{id}</e:Identifier>");
    let action = format!("http://schemas.xmlsoap.org/ws/2004/08/eventing/{action}");
    request(&action, &format!("{WMI}/*"), &header, body)
}

async fn change(memory: &cim::memory::Memory, vm: &str, state: u16) {
    let path = cim::ObjectPath::class(NAMESPACE, "Msvm_ReplicationRelationship")
        .with("InstanceID", format!("Microsoft:{vm}\\HVR\\0"));
    let instance = Instance::new("Msvm_ReplicationRelationship").with("ReplicationState", state).at(path);
    memory.modify(&caller(), instance, None).await.unwrap();
}

fn with_events() -> (Arc<cim::memory::Memory>, Server) {
    let memory = Arc::new(memory());
    (memory.clone(), server_over(memory, Limits::default()))
}

#[tokio::test(start_paused = true)]
async fn changes_are_pulled_as_they_come() {
    let (memory, server) = with_events();
    let (_, xml) = post(&server, subscribe(QUERY, "", "<e:Expires>PT600S</e:Expires>")).await;
    expect!["<e:SubscribeResponse><e:SubscriptionManager><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/*</w:ResourceURI><e:Identifier>uuid:ID</e:Identifier></a:ReferenceParameters></e:SubscriptionManager><e:Expires>PT10M</e:Expires><n:EnumerationContext>uuid:ID</n:EnumerationContext></e:SubscribeResponse>"].assert_eq(&without_ids(body_of(&xml)));
    let context = field(&xml, "n:EnumerationContext").unwrap().to_owned();
    change(&memory, VMS[0], 8).await;
    change(&memory, VMS[1], 4).await;
    change(&memory, VMS[2], 7).await;
    let (_, xml) = post(&server, pull(&context, "PT20S")).await;
    let events = xml.matches("<p:__InstanceModificationEvent ").count();
    assert_eq!(events, 2, "a change of nothing is no event: {xml}");
    let inline = format!(
        "<p:TargetInstance xmlns:p1=\"{WMI}/Msvm_ReplicationRelationship\" xsi:type=\"p1:Msvm_ReplicationRelationship_Type\"><p1:InstanceID>"
    );
    assert!(xml.contains(&inline) && xml.contains("<p1:ReplicationState>8</p1:ReplicationState>"), "{xml}");
    assert!(xml.contains(&context) && !xml.contains("EndOfSequence"));
    let (status, xml) = post(&server, pull(&context, "PT20S")).await;
    assert_eq!(outcome(status, &xml), "500 w:TimedOut");
    assert!(xml.contains("Code=\"2150858793\"") && xml.contains("s:Receiver"));
    // A pull that waits when the event comes.
    let waiting = post(&server, pull(&context, "PT50S"));
    let changing = async {
        tokio::time::advance(Duration::from_secs(10)).await;
        change(&memory, VMS[0], 4).await;
    };
    let ((_, xml), ()) = tokio::join!(waiting, changing);
    assert!(xml.contains("<p1:ReplicationState>4</p1:ReplicationState>"), "{xml}");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_ends_unless_it_is_renewed() {
    let (_, server) = with_events();
    let (_, xml) = post(&server, subscribe(QUERY, "", "<e:Expires>PT10M</e:Expires>")).await;
    let id = field(&xml, "e:Identifier").unwrap().to_owned();
    tokio::time::advance(Duration::from_secs(540)).await;
    let (_, xml) = post(&server, manage("GetStatus", &id, "<e:GetStatus/>")).await;
    assert_eq!(field(&xml, "e:Expires"), Some("PT1M"));
    let (_, xml) =
        post(&server, manage("Renew", &id, "<e:Renew><e:Expires>PT5M</e:Expires></e:Renew>")).await;
    assert_eq!(field(&xml, "e:Expires"), Some("PT5M"));
    tokio::time::advance(Duration::from_secs(299)).await;
    let (status, xml) = post(&server, pull(&id, "PT0.5S")).await;
    assert_eq!(outcome(status, &xml), "500 w:TimedOut", "pulling does not prolong it");
    tokio::time::advance(Duration::from_secs(2)).await;
    let (status, xml) = post(&server, manage("Renew", &id, "<e:Renew/>")).await;
    assert_eq!(outcome(status, &xml), "500 e:UnableToRenew");
    let (status, xml) = post(&server, pull(&id, "PT1S")).await;
    assert_eq!(outcome(status, &xml), "500 n:InvalidEnumerationContext");
    assert_eq!(server.open_contexts(), 0);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_when_nothing_else_does() {
    let (memory, server) = with_events();
    let (_, xml) = post(&server, subscribe(QUERY, "<w:Heartbeats>PT30S</w:Heartbeats>", "")).await;
    let id = field(&xml, "e:Identifier").unwrap().to_owned();
    let (_, xml) = post(&server, pull(&id, "PT60S")).await;
    expect![[r#"<n:PullResponse><n:EnumerationContext>uuid:ID</n:EnumerationContext><n:Items><w:Event Action="http://schemas.dmtf.org/wbem/wsman/1/wsman/Heartbeat"/></n:Items></n:PullResponse>"#]].assert_eq(&without_ids(body_of(&xml)));
    let (status, xml) = post(&server, pull(&id, "PT20S")).await;
    assert_eq!(outcome(status, &xml), "500 w:TimedOut", "the client waits for less than a heartbeat");
    change(&memory, VMS[0], 8).await;
    let (_, xml) = post(&server, pull(&id, "PT60S")).await;
    assert!(xml.contains("<p1:ReplicationState>8</p1:ReplicationState>"));
    let (status, xml) = post(&server, manage("Unsubscribe", &id, "<e:Unsubscribe/>")).await;
    assert_eq!((outcome(status, &xml).as_str(), body_of(&xml)), ("200 UnsubscribeResponse", ""));
    let (status, xml) = post(&server, manage("GetStatus", &id, "<e:GetStatus/>")).await;
    assert_eq!(outcome(status, &xml), "500 e:InvalidMessage");
}

#[tokio::test(start_paused = true)]
async fn one_request_pulls_at_a_time() {
    let (_, server) = with_events();
    let (_, xml) = post(&server, subscribe(QUERY, "", "")).await;
    let id = field(&xml, "e:Identifier").unwrap().to_owned();
    let second = async {
        tokio::task::yield_now().await;
        post(&server, pull(&id, "PT1S")).await
    };
    let ((first, _), (status, xml)) = tokio::join!(post(&server, pull(&id, "PT5S")), second);
    assert_eq!((first.as_u16(), outcome(status, &xml).as_str()), (500, "500 w:Concurrency"));
    assert_eq!(server.open_contexts(), 1);
    // A request that is given up takes the subscription with it.
    let given_up = tokio::time::timeout(Duration::from_secs(1), post(&server, pull(&id, "PT50S"))).await;
    assert!(given_up.is_err());
    assert_eq!(server.open_contexts(), 0);
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_refused() {
    let (_, server) = with_events();
    let refused = async |request: String| {
        let (status, xml) = post(&server, request).await;
        outcome(status, &xml)
    };
    let push = subscribe(QUERY, "", "").replace("wsman/Pull", "wsman/PushWithAck");
    assert_eq!(refused(push).await, "500 e:DeliveryModeRequestedUnavailable");
    assert_eq!(
        refused(subscribe("SELECT * FROM Msvm_ComputerSystem", "", "")).await,
        "500 n:CannotProcessFilter"
    );
    let unknown = QUERY.replace("TargetInstance.ReplicationState", "TargetInstance.Foo");
    assert_eq!(refused(subscribe(&unknown, "", "")).await, "500 n:CannotProcessFilter");
    assert_eq!(
        refused(subscribe(QUERY, "", "<e:Expires>soon</e:Expires>")).await,
        "500 e:InvalidExpirationTime"
    );
    let late = "<w:Bookmark><x/></w:Bookmark>";
    assert_eq!(refused(subscribe(QUERY, "", late)).await, "500 w:InvalidBookmark InvalidFormat");
    let missing = manage("Unsubscribe", "x", "<e:Unsubscribe/>").replace("e:Identifier", "e:Other");
    assert_eq!(refused(missing).await, "500 s:MustUnderstand");
}
