//! Steps on the VM's own domain: stop, undefine, define again, start.

use super::{StepContext, hypervisor_failure, recoverable};
use crate::host::document;
use engine::{StepFailure, WorkKind};
use hypervisor::{DomainState, Hypervisor};
use model::VmId;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Longer than a guest takes that heard the first press.
const PRESS_EVERY: Duration = Duration::from_secs(20);

/// Shuts the guest down through ACPI and waits. A guest that does not go is refused, or with `force`
/// stopped.
pub fn stop_guest(c: &StepContext, force: bool) -> Result<(), StepFailure> {
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    let Some(domain) = hypervisor.domain(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? else {
        return Ok(());
    };
    if domain.has_managed_save {
        return Err(StepFailure::Refused(
            "the VM has a managed-save image, which would be lost: start it, or remove the image with `virsh managedsave-remove`"
                .to_owned(),
        ));
    }
    if !hypervisor.is_active(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? {
        return Ok(());
    }
    if domain.state == DomainState::Paused {
        hypervisor.resume(vm).map_err(|e| hypervisor_failure("resume the paused VM", &e))?;
    }
    let timeout = Duration::from_secs(c.host.config.shutdown_timeout_s);
    match press_until_off(hypervisor, vm, timeout)
        .map_err(|e| hypervisor_failure("shut the guest down", &e))?
    {
        true => Ok(()),
        false if force => hypervisor.destroy(vm).map_err(|e| hypervisor_failure("stop the VM", &e)),
        false => Err(StepFailure::Refused(format!(
            "the guest did not shut down within {} s; shut it down from inside, or use --force to pull its plug",
            timeout.as_secs()
        ))),
    }
}

/// Presses the power button, again and again: a guest that is still booting does not hear it. False when it
/// is not off within `timeout`.
fn press_until_off(hypervisor: &Hypervisor, vm: VmId, timeout: Duration) -> hypervisor::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        match hypervisor.shutdown(vm) {
            // It went off meanwhile.
            Ok(()) | Err(hypervisor::Error::NotRunning { .. }) => {}
            Err(error) => return Err(error),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match hypervisor.wait_for_state(vm, DomainState::ShutOff, left.min(PRESS_EVERY)) {
            Ok(()) => return Ok(true),
            Err(hypervisor::Error::StateTimeout { .. }) if left > PRESS_EVERY => {}
            Err(hypervisor::Error::StateTimeout { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// The right may have moved since the step was planned: asked right before it is used.
pub fn require_right(c: &StepContext) -> Result<(), StepFailure> {
    let holds = c.host.owner(c.record.vm).is_some_and(|owner| owner.record().may_run());
    if holds { Ok(()) } else { Err(StepFailure::Superseded) }
}

pub fn destroy(c: &StepContext) -> Result<(), StepFailure> {
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    if hypervisor.is_active(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? {
        hypervisor.destroy(vm).map_err(|e| hypervisor_failure("stop the VM", &e))?;
    }
    Ok(())
}

/// Persists what libvirt forgets, then undefines and verifies that nothing is left.
pub fn undefine(c: &StepContext) -> Result<(), StepFailure> {
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    let Some(domain) = hypervisor.domain(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? else {
        return Ok(());
    };
    if domain.has_managed_save {
        return Err(StepFailure::Refused("the VM has a managed-save image, which would be lost".to_owned()));
    }
    take_overlays_off(c)?;
    let xml = hypervisor.xml(vm, true).map_err(|e| hypervisor_failure("read the VM's definition", &e))?;
    c.host.put_document(vm, document::OWN_XML, &xml).map_err(|f| recoverable(&f))?;
    hypervisor.undefine(vm).map_err(|e| StepFailure::Refused(crate::api::error::chain(&e)))?;
    // From here on nobody can start it. Whoever did before left a trace on the disks.
    let quiet: Option<Vec<(PathBuf, i64)>> =
        c.host.document(vm, document::QUIET).map_err(|f| recoverable(&f))?;
    let handing_over = c.record.work.as_ref().is_some_and(|work| work.kind == WorkKind::Prepare);
    if handing_over
        && quiet.is_some_and(|quiet| quiet.iter().any(|(path, changed)| changed_at(path) != *changed))
    {
        return Err(StepFailure::Refused("the VM was started while it was being handed over".to_owned()));
    }
    Ok(())
}

/// Rolling overlays hold a part of the disks' content: it goes into the disks while the domain is still
/// there to tell which overlay stands on which disk.
pub fn take_overlays_off(c: &StepContext) -> Result<(), StepFailure> {
    let capture = c.host.capture(c.record.vm).map_err(|f| recoverable(&f))?;
    if capture.disks.is_empty() || capture.tracking() != capture::Tracking::RollingOverlay {
        return Ok(());
    }
    capture.release().map_err(|e| super::capture_failure(&e))
}

/// Remembers when the disks of the VM, which is off and has been cut for the last time, were last changed.
pub fn remember_quiet(c: &StepContext) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let domain = host.hypervisor.domain(vm).map_err(|e| hypervisor_failure("look at the VM", &e))?;
    let paths =
        domain.into_iter().flat_map(|domain| domain.disks).filter_map(|disk| disk.path().map(Path::to_owned));
    let quiet: Vec<(PathBuf, i64)> = paths.map(|path| (path.clone(), changed_at(&path))).collect();
    host.put_document(vm, document::QUIET, &quiet).map_err(|f| recoverable(&f))
}

/// Nanoseconds since 1970; 0 for what is not there.
fn changed_at(path: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(0, |meta| meta.mtime() * 1_000_000_000 + meta.mtime_nsec())
}

/// Defines the domain as it was before [`undefine`]. Its disks stand where they stood.
pub fn define_own(c: &StepContext) -> Result<(), StepFailure> {
    require_right(c)?;
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    if hypervisor.domain(vm).map_err(|e| hypervisor_failure("look at the VM", &e))?.is_some() {
        return Ok(());
    }
    let xml: Option<String> = c.host.document(vm, document::OWN_XML).map_err(|f| recoverable(&f))?;
    let Some(xml) = xml else {
        return Err(StepFailure::Fatal("the VM's definition is not in the catalog".to_owned()));
    };
    hypervisor.define(&xml).map_err(|e| hypervisor_failure("define the VM", &e))?;
    hypervisor.set_autostart(vm, false).map_err(|e| hypervisor_failure("take its autostart over", &e))
}

pub fn start(c: &StepContext) -> Result<(), StepFailure> {
    require_right(c)?;
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    if hypervisor.is_active(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? {
        return Ok(());
    }
    hypervisor.start(vm).map_err(|e| StepFailure::Refused(crate::api::error::chain(&e)))
}

/// The token came back: a VM that was paused because of it goes on.
pub fn resume(c: &StepContext) -> Result<(), StepFailure> {
    require_right(c)?;
    let (hypervisor, vm) = (&c.host.hypervisor, c.record.vm);
    match hypervisor.state(vm).map_err(|e| hypervisor_failure("look at the VM", &e))? {
        Some(DomainState::Paused) => {
            hypervisor.resume(vm).map_err(|e| hypervisor_failure("resume the VM", &e))
        }
        _ => Ok(()),
    }
}
