//! Enumerations that are opened, pulled and closed, and their bounds.

use crate::common::{V2, World, caller, class, count, intrinsic, out, text, world, world_with};
use cim::Caller;
use cimxml::Limits;
use std::sync::Arc;

async fn open(world: &World, more: &str) -> String {
    let parameters = class("ClassName", "Msvm_ReplicationRelationship") + more;
    world.ask(intrinsic(V2, "OpenEnumerateInstances", &parameters)).await
}

async fn pull(world: &World, method: &str, context: &str, objects: u32) -> String {
    let parameters = text("EnumerationContext", context) + &text("MaxObjectCount", &objects.to_string());
    world.ask(intrinsic(V2, method, &parameters)).await
}

fn code(answer: &str) -> Option<u32> {
    crate::common::error_of(answer).map(|(code, _)| code)
}

#[tokio::test]
async fn an_enumeration_ends_exactly_with_its_last_object() {
    let world = world();
    let first = open(&world, &text("MaxObjectCount", "2")).await;
    assert_eq!(
        (count(&first, "VALUE.INSTANCEWITHPATH"), out(&first, "EndOfSequence").unwrap()),
        (2, "FALSE".into())
    );
    let context = out(&first, "EnumerationContext").unwrap();
    let nothing = pull(&world, "PullInstancesWithPath", &context, 0).await;
    assert_eq!(
        (count(&nothing, "INSTANCE"), out(&nothing, "EnumerationContext").unwrap()),
        (0, context.clone())
    );
    let last = pull(&world, "PullInstancesWithPath", &context, 1).await;
    assert_eq!((count(&last, "INSTANCE"), out(&last, "EndOfSequence").unwrap()), (1, "TRUE".into()));
    assert_eq!(out(&last, "EnumerationContext").unwrap(), "");
    assert_eq!(code(&pull(&world, "PullInstancesWithPath", &context, 1).await), Some(21));
}

#[tokio::test]
async fn a_filter_selects_and_is_checked() {
    let world = world();
    let filtered = async |language: &str, filter: &str| {
        let more = text("FilterQueryLanguage", language)
            + &text("FilterQuery", filter)
            + &text("MaxObjectCount", "9");
        open(&world, &more).await
    };
    assert_eq!(count(&filtered("DMTF:FQL", "ReplicationState = 4").await, "INSTANCE"), 1);
    assert_eq!(count(&filtered("DMTF:FQL", "NOT ReplicationState = 4").await, "INSTANCE"), 2);
    assert_eq!(code(&filtered("DMTF:FQL", "Nope = 4").await), Some(15));
    assert_eq!(code(&filtered("DMTF:FQL", "InstanceID LIKE 'a.*'").await), Some(29));
    assert_eq!(code(&filtered("XPath", "ReplicationState = 4").await), Some(14));
    let (code, message) =
        crate::common::error_of(&filtered("DMTF:FQL", "ReplicationState ~ 4").await).unwrap();
    assert_eq!(code, 15);
    assert!(message.starts_with("line 1, column 18: "), "{message}");
    assert_eq!(self::code(&open(&world, &text("FilterQuery", "ReplicationState = 4")).await), Some(4));
}

#[tokio::test]
async fn each_kind_has_its_own_pull_and_each_user_its_own_enumerations() {
    let world = world();
    let context = out(&open(&world, "").await, "EnumerationContext").unwrap();
    assert_eq!(code(&pull(&world, "PullInstancePaths", &context, 1).await), Some(21));
    let parameters = text("EnumerationContext", &context) + &text("MaxObjectCount", "1");
    let other = Caller { user: "other".into(), ..caller() };
    let stolen = world.ask_as(intrinsic(V2, "PullInstancesWithPath", &parameters), &other).await;
    assert_eq!(code(&stolen), Some(21));
    let elsewhere = world.ask(intrinsic("interop", "PullInstancesWithPath", &parameters)).await;
    assert_eq!(code(&elsewhere), Some(21));
    assert_eq!(count(&pull(&world, "PullInstancesWithPath", &context, 1).await, "INSTANCE"), 1);
    let close = async || {
        code(&world.ask(intrinsic(V2, "CloseEnumeration", &text("EnumerationContext", &context))).await)
    };
    assert_eq!((close().await, close().await), (None, Some(21)));
}

#[tokio::test]
async fn what_nobody_pulls_is_forgotten() {
    let world = world();
    let context = out(&open(&world, &text("OperationTimeout", "30")).await, "EnumerationContext").unwrap();
    world.later(29);
    assert_eq!(code(&pull(&world, "PullInstancesWithPath", &context, 1).await), None);
    world.later(29);
    assert_eq!(code(&pull(&world, "PullInstancesWithPath", &context, 1).await), None);
    world.later(31);
    assert_eq!(code(&pull(&world, "PullInstancesWithPath", &context, 1).await), Some(21));
    for wrong in ["0", "3601"] {
        assert_eq!(code(&open(&world, &text("OperationTimeout", wrong)).await), Some(22));
    }
}

#[tokio::test]
async fn the_number_of_open_enumerations_is_bounded() {
    let limits = Limits { open_max: 3, open_per_user_max: 2, objects_max: 1, ..Limits::default() };
    let world = world_with(limits, Arc::default());
    let capped = open(&world, &text("MaxObjectCount", "1000")).await;
    assert_eq!(count(&capped, "INSTANCE"), 1);
    assert_eq!(code(&open(&world, "").await), None);
    assert_eq!(code(&open(&world, "").await), Some(27));
    let other = Caller { user: "other".into(), ..caller() };
    let request = || intrinsic(V2, "OpenEnumerateInstancePaths", &class("ClassName", "Msvm_ComputerSystem"));
    assert_eq!(code(&world.ask_as(request(), &other).await), None);
    assert_eq!(code(&world.ask_as(request(), &other).await), Some(27));
    world.later(241);
    assert_eq!(code(&open(&world, "").await), None);
}

#[tokio::test]
async fn an_answer_that_is_not_read_to_its_end_ends_the_enumeration() {
    let world = world_with(Limits::default(), Arc::default());
    (3..200).for_each(|number| crate::common::add_machine(&world.machines, number));
    let context = out(&open(&world, "").await, "EnumerationContext").unwrap();
    let parameters = text("EnumerationContext", &context) + &text("MaxObjectCount", "190");
    let request = || intrinsic(V2, "PullInstancesWithPath", &parameters);
    let unread = world.server.handle(request(), &caller()).await;
    let close = intrinsic(V2, "CloseEnumeration", &text("EnumerationContext", &context));
    assert_eq!(code(&world.ask(request()).await), Some(1), "one answer at a time");
    assert_eq!(code(&world.ask(close).await), Some(24));
    drop(unread);
    assert_eq!(code(&world.ask(request()).await), Some(21));
}

#[tokio::test]
async fn a_query_tells_the_class_of_what_it_selects() {
    let world = world();
    let query = |text_: &str| {
        text("FilterQueryLanguage", "WQL")
            + &text("FilterQuery", text_)
            + &text("ReturnQueryResultClass", "TRUE")
            + &text("MaxObjectCount", "1")
    };
    let parameters = query("SELECT InstanceID FROM Msvm_ReplicationRelationship");
    let answer = world.ask(intrinsic(V2, "OpenQueryInstances", &parameters)).await;
    assert_eq!(
        (count(&answer, "CLASS"), count(&answer, "INSTANCE"), count(&answer, "INSTANCEPATH")),
        (1, 1, 0)
    );
    let context = out(&answer, "EnumerationContext").unwrap();
    assert_eq!(count(&pull(&world, "PullInstances", &context, 9).await, "INSTANCE"), 2);
    let parameters = query("REFERENCES OF {Msvm_ReplicationRelationship.InstanceID='Microsoft:VM0\\\\0'}");
    assert_eq!(code(&world.ask(intrinsic(V2, "OpenQueryInstances", &parameters)).await), Some(29));
}

#[tokio::test]
async fn ten_thousand_enumerations_are_bounded_and_answered() {
    let world = world();
    let limits = Limits::default();
    let open = async |user: &str| {
        let request = intrinsic(V2, "OpenEnumerateInstancePaths", &class("ClassName", "Msvm_ComputerSystem"));
        let caller = Caller { user: user.into(), ..caller() };
        code(&world.ask_as(request, &caller).await)
    };
    let mut opened = 0;
    for number in 0..10_000 {
        match open(&format!("user {}", number % 10)).await {
            None => opened += 1,
            Some(refused) => assert_eq!(refused, 27),
        }
    }
    assert_eq!(opened, limits.open_max);
    let all = intrinsic(V2, "EnumerateInstanceNames", &class("ClassName", "Msvm_ComputerSystem"));
    assert_eq!(code(&world.ask(all).await), None, "what keeps nothing is answered");
    world.later(limits.wait_default.as_secs() + 1);
    assert_eq!(open("other").await, None);
}
