//! Test failover: a second VM on overlays of a point, beside the replication that goes on.

use super::{owner, point, ready::point_failure};
use crate::{
    addresses,
    api::{ErrorKind, Failure, Reply, error::chain},
    clock::now_ms,
    config::TestFailoverConfig,
    host::{Host, document},
    owner::blocking,
    steps::{self, takeover},
};
use catalog::OverlayKind;
use hypervisor::{NetworkChoice, TestCopy, xml};
use layers::{LayersError, OverlayDisk};
use model::{DeltaId, Mode, ReplicationState, VmId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The test VM of a replica; written before anything of it exists.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestVm {
    pub vm: VmId,
    pub name: String,
    pub point: DeltaId,
    /// No point was chosen: it is whichever is the latest once there is an overlay on it.
    #[serde(default)]
    pub of_latest: bool,
    pub overlay: u32,
}

/// What the name of a test VM ends in.
pub const SUFFIX: &str = " - Test";

/// Overlays of test VMs are numbered by themselves; there is one test at a time.
const OVERLAY: u32 = 1;

/// Checks that a test is possible, and notes the test VM before anything of it exists.
pub fn prepare(
    host: &Arc<Host>,
    vm: &str,
    chosen: Option<&str>,
) -> Result<(engine::Relationship, TestVm), Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    let name = record.name.clone();
    let allowed = matches!(
        record.state,
        ReplicationState::Replicating
            | ReplicationState::Suspended
            | ReplicationState::FailbackComplete
            | ReplicationState::Critical
    );
    if record.mode == Mode::Primary {
        return Err(Failure::new(
            ErrorKind::WrongHost,
            "wrong-host",
            format!("a test failover of {name} runs on {}", record.peer),
        )
        .hint(format!("on {}: relevo failover {name} --test", record.peer)));
    }
    if !allowed {
        return Err(Failure::new(
            ErrorKind::InvalidState,
            "invalid-state",
            format!("a test failover of {name} is not possible in state `{}`", record.state),
        ));
    }
    if let Some(test) = host.document::<TestVm>(record.vm, document::TEST)? {
        return Err(Failure::new(ErrorKind::InUse, "test-exists", format!("{} exists already", test.name))
            .hint(format!("relevo failover {name} --test --end")));
    }
    let point = match chosen {
        Some(text) => point(host, record.vm, text)?,
        None => record.latest.ok_or_else(|| {
            Failure::new(ErrorKind::InvalidState, "no-point", format!("{name} has no recovery point yet"))
        })?,
    };
    let test = TestVm {
        vm: VmId::random(),
        name: format!("{name}{SUFFIX}"),
        point,
        of_latest: chosen.is_none(),
        overlay: OVERLAY,
    };
    host.put_document(record.vm, document::TEST, &test)?;
    Ok((record, test))
}

pub async fn begin(host: &Arc<Host>, vm: &str, chosen: Option<&str>, start: bool) -> Result<Reply, Failure> {
    let (record, mut test) = prepare(host, vm, chosen)?;
    let name = record.name.clone();
    let (job, _) = host.jobs.begin(Some((record.vm, &name)), "test failover", 102);
    let worker = host.clone();
    let vm = record.vm;
    host.tasks.spawn(async move {
        let (jobs, copy) = (worker.jobs.clone(), worker.clone());
        let made = blocking(move || make(&worker, vm, &mut test, start).map(|()| test)).await;
        match made {
            Ok(test) => jobs.end(
                job,
                Ok(format!(
                    "`{}` {}; end it with `relevo failover {name} --test --end`",
                    test.name,
                    if start { "runs" } else { "is defined" }
                )),
            ),
            Err(failure) => {
                let cleaned = blocking(move || remove(&copy, vm)).await;
                if let Err(error) = cleaned {
                    tracing::error!(%error, "cannot clean up a failed test failover");
                }
                jobs.end(job, Err(failure));
            }
        }
    });
    host.jobs
        .view(job)
        .map(|view| Reply::Job(Box::new(view)))
        .ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

/// Makes the overlay on the point. One that was the latest may have merged with the next one meanwhile.
fn make_overlay(host: &Host, vm: VmId, test: &mut TestVm) -> Result<Vec<OverlayDisk>, Failure> {
    let store = host.store(vm)?;
    loop {
        let made = store.make_overlay(OverlayKind::Test, test.point, test.overlay, None);
        let record = owner(host, &vm.to_string())?.record();
        match (made, record.latest) {
            (Ok(overlays), _) => return Ok(overlays),
            (Err(LayersError::UnknownPoint { .. }), Some(latest))
                if test.of_latest && latest != test.point =>
            {
                test.point = latest;
                host.put_document(vm, document::TEST, &test)?;
            }
            (Err(error), _) => return Err(point_failure(&record, test.point, error)),
        }
    }
}

pub fn make(host: &Host, vm: VmId, test: &mut TestVm, start: bool) -> Result<(), Failure> {
    let overlays = make_overlay(host, vm, test)?;
    let store = host.store(vm)?;
    let text = steps::domain_xml(&store, test.point)?;
    let small_files = steps::small_files(&store, test.point)?;
    let TestFailoverConfig { network, networks } = &host.config.test_failover;
    let networks = match network {
        _ if !networks.is_empty() => NetworkChoice::Map(networks.clone()),
        Some(network) => NetworkChoice::One(network.clone()),
        None => NetworkChoice::Unplug,
    };
    let nvram = store.folder().join("nvram-test.fd");
    let has_nvram = small_files.iter().any(|(name, _)| name == "nvram");
    let copy = TestCopy {
        name: test.name.clone(),
        vm: test.vm,
        networks,
        adapters: addresses::test_networks(host, vm),
        nvram: has_nvram.then(|| nvram.clone()),
    };
    let disks = host.disks(vm)?;
    let edited = takeover::domain_on(&text, &disks, &overlays, true)
        .and_then(|text| xml::rename_cpu(&text, &host.config.cpu_models))
        .and_then(|text| takeover::place_nvram(&text, &small_files, &nvram))
        .and_then(|text| xml::for_test_copy(&text, &copy))
        .map_err(|e| Failure::internal("edit the point's domain", &e))?;
    let libvirt = |doing: &str, e: &hypervisor::Error| {
        Failure::new(ErrorKind::Failed, "test-vm", format!("cannot {doing} the test VM: {}", chain(e)))
    };
    takeover::place_tpm(&host.hypervisor, &edited, &small_files);
    host.hypervisor.define(&edited).map_err(|e| libvirt("define", &e))?;
    host.put_document(vm, document::LAST_TEST, &now_ms())?;
    if start {
        host.hypervisor.start(test.vm).map_err(|e| libvirt("start", &e))?;
    }
    Ok(())
}

pub async fn end(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let name = owner.record().name;
    let Some(test) = host.document::<TestVm>(owner.vm, document::TEST)? else {
        return Err(Failure::new(
            ErrorKind::InvalidState,
            "no-test",
            format!("there is no test VM of {name}"),
        ));
    };
    let (copy, vm) = (host.clone(), owner.vm);
    blocking(move || remove(&copy, vm)).await?;
    crate::upkeep::after_point(host, owner.vm);
    Ok(Reply::Done { message: format!("`{}` and its overlays are removed", test.name) })
}

/// Stops and removes the test VM with everything of it; what is gone already is no error.
pub fn remove(host: &Host, vm: VmId) -> Result<(), Failure> {
    let Some(test) = host.document::<TestVm>(vm, document::TEST)? else { return Ok(()) };
    let libvirt = |e: hypervisor::Error| Failure::internal("remove the test VM", &e);
    if host.hypervisor.domain(test.vm).map_err(libvirt)?.is_some() {
        if host.hypervisor.is_active(test.vm).map_err(libvirt)? {
            host.hypervisor.destroy(test.vm).map_err(libvirt)?;
        }
        host.hypervisor.undefine(test.vm).map_err(libvirt)?;
    }
    let store = host.store(vm)?;
    store
        .drop_overlay(OverlayKind::Test, test.overlay)
        .map_err(|e| Failure::internal("drop the test overlay", &e))?;
    let _ = std::fs::remove_file(store.folder().join("nvram-test.fd"));
    host.drop_document(vm, document::TEST)
}
