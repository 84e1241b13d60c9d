use super::*;
use crate::mof::tests::things;
use crate::query::{complete_path, execute};
use crate::wql::{Query, parse};
use crate::{Keys, Role};
use futures::executor::block_on;
use futures::{FutureExt, TryStreamExt};

fn caller() -> Caller {
    Caller { user: "u".to_owned(), role: Role::Reader, locale: None, address: None }
}

fn here() -> Namespace {
    Namespace::from("root/x")
}

fn disk(name: &str) -> ObjectPath {
    ObjectPath::class("root/x", "X_Disk").with("Name", name)
}

/// Disks a, b and sparse c; a is mirrored by b and by c, and by d, which is not there.
fn memory() -> Memory {
    let memory = Memory::new(vec![things()]);
    let insert = |instance: Instance| memory.insert(&here(), &instance).unwrap();
    insert(Instance::new("X_Disk").with("Name", "a").with("state", "0"));
    insert(Instance::new("X_Disk").with("Name", "b"));
    let sparse = insert(Instance::new("X_SparseDisk").with("Name", "c"));
    for dependent in [disk("b"), sparse, disk("d")] {
        insert(Instance::new("X_Mirror").with("Antecedent", disk("a")).with("Dependent", dependent));
    }
    memory
}

fn names(stream: Result<InstanceStream, Error>) -> Vec<String> {
    let instances: Vec<Instance> = block_on(stream.unwrap().try_collect()).unwrap();
    instances.iter().map(|it| it.text("Name").unwrap_or(it.class.as_str()).to_owned()).collect()
}

fn query(text: &str) -> Result<InstanceStream, Error> {
    block_on(execute(&memory(), &caller(), &here(), parse(text).unwrap(), "HOST"))
}

#[test]
fn a_class_has_the_instances_of_its_subclasses() {
    let memory = memory();
    let all = |class: &str| block_on(memory.enumerate(&caller(), &here(), &class.into()));
    assert_eq!(names(all("CIM_Thing")), ["a", "b", "c"]);
    assert_eq!(names(all("x_sparsedisk")), ["c"]);
    assert_eq!(names(Ok(walk::exact_class(all("X_Disk").unwrap(), "X_Disk".into()))), ["a", "b"]);
    let thing = things().class(&"CIM_Thing".into()).unwrap().clone();
    let things = walk::without_subclass_properties(all("CIM_Thing").unwrap(), &thing);
    let things: Vec<Instance> = block_on(things.try_collect()).unwrap();
    assert!(things.iter().all(|it| it.properties.len() == 2), "Caption and Name");
    assert_eq!(all("Y").err().unwrap().status, Status::InvalidClass);
    let a = block_on(memory.get(&caller(), &disk("A"))).unwrap();
    assert_eq!(a.get("State"), Some(&0u16.into()));
    assert_eq!(a.get("Share"), Some(&150f32.into()), "the default");
    assert_eq!(a.path, Some(disk("a")));
}

#[test]
fn neighbours_are_found_along_associations() {
    let memory = memory();
    let caller = caller();
    let walk = |filter: AssociationFilter| names(block_on(memory.associators(&caller, &disk("a"), &filter)));
    let named = |name: &str| Some(Name::from(name));
    let all = AssociationFilter::default();
    assert_eq!(walk(all.clone()), ["b", "c"]);
    assert_eq!(walk(AssociationFilter { result_class: named("X_SparseDisk"), ..all.clone() }), ["c"]);
    assert_eq!(walk(AssociationFilter { assoc_class: named("x_mirror"), ..all.clone() }), ["b", "c"]);
    assert_eq!(walk(AssociationFilter { assoc_class: named("X_Disk"), ..all.clone() }), [""; 0]);
    assert_eq!(walk(AssociationFilter { role: named("antecedent"), ..all.clone() }), ["b", "c"]);
    assert_eq!(walk(AssociationFilter { role: named("Dependent"), ..all.clone() }), [""; 0]);
    assert_eq!(walk(AssociationFilter { result_role: named("Antecedent"), ..all.clone() }), [""; 0]);
    assert_eq!(names(block_on(memory.references(&caller, &disk("a"), &all))), ["X_Mirror"; 3]);
    assert_eq!(names(block_on(memory.references(&caller, &disk("b"), &all))), ["X_Mirror"]);
}

#[test]
fn a_schema_tells_which_associations_there_may_be() {
    let schema = things();
    let (all, named) = (AssociationFilter::default(), |name: &str| Some(Name::from(name)));
    let found = |class: &str, filter: &AssociationFilter| {
        let classes = walk::associated_classes(&schema, &class.into(), filter).into_iter();
        classes.map(|class| class.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(found("X_SparseDisk", &all), ["X_Disk"]);
    assert_eq!(found("CIM_Thing", &all), [""; 0]);
    assert_eq!(found("X_Disk", &AssociationFilter { role: named("Nothing"), ..all.clone() }), [""; 0]);
    let associations = walk::association_classes(&schema, &"X_Disk".into(), &all);
    assert_eq!(associations[0].name, Name::from("X_Mirror"));
}

#[test]
fn queries_run_on_a_provider() {
    assert_eq!(names(query("SELECT Name FROM CIM_Thing WHERE Name <> 'B'")), ["a", "c"]);
    assert_eq!(names(query("ASSOCIATORS OF {X_Disk='a'} WHERE ResultClass = X_SparseDisk KeysOnly")), ["c"]);
    assert_eq!(names(query("REFERENCES OF {X_Disk.Name='a'} WHERE Role = Antecedent")).len(), 3);
    let status = |text: &str| query(text).err().unwrap().status;
    assert_eq!(status("SELECT * FROM X_Disk WHERE Size = 1"), Status::InvalidQuery);
    assert_eq!(status("ASSOCIATORS OF {X_Disk}"), Status::InvalidQuery);
    assert_eq!(status("ASSOCIATORS OF {X_Disk='a'} WHERE AssocClass = Y"), Status::InvalidClass);
    assert_eq!(status("ASSOCIATORS OF {root/y:X_Disk='a'}"), Status::NotSupported);
    assert_eq!(status("SELECT * FROM __InstanceCreationEvent"), Status::NotSupported);
}

#[test]
fn a_path_is_completed() {
    let memory = memory();
    let complete = |path: ObjectPath| block_on(complete_path(&memory, &caller(), &path));
    let singleton = |class: &str| ObjectPath { keys: Keys::Singleton, ..ObjectPath::class("root/x", class) };
    assert_eq!(complete(singleton("X_SparseDisk")).unwrap().key("Name"), Some(&"c".into()));
    assert_eq!(complete(singleton("X_Disk")).unwrap_err().status, Status::InvalidParameter);
    let partial = ObjectPath::class("root/x", "X_Mirror").with("Dependent", disk("b"));
    assert_eq!(complete(partial).unwrap().key("Antecedent"), Some(&disk("a").into()));
    let nothing = ObjectPath::class("root/x", "X_Mirror").with("Dependent", disk("x"));
    assert_eq!(complete(nothing).unwrap_err().status, Status::NotFound);
}

#[test]
fn changes_are_told_to_those_who_asked() {
    let memory = memory();
    let caller = caller();
    let subscribe = |text: &str| {
        let Query::Event(query) = parse(text).unwrap() else { panic!() };
        block_on(memory.events(&caller, &here(), &query)).unwrap()
    };
    let mut states = subscribe(
        "SELECT * FROM __InstanceModificationEvent WITHIN 1 WHERE TargetInstance ISA 'X_Disk' \
         AND TargetInstance.State <> PreviousInstance.State",
    );
    let mut all = subscribe("SELECT * FROM CIM_InstIndication");
    let renamed = Instance::new("X_Disk").with("Caption", "x").with("State", 7u16).at(disk("a"));
    block_on(memory.modify(&caller, renamed.clone(), Some(vec!["Caption".into()]))).unwrap();
    assert!(states.next().now_or_never().is_none());
    block_on(memory.modify(&caller, renamed, None)).unwrap();
    let event = block_on(states.next()).unwrap().unwrap();
    assert_eq!(event.get("TargetInstance").unwrap().as_instance().unwrap().get("State"), Some(&7u16.into()));
    assert_eq!(
        event.get("PreviousInstance").unwrap().as_instance().unwrap().get("State"),
        Some(&0u16.into())
    );
    block_on(memory.delete(&caller, &disk("a"))).unwrap();
    let kinds: Vec<_> = (0..3).map(|_| block_on(all.next()).unwrap().unwrap().class.to_string()).collect();
    assert_eq!(kinds, ["CIM_InstModification", "CIM_InstModification", "CIM_InstDeletion"]);
    drop((states, all));
    block_on(memory.create(&caller, &here(), Instance::new("X_Disk").with("Name", "e"))).unwrap();
    assert!(lock(&memory.subscribers).is_empty());
}

#[test]
fn what_does_not_fit_is_refused() {
    let memory = memory();
    let caller = caller();
    let status = |instance: Instance| memory.insert(&here(), &instance).unwrap_err().status;
    assert_eq!(status(Instance::new("X_Disk").with("Name", "A")), Status::AlreadyExists);
    assert_eq!(status(Instance::new("X_Disk")), Status::InvalidParameter);
    assert_eq!(status(Instance::new("CIM_Thing").with("Name", "x")), Status::NotSupported);
    assert_eq!(status(Instance::new("X_Disk").with("Size", 1u8)), Status::NoSuchProperty);
    assert_eq!(status(Instance::new("X_Disk").with("State", 70_000u32)), Status::TypeMismatch);
    assert_eq!(block_on(memory.get(&caller, &disk("x"))).unwrap_err().status, Status::NotFound);
    let elsewhere = ObjectPath::class("root/y", "X_Disk").with("Name", "a");
    assert_eq!(block_on(memory.get(&caller, &elsewhere)).unwrap_err().status, Status::InvalidNamespace);
    let called = block_on(memory.invoke(&caller, &disk("a"), &"Resize".into(), vec![]));
    assert_eq!(called.unwrap_err().status, Status::MethodNotAvailable);
}

#[test]
fn arguments_and_answers_are_held_to_the_schema() {
    let schema = things();
    let class = schema.class(&"X_Disk".into()).unwrap();
    let arguments = |given: Vec<(Name, Value)>| schema.arguments(class, &"resize".into(), given);
    let given = |name: &str, value: Value| (Name::from(name), value);
    let good = vec![given("MODES", "3".into()), given("now", "false".into()), given("Size", 7u8.into())];
    let typed = arguments(good).unwrap();
    let expected = [("Size", 7u64.into()), ("Now", false.into()), ("Modes", vec![3u16].into())];
    assert_eq!(typed, expected.map(|(name, value)| given(name, value)));
    let message = |arguments_given| arguments(arguments_given).unwrap_err().message;
    assert_eq!(message(vec![]), "X_Disk.Resize: parameter Now is required");
    assert_eq!(
        message(vec![given("Job", Value::Null)]),
        "X_Disk.Resize: parameter Job is not one of the method's in parameters"
    );
    assert_eq!(
        message(vec![given("Size", "x".into())]),
        "Size: \"x\" is not a uint64 (0 to 18446744073709551615)"
    );
    assert_eq!(
        message(vec![given("Size", Value::Null), given("size", Value::Null)]),
        "X_Disk.Resize: parameter size is given twice"
    );
    let unknown = schema.arguments(class, &"Shrink".into(), vec![]).unwrap_err();
    assert_eq!((unknown.status, &*unknown.message), (Status::MethodNotFound, "X_Disk has no method Shrink"));

    let result = |out| schema.result(class, &"Resize".into(), MethodResult { return_value: 0u8.into(), out });
    let answer = result(vec![given("job", disk("a").into())]).unwrap();
    assert_eq!(answer, MethodResult { return_value: 0u32.into(), out: vec![given("Job", disk("a").into())] });
    assert_eq!(result(vec![given("Size", Value::Null)]).unwrap_err().status, Status::Failed);
}
