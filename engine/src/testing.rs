//! Records for this crate's own tests.

use crate::{Context, Relationship, Settings, Token};
use model::{DeltaId, Generation, HostName, Mode, ReplicationState, VmId};
use uuid::Uuid;

pub fn host(name: &str) -> HostName {
    format!("{name}.example").parse().unwrap()
}

pub fn generation(number: u64, owner: &str, nonce: u128) -> Generation {
    Generation { number, owner: host(owner), nonce: Uuid::from_u128(nonce) }
}

pub fn delta(number: u128) -> DeltaId {
    DeltaId(Uuid::from_u128(number))
}

pub fn context(now_ms: i64) -> Context {
    Context { now_ms, utc_offset_min: 0, fresh: Uuid::new_v4() }
}

/// The record of host `a`, whose peer is `b`.
pub fn record(mode: Mode, state: ReplicationState, token: Token) -> Relationship {
    let settings = Settings {
        interval_s: 30,
        history: 0,
        history_every_s: 3600,
        auto_resynchronize: true,
        compress: true,
        ..Settings::default()
    };
    let mut record = Relationship::primary(VmId(Uuid::nil()), "vm".into(), host("a"), host("b"), settings);
    (record.mode, record.state, record.token) = (mode, state, token);
    record.latest = Some(delta(1));
    record
}
