//! The steady state: a push-mode backup of the running VM into the spool, all disks at one instant.

use crate::{
    Capture, Consistency,
    cut::Moment,
    error::{CaptureError, Result},
    journal::Turn,
    places::checkpoint_name,
    spool::{self, Room},
    tools,
};
use model::DeltaId;
use std::path::PathBuf;

impl Capture {
    /// Asks the base's checkpoint for the delta's size before anything is begun, and requires room for it.
    pub(crate) fn require_live_room(&self, turn: &Turn) -> Result<Room> {
        let base = base(turn)?;
        let size = || self.hypervisor.checkpoint_size(self.vm, &checkpoint_name(base));
        let size = match size() {
            // Who undefines a VM, as a live migration may, loses libvirt's list; the images keep the bitmaps.
            Err(hypervisor::Error::NoSuchCheckpoint { .. }) => match self.checkpoint_live(base)? {
                Some(why) => return Err(CaptureError::NotTracked { base, why }),
                None => size(),
            },
            size => size,
        };
        let size = size.map_err(|error| not_tracked(base, error))?;
        spool::require_room(&self.spool_folder(), size.total_bytes, self.limits)
    }

    pub(crate) fn back_up_live(&self, turn: &Turn, consistency: Consistency) -> Result<Moment> {
        let base = base(turn)?;
        let paths: Vec<PathBuf> =
            self.disks.iter().map(|disk| self.spool_path(turn.attempt, disk.disk)).collect();
        let targets: Vec<_> =
            self.disks.iter().zip(&paths).map(|(d, path)| (d.target.as_str(), path.as_path())).collect();
        let moment = self.consistently(consistency, || {
            let (old, new) = (checkpoint_name(base), checkpoint_name(turn.delta));
            self.hypervisor
                .backup_begin(self.vm, Some(&old), Some(&new), &targets)
                .map_err(|error| not_tracked(base, error))
        })?;
        self.fault.at("backup begun")?;
        let outcome = self.hypervisor.wait_backup(self.vm)?;
        if !outcome.success {
            let why = outcome.error.unwrap_or_else(|| "no reason given".into());
            return Err(CaptureError::BackupFailed { delta: turn.delta, why });
        }
        paths.iter().try_for_each(|path| tools::wait_closed(path))?;
        Ok(moment)
    }
}

/// The base of an incremental turn.
pub(crate) fn base(turn: &Turn) -> Result<DeltaId> {
    let why = || "an incremental cut needs a base".into();
    turn.base.ok_or_else(|| CaptureError::NotTracked { base: turn.delta, why: why() })
}

/// Tells lost tracking from other failures.
pub(crate) fn not_tracked(base: DeltaId, error: hypervisor::Error) -> CaptureError {
    use hypervisor::Error::{BitmapGone, CheckpointLost, NoSuchCheckpoint};
    match error {
        BitmapGone { .. } | CheckpointLost { .. } | NoSuchCheckpoint { .. } => {
            CaptureError::NotTracked { base, why: error.to_string() }
        }
        error => error.into(),
    }
}

/// An error with its causes in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
