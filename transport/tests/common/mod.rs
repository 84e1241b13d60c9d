//! Two hosts on loopback with real certificates, and a handler that keeps what it receives.
#![allow(dead_code, reason = "each test binary uses its own part")]

use futures::future::BoxFuture;
use model::{CLUSTER_BYTES, Chunk, ChunkContent, DeltaId, DiskId, HostName, VmId, hash_cluster};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use transport::{
    ChunkStream, Client, ClientOptions, DeltaDisk, DeltaHeader, Handler, Mark, Peer, PeerAddress,
    ReceiveError, Received, Server, Tls, Totals, certs,
};

/// Generous: a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// An authority in a folder of its own.
pub struct Authority {
    pub dir: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        Self::at(OffsetDateTime::now_utc())
    }

    pub fn at(now: OffsetDateTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certs::init_ca(dir.path(), now).unwrap();
        Self { dir }
    }

    pub fn tls(&self, host: &str) -> Arc<Tls> {
        self.tls_at(host, OffsetDateTime::now_utc())
    }

    pub fn tls_at(&self, host: &str, now: OffsetDateTime) -> Arc<Tls> {
        Tls::new(self.identity(host, now)).unwrap()
    }

    pub fn identity(&self, host: &str, now: OffsetDateTime) -> transport::TlsIdentity {
        let dir = tempfile::tempdir().unwrap();
        install(self.dir.path(), host, now, dir.path());
        certs::load(dir.path()).unwrap()
    }
}

pub fn install(authority: &Path, host: &str, now: OffsetDateTime, dir: &Path) {
    certs::install(&certs::issue(authority, &name(host), now).unwrap(), dir).unwrap();
}

pub fn client(tls: Arc<Tls>, to: &str, address: SocketAddr) -> Client {
    Client::new(tls, options(to, &address.to_string()))
}

pub fn options(to: &str, address: &str) -> ClientOptions {
    let peer = PeerAddress { address: Some(address.to_owned()), ..PeerAddress::default() };
    ClientOptions { peers: BTreeMap::from([(name(to), peer)]), ..ClientOptions::default() }
}

/// What a [`Keeper`] was given of one delta.
#[derive(Default)]
pub struct Kept {
    pub disks: Vec<BTreeMap<u32, Vec<u8>>>,
    pub mark: Mark,
    pub end: Option<Totals>,
    pub error: Option<ReceiveError>,
    pub largest_chunk: usize,
}

/// Keeps clusters, and zero runs as empty ones; answers calls with the question and who asks.
pub struct Keeper {
    pub kept: Mutex<Kept>,
    /// Receives take a permit per chunk.
    pub gate: Semaphore,
    /// Calls with `{"wait": true}` take one of these.
    pub call_gate: Semaphore,
    pub calls_waiting: Semaphore,
    pub receives_ended: Semaphore,
    /// One delta at a time.
    one: tokio::sync::Mutex<()>,
}

impl Keeper {
    pub fn new() -> Arc<Self> {
        let keeper = Self::closed();
        keeper.gate.add_permits(Semaphore::MAX_PERMITS / 2);
        keeper
    }

    /// Takes no chunk until `gate` is given permits.
    pub fn closed() -> Arc<Self> {
        Arc::new(Self {
            kept: Mutex::default(),
            gate: Semaphore::new(0),
            call_gate: Semaphore::new(0),
            calls_waiting: Semaphore::new(0),
            receives_ended: Semaphore::new(0),
            one: tokio::sync::Mutex::default(),
        })
    }

    async fn keep(&self, header: DeltaHeader, chunks: &mut ChunkStream) -> Result<Totals, ReceiveError> {
        {
            let mut kept = self.kept.lock().unwrap();
            kept.disks.resize(header.disks.len(), BTreeMap::new());
        }
        loop {
            self.gate.acquire().await.unwrap().forget();
            match chunks.next().await? {
                Received::End(totals) => return Ok(totals),
                Received::Chunk { chunk, mark } => {
                    let mut kept = self.kept.lock().unwrap();
                    let disk = &mut kept.disks[usize::from(chunk.disk)];
                    match chunk.content {
                        ChunkContent::Zero { count } => {
                            disk.extend((chunk.cluster..chunk.cluster + count).map(|c| (c, vec![])));
                        }
                        ChunkContent::Data { bytes, hashes } => {
                            let clusters = bytes.chunks(CLUSTER_BYTES as usize);
                            assert_eq!(clusters.len(), hashes.len());
                            disk.extend((chunk.cluster..).zip(clusters.map(<[u8]>::to_vec)));
                            kept.largest_chunk = kept.largest_chunk.max(bytes.len());
                        }
                    }
                    kept.mark = mark;
                }
            }
        }
    }
}

impl Handler for Keeper {
    fn call<'a>(&'a self, peer: &'a Peer, request: Value) -> BoxFuture<'a, Result<Value, Value>> {
        Box::pin(async move {
            if request["wait"] == true {
                self.calls_waiting.add_permits(1);
                self.call_gate.acquire().await.unwrap().forget();
            }
            if request["mark"] == true {
                let _one = self.one.lock().await;
                return Ok(json!(self.kept.lock().unwrap().mark));
            }
            if let Some(refusal) = request.get("refuse") {
                return Err(refusal.clone());
            }
            Ok(json!({ "echo": request, "peer": peer.names }))
        })
    }

    fn receive<'a>(
        &'a self,
        _: &'a Peer,
        header: DeltaHeader,
        mut chunks: ChunkStream,
    ) -> BoxFuture<'a, Result<Value, Value>> {
        Box::pin(async move {
            if let Some(refusal) = header.extra.get("refuse") {
                return Err(refusal.clone());
            }
            let _one = self.one.lock().await;
            if header.from != self.kept.lock().unwrap().mark {
                return Err(json!("starts elsewhere"));
            }
            let outcome = self.keep(header, &mut chunks).await;
            let mut kept = self.kept.lock().unwrap();
            self.receives_ended.add_permits(1);
            match outcome {
                Ok(totals) => {
                    kept.end = Some(totals);
                    Ok(json!({ "frames": totals.mark.frames, "data_bytes": totals.data_bytes }))
                }
                Err(error) => {
                    kept.error = Some(error.clone());
                    Err(json!(format!("{error:?}")))
                }
            }
        })
    }
}

pub fn serve(tls: Arc<Tls>, handler: Arc<dyn Handler>) -> Server {
    Server::bind("127.0.0.1:0".parse().unwrap(), tls, handler).unwrap()
}

pub fn header(sizes: &[u64]) -> DeltaHeader {
    let disk = |size_bytes: &u64| DeltaDisk { disk: DiskId::random(), size_bytes: *size_bytes };
    DeltaHeader {
        protocol: transport::PROTOCOL,
        vm: VmId::random(),
        delta: DeltaId::random(),
        base: None,
        disks: sizes.iter().map(disk).collect(),
        from: Mark::START,
        extra: Value::Null,
    }
}

/// A cluster of which `kind` 0 is text-like and everything else random.
pub fn cluster(disk: u16, cluster: u32, length: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(u64::from(disk) << 32 | u64::from(cluster));
    let mut bytes = vec![0; length];
    if cluster.is_multiple_of(2) {
        random.fill_bytes(&mut bytes);
    } else {
        let line = format!("cluster {cluster} of disk {disk}: the quick brown fox {}\n", random.next_u32());
        bytes.iter_mut().zip(line.bytes().cycle()).for_each(|(to, from)| *to = from);
    }
    bytes
}

pub fn data(disk: u16, first: u32, clusters: Vec<Vec<u8>>) -> Chunk {
    let hashes = clusters.iter().map(|bytes| hash_cluster(bytes)).collect();
    Chunk { disk, cluster: first, content: ChunkContent::Data { bytes: clusters.concat(), hashes } }
}

pub fn zero(disk: u16, cluster: u32, count: u32) -> Chunk {
    Chunk { disk, cluster, content: ChunkContent::Zero { count } }
}

/// The first disk in full with a hole in its middle, half random and half text; two clusters of a second one.
/// The last cluster of the first is short.
pub fn disk_of(clusters: u32) -> (Vec<u64>, impl Iterator<Item = Result<Chunk, Infallible>> + Send + Clone) {
    let sizes = vec![u64::from(clusters) * CLUSTER_BYTES - 1000, 10 * CLUSTER_BYTES];
    let hole = clusters / 2..clusters / 2 + 100.min(clusters / 4);
    let whole = CLUSTER_BYTES as usize;
    let second = [zero(0, hole.start, hole.end - hole.start), data(1, 7, vec![cluster(1, 7, whole)])];
    let last = data(0, clusters - 1, vec![cluster(0, clusters - 1, whole - 1000)]);
    let run = move |first: u32| {
        let end = (first + 16).min(clusters - 1);
        let end = if first < hole.start { end.min(hole.start) } else { end };
        if hole.contains(&first) {
            return None;
        }
        Some((first, end))
    };
    let mut runs = vec![];
    let mut first = 0;
    while first < clusters - 1 {
        match run(first) {
            Some((from, end)) => {
                runs.push((from, end));
                first = end;
            }
            None => first += 1,
        }
    }
    let runs = runs
        .into_iter()
        .map(move |(from, end)| data(0, from, (from..end).map(|index| cluster(0, index, whole)).collect()));
    (sizes, runs.chain(second).chain([last]).map(Ok))
}

/// What a [`Keeper`] must have after these chunks.
pub fn expected(
    disks: usize,
    chunks: impl Iterator<Item = Result<Chunk, Infallible>>,
) -> Vec<BTreeMap<u32, Vec<u8>>> {
    let mut expected = vec![BTreeMap::new(); disks];
    for chunk in chunks {
        let Ok(chunk) = chunk;
        let disk = &mut expected[usize::from(chunk.disk)];
        match chunk.content {
            ChunkContent::Zero { count } => {
                disk.extend((chunk.cluster..chunk.cluster + count).map(|c| (c, vec![])));
            }
            ChunkContent::Data { bytes, .. } => {
                disk.extend((chunk.cluster..).zip(bytes.chunks(CLUSTER_BYTES as usize).map(<[u8]>::to_vec)));
            }
        }
    }
    expected
}
