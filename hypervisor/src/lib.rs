//! The libvirt adapter: domains, their disks and events; start and stop; checkpoints, backup, overlays and
//! block commit; the guest agent. It knows libvirt, QEMU's files and domain XML, and nothing of
//! replication.
//!
//! Every call blocks: run it where blocking is allowed. [`Hypervisor`] is a handle that can be cloned and
//! shared between threads. One process can open one embedded root in its life, because libvirt sets up its
//! embedded driver once and never again; [`prepare_embedded_root`] makes such a root.

pub mod agent;
pub mod backup;
pub mod checkpoint;
pub mod error;
pub mod events;
mod ffi;
pub mod image;
pub mod inventory;
pub mod lifecycle;
mod notes;
pub mod overlay;
mod requests;
pub mod xml;

pub use backup::BackupOutcome;
pub use checkpoint::{CheckpointInfo, CheckpointSize, Deleted};
pub use error::{Error, Result};
pub use events::{BlockJobStatus, Change, Event};
pub use ffi::trim_heap;
pub use image::{BitmapInfo, ImageLayer};
pub use inventory::{DiskDevice, DiskInfo, DiskSource, DomainInfo, DomainState, InterfaceInfo, TpmInfo};
pub use overlay::{BlockJob, BlockJobKind, Overlay};
pub use requests::checkpoint_record;
pub use xml::{NetworkChoice, TestCopy};

use events::Bus;
use model::VmId;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, mpsc::Receiver},
    thread,
};
use virt::{connect::Connect, domain::Domain, error::ErrorNumber};

/// A connection to one libvirt. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub struct Hypervisor {
    inner: Arc<Inner>,
}

struct Inner {
    uri: String,
    bus: Arc<Bus>,
    /// Before the connection, so that the callbacks go first.
    _registrations: ffi::Registrations,
    connection: Connect,
}

impl Hypervisor {
    /// Opens `uri` (`qemu:///system`, or what [`prepare_embedded_root`] returned) and subscribes to the
    /// events. Another process that has the same embedded root open is [`Error::RootInUse`]; libvirt cannot
    /// open any embedded root in this process after that, so the only way on is to exit. A root other than
    /// the first that this process opened is [`Error::SecondRoot`].
    pub fn connect(uri: &str) -> Result<Self> {
        static FIRST_ROOT: OnceLock<PathBuf> = OnceLock::new();
        if let Some(root) = embedded_root(uri) {
            let first = FIRST_ROOT.get_or_init(|| {
                notes::mend(&root);
                root.clone()
            });
            if *first != root {
                return Err(Error::SecondRoot { root, first: first.clone() });
            }
        }
        run_event_loop()?;
        let connection = Connect::open(Some(uri)).map_err(|source| match embedded_root(uri) {
            // libvirt has no error number for this; the pid file's name is what tells it from others.
            Some(root) if source.message().contains("driver.pid") => Error::RootInUse { root, source },
            _ => Error::Connect { uri: uri.to_owned(), source },
        })?;
        let bus = Arc::new(Bus::default());
        let registrations = ffi::register_events(&connection, &bus)
            .map_err(|source| Error::RegisterEvents { uri: uri.to_owned(), source })?;
        let inner = Inner { uri: uri.to_owned(), bus, _registrations: registrations, connection };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn uri(&self) -> &str {
        &self.inner.uri
    }

    /// Whether libvirt still answers.
    pub fn is_alive(&self) -> bool {
        self.inner.connection.is_alive().unwrap_or(false)
    }

    /// A new subscription: every event from now on. To miss nothing, subscribe first and look then.
    pub fn events(&self) -> Receiver<Event> {
        self.inner.bus.subscribe()
    }

    fn lookup(&self, vm: VmId) -> Result<Domain> {
        self.lookup_optional(vm)?.ok_or(Error::NoSuchDomain { vm })
    }

    fn lookup_optional(&self, vm: VmId) -> Result<Option<Domain>> {
        match self.inner.connection.lookup_domain_by_uuid(vm.0) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if error::is(&error, ErrorNumber::NoDomain) => Ok(None),
            Err(source) => Err(Error::Call { what: "look up", vm, source }),
        }
    }
}

/// Makes `dir` usable as an embedded libvirt root, and gives the URI to open it with. The settings let
/// QEMU live on when this process dies (no log daemon to lose) and leave the files' owners alone. Keep
/// `dir` short: the monitor's unix socket lives below it, and socket paths end at 107 bytes.
pub fn prepare_embedded_root(dir: &Path) -> io::Result<String> {
    const SETTINGS: &str = "stdio_handler = \"file\"\nsecurity_driver = \"none\"\n\
                            user = \"root\"\ngroup = \"root\"\nremember_owner = 0\n";
    fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    let path = dir.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8"))?;
    fs::create_dir_all(dir.join("etc"))?;
    model::durable::replace_file(&dir.join("etc/qemu.conf"), SETTINGS.as_bytes())?;
    Ok(format!("qemu:///embed?root={path}"))
}

fn embedded_root(uri: &str) -> Option<PathBuf> {
    uri.strip_prefix("qemu:///embed?root=").map(PathBuf::from)
}

/// libvirt's event loop: registered before the first connection, run for as long as the process lives.
fn run_event_loop() -> Result<()> {
    static STARTED: OnceLock<std::result::Result<(), virt::error::Error>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl()?;
        thread::spawn(|| {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::error!(%error, "libvirt's event loop failed");
                    return;
                }
            }
        });
        Ok(())
    });
    started.clone().map_err(|source| Error::EventLoop { source })
}
