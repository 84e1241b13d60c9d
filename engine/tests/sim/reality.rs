//! What exists on a host besides the record: the domain, its disk, the tracking of changes, the store of
//! points. It survives a crash of the daemon, and every step acts on it idempotently. An `Err` is a broken
//! rule; a step's own failure is inside the `Ok`.

use super::disk::{Clusters, Content, difference, patched};
use engine::{CutKind, Relationship, Step, StepFailure, StepResult};
use model::DeltaId;
use std::collections::BTreeMap;

/// The content of every delta at its cut, whoever made it: what rule 3 is checked against.
pub type Truth = BTreeMap<DeltaId, Content>;

pub type Outcome = Result<StepResult, StepFailure>;

#[derive(Clone, Debug, Default)]
pub struct Reality {
    pub domain: Option<Domain>,
    /// The VM's own disk, whether it is defined or not. A replica has none: its disk is in the store.
    pub disk: Option<Content>,
    pub overlay: Option<Overlay>,
    /// The point from which the disk was promoted and what was written since: gone once merged down.
    pub fork: Option<(DeltaId, Clusters)>,
    pub tracking: Option<Tracking>,
    pub spool: Option<Spool>,
    pub digest: Option<(DeltaId, Content)>,
    /// The first copy as it was written to files.
    pub files: Option<(DeltaId, Content)>,
    /// Oldest first.
    pub points: Vec<Point>,
    /// Points that a third host has or is being sent: not merged away.
    pub bookmarks: Vec<DeltaId>,
    /// Layers of the chain around a failed-over point, bottom first, kept when the points go.
    pub lists: Vec<(DeltaId, Clusters)>,
    /// What this host wrote and never shipped.
    pub own_changes: Option<Changes>,
    /// The same of the peer, as it told us.
    pub peer_changes: Option<Changes>,
}

#[derive(Clone, Debug)]
pub struct Domain {
    pub on_overlay: bool,
    pub running: bool,
    pub paused: bool,
}

#[derive(Clone, Debug)]
pub struct Overlay {
    pub number: u32,
    pub point: DeltaId,
    pub content: Content,
    pub written: Clusters,
}

/// Clusters written since `base`.
#[derive(Clone, Debug)]
pub struct Tracking {
    pub base: DeltaId,
    pub written: Clusters,
}

/// A cut that the peer may not have yet.
#[derive(Clone, Debug)]
pub struct Spool {
    pub delta: DeltaId,
    pub clusters: Clusters,
    pub content: Content,
    /// Written since the cut; `None`: nobody knows.
    pub since: Option<Clusters>,
}

#[derive(Clone, Debug)]
pub struct Point {
    pub delta: DeltaId,
    pub content: Content,
    pub clusters: Clusters,
    pub visible: bool,
}

/// What a former primary changed between the state `since`, which both had, and its present state `state`.
#[derive(Clone, Debug)]
pub struct Changes {
    pub state: DeltaId,
    pub since: Option<DeltaId>,
    pub clusters: Clusters,
}

impl Reality {
    pub fn runs(&self) -> bool {
        self.domain.as_ref().is_some_and(|domain| domain.running && !domain.paused)
    }

    pub fn guest_writes(&mut self, cluster: usize, value: u32) {
        if self.domain.as_ref().is_some_and(|domain| domain.on_overlay) {
            let overlay = self.overlay.as_mut().expect("the domain stands on it");
            overlay.content[cluster] = value;
            overlay.written.insert(cluster);
        } else {
            self.disk.as_mut().expect("the domain stands on it")[cluster] = value;
        }
        let tracked = self.tracking.as_mut().map(|tracking| &mut tracking.written);
        let since = self.spool.as_mut().and_then(|spool| spool.since.as_mut());
        let fork = self.fork.as_mut().map(|(_, written)| written);
        for clusters in [tracked, since, fork].into_iter().flatten() {
            clusters.insert(cluster);
        }
    }

    /// The host lost power or the bitmaps were dropped: what changed is not known any more.
    pub fn lose_tracking(&mut self) {
        self.tracking = None;
        if let Some(spool) = &mut self.spool {
            spool.since = None;
        }
    }

    pub fn pause(&mut self) {
        if let Some(domain) = &mut self.domain {
            domain.paused |= domain.running;
        }
    }

    pub fn newest(&self) -> Option<DeltaId> {
        self.points.last().map(|point| point.delta)
    }

    pub fn carry_out(&mut self, r: &Relationship, step: &Step, truth: &mut Truth) -> Result<Outcome, String> {
        let right = |what: &str| {
            if r.may_run() {
                Ok(())
            } else {
                Err(format!("rule 1: {} {what} without the right to run", r.host))
            }
        };
        match step {
            Step::Cut { delta, base, how } => {
                let freezes = r.work.as_ref().is_some_and(|work| work.freezes);
                return Ok(self.cut(*delta, *base, *how, truth).map(|()| self.frozen(*delta, freezes)));
            }
            Step::Export { delta } => {
                let spool = self.spool.as_ref().filter(|spool| spool.delta == *delta);
                self.files =
                    Some((*delta, spool.ok_or("a delta is exported that is not in the spool")?.content));
            }
            Step::Settle { delta } => self.settle(*delta),
            Step::Abandon { delta } => {
                if self.spool.as_ref().is_some_and(|spool| spool.delta == *delta) {
                    self.spool = None;
                }
            }
            Step::StopGuest { .. } | Step::DestroyVm => {
                if let Some(domain) = &mut self.domain {
                    (domain.running, domain.paused) = (false, false);
                }
            }
            Step::Undefine => {
                if self.domain.as_ref().is_some_and(|domain| domain.running) {
                    return Err(format!("{} undefines a running domain", r.host));
                }
                self.domain = None;
            }
            Step::DefineOwn => {
                right("defines")?;
                if self.disk.is_none() {
                    return Err(format!("{} defines a domain without a disk", r.host));
                }
                self.domain.get_or_insert(Domain { on_overlay: false, running: false, paused: false });
            }
            Step::DefineOverlay => {
                right("defines")?;
                if self.overlay.is_none() || self.disk.is_some() {
                    return Err(format!(
                        "{} defines on an overlay that is not there, or beside its disk",
                        r.host
                    ));
                }
                self.domain.get_or_insert(Domain { on_overlay: true, running: false, paused: false });
            }
            Step::StartVm => {
                right("starts")?;
                let Some(domain) = &mut self.domain else {
                    return Err(format!("{} starts a domain that is not defined", r.host));
                };
                (domain.running, domain.paused) = (true, false);
            }
            Step::ResumeVm => {
                right("resumes")?;
                let Some(domain) = &mut self.domain else {
                    return Err(format!("{} resumes a domain that is not defined", r.host));
                };
                domain.running |= r.wants_running;
                domain.paused = false;
            }
            Step::MakeOverlay { point, overlay } => return self.make_overlay(r, *point, *overlay),
            Step::Track => {
                let overlay = self.overlay.as_ref().ok_or("tracking without an overlay")?;
                self.tracking = Some(Tracking { base: overlay.point, written: overlay.written });
            }
            Step::DropOverlay { overlay } => {
                if self.domain.as_ref().is_some_and(|domain| domain.on_overlay) {
                    return Err(format!("{} drops the overlay under its domain", r.host));
                }
                if self.overlay.take_if(|there| there.number == *overlay).is_some() {
                    self.tracking = None;
                }
            }
            Step::RecordLists => {
                if !self.points.is_empty() && self.lists.is_empty() {
                    self.lists = self.points.iter().map(|point| (point.delta, point.clusters)).collect();
                }
            }
            Step::HidePoints => {
                let kept = r.failed_over.as_ref().map(|f| f.point);
                let Some(at) = self.points.iter().position(|point| Some(point.delta) == kept) else {
                    return if self.disk.is_some() {
                        Ok(Ok(StepResult::Plain))
                    } else {
                        Err(format!("{} hides points, but has not failed over", r.host))
                    };
                };
                self.points.truncate(at + 1);
                self.bookmarks.clear();
                for below in &mut self.points[..at] {
                    below.visible = false;
                }
            }
            Step::Promote => self.promote()?,
            Step::TakeDisks => {}
            Step::Flatten { .. } => self.fork = None,
            Step::Rehash { id } => self.rehash(*id, truth)?,
            Step::Adopt { id } => self.adopt(*id, truth)?,
            other => return Err(format!("{} is not a local step", other.name())),
        }
        Ok(Ok(StepResult::Plain))
    }

    /// What the guest's agent said at a cut: the same again when the step is repeated.
    fn frozen(&self, delta: DeltaId, freezes: bool) -> StepResult {
        let asked = freezes && self.runs();
        let silent = || Err("the agent does not answer".to_owned());
        StepResult::Cut {
            frozen: asked.then(|| if delta.0.as_bytes()[0].is_multiple_of(3) { silent() } else { Ok(()) }),
        }
    }

    fn cut(
        &mut self,
        delta: DeltaId,
        base: Option<DeltaId>,
        how: CutKind,
        truth: &mut Truth,
    ) -> Result<(), StepFailure> {
        if let Some(spool) = &self.spool {
            return if spool.delta == delta {
                Ok(())
            } else {
                Err(StepFailure::Fatal("another cut is in the spool".into()))
            };
        }
        let Some(content) = self.disk else { return Err(StepFailure::Fatal("there is no disk".into())) };
        let clusters = match how {
            CutKind::Full => Clusters::ALL,
            CutKind::Incremental => match &self.tracking {
                Some(tracking) if Some(tracking.base) == base => tracking.written,
                _ => return Err(StepFailure::ResyncNeeded("changes were not tracked".into())),
            },
            CutKind::Compare => self.candidates(base, &content),
            CutKind::Scrub => match &self.tracking {
                Some(tracking) if Some(tracking.base) == base => Clusters::ALL,
                _ => return Err(StepFailure::ResyncNeeded("changes were not tracked".into())),
            },
        };
        truth.insert(delta, content);
        self.spool = Some(Spool { delta, clusters, content, since: Some(Clusters::NONE) });
        Ok(())
    }

    /// What may differ from the peer's state `base`: by the digest if it describes that state, by the lists
    /// if they lead there, else everything is compared.
    fn candidates(&self, base: Option<DeltaId>, content: &Content) -> Clusters {
        match &self.digest {
            Some((state, digest)) if Some(*state) == base => return difference(digest, content),
            _ => {}
        }
        self.by_lists(base).unwrap_or(Clusters::ALL)
    }

    /// The peer's own changes, the layers between the failed-over point and the state that the peer's changes
    /// start from, and what was written here since.
    fn by_lists(&self, base: Option<DeltaId>) -> Option<Clusters> {
        let (fork, written) = self.fork?;
        let position = |delta| self.lists.iter().position(|(layer, _)| *layer == delta);
        let between = |one: usize, other: usize| {
            let layers = &self.lists[one.min(other) + 1..=one.max(other)];
            layers.iter().fold(written, |all, (_, layer)| all.union(*layer))
        };
        // A third host has it from here.
        if let Some(base) = base.and_then(position) {
            return Some(between(position(fork)?, base));
        }
        let peer = self.peer_changes.as_ref().filter(|peer| Some(peer.state) == base)?;
        Some(between(position(fork)?, position(peer.since?)?).union(peer.clusters))
    }

    fn settle(&mut self, delta: DeltaId) {
        let Some(spool) = self.spool.take_if(|spool| spool.delta == delta) else { return };
        self.digest = Some((delta, spool.content));
        self.tracking = spool.since.map(|written| Tracking { base: delta, written });
    }

    fn make_overlay(
        &mut self,
        r: &Relationship,
        point: Option<DeltaId>,
        number: u32,
    ) -> Result<Outcome, String> {
        if self.domain.is_some() {
            return Err(format!("{} makes an overlay while a domain is defined", r.host));
        }
        let Some(below) = self.points.iter().find(|there| Some(there.delta) == point && there.visible) else {
            return Ok(Err(StepFailure::Refused("there is no such point".into())));
        };
        let made = self.overlay.as_ref().is_some_and(|there| there.number == number);
        if !made {
            let (point, content) = (below.delta, below.content);
            self.overlay = Some(Overlay { number, point, content, written: Clusters::NONE });
        }
        Ok(Ok(StepResult::Plain))
    }

    fn promote(&mut self) -> Result<(), String> {
        if self.disk.is_some() {
            return Ok(());
        }
        let overlay = self.overlay.take().ok_or("there is no overlay to promote")?;
        let point = self.points.iter().find(|point| point.delta == overlay.point);
        let point = point.ok_or("the overlay's point is gone")?;
        self.digest = Some((point.delta, point.content));
        self.disk = Some(overlay.content);
        self.fork = Some((overlay.point, overlay.written));
        self.points.clear();
        if let Some(domain) = &mut self.domain {
            domain.on_overlay = false;
        }
        Ok(())
    }

    fn rehash(&mut self, id: DeltaId, truth: &mut Truth) -> Result<(), String> {
        if self.runs() {
            return Err("a running VM's disk is read for changes".into());
        }
        let Some(disk) = self.disk else { return Ok(()) };
        if self.own_changes.as_ref().is_none_or(|changes| changes.state != id) {
            let (since, clusters) = match &self.digest {
                Some((state, digest)) => (Some(*state), difference(digest, &disk)),
                None => (None, Clusters::ALL),
            };
            self.own_changes = Some(Changes { state: id, since, clusters });
        }
        self.digest = Some((id, disk));
        truth.insert(id, disk);
        Ok(())
    }

    fn adopt(&mut self, id: DeltaId, truth: &Truth) -> Result<(), String> {
        if self.domain.is_some() {
            return Err("a defined domain's disk is adopted".into());
        }
        let Some(content) = self.disk.take() else { return Ok(()) };
        if truth.get(&id) != Some(&content) {
            return Err(format!("rule 3: adopted as {id}, but the disk holds something else"));
        }
        if self.own_changes.as_ref().is_none_or(|changes| changes.state != id) {
            self.own_changes = Some(Changes { state: id, since: Some(id), clusters: Clusters::NONE });
        }
        self.points = vec![Point { delta: id, content, clusters: Clusters::ALL, visible: true }];
        self.lists.clear();
        (self.tracking, self.spool, self.fork, self.overlay) = (None, None, None, None);
        self.peer_changes = None;
        Ok(())
    }

    /// A delta that was received whole.
    pub fn receive(
        &mut self,
        delta: DeltaId,
        base: Option<DeltaId>,
        above: &Content,
        clusters: Clusters,
    ) -> Result<(), String> {
        if self.points.iter().any(|point| point.delta == delta) {
            return Err(format!("{delta} is received a second time"));
        }
        let below = base.and_then(|base| self.points.iter().find(|point| point.delta == base));
        let content = patched(&below.map_or([0; super::disk::COUNT], |point| point.content), above, clusters);
        self.points.push(Point { delta, content, clusters, visible: true });
        Ok(())
    }
}
