//! The first copy of a disk, command to end of job, beside `nbdcopy` from one qemu-nbd to another: in the
//! clear, and with TLS on the way to the receiver. All three end with the data synced.

use crate::{FOLDER, Options, VM, binary, content, create_disk, define, report::Figure, tool};
use anyhow::{Context, Result};
use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use testkit::{GuestSpec, TempRoot, free_port, pair::Pair, poll, used_bytes};

const BOUND: Duration = Duration::from_secs(600);

pub fn first_copy(options: &Options) -> Result<Vec<Figure>> {
    let pair = Pair::start_in(&binary("relevo")?, Path::new(FOLDER))?;
    let disk = pair.root.join("a/disk.qcow2");
    content::make(&disk, options.disk_bytes, 0)?;
    let spec = GuestSpec::new(VM, &[(disk.clone(), "qcow2")], &pair.root.join("serial.log"));
    define(&pair.a, &spec)?;
    let nbd = Nbd::prepare(&disk, options.disk_bytes)?;
    let (mut ours, mut clear, mut sealed) = (vec![], vec![], vec![]);
    for run in 1..=options.runs {
        ours.push(protect(&pair)?);
        clear.push(nbd.copy(false)?);
        sealed.push(nbd.copy(true)?);
        println!(
            "  run {run}: {:.2} s; nbdcopy {:.2} s, with TLS {:.2} s",
            ours[run - 1],
            clear[run - 1],
            sealed[run - 1]
        );
    }
    let data = used_bytes(&disk)? as f64 / f64::from(1 << 30);
    let what = |beside: &str| format!("first copy of {data:.1} GiB, {beside}");
    Ok(vec![
        Figure::beside(what("encrypted"), "s", ours.clone(), ("nbdcopy in the clear", clear), 1.3),
        Figure::beside(what("encrypted"), "s", ours, ("nbdcopy with TLS", sealed), 0.5),
    ])
}

/// One first copy, and all traces of it away again.
fn protect(pair: &Pair) -> Result<f64> {
    let began = Instant::now();
    pair.a.run(&["protect", VM, "--to", &pair.b.name, "--interval", "12h"])?;
    let took_s = began.elapsed().as_secs_f64();
    pair.a.run(&["unprotect", VM])?;
    pair.b.run(&["unprotect", VM, "--delete-replica"])?;
    Ok(took_s)
}

/// The peer: qemu-nbd on both sides, and certificates for it.
struct Nbd {
    root: TempRoot,
    disk: PathBuf,
    size_bytes: u64,
}

impl Nbd {
    fn prepare(disk: &Path, size_bytes: u64) -> Result<Self> {
        let root = TempRoot::new_in(Path::new(FOLDER))?;
        certificates(root.path())?;
        Ok(Self { root, disk: disk.to_owned(), size_bytes })
    }

    fn copy(&self, tls: bool) -> Result<f64> {
        let copy = self.root.join("copy.qcow2");
        create_disk(&copy, self.size_bytes)?;
        let (from, to) = (free_port()?, free_port()?);
        let source = serve(from, &["--read-only"], &self.disk)?;
        let folder = self.root.path().to_string_lossy();
        let credentials = format!("tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={folder}");
        let sealed = ["--object", &credentials, "--tls-creds", "tls"];
        let target = serve(to, if tls { &sealed } else { &[] }, &copy)?;
        let to = if tls {
            format!("nbds://localhost:{to}/?tls-certificates={folder}")
        } else {
            format!("nbd://localhost:{to}/")
        };
        let began = Instant::now();
        tool(Command::new("nbdcopy").args(["--flush", &format!("nbd://localhost:{from}/"), &to]))?;
        let took_s = began.elapsed().as_secs_f64();
        drop((source, target));
        fs::remove_file(&copy)?;
        Ok(took_s)
    }
}

/// Ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(port: u16, more: &[&str], disk: &Path) -> Result<Server> {
    let child = Command::new("qemu-nbd")
        .args(["--persistent", "--shared=0", "-f", "qcow2", "-b", "127.0.0.1", "-p", &port.to_string()])
        .args(more)
        .arg(disk)
        // It complains of each connection that only asks whether it is up.
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start qemu-nbd")?;
    let server = Server(child);
    let up = poll(BOUND, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    up.then_some(server).context("qemu-nbd does not come up")
}

/// An authority, and one certificate for server and client, under the names that QEMU and libnbd look for.
fn certificates(folder: &Path) -> Result<()> {
    let openssl =
        |arguments: &[&str]| tool(Command::new("openssl").current_dir(folder).args(arguments)).map(drop);
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let request = |more: &[&str]| openssl(&[&["req"][..], &new, more].concat());
    request(&["-x509", "-days", "2", "-subj", "/CN=bench", "-keyout", "ca-key.pem", "-out", "ca-cert.pem"])?;
    for side in ["server", "client"] {
        let (key, certificate) = (format!("{side}-key.pem"), format!("{side}-cert.pem"));
        request(&["-subj", "/CN=localhost", "-keyout", &key, "-out", "request.pem"])?;
        let usage = "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n";
        fs::write(folder.join("extensions"), usage)?;
        let sign = ["x509", "-req", "-in", "request.pem", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem"];
        let more = ["-CAcreateserial", "-days", "2", "-extfile", "extensions", "-out", &certificate];
        openssl(&[&sign[..], &more].concat())?;
    }
    Ok(())
}
