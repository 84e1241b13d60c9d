//! What a server is told about itself, and its limits.

use cim::Namespace;
use std::sync::Arc;
use std::time::Duration;

/// Time since an arbitrary instant, never going back.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

#[derive(Debug, Clone)]
pub struct Settings {
    /// What Identify answers.
    pub product_vendor: String,
    pub product_version: String,
    /// URIs of DSP0226, such as `…/secprofile/https/basic`.
    pub security_profiles: Vec<String>,
    /// The machine's name: `__SERVER` in queries, `Machine` in faults.
    pub host: String,
    /// The namespace of requests whose URI names none and that have no selector for it.
    pub default_namespace: Option<Namespace>,
    pub limits: Limits,
}

/// Defaults are those of WinRM, except where a comment gives another reason.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest envelope that goes out, and the one for clients that do not say.
    pub envelope_bytes_max: usize,
    pub items_max: usize,
    /// How long a Get, an Enumerate or a Pull may take, and how long it may where the client does not say.
    pub operation_ms_max: u64,
    /// How long an enumeration is kept for a client that does not pull.
    pub enumeration_ms: u64,
    /// How many enumerations and subscriptions may be open; each holds what its provider needs to go on.
    pub contexts_max: usize,
    pub contexts_per_user_max: usize,
    /// How long a subscription lives at most without being renewed, and how long where the client does not say.
    pub subscription_ms_max: u64,
    pub subscription_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            envelope_bytes_max: 500 << 10,
            items_max: 32_000,
            operation_ms_max: 60_000,
            enumeration_ms: 240_000,
            contexts_max: 4000,
            contexts_per_user_max: 1500,
            subscription_ms_max: 86_400_000,
            subscription_ms: 600_000,
        }
    }
}
