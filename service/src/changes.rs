//! What changes on this host, told to whoever watches: which thing, never what of it. A watcher looks anew.

use crate::host::Host;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use model::{JobId, VmId};
use tokio::sync::broadcast::{Sender, error::RecvError};

/// Changes that wait for a watcher; one that falls further behind is told to look at everything.
const WAITING_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Its relationship, its recovery points, or whether it runs.
    Vm(VmId),
    /// It began, went on to another step, or ended.
    Job(JobId),
    /// More happened than the watcher kept up with, or than libvirt told of.
    Missed,
}

/// Where changes are published; copies lead to the same watchers.
#[derive(Clone, Debug)]
pub struct Changes(Sender<Change>);

impl Default for Changes {
    fn default() -> Self {
        Self(Sender::new(WAITING_MAX))
    }
}

impl Changes {
    pub fn publish(&self, change: Change) {
        // Without a watcher nobody misses it.
        let _ = self.0.send(change);
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        let next = |mut changes: tokio::sync::broadcast::Receiver<Change>| async move {
            let change = match changes.recv().await {
                Ok(change) => change,
                Err(RecvError::Lagged(_)) => Change::Missed,
                Err(RecvError::Closed) => return None,
            };
            Some((change, changes))
        };
        stream::unfold(self.0.subscribe(), next).boxed()
    }
}

impl Host {
    /// Changes from now on, until the host stops.
    pub fn changes(&self) -> BoxStream<'static, Change> {
        let stopped = self.shutdown.clone().cancelled_owned();
        self.changes.watch().take_until(stopped).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_watcher_that_falls_behind_is_told_to_look_at_everything() {
        let changes = Changes::default();
        let mut watcher = changes.watch();
        let first = Change::Vm(VmId::random());
        changes.publish(first);
        assert_eq!(watcher.next().now_or_never(), Some(Some(first)));
        for _ in 0..=WAITING_MAX {
            changes.publish(Change::Job(JobId::random()));
        }
        assert_eq!(watcher.next().now_or_never(), Some(Some(Change::Missed)));
        assert!(matches!(watcher.next().now_or_never(), Some(Some(Change::Job(_)))));
    }
}
