//! The second and third step of a turn: reading the delta, and settling or giving it up.

use crate::{
    Capture, DiskFormat, PeerHashes, Tracking,
    error::{CaptureError, Result, file_error},
    image::Image,
    journal::{Hashes, Journal, Kind, Stage, Turn, TurnDisk},
    places::{CHECKPOINT_PREFIX, checkpoint_name},
    reader::{Finish, Manifest, Reader, Record, Reference, Scan, Scrub, Source, Window},
};
use hypervisor::{Deleted, checkpoint_record, image as images};
use model::{
    AttemptId, ClusterHash, ClusterSet, DeltaId, Digest, Repaired, durable,
    sums::{SumsReader, SumsWriter},
};
use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

/// Hashes written to a digest at once.
const HASHES_AT_ONCE: usize = 4096;

/// What a reader has found so far, in files of its own: those of a reader that came to the end stay whole while the
/// delta is read again.
#[derive(Default)]
struct Drafts(Vec<(PathBuf, PathBuf)>);

impl Drafts {
    /// Where to write what will be `path`.
    fn add(&mut self, path: PathBuf) -> PathBuf {
        let draft = path.with_extension(AttemptId::random().to_string());
        self.0.push((draft.clone(), path));
        draft
    }

    fn keep(mut self) -> Result<()> {
        for (draft, path) in self.0.drain(..) {
            fs::rename(&draft, &path).map_err(file_error("rename", &draft))?;
        }
        Ok(())
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        for (draft, _) in &self.0 {
            let _ = fs::remove_file(draft);
        }
    }
}

impl Capture {
    /// The delta's chunks from the start. `peer` is needed where `needs_peer_hashes` says so. The delta can
    /// be settled after the iterator has returned `None`.
    pub fn reader(&self, delta: DeltaId, peer: Option<PeerHashes>) -> Result<Reader> {
        let journal = self.journal()?;
        let turn = journal.turn(delta).filter(|turn| turn.stage != Stage::Begun);
        let turn = turn.ok_or(CaptureError::UnknownDelta { delta })?;
        let mut disks = VecDeque::new();
        let mut drafts = Drafts::default();
        for (index, disk) in (0..).zip(&turn.disks) {
            disks.push_back(self.disk_source(turn, index, disk, peer.is_some(), &mut drafts)?);
        }
        let capture = self.clone();
        let finish = (turn.kind != Kind::Incremental)
            .then(|| Box::new(move |repaired| capture.mark_read(delta, repaired, drafts)) as Finish);
        Ok(Reader { delta, disks, peer, finish, repaired: Repaired::default(), queue: VecDeque::new() })
    }

    fn disk_source(
        &self,
        turn: &Turn,
        index: u16,
        disk: &TurnDisk,
        has_peer: bool,
        drafts: &mut Drafts,
    ) -> Result<Source> {
        let (image, size_bytes) = (disk.open()?, disk.size_bytes);
        let sums_path = self.sums_path(turn.delta, disk.disk);
        if turn.kind == Kind::Incremental {
            let sums = SumsReader::open(&sums_path)?.peekable();
            return Ok(Source::Manifest(Manifest { index, image, size_bytes, sums }));
        }
        let reference = match (turn.kind, disk.hashes) {
            (Kind::Full, _) => Reference::Nothing,
            (_, Hashes::Apply) => match self.digest_at(self.disk(disk.disk)?, turn.base)? {
                Some(digest) => Reference::Digest(digest),
                None => return Err(CaptureError::NoReference { delta: turn.delta, disk: disk.disk }),
            },
            _ if has_peer => Reference::Peer,
            _ => return Err(CaptureError::NoReference { delta: turn.delta, disk: disk.disk }),
        };
        let record = match disk.hashes {
            Hashes::Replace => {
                let draft = drafts.add(self.new_digest_path(turn.delta, disk.disk));
                Record::Digest(Digest::create(&draft, size_bytes)?)
            }
            Hashes::Patch => Record::Looked(Some(SumsWriter::create(&drafts.add(sums_path), size_bytes)?)),
            Hashes::Apply | Hashes::Sums => {
                Record::Sums(Some(SumsWriter::create(&drafts.add(sums_path), size_bytes)?))
            }
        };
        Ok(Source::Scan(Scan {
            index,
            disk: disk.disk,
            image,
            size_bytes,
            next: 0,
            candidates: self.candidates(turn, disk)?,
            reference,
            record,
            window: Window::default(),
            scrub: if turn.scrubs { Some(self.scrub(turn, disk)?) } else { None },
        }))
    }

    fn scrub(&self, turn: &Turn, disk: &TurnDisk) -> Result<Scrub> {
        let path = self.written_path(turn.delta, disk.disk);
        let bytes = fs::read(&path).map_err(file_error("read", &path))?;
        let sent = self.digest_at(self.disk(disk.disk)?, turn.base)?;
        Ok(Scrub { written: cluster_set(&path, &bytes)?, sent, repaired: Repaired::default() })
    }

    fn candidates(&self, turn: &Turn, disk: &TurnDisk) -> Result<Option<ClusterSet>> {
        let path = self.candidates_path(turn.delta, disk.disk);
        match fs::read(&path) {
            Ok(bytes) => {
                let mut set = cluster_set(&path, &bytes)?;
                if turn.own_allocation && disk.read_format == DiskFormat::Qcow2 {
                    set.union(&Image::open_alone(&disk.read)?.touched()?);
                }
                Ok(Some(set))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file_error("read", &path)(source)),
        }
    }

    /// What a scrub whose delta was read to its end sends although nothing was recorded as written.
    pub fn repaired(&self, delta: DeltaId) -> Result<Repaired> {
        Ok(self.journal()?.turn(delta).map(|turn| turn.repaired).unwrap_or_default())
    }

    fn mark_read(&self, delta: DeltaId, repaired: Repaired, drafts: Drafts) -> Result<()> {
        let mut journal = self.journal()?;
        // Before what an earlier reading found is replaced.
        if let Some(turn) = journal.turn(delta) {
            self.require_still(turn)?;
        }
        drafts.keep()?;
        let folder = self.turn_folder(delta);
        durable::sync_parent(&folder.join("x")).map_err(file_error("sync", &folder))?;
        if let Some(turn) = journal.turn.as_mut().filter(|turn| turn.delta == delta) {
            turn.stage = Stage::Read;
            turn.repaired = repaired;
        }
        self.save(&journal)
    }

    /// The peer has `delta` on disk and the caller has recorded that durably. Repeated, it finishes what was
    /// left or does nothing.
    pub fn settle(&self, delta: DeltaId) -> Result<()> {
        let mut journal = self.journal()?;
        let Some(turn) = journal.turn(delta).cloned() else {
            if journal.settled == Some(delta) {
                return self.sweep(&journal).map(drop);
            }
            return Err(CaptureError::UnknownDelta { delta });
        };
        if turn.stage != Stage::Read {
            return Err(CaptureError::NotRead { delta });
        }
        self.refuse_away()?;
        for disk in &turn.disks {
            self.settle_digest(&turn, disk)?;
        }
        self.fault.at("digests settled")?;
        match turn.tracking {
            Tracking::Bitmap => self.commit_back(&turn)?,
            Tracking::RollingOverlay => self.commit_pile(&mut journal)?,
        }
        if turn.tracking == Tracking::Bitmap {
            self.drop_checkpoints(Some(delta))?;
        }
        self.fault.at("old tracking dropped")?;
        journal.settled = Some(delta);
        journal.sizes = turn.disks.iter().map(|disk| (disk.disk, disk.size_bytes)).collect();
        journal.turn = None;
        self.save(&journal)?;
        self.fault.at("settled")?;
        self.remove_turn_files(&turn)
    }

    /// Makes the digest describe the delta. The tag is written last, so this can be repeated.
    fn settle_digest(&self, turn: &Turn, disk: &TurnDisk) -> Result<()> {
        let path = self.digest_path(disk.disk);
        match disk.hashes {
            Hashes::Sums => Ok(()),
            Hashes::Replace => {
                let new = self.new_digest_path(turn.delta, disk.disk);
                // Absent: an earlier call has moved it.
                let Some(mut digest) = Digest::open(&new)? else { return Ok(()) };
                digest.set_state(Some(turn.delta))?;
                fs::rename(&new, &path).map_err(file_error("rename", &new))?;
                durable::sync_parent(&path).map_err(file_error("sync", &path))
            }
            Hashes::Apply | Hashes::Patch => {
                // The tag is the base's, the delta's, or none where a resize was cut off. One that is damaged by that
                // is given up: the next comparison asks the peer.
                let Some(mut digest) = self.whole_digest(disk.disk)? else { return Ok(()) };
                if digest.state() == Some(turn.delta) {
                    return Ok(());
                }
                if digest.size_bytes() != disk.size_bytes {
                    digest.resize(disk.size_bytes)?;
                }
                let mut sums = SumsReader::open(&self.sums_path(turn.delta, disk.disk))?.peekable();
                while let Some((first, hash)) = sums.next().transpose()? {
                    let mut hashes = vec![hash];
                    let follows = |entry: &Result<(u32, ClusterHash), _>, count: usize| matches!(entry, Ok((cluster, _)) if (*cluster - first) as usize == count);
                    while hashes.len() < HASHES_AT_ONCE {
                        let Some(entry) = sums.next_if(|entry| follows(entry, hashes.len())) else { break };
                        hashes.push(entry?.1);
                    }
                    digest.write(first, &hashes)?;
                }
                Ok(digest.set_state(Some(turn.delta))?)
            }
        }
    }

    /// Gives up a turn that was not acknowledged; its changes will be in the next delta.
    pub fn abandon(&self, delta: DeltaId) -> Result<()> {
        let mut journal = self.journal()?;
        if journal.turn(delta).is_none() {
            return self.sweep(&journal).map(drop);
        }
        self.take_back(&mut journal)
    }

    /// Undoes the turn, as far as it got.
    pub(crate) fn take_back(&self, journal: &mut Journal) -> Result<()> {
        let Some(turn) = journal.turn.clone() else { return Ok(()) };
        self.refuse_away()?;
        if self.is_live()? {
            self.end_backup()?;
        }
        match turn.tracking {
            Tracking::Bitmap => {
                if turn.stage == Stage::Begun && !turn.taking_back && self.stand_on_what_was_written(&turn)? {
                    journal.turn = Some(Turn { taking_back: true, ..turn.clone() });
                    self.save(journal)?;
                }
                self.commit_back(&turn)?;
                self.fault.at("taken off")?;
                self.drop_checkpoint(&checkpoint_name(turn.delta))?;
            }
            Tracking::RollingOverlay => self.keep_overlays(journal, &turn)?,
        }
        journal.turn = None;
        self.save(journal)?;
        self.fault.at("given up")?;
        self.remove_turn_files(&turn)
    }

    /// Ends our backup, and what is left of it. Another program's is its own affair.
    fn end_backup(&self) -> Result<()> {
        if let Some(files) = self.hypervisor.backup_files(self.vm)? {
            let spool = self.spool_folder();
            if !files.iter().any(|file| file.starts_with(&spool)) {
                return Ok(());
            }
            if self.hypervisor.abort_backup(self.vm)? {
                let outcome = self.hypervisor.wait_backup(self.vm);
                tracing::info!(vm = %self.vm, ?outcome, "aborted the backup of a turn that is given up");
            }
        }
        Ok(self.hypervisor.end_backup_jobs(self.vm, &self.targets())?)
    }

    /// Deletes our checkpoints but one. Their bits need no merging: each of our bitmaps records by itself.
    pub(crate) fn drop_checkpoints(&self, keep: Option<DeltaId>) -> Result<()> {
        let keep = keep.map(checkpoint_name);
        let mut names: Vec<String> =
            self.hypervisor.checkpoints(self.vm)?.into_iter().map(|checkpoint| checkpoint.name).collect();
        if !self.is_live()? {
            for disk in &self.disks {
                names.extend(images::bitmaps(&disk.path)?.into_iter().map(|bitmap| bitmap.name));
            }
        }
        names.sort();
        names.dedup();
        for name in names {
            if name.starts_with(CHECKPOINT_PREFIX) && Some(&name) != keep.as_ref() {
                self.drop_checkpoint(&name)?;
            }
        }
        Ok(())
    }

    /// Deletes a checkpoint and its bitmaps, as far as they are there.
    pub(crate) fn drop_checkpoint(&self, name: &str) -> Result<()> {
        let deleted = self.hypervisor.delete_checkpoint(self.vm, name)?;
        if self.is_live()? {
            // libvirt that was killed between the cut and its record of it knows nothing of the bitmaps, and QEMU
            // refuses others of the name. Where there are none either, it is not recorded.
            let record = checkpoint_record(name, None, &self.targets(), (self.clock)() / 1000)?;
            if deleted == Deleted::Absent
                && self.hypervisor.redefine_checkpoint(self.vm, &record, true).is_ok()
            {
                self.hypervisor.delete_checkpoint(self.vm, name)?;
            }
        } else {
            for disk in &self.disks {
                images::remove_bitmap(&disk.path, name)?;
            }
        }
        Ok(())
    }
}

fn cluster_set(path: &Path, bytes: &[u8]) -> Result<ClusterSet> {
    let damaged = || file_error("read", path)(io::Error::other("the cluster set is cut short"));
    ClusterSet::from_bytes(bytes).ok_or_else(damaged)
}
