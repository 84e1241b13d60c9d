//! The replica's store: recovery points as chains of qcow2 layers, the overlays on top of them, and what
//! has to be known about them later.
//!
//! Contract: a point is all or nothing. Its files are durable under their final names before one
//! transaction of the catalog makes it visible, and it is hidden durably before the first byte of it
//! changes. A crash at any instant is followed by [`Store::recover`], after which every visible point reads
//! as it was received. Every point can be opened by QEMU without Relevo. Calls block; a [`Store`] may be
//! shared between threads. Nothing here knows libvirt or the network. Files, names and the states that a
//! crash leaves are described in `docs/format/layers.md`.

mod adopt;
mod coalesce;
mod entries;
mod error;
mod failover;
mod forward;
mod hashes;
mod lists;
mod overlay;
mod qcow2;
mod qemu_img;
mod read;
mod receive;
mod recover;
mod retention;
mod store;
mod verify;

pub use adopt::{AdoptedDisk, Adoption};
pub use catalog::{ClusterList, LayerFormat, OverlayKind, Point};
pub use coalesce::Step;
pub use error::{LayersError, Result};
pub use failover::Files;
pub use forward::PointChunks;
pub use hashes::{Hashes, NODE_LEAVES, NodeHash, node_hash};
pub use overlay::OverlayDisk;
pub use read::{PointReader, overlay_clusters};
pub use receive::{DOMAIN_XML, DeltaWriter, Incoming, IncomingDisk, Mark, Sealed};
pub use recover::Recovered;
pub use retention::{Policy, Reason, reasons, retention};
pub use store::{CHAIN_LAYERS_MAX, Fault, Hold, LayerRef, Store};
pub use verify::{MISMATCHES_LISTED_MAX, Mismatch, VerifyReport};
