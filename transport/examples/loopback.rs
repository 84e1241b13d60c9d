//! Measures the link: a delta of 3 GiB, half random and half text-like, over loopback to a receiver that throws
//! it away. `cargo run --release -p transport --example loopback -- [off|adaptive|LEVEL] [GIB] [tls|kerberos]`

use futures::future::BoxFuture;
use model::{
    Authentication, CLUSTER_BYTES, Chunk, ChunkContent, DeltaId, DiskId, HostName, VmId, hash_cluster,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap, convert::Infallible, error::Error, fs, path::Path, sync::Arc,
    sync::atomic::Ordering, time::Instant,
};
use testkit::kdc::Kdc;
use transport::{
    ChunkStream, Client, ClientOptions, Compression, DeltaDisk, DeltaHeader, Handler, Kerberos,
    KerberosOptions, Mark, Peer, PeerAddress, Received, Security, SendOptions, Server, Target, Tls, certs,
};

struct Sink;

impl Handler for Sink {
    fn call<'a>(&'a self, _: &'a Peer, _: Value) -> BoxFuture<'a, Result<Value, Value>> {
        Box::pin(async { Ok(Value::Null) })
    }

    fn receive<'a>(
        &'a self,
        _: &'a Peer,
        _: DeltaHeader,
        mut chunks: ChunkStream,
    ) -> BoxFuture<'a, Result<Value, Value>> {
        Box::pin(async move {
            loop {
                match chunks.next().await {
                    Ok(Received::End(totals)) => return Ok(json!(totals.data_bytes)),
                    Ok(Received::Chunk { .. }) => {}
                    Err(error) => return Err(json!(error.to_string())),
                }
            }
        })
    }
}

/// 1 MiB of each kind, hashed anew for each chunk as a reader of a disk does.
fn source(chunks: u32) -> impl Iterator<Item = Result<Chunk, Infallible>> + Send {
    let mut seed = 1u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    let text: Vec<u8> = (0u64..)
        .flat_map(|line| {
            let number = line.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            format!(
                "2026-01-02T03:04:{:02} host{} app[{number:x}]: request {line} took {} ms\n",
                line % 60,
                number % 13,
                number % 977
            )
            .into_bytes()
        })
        .take(1 << 20)
        .collect();
    (0..chunks).map(move |index| {
        let bytes = if index % 2 == 0 { random.clone() } else { text.clone() };
        let hashes = bytes.chunks(CLUSTER_BYTES as usize).map(hash_cluster).collect();
        Ok(Chunk { disk: 0, cluster: index * 16, content: ChunkContent::Data { bytes, hashes } })
    })
}

/// Seconds of processor time of this process's threads, by name.
fn processor_s() -> BTreeMap<String, f64> {
    let mut by_name = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else {
            continue;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        *by_name.entry(format!("{name} {}", task.file_name().display())).or_insert(0.0) +=
            (ticks(11) + ticks(12)) / 100.0;
    }
    by_name
}

fn tls(dir: &Path, host: &str) -> Result<Arc<Tls>, Box<dyn Error>> {
    let home = dir.join(host);
    certs::install(&certs::issue(dir, &host.parse()?, time::OffsetDateTime::now_utc())?, &home)?;
    Ok(Tls::new(certs::load(&home)?)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if arguments.get(2).is_none_or(|security| security != "kerberos") {
        return runtime.block_on(run(&arguments, None));
    }
    let mut result = Ok(());
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    testkit::kdc::again_in_realm(&words, &[], |kdc| result = runtime.block_on(run(&arguments, Some(kdc))));
    result
}

fn kerberos(kdc: &Kdc, host: &str) -> Result<Arc<Kerberos>, Box<dyn Error>> {
    let (principal, folder) = (format!("relevo/{host}"), kdc.folder().join(host));
    fs::create_dir_all(&folder)?;
    let keytab = kdc.keytab(&format!("{host}.keytab"), &[&principal])?;
    Ok(Kerberos::new(KerberosOptions { principal, keytab, folder, ..KerberosOptions::default() })?)
}

async fn run(arguments: &[String], kdc: Option<&Kdc>) -> Result<(), Box<dyn Error>> {
    let compression = match arguments.first().map(String::as_str) {
        None | Some("off") => Compression::Off,
        Some("adaptive") => Compression::Adaptive,
        Some(level) => Compression::Always(level.parse()?),
    };
    let gib: u32 = arguments.get(1).map_or(Ok(3), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("relevo-loopback-{}", std::process::id()));
    certs::init_ca(&dir, time::OffsetDateTime::now_utc())?;
    let to: HostName = "b.example".parse()?;
    let security: Security = match kdc {
        None => tls(&dir, "b.example")?.into(),
        Some(kdc) => kerberos(kdc, "b.example")?.into(),
    };
    let server = Server::bind("127.0.0.1:0".parse()?, security, Arc::new(Sink))?;
    let peer = PeerAddress {
        address: Some(server.local_addr.to_string()),
        kerberos_address: Some(server.local_addr.to_string()),
        bypass_proxy: true,
    };
    let options = ClientOptions { peers: BTreeMap::from([(to.clone(), peer)]), ..ClientOptions::default() };
    let client = Client::new(tls(&dir, "a.example")?, options);
    let client = client.with_kerberos(kdc.map(|kdc| kerberos(kdc, "a.example")).transpose()?);
    let by = if kdc.is_some() { Authentication::Kerberos } else { Authentication::Certificate };
    fs::remove_dir_all(&dir)?;

    let header = DeltaHeader {
        protocol: transport::PROTOCOL,
        vm: VmId::random(),
        delta: DeltaId::random(),
        base: None,
        disks: vec![DeltaDisk { disk: DiskId::random(), size_bytes: u64::from(gib) << 30 }],
        from: Mark::START,
        extra: Value::Null,
    };
    let options = SendOptions { compression, ..SendOptions::default() };
    let progress = options.progress.clone();
    let before = processor_s();
    let start = Instant::now();
    let answer =
        client.send_delta(Target { by, ..(&to).into() }, header, source(gib * 1024), options).await?;
    let elapsed_s = start.elapsed().as_secs_f64();
    let after = processor_s();
    let bytes = answer.as_u64().unwrap_or(0) as f64;
    let sent = progress.sent_bytes.load(Ordering::Relaxed) as f64;
    println!(
        "{compression:?}: {:.2} GB/s, {elapsed_s:.2} s, sent {:.0} % of the data",
        bytes / elapsed_s / 1e9,
        sent / bytes * 100.0
    );
    for (name, seconds) in after {
        println!("  {name}: {:.2} s of processor", seconds - before.get(&name).unwrap_or(&0.0));
    }
    server.shutdown().await;
    Ok(())
}
