//! The writer inside the guest: carries out the history of `history.rs` on the guest's virtio disks and
//! reports on the serial console. Started by the guest's init; parameters come from the kernel's command
//! line (`oracle.NAME=VALUE`). Compiled alone by rustc as a static binary, so it knows nothing but `std`.
//!
//! Before each op the header naming it is written and flushed; after each op the disk is flushed and
//! `ack EPOCH N` printed. After a boot the op that the header names is done again under a new epoch. It
//! ends, for init to power off, when the power button is pressed; on an error it says `oracle error: …`
//! and waits for the button, so that a test finds the line and the guest.

// Nothing in `std` zeroes or discards a range of a block device.
#![allow(unsafe_code)]

mod agent;
#[allow(dead_code, reason = "the checker uses the rest")]
#[path = "../src/oracle/history.rs"]
mod history;

use history::{Content, Epoch, Geometry, HEADER_BYTES, Header, History, Kind, Slot};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

const O_DIRECT: i32 = 0x4000;
const BLKDISCARD: u64 = 0x1277;
const BLKZEROOUT: u64 = 0x127f;
/// Direct I/O wants buffers aligned to the disk's logical block.
const ALIGN_BYTES: usize = 4096;

unsafe extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

fn main() {
    let (press, pressed) = mpsc::channel();
    watch_power_button(&press);
    // Held by whoever writes or has frozen the guest.
    let gate = Arc::new(Mutex::new(()));
    if std::env::var_os("NO_AGENT").is_none() {
        agent::serve(Arc::clone(&gate));
    }
    match run(&pressed, &gate) {
        Ok(()) => println!("oracle stopped"),
        Err(error) => {
            println!("oracle error: {error}");
            let _ = pressed.recv();
        }
    }
}

/// Writes until the power button is pressed.
fn run(pressed: &mpsc::Receiver<()>, gate: &Mutex<()>) -> Result<(), String> {
    let pace = match parameter("ops_per_s")?.unwrap_or(20.0) {
        0.0 => None,
        rate => Some(Duration::from_secs_f64(1.0 / rate)),
    };
    let ack_every: u64 = parameter("ack_every")?.unwrap_or(1).max(1);
    let last: u64 = parameter("ops_max")?.unwrap_or(u64::MAX);
    let mut disks = open_disks(parameter("disks")?.unwrap_or(0))?;
    let (Some(pace), false) = (pace, disks.is_empty()) else {
        println!("oracle idle");
        let _ = pressed.recv();
        return Ok(());
    };

    let mut header = begin_epoch(&mut disks)?;
    let epoch = header.epochs.last().expect("just begun").id;
    let mut history = History::replay(&header);
    println!("oracle epoch {epoch:016x} from {}", header.next);
    let mut due = Instant::now();
    while header.next <= last {
        {
            let _writing = gate.lock().expect("nobody panics with it");
            write(&disks[0], 0, &header.encode()).map_err(|e| format!("header: {e}"))?;
            let op = history.op(header.next);
            let to = history.after(&op, epoch).content;
            let slot = history.slots[op.disk][op.slot];
            carry_out(&disks[op.disk], &slot, op.kind, &history, (op.disk, op.slot), to)
                .map_err(|e| format!("{op:?}: {e}"))?;
            history.apply(&op, epoch);
            if op.n.is_multiple_of(ack_every) {
                println!("ack {epoch:016x} {}", op.n);
            }
            header.next += 1;
        }
        due = (due + pace).max(Instant::now());
        match pressed.recv_timeout(due - Instant::now()) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
    write(&disks[0], 0, &header.encode()).map_err(|e| format!("header: {e}"))?;
    println!("oracle done {}", header.next - 1);
    let _ = pressed.recv();
    Ok(())
}

/// Reads the header, or makes the first one, and makes a new epoch durable in it.
fn begin_epoch(disks: &mut [File]) -> Result<Header, String> {
    let mut bytes = aligned(HEADER_BYTES);
    read(&disks[0], bytes.slice()).map_err(|e| format!("header: {e}"))?;
    let found = Header::decode((&*bytes.slice()).try_into().expect("a header's length"))
        .map_err(|what| format!("the first disk holds something else: {what}"))?;
    let mut sizes = vec![];
    for disk in disks.iter_mut() {
        sizes.push(disk.seek(SeekFrom::End(0)).map_err(|e| format!("size: {e}"))?);
    }
    let mut header = match found {
        Some(header) if header.geometry.disk_sizes_bytes.len() == disks.len() => header,
        Some(_) => return Err("another number of disks than before".into()),
        None => Header {
            geometry: Geometry {
                seed: parameter("seed")?.unwrap_or(1),
                area_bytes: parameter("area_mib")?.unwrap_or(4u64) << 20,
                slot_bytes: parameter("bytes_per_op")?.unwrap_or(0),
                disk_sizes_bytes: sizes,
            },
            next: 1,
            epochs: vec![],
        },
    };
    if !header.geometry.is_usable() {
        return Err(format!("cannot lay out {:?}", header.geometry));
    }
    if header.epochs.len() == history::EPOCHS_MAX {
        return Err("too many epochs".into());
    }
    let mut id = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut id))
        .map_err(|e| format!("urandom: {e}"))?;
    header.epochs.push(Epoch { id: u64::from_le_bytes(id), first: header.next });
    Ok(header)
}

fn carry_out(
    disk: &File,
    slot: &Slot,
    kind: Kind,
    history: &History,
    at: (usize, usize),
    to: Content,
) -> io::Result<()> {
    match kind {
        Kind::ZeroOut => whole_range(disk, BLKZEROOUT, slot)?,
        // A disk that cannot discard keeps its bytes, which the history allows.
        Kind::Discard => match whole_range(disk, BLKDISCARD, slot) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            other => other?,
        },
        Kind::Write | Kind::WriteZeroes | Kind::Restore => {
            return write(disk, slot.offset_bytes, &history.bytes(at.0, at.1, to));
        }
    }
    disk.sync_data()
}

/// Writes and flushes, as one request of the disk where it takes one of that length.
fn write(disk: &File, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = aligned(bytes.len());
    buffer.slice().copy_from_slice(bytes);
    disk.write_all_at(buffer.slice(), offset_bytes)?;
    disk.sync_data()
}

fn read(disk: &File, bytes: &mut [u8]) -> io::Result<()> {
    disk.read_exact_at(bytes, 0)
}

fn whole_range(disk: &File, request: u64, slot: &Slot) -> io::Result<()> {
    let range = [slot.offset_bytes, slot.size_bytes];
    // SAFETY: both requests read two u64 from the pointer and nothing else.
    match unsafe { ioctl(disk.as_raw_fd(), request, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The virtio disks in order. Their number tells how many to wait for; without it, what appears first.
fn open_disks(count: usize) -> Result<Vec<File>, String> {
    let all = || ('a'..='h').map(|letter| format!("/dev/vd{letter}")).take_while(|p| Path::new(p).exists());
    let give_up = Instant::now() + Duration::from_secs(if count == 0 { 1 } else { 60 });
    while all().count() < count.max(1) && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(20));
    }
    let open = |path: String| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(O_DIRECT);
        options.open(&path).map_err(|error| format!("{path}: {error}"))
    };
    // Those after the first `count` are somebody else's.
    let ours = if count == 0 { usize::MAX } else { count };
    let disks: Vec<File> = all().take(ours).map(open).collect::<Result<_, _>>()?;
    if disks.len() < count { Err(format!("{} of {count} disks", disks.len())) } else { Ok(disks) }
}

/// `oracle.NAME=` on the kernel's command line.
fn parameter<T: std::str::FromStr>(name: &str) -> Result<Option<T>, String> {
    let line = fs::read_to_string("/proc/cmdline").map_err(|error| format!("/proc/cmdline: {error}"))?;
    let prefix = format!("oracle.{name}=");
    let Some(value) = line.split_whitespace().find_map(|word| word.strip_prefix(&prefix)) else {
        return Ok(None);
    };
    value.parse().map(Some).map_err(|_| format!("parameter {prefix}{value}"))
}

/// Sends when any input device reports the power key. An event is 16 bytes of time, u16 type, u16 code,
/// i32 value.
fn watch_power_button(press: &mpsc::Sender<()>) {
    for entry in fs::read_dir("/dev/input").into_iter().flatten().flatten() {
        let Ok(mut device) = File::open(entry.path()) else { continue };
        let press = press.clone();
        thread::spawn(move || {
            let mut event = [0; 24];
            while device.read_exact(&mut event).is_ok() {
                if event[16..20] == [1, 0, 116, 0] && event[20] == 1 {
                    let _ = press.send(());
                }
            }
        });
    }
}

/// A buffer for direct I/O.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

fn aligned(length: usize) -> Aligned {
    let bytes = vec![0; length + ALIGN_BYTES];
    let start = bytes.as_ptr().align_offset(ALIGN_BYTES);
    Aligned { bytes, start, length }
}

impl Aligned {
    fn slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}
