//! Delivery of indications (DSP0200, 5.3; DSP1054): from the providers' events to the listeners that clients named.
//!
//! ```text
//! Interop::changes ─▶ run ─▶ one task per subscription:
//!     Provider::events ─▶ complete ─▶ export ─▶ again with a growing pause ─▶ next
//!                                        │ failing for too long
//!                                        └▶ ignored, disabled or removed, as the subscription says
//! ```
//!
//! While a listener does not answer, what comes waits in the provider's own bounded queue.

mod export;

use crate::interop::{FailurePolicy, Interop, Subscription};
use cim::{Caller, DateTime, Instance, InstanceStream, Provider, Role, Schema};
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How deliveries are made.
#[derive(Clone)]
pub struct Options {
    /// What TLS trusts, as it is now; without it, only `http` destinations are served.
    pub tls: watch::Receiver<Option<Arc<rustls::ClientConfig>>>,
    /// How long a listener may take to answer.
    pub timeout: Duration,
    /// How often an indication is sent before it is given up.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub pause: Duration,
    pub pause_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tls: watch::channel(None).1,
            timeout: Duration::from_secs(30),
            attempts: 6,
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(30),
        }
    }
}

/// `SubscriptionState`: disabled.
const DISABLED: u16 = 4;

/// Delivers for all subscriptions, as they come and go, until it is cancelled.
pub async fn run(
    interop: Arc<Interop>,
    provider: Arc<dyn Provider>,
    options: Options,
    shutdown: CancellationToken,
) {
    let mut changes = interop.changes();
    let mut running: Vec<(Subscription, CancellationToken)> = vec![];
    let mut tasks = JoinSet::new();
    loop {
        changes.mark_unchanged();
        let wanted = interop.subscriptions();
        running.retain(|(subscription, stop)| {
            let stays = wanted.contains(subscription);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for subscription in wanted {
            if running.iter().any(|(known, _)| *known == subscription) {
                continue;
            }
            let stop = shutdown.child_token();
            running.push((subscription.clone(), stop.clone()));
            let (interop, provider, options) = (interop.clone(), provider.clone(), options.clone());
            tasks.spawn(async move {
                let delivered = deliver(&subscription, &interop, &*provider, &options);
                _ = stop.run_until_cancelled(delivered).await;
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            Some(_) = tasks.join_next() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Delivers until the subscription expires, its events end, or it fails for too long.
async fn deliver(subscription: &Subscription, interop: &Interop, provider: &dyn Provider, options: &Options) {
    let path = &subscription.path;
    let mut events = match subscribe(subscription, provider).await {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%path, %error, "a subscription cannot be served, and is disabled");
            return report(interop.set_state(path, DISABLED).await);
        }
    };
    let expiry = async {
        match subscription.expires {
            Some(expires) => {
                tokio::time::sleep(expires.duration_since(SystemTime::now()).unwrap_or_default()).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::pin!(expiry);
    let mut sequence = Sequence { context: Uuid::new_v4().to_string(), next: 0 };
    let mut failing_since: Option<Instant> = None;
    loop {
        let event = tokio::select! {
            () = &mut expiry => {
                tracing::info!(%path, "a subscription has expired");
                return report(interop.remove(path).await);
            }
            event = events.next() => event,
        };
        let (schema, event) = match event {
            Some((schema, Ok(event))) => (schema, event),
            Some((_, Err(error))) => {
                tracing::warn!(%path, %error, "an event was lost");
                continue;
            }
            None => return,
        };
        let indication = sequence.complete(event, &schema, &subscription.filter_name);
        let sent = export::send(&subscription.destination, &indication, &schema, options).await;
        let Err(error) = sent else {
            failing_since = None;
            continue;
        };
        let since = *failing_since.get_or_insert_with(Instant::now);
        let destination = &subscription.destination;
        tracing::warn!(%path, %destination, %error, "an indication could not be delivered");
        if since.elapsed() >= subscription.failure_trigger {
            match subscription.on_failure {
                FailurePolicy::Ignore => {}
                FailurePolicy::Disable => return report(interop.set_state(path, DISABLED).await),
                FailurePolicy::Remove => return report(interop.remove(path).await),
            }
        }
    }
}

fn report(done: Result<(), cim::Error>) {
    if let Err(error) = done {
        tracing::warn!(%error, "a subscription's state could not be changed");
    }
}

type Events = stream::SelectAll<stream::BoxStream<'static, (Arc<Schema>, Result<Instance, cim::Error>)>>;

/// The events of all namespaces of a subscription, each with its schema.
async fn subscribe(subscription: &Subscription, provider: &dyn Provider) -> Result<Events, cim::Error> {
    // Whoever made the subscription was allowed to; what it reads is what every user may.
    let caller = Caller { user: "indications".to_owned(), role: Role::Reader, locale: None, address: None };
    let mut all = stream::SelectAll::new();
    for namespace in &subscription.namespaces {
        let schema = provider.schema(namespace)?;
        let events: InstanceStream = provider.events(&caller, namespace, &subscription.query).await?;
        all.push(events.map(move |event| (schema.clone(), event)).boxed());
    }
    Ok(all)
}

/// Numbers the indications of one subscription, so that a listener sees what it missed.
struct Sequence {
    context: String,
    next: i64,
}

impl Sequence {
    /// Fills in what every indication says, as far as its class has it and the provider did not.
    fn complete(&mut self, mut event: Instance, schema: &Schema, filter_name: &str) -> Instance {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = DateTime::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let said: [(&str, cim::Value); 5] = [
            ("IndicationIdentifier", Uuid::new_v4().to_string().into()),
            ("IndicationTime", now.into()),
            ("IndicationFilterName", filter_name.into()),
            ("SequenceContext", self.context.as_str().into()),
            ("SequenceNumber", self.next.into()),
        ];
        self.next = self.next.checked_add(1).unwrap_or_default();
        let Some(class) = schema.class(&event.class) else { return event };
        for (name, value) in said {
            let unset = event.get(name).is_none_or(cim::Value::is_null);
            if class.property(name).is_some() && unset {
                event.set(name, value);
            }
        }
        event
    }
}
