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
mod link;
mod needs;
mod networks;
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
pub use needs::Lacking;
pub use networks::NetworkInfo;
pub use overlay::{BlockJob, BlockJobKind, Overlay};
pub use requests::checkpoint_record;
pub use xml::{NetworkChoice, TestCopy};

use events::Bus;
use link::Link;
use model::VmId;
use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, mpsc::Receiver},
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
    sketches: inventory::Sketches,
    link: Link,
    /// Live-migrated away, by the word of [`Hypervisor::remember_migrated`].
    migrated: Mutex<HashSet<VmId>>,
    #[cfg(feature = "faults")]
    broken: std::sync::atomic::AtomicBool,
}

impl Hypervisor {
    /// Opens `uri` (`qemu:///system`, or what [`prepare_embedded_root`] returned) and subscribes to the
    /// events. A libvirtd that goes away later is called until it answers: [`Event::ConnectionClosed`] and
    /// [`Event::Connected`] tell of it, and until then every call fails. Another process that has the same embedded root open is [`Error::RootInUse`]; libvirt cannot
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
        let bus = Arc::new(Bus::default());
        let events = bus.subscribe();
        let link = Link::open(uri, &bus).map_err(|error| match (error, embedded_root(uri)) {
            // libvirt has no error number for this; the pid file's name is what tells it from others.
            (Error::Connect { source, .. }, Some(root)) if source.message().contains("driver.pid") => {
                Error::RootInUse { root, source }
            }
            (error, _) => error,
        })?;
        let inner = Inner {
            uri: uri.to_owned(),
            bus,
            sketches: inventory::Sketches::default(),
            link,
            migrated: Mutex::default(),
            #[cfg(feature = "faults")]
            broken: std::sync::atomic::AtomicBool::new(false),
        };
        let inner = Arc::new(inner);
        link::keep_up(&inner, events)?;
        Ok(Self { inner })
    }

    pub fn uri(&self) -> &str {
        &self.inner.uri
    }

    /// A new subscription: every event from now on. To miss nothing, subscribe first and look then.
    pub fn events(&self) -> Receiver<Event> {
        self.inner.bus.subscribe()
    }

    fn connection(&self) -> Connect {
        self.inner.link.connection()
    }

    fn lookup(&self, vm: VmId) -> Result<Domain> {
        self.lookup_optional(vm)?.ok_or(Error::NoSuchDomain { vm })
    }

    /// From now on, or not any more, libvirt refuses to tell of any domain, as it does when it has lost its own.
    #[cfg(feature = "faults")]
    pub fn breaks(&self, broken: bool) {
        self.inner.broken.store(broken, std::sync::atomic::Ordering::SeqCst);
    }

    fn lookup_optional(&self, vm: VmId) -> Result<Option<Domain>> {
        #[cfg(feature = "faults")]
        if self.inner.broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::Call { what: "look up", vm, source: virt::error::Error::last_error() });
        }
        match self.connection().lookup_domain_by_uuid(vm.0) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if error::is(&error, ErrorNumber::NoDomain) => Ok(None),
            Err(_) if self.inner.bus.closed() => Err(Error::ConnectionClosed),
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
