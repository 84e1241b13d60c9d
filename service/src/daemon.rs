//! The daemon: put together, started, and stopped in order.

use crate::{
    api::{ErrorKind, Failure, error::chain},
    bandwidth, certs,
    config::{self, Config, Dirs},
    control,
    host::{Host, HostParts},
    listeners,
    owner::{self, Mail, blocking},
    upkeep,
    watch::watch,
};
use catalog::Catalog;
use engine::Relationship;
use hypervisor::{Change, Event, Hypervisor};
use model::HostName;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, thread, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use transport::{Client, ClientOptions, Kerberos, KerberosOptions, PeerAddress, Tls, TlsIdentity};

/// How long the steps that are under way may take to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// How long memory that a transfer has freed may stay with the process.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// Files are nobody else's; folders may be passed through, because QEMU, which runs as a user of its own,
/// opens the images in them that libvirt gave it.
const UMASK: u32 = 0o066;

/// Runs until SIGTERM or SIGINT. `extend` begins what goes beyond the façade, and answers what ends it in good order.
pub fn run<E>(
    root: Option<PathBuf>,
    extend: impl AsyncFnOnce(Arc<Host>) -> Result<E, Failure>,
) -> Result<(), Failure>
where
    E: Future<Output = ()>,
{
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .map_err(|error| Failure::internal("start the runtime", &error))?;
    let result = runtime.block_on(serve(&Dirs::new(root.as_deref()), extend));
    // A step that does not stop must not keep the process: the restart is the tested path.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The host that lives in these folders, which nobody can reach yet and which does nothing by itself.
pub async fn open(dirs: &Dirs) -> Result<Arc<Host>, Failure> {
    let config = config::load(&dirs.config)?;
    make_folders(dirs)?;
    compose(dirs, config).await
}

/// Goes on with everything that was under way, and follows what libvirt tells.
pub fn start(host: &Arc<Host>) -> Result<(), Failure> {
    start_owners(host)?;
    watch_libvirt(host);
    host.tasks.spawn(watch(host.clone()));
    host.tasks.spawn(bandwidth::follow(host.clone()));
    Ok(())
}

/// Lets the other hosts in, until the host's listeners are shut down.
pub fn listen(host: &Arc<Host>) -> Result<(), Failure> {
    listeners::open(host)
}

async fn serve<E>(
    dirs: &Dirs,
    extend: impl AsyncFnOnce(Arc<Host>) -> Result<E, Failure>,
) -> Result<(), Failure>
where
    E: Future<Output = ()>,
{
    let host = open(dirs).await?;
    let listener = control::bind(dirs)?;
    listen(&host)?;
    tracing::info!(host = %host.name, libvirt = host.hypervisor.uri(), "serving");
    start(&host)?;
    tokio::spawn(trim_heap());
    let extension = extend(host.clone()).await?;
    host.tasks.spawn(control::serve(host.clone(), listener));
    wait_for_signal().await?;
    tracing::info!("stopping");
    host.shutdown.cancel();
    host.tasks.close();
    tokio::join!(host.listeners.shutdown(), extension);
    if tokio::time::timeout(STOP_TIME_MAX, host.tasks.wait()).await.is_err() {
        tracing::warn!("some work did not stop in time; the next start goes on with it");
    }
    let _ = std::fs::remove_file(&dirs.socket);
    Ok(())
}

fn make_folders(dirs: &Dirs) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    for (folder, mode) in [(&dirs.state, 0o711), (&dirs.certs, 0o700)] {
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(|error| {
            Failure::new(ErrorKind::Failed, "folder", format!("cannot make {}: {error}", folder.display()))
        })?;
    }
    Ok(())
}

/// The installed certificate, key and authorities.
pub fn identity(dirs: &Dirs) -> Result<TlsIdentity, Failure> {
    transport::certs::load(&dirs.certs).map_err(|error| {
        Failure::new(
            ErrorKind::Configuration,
            "certificate",
            format!("no usable certificate: {}", chain(&error)),
        )
        .hint("`relevo cert init`, `relevo cert issue HOST --out BUNDLE`, `relevo cert install BUNDLE`")
    })
}

/// The configured name must be one of the certificate's; without one the certificate's first counts.
fn host_name(dirs: &Dirs, config: &Config) -> Result<HostName, Failure> {
    let views = certs::show(dirs)?;
    let names: Vec<HostName> = views
        .iter()
        .filter(|view| !view.purpose.iter().any(|purpose| purpose == "authority"))
        .flat_map(|view| view.sans.iter().filter_map(|name| name.parse().ok()))
        .collect();
    let list = names.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ");
    match &config.host_name {
        Some(name) if names.contains(name) => Ok(name.clone()),
        Some(name) => Err(Failure::new(
            ErrorKind::Configuration,
            "host-name",
            format!("host_name is {name}, but the installed certificate is for {list}"),
        )
        .hint(format!("issue a certificate for {name}, or correct host_name"))),
        None => names.into_iter().next().ok_or_else(|| {
            Failure::new(ErrorKind::Configuration, "host-name", "the installed certificate names no host")
        }),
    }
}

/// This host's principal and its key, where they are configured.
fn kerberos(dirs: &Dirs, name: &HostName, config: &Config) -> Result<Option<Arc<Kerberos>>, Failure> {
    let Some(keytab) = config.kerberos.keytab.clone() else { return Ok(None) };
    let peers = config.peers.iter();
    let peers = peers.filter_map(|(host, peer)| Some((host.clone(), peer.principal.clone()?))).collect();
    let principal = config.kerberos.principal.clone();
    let options = KerberosOptions {
        principal: principal.unwrap_or_else(|| format!("{}/{name}", config::SERVICE)),
        keytab,
        folder: dirs.state.clone(),
        realms: config.kerberos.realms.clone(),
        peers,
    };
    Kerberos::new(options).map(Some).map_err(|error| {
        let message = format!("[kerberos] in the configuration cannot be used: {}", chain(&error));
        Failure::new(ErrorKind::Configuration, "kerberos", message).hint(error.hint())
    })
}

async fn compose(dirs: &Dirs, config: Config) -> Result<Arc<Host>, Failure> {
    let identity = identity(dirs)?;
    let name = host_name(dirs, &config)?;
    let tls = Tls::new(identity)
        .map_err(|error| Failure::new(ErrorKind::Configuration, "certificate", chain(&error)))?;
    let peers: BTreeMap<HostName, PeerAddress> = config
        .peers
        .iter()
        .map(|(host, peer)| {
            let address = PeerAddress {
                address: peer.address.clone(),
                kerberos_address: peer.kerberos_address.clone(),
                bypass_proxy: peer.bypass_proxy,
            };
            (host.clone(), address)
        })
        .collect();
    let mut options = ClientOptions { peers, ..ClientOptions::from_env() };
    if config.proxy.is_some() {
        options.proxy.clone_from(&config.proxy);
    }
    let kerberos = kerberos(dirs, &name, &config)?;
    let client = Client::new(tls.clone(), options).with_kerberos(kerberos.clone());
    let catalog = Catalog::open(&dirs.catalog()).map_err(|error| {
        Failure::new(ErrorKind::Failed, "catalog", format!("cannot open the catalog: {}", chain(&error)))
    })?;
    let (dirs_copy, uri) = (dirs.clone(), config.libvirt.clone());
    let hypervisor = blocking(move || connect(&dirs_copy, uri)).await?;
    let dirs = dirs.clone();
    Ok(Host::new(HostParts { name, dirs, config, catalog, hypervisor, tls, kerberos, client }))
}

fn connect(dirs: &Dirs, uri: Option<String>) -> Result<Hypervisor, Failure> {
    let uri = match (uri, &dirs.root) {
        (Some(uri), _) => uri,
        (None, Some(root)) => hypervisor::prepare_embedded_root(&root.join("libvirt"))
            .map_err(|error| Failure::internal("prepare the embedded libvirt", &error))?,
        (None, None) => "qemu:///system".to_owned(),
    };
    Hypervisor::connect(&uri).map_err(|error| match error {
        hypervisor::Error::RootInUse { .. } => {
            Failure::new(ErrorKind::InUse, "already-running", chain(&error))
                .hint("another `relevo serve` runs on this root")
        }
        _ => Failure::new(ErrorKind::Failed, "libvirt", chain(&error))
            .hint("is libvirt installed and running?"),
    })
}

/// Takes up every relationship and job of the last run.
fn start_owners(host: &Arc<Host>) -> Result<(), Failure> {
    let rows =
        host.catalog.relationships().map_err(|error| Failure::internal("read the relationships", &error))?;
    let mut records = vec![];
    for row in rows {
        let record: Relationship = serde_json::from_str(&row.record)
            .map_err(|error| Failure::internal("understand a relationship", &error))?;
        records.push(record);
    }
    let live: Vec<_> = records.iter().filter_map(|record| owner::live_job(host, record)).collect();
    host.jobs.resume(&live);
    for record in records {
        let (vm, replica) = (record.vm, record.mode.is_replica());
        host.adopt(record)?;
        if replica {
            upkeep::after_point(host, vm);
        }
    }
    Ok(())
}

/// Tells owners when their VM starts or stops, whoever did it.
fn watch_libvirt(host: &Arc<Host>) {
    let events = host.hypervisor.events();
    let runtime = tokio::runtime::Handle::current();
    let host = host.clone();
    thread::spawn(move || {
        while let Ok(event) = events.recv() {
            if host.shutdown.is_cancelled() {
                return;
            }
            let (vm, change) = match event {
                Event::Lifecycle { vm, change } => (vm, change),
                Event::ConnectionClosed => {
                    tracing::error!(
                        "libvirt is away: nothing is replicated until it answers; guests are not affected"
                    );
                    continue;
                }
                Event::Connected => {
                    tracing::info!("libvirt is back");
                    runtime.block_on(look_at_all(&host));
                    continue;
                }
                _ => continue,
            };
            host.changes.publish(crate::changes::Change::Vm(vm));
            let running = match change {
                Change::Started | Change::Resumed => true,
                Change::Stopped | Change::Crashed => false,
                _ => continue,
            };
            if let Some(owner) = host.owner(vm) {
                runtime.block_on(owner.send(Mail::Power { running }));
            }
        }
    });
}

/// Tells every owner whether its VM runs: what happened while libvirt was away, nobody told.
async fn look_at_all(host: &Arc<Host>) {
    host.changes.publish(crate::changes::Change::Missed);
    for owner in host.all_owners() {
        let (hypervisor, vm) = (host.hypervisor.clone(), owner.vm);
        if let Ok(running) = blocking(move || hypervisor.is_active(vm)).await {
            owner.send(Mail::Power { running }).await;
        }
    }
}

async fn trim_heap() {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        blocking(hypervisor::trim_heap).await;
    }
}

async fn wait_for_signal() -> Result<(), Failure> {
    let fail = |error| Failure::internal("listen for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
