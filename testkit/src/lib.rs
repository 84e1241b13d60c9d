//! What tests that run real VMs share: a tiny guest, the write oracle, and small helpers around them.
//!
//! ```text
//! guest::GuestSpec ──► guest::domain_xml (libvirt) or qemu::start (QEMU alone)
//!        │ guest writes a known history, acknowledges on the serial line
//!        ▼
//! oracle::check(images)? .at_least(oracle::read_log(serial)?.last_ack)
//! ```
//!
//! The guest's kernel and initramfs are built by `cargo xtask guest`. Nothing here uses KVM.

pub mod clients;
pub mod ext4;
pub mod guest;
pub mod host;
pub mod http;
pub mod kdc;
pub mod libvirtd;
pub mod oracle;
pub mod pair;
pub mod qemu;
pub mod story;
pub mod wbem;

pub use guest::{Assets, GuestDisk, GuestSpec, Writer, assets, domain_xml, embed};
pub use host::{TempRoot, copy_dir, free_port, is_running, kill_9, poll, poll_for, used_bytes};
