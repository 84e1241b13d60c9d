//! What can be changed of a relationship that exists: its settings, on both hosts, and its counters.

use super::owner;
use crate::{
    api::{ErrorKind, Failure, Reply, SettingsChange},
    clock::now_ms,
    host::Host,
    owner::OwnerHandle,
    peer::{PeerRequest, PeerResult},
    steps,
};
use engine::{Settings, Window};
use model::Mode;
use std::sync::Arc;

const INTERVAL_S: std::ops::RangeInclusive<u32> = 1..=43_200;
const HISTORY_MAX: u8 = 24;
/// Twelve hours, as at Hyper-V.
const APP_CONSISTENT_EVERY_S_MAX: u32 = 43_200;
const DAY_MIN: u16 = 24 * 60;

/// Layers on top of each other are bounded, and some room is needed for those that wait to be merged.
const POINTS_MAX: u64 = 56;

/// Refuses what is out of range, naming what is allowed.
pub fn check(settings: &Settings) -> Result<(), Failure> {
    let Settings { interval_s, history, history_every_s, bandwidth_bytes_per_s, .. } = settings;
    let Settings { app_consistent_every_s, .. } = settings;
    let range = |id: &str, message: String| Err(Failure::new(ErrorKind::InvalidParameter, id, message));
    let Window { start_min, end_min } = settings.resync_window;
    if start_min.max(end_min) >= DAY_MIN {
        return range("resync-window", format!("{start_min} to {end_min} minutes: a day has {DAY_MIN}"));
    }
    if !INTERVAL_S.contains(interval_s) {
        return range(
            "interval",
            format!("interval {interval_s} s is out of range: allowed are 1 to 43200 s"),
        );
    }
    if *history > HISTORY_MAX {
        return range("history", format!("history {history} is out of range: allowed are 0 to 24 points"));
    }
    if *history_every_s == 0 {
        return range("history-every", "the spacing of points is at least one second".to_owned());
    }
    if *bandwidth_bytes_per_s == Some(0) {
        return range("bandwidth", "a bandwidth of 0 would never send anything".to_owned());
    }
    let every_s = *app_consistent_every_s;
    if every_s > APP_CONSISTENT_EVERY_S_MAX {
        let message = format!("app-consistent {every_s} s is out of range: allowed are 0 (never) to 43200 s");
        return range("app-consistent", message);
    }
    if every_s > 0 && *history == 0 {
        let message =
            "application-consistent points need a history: with history 0 only the latest point is kept";
        return range("app-consistent-history", message.to_owned());
    }
    let points = points_max(settings);
    if !settings.tiers.is_empty() && points > POINTS_MAX {
        let message = format!(
            "{points} points would be kept, with the history and application-consistent ones: allowed are \
             {POINTS_MAX} where there are tiers"
        );
        return range("tiers", message);
    }
    Ok(())
}

/// How many points these settings may keep at once.
fn points_max(settings: &Settings) -> u64 {
    let Settings { history, history_every_s, app_consistent_every_s, .. } = settings;
    let reach_s = u64::from(*history) * u64::from(*history_every_s);
    let consistent = reach_s.checked_div(u64::from(*app_consistent_every_s)).unwrap_or(0);
    let tiers: u64 = settings.tiers.iter().map(|tier| u64::from(tier.count)).sum();
    1 + u64::from(*history) + consistent + tiers
}

/// Changes the settings on both hosts; the other one's first, because a replica keeps the points. A host to which the
/// VM failed over may change them, too: it is going to be the primary.
pub async fn change(host: &Arc<Host>, vm: &str, change: &SettingsChange) -> Result<Reply, Failure> {
    change_of(host, owner(host, vm)?, change).await
}

pub async fn change_of(
    host: &Arc<Host>,
    owner: OwnerHandle,
    change: &SettingsChange,
) -> Result<Reply, Failure> {
    let record = owner.record();
    if record.mode != Mode::Primary && !record.may_run() {
        let message = format!("the settings of {} are changed on {}, its primary", record.name, record.peer);
        return Err(Failure::new(ErrorKind::WrongHost, "wrong-host", message));
    }
    let settings = changed(&record.settings, change);
    check(&settings)?;
    if record.is_extended() {
        super::extended::check_interval(host, record.vm, settings.interval_s)?;
    }
    let way = |settings: &Settings| (settings.authentication, settings.bypass_proxy);
    if way(&settings) != way(&record.settings) {
        // The replica can be told of it in the old way only; the new one has to work before.
        steps::ask_host(host, steps::target(&record.peer, &settings), None, PeerRequest::Probe).await?;
    }
    let request = PeerRequest::Configure { settings: settings.clone() };
    if let PeerResult::Refused { failure } = steps::ask(host, &record, request).await?.result {
        return Err(failure);
    }
    owner.amend(move |record| record.configure(settings, now_ms())).await?;
    Ok(Reply::Done { message: format!("{}: settings changed", record.name) })
}

pub fn changed(old: &Settings, change: &SettingsChange) -> Settings {
    Settings {
        interval_s: change.interval_s.unwrap_or(old.interval_s),
        history: change.history.unwrap_or(old.history),
        history_every_s: change.history_every_s.unwrap_or(old.history_every_s),
        tiers: change.tiers.clone().unwrap_or_else(|| old.tiers.clone()),
        bandwidth_bytes_per_s: match change.bandwidth_bytes_per_s {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => old.bandwidth_bytes_per_s,
        },
        bandwidth_windows: change.bandwidth_windows.clone().unwrap_or_else(|| old.bandwidth_windows.clone()),
        auto_resynchronize: change.auto_resynchronize.unwrap_or(old.auto_resynchronize),
        drill_every_s: change.drill_every_s.unwrap_or(old.drill_every_s),
        scrub_every_s: change.scrub_every_s.unwrap_or(old.scrub_every_s),
        app_consistent_every_s: change.app_consistent_every_s.unwrap_or(old.app_consistent_every_s),
        authentication: change.authentication.unwrap_or(old.authentication),
        resync_window: change.resync_window.unwrap_or(old.resync_window),
        compress: change.compress.unwrap_or(old.compress),
        bypass_proxy: change.bypass_proxy.unwrap_or(old.bypass_proxy),
    }
}

pub async fn reset_statistics(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    reset_statistics_of(owner(host, vm)?).await
}

pub async fn reset_statistics_of(owner: OwnerHandle) -> Result<Reply, Failure> {
    owner.amend(|record| record.reset_statistics(now_ms())).await?;
    Ok(Reply::Done { message: format!("{}: statistics reset", owner.record().name) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Authentication;

    #[test]
    fn what_a_change_leaves_out_stays_and_a_bandwidth_of_zero_lifts_the_limit() {
        let old = Settings {
            interval_s: 30,
            history: 4,
            history_every_s: 3600,
            bandwidth_bytes_per_s: Some(7),
            compress: true,
            ..Settings::default()
        };
        assert_eq!(changed(&old, &SettingsChange::default()), old);
        let change = SettingsChange {
            interval_s: Some(900),
            bandwidth_bytes_per_s: Some(0),
            auto_resynchronize: Some(true),
            authentication: Some(Authentication::Kerberos),
            ..SettingsChange::default()
        };
        let new = changed(&old, &change);
        assert_eq!((new.interval_s, new.history, new.bandwidth_bytes_per_s), (900, 4, None));
        assert!(new.auto_resynchronize && new.authentication == Authentication::Kerberos);
        assert!(
            check(&Settings { interval_s: 0, ..new.clone() }).unwrap_err().message.contains("1 to 43200")
        );
        assert!(check(&Settings { history: 25, ..new.clone() }).unwrap_err().message.contains("0 to 24"));
        let every_hour = Settings { app_consistent_every_s: 3600, ..new.clone() };
        assert!(check(&every_hour).is_ok());
        let refused = check(&Settings { history: 0, ..every_hour.clone() }).unwrap_err();
        assert_eq!(refused.id, "app-consistent-history");
        let tiers = |tiers: &[&str], from: &Settings| {
            let tiers = tiers.iter().map(|tier| tier.parse().unwrap()).collect();
            check(&Settings { tiers, ..from.clone() }).map_err(|failure| failure.message)
        };
        assert_eq!(tiers(&["24x1h", "7x1d", "4x7d"], &new), Ok(()));
        assert_eq!(tiers(&["24x1h", "7x1d", "4x7d"], &every_hour), Ok(()));
        assert!(tiers(&["24x1h", "7x1d", "40x7d"], &new).unwrap_err().contains("76 points"));
        let often = Settings { app_consistent_every_s: 600, ..new.clone() };
        assert!(tiers(&["24x1h"], &often).is_ok() && tiers(&["28x1h"], &often).is_err());
        let refused = check(&Settings { app_consistent_every_s: 13 * 3600, ..every_hour }).unwrap_err();
        assert_eq!(refused.id, "app-consistent");
    }
}
