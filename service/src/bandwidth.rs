//! Limits of the bandwidth as they are just now: by the settings, and by the time on this host's clock on the wall.

use crate::{clock::wall_time, host::Host};
use engine::Settings;
use model::bandwidth::{limit, lower};
use std::{sync::Arc, time::Duration};

/// How late a limit may change.
const EVERY: Duration = Duration::from_secs(1);

/// Of a relationship alone, in bytes per second; `None`: no limit.
pub fn own(settings: &Settings) -> Option<u64> {
    limit(&settings.bandwidth_windows, settings.bandwidth_bytes_per_s, wall_time())
}

/// Of a relationship with these settings on this host.
pub fn now(host: &Host, settings: &Settings) -> Option<u64> {
    lower(own(settings), host.config.bandwidth.at(wall_time()))
}

/// Has the host's limit follow the time, until the host shuts down.
pub async fn follow(host: Arc<Host>) {
    loop {
        host.limiter.follow(host.config.bandwidth.at(wall_time()));
        tokio::select! {
            () = host.shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
