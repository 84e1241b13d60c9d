//! Defining, starting and stopping domains.

use crate::{Change, DomainState, Error, Event, Hypervisor, Result, error, xml};
use model::VmId;
use std::{
    sync::{PoisonError, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};
use virt::{domain::Domain, error::ErrorNumber, sys};

/// How often a waiter looks for itself, should an event be lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a start right after a stop is tried again: the old QEMU may hold its image locks and its
/// monitor for a moment after libvirt says that the domain is off.
const START_RETRY: Duration = Duration::from_secs(10);
const START_RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Hypervisor {
    /// Defines a domain, or redefines the one with the same UUID. Does not start it. What was remembered of a
    /// migration of it goes with the old definition.
    pub fn define(&self, xml: &str) -> Result<VmId> {
        let domain = self.connection().define_domain_xml(xml).map_err(|source| Error::Define { source })?;
        let vm = domain.uuid().map(VmId).map_err(|source| Error::Define { source })?;
        self.remember_migrated(vm, false);
        Ok(vm)
    }

    /// Removes the definition and libvirt's records of checkpoints and snapshots; keeps bitmaps, disks,
    /// NVRAM and TPM state. Returns once the domain is seen to be gone; one that runs, or that came back, is
    /// [`Error::StillThere`]. Gone already is success.
    pub fn undefine(&self, vm: VmId) -> Result<()> {
        let Some(domain) = self.lookup_optional(vm)? else { return Ok(()) };
        let saved = domain.has_managed_save(0);
        if saved.map_err(|source| Error::Call { what: "ask for a saved state of", vm, source })? {
            return Err(Error::HasManagedSave { vm });
        }
        if self.is_active(vm)? {
            return Err(Error::StillThere { vm });
        }
        let flags = sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;
        domain.undefine_flags(flags).map_err(|source| Error::Call { what: "undefine", vm, source })?;
        // Someone may have started it in between: it would run on as a transient domain.
        if self.lookup_optional(vm)?.is_some() { Err(Error::StillThere { vm }) } else { Ok(()) }
    }

    /// Starts a defined domain; running already is success. One that was live-migrated away is [`Error::Migrated`]: its
    /// disks may have no locks that hold between hosts.
    pub fn start(&self, vm: VmId) -> Result<()> {
        self.start_with(vm, 0)
    }

    /// Starts with the processors stopped; [`Self::resume`] lets it go.
    pub fn start_paused(&self, vm: VmId) -> Result<()> {
        self.start_with(vm, sys::VIR_DOMAIN_START_PAUSED)
    }

    fn start_with(&self, vm: VmId, flags: sys::virDomainCreateFlags) -> Result<()> {
        let domain = self.lookup(vm)?;
        if self.state(vm)? == Some(DomainState::Migrated) {
            return Err(Error::Migrated { vm });
        }
        let deadline = Instant::now() + START_RETRY;
        loop {
            let Err(source) = domain.create_with_flags(flags) else { return Ok(()) };
            if domain.is_active().unwrap_or(false) {
                return Ok(());
            }
            if !stopped_just_now(&source) || Instant::now() > deadline {
                return Err(Error::Call { what: "start", vm, source });
            }
            tracing::debug!(%vm, error = %source, "the start met the end of the previous run, trying again");
            thread::sleep(START_RETRY_PAUSE);
        }
    }

    /// Asks the guest to shut down (ACPI). It may not: follow with [`Self::wait_for_state`].
    pub fn shutdown(&self, vm: VmId) -> Result<()> {
        self.on_running(vm, "shut down", Domain::shutdown)
    }

    /// Pulls the plug; QEMU still closes its images, and bitmaps are kept. Off already is success.
    pub fn destroy(&self, vm: VmId) -> Result<()> {
        match self.on_running(vm, "stop", Domain::destroy) {
            Err(Error::NotRunning { .. }) => Ok(()),
            other => other,
        }
    }

    pub fn pause(&self, vm: VmId) -> Result<()> {
        self.on_running(vm, "pause", Domain::suspend)
    }

    pub fn resume(&self, vm: VmId) -> Result<()> {
        self.on_running(vm, "resume", Domain::resume)
    }

    fn on_running(
        &self,
        vm: VmId,
        what: &'static str,
        call: impl Fn(&Domain) -> std::result::Result<(), virt::error::Error>,
    ) -> Result<()> {
        let domain = self.lookup(vm)?;
        call(&domain).map_err(|source| match domain.is_active() {
            Ok(false) => Error::NotRunning { vm },
            _ => Error::Call { what, vm, source },
        })
    }

    pub fn set_autostart(&self, vm: VmId, autostart: bool) -> Result<()> {
        let domain = self.lookup(vm)?;
        domain.set_autostart(autostart).map_err(|source| Error::Call {
            what: "change the autostart of",
            vm,
            source,
        })
    }

    /// Whether a QEMU process runs the domain, paused or not; false when there is no such domain.
    pub fn is_active(&self, vm: VmId) -> Result<bool> {
        let Some(domain) = self.lookup_optional(vm)? else { return Ok(false) };
        domain.is_active().map_err(|source| Error::Call { what: "look at", vm, source })
    }

    /// Libvirt forgets that a VM was live-migrated away when it is started anew: who remembers it says so here, and from
    /// then on the VM is [`DomainState::Migrated`] while it is off.
    pub fn remember_migrated(&self, vm: VmId, migrated: bool) {
        let mut known = self.inner.migrated.lock().unwrap_or_else(PoisonError::into_inner);
        if migrated {
            known.insert(vm)
        } else {
            known.remove(&vm)
        };
    }

    pub(crate) fn read_state(
        &self,
        vm: VmId,
        domain: &Domain,
    ) -> std::result::Result<DomainState, virt::error::Error> {
        let state = DomainState::from_libvirt(domain.state()?);
        let known = || self.inner.migrated.lock().unwrap_or_else(PoisonError::into_inner).contains(&vm);
        Ok(if state == DomainState::ShutOff && known() { DomainState::Migrated } else { state })
    }

    /// The state now; `None` when there is no such domain.
    pub fn state(&self, vm: VmId) -> Result<Option<DomainState>> {
        let Some(domain) = self.lookup_optional(vm)? else { return Ok(None) };
        match self.read_state(vm, &domain) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error::is(&error, ErrorNumber::NoDomain) => Ok(None),
            Err(source) => Err(Error::Call { what: "look at", vm, source }),
        }
    }

    /// Waits until the domain is in `wanted`; [`Error::StateTimeout`] after `timeout`.
    pub fn wait_for_state(&self, vm: VmId, wanted: DomainState, timeout: Duration) -> Result<()> {
        let events = self.events();
        let deadline = Instant::now() + timeout;
        loop {
            match self.state(vm)? {
                Some(state) if state == wanted => return Ok(()),
                Some(_) => {}
                None => return Err(Error::NoSuchDomain { vm }),
            }
            let mut left = deadline.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
            if left.is_zero() {
                return Err(Error::StateTimeout { vm, wanted, timeout });
            }
            let look_at = Instant::now() + left;
            loop {
                match events.recv_timeout(left) {
                    Ok(Event::Lifecycle { vm: changed, change })
                        if changed == vm && change != Change::Other =>
                    {
                        break;
                    }
                    Ok(Event::ConnectionClosed) => return Err(Error::ConnectionClosed),
                    Ok(_) => left = look_at.saturating_duration_since(Instant::now()),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
        }
    }

    /// The domain's XML, with its secrets: `inactive` is the definition, otherwise what runs now.
    pub fn xml(&self, vm: VmId, inactive: bool) -> Result<String> {
        let domain = self.lookup(vm)?;
        self.domain_xml(&domain, vm, inactive)
    }

    pub(crate) fn domain_xml(&self, domain: &Domain, vm: VmId, inactive: bool) -> Result<String> {
        let mut flags = sys::VIR_DOMAIN_XML_SECURE;
        if inactive {
            flags |= sys::VIR_DOMAIN_XML_INACTIVE;
        }
        domain.xml_desc(flags).map_err(|source| Error::Call { what: "describe", vm, source })
    }

    /// Targets of all disks as they are now.
    pub(crate) fn targets(&self, domain: &Domain, vm: VmId) -> Result<Vec<String>> {
        xml::disk_targets(&self.domain_xml(domain, vm, false)?)
    }
}

/// What libvirt and QEMU say when the previous run has not quite ended. A QEMU that goes without a word of its
/// own was ended from outside, by libvirt's cleaning up after the previous one among others.
fn stopped_just_now(error: &virt::error::Error) -> bool {
    const WORDLESS: &str = "process exited while connecting to monitor";
    let message = error.message().trim_end_matches([':', ' ', '\n']);
    let left_locked = [
        "no longer running",
        "Failed to get \"write\" lock",
        "Failed to get shared \"write\" lock",
        "already in use",
    ]
    .iter()
    .any(|text| message.contains(text));
    left_locked || message.ends_with(WORDLESS)
}
