//! Every return code of InitiateFailover and InitiateFailback, from its cause: files, libvirt, the host's limits, and
//! another host that answers as it is told to. With each refusal comes an `Msvm_Error`.
//!
//! InitiateFailback never answers 0: it has work to do wherever it is possible.

#[path = "support/situations.rs"]
mod situations;
mod support;

use cim::{Instance, MethodResult, ObjectPath, Provider, Role, Value, embedded};
use engine::standing::{Standing, TokenKind};
use futures::{FutureExt, future::BoxFuture};
use hvr::schema::V2;
use model::{Generation, Mode, ReplicationState, VmId};
use serde_json::json;
use service::{config::Dirs, document};
use situations::make;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};
use support::{Stage, code, domain, job, vm_path};
use testkit::{TempRoot, free_port};
use transport::{ChunkStream, DeltaHeader, Handler, Peer, Server, Tls};

/// A host that answers every message with this.
struct Puppet(Mutex<serde_json::Value>);

impl Handler for Puppet {
    fn call<'a>(
        &'a self,
        _: &'a Peer,
        _: serde_json::Value,
    ) -> BoxFuture<'a, Result<serde_json::Value, serde_json::Value>> {
        async { Ok(self.0.lock().unwrap().clone()) }.boxed()
    }

    fn receive<'a>(
        &'a self,
        _: &'a Peer,
        _: DeltaHeader,
        _: ChunkStream,
    ) -> BoxFuture<'a, Result<serde_json::Value, serde_json::Value>> {
        async { Err(json!("nothing is received here")) }.boxed()
    }
}

impl Puppet {
    fn says(&self, standing: Option<&Standing>, work: Option<&str>) {
        *self.0.lock().unwrap() =
            json!({ "standing": standing, "work": work, "last_failure": null, "result": "done" });
    }

    /// Begins to answer as b.example, with a certificate of the stage's authority.
    fn perform(stage: &Stage, port: u16) -> (Arc<Puppet>, Server, TempRoot) {
        let root = TempRoot::new().unwrap();
        let (theirs, bundle) = (Dirs::new(Some(root.path())), root.join("b.bundle"));
        let ours = Dirs::new(Some(stage.root()));
        service::certs::issue(&ours, &"b.example".parse().unwrap(), &bundle).unwrap();
        service::certs::install(&theirs, &bundle, None).unwrap();
        let tls = Tls::new(service::daemon::identity(&theirs).unwrap()).unwrap();
        let puppet = Arc::new(Puppet(Mutex::default()));
        let server = Server::bind(([127, 0, 0, 1], port).into(), tls, puppet.clone()).unwrap();
        (puppet, server, root)
    }
}

/// Calls the method on the VM, and says which code it answers; a refusal has an error that says more.
async fn answer(stage: &Stage, method: &str, vm: VmId) -> i128 {
    let own = [("ComputerSystem", Value::from(vm_path(vm)))];
    answer_to(stage, method, &own).await
}

async fn answer_to(stage: &Stage, method: &str, arguments: &[(&str, Value)]) -> i128 {
    let result: MethodResult = stage.call(&stage.service().await, method, arguments).await;
    if code(&result) > 4096 {
        let error = stage.error_of(&job(&result)).await;
        assert!(error.class.is("Msvm_Error"), "{error:?}");
        let said = ["MessageID", "Message", "CIMStatusCodeDescription"].map(|name| error.text(name));
        assert!(said.iter().all(|text| text.is_some_and(|text| !text.is_empty())), "{error:?}");
    }
    code(&result)
}

/// The newest layer of a replica's disk.
fn layer(stage: &Stage, vm: VmId) -> PathBuf {
    let point = stage.host.owner(vm).unwrap().record().latest.unwrap();
    let (_, mut chain) = stage.host.store(vm).unwrap().chain(point).unwrap().remove(0);
    chain.pop().unwrap().path
}

/// The definition that its newest point has.
fn definition(stage: &Stage, vm: VmId) -> PathBuf {
    let point = stage.host.owner(vm).unwrap().record().latest.unwrap();
    stage.host.store(vm).unwrap().folder().join(format!("{point}.domain.xml"))
}

/// Nothing can open a link to itself, root included.
fn spoil(file: &Path) {
    fs::remove_file(file).unwrap();
    std::os::unix::fs::symlink(file, file).unwrap();
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

const MACHINE: (&str, &str) = ("machine='q35'", "machine='abacus'");
const MEMORY: (&str, &str) = ("<memory unit='MiB'>64</memory>", "<memory unit='TiB'>4096</memory>");

#[tokio::test(flavor = "multi_thread")]
async fn initiate_failover_answers_with_every_code() {
    const METHOD: &str = "InitiateFailover";
    let mut stage = Stage::with(situations::CONFIG).await;
    let replica = async |stage: &Stage| make(stage, "replica 3").await;

    let vm = replica(&stage).await;
    assert_eq!(answer(&stage, METHOD, vm).await, 4096);
    let latest = stage.host.owner(vm).unwrap().record().latest.unwrap().to_string().to_uppercase();
    let point = ObjectPath::class(V2, "Msvm_VirtualSystemSettingData")
        .with("InstanceID", format!("Microsoft:{latest}"));
    let at = |point: ObjectPath| {
        [("ComputerSystem", Value::from(vm_path(vm))), ("SnapshotSettingData", point.into())]
    };
    let mut events = stage.events("SELECT * FROM __InstanceModificationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ReplicationRelationship'").await;
    while stage.host.owner(vm).unwrap().record().state != ReplicationState::Recovered
        || stage.host.owner(vm).unwrap().snapshot().job.is_some()
    {
        let _ = tokio::time::timeout(Duration::from_secs(1), futures::StreamExt::next(&mut events)).await;
    }
    assert_eq!(answer_to(&stage, METHOD, &at(point)).await, 0, "it is there already");
    assert_eq!(answer_to(&stage, METHOD, &at(vm_path(vm))).await, 32776);
    assert_eq!(answer(&stage, METHOD, vm).await, 32775);
    assert_eq!(answer_to(&stage, METHOD, &[]).await, 32773);
    assert_eq!(answer(&stage, METHOD, VmId::random()).await, 32777);
    let busy = make(&stage, "replica 12").await;
    assert_eq!(answer(&stage, METHOD, busy).await, 32774);

    let vm = replica(&stage).await;
    spoil(&layer(&stage, vm));
    assert_eq!(answer(&stage, METHOD, vm).await, 32768);
    let vm = replica(&stage).await;
    fs::remove_file(layer(&stage, vm)).unwrap();
    assert_eq!(answer(&stage, METHOD, vm).await, 32779);
    let vm = replica(&stage).await;
    edit(&definition(&stage, vm), MACHINE.0, MACHINE.1);
    assert_eq!(answer(&stage, METHOD, vm).await, 32770);
    let vm = replica(&stage).await;
    edit(&definition(&stage, vm), MEMORY.0, MEMORY.1);
    assert_eq!(answer(&stage, METHOD, vm).await, 32778);

    let vm = replica(&stage).await;
    stage.host.hypervisor.breaks(true);
    assert_eq!(answer(&stage, METHOD, vm).await, 32771);
    stage.host.hypervisor.breaks(false);
    assert_eq!(while_libvirt_is_silent(&stage, METHOD, vm).await, 32772);
    stage.caller.role = Role::Reader;
    assert_eq!(answer(&stage, METHOD, vm).await, 32769);
    assert_eq!(stage.host.owner(vm).unwrap().record().state, ReplicationState::Replicating);
    stage.caller.role = Role::Operator;
    assert_eq!(answer(&stage, METHOD, vm).await, 4096, "nothing of that has done harm");
}

/// All threads that may wait for libvirt do.
async fn while_libvirt_is_silent(stage: &Stage, method: &str, vm: VmId) -> i128 {
    let (gates, waiting): (Vec<_>, Vec<_>) = (0..BLOCKING_THREADS)
        .map(|_| {
            let (gate, opened) = mpsc::channel::<()>();
            (gate, tokio::task::spawn_blocking(move || opened.recv()))
        })
        .unzip();
    let own = [("ComputerSystem", Value::from(vm_path(vm)))];
    let result = stage.call(&stage.service().await, method, &own).await;
    drop(gates);
    for each in waiting {
        each.await.unwrap().unwrap_err();
    }
    code(&result)
}

/// tokio's default.
const BLOCKING_THREADS: usize = 512;

#[tokio::test(flavor = "multi_thread")]
async fn initiate_failback_answers_with_every_code_but_0() {
    const METHOD: &str = "InitiateFailback";
    let port = free_port().unwrap();
    let mut stage =
        Stage::with(&situations::CONFIG.replacen("127.0.0.1:1", &format!("127.0.0.1:{port}"), 1)).await;
    let taken = async |stage: &Stage| make(stage, "primary 3 (taken over)").await;
    let vm = taken(&stage).await;
    assert_eq!(answer(&stage, METHOD, vm).await, 32777, "the other host is silent");
    assert_eq!(answer(&stage, METHOD, VmId::random()).await, 32777);
    assert_eq!(answer_to(&stage, METHOD, &[]).await, 32773);
    let own = make(&stage, "primary 3").await;
    assert_eq!(answer(&stage, METHOD, own).await, 32775);
    let schema = stage.hvr.schema(&V2.into()).unwrap();
    let foreign = Instance::new("Msvm_ComputerSystem");
    let foreign = embedded::write(&schema.conform(&foreign).unwrap(), &schema);
    let foreign = [("ComputerSystem", Value::from(vm_path(vm))), ("ReplicationSettingData", foreign.into())];
    assert_eq!(answer_to(&stage, METHOD, &foreign).await, 32776);

    let disk = |vm: VmId| stage.host.disks(vm).unwrap()[0].path.clone().unwrap();
    let spoiled = taken(&stage).await;
    spoil(&disk(spoiled));
    assert_eq!(answer(&stage, METHOD, spoiled).await, 32768);
    let lost = taken(&stage).await;
    fs::remove_file(disk(lost)).unwrap();
    assert_eq!(answer(&stage, METHOD, lost).await, 32779);
    for ((from, to), wanted) in [(MACHINE, 32770), (MEMORY, 32778)] {
        // Its definition stands with us, as after a hand-over.
        let vm = taken(&stage).await;
        stage.host.hypervisor.undefine(vm).unwrap();
        let xml = domain(vm, &vm.to_string(), 64, &disk(vm)).replacen(from, to, 1);
        stage.host.put_document(vm, document::OWN_XML, &xml).unwrap();
        assert_eq!(answer(&stage, METHOD, vm).await, wanted);
    }

    let (puppet, _server, _root) = Puppet::perform(&stage, port);
    let generation =
        Generation { number: 2, owner: "b.example".parse().unwrap(), nonce: uuid::Uuid::new_v4() };
    let mut standing = Standing {
        generation,
        token: TokenKind::Held,
        mode: Mode::Replica,
        state: ReplicationState::Recovered,
        latest: stage.host.owner(vm).unwrap().record().latest,
        running: true,
    };
    puppet.says(None, None);
    assert_eq!(answer(&stage, METHOD, vm).await, 32771, "it does not say how it stands");
    standing.state = ReplicationState::FailoverInProgress;
    puppet.says(Some(&standing), Some("failover"));
    assert_eq!(answer(&stage, METHOD, vm).await, 32774, "it is busy");
    standing.state = ReplicationState::Replicating;
    puppet.says(Some(&standing), None);
    assert_eq!(answer(&stage, METHOD, vm).await, 32775, "it has not taken the VM over");

    assert_eq!(while_libvirt_is_silent(&stage, METHOD, vm).await, 32772);
    stage.caller.role = Role::Reader;
    assert_eq!(answer(&stage, METHOD, vm).await, 32769);
    stage.caller.role = Role::Operator;
    standing.state = ReplicationState::Recovered;
    puppet.says(Some(&standing), None);
    assert_eq!(answer(&stage, METHOD, vm).await, 4096);
}
