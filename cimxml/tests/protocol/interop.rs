//! What clients learn of the server, and what they may make there.

use crate::common::{
    Kept, V2, World, caller, class, count, error_of, instance_name, intrinsic, path, text, world, world_with,
};
use cim::{Caller, Role};
use cimxml::Limits;
use std::sync::Arc;

const INTEROP: &str = "interop";

fn property(name: &str, value: &str) -> String {
    format!("<PROPERTY NAME=\"{name}\" TYPE=\"string\"><VALUE>{value}</VALUE></PROPERTY>")
}

fn instance(class: &str, properties: &str) -> String {
    format!(
        "<IPARAMVALUE NAME=\"NewInstance\"><INSTANCE CLASSNAME=\"{class}\">{properties}</INSTANCE></IPARAMVALUE>"
    )
}

fn filter(name: &str, query: &str, namespace: &str) -> String {
    let space = format!(
        "<PROPERTY.ARRAY NAME=\"SourceNamespaces\" TYPE=\"string\"><VALUE.ARRAY><VALUE>{namespace}</VALUE></VALUE.ARRAY>\
         </PROPERTY.ARRAY>"
    );
    let named = property("Name", name) + &property("Query", query) + &property("QueryLanguage", "WQL");
    instance("CIM_IndicationFilter", &(named + &space))
}

fn destination(name: &str, url: &str) -> String {
    instance("CIM_ListenerDestinationCIMXML", &(property("Name", name) + &property("Destination", url)))
}

fn keys<'a>(class: &'a str, name: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("SystemCreationClassName", "CIM_ComputerSystem"),
        ("SystemName", "HOST1"),
        ("CreationClassName", class),
        ("Name", name),
    ]
}

/// A subscription of what bears these names.
pub fn subscription(filter: &str, destination: &str, more: &str) -> String {
    let reference = |role: &str, class: &str, name: &str| {
        let path = instance_name(class, &keys(class, name));
        format!(
            "<PROPERTY.REFERENCE NAME=\"{role}\"><VALUE.REFERENCE>{path}</VALUE.REFERENCE></PROPERTY.REFERENCE>"
        )
    };
    let both = reference("Filter", "CIM_IndicationFilter", filter)
        + &reference("Handler", "CIM_ListenerDestinationCIMXML", destination);
    instance("CIM_IndicationSubscription", &(both + more))
}

pub async fn create(world: &World, instance: &str) -> Option<(u32, String)> {
    world.refused(intrinsic(INTEROP, "CreateInstance", instance)).await
}

pub async fn subscribe(world: &World, query: &str, url: &str, more: &str) {
    assert_eq!(create(world, &filter("f", query, V2)).await, None);
    assert_eq!(create(world, &destination("d", url)).await, None);
    assert_eq!(create(world, &subscription("f", "d", more)).await, None);
}

pub async fn subscriptions(world: &World) -> usize {
    let request = intrinsic(INTEROP, "EnumerateInstances", &class("ClassName", "CIM_IndicationSubscription"));
    count(&world.ask(request).await, "VALUE.NAMEDINSTANCE")
}

#[tokio::test]
async fn a_client_finds_its_way_from_interop() {
    let world = world();
    let number = async |class_: &str| {
        let request = intrinsic(INTEROP, "EnumerateInstanceNames", &class("ClassName", class_));
        count(&world.ask(request).await, "KEYBINDING")
    };
    assert_eq!(number("CIM_Namespace").await, 2 * 6);
    assert_eq!(number("CIM_ObjectManager").await, 4);
    assert_eq!(number("CIM_RegisteredProfile").await, 2);
    let profile = path("ObjectName", "CIM_RegisteredProfile", &[("InstanceID", "test:Replication:0.1.0")]);
    let walk = async |association: &str, role: &str| {
        let refinement = class("AssocClass", association) + &text("ResultRole", role);
        world.ask(intrinsic(INTEROP, "AssociatorNames", &(profile.clone() + &refinement))).await
    };
    let central = walk("CIM_ElementConformsToProfile", "ManagedElement").await;
    assert!(
        central.contains("<NAMESPACE NAME=\"v2\"/>")
            && central.contains("CLASSNAME=\"Msvm_ReplicationService\"")
    );
    assert_eq!(count(&walk("CIM_ElementConformsToProfile", "ConformantStandard").await, "OBJECTPATH"), 0);
    assert!(walk("CIM_ReferencedProfile", "Antecedent").await.contains("test:Profile Registration:1.1.0"));
    assert_eq!(count(&walk("CIM_ReferencedProfile", "Dependent").await, "OBJECTPATH"), 0);
}

#[tokio::test]
async fn what_could_never_deliver_is_refused() {
    let world = world();
    let modified = "SELECT * FROM CIM_InstModification";
    let table = [
        (filter("f", "SELECT * FRM x", V2), 15, "expected FROM"),
        (filter("f", "SELECT * FROM Msvm_ComputerSystem", V2), 15, "asks for instances"),
        (filter("f", modified, "root/x"), 4, "there is no namespace root/x"),
        (
            filter("f", &format!("{modified} WHERE SourceInstance ISA 'Nope'"), V2),
            15,
            "there is no class Nope",
        ),
        (filter("f", modified, V2).replace(">WQL<", ">SQL<"), 14, "SQL is not known"),
        (
            filter("f", "SELECT * FROM __InstanceCreationEvent", "interop"),
            15,
            "there is no class __InstanceCreationEvent",
        ),
        (destination("d", "ftp://x/"), 4, "no http or https URL"),
        (destination("d", "listener"), 4, "no http or https URL"),
        (subscription("f", "d", ""), 4, "Filter: there is no"),
        (instance("CIM_IndicationSubscription", ""), 4, "Filter is missing"),
        (instance("CIM_Namespace", ""), 7, "changing instances of CIM_Namespace is not supported"),
        (instance("CIM_ListenerDestination", ""), 7, "CIM_ListenerDestination"),
    ];
    for (given, code, message) in table {
        let (found, words) = create(&world, &given).await.unwrap_or_default();
        assert_eq!(found, code, "{given}: {words}");
        assert!(words.contains(message), "{given}: {words}");
    }
    assert_eq!(world.store.saved.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn what_is_subscribed_to_stays() {
    let world = world();
    subscribe(&world, "SELECT * FROM CIM_InstCreation", "http://listener:5990/", "").await;
    assert_eq!(create(&world, &subscription("f", "d", "")).await.unwrap().0, 11);
    let delete = async |class: &str, name: &str| {
        world
            .refused(intrinsic(INTEROP, "DeleteInstance", &path("InstanceName", class, &keys(class, name))))
            .await
    };
    assert!(delete("CIM_IndicationFilter", "f").await.unwrap().1.contains("is used by"));
    assert_eq!(delete("CIM_ListenerDestinationCIMXML", "d").await.unwrap().0, 1);
    let own = subscription("f", "d", "").replace("PROPERTY.REFERENCE", "KEYBINDING");
    let start = own.find("<KEYBINDING").unwrap();
    let keys_ = &own[start..own.rfind("</INSTANCE>").unwrap()];
    let named = format!(
        "<IPARAMVALUE NAME=\"InstanceName\"><INSTANCENAME CLASSNAME=\"CIM_IndicationSubscription\">{keys_}</INSTANCENAME>\
         </IPARAMVALUE>"
    );
    assert_eq!(world.refused(intrinsic(INTEROP, "DeleteInstance", &named)).await, None);
    assert_eq!(delete("CIM_IndicationFilter", "f").await, None);
    assert_eq!(subscriptions(&world).await, 0);
}

#[tokio::test]
async fn subscriptions_outlive_the_server() {
    let store: Arc<Kept> = Arc::default();
    let first = world_with(Limits::default(), store.clone());
    subscribe(&first, "SELECT * FROM CIM_InstCreation", "http://listener:5990/", "").await;
    let before = first.interop.subscriptions();
    drop(first);
    store.saved.lock().unwrap().push("<INSTANCE CLASSNAME=\"CIM_Nope\"/>".into());
    let second = world_with(Limits::default(), store);
    assert_eq!(second.interop.subscriptions(), before);
    assert_eq!(before.len(), 1);
    assert_eq!(subscriptions(&second).await, 1);
}

#[tokio::test]
async fn what_cannot_be_saved_is_not_made() {
    let world = world();
    *world.store.broken.lock().unwrap() = true;
    let (code, message) = create(&world, &destination("d", "http://listener/")).await.unwrap();
    assert_eq!((code, &*message), (1, "cannot save subscriptions: the disk is full"));
    *world.store.broken.lock().unwrap() = false;
    assert_eq!(create(&world, &destination("d", "http://listener/")).await, None);
}

#[tokio::test]
async fn readers_do_not_subscribe() {
    let world = world();
    let reader = Caller { role: Role::Reader, user: "eve".into(), ..caller() };
    let request = intrinsic(INTEROP, "CreateInstance", &destination("d", "http://listener/"));
    let answer = world.ask_as(request, &reader).await;
    assert_eq!(error_of(&answer), Some((2, "eve may not subscribe to indications".into())));
}

#[tokio::test]
async fn a_disabled_subscription_does_not_deliver() {
    let world = world();
    let disabled = "<PROPERTY NAME=\"SubscriptionState\" TYPE=\"uint16\"><VALUE>4</VALUE></PROPERTY>";
    subscribe(&world, "SELECT * FROM CIM_InstCreation", "http://listener:5990/", disabled).await;
    assert_eq!((world.interop.subscriptions().len(), subscriptions(&world).await), (0, 1));
}
