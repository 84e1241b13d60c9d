//! VMs as the management protocols see them: more than the command line shows, and cheap enough to be asked of a
//! thousand. No look into an image, no list of all domains for one of them.

use crate::{
    api::{Failure, PointView, RelationshipView, VmView},
    clock::rfc3339,
    commands::test::{self, TestVm},
    host::{Host, document},
    owner::{OwnerHandle, blocking},
    views,
};
use model::{DeltaId, Mode, PointKind, VmId};
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
    /// When a delta was last acknowledged (primary) or received (replica).
    pub last_success_at: Option<String>,
    /// Since when the counters count, if an operator reset them.
    pub statistics_since: Option<String>,
    /// The point that the VM was failed over to, until its overlay is merged down.
    pub failed_over: Option<(DeltaId, PointKind)>,
    pub test_vm: Option<VmId>,
}

/// All VMs of this host: libvirt's, and those that it holds replicas of. In the order of their ids.
pub async fn vm_ids(host: &Arc<Host>) -> Result<Vec<VmId>, Failure> {
    let host = host.clone();
    blocking(move || {
        let defined = host.hypervisor.ids().map_err(|e| Failure::internal("list the VMs", &e))?;
        let owned = host.all_owners().into_iter().map(|owner| owner.vm);
        let ids: BTreeSet<_> = owned.chain(defined).collect();
        Ok(ids.into_iter().collect())
    })
    .await
}

/// Those of the VMs that are there.
pub async fn machines(host: &Arc<Host>, ids: Vec<VmId>, parts: Parts) -> Result<Vec<Machine>, Failure> {
    let host = host.clone();
    blocking(move || ids.into_iter().filter_map(|id| machine(&host, id, parts).transpose()).collect()).await
}

fn machine(host: &Host, id: VmId, parts: Parts) -> Result<Option<Machine>, Failure> {
    let owner = host.owner(id);
    let domain = if parts.vm || owner.is_none() {
        host.hypervisor.sketch(id).map_err(|e| Failure::internal("look at the VM", &e))?
    } else {
        None
    };
    let view = match (&domain, &owner) {
        (Some(domain), _) => views::vm(host, domain),
        (None, Some(owner)) if parts.vm => views::without_domain(host, owner),
        (None, Some(_)) => {
            return Ok(Some(Machine { vm: None, ..bare(host, id, owner.as_ref(), parts) }));
        }
        (None, None) => return Ok(None),
    };
    let test_of = if owner.is_none() && view.name.ends_with(test::SUFFIX) { test_of(host, id) } else { None };
    let mut machine = bare(host, id, owner.as_ref(), parts);
    if let Some(domain) = &domain {
        (machine.memory_bytes, machine.vcpus) = (Some(domain.memory_bytes), Some(domain.vcpus));
    }
    Ok(Some(Machine { vm: Some(view), test_of, ..machine }))
}

/// What is known without the domain.
fn bare(host: &Host, id: VmId, owner: Option<&OwnerHandle>, parts: Parts) -> Machine {
    let held = owner.is_some_and(|owner| owner.mode() == Mode::Replica);
    let points = if parts.points && held { views::points(host, id).unwrap_or_default() } else { vec![] };
    let replication = owner.map(|owner| replication(host, owner));
    Machine { id, vm: None, memory_bytes: None, vcpus: None, replication, points, test_of: None }
}

fn replication(host: &Host, owner: &OwnerHandle) -> Replication {
    let record = owner.record();
    let test: Option<TestVm> = host.document(record.vm, document::TEST).ok().flatten();
    Replication {
        view: views::relationship(host, owner),
        auto_resynchronize: record.settings.auto_resynchronize,
        last_success_at: record.statistics.last_success_ms.map(rfc3339),
        statistics_since: record.statistics.reset_ms.map(rfc3339),
        failed_over: record.failed_over.map(|failed_over| (failed_over.point, failed_over.point_kind)),
        test_vm: test.map(|test| test.vm),
    }
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
