//! Cutting: the turn is planned and journalled, the cut made in the way that fits the VM, and its answer
//! journalled before it is given.

use crate::{
    Capture, Consistency, Cut, Disk, DiskFormat, Prepared, PreparedDisk, Tracking, bitmap,
    error::{CaptureError, Result, file_error},
    image::{Image, runs},
    journal::{Hashes, Journal, Kind, OverlaySet, Stage, Turn, TurnDisk},
    places::{checkpoint_name, make_folder},
    spool::remove_folder,
};
use hypervisor::DomainInfo;
use model::{
    AttemptId, ClusterSet, DeltaId, Digest, DiskId, Repaired, ZERO_CLUSTER, digest::DigestError, durable,
    sums::SumsWriter,
};
use std::{fs, path::Path};

/// What making the cut found out.
pub(crate) struct Moment {
    pub cut_at_ms: i64,
    /// As in [`Prepared::application_consistent`].
    pub application_consistent: Option<Result<(), String>>,
    /// What the bitmaps counted before the cut: the spool cannot hold less.
    pub dirty_bytes: u64,
}

impl Capture {
    /// Fixes `delta` durably. Repeated with the same delta it gives the same answer. When it fails, the VM
    /// is as it was before and its changes will be in the next delta.
    pub fn cut(
        &self,
        delta: DeltaId,
        base: Option<DeltaId>,
        how: Cut,
        consistency: Consistency,
    ) -> Result<Prepared> {
        let mut journal = self.journal()?;
        match &journal.turn {
            Some(turn) if turn.delta != delta => {
                return Err(CaptureError::TurnPending { pending: turn.delta });
            }
            Some(turn) if turn.stage != Stage::Begun => return self.answer(turn),
            _ => {}
        }
        // What an image cannot hold was refused when tracking began, and it changes no more.
        let domain = if matches!(how, Cut::Incremental) { self.outline()? } else { self.domain()? };
        self.refuse_away()?;
        if journal.turn.is_some() {
            self.take_back(&mut journal)?;
        }
        self.make_folders()?;
        self.refuse_uncapturable(&domain)?;
        let turn = self.plan(&journal, &domain, delta, base, &how)?;
        make_folder(&self.turn_folder(delta))?;
        if let Cut::Compare { candidates: Some(candidates), .. } = &how {
            self.save_candidates(delta, candidates)?;
        }
        let result = self.make(&mut journal, turn, consistency, &domain);
        match result {
            Err(error) if !matches!(error, CaptureError::Stopped { .. }) => {
                // What cannot be taken back now, as while libvirt is away, is when the cut is tried again.
                if journal.turn.is_none() || self.take_back(&mut journal).is_ok() {
                    remove_folder(&self.turn_folder(delta))?;
                }
                Err(error)
            }
            result => result,
        }
    }

    fn make(
        &self,
        journal: &mut Journal,
        turn: Turn,
        consistency: Consistency,
        domain: &DomainInfo,
    ) -> Result<Prepared> {
        let live = self.is_live()?;
        if !live {
            self.refuse_away()?;
        }
        let spools_live = turn.kind == Kind::Incremental && turn.tracking == Tracking::Bitmap && live;
        // Kept until the delta is in the spool.
        let room = if spools_live { Some(self.require_live_room(&turn)?) } else { None };
        let dirty_bytes = room.as_ref().map_or(0, |room| room.delta_bytes);
        journal.turn = Some(turn.clone());
        self.save(journal)?;
        self.fault.at("begun")?;
        let moment = match (turn.tracking, turn.kind, live) {
            (Tracking::Bitmap, Kind::Incremental, true) => {
                Moment { dirty_bytes, ..self.back_up_live(&turn, consistency)? }
            }
            (Tracking::Bitmap, Kind::Incremental, false) => self.back_up_offline(&turn)?,
            (Tracking::Bitmap, _, true) => self.freeze_live(&turn, consistency)?,
            (Tracking::Bitmap, _, false) => self.freeze_offline(&turn)?,
            (Tracking::RollingOverlay, _, true) => self.roll_live(&turn, consistency)?,
            (Tracking::RollingOverlay, _, false) => self.roll_offline(&turn)?,
        };
        drop(room);
        self.fault.at("cut")?;
        let prepared = self.prepare(journal, &turn, moment, domain)?;
        let mut ready = turn;
        ready.stage = if ready.kind == Kind::Incremental { Stage::Read } else { Stage::Ready };
        ready.prepared = Some(Prepared { small_files: vec![], ..prepared.clone() });
        if ready.tracking == Tracking::RollingOverlay {
            journal.overlays.push(overlay_set(&ready));
        }
        journal.turn = Some(ready);
        self.save(journal)?;
        self.fault.at("ready")?;
        Ok(prepared)
    }

    fn plan(
        &self,
        journal: &Journal,
        domain: &DomainInfo,
        delta: DeltaId,
        base: Option<DeltaId>,
        how: &Cut,
    ) -> Result<Turn> {
        let tracking = self.tracking();
        let attempt = AttemptId::random();
        let kind = match how {
            Cut::Incremental => Kind::Incremental,
            Cut::Full => Kind::Full,
            Cut::Compare { .. } | Cut::Scrub => Kind::Compare,
        };
        let scrubs = matches!(how, Cut::Scrub);
        if kind == Kind::Incremental || scrubs {
            self.require_tracked(journal, base, delta)?;
            // Overlays record what comes after them: without one, nobody recorded what came since.
            if tracking == Tracking::RollingOverlay && journal.overlays.is_empty() {
                let why = "no overlay stands on the disks".to_owned();
                return Err(CaptureError::NotTracked { base: base.unwrap_or(delta), why });
            }
        }
        let own_allocation = matches!(how, Cut::Compare { own_allocation: true, .. });
        let mut disks = vec![];
        for disk in &self.disks {
            let top = journal.overlays.last().and_then(|set| set.path(disk.disk)).unwrap_or(&disk.path);
            self.expect_source(domain, disk, top)?;
            let size_bytes = self.info(domain, disk)?.size_bytes;
            self.refuse_shrunk(journal, kind, disk, size_bytes)?;
            let bitmap = tracking == Tracking::Bitmap;
            let spooled = bitmap && kind == Kind::Incremental;
            let (read, read_format) = match (spooled, top == disk.path) {
                (true, _) => (self.spool_path(attempt, disk.disk), DiskFormat::Qcow2),
                (false, true) => (disk.path.clone(), disk.format),
                (false, false) => (top.to_owned(), DiskFormat::Qcow2),
            };
            disks.push(TurnDisk {
                disk: disk.disk,
                size_bytes,
                read,
                read_format,
                alone: spooled,
                overlay: (!spooled).then(|| self.overlay_path(attempt, disk)),
                hashes: if scrubs { Hashes::Replace } else { self.hashes(disk, kind, base, own_allocation)? },
            });
        }
        Ok(Turn {
            delta,
            base,
            attempt,
            kind,
            tracking,
            stage: Stage::Begun,
            disks,
            prepared: None,
            own_allocation,
            scrubs,
            repaired: Repaired::default(),
            taking_back: false,
        })
    }

    /// Incremental is possible only from the delta that tracking counts from.
    fn require_tracked(&self, journal: &Journal, base: Option<DeltaId>, delta: DeltaId) -> Result<()> {
        let Some(base) = base else {
            let why = "an incremental cut needs a base".into();
            return Err(CaptureError::NotTracked { base: delta, why });
        };
        if journal.settled != Some(base) {
            let why = journal.settled.map_or("nothing is tracked".into(), |at| format!("tracked is {at}"));
            return Err(CaptureError::NotTracked { base, why });
        }
        Ok(())
    }

    fn refuse_shrunk(&self, journal: &Journal, kind: Kind, disk: &Disk, now_bytes: u64) -> Result<()> {
        match journal.sizes.iter().find(|(id, _)| *id == disk.disk) {
            Some((_, before_bytes)) if kind == Kind::Incremental && now_bytes < *before_bytes => {
                Err(CaptureError::Shrunk { disk: disk.disk, before_bytes: *before_bytes, now_bytes })
            }
            _ => Ok(()),
        }
    }

    fn hashes(&self, disk: &Disk, kind: Kind, base: Option<DeltaId>, patch: bool) -> Result<Hashes> {
        if kind == Kind::Full {
            return Ok(Hashes::Replace);
        }
        let at_base = self.digest_at(disk, base)?.is_some();
        Ok(match (at_base, kind) {
            (true, _) => Hashes::Apply,
            (false, Kind::Incremental) => Hashes::Sums,
            (false, _) if patch && self.digest_of_some_state(disk)? => Hashes::Patch,
            (false, _) => Hashes::Replace,
        })
    }

    /// The digest, if it describes `base`. A damaged one is as good as none, because it can be built anew.
    pub(crate) fn digest_at(&self, disk: &Disk, base: Option<DeltaId>) -> Result<Option<Digest>> {
        let digest = self.whole_digest(disk.disk)?;
        Ok(digest.filter(|digest| base.is_some() && digest.state() == base))
    }

    fn digest_of_some_state(&self, disk: &Disk) -> Result<bool> {
        Ok(self.whole_digest(disk.disk)?.is_some_and(|digest| digest.state().is_some()))
    }

    /// A disk's digest, unless it is damaged.
    pub(crate) fn whole_digest(&self, disk: DiskId) -> Result<Option<Digest>> {
        match Digest::open(&self.digest_path(disk)) {
            Err(error @ DigestError::Damaged { .. }) => {
                tracing::warn!(vm = %self.vm, %disk, %error, "the digest is given up");
                Ok(None)
            }
            digest => Ok(digest?),
        }
    }

    fn save_candidates(&self, delta: DeltaId, candidates: &[ClusterSet]) -> Result<()> {
        for (disk, set) in self.disks.iter().zip(candidates) {
            let path = self.candidates_path(delta, disk.disk);
            durable::replace_file(&path, &set.to_bytes()).map_err(file_error("write", &path))?;
        }
        Ok(())
    }

    /// Everything that the answer needs, durable in the turn's folder.
    fn prepare(
        &self,
        journal: &Journal,
        turn: &Turn,
        moment: Moment,
        domain: &DomainInfo,
    ) -> Result<Prepared> {
        let mut disks = vec![];
        let mut bytes = (turn.kind == Kind::Incremental).then_some(0);
        let mut touched = 0;
        for disk in &turn.disks {
            let counted = match turn.kind {
                Kind::Incremental => Some(self.write_manifest(journal, turn, disk, &mut touched)?),
                _ => None,
            };
            if let (Some(bytes), Some((data, _))) = (&mut bytes, counted) {
                *bytes += data * model::CLUSTER_BYTES;
            }
            disks.push(PreparedDisk {
                disk: disk.disk,
                size_bytes: disk.size_bytes,
                data_clusters: counted.map(|(data, _)| data),
                zero_clusters: counted.map(|(_, zero)| zero),
            });
        }
        if touched * model::CLUSTER_BYTES < moment.dirty_bytes {
            let why = format!("{} bytes were dirty, the spool holds {touched} clusters", moment.dirty_bytes);
            return Err(CaptureError::BackupFailed { delta: turn.delta, why });
        }
        if turn.scrubs {
            self.save_written(journal, turn)?;
        }
        let small_files = self.save_small_files(turn.delta, domain)?;
        let folder = self.turn_folder(turn.delta);
        durable::sync_parent(&folder.join("x")).map_err(file_error("sync", &folder))?;
        durable::sync_parent(&folder).map_err(file_error("sync", &folder))?;
        self.fault.at("manifest")?;
        Ok(Prepared {
            delta: turn.delta,
            base: turn.base,
            disks,
            domain_xml: self.clean_xml(journal)?,
            small_files,
            cut_at_ms: moment.cut_at_ms,
            bytes,
            application_consistent: moment.application_consistent,
            needs_peer_hashes: turn.kind == Kind::Compare
                && turn.disks.iter().any(|disk| matches!(disk.hashes, Hashes::Replace | Hashes::Patch)),
        })
    }

    /// Notes what was written between the base of a scrub and its cut: it differs rightly.
    fn save_written(&self, journal: &Journal, turn: &Turn) -> Result<()> {
        let base = turn.base.ok_or(CaptureError::UnknownDelta { delta: turn.delta })?;
        for disk in &turn.disks {
            let written = match turn.tracking {
                Tracking::Bitmap => {
                    let name = checkpoint_name(base);
                    bitmap::marked(&disk.read, &name, disk.size_bytes)?.ok_or_else(|| {
                        let why = format!("disk {}: the bitmap {name} is not to be had", disk.disk);
                        CaptureError::NotTracked { base, why }
                    })?
                }
                Tracking::RollingOverlay => journal.touched(disk.disk)?,
            };
            let path = self.written_path(turn.delta, disk.disk);
            durable::replace_file(&path, &written.to_bytes()).map_err(file_error("write", &path))?;
        }
        Ok(())
    }

    /// Hashes what the delta holds of a disk and lists what the peer has not; (data, zero) clusters. Adds
    /// what was looked at to `looked_at`.
    fn write_manifest(
        &self,
        journal: &Journal,
        turn: &Turn,
        disk: &TurnDisk,
        looked_at: &mut u64,
    ) -> Result<(u64, u64)> {
        let image = disk.open()?;
        let touched = match turn.tracking {
            Tracking::Bitmap => image.touched()?,
            Tracking::RollingOverlay => journal.touched(disk.disk)?,
        };
        *looked_at += touched.len();
        let digest = match disk.hashes {
            Hashes::Apply => self.digest_at(self.disk(disk.disk)?, turn.base)?,
            _ => None,
        };
        let mut sums = SumsWriter::create(&self.sums_path(turn.delta, disk.disk), disk.size_bytes)?;
        let (mut data, mut zero) = (0, 0);
        for (first, count) in runs(&touched) {
            let hashes = image.hashes(first, count, disk.size_bytes)?;
            let known = digest.as_ref().map(|digest| digest.read(first, count)).transpose()?;
            for (index, hash) in hashes.into_iter().enumerate() {
                if known.as_ref().is_some_and(|known| known[index] == hash) {
                    continue;
                }
                sums.push(first + u32::try_from(index).expect("a short run"), hash)?;
                *(if hash == ZERO_CLUSTER { &mut zero } else { &mut data }) += 1;
            }
        }
        sums.finish()?;
        Ok((data, zero))
    }

    /// Copies NVRAM and TPM state into the turn's folder.
    fn save_small_files(&self, delta: DeltaId, domain: &DomainInfo) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = vec![];
        if let Some(path) = domain.nvram.as_ref().filter(|path| path.exists()) {
            files.push(("nvram".to_owned(), fs::read(path).map_err(file_error("read", path))?));
        }
        if let Some(folder) = domain.tpm.as_ref().and_then(|tpm| tpm.state.as_ref()).filter(|f| f.exists()) {
            for entry in fs::read_dir(folder).map_err(file_error("list", folder))? {
                let path = entry.map_err(file_error("list", folder))?.path();
                if !path.is_file() || path.extension().is_some_and(|e| e == "lock") || name(&path) == ".lock"
                {
                    continue;
                }
                files.push((
                    format!("tpm-{}", name(&path)),
                    fs::read(&path).map_err(file_error("read", &path))?,
                ));
            }
        }
        for (name, bytes) in &files {
            let path = self.turn_folder(delta).join(format!("{SMALL}{name}"));
            durable::replace_file(&path, bytes).map_err(file_error("write", &path))?;
        }
        files.sort();
        Ok(files)
    }

    /// The journalled answer with its small files.
    fn answer(&self, turn: &Turn) -> Result<Prepared> {
        let mut prepared = turn.prepared.clone().ok_or(CaptureError::UnknownDelta { delta: turn.delta })?;
        let folder = self.turn_folder(turn.delta);
        for entry in fs::read_dir(&folder).map_err(file_error("list", &folder))? {
            let path = entry.map_err(file_error("list", &folder))?.path();
            if let Some(small) = name(&path).strip_prefix(SMALL) {
                let bytes = fs::read(&path).map_err(file_error("read", &path))?;
                prepared.small_files.push((small.to_owned(), bytes));
            }
        }
        prepared.small_files.sort();
        Ok(prepared)
    }
}

/// What the copies of small files in a turn's folder begin with.
const SMALL: &str = "small-";

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn overlay_set(turn: &Turn) -> OverlaySet {
    let paths = turn.disks.iter().filter_map(|disk| Some((disk.disk, disk.overlay.clone()?)));
    OverlaySet { disks: paths.collect() }
}

impl TurnDisk {
    pub(crate) fn open(&self) -> Result<Image> {
        if self.alone {
            Image::open_alone(&self.read)
        } else {
            Image::open_chain(&self.read, self.read_format)
        }
    }
}
