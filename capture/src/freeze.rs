//! Cuts with the guest's file systems frozen.
//!
//! A frozen guest cannot write: nothing may leave it so. A file says that a freeze may have been sent. It is durable
//! before the freeze and goes only once the guest has answered a thaw, or is off; whoever finds it thaws: the cut
//! itself, the owner of the VM again and again, the daemon that starts after one that was killed in between.

use crate::{
    Capture, Consistency,
    cut::Moment,
    error::{Result, file_error},
    live::describe,
    places::make_folder,
};
use model::durable;
use std::{path::PathBuf, time::Duration};

/// Longer than any freeze may take: giving up on a thaw leaves the guest frozen for a while.
const THAW_TIMEOUT: Duration = Duration::from_secs(30);

impl Capture {
    /// Runs `begin` with the guest's file systems frozen if that is asked for and works. The guest is thawed
    /// whatever happens.
    pub(crate) fn consistently(
        &self,
        consistency: Consistency,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<Moment> {
        let mut frozen = match consistency {
            Consistency::Crash => None,
            Consistency::Application { freeze_timeout_s } => {
                Some(self.freeze(Duration::from_secs(freeze_timeout_s.into())))
            }
        };
        if let Some(Ok(())) = frozen {
            self.fault.at("frozen")?;
        }
        let begun = begin();
        let cut_at_ms = (self.clock)();
        if let Some(Ok(())) = frozen {
            // A guest that thawed itself meanwhile (Windows does after ten seconds) was not frozen at the cut.
            frozen = Some(match self.thaw(THAW_TIMEOUT) {
                Ok(0) => Err("the guest had thawed by itself".into()),
                thawed => thawed.map(drop),
            });
        }
        begun.map(|()| Moment { cut_at_ms, application_consistent: frozen, dirty_bytes: 0 })
    }

    /// `Err`: why the guest is not frozen.
    fn freeze(&self, timeout: Duration) -> Result<(), String> {
        self.thaw_left_frozen()?;
        match self.hypervisor.agent_answers(self.vm, timeout) {
            Ok(true) => {}
            Ok(false) => return Err(self.silence(timeout)),
            Err(error) => return Err(describe(&error)),
        }
        self.mark_frozen().map_err(|error| describe(&error))?;
        let why = match self.hypervisor.freeze(self.vm, timeout) {
            Ok(0) => "the guest has no file system that could be frozen".into(),
            Ok(_) => return Ok(()),
            Err(error) => describe(&error),
        };
        // Some file systems may be frozen all the same. An agent that is held up thaws later: the cut does not wait.
        let _ = self.thaw(timeout);
        Err(why)
    }

    fn mark_frozen(&self) -> Result<()> {
        make_folder(&self.state_folder())?;
        let path = self.frozen_path();
        durable::replace_file(&path, b"").map_err(file_error("write", &path))
    }

    fn silence(&self, timeout: Duration) -> String {
        match self.hypervisor.sketch(self.vm) {
            Ok(Some(domain)) if domain.guest_agent.is_none() => {
                "the VM has no channel for a guest agent".into()
            }
            _ => format!("the guest agent does not answer within {} s", timeout.as_secs()),
        }
    }

    fn thaw(&self, timeout: Duration) -> Result<u32, String> {
        let thawed = self.hypervisor.thaw(self.vm, timeout).map_err(|error| describe(&error));
        match &thawed {
            Ok(_) => durable::remove(&self.frozen_path()).map_err(|error| error.to_string())?,
            Err(error) => tracing::error!(vm = %self.vm, error, "cannot thaw the guest; it is tried again"),
        }
        thawed
    }

    /// A freeze may have been sent, and no thaw was answered since.
    pub fn may_be_frozen(&self) -> bool {
        self.frozen_path().exists()
    }

    /// Thaws a guest that an interrupted cut left frozen; how many file systems were. `None`: nothing was left.
    /// Not while a cut is being made.
    pub fn thaw_left_frozen(&self) -> Result<Option<u32>, String> {
        if !self.may_be_frozen() {
            return Ok(None);
        }
        if matches!(self.hypervisor.is_active(self.vm), Ok(false)) {
            durable::remove(&self.frozen_path()).map_err(|error| error.to_string())?;
            return Ok(None);
        }
        self.thaw(THAW_TIMEOUT).map(Some)
    }

    fn frozen_path(&self) -> PathBuf {
        self.state_folder().join("frozen")
    }
}
