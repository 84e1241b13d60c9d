//! What can be changed of a relationship that exists: its settings, on both hosts, and its counters.

use super::owner;
use crate::{
    api::{ErrorKind, Failure, Reply, SettingsChange},
    clock::now_ms,
    host::Host,
    peer::{PeerRequest, PeerResult},
    steps,
};
use engine::Settings;
use model::Mode;
use std::sync::Arc;

const INTERVAL_S: std::ops::RangeInclusive<u32> = 1..=43_200;
const HISTORY_MAX: u8 = 24;

/// Refuses what is out of range, naming what is allowed.
pub fn check(settings: &Settings) -> Result<(), Failure> {
    let Settings { interval_s, history, history_every_s, bandwidth_bytes_per_s, .. } = settings;
    let range = |id: &str, message: String| Err(Failure::new(ErrorKind::InvalidParameter, id, message));
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
    Ok(())
}

/// Changes the settings on both hosts; the replica's first, because it keeps the points.
pub async fn change(host: &Arc<Host>, vm: &str, change: &SettingsChange) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    let record = owner.record();
    if record.mode != Mode::Primary {
        let message = format!("the settings of {} are changed on {}, its primary", record.name, record.peer);
        return Err(Failure::new(ErrorKind::WrongHost, "wrong-host", message));
    }
    let settings = changed(&record.settings, change);
    check(&settings)?;
    let request = PeerRequest::Configure { settings: settings.clone() };
    if let PeerResult::Refused { failure } = steps::ask(host, &record, request).await?.result {
        return Err(failure);
    }
    owner.amend(move |record| record.configure(settings, now_ms())).await?;
    Ok(Reply::Done { message: format!("{}: settings changed", record.name) })
}

fn changed(old: &Settings, change: &SettingsChange) -> Settings {
    Settings {
        interval_s: change.interval_s.unwrap_or(old.interval_s),
        history: change.history.unwrap_or(old.history),
        history_every_s: change.history_every_s.unwrap_or(old.history_every_s),
        bandwidth_bytes_per_s: match change.bandwidth_bytes_per_s {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => old.bandwidth_bytes_per_s,
        },
        auto_resynchronize: change.auto_resynchronize.unwrap_or(old.auto_resynchronize),
    }
}

pub async fn reset_statistics(host: &Arc<Host>, vm: &str) -> Result<Reply, Failure> {
    let owner = owner(host, vm)?;
    owner.amend(|record| record.reset_statistics(now_ms())).await?;
    Ok(Reply::Done { message: format!("{}: statistics reset", owner.record().name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_leaves_out_stays_and_a_bandwidth_of_zero_lifts_the_limit() {
        let old = Settings {
            interval_s: 30,
            history: 4,
            history_every_s: 3600,
            bandwidth_bytes_per_s: Some(7),
            auto_resynchronize: false,
        };
        assert_eq!(changed(&old, &SettingsChange::default()), old);
        let change = SettingsChange {
            interval_s: Some(900),
            bandwidth_bytes_per_s: Some(0),
            auto_resynchronize: Some(true),
            ..SettingsChange::default()
        };
        let new = changed(&old, &change);
        assert_eq!((new.interval_s, new.history, new.bandwidth_bytes_per_s), (900, 4, None));
        assert!(new.auto_resynchronize);
        assert!(
            check(&Settings { interval_s: 0, ..new.clone() }).unwrap_err().message.contains("1 to 43200")
        );
        assert!(check(&Settings { history: 25, ..new }).unwrap_err().message.contains("0 to 24"));
    }
}
