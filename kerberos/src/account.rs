//! Where a host's keys and tickets are.

use crate::{
    Principal,
    error::KerberosError,
    ffi::{self, Usage},
    principal,
};
use libgssapi::credential::Cred;
use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// One principal's keys, and the folder for what is made of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `relevo/a.example` or `relevo/a.example@REALM`. `None`: accepts for every principal in the keytab, initiates as
    /// nobody.
    pub principal: Option<String>,
    pub keytab: PathBuf,
    /// A folder of ours, only ours: tickets, and the tokens that were seen.
    pub folder: PathBuf,
}

const KEYTAB: &CStr = c"keytab";
const CLIENT_KEYTAB: &CStr = c"client_keytab";
const TICKETS: &CStr = c"ccache";
const REPLAYS: &CStr = c"rcache";

impl Account {
    /// Throws the tickets away: the next ones are asked for anew. For a host that begins, and for tickets that a peer
    /// refused because its key is another one by now.
    pub fn forget_tickets(&self) -> Result<(), KerberosError> {
        let path = self.tickets();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KerberosError::Tickets { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Tickets to call with, from the cache or from the KDC. Blocks while the KDC is asked.
    pub(crate) fn to_initiate(&self) -> Result<Cred, KerberosError> {
        self.check_keytab()?;
        let store =
            [(CLIENT_KEYTAB, c_path("FILE:", &self.keytab)), (TICKETS, c_path("FILE:", &self.tickets()))];
        let acquired = ffi::acquire(self.principal.as_deref(), Usage::Initiate, &store);
        acquired.map_err(|error| KerberosError::of_own_ticket(self, &error))
    }

    /// The keys to be called with.
    pub(crate) fn to_accept(&self) -> Result<Cred, KerberosError> {
        self.check_keytab()?;
        let store = [
            (KEYTAB, c_path("FILE:", &self.keytab)),
            (REPLAYS, c_path("file2:", &self.folder.join("kerberos.replays"))),
        ];
        let acquired = ffi::acquire(self.principal.as_deref(), Usage::Accept, &store);
        acquired.map_err(|error| KerberosError::of_own_keys(self, &error))
    }

    /// Whether the keytab has keys to be called with, for a start that fails early; and the principal with its realm,
    /// the default one where none is given.
    pub fn check(&self) -> Result<Option<Principal>, KerberosError> {
        self.to_accept()?;
        self.principal.as_deref().map(principal::whole).transpose()
    }

    fn tickets(&self) -> PathBuf {
        self.folder.join("kerberos.tickets")
    }

    fn check_keytab(&self) -> Result<(), KerberosError> {
        let read = fs::File::open(&self.keytab);
        read.map(drop).map_err(|source| KerberosError::Keytab { path: self.keytab.clone(), source })
    }
}

/// A path as MIT's libraries name it. One with a zero byte cannot exist, and becomes one that does not.
fn c_path(kind: &str, path: &Path) -> CString {
    let name = [kind.as_bytes(), path.as_os_str().as_bytes()].concat();
    CString::new(name).unwrap_or_default()
}
