//! The VMs of this host.

use super::{
    or_dash,
    table::{Table, fields, indented},
    units::size,
};
use service::api::{DiskView, VmView};

pub fn list(views: &[VmView]) -> String {
    if views.is_empty() {
        return "this host has no VM".to_owned();
    }
    let mut table = Table::new(&["VM", "POWER", "ROLE", "REPLICATION", "HEALTH", "PEER"]);
    for view in views {
        table.row([
            view.name.clone(),
            view.power_state.clone(),
            view.mode.to_string(),
            view.replication_state.to_string(),
            view.health.to_string(),
            or_dash(view.peer.clone()),
        ]);
    }
    table.text()
}

pub fn show(view: &VmView) -> String {
    let agent = match view.guest_agent {
        Some(true) => "answers: application-consistent points are possible",
        Some(false) => "does not answer: points are crash-consistent",
        None => "unknown while the VM does not run",
    };
    let facts = fields(&[
        ("power", view.power_state.clone()),
        ("role", view.mode.to_string()),
        ("replication", view.replication_state.to_string()),
        ("health", view.health.to_string()),
        ("peer", or_dash(view.peer.clone())),
        ("autostart", if view.autostart { "on" } else { "off" }.to_owned()),
        ("guest agent", agent.to_owned()),
    ]);
    let mut text = format!("{} ({})\n{}", view.name, view.vm, indented(&facts));
    if !view.disks.is_empty() {
        text.push_str(&format!("\n\n{}", indented(&disks(&view.disks))));
    }
    if !view.interfaces.is_empty() {
        let mut table = Table::new(&["MAC", "NETWORK"]);
        for interface in &view.interfaces {
            let network = or_dash(interface.network.clone());
            let tests = interface.test_network.as_ref().map(|test| format!("{network}, in tests {test}"));
            table.row([interface.mac.clone(), tests.unwrap_or(network)]);
        }
        text.push_str(&format!("\n\n{}", indented(&table.text())));
    }
    if !view.obstacles.is_empty() {
        text.push_str("\n\n  cannot be protected as it stands:");
        for obstacle in &view.obstacles {
            text.push_str(&format!("\n  - {obstacle}"));
        }
    }
    text
}

fn disks(views: &[DiskView]) -> String {
    let mut table = Table::new(&["DISK", "SIZE", "FORMAT", "REPLICATED", "PATH"]).right(&[1]);
    for view in views {
        let replicated = match (&view.obstacle, view.replicated) {
            (Some(obstacle), _) => format!("not possible: {obstacle}"),
            (None, true) => "yes".to_owned(),
            (None, false) => "no".to_owned(),
        };
        table.row([
            view.target.clone(),
            size(view.size_bytes),
            view.format.clone(),
            replicated,
            view.path.display().to_string(),
        ]);
    }
    table.text()
}
