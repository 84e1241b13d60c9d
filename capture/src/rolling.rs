//! Rolling overlays, where a disk has no bitmaps: each cut puts a new overlay on all disks, and what the
//! overlays beneath it hold is the delta. They are committed once the peer has it.
//!
//! ```text
//!   disk ◀─ overlay 1 ◀─ overlay 2 (active)      cut 2: overlay 1 is the delta
//!   disk ◀──────────────  overlay 2 (active)      settled: overlay 1 was committed into the disk
//! ```
//!
//! The overlays' own tables are the record of what was written, so this survives the death of QEMU. A turn
//! that is given up leaves its overlay in the pile; the next delta is all of the pile but the active one.

use crate::{
    Capture, Consistency,
    cut::{Moment, overlay_set},
    error::Result,
    frozen::sync_file,
    journal::{Journal, OverlaySet, Stage, Turn},
    spool, tools,
};
use hypervisor::BlockJobKind;
use std::{ops::ControlFlow, path::PathBuf};

impl Capture {
    pub(crate) fn roll_live(&self, turn: &Turn, consistency: Consistency) -> Result<Moment> {
        self.put_overlays_live(turn, consistency)
    }

    pub(crate) fn roll_offline(&self, turn: &Turn) -> Result<Moment> {
        self.put_overlays_offline(turn, |_, _| Ok(()))?;
        Ok(Moment { cut_at_ms: (self.clock)(), application_consistent: None, dirty_bytes: 0 })
    }

    /// Commits all overlays but the active one into the disks and forgets them.
    pub(crate) fn commit_pile(&self, journal: &mut Journal) -> Result<()> {
        let Some((active, below)) = journal.overlays.split_last() else { return Ok(()) };
        let (active, below) = (active.clone(), below.to_vec());
        let Some(top) = below.last() else { return Ok(()) };
        self.commit_sets(top, &active)?;
        self.fault.at("pile committed")?;
        self.require_free(below.iter().flat_map(|set| &set.disks).map(|(_, path)| path))?;
        journal.overlays = vec![active];
        self.save(journal)?;
        for path in below.iter().flat_map(|set| &set.disks) {
            spool::remove(&path.1)?;
        }
        Ok(())
    }

    /// Commits from `top` down, under `active`. A disk where it was done already is passed over.
    fn commit_sets(&self, top: &OverlaySet, active: &OverlaySet) -> Result<()> {
        let live = self.is_live()?;
        let domain = self.domain()?;
        for disk in &self.disks {
            let (Some(top), Some(active)) = (top.path(disk.disk), active.path(disk.disk)) else { continue };
            self.expect_source(&domain, disk, active)?;
            if !self.info(&domain, disk)?.backing_chain.iter().any(|layer| layer.path == top) {
                continue;
            }
            if live {
                // One of ours that was cut off; any other job is its owner's affair, and refuses the commit.
                let left = self.hypervisor.block_job(self.vm, &disk.target)?;
                if left.is_some_and(|job| job.kind == BlockJobKind::Commit) {
                    self.hypervisor.abort_block_job(self.vm, &disk.target)?;
                }
                let go_on = |_| ControlFlow::Continue(());
                self.hypervisor.commit_layers(self.vm, &disk.target, top, &disk.path, go_on)?;
            } else {
                tools::commit(top, &disk.path)?;
                sync_file(&disk.path)?;
                tools::rename_backing(active, &disk.path, disk.format)?;
                sync_file(active)?;
            }
            self.fault.at("one overlay committed")?;
        }
        Ok(())
    }

    /// An overlay that a turn put on the disks before it was given up joins the pile, for the VM may have
    /// written to it.
    pub(crate) fn keep_overlays(&self, journal: &mut Journal, turn: &Turn) -> Result<()> {
        if turn.stage != Stage::Begun {
            return Ok(());
        }
        let set = overlay_set(turn);
        let mut standing = self.stand_on_what_was_written(turn)?;
        let domain = self.domain()?;
        for disk in &self.disks {
            standing |= set.path(disk.disk) == Some(self.source(&domain, disk)?);
        }
        if standing {
            journal.overlays.push(set);
            return Ok(());
        }
        for (_, path) in &set.disks {
            spool::remove(path)?;
        }
        Ok(())
    }

    /// Takes rolling overlays off: all are committed, and the disks stand by themselves.
    pub(crate) fn take_overlays_off(&self, journal: &mut Journal) -> Result<()> {
        let Some(active) = journal.overlays.last().cloned() else { return Ok(()) };
        let all: Vec<PathBuf> =
            journal.overlays.iter().flat_map(|set| set.disks.iter().map(|(_, path)| path.clone())).collect();
        let domain = self.domain()?;
        let live = self.is_live()?;
        let mut standing = vec![];
        for disk in &self.disks {
            let Some(overlay) = active.path(disk.disk) else { continue };
            let stands = self.source(&domain, disk)? == overlay;
            if live {
                if stands {
                    let go_on = |_| ControlFlow::Continue(());
                    self.hypervisor.commit_active(self.vm, &disk.target, Some(&disk.path), go_on)?;
                }
                // Also where an earlier call came as far as the commit.
                self.hypervisor.define_after_commit(self.vm, &disk.target, overlay)?;
            } else if stands {
                standing.push((disk, overlay));
            }
        }
        self.commit_offline(&standing)?;
        self.require_free(&all)?;
        journal.overlays.clear();
        self.save(journal)?;
        all.iter().try_for_each(|path| spool::remove(path))
    }
}
