//! How fast a first copy is taken in, in GB/s, and with how much memory. Arguments: a folder on the file
//! system to measure, gibibytes to write. `cp` and `qemu-img convert` there are what to compare with.

use catalog::Catalog;
use layers::{Incoming, IncomingDisk, Mark, Step, Store};
use model::{Chunk, ChunkContent, DeltaId, DiskId, Generation, PointKind, VmId, hash_cluster};
use std::{path::Path, sync::atomic::AtomicBool, time::Instant};

const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_CLUSTERS: usize = 16;
/// As a transfer might: every 256 MiB.
const CHUNKS_PER_MARK: u64 = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or("/dev/shm".into());
    let gib: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let folder = tempfile::tempdir_in(Path::new(&folder))?;
    let catalog = Catalog::open(&folder.path().join("catalog.sqlite"))?;
    let (vm, disk) = (VmId::random(), DiskId::random());
    let generation = Generation::first("a.example".parse()?);
    catalog.save_relationship(vm, 0, "{}", &generation)?;
    let store = Store::open(catalog, vm, folder.path());
    let size_bytes = gib << 30;
    let bytes: Vec<u8> = (0..CHUNK_BYTES as u64).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let hashes = bytes.chunks(CHUNK_BYTES / CHUNK_CLUSTERS).map(hash_cluster).collect();
    let mut chunk = Chunk { disk: 0, cluster: 0, content: ChunkContent::Data { bytes, hashes } };

    let mut base = None;
    for (name, chunks) in [("first copy", gib * 1024), ("second layer, all clusters", gib * 1024)] {
        let incoming = Incoming {
            delta: DeltaId::random(),
            base,
            disks: vec![IncomingDisk { disk, size_bytes }],
            cut_at_ms: 0,
            kind: PointKind::Regular,
            domain_xml: String::new(),
            small_files: vec![],
        };
        base = Some(incoming.delta);
        let start = Instant::now();
        let mut writer = store.begin(incoming)?;
        for index in 0..chunks {
            chunk.cluster = u32::try_from(index)? * CHUNK_CLUSTERS as u32;
            writer.write(&chunk)?;
            if index % CHUNKS_PER_MARK == CHUNKS_PER_MARK - 1 {
                writer.mark(Mark { frames: index, chain: [0; 32] })?;
            }
        }
        let sealed = writer.seal()?;
        store.commit(sealed, 0, generation.number, generation.nonce, 0)?;
        report(name, chunks << 20, start);
    }

    let points = store.points()?;
    let start = Instant::now();
    store.verify(points[1].delta, &mut |_, _| {}, &AtomicBool::new(false))?;
    report("verification", size_bytes, start);
    store.hide(&[points[0].delta])?;
    let start = Instant::now();
    assert!(matches!(store.coalesce_step(&AtomicBool::new(false))?, Step::Merged { .. }));
    report("merge", size_bytes, start);
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    Ok(())
}

fn report(what: &str, bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {:.2} GB/s ({seconds:.2} s)", bytes as f64 / 1e9 / seconds);
}
