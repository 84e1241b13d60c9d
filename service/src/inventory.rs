//! VMs as the management protocols see them: more than the command line shows, and cheap enough to be asked of a
//! thousand. No look into an image, no list of all domains for one of them.

use crate::{
    api::{Failure, IntervalView, PointView, RelationshipView, VmView},
    clock::rfc3339,
    commands::test::{self, TestVm},
    host::{Host, document},
    owner::{OwnerHandle, Snapshot, blocking, libvirt},
    views,
};
use engine::{Step, Work};
use model::{DeltaId, Health, Mode, PointKind, VmId};
use std::{collections::BTreeSet, sync::Arc};

/// What of a VM is wanted; a relationship is always looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The VM itself, from its domain.
    pub vm: bool,
    pub points: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub id: VmId,
    /// `None` where it was not asked for.
    pub vm: Option<VmView>,
    /// `None` where no domain is defined here, or it was not asked for.
    pub memory_bytes: Option<u64>,
    pub vcpus: Option<u32>,
    pub replication: Option<Replication>,
    /// The relationship that forwards the replica to a third host.
    pub extended: Option<Replication>,
    /// Recovery points kept here, oldest first; empty where they were not asked for.
    pub points: Vec<PointView>,
    /// This is the test VM of that replica.
    pub test_of: Option<VmId>,
}

/// A relationship with what only management protocols show.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    pub view: RelationshipView,
    pub auto_resynchronize: bool,
    pub drill_every_s: u32,
    pub resync_window: engine::Window,
    pub compress: bool,
    pub bypass_proxy: bool,
    /// When a delta was last acknowledged (primary) or received (replica).
    pub last_success_at: Option<String>,
    /// Since when the counters count, if an operator reset them.
    pub statistics_since: Option<String>,
    /// The monitoring interval before the one under way.
    pub last_interval: Option<IntervalView>,
    /// The point that the VM was failed over to, until its overlay is merged down.
    pub failed_over: Option<(DeltaId, PointKind)>,
    pub test_vm: Option<VmId>,
    /// Of the cut that is on its way.
    pub pending_bytes: Option<u64>,
}

/// A virtual network of this host's libvirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    pub uuid: String,
    pub name: String,
    pub active: bool,
}

/// The host's virtual networks, by name; none where libvirt does not tell.
pub async fn networks(host: &Arc<Host>) -> Vec<NetworkView> {
    let host = host.clone();
    let listed = match libvirt(move || host.hypervisor.networks()).await {
        Ok(Ok(listed)) => listed,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no networks");
            vec![]
        }
        Err(failure) => {
            tracing::debug!(%failure, "no networks");
            vec![]
        }
    };
    let view = |network: hypervisor::NetworkInfo| NetworkView {
        uuid: network.uuid,
        name: network.name,
        active: network.active,
    };
    listed.into_iter().map(view).collect()
}

/// All VMs of this host: libvirt's, and those that it holds replicas of. In the order of their ids.
pub async fn vm_ids(host: &Arc<Host>) -> Result<Vec<VmId>, Failure> {
    let host = host.clone();
    libvirt(move || {
        let defined = host.hypervisor.ids().map_err(|e| Failure::internal("list the VMs", &e))?;
        let owned = host.all_owners().into_iter().map(|owner| owner.vm);
        let ids: BTreeSet<_> = owned.chain(defined).collect();
        Ok(ids.into_iter().collect())
    })
    .await?
}

/// Those of the VMs that are there.
pub async fn machines(host: &Arc<Host>, ids: Vec<VmId>, parts: Parts) -> Result<Vec<Machine>, Failure> {
    let host = host.clone();
    libvirt(move || ids.into_iter().filter_map(|id| machine(&host, id, parts).transpose()).collect()).await?
}

fn machine(host: &Host, id: VmId, parts: Parts) -> Result<Option<Machine>, Failure> {
    let owner = host.owner(id);
    let domain = if parts.vm || owner.is_none() {
        host.hypervisor.sketch(id).map_err(|e| Failure::internal("look at the VM", &e))?
    } else {
        None
    };
    let mut machine = bare(host, id, owner.as_ref(), parts);
    let health = machine.replication.as_ref().map_or(Health::NotApplicable, |it| it.view.health);
    let (view, memory_bytes, vcpus) = match (&domain, &owner) {
        (Some(domain), _) => (views::vm(host, domain, health), domain.memory_bytes, domain.vcpus),
        (None, Some(owner)) if parts.vm => {
            let hardware = views::point_hardware(host, id);
            let view = views::without_domain(host, owner, health, &hardware.interfaces);
            (view, hardware.memory_bytes, hardware.vcpus)
        }
        (None, Some(_)) => return Ok(Some(machine)),
        (None, None) => return Ok(None),
    };
    // A replica without a point has none.
    let known = |count: u64| (count > 0).then_some(count);
    (machine.memory_bytes, machine.vcpus) = (known(memory_bytes), known(vcpus.into()).and(Some(vcpus)));
    if owner.is_none() && view.name.ends_with(test::SUFFIX) {
        machine.test_of = test_of(host, id);
    }
    Ok(Some(Machine { vm: Some(view), ..machine }))
}

/// What is known without the domain.
fn bare(host: &Host, id: VmId, owner: Option<&OwnerHandle>, parts: Parts) -> Machine {
    let held = owner.is_some_and(|owner| owner.mode().is_replica());
    let points = if parts.points && held { views::points(host, id).unwrap_or_default() } else { vec![] };
    let replication = owner.map(|owner| replication_of(host, owner));
    let extended = host.extended(id).map(|owner| replication_of(host, &owner));
    Machine { id, vm: None, memory_bytes: None, vcpus: None, replication, extended, points, test_of: None }
}

impl Machine {
    /// By index.
    pub fn relationships(&self) -> impl Iterator<Item = &Replication> {
        self.replication.iter().chain(&self.extended)
    }
}

fn replication_of(host: &Host, owner: &OwnerHandle) -> Replication {
    let record = owner.record();
    let test: Option<TestVm> = host.document(record.vm, document::TEST).ok().flatten();
    Replication {
        view: views::relationship(host, owner),
        auto_resynchronize: record.settings.auto_resynchronize,
        drill_every_s: record.settings.drill_every_s,
        resync_window: record.settings.resync_window,
        compress: record.settings.compress,
        bypass_proxy: record.settings.bypass_proxy,
        last_success_at: record.statistics.last_success_ms.map(rfc3339),
        last_interval: record.statistics.last_interval.as_ref().map(views::interval),
        statistics_since: record.statistics.reset_ms.map(rfc3339),
        failed_over: record.failed_over.map(|failed_over| (failed_over.point, failed_over.point_kind)),
        test_vm: test.map(|test| test.vm),
        pending_bytes: pending_bytes(&owner.snapshot()),
    }
}

/// What of the delta that is being shipped is not sent yet; 0 between two of them.
fn pending_bytes(snapshot: &Snapshot) -> Option<u64> {
    use std::sync::atomic::Ordering::Relaxed;
    if snapshot.record.mode != Mode::Primary {
        return None;
    }
    let ships = matches!(snapshot.record.work.as_ref().and_then(Work::step), Some(Step::Ship { .. }));
    let (done, total) = (snapshot.progress.done.load(Relaxed), snapshot.progress.total.load(Relaxed));
    Some(if ships { total.saturating_sub(done) } else { 0 })
}

fn test_of(host: &Host, id: VmId) -> Option<VmId> {
    let has =
        |vm| host.document::<TestVm>(vm, document::TEST).ok().flatten().is_some_and(|test| test.vm == id);
    host.all_owners().into_iter().map(|owner| owner.vm).find(|vm| has(*vm))
}

/// The replica that has this point.
pub async fn vm_of_point(host: &Arc<Host>, point: DeltaId) -> Option<VmId> {
    let host = host.clone();
    blocking(move || {
        let has = |vm| host.catalog.points(vm).is_ok_and(|points| points.iter().any(|p| p.delta == point));
        host.all_owners().into_iter().map(|owner| owner.vm).find(|vm| has(*vm))
    })
    .await
}
