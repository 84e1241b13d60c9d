//! The right to run a VM, as one host knows it.
//!
//! ```text
//!            release                     (peer) took, or it is learnt
//!   Held ───────────────▶ Released ─────────────────────────────▶ Elsewhere
//!    ▲  ▲                    │ withdrawn (with a newer generation)    │
//!    │  └────────────────────┘                                        │ released to us
//!    │ take                                                           ▼
//!    └──────────────────────────────────────────────────────────── Offered
//!    ▲ claim (unplanned failover: on the operator's word, n+1)        │
//!    └───────────────────────────── Elsewhere ◀── withdrawn ──────────┘
//! ```
//!
//! Only `Held` permits to define the domain. `Released` and `Offered` are the two ends of a hand-over; at
//! no time do both ends hold: the giver is `Released` durably before the taker can be `Offered`.

use model::Generation;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Token {
    /// We may run it. `acknowledged`: the peer has answered with this generation.
    Held { generation: Generation, acknowledged: bool },
    /// Given away, the peer's answer is not known yet. `withdrawing`: we asked to have it back under this
    /// newer generation.
    Released { to: Generation, withdrawing: Option<Generation> },
    /// The peer gave it to us; taking it needs no further question.
    Offered { generation: Generation },
    /// The peer has it.
    Elsewhere { generation: Generation },
}

impl Token {
    /// The newest generation that this host knows of.
    pub fn generation(&self) -> &Generation {
        match self {
            Self::Held { generation, .. } | Self::Offered { generation } | Self::Elsewhere { generation } => {
                generation
            }
            Self::Released { to, .. } => to,
        }
    }

    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}
