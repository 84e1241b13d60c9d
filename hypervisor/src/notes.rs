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
    /// To be replaced by this text, because of what it says.
    Replace(&'static str, String),
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
            Some(Mend::Replace(what, note)) => (what, model::durable::replace_file(&path, note.as_bytes())),
        };
        match mended {
            Ok(()) => tracing::info!(path = %path.display(), "forgot {what}"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot forget {what}"),
        }
    }
}

fn broken(note: &str) -> Option<Mend> {
    let tag =
        |name: &str| note.split_once(name).and_then(|(_, rest)| rest.split_once('>')).map(|(tag, _)| tag);
    // libvirt notes the process id before it lets QEMU itself be executed.
    if tag("<domstatus ")?.contains("pid='0'") {
        return Some(Mend::Forget);
    }
    // Killed between claiming a domain for a backup and noting the backup: libvirt takes the claim up again and
    // knows of nothing whose end would let it go. No other job gets the domain, and there is nothing to abort.
    let claimed = tag("<job ").is_some_and(|job| job.contains(CLAIM)) && !note.contains("<domainbackup");
    // Killed while a commit's end was taken note of, the mirror's job first: libvirt cannot read that, and holds
    // the domain to be off while its QEMU runs.
    let ended = tag("<mirror ").is_some_and(|mirror| mirror.contains(ENDED));
    let mended = |what, from, to| Some(Mend::Replace(what, note.replace(from, to)));
    match (claimed, ended) {
        (true, _) => mended("a backup that never began", CLAIM, " async='none'"),
        (_, true) => mended("how far a commit had come", ENDED, " job='active-commit'"),
        _ => None,
    }
}

const CLAIM: &str = " async='backup'";
const ENDED: &str = " job=''";
