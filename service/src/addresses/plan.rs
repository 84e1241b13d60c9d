//! What to run in which guest so that an adapter gets its addresses: data in, commands out.

use super::{Subnet, Wanted};
use std::{fmt::Write as _, net::IpAddr};

/// What manages the network in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Windows,
    NetworkManager,
    /// netplan with its usual renderer too: files of ours come before those that it writes.
    Networkd,
    Ifupdown,
    /// Nobody: what is set lasts until the guest restarts.
    Plain,
}

/// A program to run in the guest. It must succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub path: String,
    pub args: Vec<String>,
    /// Its standard input.
    pub input: Option<String>,
}

/// Prints a word for each manager that a guest has; the order is [`system`]'s.
pub const PROBE: &str = "\
command -v nmcli >/dev/null 2>&1 && [ \"$(nmcli -t -f RUNNING general 2>/dev/null)\" = running ] && echo nm
command -v networkctl >/dev/null 2>&1 && systemctl -q is-active systemd-networkd && echo networkd
command -v ifup >/dev/null 2>&1 && [ -f /etc/network/interfaces ] && echo ifupdown
command -v ip >/dev/null 2>&1 && echo ip
true";

/// From what `guest-get-osinfo` calls the guest and what [`PROBE`] printed there. `None`: nothing that is known.
pub fn system(os_id: &str, probed: &str) -> Option<System> {
    if os_id == "mswindows" {
        return Some(System::Windows);
    }
    let has = |word: &str| probed.split_whitespace().any(|printed| printed == word);
    let known = [
        ("nm", System::NetworkManager),
        ("networkd", System::Networkd),
        ("ifupdown", System::Ifupdown),
        ("ip", System::Plain),
    ];
    known.into_iter().find(|(word, _)| has(word)).map(|(_, system)| system)
}

/// The commands that give the adapter, which the guest calls `interface`, what is wanted.
pub fn commands(system: System, interface: &str, mac: &str, wanted: &Wanted) -> Vec<Run> {
    match system {
        System::Windows => windows(mac, wanted),
        System::NetworkManager => network_manager(interface, wanted),
        System::Networkd => networkd(interface, mac, wanted),
        System::Ifupdown => ifupdown(interface, wanted),
        System::Plain => plain(interface, wanted),
    }
}

fn run<const N: usize>(path: &str, args: [&str; N]) -> Run {
    Run { path: path.to_owned(), args: args.map(str::to_owned).to_vec(), input: None }
}

fn shell(script: String) -> Run {
    Run { path: "sh".to_owned(), args: vec!["-e".to_owned()], input: Some(script) }
}

fn of_family(wanted: &Wanted, v4: bool) -> (Vec<&Subnet>, Vec<&IpAddr>, Vec<&IpAddr>) {
    let gateways = wanted.gateways.iter().filter(|ip| ip.is_ipv4() == v4).collect();
    let dns = wanted.dns.iter().filter(|ip| ip.is_ipv4() == v4).collect();
    (wanted.subnets.iter().filter(|subnet| subnet.address.is_ipv4() == v4).collect(), gateways, dns)
}

fn joined<T: ToString>(items: &[T], by: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(by)
}

/// A connection of our own that is preferred to those that are there; the first gateway counts, others are routes that
/// count less.
fn network_manager(interface: &str, wanted: &Wanted) -> Vec<Run> {
    let name = format!("relevo-{interface}");
    let mut add = run("nmcli", ["connection", "add", "type", "ethernet", "autoconnect", "yes"]);
    let mut set = |key: &str, value: &str| add.args.extend([key.to_owned(), value.to_owned()]);
    set("con-name", &name);
    set("ifname", interface);
    set("connection.autoconnect-priority", "999");
    for (v4, family) in [(true, "ipv4"), (false, "ipv6")] {
        let (subnets, gateways, dns) = of_family(wanted, v4);
        let method = match (subnets.is_empty(), v4, wanted.dhcp) {
            (false, ..) => "manual",
            (true, true, true) | (true, false, _) => "auto",
            (true, true, false) => "disabled",
        };
        set(&format!("{family}.method"), method);
        if !subnets.is_empty() {
            set(&format!("{family}.addresses"), &joined(&subnets, ","));
        }
        if let (Some((first, others)), false) = (gateways.split_first(), subnets.is_empty()) {
            set(&format!("{family}.gateway"), &first.to_string());
            let all = if v4 { "0.0.0.0/0" } else { "::/0" };
            let route = |(index, gateway): (usize, &&IpAddr)| format!("{all} {gateway} {}", 1000 + index);
            let routes: Vec<_> = others.iter().enumerate().map(route).collect();
            if !routes.is_empty() {
                set(&format!("{family}.routes"), &routes.join(","));
            }
        }
        if !dns.is_empty() {
            set(&format!("{family}.dns"), &joined(&dns, ","));
        }
    }
    vec![
        shell(format!("nmcli connection delete {name} >/dev/null 2>&1 || true\n")),
        add,
        run("nmcli", ["connection", "up", &name]),
    ]
}

/// A file that comes before those of others: the first that matches counts.
fn networkd(interface: &str, mac: &str, wanted: &Wanted) -> Vec<Run> {
    let mut file = format!("[Match]\nMACAddress={mac}\n\n[Network]\n");
    let dhcp = if wanted.dhcp { "ipv4" } else { "no" };
    let _ = writeln!(file, "DHCP={dhcp}");
    for subnet in &wanted.subnets {
        let _ = writeln!(file, "Address={subnet}");
    }
    for gateway in &wanted.gateways {
        let _ = writeln!(file, "Gateway={gateway}");
    }
    for server in &wanted.dns {
        let _ = writeln!(file, "DNS={server}");
    }
    let path = format!("/etc/systemd/network/05-relevo-{interface}.network");
    let write = Run {
        path: "sh".to_owned(),
        args: vec![
            "-c".to_owned(),
            format!("mkdir -p /etc/systemd/network && cat > {path} && chmod 644 {path}"),
        ],
        input: Some(file),
    };
    vec![write, run("networkctl", ["reload"]), run("networkctl", ["reconfigure", interface])]
}

/// The interface's own paragraphs are commented out (once; the file as it was is kept beside it), ours stands in a file
/// of its own.
fn ifupdown(interface: &str, wanted: &Wanted) -> Vec<Run> {
    let mut file = format!("auto {interface}\n");
    let paragraph = |file: &mut String, family: &str, method: &str| {
        let _ = writeln!(file, "iface {interface} {family} {method}");
    };
    if wanted.dhcp {
        paragraph(&mut file, "inet", "dhcp");
    }
    for (v4, family) in [(true, "inet"), (false, "inet6")] {
        let (subnets, gateways, dns) = of_family(wanted, v4);
        for (index, subnet) in subnets.iter().enumerate() {
            paragraph(&mut file, family, "static");
            let _ = writeln!(file, "    address {subnet}");
            if index > 0 {
                continue;
            }
            for (metric, gateway) in gateways.iter().enumerate() {
                let flag = if v4 { "" } else { "-6 " };
                let _ = writeln!(
                    file,
                    "    up ip {flag}route replace default via {gateway} dev {interface} metric {metric}"
                );
            }
            if !dns.is_empty() {
                let _ = writeln!(file, "    dns-nameservers {}", joined(&dns, " "));
            }
        }
    }
    let script = format!(
        "ifdown --force {interface} || true\n\
         cd /etc/network\n\
         [ -f interfaces.before-relevo ] || cp interfaces interfaces.before-relevo\n\
         awk -v i={interface} '\n\
         /^[ \\t]*(auto|allow-[a-z]+|iface|mapping|source|source-directory)[ \\t]/ {{ own = ($2 == i && $1 !~ /^source/) }}\n\
         {{ print (own && NF ? \"# relevo: \" : \"\") $0 }}' interfaces.before-relevo > interfaces.new\n\
         grep -q '^source.*interfaces.d/relevo-\\*' interfaces.new || \
         echo 'source /etc/network/interfaces.d/relevo-*' >> interfaces.new\n\
         mv interfaces.new interfaces\n\
         mkdir -p interfaces.d\n\
         cat > interfaces.d/relevo-{interface} <<'END'\n{file}END\n\
         ifup {interface}\n"
    );
    vec![shell(script)]
}

/// By `ip`, for as long as the guest runs.
fn plain(interface: &str, wanted: &Wanted) -> Vec<Run> {
    let mut runs = vec![
        run("ip", ["link", "set", "dev", interface, "up"]),
        run("ip", ["address", "flush", "dev", interface, "scope", "global"]),
    ];
    if wanted.dhcp {
        let client = format!(
            "if command -v udhcpc >/dev/null; then udhcpc -n -q -i {interface}; else dhclient -1 {interface}; fi\n"
        );
        runs.push(shell(client));
    }
    runs.extend(
        wanted
            .subnets
            .iter()
            .map(|subnet| run("ip", ["address", "add", &subnet.to_string(), "dev", interface])),
    );
    for (index, gateway) in wanted.gateways.iter().enumerate() {
        let family = if gateway.is_ipv4() { "-4" } else { "-6" };
        let (gateway, metric) = (gateway.to_string(), (index + 1).to_string());
        let words = ["route", "replace", "default", "via", &gateway, "dev", interface, "metric", &metric];
        let mut command = run("ip", [family]);
        command.args.extend(words.map(str::to_owned));
        runs.push(command);
    }
    if !wanted.dns.is_empty() {
        let lines: Vec<_> = wanted.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        let write = vec!["-c".to_owned(), "mkdir -p /etc && cat > /etc/resolv.conf".to_owned()];
        runs.push(Run { path: "sh".to_owned(), args: write, input: Some(lines.concat()) });
    }
    runs
}

fn windows(mac: &str, wanted: &Wanted) -> Vec<Run> {
    let mac = mac.replace(':', "-").to_ascii_uppercase();
    let mut script = format!(
        "$ErrorActionPreference = 'Stop'\n\
         $i = (Get-NetAdapter | Where-Object MacAddress -eq '{mac}').ifIndex\n\
         if (-not $i) {{ throw 'no adapter {mac}' }}\n"
    );
    let replaces = |v4: bool| wanted.subnets.iter().any(|subnet| subnet.address.is_ipv4() == v4);
    for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let changes = replaces(v4) || v4 && wanted.dhcp;
        if !changes {
            continue;
        }
        let _ = writeln!(
            script,
            "Get-NetIPAddress -InterfaceIndex $i -AddressFamily {family} -ErrorAction SilentlyContinue | \
             Where-Object PrefixOrigin -eq 'Manual' | Remove-NetIPAddress -Confirm:$false"
        );
        let all = if v4 { "0.0.0.0/0" } else { "::/0" };
        let _ = writeln!(
            script,
            "Get-NetRoute -InterfaceIndex $i -DestinationPrefix '{all}' -ErrorAction SilentlyContinue | \
             Remove-NetRoute -Confirm:$false"
        );
    }
    if wanted.dhcp {
        script.push_str("Set-NetIPInterface -InterfaceIndex $i -AddressFamily IPv4 -Dhcp Enabled\n");
    } else if replaces(true) {
        script.push_str("Set-NetIPInterface -InterfaceIndex $i -AddressFamily IPv4 -Dhcp Disabled\n");
    }
    for Subnet { address, prefix } in &wanted.subnets {
        let _ = writeln!(
            script,
            "New-NetIPAddress -InterfaceIndex $i -IPAddress '{address}' -PrefixLength {prefix} | Out-Null"
        );
    }
    for (index, gateway) in wanted.gateways.iter().enumerate() {
        let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let metric = index + 1;
        let _ = writeln!(
            script,
            "New-NetRoute -InterfaceIndex $i -DestinationPrefix '{all}' -NextHop '{gateway}' -RouteMetric {metric} | \
             Out-Null"
        );
    }
    if !wanted.dns.is_empty() {
        let servers: Vec<_> = wanted.dns.iter().map(|server| format!("'{server}'")).collect();
        let servers = servers.join(",");
        let _ =
            writeln!(script, "Set-DnsClientServerAddress -InterfaceIndex $i -ServerAddresses @({servers})");
    }
    let args = ["-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-Command", "-"];
    vec![Run { input: Some(script), ..run("powershell.exe", args) }]
}

#[cfg(test)]
mod tests;
