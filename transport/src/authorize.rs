//! Whose certificate may replicate to this host, and where its replicas go.

use model::HostName;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// `a.example.com`
    Exact(HostName),
    /// `*.example.com`: any one label in front.
    FirstLabel(HostName),
    /// `*`
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    pub host: HostPattern,
    pub trust_group: String,
    /// Folder for the replicas of these hosts.
    pub storage: PathBuf,
}

/// The most specific authorization that matches one of `names`: exact, then the first label, then any.
pub fn authorize<'a>(entries: &'a [Authorization], names: &[HostName]) -> Option<&'a Authorization> {
    let _ = (entries, names);
    unimplemented!()
}
