//! The guest: where its kernel lies, what it is told, its libvirt domain, and a libvirt to run it.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

/// What `cargo xtask guest` built.
#[derive(Clone, Debug)]
pub struct Assets {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// With Debian's guest agent in it.
    pub initrd_agent: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("no test guest at {path}: run `cargo xtask guest`")]
pub struct NoGuest {
    path: PathBuf,
}

/// Finds the guest's kernel and initramfs in the repository's `target/guest`.
pub fn assets() -> Result<Assets, NoGuest> {
    let dir =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a room in a repository").join("target/guest");
    let find = |name: &str| {
        let path = dir.join(name);
        if path.exists() { Ok(path) } else { Err(NoGuest { path }) }
    };
    Ok(Assets {
        kernel: find("vmlinuz")?,
        initrd: find("initrd.gz")?,
        initrd_agent: find("initrd-agent.gz")?,
    })
}

/// For an embedded libvirt that needs nothing but the user who runs it. The user matters twice: another
/// one could not read the test's folder; and libvirt, finding that its own user can open `/dev/kvm` where
/// QEMU's cannot, would throw away what it learnt of QEMU and probe it again each time, for a minute.
const QEMU_CONF: &str = "stdio_handler = \"file\"
security_driver = \"none\"
user = \"root\"
group = \"root\"
remember_owner = 0
";

/// Makes `dir` the root of an embedded libvirt and returns its URI.
pub fn embed(dir: &Path) -> io::Result<String> {
    fs::create_dir_all(dir.join("etc"))?;
    fs::write(dir.join("etc/qemu.conf"), QEMU_CONF)?;
    Ok(format!("qemu:///embed?root={}", dir.display()))
}

/// A guest with the writer in it.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    pub name: String,
    /// `None`: libvirt makes one.
    pub uuid: Option<String>,
    pub disks: Vec<GuestDisk>,
    pub memory_mib: u32,
    pub writer: Writer,
    /// What the serial console says goes here; a restart appends.
    pub serial: PathBuf,
    pub agent: Agent,
    /// MAC addresses of network cards in networks of their own.
    pub macs: Vec<String>,
    /// The last disk is not the writer's: it holds an ext4 file system that the guest mounts and goes on writing to.
    pub files: bool,
}

/// Who answers on the channel of the guest agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// There is no channel.
    None,
    /// There is a channel, and nobody answers.
    Dead,
    /// The writer, which can freeze and thaw (between two of its ops).
    Writer,
    /// Debian's qemu-guest-agent. Before it freezes it is held up for so long.
    Qemu { hook_sleep_s: u32 },
}

#[derive(Clone, Debug)]
pub struct GuestDisk {
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: String,
    /// `vda`, `vdb`, …: in this order.
    pub target: String,
}

/// What the writer does. Seed, area and sizes count only at a disk's first boot; its header keeps them.
#[derive(Clone, Debug)]
pub struct Writer {
    pub seed: u64,
    /// 0: boots and never writes.
    pub ops_per_s: f64,
    /// Bytes of each op, a multiple of 512; 0 mixes sizes from 4 to 64 KiB.
    pub bytes_per_op: u64,
    /// The part of each disk that is written to (besides its last cluster).
    pub area_mib: u64,
    /// Acknowledges each op whose number this divides.
    pub ack_every: u64,
    /// Stops after this op, and idles.
    pub ops_max: Option<u64>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { seed: 1, ops_per_s: 20.0, bytes_per_op: 0, area_mib: 4, ack_every: 1, ops_max: None }
    }
}

impl GuestSpec {
    /// A guest of `name` with `disks` as (path, format), the default writer and no agent.
    pub fn new(name: &str, disks: &[(PathBuf, &str)], serial: &Path) -> Self {
        let disk = |(index, (path, format)): (usize, &(PathBuf, &str))| GuestDisk {
            path: path.clone(),
            format: (*format).to_owned(),
            target: format!("vd{}", ('a'..='h').nth(index).expect("at most eight disks")),
        };
        Self {
            name: name.to_owned(),
            uuid: None,
            disks: disks.iter().enumerate().map(disk).collect(),
            memory_mib: 96,
            writer: Writer::default(),
            serial: serial.to_owned(),
            agent: Agent::None,
            macs: vec![],
            files: false,
        }
    }

    /// The kernel's command line.
    ///
    /// `no_timer_check`: an emulated processor that the host does not let run for some milliseconds fails the kernel's
    /// check of its timer, and panics ("IO-APIC + timer doesn't work") when it does so four times.
    pub fn command_line(&self) -> String {
        let Writer { seed, ops_per_s, bytes_per_op, area_mib, ack_every, ops_max } = &self.writer;
        let mut line = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check oracle.disks={} oracle.seed={seed} \
             oracle.ops_per_s={ops_per_s} oracle.bytes_per_op={bytes_per_op} oracle.area_mib={area_mib} \
             oracle.ack_every={ack_every}",
            self.disks.len() - usize::from(self.files)
        );
        if let (true, Some(last)) = (self.files, self.disks.last()) {
            write!(line, " guest.files={}", last.target).expect("a string takes all");
        }
        match self.agent {
            Agent::None | Agent::Writer => {}
            Agent::Dead => line.push_str(" guest.agent=none"),
            Agent::Qemu { hook_sleep_s } => {
                write!(line, " guest.agent=qemu guest.hook_sleep={hook_sleep_s}")
                    .expect("a string takes all");
            }
        }
        if let Some(last) = ops_max {
            write!(line, " oracle.ops_max={last}").expect("a string takes all");
        }
        line
    }
}

/// A libvirt domain in software emulation. A panic of its kernel shuts it off.
pub fn domain_xml(spec: &GuestSpec) -> Result<String, NoGuest> {
    let Assets { kernel, initrd, initrd_agent } = assets()?;
    let initrd = if matches!(spec.agent, Agent::Qemu { .. }) { initrd_agent } else { initrd };
    let uuid = spec.uuid.as_ref().map(|uuid| format!("<uuid>{}</uuid>", escape(uuid))).unwrap_or_default();
    let disks: String = spec.disks.iter().map(disk_xml).collect();
    let agent = if spec.agent != Agent::None {
        "\n    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    } else {
        ""
    };
    let cards = spec.macs.iter().map(|mac| {
        format!(
            "\n    <interface type='user'><mac address='{}'/><model type='virtio'/></interface>",
            escape(mac)
        )
    });
    let cards: String = cards.collect();
    Ok(format!(
        "<domain type='qemu'>
  <name>{name}</name>{uuid}
  <memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>{disks}
    <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>{agent}{cards}
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>
",
        name = escape(&spec.name),
        memory_mib = spec.memory_mib,
        kernel = escape(&kernel.to_string_lossy()),
        initrd = escape(&initrd.to_string_lossy()),
        cmdline = escape(&spec.command_line()),
        serial = escape(&spec.serial.to_string_lossy()),
    ))
}

fn disk_xml(disk: &GuestDisk) -> String {
    format!(
        "
    <disk type='file' device='disk'>
      <driver name='qemu' type='{}' discard='unmap'/><source file='{}'/><target dev='{}' bus='virtio'/>
    </disk>",
        escape(&disk.format),
        escape(&disk.path.to_string_lossy()),
        escape(&disk.target)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn libvirt_accepts_the_domain() {
        let root = crate::TempRoot::new().unwrap();
        let disks = [(root.join("a'&.qcow2"), "qcow2"), (root.join("b.raw"), "raw")];
        let mut spec = GuestSpec::new("guest & co", &disks, &root.join("serial.log"));
        spec.uuid = Some("4c7d1f4e-8f3c-4f0e-9a49-1f7a1b7c5a01".into());
        spec.agent = Agent::Writer;
        spec.writer.ops_max = Some(7);
        let path = root.join("domain.xml");
        fs::write(&path, domain_xml(&spec).unwrap()).unwrap();
        let uri = embed(&root.join("libvirt")).unwrap();
        let virsh = |arguments: &[&str]| {
            let output = Command::new("virsh").args(["-q", "-c", &uri]).args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        virsh(&["define", "--validate", &path.to_string_lossy()]);
        let defined = virsh(&["dumpxml", "guest & co"]);
        assert!(defined.contains(spec.uuid.as_ref().unwrap()), "{defined}");
        assert!(defined.contains("a&apos;&amp;.qcow2"), "{defined}");
        assert!(spec.command_line().contains("oracle.disks=2"));
        assert!(spec.command_line().ends_with("oracle.ops_max=7"));
    }
}
