//! Views as text for people. Pure: view in, text out; no terminal, no clock. Nothing is coloured and nothing
//! is cut off, so that the text can be read aloud, pasted into a ticket and searched.

pub mod job;
pub mod points;
pub mod status;
pub mod table;
pub mod units;
pub mod vm;

use crate::output::Detail;
use service::api::{AuthorizationView, HostView, Reply, TransfersView};
use table::{Table, fields};

pub fn reply(reply: &Reply, detail: Detail) -> String {
    match (reply, detail) {
        (Reply::Done { message }, _) => message.clone(),
        (Reply::Host(view), _) => host(view),
        (Reply::Vms(views), _) => vm::list(views),
        (Reply::Vm(view), _) => vm::show(view),
        (Reply::Authorizations(views), _) => authorizations(views),
        (Reply::Relationships(views), Detail::Short) => status::overview(views),
        (Reply::Relationships(views), Detail::Full) => status::details(views),
        (Reply::Points(views), _) => points::list(views),
        (Reply::Plan(view), _) => job::plan(view),
        (Reply::Job(view), _) => job::show(view),
        (Reply::Jobs(views), _) => job::list(views),
        (Reply::Verify(view), _) => points::verify(view),
    }
}

/// Names and messages may come from a guest's definition or another host: what could steer a terminal is
/// replaced before it reaches one.
pub fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// A value, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn host(view: &HostView) -> String {
    fields(&[
        ("host", view.host_name.to_string()),
        ("version", view.version.clone()),
        ("replication", view.replication_address.clone().unwrap_or_else(|| "not listening".to_owned())),
        ("with Kerberos", or_dash(view.kerberos_address.clone())),
        ("libvirt", view.libvirt_uri.clone()),
        (
            "certificate",
            match &view.certificate_expires {
                Some(expires) => format!("expires {expires}"),
                None => "none; see `relevo cert`".to_owned(),
            },
        ),
        ("protected VMs", view.protected_vms.to_string()),
        ("replicas", view.replica_vms.to_string()),
        ("sending", transfers(view.sending)),
        ("receiving", transfers(view.receiving)),
    ])
}

fn transfers(view: TransfersView) -> String {
    let TransfersView { under_way, max, waiting } = view;
    let text = format!("{under_way} of at most {max} transfers");
    if waiting == 0 { text } else { format!("{text}, {waiting} waiting") }
}

fn authorizations(views: &[AuthorizationView]) -> String {
    if views.is_empty() {
        return "no host may send to this one; see `relevo authorize --help`".to_owned();
    }
    let mut table = Table::new(&["HOST", "TRUST GROUP", "STORAGE"]);
    for view in views {
        table.row([view.host.clone(), view.trust_group.clone(), view.storage.display().to_string()]);
    }
    table.text()
}

#[cfg(test)]
mod tests;
