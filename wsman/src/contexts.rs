//! Open enumerations and subscriptions: who opened them, how long they live, and that one request at a time pulls.
//!
//! ```text
//! open ──▶ idle ──lease──▶ leased ──give back──▶ idle ──expiry, release──▶ gone
//!                            └── end of sequence, lease dropped, release ──▶ gone
//! ```

use crate::fault::{Fault, Kind};
use crate::pull::Cursor;
use crate::reply::new_id;
use crate::settings::{Clock, Limits};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All open contexts, by id.
pub struct Contexts {
    slots: Mutex<HashMap<String, Slot>>,
    clock: Clock,
    limits: Limits,
}

struct Slot {
    user: String,
    lifetime: Lifetime,
    expires_ms: u64,
    /// None while a request pulls.
    cursor: Option<Cursor>,
}

/// Until when a context is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// For so long after the last request.
    Idle(u64),
    /// For so long after it was opened or renewed.
    Fixed(u64),
}

/// The right to pull from a context. Dropped without being given back it ends the context: the request that held it
/// went away, and with it what it had pulled.
pub struct Lease<'a> {
    contexts: &'a Contexts,
    id: String,
    /// What is left of the context's time.
    pub left_ms: u64,
    pub cursor: Option<Cursor>,
}

impl Contexts {
    pub fn new(clock: Clock, limits: Limits) -> Contexts {
        Contexts { slots: Mutex::default(), clock, limits }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        slots.retain(|_, slot| slot.expires_ms > now_ms || slot.cursor.is_none());
        slots
    }

    fn now_ms(&self) -> u64 {
        (self.clock)().as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Keeps a cursor and answers its id. `QuotaLimit` where there are too many.
    pub fn open(&self, user: &str, lifetime: Lifetime, cursor: Cursor) -> Result<String, Fault> {
        let mut slots = self.slots();
        let own = slots.values().filter(|slot| slot.user == user).count();
        let (all_max, own_max) = (self.limits.contexts_max, self.limits.contexts_per_user_max);
        if slots.len() >= all_max || own >= own_max {
            let what = format_args!("{own} enumerations and subscriptions of {user} are open; release some");
            return Err(Fault::new(Kind::QuotaLimit, what));
        }
        let id = new_id();
        let expires_ms = self.now_ms() + lifetime.ms();
        slots.insert(id.clone(), Slot { user: user.to_owned(), lifetime, expires_ms, cursor: Some(cursor) });
        Ok(id)
    }

    /// Takes the context for one request of the user who opened it.
    pub fn lease(&self, user: &str, id: &str) -> Result<Lease<'_>, Fault> {
        let now_ms = self.now_ms();
        let mut slots = self.slots();
        let slot = slots.get_mut(id).filter(|slot| slot.user == user).ok_or_else(unknown)?;
        let Some(cursor) = slot.cursor.take() else {
            return Err(Fault::new(Kind::Concurrency, "another request pulls from this context"));
        };
        let left_ms = slot.expires_ms.saturating_sub(now_ms);
        Ok(Lease { contexts: self, id: id.to_owned(), left_ms, cursor: Some(cursor) })
    }

    /// Forgets the context.
    pub fn release(&self, user: &str, id: &str) -> Result<(), Fault> {
        let mut slots = self.slots();
        slots.get(id).filter(|slot| slot.user == user).ok_or_else(unknown)?;
        slots.remove(id);
        Ok(())
    }

    /// Gives a subscription so much time from now. Not for enumerations, whose time begins anew with each request.
    pub fn renew(&self, user: &str, id: &str, lifetime_ms: u64) -> Result<(), Fault> {
        let now_ms = self.now_ms();
        let mut slots = self.slots();
        let slot = slots.get_mut(id).filter(|slot| slot.user == user).ok_or_else(unknown)?;
        let Lifetime::Fixed(_) = slot.lifetime else { return Err(unknown()) };
        slot.lifetime = Lifetime::Fixed(lifetime_ms);
        slot.expires_ms = now_ms + lifetime_ms;
        Ok(())
    }

    /// What is left of a subscription's time.
    pub fn left_ms(&self, user: &str, id: &str) -> Result<u64, Fault> {
        let now_ms = self.now_ms();
        let slots = self.slots();
        let slot = slots.get(id).filter(|slot| slot.user == user).ok_or_else(unknown)?;
        Ok(slot.expires_ms.saturating_sub(now_ms))
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.slots().len()
    }
}

fn unknown() -> Fault {
    Fault::new(
        Kind::InvalidEnumerationContext,
        "there is no such enumeration or subscription, or it has expired",
    )
}

impl Lifetime {
    fn ms(self) -> u64 {
        match self {
            Lifetime::Idle(ms) | Lifetime::Fixed(ms) => ms,
        }
    }
}

impl Lease<'_> {
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn cursor(&mut self) -> &mut Cursor {
        self.cursor.as_mut().expect("a lease has its cursor until it is given back")
    }

    /// Keeps the context for the next request.
    pub fn give_back(mut self) {
        let now_ms = self.contexts.now_ms();
        // Released meanwhile: then it stays gone.
        if let Some(slot) = self.contexts.slots().get_mut(&self.id) {
            slot.cursor = self.cursor.take();
            if let Lifetime::Idle(ms) = slot.lifetime {
                slot.expires_ms = now_ms + ms;
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.cursor.is_some() {
            self.contexts.slots().remove(&self.id);
        }
    }
}
