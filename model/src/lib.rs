//! The words that every room shares: ids, generations, replication states, clusters and their hashes,
//! the two hash files (digest and sums), and the one way to replace a file durably.
//!
//! Plain data and files only: no libvirt, no network, no SQL, no clock.

pub mod authentication;
pub mod bandwidth;
pub mod clusters;
pub mod digest;
pub mod durable;
pub mod generation;
pub mod ids;
pub mod repaired;
pub mod state;
pub mod sums;
pub mod tier;

pub use authentication::Authentication;
pub use bandwidth::{Bandwidth, BandwidthWindow, WallTime};
pub use clusters::{CLUSTER_BYTES, Chunk, ChunkContent, ClusterHash, ClusterSet, ZERO_CLUSTER, hash_cluster};
pub use digest::Digest;
pub use generation::Generation;
pub use ids::{AttemptId, DeltaId, DiskId, HostName, JobId, VmId};
pub use repaired::Repaired;
pub use state::{Health, Mode, PointKind, ReplicationState};
pub use tier::Tier;
