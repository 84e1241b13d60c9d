//! The guest agent: freezing and thawing the guest's file systems.
//!
//! An agent that died while it holds the channel answers nothing, and libvirt then waits as long as it was
//! told to. So the wait is set before every call (rounded up to whole seconds; libvirt keeps it for the
//! domain, for other clients too), and libvirt gives up by itself: no thread is left behind. An agent that died
//! after it froze the guest cannot be helped from outside; Windows thaws itself after ten seconds.

use crate::{Error, Hypervisor, Result, error, ffi};
use model::VmId;
use serde_json::Value;
use std::time::Duration;
use virt::{domain::Domain, error::ErrorNumber};

impl Hypervisor {
    /// Freezes all file systems of the guest and says how many there were. After an error some may be frozen, or a
    /// freeze may arrive late: thaw.
    pub fn freeze(&self, vm: VmId, timeout: Duration) -> Result<u32> {
        let domain = self.lookup(vm)?;
        set_timeout(&domain, vm, timeout)?;
        ffi::freeze(&domain).map_err(|source| {
            if silent(&source) {
                Error::AgentSilent { vm, timeout }
            } else if error::is(&source, ErrorNumber::ArgumentUnsupported) {
                Error::NoAgent { vm }
            } else {
                Error::Call { what: "freeze", vm, source }
            }
        })
    }

    /// Thaws the guest and says how many file systems were frozen.
    pub fn thaw(&self, vm: VmId, timeout: Duration) -> Result<u32> {
        let domain = self.lookup(vm)?;
        set_timeout(&domain, vm, timeout)?;
        ffi::thaw(&domain).map_err(|source| {
            if silent(&source) {
                Error::AgentSilent { vm, timeout }
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

    /// Sends a command to the guest agent; what it returns. libvirt has no call of its own for running programs in a
    /// guest, and marks a domain to which such a command was sent as tainted (`custom-ga-command`).
    pub fn agent_command(&self, vm: VmId, command: &Value, timeout: Duration) -> Result<Value> {
        let domain = self.lookup(vm)?;
        let answer = domain.qemu_agent_command(&command.to_string(), whole_seconds(timeout), 0);
        let answer = answer.map_err(|source| {
            if silent(&source) {
                Error::AgentSilent { vm, timeout }
            } else if error::is(&source, ErrorNumber::ArgumentUnsupported) {
                Error::NoAgent { vm }
            } else {
                Error::Call { what: "send a command to the agent of", vm, source }
            }
        })?;
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|source| Error::AgentAnswer { vm, source })?;
        Ok(answer["return"].take())
    }
}

fn whole_seconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_secs_f64().ceil() as u64).unwrap_or(i32::MAX).max(1)
}

fn set_timeout(domain: &Domain, vm: VmId, timeout: Duration) -> Result<()> {
    ffi::set_agent_timeout(domain, whole_seconds(timeout)).map_err(|source| Error::Call {
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
