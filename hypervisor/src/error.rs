//! What can fail, and with what.

use model::VmId;
use std::{io, path::PathBuf, time::Duration};
use virt::error::ErrorNumber;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start libvirt's event loop")]
    EventLoop { source: virt::error::Error },
    #[error("cannot connect to libvirt at {uri}")]
    Connect { uri: String, source: virt::error::Error },
    #[error("libvirt root {root} is in use by another process")]
    RootInUse { root: PathBuf, source: virt::error::Error },
    #[error("this process cannot open libvirt root {root}: it has opened {first}, and can open no other")]
    SecondRoot { root: PathBuf, first: PathBuf },
    #[error("cannot subscribe to events of libvirt at {uri}")]
    RegisterEvents { uri: String, source: virt::error::Error },
    #[error("cannot start the thread that watches the connection to libvirt")]
    Watch { source: io::Error },
    #[error("libvirt is away; it is called until it answers")]
    ConnectionClosed,
    #[error("cannot list the virtual machines")]
    List { source: virt::error::Error },
    #[error("cannot tell what this host can run")]
    Capabilities { source: virt::error::Error },
    #[error("cannot list the networks")]
    Networks { source: virt::error::Error },
    #[error("there is no virtual machine {vm}")]
    NoSuchDomain { vm: VmId },
    #[error("cannot define a virtual machine")]
    Define { source: virt::error::Error },
    #[error("virtual machine {vm} is still defined or running after it was undefined")]
    StillThere { vm: VmId },
    #[error("virtual machine {vm} has a managed save image, which undefining would orphan")]
    HasManagedSave { vm: VmId },
    #[error("virtual machine {vm} is not running")]
    NotRunning { vm: VmId },
    #[error("virtual machine {vm} was migrated to another host, and may run there")]
    Migrated { vm: VmId },
    /// Any other refused call, named by what it does: `cannot start virtual machine …`.
    #[error("cannot {what} virtual machine {vm}")]
    Call { what: &'static str, vm: VmId, source: virt::error::Error },
    #[error("virtual machine {vm} was not {wanted} within {timeout:?}")]
    StateTimeout { vm: VmId, wanted: crate::DomainState, timeout: Duration },

    #[error("virtual machine {vm} has no checkpoint {name}")]
    NoSuchCheckpoint { vm: VmId, name: String },
    #[error("cannot {what} checkpoint {name} of virtual machine {vm}")]
    Checkpoint { what: &'static str, vm: VmId, name: String, source: virt::error::Error },
    /// The checkpoint is listed, its bitmap is gone or unusable: what changed since then is not known.
    #[error("checkpoint {name} of virtual machine {vm} has lost its bitmap")]
    CheckpointLost { vm: VmId, name: String, source: virt::error::Error },
    /// libvirt lists the checkpoint, and QEMU has no bitmap of it: it was killed since.
    #[error("checkpoint {name} of virtual machine {vm} has lost its bitmap on disk {target}")]
    BitmapGone { vm: VmId, name: String, target: String },
    #[error("virtual machine {vm} has no backup job, neither running nor completed")]
    NoBackup { vm: VmId },
    #[error(
        "another program backs up virtual machine {vm}: replication goes on when that has ended \
         (`virsh domjobinfo {vm}` shows how far it is)"
    )]
    BackupRunning { vm: VmId },

    #[error("libvirt does not tell how large disk {target} of virtual machine {vm} is")]
    NoSize { vm: VmId, target: String },
    #[error("cannot {what} disk {target} of virtual machine {vm}")]
    Disk { what: &'static str, vm: VmId, target: String, source: virt::error::Error },
    #[error("virtual machine {vm} has no disk {target}")]
    NoSuchDisk { vm: VmId, target: String },
    #[error("block job on disk {target} of virtual machine {vm} failed{}", detail(.reason))]
    BlockJobFailed { vm: VmId, target: String, reason: Option<String> },
    #[error("block job on disk {target} of virtual machine {vm} was cancelled")]
    BlockJobCancelled { vm: VmId, target: String },

    #[error("virtual machine {vm} has no channel for a guest agent")]
    NoAgent { vm: VmId },
    #[error("the guest agent of virtual machine {vm} did not answer within {timeout:?}")]
    AgentSilent { vm: VmId, timeout: Duration },

    #[error("cannot understand what the guest agent of virtual machine {vm} answers")]
    AgentAnswer { vm: VmId, source: serde_json::Error },

    #[error("cannot read XML: {what}")]
    XmlUnexpected { what: String },
    #[error("cannot parse XML")]
    XmlSyntax { source: xmltree::ParseError },
    #[error("cannot write XML")]
    XmlWrite { source: xmltree::Error },

    #[error("cannot run {program}")]
    Spawn { program: &'static str, source: io::Error },
    #[error("there is no image {path}")]
    NoSuchImage { path: PathBuf },
    #[error("cannot {what} image {path}: {message}")]
    Image { what: &'static str, path: PathBuf, message: String },
    #[error("cannot understand what qemu-img says of image {path}")]
    ImageReport { path: PathBuf, source: serde_json::Error },
}

fn detail(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

impl Error {
    /// libvirt was busy with the domain for longer than it lets others wait.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Call { source, .. } | Self::Checkpoint { source, .. } => {
                is(source, ErrorNumber::OperationTimeout)
            }
            _ => false,
        }
    }
}

pub(crate) fn is(error: &virt::error::Error, number: ErrorNumber) -> bool {
    error.code() == virt::enumutil::Enum::Known(number)
}
