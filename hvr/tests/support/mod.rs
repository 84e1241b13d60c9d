//! A real host in this process: an embedded libvirt, a certificate, no peer.

#![allow(dead_code, reason = "each test file uses its part")]

use cim::{
    Caller, Instance, InstanceStream, Keys, MethodResult, Name, Namespace, ObjectPath, Provider, Role, Value,
    wql,
};
use engine::{Relationship, Settings};
use futures::{StreamExt, TryStreamExt};
use hvr::{Hvr, schema::V2};
use model::{Generation, VmId};
use service::{
    Host,
    api::{Command, Request},
    config::Dirs,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use testkit::TempRoot;

/// Generous: a VM in software emulation on a machine that has other work.
pub const BOUND: Duration = Duration::from_secs(180);

pub const DISK_BYTES: u64 = 16 << 20;

pub struct Stage {
    pub host: Arc<Host>,
    pub hvr: Hvr,
    pub caller: Caller,
    root: Option<TempRoot>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.host.shutdown.cancel();
    }
}

impl Stage {
    pub async fn new() -> Stage {
        Stage::with("").await
    }

    /// A host with this configuration.
    pub async fn with(config: &str) -> Stage {
        let root = TempRoot::new().unwrap();
        let dirs = Dirs::new(Some(root.path()));
        fs::create_dir_all(dirs.config.parent().unwrap()).unwrap();
        fs::write(&dirs.config, config).unwrap();
        let name = "a.example".parse().unwrap();
        let bundle = root.join("a.bundle");
        service::certs::init(&dirs).unwrap();
        service::certs::issue(&dirs, &name, &bundle).unwrap();
        service::certs::install(&dirs, &bundle, None).unwrap();
        let host = service::daemon::open(&dirs).await.unwrap();
        service::daemon::start(&host).unwrap();
        let mut stage = Stage::of(host);
        stage.root = Some(root);
        stage
    }

    pub fn of(host: Arc<Host>) -> Stage {
        let caller = Caller { user: "test".into(), role: Role::Administrator, locale: None, address: None };
        Stage { hvr: Hvr::new(host.clone()), host, caller, root: None }
    }

    pub async fn run(&self, command: Command) {
        let request = Request { command, dry_run: false, wait: false };
        service::execute(&self.host, &request).await.unwrap();
    }

    /// The host's folder.
    pub fn root(&self) -> &Path {
        self.root.as_ref().unwrap().path()
    }

    /// Defines a VM with one disk.
    pub async fn define(&self, name: &str) -> VmId {
        let vm = VmId::random();
        self.define_as(vm, name).await;
        vm
    }

    pub async fn define_as(&self, vm: VmId, name: &str) {
        let disk = self.make_disk(name);
        self.run(Command::VmDefine { xml: domain(vm, name, 64, &disk) }).await;
    }

    /// An empty image.
    pub fn make_disk(&self, name: &str) -> PathBuf {
        let disk = self.root().join(format!("{name}.qcow2"));
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&disk)
            .arg(DISK_BYTES.to_string())
            .status();
        assert!(made.unwrap().success());
        disk
    }

    /// Takes in the record of a replica that waits for its first copy.
    pub fn adopt_replica(&self, name: &str) -> VmId {
        let vm = VmId::random();
        let settings = Settings {
            interval_s: 30,
            history: 4,
            history_every_s: 3600,
            auto_resynchronize: true,
            compress: true,
            ..Settings::default()
        };
        let peer: model::HostName = "b.example".parse().unwrap();
        let storage = self.root.as_ref().unwrap().join("replicas");
        fs::create_dir_all(&storage).unwrap();
        self.host.put_document(vm, "storage", &storage).unwrap();
        let generation = Generation::first(peer.clone());
        let own = self.host.name.clone();
        self.host.adopt(Relationship::replica(vm, name.into(), own, peer, settings, generation)).unwrap();
        vm
    }

    pub async fn all(&self, class: &str) -> Vec<Instance> {
        let (namespace, class) = (Namespace::from(V2), Name::from(class));
        self.hvr.enumerate(&self.caller, &namespace, &class).await.unwrap().try_collect().await.unwrap()
    }

    pub async fn query(&self, text: &str) -> Vec<Instance> {
        let query = wql::parse(text).unwrap();
        let namespace = Namespace::from(V2);
        let host = self.host.name.as_str();
        let found = cim::query::execute(&self.hvr, &self.caller, &namespace, query, host);
        found.await.unwrap().try_collect().await.unwrap()
    }

    pub async fn get(&self, path: &ObjectPath) -> Result<Instance, cim::Error> {
        self.hvr.get(&self.caller, path).await
    }

    pub async fn call(&self, target: &ObjectPath, method: &str, arguments: &[(&str, Value)]) -> MethodResult {
        let schema = self.hvr.schema(&V2.into()).unwrap();
        let class = schema.require(&target.class).unwrap();
        let given = arguments.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect();
        let checked = schema.arguments(class, &method.into(), given).unwrap();
        self.hvr.invoke(&self.caller, target, &method.into(), checked).await.unwrap()
    }

    /// The replication service.
    pub async fn service(&self) -> ObjectPath {
        self.all("Msvm_ReplicationService").await.remove(0).path.unwrap()
    }

    pub async fn events(&self, query: &str) -> InstanceStream {
        let wql::Query::Event(query) = wql::parse(query).unwrap() else {
            panic!("{query} is no event query")
        };
        self.hvr.events(&self.caller, &V2.into(), &query).await.unwrap()
    }

    /// The error that a job holds.
    pub async fn error_of(&self, job: &ObjectPath) -> Instance {
        let result = self.call(job, "GetErrorEx", &[]).await;
        let texts = out(&result, "Errors").as_array().unwrap().to_vec();
        let schema = self.hvr.schema(&V2.into()).unwrap();
        cim::embedded::read_as(texts[0].as_str().unwrap(), &schema).unwrap()
    }

    /// The job once it has ended, as events tell it.
    pub async fn ended(&self, job: &ObjectPath) -> Instance {
        let mut events = self
            .events(
                "SELECT * FROM __InstanceOperationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ConcreteJob'",
            )
            .await;
        let mut view = self.get(job).await.unwrap();
        while number(&view, "JobState") < 7 {
            next(&mut events).await;
            view = self.get(job).await.unwrap();
        }
        view
    }
}

/// A VM with this disk, `vda`, and this much memory.
pub fn domain(vm: VmId, name: &str, memory_mib: u64, disk: &Path) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{vm}</uuid><memory unit='MiB'>{memory_mib}</memory>\
         <vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <disk type='file'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
         <interface type='user'><mac address='52:54:00:12:34:56'/></interface>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
        disk.display()
    )
}

pub fn vm_path(vm: VmId) -> ObjectPath {
    ObjectPath::class(V2, "Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", vm.to_string().to_uppercase())
}

pub fn out<'a>(result: &'a MethodResult, name: &str) -> &'a Value {
    let found = result.out.iter().find(|(own, _)| own.is(name));
    found.map_or(&Value::Null, |(_, value)| value)
}

pub fn job(result: &MethodResult) -> ObjectPath {
    let path = out(result, "Job").as_path().expect("a job").clone();
    assert!(matches!(path.keys, Keys::Bindings(_)));
    path
}

pub fn code(result: &MethodResult) -> i128 {
    result.return_value.as_i128().unwrap()
}

pub fn number(instance: &Instance, name: &str) -> i128 {
    instance.get(name).and_then(Value::as_i128).unwrap_or(-1)
}

pub async fn next(events: &mut InstanceStream) -> Instance {
    tokio::time::timeout(BOUND, events.next()).await.expect("an event").expect("more events").unwrap()
}

pub fn target(event: &Instance) -> &Instance {
    event.get("TargetInstance").and_then(Value::as_instance).expect("an instance")
}
