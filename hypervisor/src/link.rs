//! The connection, and what is done when libvirtd goes away: an upgrade of its package is enough for that. Guests
//! and their jobs live on without it.

use crate::{Error, Event, Inner, Result, events::Bus, ffi};
use std::{
    sync::{Arc, PoisonError, RwLock, mpsc::Receiver},
    thread,
    time::Duration,
};
use virt::connect::Connect;

/// Between two calls to a libvirtd that is away.
const CALL_EVERY: Duration = Duration::from_secs(1);

pub struct Link(RwLock<Line>);

struct Line {
    /// Before the connection, so that the callbacks go first.
    _registrations: ffi::Registrations,
    connection: Connect,
}

impl Link {
    pub fn open(uri: &str, bus: &Arc<Bus>) -> Result<Self> {
        Line::open(uri, bus).map(|line| Self(RwLock::new(line)))
    }

    pub fn connection(&self) -> Connect {
        self.0.read().unwrap_or_else(PoisonError::into_inner).connection.clone()
    }

    fn replace(&self, line: Line) {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let closed = std::mem::replace(&mut *slot, line);
        drop(slot);
        // Not under the lock: libvirt waits for callbacks that run.
        drop(closed);
    }
}

impl Line {
    fn open(uri: &str, bus: &Arc<Bus>) -> Result<Self> {
        let connection =
            Connect::open(Some(uri)).map_err(|source| Error::Connect { uri: uri.to_owned(), source })?;
        let registrations = ffi::register_events(&connection, bus)
            .map_err(|source| Error::RegisterEvents { uri: uri.to_owned(), source })?;
        Ok(Self { _registrations: registrations, connection })
    }
}

/// From now on a libvirtd that closes the connection is called until it answers. Ends with the last handle. `events`:
/// since before the connection was opened.
pub fn keep_up(inner: &Arc<Inner>, events: Receiver<Event>) -> Result<()> {
    let weak = Arc::downgrade(inner);
    let call = move |events: Receiver<Event>| {
        while let Ok(event) = events.recv() {
            if event != Event::ConnectionClosed {
                continue;
            }
            loop {
                let Some(inner) = weak.upgrade() else { return };
                if let Ok(line) = Line::open(&inner.uri, &inner.bus) {
                    inner.link.replace(line);
                    inner.bus.publish(&Event::Connected);
                    break;
                }
                drop(inner);
                thread::sleep(CALL_EVERY);
            }
        }
    };
    let spawned = thread::Builder::new().name("libvirt-link".into()).spawn(move || call(events));
    spawned.map(drop).map_err(|source| Error::Watch { source })
}
