//! `relevo authorize`: which hosts may send their VMs to this one.

use clap::Args;
use service::api::{Command, ErrorKind, Failure};
use std::path::PathBuf;

/// Let another host send its VMs here, list who may, or take it back
///
/// HOST is a host's full DNS name as in its certificate, a name with a wildcard in its first label
/// (`*.example`), or `*`. Authorize both hosts on each other: otherwise a VM that failed over cannot
/// be replicated back. A replica takes deltas from the host that it was made for only, whatever other
/// hosts are authorized, and only while that is of the trust group that it was made under.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that shall receive.\n\n\
                        Example:\n  relevo authorize a.example --storage /var/lib/relevo/replicas\n  \
                        relevo authorize a.example --vm web\n  relevo authorize --list\n  \
                        relevo authorize --remove a.example")]
pub struct AuthorizeArgs {
    /// The host that may send
    #[arg(required_unless_present_any = ["list", "remove"])]
    host: Option<String>,
    /// The folder that receives the replicas of that host's VMs; it must exist
    #[arg(long, value_name = "DIR", requires = "host", required_unless_present_any = ["list", "remove", "vm"])]
    storage: Option<PathBuf>,
    /// The trust group of the host (default: `DEFAULT`): a replica goes on only while the host that feeds it is of
    /// the group that it was made under
    #[arg(long, value_name = "GROUP", requires = "host")]
    trust_group: Option<String>,
    /// Move the replica of this VM, or the VM that is to become one, to the trust group that HOST is authorized under
    #[arg(long, value_name = "VM", requires = "host", conflicts_with_all = ["storage", "trust_group", "list", "remove"])]
    vm: Option<String>,
    /// List who may send
    #[arg(long, conflicts_with_all = ["host", "storage", "trust_group", "remove"])]
    list: bool,
    /// Take a host's authorization back; replication of its VMs to this host stops
    #[arg(long, value_name = "HOST", conflicts_with_all = ["host", "storage", "trust_group"])]
    remove: Option<String>,
}

impl AuthorizeArgs {
    pub fn command(self) -> Result<Command, Failure> {
        let (host, storage) = match (self.remove, self.host, self.storage, self.vm) {
            (Some(host), ..) => return Ok(Command::AuthorizeRemove { host }),
            (None, Some(host), _, Some(vm)) => return Ok(Command::AuthorizeVm { host, vm }),
            (None, Some(host), Some(storage), None) => (host, storage),
            _ => return Ok(Command::AuthorizeList),
        };
        // The daemon has another working folder than the operator.
        let storage = std::path::absolute(&storage).map_err(|error| {
            let text = format!("`{}` cannot be a storage folder: {error}", storage.display());
            Failure::new(ErrorKind::InvalidParameter, "storage-invalid", text)
        })?;
        Ok(Command::Authorize { host, storage, trust_group: self.trust_group })
    }
}
