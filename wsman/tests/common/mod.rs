//! A server over instances in memory, with the schema that the product has.
#![allow(dead_code)]

use bytes::Bytes;
use cim::memory::Memory;
use cim::{
    Caller, DateTime, Instance, MethodResult, Name, ObjectPath, Provider, Role, Schema, Value, embedded, mof,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use wsman::{Body, Limits, Server, Settings};

pub const NAMESPACE: &str = "root/virtualization/v2";
pub const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2";
pub const VMS: [&str; 3] = [
    "0B1F1C9E-0000-4000-8000-000000000001",
    "0B1F1C9E-0000-4000-8000-000000000002",
    "0B1F1C9E-0000-4000-8000-000000000003",
];

/// A namespace of the product's schema.
pub fn schema(file: &str, namespace: &str) -> Schema {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hvr/schema");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let mof = mof::parse_files(file, &read).unwrap();
    Schema::new(namespace, &mof).unwrap_or_else(|errors| panic!("{errors:?}"))
}

pub fn memory() -> Memory {
    let schemas = vec![
        schema("namespace_virtualization_v2.mof", NAMESPACE),
        schema("namespace_cimv2.mof", "root/cimv2"),
        schema("namespace_interop.mof", "interop"),
    ];
    let virtualization = schemas[0].clone();
    let methods = move |_: &Caller, target: &ObjectPath, method: &Name, arguments: Vec<(Name, Value)>| {
        Ok(answer(&virtualization, target, method, &arguments))
    };
    let memory = Memory::new(schemas).with_methods(Box::new(methods));
    let insert = |instance: Instance| memory.insert(&NAMESPACE.into(), &instance).unwrap();
    insert(
        Instance::new("Msvm_ReplicationService")
            .with("SystemCreationClassName", "Msvm_ComputerSystem")
            .with("SystemName", "HOST")
            .with("CreationClassName", "Msvm_ReplicationService")
            .with("Name", "replicasvc")
            .with("ElementName", "Replication"),
    );
    insert(
        Instance::new("Msvm_ReplicationServiceSettingData")
            .with("InstanceID", "Microsoft:HOST\\ReplicationService")
            .with("ElementName", "settings"),
    );
    insert(system("HOST", "HOST"));
    for (index, vm) in VMS.into_iter().enumerate() {
        let system = insert(system(vm, &format!("vm{index} <&> ü")));
        let relationship = insert(relationship(vm));
        insert(
            Instance::new("Msvm_SystemReplicationRelationship")
                .with("Antecedent", system)
                .with("Dependent", relationship),
        );
    }
    memory
}

fn system(name: &str, element_name: &str) -> Instance {
    Instance::new("Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", name)
        .with("ElementName", element_name)
        .with("EnabledState", 2u16)
        .with("OperationalStatus", vec![2u16, 32_768])
        .with("InstallDate", DateTime::from_unix_ms(1_795_168_800_000))
        .with("OnTimeInMilliseconds", 86_400_000u64)
}

pub fn relationship(vm: &str) -> Instance {
    Instance::new("Msvm_ReplicationRelationship")
        .with("InstanceID", format!("Microsoft:{vm}\\HVR\\0"))
        .with("ElementName", format!("relationship of {vm}"))
        .with("ReplicationState", 4u16)
        .with("ReplicationHealth", 1u16)
}

/// What the methods do here: show what they were given, as the types of the schema let them.
fn answer(schema: &Schema, target: &ObjectPath, method: &Name, arguments: &[(Name, Value)]) -> MethodResult {
    let argument = |name: &str| arguments.iter().find(|(own, _)| own.is(name)).map(|(_, value)| value);
    let job = ObjectPath::class(NAMESPACE, "Msvm_ConcreteJob").with("InstanceID", "6E1B3E5A-JOB");
    match method.as_str() {
        "CreateReplicationRelationship" => {
            let vm = argument("ComputerSystem").and_then(Value::as_path).and_then(|path| path.key("Name"));
            let known = vm.and_then(Value::as_str).is_some_and(|vm| VMS.contains(&vm));
            let settings = argument("ReplicationSettingData").unwrap_or(&Value::Null);
            let settings = embedded::of_value(settings, schema).ok().flatten();
            let settings = settings.is_some_and(|it| it.class.is("Msvm_ReplicationSettingData"));
            match known && settings && !target.is_class() {
                true => MethodResult { return_value: 4096u32.into(), out: vec![("Job".into(), job.into())] },
                false => MethodResult { return_value: 32_773u32.into(), out: vec![] },
            }
        }
        "GetReplicationStatisticsEx" => {
            let statistics =
                Instance::new("Msvm_ReplicationStatistics").with("PendingReplicationSize", 4096u64);
            let text = Value::from(embedded::write(&statistics, schema));
            let out = vec![
                ("ReplicationStatistics".into(), Value::Array(vec![text.clone(), text])),
                ("ReplicationHealthIssues".into(), Value::Array(vec![])),
            ];
            MethodResult { return_value: 0u32.into(), out }
        }
        "StartReplication" => {
            let kind = argument("InitialReplicationType") == Some(&Value::Uint16(1));
            let start = match argument("StartTime") {
                Some(Value::DateTime(start)) => start.to_unix_ms() == Some(1_795_168_800_000),
                _ => false,
            };
            MethodResult { return_value: u32::from(!(kind && start)).into(), out: vec![] }
        }
        _ => MethodResult { return_value: 0u32.into(), out: vec![] },
    }
}

/// A server whose clock is tokio's.
pub fn server_over(provider: Arc<dyn Provider>, limits: Limits) -> Server {
    let start = tokio::time::Instant::now();
    let settings = Settings {
        product_vendor: "Relevo".into(),
        product_version: "1.2.3".into(),
        security_profiles: vec!["http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/basic".into()],
        host: "HOST".into(),
        default_namespace: None,
        limits,
    };
    Server::new(provider, settings, Arc::new(move || start.elapsed() + Duration::from_secs(1)))
}

pub fn server() -> Server {
    server_over(Arc::new(memory()), Limits::default())
}

pub fn caller() -> Caller {
    Caller { user: "admin".into(), role: Role::Administrator, locale: None, address: None }
}

pub async fn text(response: Response<Body>) -> (StatusCode, String) {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, String::from_utf8(body.to_vec()).unwrap())
}

pub async fn post(server: &Server, body: impl Into<Bytes>) -> (StatusCode, String) {
    let request = Request::post("/wsman").body(body.into()).unwrap();
    text(server.handle(request, &caller()).await).await
}

/// A request as Windows' clients write it. `header` and `body` are XML.
pub fn request(action: &str, uri: &str, header: &str, body: &str) -> String {
    format!(
        r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd" xmlns:b="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" xmlns:e="http://schemas.xmlsoap.org/ws/2004/08/eventing" xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer"><s:Header><a:To>http://host/wsman</a:To><w:ResourceURI s:mustUnderstand="true">{uri}</w:ResourceURI><a:ReplyTo><a:Address s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo><a:Action s:mustUnderstand="true">{action}</a:Action><a:MessageID>uuid:0c0ffee0-Ab</a:MessageID>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
    )
}

pub fn selectors(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("<w:Selector Name=\"{name}\">{value}</w:Selector>"));
    format!("<w:SelectorSet>{}</w:SelectorSet>", pairs.collect::<String>())
}

pub const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
pub const PUT: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Put";
pub const CREATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create";
pub const DELETE: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete";
pub const ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
pub const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
pub const RELEASE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release";
pub const SUBSCRIBE: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/Subscribe";
pub const DMTF: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2";

/// The text of the first element of that name, prefix included.
pub fn field<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = xml[start..].find(&format!("</{name}>"))?;
    Some(&xml[start..start + end])
}

/// The content of the body.
pub fn body_of(xml: &str) -> &str {
    field(xml, "s:Body").unwrap_or_else(|| panic!("no body in {xml}"))
}

/// Status, subcode and detail of a fault, or the status and the action.
pub fn outcome(status: StatusCode, xml: &str) -> String {
    let status = status.as_u16();
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    match field(xml, "s:Subcode").and_then(|it| field(it, "s:Value")) {
        Some(subcode) => {
            let detail = field(xml, "w:FaultDetail").map(|it| format!(" {}", last(it))).unwrap_or_default();
            format!("{status} {subcode}{detail}")
        }
        None if xml.contains("<s:Fault>") => {
            format!("{status} {}", xml.split("<s:Value>").nth(1).and_then(|it| it.split('<').next()).unwrap())
        }
        None => format!("{status} {}", field(xml, "a:Action").map(last).unwrap_or_default()),
    }
}

/// With every id replaced.
pub fn without_ids(xml: &str) -> String {
    let mut parts = xml.split("uuid:");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let id = part.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-').count();
        plain += if id == 36 { "uuid:ID" } else { "uuid:" };
        plain += if id == 36 { &part[36..] } else { part };
    }
    plain
}
