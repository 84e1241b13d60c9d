//! One host: what its workers share, and the registry of the VMs that it protects or holds replicas of.

use crate::{
    api::{ErrorKind, Failure},
    arrivals::Arrivals,
    changes::{Change, Changes},
    clock::wall_time,
    config::{Config, Dirs},
    jobs::Jobs,
    listeners::Listeners,
    owner::{self, OwnerHandle},
    service_settings::{self, ServiceSettings},
    turns::Turns,
    watch::Watch,
};
use capture::{Capture, Folders, Limits};
use catalog::Catalog;
use engine::{
    Relationship,
    relationship::{EXTENDED, PRIMARY},
};
use hypervisor::Hypervisor;
use layers::Store;
use model::{DiskId, HostName, VmId};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use transport::{Client, Kerberos, Limiter, Tls};

/// Takes up the certificates as they are on disk now. On an error those in use stay in use.
pub type Reload = Box<dyn Fn() -> Result<(), Failure> + Send + Sync>;

pub struct Host {
    pub name: HostName,
    pub dirs: Dirs,
    pub config: Config,
    pub catalog: Catalog,
    pub hypervisor: Hypervisor,
    pub tls: Arc<Tls>,
    /// Of whatever else shows the certificates that are installed.
    reloads: Mutex<Vec<Reload>>,
    /// `None`: not set up.
    pub kerberos: Option<Arc<Kerberos>>,
    pub client: Client,
    pub limiter: Arc<Limiter>,
    /// To send, and to receive.
    pub turns: Turns,
    pub arrivals: Arrivals,
    pub jobs: Jobs,
    pub changes: Changes,
    pub watch: Watch,
    pub settings: Mutex<ServiceSettings>,
    /// By VM and index of the relationship.
    pub owners: Mutex<HashMap<(VmId, u16), OwnerHandle>>,
    /// One store per VM, whoever asks: it holds the lock of the VM's layers.
    stores: Mutex<HashMap<VmId, Arc<Store>>>,
    /// VMs whose tracking of changes was not yet looked at since the daemon's start.
    unrecovered: Mutex<HashSet<VmId>>,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
    /// What lets the other hosts in.
    pub listeners: Listeners,
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
    /// Who may feed the replica, or make one of what stands here: members of this group.
    pub const TRUST_GROUP: &str = "trust-group";
    /// libvirt's autostart flag before Relevo took it over.
    pub const AUTOSTART: &str = "autostart";
    /// The copy of the VM's disks from which it may become a replica.
    pub const SEED: &str = "seed";
    /// The folder into which the first copy is written.
    pub const EXPORT: &str = "export";
    /// The VM was live-migrated from this host, and has not been seen to run here since.
    pub const MIGRATED: &str = "migrated";
    /// The set of disks that is to be replicated next.
    pub const DISKS: &str = "disks";
    /// The operation that a job of relationship 0, or 1, stands for.
    pub const JOB: [&str; 2] = ["job", "job-extended"];
    /// The chains to be merged down after a failover.
    pub const CHAINS: &str = "chains";
    /// The adopted state of this host's disks, and the one from which on its own changes were counted.
    pub const OWN_SINCE: &str = "own-since";
    /// The same of the other host, as it told.
    pub const PEER_SINCE: &str = "peer-since";
    /// The states to which the cluster lists of what was dropped lead.
    pub const LEADS_TO: &str = "leads-to";
    /// A third host, and those of its states to which the cluster lists of what was dropped lead.
    pub const LISTED: &str = "listed";
    /// The disks' files at the last cut before a hand-over, with their times of change.
    pub const QUIET: &str = "quiet";
    /// What the VM's adapters get in the guest after a failover.
    pub const ADDRESSES: &str = "failover-addresses";
    /// The networks into which the VM's adapters go in a test failover here.
    pub const TEST_NETWORKS: &str = "test-networks";
    /// The VM was failed over to this host, and they are not applied yet.
    pub const ADDRESSES_DUE: &str = "failover-addresses-due";
    /// How the last try to apply them ended.
    pub const ADDRESSES_OUTCOME: &str = "failover-addresses-outcome";
    /// The test VM is a fire drill's, and goes when that ends or was interrupted.
    pub const DRILLING: &str = "drilling";
    pub const LAST_DRILL: &str = "last-drill";
    /// When a test failover was last made.
    pub const LAST_TEST: &str = "last-test";
    /// The test VM that exists.
    pub const TEST: &str = "test";
}

impl Host {
    pub fn new(parts: HostParts) -> Arc<Self> {
        let changes = Changes::default();
        Arc::new(Self {
            name: parts.name,
            limiter: Arc::new(Limiter::new(parts.config.bandwidth.at(wall_time()))),
            turns: Turns::new(parts.config.transfers.sending_max),
            arrivals: Arrivals::new(parts.config.transfers.receiving_max),
            dirs: parts.dirs,
            config: parts.config,
            jobs: Jobs::new(parts.catalog.clone(), changes.clone()),
            changes,
            watch: Watch::default(),
            settings: Mutex::new(service_settings::load(&parts.catalog)),
            catalog: parts.catalog,
            hypervisor: parts.hypervisor,
            tls: parts.tls,
            reloads: Mutex::default(),
            kerberos: parts.kerberos,
            client: parts.client,
            owners: Mutex::default(),
            stores: Mutex::default(),
            unrecovered: Mutex::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            listeners: Listeners::default(),
        })
    }

    /// From now on `reload` is called whenever certificates were installed.
    pub fn on_certificates(&self, reload: Reload) {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner).push(reload);
    }

    /// Has the replication and whatever asked for it take up the certificates that are installed.
    pub fn reload_certificates(&self) -> Result<(), Failure> {
        let identity = crate::daemon::identity(&self.dirs)?;
        self.tls
            .reload(identity)
            .map_err(|error| Failure::internal("use the installed certificates", &error))?;
        let reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.iter().try_for_each(|reload| reload())
    }

    pub fn owner(&self, vm: VmId) -> Option<OwnerHandle> {
        self.relationship(vm, PRIMARY)
    }

    /// The owner of the relationship that forwards a replica's points to a third host.
    pub fn extended(&self, vm: VmId) -> Option<OwnerHandle> {
        self.relationship(vm, EXTENDED)
    }

    pub fn relationship(&self, vm: VmId, index: u16) -> Option<OwnerHandle> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&(vm, index)).cloned()
    }

    pub fn is_unrecovered(&self, vm: VmId) -> bool {
        self.unrecovered.lock().unwrap_or_else(PoisonError::into_inner).contains(&vm)
    }

    pub fn set_unrecovered(&self, vm: VmId, is: bool) {
        let mut vms = self.unrecovered.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = if is { vms.insert(vm) } else { vms.remove(&vm) };
    }

    /// The owners of relationship 0 of every VM.
    pub fn all_owners(&self) -> Vec<OwnerHandle> {
        let mut owners = self.all_relationships();
        owners.retain(|owner| owner.index == PRIMARY);
        owners
    }

    /// By VM and index.
    pub fn all_relationships(&self) -> Vec<OwnerHandle> {
        let mut owners: Vec<_> =
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        owners.sort_by_key(|owner| (owner.vm, owner.index));
        owners
    }

    /// Takes a relationship into the host's care: persists it and starts its owner.
    pub fn adopt(self: &Arc<Self>, record: Relationship) -> Result<OwnerHandle, Failure> {
        self.save(&record)?;
        let handle = owner::start(self.clone(), record);
        self.owners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((handle.vm, handle.index), handle.clone());
        self.changes.publish(Change::Vm(handle.vm));
        Ok(handle)
    }

    /// Lets go of a relationship; the store goes with relationship 0.
    /// Takes an owner out of the host's care; false where it is not there any more. Who does so stops it, and forgets
    /// its relationship or adopts another.
    pub fn claim(&self, owner: &OwnerHandle) -> bool {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (owner.vm, owner.index);
        owners.get(&key).is_some_and(|now| now.is_same(owner)) && owners.remove(&key).is_some()
    }

    pub fn forget(&self, vm: VmId, index: u16) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(&(vm, index));
        if index == PRIMARY {
            self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        }
        self.changes.publish(Change::Vm(vm));
    }

    pub fn save(&self, record: &Relationship) -> Result<(), Failure> {
        let json =
            serde_json::to_string(record).map_err(|error| Failure::internal("write the record", &error))?;
        self.catalog
            .save_relationship(record.vm, record.index, &json, record.token.generation())
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

    /// The entry that lets a host of these names in: the most specific one.
    pub fn authorization(&self, names: &[HostName]) -> Result<Option<transport::Authorization>, Failure> {
        Ok(transport::authorize(&self.authorizations()?, names).cloned())
    }

    pub fn authorizations(&self) -> Result<Vec<transport::Authorization>, Failure> {
        let rows = self
            .catalog
            .authorizations()
            .map_err(|error| Failure::internal("read the authorizations", &error))?;
        let entry = |row: catalog::Authorization| {
            Some(transport::Authorization {
                host: row.host.parse().ok()?,
                trust_group: row.trust_group,
                storage: Path::new(&row.storage).to_owned(),
            })
        };
        Ok(rows.into_iter().filter_map(entry).collect())
    }

    /// A replica that a member of a trust group made is fed by members of that group.
    pub fn may_feed(
        &self,
        vm: VmId,
        from: &HostName,
        entry: &transport::Authorization,
    ) -> Result<(), Failure> {
        let bound: Option<String> = self.document(vm, document::TRUST_GROUP)?;
        let Some(group) = bound.filter(|group| !group.eq_ignore_ascii_case(&entry.trust_group)) else {
            return Ok(());
        };
        let (host, own) = (&self.name, &entry.trust_group);
        Err(Failure::new(
            ErrorKind::AccessDenied,
            "wrong-trust-group",
            format!(
                "on {host}, {from} is of the trust group `{own}`, and the replica of this VM of `{group}`"
            ),
        )
        .hint(format!(
            "on {host}: `relevo authorize {} --vm VM` has hosts of `{own}` feed it from now on",
            entry.host
        )))
    }
}

pub struct HostParts {
    pub name: HostName,
    pub dirs: Dirs,
    pub config: Config,
    pub catalog: Catalog,
    pub hypervisor: Hypervisor,
    pub tls: Arc<Tls>,
    pub kerberos: Option<Arc<Kerberos>>,
    pub client: Client,
}
