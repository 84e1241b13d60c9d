//! What an owner does to its VM and finds out about it, outside of any step.

use super::*;

impl Owner {
    /// How often the overlays are looked at: a guest that writes at a disk's pace fills no file system between
    /// two looks. A turn of a VM whose disks are tracked by bitmaps has none.
    pub(super) fn measure_every_ms(&self) -> i64 {
        use engine::WorkKind::{FirstCopy, Resync};
        let copies = self.record.work.as_ref().is_some_and(|work| matches!(work.kind, FirstCopy | Resync));
        if copies { TICK_MAX_MS } else { 10 * TICK_MAX_MS }
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
        if running && !self.record.may_run() {
            self.pause().await;
        }
        self.apply(Event::Power { running }).await;
    }

    /// After a start of the daemon: what the catalog and libvirt say wins over the record where they know
    /// better.
    pub(super) async fn reconcile(&mut self) -> Result<(), Failure> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let found = blocking(move || steps::recover(&host, &record)).await?;
        if let Some(latest) = found.latest {
            self.record.latest = latest;
        }
        if let Some(why) = found.tracking_lost {
            self.apply(Event::TrackingLost(why)).await;
        }
        self.persist();
        let autostart: Option<bool> = self.host.document(self.record.vm, document::AUTOSTART)?;
        let should_run = self.record.may_run() && self.record.wants_running && autostart == Some(true);
        if should_run && !found.running {
            let wait = self
                .host
                .config
                .autostart_after_s
                .map_or(i64::MAX / 2, |s| i64::try_from(s * 1000).unwrap_or(i64::MAX / 2));
            self.autostart_ms = Some(now_ms() + wait);
        }
        Ok(())
    }

    pub(super) async fn autostart(&mut self) {
        self.autostart_ms = None;
        if !self.record.may_run() || self.record.work.is_some() {
            return;
        }
        let (hypervisor, vm) = (self.host.hypervisor.clone(), self.record.vm);
        let started =
            blocking(move || if hypervisor.is_active(vm)? { Ok(()) } else { hypervisor.start(vm) }).await;
        match started {
            Ok(()) => tracing::info!(vm = %self.record.name, "started after the host's start"),
            Err(error) => tracing::error!(vm = %self.record.name, %error, "cannot start the VM"),
        }
    }

    pub(super) async fn release(&mut self, why: String) -> Result<(), Failure> {
        if self.record.work.is_some() {
            return Err(Failure::new(ErrorKind::InUse, "busy", "a replication turn is under way; try again"));
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

    pub(super) async fn is_running(&self) -> bool {
        let (hypervisor, vm) = (self.host.hypervisor.clone(), self.record.vm);
        blocking(move || hypervisor.is_active(vm)).await.unwrap_or(false)
    }
}
