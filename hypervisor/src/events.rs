//! Events of all domains, handed from libvirt's event loop to any number of subscribers.
//!
//! An event says that something happened, not what holds now: by the time it is read the domain may have
//! moved on. Stragglers of an earlier block job may arrive during a later one.

use crate::BackupOutcome;
use model::VmId;
use std::{
    collections::HashMap,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Lifecycle {
        vm: VmId,
        change: Change,
    },
    /// A domain job ended: a backup, or save, migration, dump and the like.
    JobCompleted {
        vm: VmId,
        backup: bool,
        outcome: BackupOutcome,
    },
    /// `disk` is the target name (`vda`).
    BlockJob {
        vm: VmId,
        disk: String,
        status: BlockJobStatus,
    },
    Agent {
        vm: VmId,
        connected: bool,
    },
    /// libvirtd went away. What happens from now on is not told of.
    ConnectionClosed,
    /// libvirtd is back: what every domain does now has to be looked at.
    Connected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Defined,
    Undefined,
    Started,
    Paused,
    Resumed,
    ShuttingDown,
    Stopped,
    Crashed,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockJobStatus {
    Completed,
    Failed,
    Cancelled,
    Ready,
}

/// Where libvirt's callbacks deliver. The last backup's outcome is kept per domain, because its waiter may
/// come after the event.
#[derive(Default)]
pub(crate) struct Bus {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Sender<Event>>,
    backups: HashMap<VmId, BackupOutcome>,
    closed: bool,
}

impl Bus {
    pub fn subscribe(&self) -> Receiver<Event> {
        // Unbounded, because libvirt's event loop must not wait for a slow reader; events are few.
        let (sender, receiver) = channel();
        self.lock().subscribers.push(sender);
        receiver
    }

    pub fn publish(&self, event: &Event) {
        let mut state = self.lock();
        match event {
            Event::JobCompleted { vm, backup: true, outcome } => {
                state.backups.insert(*vm, outcome.clone());
            }
            Event::Lifecycle { vm, change: Change::Undefined } => {
                state.backups.remove(vm);
            }
            Event::ConnectionClosed => state.closed = true,
            Event::Connected => state.closed = false,
            _ => {}
        }
        state.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
        drop(state);
        self.changed.notify_all();
    }

    pub fn forget_backup(&self, vm: VmId) {
        self.lock().backups.remove(&vm);
    }

    /// Takes the outcome of the domain's last backup, waiting for it at most `timeout`.
    pub fn take_backup(&self, vm: VmId, timeout: Duration) -> Option<BackupOutcome> {
        let waiting = |state: &mut State| !state.backups.contains_key(&vm) && !state.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.backups.remove(&vm)
    }

    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// A panic while the lock was held cannot leave the maps half changed: the lock stays usable, and
    /// callbacks from C must not panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
