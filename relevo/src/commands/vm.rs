//! `relevo vm`: the VMs of this host. They stand in for virsh where an instance has a libvirt of its own, and
//! know what virsh does not: which host has the right to run a VM.

use clap::{Args, Subcommand};
use service::api::{Command, ErrorKind, Failure};
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

#[derive(Debug, Subcommand)]
pub enum VmAction {
    List(ListArgs),
    Show(ShowArgs),
    Define(DefineArgs),
    Start(StartArgs),
    Stop(StopArgs),
    Pause(PauseArgs),
    Undefine(UndefineArgs),
}

/// List the VMs that this host runs or holds a standby of
#[derive(Debug, Args)]
#[command(after_help = "Run it on any host.\n\nExample:\n  relevo vm list")]
pub struct ListArgs {}

/// Show a VM's disks and network cards, and what stands in the way of protecting it
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that has the VM.\n\nExample:\n  relevo vm show web")]
pub struct ShowArgs {
    /// The VM's name or UUID
    vm: String,
}

/// Define a VM from a file with its libvirt XML
///
/// The VM is defined and stays shut off. `-` reads the XML from standard input.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that shall run the VM.\n\nExample:\n  relevo vm define web.xml")]
pub struct DefineArgs {
    /// The file with the domain's XML, or `-`
    file: PathBuf,
}

/// Start a VM
///
/// Refused where another host has the right to run the VM.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that has the VM.\n\nExample:\n  relevo vm start web")]
pub struct StartArgs {
    /// The VM's name or UUID
    vm: String,
}

/// Shut a VM down
///
/// Asks the guest to shut down (ACPI). With `--force` the VM loses its power at once, as if the plug were
/// pulled: what the guest has not written to its disks is lost.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo vm stop web")]
pub struct StopArgs {
    /// The VM's name or UUID
    vm: String,
    /// Pull the plug instead of asking the guest
    #[arg(long)]
    force: bool,
}

/// Pause a VM; `relevo vm start` lets it go on
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that runs the VM.\n\nExample:\n  relevo vm pause web")]
pub struct PauseArgs {
    /// The VM's name or UUID
    vm: String,
}

/// Remove a VM's definition from this host; its disks stay
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that has the VM, which must be shut off and not protected.\n\n\
                        Example:\n  relevo vm undefine web")]
pub struct UndefineArgs {
    /// The VM's name or UUID
    vm: String,
}

impl VmAction {
    pub fn command(self) -> Result<Command, Failure> {
        Ok(match self {
            Self::List(_) => Command::VmList,
            Self::Show(ShowArgs { vm }) => Command::VmShow { vm },
            Self::Define(DefineArgs { file }) => Command::VmDefine { xml: read(&file)? },
            Self::Start(StartArgs { vm }) => Command::VmStart { vm },
            Self::Stop(StopArgs { vm, force }) => Command::VmStop { vm, force },
            Self::Pause(PauseArgs { vm }) => Command::VmPause { vm },
            Self::Undefine(UndefineArgs { vm }) => Command::VmUndefine { vm },
        })
    }
}

/// The text of a file, or of standard input for `-`.
fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let result = if file == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|content| text = content)
    };
    let name = file.display();
    match result {
        Ok(()) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::new(ErrorKind::NotFound, "file-absent", format!("there is no file {name}")))
        }
        Err(error) => Err(Failure::new(
            ErrorKind::InvalidParameter,
            "file-unreadable",
            format!("cannot read {name}: {error}"),
        )),
    }
}
