//! One host: what its workers share, and the registry of the VMs that it protects or holds replicas of.

use crate::{
    api::{ErrorKind, Failure},
    changes::{Change, Changes},
    config::{Config, Dirs},
    jobs::Jobs,
    owner::{self, OwnerHandle},
};
use capture::{Capture, Folders, Limits};
use catalog::Catalog;
use engine::Relationship;
use hypervisor::Hypervisor;
use layers::Store;
use model::{DiskId, HostName, VmId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use transport::{Client, Limiter, Tls};

pub struct Host {
    pub name: HostName,
    pub dirs: Dirs,
    pub config: Config,
    pub catalog: Catalog,
    pub hypervisor: Hypervisor,
    pub tls: Arc<Tls>,
    pub client: Client,
    pub limiter: Arc<Limiter>,
    pub jobs: Jobs,
    pub changes: Changes,
    pub owners: Mutex<HashMap<VmId, OwnerHandle>>,
    /// One store per VM, whoever asks: it holds the lock of the VM's layers.
    stores: Mutex<HashMap<VmId, Arc<Store>>>,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
    pub replication_address: std::sync::OnceLock<String>,
}

/// One of a VM's disks as this host has it: what the catalog keeps as the disk's JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    pub disk: DiskId,
    pub target: String,
    pub size_bytes: u64,
    /// Where the VM's own disk stands here; `None` while this host holds layers only.
    pub path: Option<PathBuf>,
    /// `qcow2` or `raw`.
    pub format: String,
}

/// Keys of the per-VM documents in the catalog.
pub mod document {
    /// The domain as it was before it was undefined here.
    pub const OWN_XML: &str = "own-xml";
    /// Folder of the replica's layers.
    pub const STORAGE: &str = "storage";
    pub const TRUST_GROUP: &str = "trust-group";
    /// libvirt's autostart flag before Relevo took it over.
    pub const AUTOSTART: &str = "autostart";
    /// The operation that a job stands for.
    pub const JOB: &str = "job";
    /// The chains to be merged down after a failover.
    pub const CHAINS: &str = "chains";
    /// The disks' files at the last cut before a hand-over, with their times of change.
    pub const QUIET: &str = "quiet";
    /// The test VM that exists.
    pub const TEST: &str = "test";
}

impl Host {
    pub fn new(parts: HostParts) -> Arc<Self> {
        let changes = Changes::default();
        Arc::new(Self {
            name: parts.name,
            limiter: Arc::new(Limiter::new(parts.config.bandwidth)),
            dirs: parts.dirs,
            config: parts.config,
            jobs: Jobs::new(parts.catalog.clone(), changes.clone()),
            changes,
            catalog: parts.catalog,
            hypervisor: parts.hypervisor,
            tls: parts.tls,
            client: parts.client,
            owners: Mutex::default(),
            stores: Mutex::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            replication_address: std::sync::OnceLock::new(),
        })
    }

    pub fn owner(&self, vm: VmId) -> Option<OwnerHandle> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&vm).cloned()
    }

    pub fn all_owners(&self) -> Vec<OwnerHandle> {
        let mut owners: Vec<_> =
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        owners.sort_by_key(|owner| owner.vm);
        owners
    }

    /// Takes a relationship into the host's care: persists it and starts its owner.
    pub fn adopt(self: &Arc<Self>, record: Relationship) -> Result<OwnerHandle, Failure> {
        self.save(&record)?;
        let handle = owner::start(self.clone(), record);
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(handle.vm, handle.clone());
        self.changes.publish(Change::Vm(handle.vm));
        Ok(handle)
    }

    pub fn forget(&self, vm: VmId) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        self.changes.publish(Change::Vm(vm));
    }

    pub fn save(&self, record: &Relationship) -> Result<(), Failure> {
        let json =
            serde_json::to_string(record).map_err(|error| Failure::internal("write the record", &error))?;
        self.catalog
            .save_relationship(record.vm, 0, &json, record.token.generation())
            .map_err(|error| Failure::internal("save the relationship", &error))
    }

    pub fn disks(&self, vm: VmId) -> Result<Vec<DiskRecord>, Failure> {
        let rows = self.catalog.disks(vm).map_err(|error| Failure::internal("read the disks", &error))?;
        rows.into_iter()
            .map(|row| {
                serde_json::from_str(&row.json)
                    .map_err(|error| Failure::internal("read a disk's record", &error))
            })
            .collect()
    }

    pub fn save_disks(&self, vm: VmId, disks: &[DiskRecord]) -> Result<(), Failure> {
        let rows: Vec<_> = disks
            .iter()
            .map(|disk| catalog::Disk {
                disk: disk.disk,
                target: disk.target.clone(),
                size_bytes: disk.size_bytes,
                json: serde_json::to_string(disk).expect("plain data"),
            })
            .collect();
        self.catalog.save_disks(vm, &rows).map_err(|error| Failure::internal("save the disks", &error))
    }

    pub fn document<T: for<'de> Deserialize<'de>>(&self, vm: VmId, key: &str) -> Result<Option<T>, Failure> {
        let text = self.catalog.get_document(vm, key);
        let text = text.map_err(|error| Failure::internal("read a document", &error))?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| Failure::internal("understand a document", &error))
    }

    pub fn put_document<T: Serialize>(&self, vm: VmId, key: &str, value: &T) -> Result<(), Failure> {
        let text =
            serde_json::to_string(value).map_err(|error| Failure::internal("write a document", &error))?;
        self.catalog
            .put_document(vm, key, &text)
            .map_err(|error| Failure::internal("save a document", &error))
    }

    pub fn drop_document(&self, vm: VmId, key: &str) -> Result<(), Failure> {
        self.catalog.delete_document(vm, key).map_err(|error| Failure::internal("delete a document", &error))
    }

    /// The replica's store of a VM, in the folder that was fixed when the replica was made.
    pub fn store(&self, vm: VmId) -> Result<Arc<Store>, Failure> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&vm) {
            return Ok(store.clone());
        }
        let folder: PathBuf = self.document(vm, document::STORAGE)?.ok_or_else(|| {
            Failure::new(ErrorKind::InvalidState, "no-storage", "this host holds no replica of the VM")
        })?;
        let store = Arc::new(Store::open(self.catalog.clone(), vm, &folder));
        stores.insert(vm, store.clone());
        Ok(store)
    }

    /// What captures the VM's own disks.
    pub fn capture(&self, vm: VmId) -> Result<Capture, Failure> {
        Ok(self.capture_of(vm, self.disks(vm)?))
    }

    /// What would capture these disks.
    pub fn capture_of(&self, vm: VmId, disks: Vec<DiskRecord>) -> Capture {
        let disks = disks.into_iter().filter_map(|disk| {
            let format =
                if disk.format == "raw" { capture::DiskFormat::Raw } else { capture::DiskFormat::Qcow2 };
            Some(capture::Disk {
                disk: disk.disk,
                target: disk.target,
                path: disk.path?,
                format,
                size_bytes: disk.size_bytes,
            })
        });
        Capture {
            hypervisor: self.hypervisor.clone(),
            vm,
            disks: disks.collect(),
            folders: Folders { state: self.dirs.state.clone(), spool: self.spool(), overlays: None },
            limits: Limits {
                spool_bytes_max: self.config.spool.quota,
                free_bytes_min: self.config.spool.keep_free,
            },
            clock: crate::clock::now_ms,
            fault: capture::Fault::default(),
        }
    }

    pub fn spool(&self) -> PathBuf {
        self.config.spool.folder.clone().unwrap_or_else(|| self.dirs.state.join("spool"))
    }

    /// Where the layers of a VM go that comes from `peer`: the storage of the authorization that lets the
    /// peer in.
    pub fn authorization(&self, names: &[HostName]) -> Result<Option<transport::Authorization>, Failure> {
        let entries: Vec<_> = self
            .catalog
            .authorizations()
            .map_err(|error| Failure::internal("read the authorizations", &error))?
            .into_iter()
            .filter_map(|entry| {
                Some(transport::Authorization {
                    host: entry.host.parse().ok()?,
                    trust_group: entry.trust_group,
                    storage: Path::new(&entry.storage).to_owned(),
                })
            })
            .collect();
        Ok(transport::authorize(&entries, names).cloned())
    }
}

pub struct HostParts {
    pub name: HostName,
    pub dirs: Dirs,
    pub config: Config,
    pub catalog: Catalog,
    pub hypervisor: Hypervisor,
    pub tls: Arc<Tls>,
    pub client: Client,
}
