//! The guest agent: freezing and thawing the guest's file systems.
//!
//! An agent that died while it holds the channel answers nothing, and libvirt then waits as long as it was
//! told to. So the wait is set before every call (rounded up to whole seconds; libvirt keeps it for the
//! domain, for other clients too), and libvirt gives up by itself: no thread is left behind. Before each
//! command libvirt makes the agent echo a number, so a freeze mostly is not even sent to a dead agent. One
//! that died after it froze the guest cannot be helped from outside; a thaw is always tried, and Windows
//! thaws itself after ten seconds.

use crate::{Error, Hypervisor, Result, error, ffi};
use model::VmId;
use std::time::Duration;
use virt::{domain::Domain, error::ErrorNumber};

/// A thaw gets longer than a freeze: giving up on it leaves the guest frozen.
const THAW_TIMEOUT: Duration = Duration::from_secs(30);

impl Hypervisor {
    /// Freezes all file systems of the guest and says how many there were. If the agent does not answer in
    /// time, a thaw is tried, in case the freeze arrives late, and the error is [`Error::AgentSilent`]: so
    /// the call takes at most about twice `timeout`.
    pub fn freeze(&self, vm: VmId, timeout: Duration) -> Result<u32> {
        let domain = self.lookup(vm)?;
        set_timeout(&domain, vm, timeout)?;
        match ffi::freeze(&domain) {
            Ok(count) => Ok(count),
            Err(error) if silent(&error) => {
                // Only as long again: a dead agent must not hold the caller for the whole thaw timeout.
                if let Err(error) = ffi::thaw(&domain) {
                    tracing::warn!(%vm, %error, "no thaw either after an unanswered freeze");
                }
                Err(Error::AgentSilent { vm, timeout })
            }
            Err(error) if error::is(&error, ErrorNumber::ArgumentUnsupported) => Err(Error::NoAgent { vm }),
            Err(source) => {
                // A freeze that failed half way may have frozen some file systems.
                let _ = ffi::thaw(&domain);
                Err(Error::Call { what: "freeze", vm, source })
            }
        }
    }

    /// Thaws the guest and says how many file systems were frozen.
    pub fn thaw(&self, vm: VmId) -> Result<u32> {
        let domain = self.lookup(vm)?;
        set_timeout(&domain, vm, THAW_TIMEOUT)?;
        ffi::thaw(&domain).map_err(|source| {
            if silent(&source) {
                Error::AgentSilent { vm, timeout: THAW_TIMEOUT }
            } else {
                Error::Call { what: "thaw", vm, source }
            }
        })
    }

    /// Whether the agent answers within `timeout`: it is asked for the time.
    pub fn agent_answers(&self, vm: VmId, timeout: Duration) -> Result<bool> {
        let domain = self.lookup(vm)?;
        set_timeout(&domain, vm, timeout)?;
        match domain.time(0) {
            Ok(_) => Ok(true),
            Err(error) if silent(&error) => Ok(false),
            Err(error) if error::is(&error, ErrorNumber::ArgumentUnsupported) => Ok(false),
            // A refusal is an answer too; libvirt has no number of its own for it.
            Err(error) if error.message().contains("unable to execute QEMU agent command") => Ok(true),
            Err(source) => Err(Error::Call { what: "ask the agent of", vm, source }),
        }
    }
}

fn set_timeout(domain: &Domain, vm: VmId, timeout: Duration) -> Result<()> {
    let timeout_s = i32::try_from(timeout.as_secs_f64().ceil() as u64).unwrap_or(i32::MAX).max(1);
    ffi::set_agent_timeout(domain, timeout_s).map_err(|source| Error::Call {
        what: "set the agent timeout of",
        vm,
        source,
    })
}

fn silent(error: &virt::error::Error) -> bool {
    error::is(error, ErrorNumber::AgentUnresponsive)
        || error::is(error, ErrorNumber::AgentUnsynced)
        || error::is(error, ErrorNumber::OperationTimeout)
}
