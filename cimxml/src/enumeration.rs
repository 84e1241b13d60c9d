//! Open enumerations (DSP0200, 5.4.2.24): what is left of each, whose it is, and when it is forgotten.
//!
//! ```text
//! open ─▶ leased ──park──▶ waiting ──pull──▶ leased ─▶ …
//!            │                 │
//!         dropped      closed or expired
//! ```
//!
//! Nothing runs in the background: each operation first forgets what has expired, and their number is bounded.

use cim::{Error, Namespace, Status};
use futures::stream::{BoxStream, Peekable};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Tells what time it is.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Bounds of open enumerations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub open_max: usize,
    pub open_per_user_max: usize,
    /// How long an enumeration waits for the next pull where the client does not say.
    pub wait_default: Duration,
    /// The longest wait that a client may ask for.
    pub wait_max: Duration,
    /// How many objects one answer holds, whatever the client asks for.
    pub objects_max: u32,
}

impl Default for Limits {
    /// As Windows bounds its enumerations, the number apart.
    fn default() -> Limits {
        Limits {
            open_max: 1500,
            open_per_user_max: 300,
            wait_default: Duration::from_secs(240),
            wait_max: Duration::from_secs(3600),
            objects_max: 32_000,
        }
    }
}

/// What an enumeration's objects are written as; each has a pull operation of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    InstancesWithPath,
    InstancePaths,
    Instances,
}

/// The objects that are left, each as its element.
pub type Items = Peekable<BoxStream<'static, Result<String, Error>>>;

pub struct Contexts {
    limits: Limits,
    clock: Clock,
    open: Mutex<HashMap<String, Context>>,
}

struct Context {
    user: String,
    namespace: Namespace,
    kind: Kind,
    wait: Duration,
    expires: Instant,
    /// None while an answer is made of them.
    items: Option<Items>,
}

/// An enumeration of which an answer is made. Unless it is parked, it is forgotten with the answer.
pub struct Lease {
    contexts: Arc<Contexts>,
    id: String,
}

impl Contexts {
    pub fn new(limits: Limits, clock: Clock) -> Contexts {
        Contexts { limits, clock, open: Mutex::default() }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How long an enumeration shall wait. Zero would be for ever, which nobody gets.
    pub fn wait(&self, asked_s: Option<u32>) -> Result<Duration, Error> {
        let Some(asked_s) = asked_s else { return Ok(self.limits.wait_default) };
        let (asked, most) = (Duration::from_secs(asked_s.into()), self.limits.wait_max);
        if asked.is_zero() || asked > most {
            let message = format!("OperationTimeout is {asked_s} s; allowed is 1 to {} s", most.as_secs());
            return Err(Error::new(Status::InvalidOperationTimeout, message));
        }
        Ok(asked)
    }

    /// Opens an enumeration, leased.
    pub fn open(
        self: &Arc<Contexts>,
        user: &str,
        namespace: &Namespace,
        kind: Kind,
        wait: Duration,
    ) -> Result<Lease, Error> {
        let mut open = self.unexpired();
        let own = open.values().filter(|context| context.user == user).count();
        let limits = &self.limits;
        if open.len() >= limits.open_max || own >= limits.open_per_user_max {
            let message = format!(
                "too many enumerations are open: {own} of {} by {user}, {} of {} in all",
                limits.open_per_user_max,
                open.len(),
                limits.open_max
            );
            return Err(Error::new(Status::ServerLimitsExceeded, message));
        }
        let id = Uuid::new_v4().to_string();
        let (user, namespace) = (user.to_owned(), namespace.clone());
        let expires = (self.clock)() + wait;
        open.insert(id.clone(), Context { user, namespace, kind, wait, expires, items: None });
        Ok(Lease { contexts: self.clone(), id })
    }

    /// Leases an enumeration that waits, and what is left of it.
    pub fn lease(
        self: &Arc<Contexts>,
        user: &str,
        namespace: &Namespace,
        kind: Kind,
        id: &str,
    ) -> Result<(Lease, Items), Error> {
        let mut open = self.unexpired();
        let context = find(&mut open, user, namespace, id)?;
        if context.kind != kind {
            let message = format!("the enumeration was opened for {:?}, not for {kind:?}", context.kind);
            return Err(Error::new(Status::InvalidEnumerationContext, message));
        }
        let busy = || Error::failed("an answer of this enumeration is under way");
        let items = context.items.take().ok_or_else(busy)?;
        Ok((Lease { contexts: self.clone(), id: id.to_owned() }, items))
    }

    pub fn close(&self, user: &str, namespace: &Namespace, id: &str) -> Result<(), Error> {
        let mut open = self.unexpired();
        if find(&mut open, user, namespace, id)?.items.is_none() {
            let message = "an answer of this enumeration is under way";
            return Err(Error::new(Status::PullCannotBeAbandoned, message));
        }
        open.remove(id);
        Ok(())
    }

    /// What is open and has not expired. A lease does not expire: its answer is being read.
    fn unexpired(&self) -> MutexGuard<'_, HashMap<String, Context>> {
        let now = (self.clock)();
        let mut open = self.lock();
        open.retain(|_, context| context.items.is_none() || context.expires > now);
        open
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Context>> {
        self.open.lock().expect("nobody panics while holding this lock")
    }
}

/// Another user's enumeration is as unknown as one that never was.
fn find<'a>(
    open: &'a mut HashMap<String, Context>,
    user: &str,
    namespace: &Namespace,
    id: &str,
) -> Result<&'a mut Context, Error> {
    let found = open.get_mut(id).filter(|context| context.user == user && context.namespace == *namespace);
    let unknown = || {
        let message = "there is no such enumeration here: it is at its end, was closed, or has expired";
        Error::new(Status::InvalidEnumerationContext, message)
    };
    found.ok_or_else(unknown)
}

impl Lease {
    /// Lets the enumeration wait for the next pull; answers the name by which it is found.
    pub fn park(self, items: Items) -> String {
        let now = (self.contexts.clock)();
        if let Some(context) = self.contexts.lock().get_mut(&self.id) {
            context.expires = now + context.wait;
            context.items = Some(items);
        }
        self.id.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut open = self.contexts.lock();
        if open.get(&self.id).is_some_and(|context| context.items.is_none()) {
            open.remove(&self.id);
        }
    }
}
