//! What QEMU's disks stand on, and what earlier work left in it.

use super::monitor::{Job, Monitor};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

/// The names that libvirt gives the jobs that we cause.
const JOBS: [&str; 3] = ["commit-", "backup-", "create-"];
/// Records what the guest writes during a pivot.
const PIVOT_BITMAP: &str = "libvirt-tmp-activewrite";

#[derive(Default)]
pub struct Graph {
    /// The topmost node of a device, by the device's path in QEMU's object tree.
    pub tops: BTreeMap<String, String>,
    pub nodes: BTreeMap<String, Node>,
    /// From a node to the one below it.
    pub below: BTreeMap<String, String>,
}

#[derive(Default)]
pub struct Node {
    pub file: PathBuf,
    pub bitmaps: Vec<String>,
}

impl Graph {
    pub fn read(monitor: &mut Monitor) -> io::Result<Self> {
        let mut graph = Self::default();
        for device in items(&monitor.ask("query-block", json!({}))?) {
            if let (Some(path), Some(node)) =
                (device["qdev"].as_str(), device["inserted"]["node-name"].as_str())
            {
                graph.tops.insert(path.to_owned(), node.to_owned());
            }
        }
        for node in items(&monitor.ask("query-named-block-nodes", json!({ "flat": true }))?) {
            let bitmaps = items(&node["dirty-bitmaps"]).filter_map(|map| map["name"].as_str());
            let bitmaps = bitmaps.filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let file = node["file"].as_str().unwrap_or_default().into();
            let name = node["node-name"].as_str().unwrap_or_default().to_owned();
            graph.nodes.insert(name, Node { file, bitmaps });
        }
        // Among all that QEMU tells, the one that names a node's backing node.
        let edges = monitor.ask("x-debug-query-block-graph", json!({}))?;
        let names: BTreeMap<u64, &str> = items(&edges["nodes"])
            .filter_map(|node| Some((node["id"].as_u64()?, node["name"].as_str()?)))
            .collect();
        for edge in items(&edges["edges"]).filter(|edge| edge["name"] == "backing") {
            let name = |key: &str| names.get(&edge[key].as_u64()?).map(|name| (*name).to_owned());
            if let (Some(parent), Some(child)) = (name("parent"), name("child")) {
                graph.below.insert(parent, child);
            }
        }
        Ok(graph)
    }

    /// A device's nodes, topmost first.
    pub fn chain(&self, device: &str) -> Vec<&str> {
        let top = self.tops.get(device).map(String::as_str);
        std::iter::successors(top, |node| self.below.get(*node).map(String::as_str)).collect()
    }
}

/// Ends what libvirt's work left in QEMU and libvirt does not know of: `known` jobs and nodes are left alone.
/// Gives the jobs that are left.
pub fn end_unknown_jobs(monitor: &mut Monitor, known: &BTreeSet<String>) -> io::Result<Vec<Job>> {
    for job in monitor.jobs()? {
        if !known.contains(&job.id) && JOBS.iter().any(|kind| job.id.starts_with(kind)) {
            tracing::info!(job = job.id, "ends a job that libvirt knows nothing of");
            monitor.end_job(&job.id)?;
        }
    }
    monitor.jobs()
}

/// Removes the bitmaps of a cut-off pivot or backup. Only where no job is left that needs them.
pub fn sweep_bitmaps(monitor: &mut Monitor, graph: &Graph, targets: &[String]) {
    let passing = |name: &str| {
        name == PIVOT_BITMAP || name.strip_prefix("backup-").is_some_and(|t| targets.iter().any(|x| x == t))
    };
    for (name, node) in &graph.nodes {
        for bitmap in node.bitmaps.iter().filter(|bitmap| passing(bitmap)) {
            let _ = monitor.ask("block-dirty-bitmap-remove", json!({ "node": name, "name": bitmap }));
        }
    }
}

/// Removes libvirt's nodes that it does not know of any more. QEMU refuses for one that is in use.
pub fn sweep_nodes(monitor: &mut Monitor, graph: &Graph, known: &BTreeSet<String>) {
    // What is formatted before what it is stored in.
    for kind in ["format", "storage"] {
        for name in graph.nodes.keys().filter(|name| !known.contains(*name)) {
            if index(name).is_some() && name.ends_with(kind) {
                match monitor.ask("blockdev-del", json!({ "node-name": name })) {
                    Ok(_) => tracing::info!(node = name, "closed what stood nowhere"),
                    Err(error) => {
                        tracing::info!(node = name, %error, "left a node that libvirt does not know");
                    }
                }
            }
        }
    }
}

/// Removes all bitmaps of a node: what they record is not all that was written.
pub fn drop_bitmaps(monitor: &mut Monitor, graph: &Graph, node: &str) -> io::Result<()> {
    for bitmap in graph.nodes.get(node).into_iter().flat_map(|node| &node.bitmaps) {
        monitor.ask("block-dirty-bitmap-remove", json!({ "node": node, "name": bitmap }))?;
    }
    Ok(())
}

/// The number in a name that libvirt gave: `libvirt-7-format`.
pub fn index(node: &str) -> Option<u64> {
    let (number, kind) = node.strip_prefix("libvirt-")?.split_once('-')?;
    if matches!(kind, "format" | "storage") { number.parse().ok() } else { None }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
