//! libvirt's notes on running domains (`run/qemu/NAME.xml` of an embedded root). A process that dies with
//! libvirt embedded in it can leave one that libvirt itself never gets over, or that says what is not so: it is
//! mended before libvirt reads it. A libvirtd of its own does not die with this daemon, and its notes are left
//! alone.
//!
//! Between what QEMU does and what libvirt notes of it lies a moment. What was done in it, only QEMU can tell: it
//! is asked, over the monitor that libvirt has let go.

mod disks;
mod graph;
mod monitor;

use crate::{
    ffi, image,
    xml::{self, attribute, elements},
};
use disks::Difference;
use graph::Graph;
use monitor::Monitor;
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};
use xmltree::{Element, XMLNode};

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
            None => ("", Ok(())),
            Some(Mend::Forget) => ("a start that never came to a process", fs::remove_file(&path)),
            Some(Mend::Replace(what, note)) => (what, model::durable::replace_file(&path, note.as_bytes())),
        };
        match mended {
            Ok(()) if what.is_empty() => {}
            Ok(()) => tracing::info!(path = %path.display(), "forgot {what}"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot forget {what}"),
        }
        if let Err(error) = tell_as_it_is(root, &path) {
            tracing::warn!(path = %path.display(), %error, "cannot compare libvirt's note with QEMU");
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
    // Killed within a backup, which was this process's own. Between claiming the domain and noting the backup, libvirt
    // takes the claim up again and knows of nothing whose end would let it go; between the first disk and the last,
    // it cannot read its note; and later it takes the end of an old job for that of the next backup.
    let claimed = tag("<job ").is_some_and(|job| job.contains(CLAIM)) || note.contains("<domainbackup");
    // Killed while a commit's end was taken note of, the mirror's job first: libvirt cannot read that, and holds
    // the domain to be off while its QEMU runs.
    let ended = tag("<mirror ").is_some_and(|mirror| mirror.contains(ENDED));
    let mended = |what, from, to| Some(Mend::Replace(what, note.replace(from, to)));
    match (claimed, ended) {
        (true, _) => {
            let (head, tail) = note.split_once("<domainbackup").unwrap_or((note, ""));
            let rest = tail.split_once("</domainbackup>").map_or("", |(_, rest)| rest);
            Some(Mend::Replace(
                "a backup that was cut off",
                [head, rest].concat().replace(CLAIM, " async='none'"),
            ))
        }
        (_, true) => mended("how far a commit had come", ENDED, " job='active-commit'"),
        _ => None,
    }
}

const CLAIM: &str = " async='backup'";
const ENDED: &str = " job=''";

/// Makes the note say what QEMU says of the disks, and ends in QEMU what libvirt has forgotten.
fn tell_as_it_is(root: &Path, path: &Path) -> io::Result<()> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    let mut note = xml::parse(&text).map_err(io::Error::other)?;
    let Some(socket) = note.get_child("monitor").and_then(|monitor| attribute(monitor, "path")) else {
        return Ok(());
    };
    // Nobody answers: QEMU is dead, and libvirt will see that by itself.
    let Ok(mut monitor) = Monitor::open(Path::new(socket)) else { return Ok(()) };
    if settle(&mut note, &mut monitor)? {
        let mended = xml::write(&note).map_err(io::Error::other)?;
        model::durable::replace_file(path, mended.as_bytes())?;
    }
    let name = path.file_name().unwrap_or_default();
    follow(&root.join("etc/qemu").join(name), &note)
}

/// True when the note was changed.
fn settle(note: &mut Element, monitor: &mut Monitor) -> io::Result<bool> {
    let mut jobs = graph::end_unknown_jobs(monitor, &kept_jobs(note))?;
    let mut graph = Graph::read(monitor)?;
    let mut changed = false;
    // libvirt takes any end without an error for a pivot. It is none where the commit was called off.
    for (name, device, base) in active_commits(note) {
        let Some(job) = jobs.iter().find(|job| job.id == name && job.concluded) else { continue };
        let pivoted = graph.tops.get(&device) == Some(&base);
        if job.failed || !pivoted {
            monitor.end_job(&name)?;
        } else {
            changed |= say_pivoting(note, &name);
        }
    }
    jobs = monitor.jobs()?;
    let busy: BTreeSet<String> = jobs.iter().map(|job| job.id.clone()).collect();
    let working = targets_of(note, &busy);
    if let Some(list) = note.get_mut_child("blockjobs") {
        let before = list.children.len();
        let is_there = |child: &XMLNode| {
            child.as_element().is_none_or(|e| attribute(e, "name").is_some_and(|name| busy.contains(name)))
        };
        list.children.retain(is_there);
        changed |= list.children.len() != before;
    }
    let mut targets = vec![];
    for disk in disks_mut(note) {
        let target = disks::target(disk).unwrap_or_default().to_owned();
        let device = disks::device(disk).map(str::to_owned);
        targets.push(target.clone());
        let Some(device) = device.filter(|_| !working.contains(&target)) else { continue };
        changed |= disk.take_child("mirror").is_some();
        let real = graph.chain(&device);
        let Some(difference) = disks::compare(&disks::chain(disk), &real) else { continue };
        tracing::info!(target, ?difference, ?real, "QEMU's disk is not what libvirt noted");
        if difference == Difference::Pivoted {
            graph::drop_bitmaps(monitor, &graph, real[0])?;
        }
        disks::correct(disk, &difference, &graph, &real);
        changed |= difference != Difference::Unknown;
    }
    graph = Graph::read(monitor)?;
    graph::sweep_nodes(monitor, &graph, &node_names(note));
    if working.is_empty() {
        graph::sweep_bitmaps(monitor, &graph, &targets);
    }
    // Names of nodes are numbered; one that is taken is refused.
    let last = graph.nodes.keys().filter_map(|node| graph::index(node)).max().unwrap_or(0);
    if let Some(counter) = note.get_mut_child("nodename")
        && attribute(counter, "index").and_then(|index| index.parse::<u64>().ok()).is_some_and(|i| i < last)
    {
        counter.attributes.insert("index".to_owned(), last.to_string());
        changed = true;
    }
    Ok(changed)
}

/// The definition is written after the note: where it names what lies just below or above the file that QEMU has,
/// the next start would be from that. Any other file is the operator's choice.
fn follow(definition: &Path, note: &Element) -> io::Result<()> {
    let Ok(text) = fs::read_to_string(definition) else { return Ok(()) };
    let mut followed = text.clone();
    let defined = xml::parse(&text).map_err(io::Error::other)?;
    for disk in note.get_child("domain").into_iter().flat_map(disks_of) {
        let (Some(target), Some(real)) = (disks::target(disk), file(disk)) else { continue };
        let format = disk.get_child("driver").and_then(|driver| attribute(driver, "type")).unwrap_or("qcow2");
        let named = disks_of(&defined).find(|disk| disks::target(disk) == Some(target)).and_then(file);
        let Some(named) = named.filter(|named| *named != real) else { continue };
        let below = disk.get_child("backingStore").and_then(file) == Some(named.clone());
        let above = image::chain(&named, "qcow2")
            .is_ok_and(|chain| chain.layers.get(1).is_some_and(|layer| layer.path == real));
        if below || above {
            tracing::info!(target, real = %real.display(), named = %named.display(), "the definition is behind");
            followed = xml::set_disk_source(&followed, target, &real, format).map_err(io::Error::other)?;
        }
    }
    if followed != text {
        model::durable::replace_file(definition, followed.as_bytes())?;
    }
    Ok(())
}

fn file(holder: &Element) -> Option<PathBuf> {
    let source = holder.get_child("source")?;
    attribute(source, "file").or_else(|| attribute(source, "dev")).map(PathBuf::from)
}

fn disks_of(domain: &Element) -> impl Iterator<Item = &Element> {
    domain.get_child("devices").into_iter().flat_map(|devices| elements(devices, "disk"))
}

fn disks_mut(note: &mut Element) -> impl Iterator<Item = &mut Element> {
    let devices = note.get_mut_child("domain").and_then(|domain| domain.get_mut_child("devices"));
    let children = devices.into_iter().flat_map(|devices| devices.children.iter_mut());
    children.filter_map(XMLNode::as_mut_element).filter(|element| element.name == "disk")
}

fn block_jobs(note: &Element) -> impl Iterator<Item = &Element> {
    note.get_child("blockjobs").into_iter().flat_map(|jobs| elements(jobs, "blockjob"))
}

/// The jobs that libvirt goes on with; a backup was given up.
fn kept_jobs(note: &Element) -> BTreeSet<String> {
    let kept = block_jobs(note).filter(|job| attribute(job, "type") != Some("backup"));
    kept.filter_map(|job| attribute(job, "name")).map(str::to_owned).collect()
}

/// Disks that one of these jobs works on.
fn targets_of(note: &Element, jobs: &BTreeSet<String>) -> BTreeSet<String> {
    let those = block_jobs(note).filter(|job| attribute(job, "name").is_some_and(|name| jobs.contains(name)));
    those.filter_map(|job| attribute(job.get_child("disk")?, "dst")).map(str::to_owned).collect()
}

/// Name, device and base's node of each commit of an active layer.
fn active_commits(note: &Element) -> Vec<(String, String, String)> {
    let Some(domain) = note.get_child("domain") else { return vec![] };
    let commit = |job: &Element| {
        let target = attribute(job.get_child("disk")?, "dst")?;
        let disk = disks_of(domain).find(|disk| disks::target(disk) == Some(target))?;
        let base = attribute(job.get_child("base")?, "node")?.to_owned();
        Some((attribute(job, "name")?.to_owned(), disks::device(disk)?.to_owned(), base))
    };
    let jobs = block_jobs(note).filter(|job| attribute(job, "type") == Some("active-commit"));
    jobs.filter_map(commit).collect()
}

/// So that libvirt takes the end of this job for what it is. True when the note said something else.
fn say_pivoting(note: &mut Element, name: &str) -> bool {
    let jobs = note.get_mut_child("blockjobs").into_iter().flat_map(|jobs| jobs.children.iter_mut());
    let mut jobs = jobs.filter_map(XMLNode::as_mut_element);
    let Some(job) = jobs.find(|job| attribute(job, "name") == Some(name)) else { return false };
    job.attributes.remove("newstate");
    job.attributes.insert("state".to_owned(), "pivoting".to_owned()) != Some("pivoting".to_owned())
}

/// All nodes that the note speaks of.
fn node_names(element: &Element) -> BTreeSet<String> {
    let own = (element.name == "nodename").then(|| attribute(element, "name")).flatten();
    let children = element.children.iter().filter_map(XMLNode::as_element).flat_map(node_names);
    own.map(str::to_owned).into_iter().chain(children).collect()
}
