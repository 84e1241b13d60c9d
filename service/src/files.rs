//! A first copy in files, for hosts between which carrying a disk is faster than the network. One folder:
//!
//! ```text
//!  <DIR>/<VM's name>_<VM's UUID>/
//!     clusters.frames     the delta's frames, as on the wire (docs/format/export.md)
//!     progress.json       while it is written: a mark up to which the frames are durable
//!     manifest.json       last: what the frames belong to, and where they end; a line of JSON, a line with its hash
//! ```

use crate::{
    api::{ErrorKind, Failure},
    host::Host,
    peer::text::{SetText, hex},
};
use model::{DeltaId, HostName, PointKind, VmId, durable, hash_cluster};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use tokio_util::bytes::Bytes;
use transport::{Compression, DeltaDisk, Mark, Received, Totals, decode::Decoder, encode::Encoder};

const FRAMES: &str = "clusters.frames";
const PROGRESS: &str = "progress.json";
const MANIFEST: &str = "manifest.json";

/// Of the manifest and of what it describes.
const VERSION: u16 = 1;

/// Data between two durable marks: what an interruption can cost.
const MARK_EVERY_BYTES: u64 = 64 << 20;
/// Cheap, and files are carried at less than its pace.
const LEVEL: i32 = 1;
/// Read at once.
const READ_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u16,
    pub vm: VmId,
    pub name: String,
    pub from: HostName,
    pub delta: DeltaId,
    pub disks: Vec<DeltaDisk>,
    pub cut_at_ms: i64,
    pub kind: PointKind,
    pub domain_xml: String,
    pub small_files: Vec<(String, SetText)>,
    /// The place after the last frame with content.
    pub end: Mark,
    /// Bytes of data before compression.
    pub data_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Progress {
    delta: DeltaId,
    mark: Mark,
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("cannot read the VM's disks")]
    Disks(#[from] capture::CaptureError),
    #[error("cannot encode a cluster")]
    Encode(#[from] transport::encode::EncodeError),
    #[error("cancelled")]
    Cancelled,
}

type Result<T, E = FilesError> = std::result::Result<T, E>;

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> FilesError + 'a {
    move |source| FilesError::Io { doing, path: path.to_owned(), source }
}

/// The folder of a VM's first copy below `folder`.
pub fn folder_of(folder: &Path, name: &str, vm: VmId) -> PathBuf {
    folder.join(format!("{name}_{vm}"))
}

/// Refuses a place in which nothing can be written.
pub fn writable(folder: &Path) -> Result<(), Failure> {
    let problem = |kind, why: String| {
        Failure::new(kind, "export-folder", format!("folder {}: {why}", folder.display()))
    };
    if !folder.is_absolute() {
        return Err(problem(ErrorKind::InvalidParameter, "the path is not absolute".to_owned()));
    }
    if !folder.is_dir() {
        return Err(problem(ErrorKind::NotFound, "no such folder".to_owned()));
    }
    let probe = folder.join(format!(".relevo-{}", uuid::Uuid::new_v4()));
    let tried = fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe));
    tried.map_err(|error| problem(ErrorKind::InvalidParameter, format!("not writable: {error}")))
}

/// Writes the chunks of a delta into `folder`, going on where an earlier attempt at the same one was cut off.
/// `manifest` without its end. `tell`: bytes of data so far; false stops.
pub fn write(
    folder: &Path,
    mut manifest: Manifest,
    chunks: impl Fn() -> Result<capture::Reader, capture::CaptureError>,
    tell: &dyn Fn(u64) -> bool,
) -> Result<()> {
    if read_manifest(folder).is_ok_and(|there| there.delta == manifest.delta) {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(io_error("make", folder))?;
    let path = folder.join(MANIFEST);
    durable::remove(&path).map_err(io_error("remove", &path))?;
    let from = resume(folder, manifest.delta)?;
    let resumed = from.is_some();
    let written = write_frames(folder, manifest.delta, from, chunks()?, tell);
    let (end, data_bytes) = match written {
        // The disks' frames are not those of the attempt: it begins again.
        Err(FilesError::Encode(_)) if resumed => write_frames(folder, manifest.delta, None, chunks()?, tell)?,
        written => written?,
    };
    (manifest.end, manifest.data_bytes, manifest.version) = (end, data_bytes, VERSION);
    let line = serde_json::to_string(&manifest).expect("plain data");
    let text = format!("{line}\n{}\n", hex(&hash_cluster(line.as_bytes())));
    durable::replace_file(&path, text.as_bytes()).map_err(io_error("write", &path))?;
    durable::sync_parent(folder).map_err(io_error("sync", folder))?;
    let path = folder.join(PROGRESS);
    durable::remove(&path).map_err(io_error("remove", &path))
}

fn resume(folder: &Path, delta: DeltaId) -> Result<Option<Progress>> {
    let path = folder.join(PROGRESS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    Ok(serde_json::from_slice::<Progress>(&text).ok().filter(|progress| progress.delta == delta))
}

fn write_frames(
    folder: &Path,
    delta: DeltaId,
    from: Option<Progress>,
    chunks: capture::Reader,
    tell: &dyn Fn(u64) -> bool,
) -> Result<(Mark, u64)> {
    let path = folder.join(FRAMES);
    let fail = io_error("write", &path);
    let (mark, mut bytes) = from.map_or((Mark::START, 0), |progress| (progress.mark, progress.bytes));
    let mut file = File::options().create(true).truncate(false).write(true).open(&path).map_err(&fail)?;
    file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes))).map_err(&fail)?;
    let mut encoder = Encoder::new(mark, Compression::Always(LEVEL))?;
    let mut durable_bytes = bytes;
    for chunk in chunks {
        encoder.push(&chunk?)?;
        if !tell(encoder.data_bytes()) {
            return Err(FilesError::Cancelled);
        }
        let Some(batch) = encoder.take_batch() else { continue };
        file.write_all(&batch).map_err(&fail)?;
        bytes += batch.len() as u64;
        if bytes - durable_bytes >= MARK_EVERY_BYTES {
            file.sync_data().map_err(&fail)?;
            durable_bytes = bytes;
            let progress = Progress { delta, mark: encoder.mark(), bytes };
            let text = serde_json::to_vec(&progress).expect("plain data");
            let path = folder.join(PROGRESS);
            durable::replace_file(&path, &text).map_err(io_error("write", &path))?;
        }
    }
    let (mark, data_bytes) = (encoder.mark(), encoder.data_bytes());
    file.write_all(&encoder.finish()?).and_then(|()| file.sync_all()).map_err(&fail)?;
    Ok((mark, data_bytes))
}

/// Reads and checks the manifest in `folder`.
pub fn read_manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let damaged = |why: &str| FilesError::Damaged { path: path.clone(), why: why.to_owned() };
    let mut lines = text.lines();
    let (line, hash) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if hex(&hash_cluster(line.as_bytes())) != hash {
        return Err(damaged("it differs from its hash"));
    }
    let manifest: Manifest =
        serde_json::from_str(line).map_err(|error| damaged(&format!("it is not understood: {error}")))?;
    match manifest.version {
        VERSION => Ok(manifest),
        other => Err(damaged(&format!("it has version {other}; this program reads {VERSION}"))),
    }
}

/// Reads the frames back, each cluster checked against its hash, and the end against the manifest.
pub fn read(
    folder: &Path,
    manifest: &Manifest,
    each: &mut dyn FnMut(model::Chunk, Mark) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let path = folder.join(FRAMES);
    let damaged = |why: String| {
        let message = FilesError::Damaged { path: path.clone(), why }.to_string();
        Failure::new(ErrorKind::Corrupt, "export-damaged", message)
            .hint("carry it over again, or export anew")
    };
    let fail = |error: io::Error| Failure::internal(&format!("read {}", path.display()), &error);
    let mut file = File::open(&path).map_err(fail)?;
    let sizes = manifest.disks.iter().map(|disk| disk.size_bytes).collect();
    let mut end = Mark::START;
    let mut decoder = Decoder::new(Mark::START, sizes).map_err(fail)?;
    loop {
        let mut piece = Vec::with_capacity(READ_BYTES);
        (&mut file).take(READ_BYTES as u64).read_to_end(&mut piece).map_err(fail)?;
        let last = piece.is_empty();
        let mut input = Bytes::from(piece);
        while let Some(received) = decoder.decode(&mut input).map_err(|error| damaged(error.to_string()))? {
            match received {
                Received::Chunk { chunk, mark } => {
                    end = mark;
                    each(chunk, mark)?;
                }
                Received::End(Totals { data_bytes, .. })
                    if data_bytes != manifest.data_bytes || end != manifest.end =>
                {
                    return Err(damaged("the manifest is that of another copy".to_owned()));
                }
                Received::End(_) => return Ok(()),
            }
        }
        if last {
            return Err(damaged(format!("it ends after {} frames", decoder.mark().frames)));
        }
    }
}

/// The folder that an operator meant: the VM's own, or the one above it.
pub fn find(host: &Host, folder: &Path, name: &str, vm: VmId) -> Result<(PathBuf, Manifest), Failure> {
    let below = folder_of(folder, name, vm);
    let own = if below.join(MANIFEST).exists() { below } else { folder.to_owned() };
    match read_manifest(&own) {
        Ok(manifest) => Ok((own, manifest)),
        Err(FilesError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let message = format!("{} holds no complete first copy of {name}", folder.display());
            Err(Failure::new(ErrorKind::NotFound, "export-unknown", message).hint(format!(
                "carry the folder `{name}_{vm}` over to {} once the export has ended",
                host.name
            )))
        }
        Err(error @ FilesError::Damaged { .. }) => {
            Err(Failure::new(ErrorKind::Corrupt, "export-damaged", error.to_string()))
        }
        Err(error) => Err(Failure::internal("read the export", &error)),
    }
}
