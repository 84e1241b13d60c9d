//! What an owner does to its VM and finds out about it, outside of any step.

use super::*;
use hypervisor::DomainState;

/// Between two tries to start a VM after the host's start.
const AUTOSTART_EVERY: Duration = Duration::from_secs(15);
/// Longer than any host runs.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

impl OwnerHandle {
    /// Does this handle lead to the same owner, and not to one that came after it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.mail.same_channel(&other.mail)
    }

    /// The VM is called what its definition says.
    pub async fn follow_name(&self, domain_xml: &str) {
        let Ok(name) = hypervisor::xml::name(domain_xml) else { return };
        let before = self.record().name;
        if name == before {
            return;
        }
        tracing::info!(vm = %before, %name, "renamed");
        // An owner that has stopped hears of it from the next definition.
        let _ = self.amend(move |record| record.name = name).await;
    }
}

impl Owner {
    /// Time and chance, for the engine, which follows the clock where that jumped.
    pub(super) fn context(&mut self) -> engine::Context {
        let context = crate::clock::context();
        if let Some(by_ms) = self.jumps.look(context.now_ms) {
            self.record.follow_clock(by_ms);
        }
        context
    }

    /// How often the overlays are looked at: a guest that writes at a disk's pace fills no file system between
    /// two looks. A turn of a VM whose disks are tracked by bitmaps has none.
    pub(super) fn measure_every(&self) -> Duration {
        use engine::WorkKind::{DiskUpdate, Export, FirstCopy, Resync, Scrub};
        let copies = self
            .record
            .work
            .as_ref()
            .is_some_and(|work| matches!(work.kind, FirstCopy | Export | Resync | Scrub | DiskUpdate));
        Duration::from_secs(if copies { 1 } else { 10 })
    }

    /// Overlays that grow while the peer takes its time are taken back before they fill the disk.
    pub(super) async fn relieve(&mut self) {
        let (host, vm) = (self.host.clone(), self.record.vm);
        let pressure = blocking(move || host.capture(vm).map(|capture| capture.pressure())).await;
        let Ok(Ok(Some(pressure))) = pressure else { return };
        let reason = format!(
            "the overlays in {} hold {} bytes of the {} that they may: they are written back",
            pressure.folder.display(),
            pressure.used_bytes,
            pressure.allowed_bytes
        );
        match &self.record.work {
            Some(work) if work.kind.is_turn() => {
                tracing::warn!(vm = %self.record.name, %reason, "the turn is given up");
                self.apply(Event::Squeezed(reason)).await;
            }
            Some(_) => {}
            // Overlays that track changes: without them the disks are compared.
            None => {
                tracing::warn!(vm = %self.record.name, %reason, "tracking is given up");
                if let Err(failure) = self.release(reason).await {
                    tracing::error!(vm = %self.record.name, %failure, "cannot write the overlays back");
                }
            }
        }
    }

    /// A cut that was interrupted, or could not thaw the guest, left a mark: thaw until the guest answers. While a
    /// cut is being made the mark is its own.
    pub(super) fn thaw_left_frozen(&mut self) {
        let cuts = matches!(self.record.work.as_ref().and_then(engine::Work::step), Some(Step::Cut { .. }));
        if self.thawing || cuts && self.step.is_some() {
            return;
        }
        let Ok(capture) = self.host.capture(self.record.vm) else { return };
        if !capture.may_be_frozen() {
            return;
        }
        self.thawing = true;
        let (mail, name) = (self.mail.clone(), self.record.name.clone());
        self.host.tasks.spawn(async move {
            if let Ok(Some(count)) = blocking(move || capture.thaw_left_frozen()).await {
                tracing::warn!(vm = %name, count, "a guest that was left frozen is thawed");
            }
            let _ = mail.send(Mail::Thawed).await;
        });
    }

    /// A boundary of the monitoring interval was passed. The first one of a relationship ends nothing.
    pub(super) fn close_interval(&mut self, now: i64) {
        if self.record.statistics.interval.began_ms == 0 {
            self.record.statistics.interval.began_ms = now;
            return self.persist();
        }
        self.record.close_interval(now);
        self.persist();
        let Some(i) = &self.record.statistics.last_interval else { return };
        tracing::info!(
            event = crate::events::INTERVAL_CLOSED, vm = %self.record.name, succeeded = i.succeeded, missed = i.missed,
            failed = i.failed, network_failed = i.network_failed, bytes = i.bytes, latency_ms = i.latency_ms,
            "the monitoring interval is closed"
        );
    }

    /// A replica that has to show from time to time that it lives.
    pub(super) fn drill(&mut self, now: i64) {
        use crate::commands::drill;
        let every_ms = i64::from(self.record.settings.drill_every_s) * 1000;
        let may = self.record.mode == Mode::Replica && self.record.state == ReplicationState::Replicating;
        if every_ms == 0 || !may || self.record.work.is_some() {
            return;
        }
        let last = drill::last(&self.host, self.record.vm);
        // One of a time to come was dated by a clock that went back since.
        if last.is_none_or(|last| !(0..every_ms).contains(&(now - last.at_ms)))
            && !drill::is_under_way(&self.host, self.record.vm)
            && let Err(failure) = drill::begin(&self.host, &self.record.vm.to_string(), None)
        {
            tracing::debug!(vm = %self.record.name, %failure, "no fire drill now");
        }
    }

    /// After a failover the guest gets the addresses that are set for it, as soon as it runs.
    pub(super) fn give_addresses(&mut self) {
        if !self.may_be_addressed || self.addressing || !self.record.may_run() {
            return;
        }
        let (host, vm) = (self.host.clone(), self.record.vm);
        if !crate::addresses::is_due(&host, vm) {
            self.may_be_addressed = false;
            return;
        }
        self.addressing = true;
        let (mail, name) = (self.mail.clone(), self.record.name.clone());
        self.host.tasks.spawn(async move {
            let applied = blocking(move || match host.hypervisor.is_active(vm) {
                Ok(true) => crate::addresses::apply_now(&host, vm, &name),
                _ => Ok(()),
            })
            .await;
            if let Err(failure) = applied {
                tracing::error!(%vm, %failure, "cannot note how the guest got its addresses");
            }
            let _ = mail.send(Mail::Addressed).await;
        });
    }

    /// A superseded VM runs where it could not be paused at once, as by a libvirt that did not answer.
    pub(super) async fn keep_paused(&self) {
        let (hypervisor, vm) = (self.host.hypervisor.clone(), self.record.vm);
        if matches!(libvirt(move || hypervisor.state(vm)).await, Ok(Ok(Some(DomainState::Running)))) {
            self.pause().await;
        }
    }

    pub(super) async fn pause(&self) {
        let (hypervisor, vm, name) = (self.host.hypervisor.clone(), self.record.vm, self.record.name.clone());
        tracing::warn!(vm = %name, "superseded by the other host: pausing the VM");
        let paused =
            blocking(move || if hypervisor.is_active(vm)? { hypervisor.pause(vm) } else { Ok(()) }).await;
        if let Err(error) = paused {
            tracing::error!(vm = %name, %error, "cannot pause the superseded VM");
        }
    }

    pub(super) async fn power(&mut self, running: bool) {
        self.remember_migrated().await;
        if running {
            (self.autostart_at, self.autostart_again_at) = (None, None);
        }
        if running && !self.record.may_run() {
            self.pause().await;
        }
        self.apply(Event::Power { running }).await;
    }

    /// After a start of the daemon: what the catalog and libvirt say wins over the record where they know
    /// better. The point that arrived last, if the record had not heard of it.
    pub(super) async fn reconcile(&mut self) -> Result<Option<Event>, Failure> {
        if self.record.is_extended() {
            // The catalog and libvirt know nothing of it that relationship 0 does not.
            return Ok(None);
        }
        self.remember_migrated().await;
        let (host, record) = (self.host.clone(), self.record.clone());
        let found = blocking(move || steps::recover(&host, &record)).await?;
        let mut received = None;
        if let Some(latest) = found.latest {
            let before = std::mem::replace(&mut self.record.latest, latest.map(|(delta, _)| delta));
            received = latest
                .filter(|(delta, _)| before != Some(*delta))
                .map(|(delta, kind)| Event::PointReceived { delta, kind });
        }
        if let Some(why) = found.tracking_lost {
            self.apply(Event::TrackingLost(why)).await;
        }
        self.persist();
        let autostart: Option<bool> = self.host.document(self.record.vm, document::AUTOSTART)?;
        let should_run = self.record.may_run() && self.record.wants_running && autostart == Some(true);
        if should_run && !found.running {
            let wait = self.host.config.autostart_after_s.map_or(NEVER, Duration::from_secs);
            self.autostart_at = Some(Instant::now() + wait.min(NEVER));
        }
        Ok(received)
    }

    /// Tried again until the VM runs: the disks may be held for a moment, by a cut for one.
    pub(super) async fn autostart(&mut self) {
        self.autostart_at = None;
        if !self.record.may_run() {
            return;
        }
        // A VM may start within a turn; everything else starts and stops it as it needs.
        if self.record.work.as_ref().is_some_and(|work| !work.kind.is_turn()) {
            self.autostart_again_at = Some(Instant::now() + AUTOSTART_EVERY);
            return;
        }
        let (hypervisor, vm) = (self.host.hypervisor.clone(), self.record.vm);
        let started =
            blocking(move || if hypervisor.is_active(vm)? { Ok(()) } else { hypervisor.start(vm) }).await;
        match started {
            Ok(()) => tracing::info!(vm = %self.record.name, "started after the host's start"),
            Err(error) => {
                tracing::error!(vm = %self.record.name, %error, "cannot start the VM; it is tried again");
                self.autostart_again_at = Some(Instant::now() + AUTOSTART_EVERY);
            }
        }
    }

    /// Answers those who wait for a release.
    pub(super) async fn release_when_idle(&mut self) {
        if self.releases.is_empty() || self.record.work.is_some() && !self.record.rests() {
            return;
        }
        let released = self.release("the checkpoints were released".to_owned()).await;
        for reply in self.releases.drain(..) {
            let _ = reply.send(released.clone());
        }
    }

    async fn release(&mut self, why: String) -> Result<(), Failure> {
        if self.record.work.is_some() {
            let name = &self.record.name;
            return Err(Failure::new(
                ErrorKind::InUse,
                "busy",
                "a comparison that was begun needs the checkpoints",
            )
            .hint(format!("`relevo resume {name}` ends it, `relevo resync {name} --cancel` gives it up")));
        }
        let host = self.host.clone();
        let vm = self.record.vm;
        blocking(move || {
            host.capture(vm)?.release().map_err(|error| Failure::internal("drop the checkpoints", &error))
        })
        .await?;
        self.apply(Event::TrackingLost(why)).await;
        Ok(())
    }

    /// Where that cannot be seen, on another host or without libvirt, it may run.
    pub(super) async fn is_running(&self) -> bool {
        let (hypervisor, vm) = (self.host.hypervisor.clone(), self.record.vm);
        blocking(move || hypervisor.is_active(vm)).await.unwrap_or(true) || self.is_away().await
    }

    /// Was it live-migrated to a host that may not be the peer.
    pub(super) async fn is_away(&self) -> bool {
        let (hypervisor, vm) = (self.host.hypervisor.clone(), self.record.vm);
        let state = blocking(move || hypervisor.state(vm)).await;
        matches!(state, Ok(Some(DomainState::Migrated)))
    }

    /// Libvirt's word that the VM was live-migrated away is lost with the libvirtd that gave it.
    async fn remember_migrated(&self) {
        let (host, vm) = (self.host.clone(), self.record.vm);
        let remembered = blocking(move || {
            let noted = host.document::<bool>(vm, document::MIGRATED)?.is_some();
            host.hypervisor.remember_migrated(vm, noted);
            match host.hypervisor.state(vm) {
                Ok(Some(DomainState::Migrated)) if !noted => host.put_document(vm, document::MIGRATED, &true),
                Ok(Some(DomainState::Running) | None) if noted => {
                    host.hypervisor.remember_migrated(vm, false);
                    host.drop_document(vm, document::MIGRATED)
                }
                _ => Ok(()),
            }
        });
        if let Err(failure) = remembered.await {
            tracing::error!(vm = %self.record.name, %failure, "cannot note whether the VM was migrated away");
        }
    }
}
