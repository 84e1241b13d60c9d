//! libvirt's notes on running domains (`run/qemu/NAME.xml` of an embedded root). A process that dies with
//! libvirt embedded in it can leave one that libvirt itself never gets over; it is mended before libvirt reads
//! it. A libvirtd of its own does not die with this daemon, and its notes are left alone.

use crate::ffi;
use std::{fs, path::Path};

#[derive(Debug, PartialEq, Eq)]
enum Mend {
    /// Killed between noting that a domain starts and QEMU's process. libvirt does not look for a process
    /// without an id: to it the domain starts for ever, and can neither be used nor stopped.
    Forget,
    /// Killed between claiming a domain for a backup and noting the backup. libvirt takes the claim up again
    /// and knows of nothing whose end would let it go: no other job gets the domain, and there is nothing to
    /// abort.
    Replace(String),
}

/// To be called before this process has the root open.
pub fn mend(root: &Path) {
    let notes = root.join("run/qemu");
    // The other holder's start or backup may be under way.
    if fs::File::open(notes.join("driver.pid")).is_ok_and(|file| ffi::is_locked(&file)) {
        return;
    }
    for entry in fs::read_dir(&notes).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let (what, mended) = match fs::read_to_string(&path).ok().and_then(|note| broken(&note)) {
            None => continue,
            Some(Mend::Forget) => ("a start that never came to a process", fs::remove_file(&path)),
            Some(Mend::Replace(note)) => {
                ("a backup that never began", model::durable::replace_file(&path, note.as_bytes()))
            }
        };
        match mended {
            Ok(()) => tracing::info!(path = %path.display(), "forgot {what}"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot forget {what}"),
        }
    }
}

fn broken(note: &str) -> Option<Mend> {
    const CLAIM: &str = " async='backup'";
    let tag =
        |name: &str| note.split_once(name).and_then(|(_, rest)| rest.split_once('>')).map(|(tag, _)| tag);
    // libvirt notes the process id before it lets QEMU itself be executed.
    if tag("<domstatus ")?.contains("pid='0'") {
        return Some(Mend::Forget);
    }
    let claimed = tag("<job ")?.contains(CLAIM);
    (claimed && !note.contains("<domainbackup"))
        .then(|| Mend::Replace(note.replacen(CLAIM, " async='none'", 1)))
}
