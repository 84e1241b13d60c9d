//! The peer that only calls libvirt: a process of its own, driven by lines.

use crate::{GUESTS_FOLDER, binary, create_disk};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};
use testkit::{GuestSpec, TempRoot, Writer, domain_xml};

pub struct Bare {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    root: TempRoot,
}

impl Bare {
    /// With a guest of its own, shut off, that writes as `writer` says.
    pub fn start(disk_bytes: &[u64], writer: &Writer) -> Result<Self> {
        let root = TempRoot::new_in(Path::new(GUESTS_FOLDER))?;
        let mut child = Command::new(binary("examples/bare")?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start bare")?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut bare = Self { child, to, from, root };
        let mut spec = bare.guest(disk_bytes)?;
        spec.writer = writer.clone();
        let xml = bare.root.join("bare.xml");
        fs::write(&xml, domain_xml(&spec)?)?;
        let libvirt = bare.root.join("libvirt");
        bare.ask(&format!("open {}", libvirt.display()))?;
        bare.ask(&format!("define {}", xml.display()))?;
        Ok(bare)
    }

    fn guest(&self, disk_bytes: &[u64]) -> Result<GuestSpec> {
        let mut disks = vec![];
        for (index, bytes) in disk_bytes.iter().enumerate() {
            let path = self.root.join(format!("{index}.qcow2"));
            create_disk(&path, *bytes)?;
            disks.push((path, "qcow2"));
        }
        Ok(GuestSpec::new("bare", &disks, &self.serial()))
    }

    pub fn serial(&self) -> PathBuf {
        self.root.join("serial.log")
    }

    pub fn folder(&self) -> &Path {
        self.root.path()
    }

    /// Carries a command out; gives the milliseconds that it took.
    pub fn ask(&mut self, command: &str) -> Result<f64> {
        writeln!(self.to.as_mut().context("closed")?, "{command}")?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        ensure!(!answer.is_empty() && !answer.starts_with("error"), "{command}: {}", answer.trim());
        Ok(answer.split(' ').next().and_then(|ms| ms.parse().ok()).unwrap_or(0.0))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It ends with its input.
        self.to = None;
        let _ = self.child.wait();
    }
}
