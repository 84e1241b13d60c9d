//! A small server over instances in memory, with the product's schema, and what speaks to it.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod dtd;

use bytes::Bytes;
use cim::memory::Memory;
use cim::{
    Caller, DateTime, Error, Instance, MethodResult, Name, ObjectPath, Provider, Role, Schema, Status, Union,
    Value,
};
use cimxml::interop::{Description, Interop, Profile, Store};
use cimxml::{Body, Limits, Server};
use http_body_util::BodyExt;
use hyper::{Request, Response};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

pub const V2: &str = "root/virtualization/v2";
pub const HOST: &str = "host1.example";
/// The virtual machine that the captured requests speak of.
pub const VM: &str = "8A2B0C4E-0000-0000-0000-000000000001";

/// Everything that one test needs.
pub struct World {
    pub server: Server,
    pub interop: Arc<Interop>,
    pub machines: Arc<Memory>,
    pub provider: Arc<Union>,
    pub store: Arc<Kept>,
    pub clock: Arc<Mutex<Instant>>,
}

/// A store that keeps what is saved in memory, or refuses to.
#[derive(Default)]
pub struct Kept {
    pub saved: Mutex<Vec<String>>,
    pub broken: Mutex<bool>,
}

impl Store for Kept {
    fn load(&self) -> io::Result<Vec<String>> {
        Ok(self.saved.lock().unwrap().clone())
    }

    fn save(&self, instances: &[String]) -> io::Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(io::Error::other("the disk is full"));
        }
        *self.saved.lock().unwrap() = instances.to_vec();
        Ok(())
    }
}

pub fn schema(namespace: &str) -> Schema {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hvr/schema");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let root =
        format!("namespace_{}.mof", namespace.strip_prefix("root/").unwrap_or(namespace).replace('/', "_"));
    let mof = cim::mof::parse_files(&root, &read).unwrap_or_else(|error| panic!("{error}"));
    Schema::new(namespace, &mof).unwrap_or_else(|errors| panic!("{errors:?}"))
}

pub fn world() -> World {
    world_with(Limits::default(), Arc::default())
}

pub fn world_with(limits: Limits, store: Arc<Kept>) -> World {
    let machines = Memory::new(vec![schema(V2)]).with_methods(Box::new(call));
    for number in 0..3 {
        add_machine(&machines, number);
    }
    let service = Instance::new("Msvm_ReplicationService").with("Name", "vmms").with("SystemName", "HOST1");
    machines.insert(&V2.into(), &service).unwrap();
    let job = Instance::new("Msvm_ConcreteJob")
        .with("InstanceID", "job-1")
        .with("JobState", 4u16)
        .with("PercentComplete", 42u16)
        .with("ElapsedTime", DateTime::from_interval_ms(61_000));
    machines.insert(&V2.into(), &job).unwrap();
    let machines = Arc::new(machines);
    let interop = Arc::new(interop(store.clone()));
    let provider = Arc::new(Union(vec![machines.clone(), interop.clone()]));
    let clock = Arc::new(Mutex::new(Instant::now()));
    let now = clock.clone();
    let server = Server::new(provider.clone(), HOST, limits, Arc::new(move || *now.lock().unwrap()));
    World { server, interop, machines, provider, store, clock }
}

fn interop(store: Arc<Kept>) -> Interop {
    let service = ObjectPath::class(V2, "Msvm_ReplicationService")
        .with("SystemCreationClassName", "Msvm_ComputerSystem")
        .with("SystemName", "HOST1")
        .with("CreationClassName", "Msvm_ReplicationService")
        .with("Name", "vmms");
    let profile = |name: &str, version: &str, conforming, builds_on: &[&str]| Profile {
        organization: 2,
        name: name.into(),
        version: version.into(),
        conforming,
        builds_on: builds_on.iter().map(|it| (*it).to_owned()).collect(),
    };
    let description = Description {
        system_name: "HOST1".into(),
        name: "test".into(),
        element_name: "Test server".into(),
        description: "Test server 1.0".into(),
        profiles: vec![
            profile("Profile Registration", "1.1.0", vec![], &[]),
            profile("Replication", "0.1.0", vec![service], &["Profile Registration"]),
        ],
    };
    let schemas = vec![Arc::new(schema(V2))];
    Interop::new(schema("interop"), schemas, description, store, Arc::new(SystemTime::now)).unwrap()
}

/// A virtual machine with its relationship; the name of the first is what the captured requests say.
pub fn add_machine(machines: &Memory, number: u32) {
    let namespace = V2.into();
    let name = format!("8A2B0C4E-0000-0000-0000-{:012}", number + 1);
    let machine = Instance::new("Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", &*name)
        .with("ElementName", format!("vm{number} <&>"))
        .with("EnabledState", 2u16)
        .with("OnTimeInMilliseconds", 1_000u64)
        .with("InstallDate", DateTime::from_unix_ms(1_800_000_000_000));
    let machine = machines.insert(&namespace, &machine).unwrap();
    let relationship = Instance::new("Msvm_ReplicationRelationship")
        .with("InstanceID", format!("Microsoft:VM{number}\\0"))
        .with("ReplicationState", if number == 0 { 4u16 } else { 7 })
        .with("ReplicationHealth", 1u16);
    let relationship = machines.insert(&namespace, &relationship).unwrap();
    let both = Instance::new("Msvm_SystemReplicationRelationship")
        .with("Antecedent", machine)
        .with("Dependent", relationship);
    machines.insert(&namespace, &both).unwrap();
}

/// The methods that tests call.
fn call(
    caller: &Caller,
    target: &ObjectPath,
    method: &Name,
    arguments: Vec<(Name, Value)>,
) -> Result<MethodResult, Error> {
    let argument = |name: &str| arguments.iter().find(|(own, _)| own.is(name)).map(|(_, value)| value);
    let done = |code: u32, out: Vec<(&str, Value)>| {
        let out = out.into_iter().map(|(name, value)| (Name::from(name), value)).collect();
        Ok(MethodResult { return_value: code.into(), out })
    };
    let job = ObjectPath::class(V2, "Msvm_ConcreteJob").with("InstanceID", "job-1");
    match method.as_str() {
        "CreateReplicationRelationship" => {
            let text = argument("ReplicationSettingData").and_then(Value::as_str).unwrap_or_default();
            let Ok(settings) = cim::embedded::read_as(text, &schema(V2)) else { return done(32773, vec![]) };
            assert_eq!(settings.get("RecoveryServerPortNumber"), Some(&80u16.into()));
            let machine = argument("ComputerSystem").and_then(Value::as_path).cloned();
            assert_eq!(machine.unwrap().key("Name"), Some(&VM.into()));
            assert_eq!(target.key("Name"), Some(&"vmms".into()));
            done(4096, vec![("Job", job.into())])
        }
        "StartReplication" => {
            assert_eq!(argument("InitialReplicationExportLocation"), Some(&Value::Null));
            assert!(matches!(argument("StartTime"), Some(Value::DateTime(_))));
            done(4096, vec![("Job", job.into())])
        }
        "GetReplicationStatistics" => {
            let statistics = Instance::new("Msvm_ReplicationStatistics").with("PendingReplicationSize", 7u64);
            let text = cim::embedded::write(&statistics, &schema(V2));
            done(
                0,
                vec![
                    ("ReplicationStatistics", vec![text].into()),
                    ("ReplicationHealthIssues", Value::Array(vec![])),
                ],
            )
        }
        "GetSystemCertificates" => done(0, vec![("EncodedCertificates", vec!["one", "two"].into())]),
        "CommitFailover" => done(32775, vec![]),
        "ModifyServiceSettings" if caller.role < Role::Administrator => done(32769, vec![]),
        _ => Err(Error::new(Status::MethodNotAvailable, format!("{method} is not available"))),
    }
}

pub fn caller() -> Caller {
    Caller { user: "admin".into(), role: Role::Administrator, locale: None, address: None }
}

/// The folder of captured requests.
pub fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

/// A captured request: request line, headers, blank line, body.
pub fn captured(name: &str) -> Request<Bytes> {
    parse_request(&std::fs::read(captures().join(format!("{name}.req"))).unwrap())
}

pub fn parse_request(bytes: &[u8]) -> Request<Bytes> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("a head ends in a blank line");
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let mut request = Request::builder().method(first.next().unwrap()).uri(first.next().unwrap());
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(Bytes::copy_from_slice(&bytes[end + 4..])).unwrap()
}

/// An intrinsic request as pywbem writes it.
pub fn intrinsic(namespace: &str, method: &str, parameters: &str) -> Request<Bytes> {
    let parts: String = namespace.split('/').map(|part| format!("<NAMESPACE NAME=\"{part}\"/>")).collect();
    let call = format!(
        "<IMETHODCALL NAME=\"{method}\"><LOCALNAMESPACEPATH>{parts}</LOCALNAMESPACEPATH>{parameters}</IMETHODCALL>"
    );
    request(method, namespace, &call)
}

pub fn request(method: &str, object: &str, call: &str) -> Request<Bytes> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\n<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE ID=\"7\" \
         PROTOCOLVERSION=\"1.0\"><SIMPLEREQ>{call}</SIMPLEREQ></MESSAGE></CIM>"
    );
    Request::post("/cimom")
        .header("Content-Type", "application/xml; charset=\"utf-8\"")
        .header("CIMOperation", "MethodCall")
        .header("CIMMethod", method)
        .header("CIMObject", object)
        .body(Bytes::from(body))
        .unwrap()
}

/// `IPARAMVALUE` with a text.
pub fn text(name: &str, value: &str) -> String {
    let value = cim::xml::escape(value);
    format!("<IPARAMVALUE NAME=\"{name}\"><VALUE>{value}</VALUE></IPARAMVALUE>")
}

/// `IPARAMVALUE` with the name of a class.
pub fn class(name: &str, value: &str) -> String {
    format!("<IPARAMVALUE NAME=\"{name}\"><CLASSNAME NAME=\"{value}\"/></IPARAMVALUE>")
}

/// `IPARAMVALUE` with a path whose keys are texts.
pub fn path(name: &str, class: &str, keys: &[(&str, &str)]) -> String {
    format!("<IPARAMVALUE NAME=\"{name}\">{}</IPARAMVALUE>", instance_name(class, keys))
}

pub fn instance_name(class: &str, keys: &[(&str, &str)]) -> String {
    let key = |(name, value): &(&str, &str)| {
        format!("<KEYBINDING NAME=\"{name}\"><KEYVALUE VALUETYPE=\"string\">{value}</KEYVALUE></KEYBINDING>")
    };
    let keys: String = keys.iter().map(key).collect();
    format!("<INSTANCENAME CLASSNAME=\"{class}\">{keys}</INSTANCENAME>")
}

/// The response's body; every one that is an answer fits the DTD.
pub async fn body(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("the answer does not break off").to_bytes();
    let text = String::from_utf8(bytes.into()).unwrap();
    dtd::assert_valid(&text);
    text
}

impl World {
    pub async fn ask(&self, request: Request<Bytes>) -> String {
        self.ask_as(request, &caller()).await
    }

    pub async fn ask_as(&self, request: Request<Bytes>, caller: &Caller) -> String {
        let response = self.server.handle(request, caller).await;
        assert_eq!(response.status(), 200, "{:?}", response.headers());
        assert_eq!(response.headers()["cimoperation"], "MethodResponse");
        body(response).await
    }

    /// The operation's status code, and its message; none where it worked.
    pub async fn refused(&self, request: Request<Bytes>) -> Option<(u32, String)> {
        let answer = self.ask(request).await;
        error_of(&answer)
    }

    pub fn later(&self, seconds: u64) {
        *self.clock.lock().unwrap() += Duration::from_secs(seconds);
    }
}

pub fn error_of(answer: &str) -> Option<(u32, String)> {
    let document = roxmltree::Document::parse(answer).unwrap();
    let error = document.descendants().find(|node| node.has_tag_name("ERROR"))?;
    Some((error.attribute("CODE")?.parse().unwrap(), error.attribute("DESCRIPTION")?.to_owned()))
}

/// How many elements of that name an answer has.
pub fn count(answer: &str, element: &str) -> usize {
    let document = roxmltree::Document::parse(answer).unwrap();
    document.descendants().filter(|node| node.has_tag_name(element)).count()
}

/// An out parameter's text.
pub fn out(answer: &str, name: &str) -> Option<String> {
    let document = roxmltree::Document::parse(answer).unwrap();
    let named = |node: &roxmltree::Node<'_, '_>| {
        node.has_tag_name("PARAMVALUE") && node.attribute("NAME") == Some(name)
    };
    let parameter = document.descendants().find(named)?;
    Some(parameter.descendants().filter_map(|node| node.text().filter(|_| node.is_text())).collect())
}

/// Changes the first machine, which subscribers to modifications are told.
pub async fn touch(machines: &Memory, uptime_ms: u64) {
    let path = ObjectPath::class(V2, "Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", VM);
    let changed = Instance::new("Msvm_ComputerSystem").with("OnTimeInMilliseconds", uptime_ms).at(path);
    machines.modify(&caller(), changed, None).await.unwrap();
}
