use super::*;
use crate::{addresses::read, api::AdapterAddresses};
use expect_test::{Expect, expect};

const MAC: &str = "52:54:00:12:34:56";

fn list(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Two families, two gateways, two name servers.
fn fixed() -> Wanted {
    let set = AdapterAddresses {
        mac: MAC.into(),
        dhcp: false,
        addresses: list(&["10.0.0.5", "10.0.0.6", "fd00::5"]),
        subnets: list(&["255.255.255.0", "24", "64"]),
        gateways: list(&["10.0.0.1", "10.0.0.2", "fd00::1"]),
        dns: list(&["10.0.0.53", "fd00::53"]),
    };
    read(&set).unwrap()
}

fn dhcp() -> Wanted {
    Wanted { dhcp: true, ..Wanted::default() }
}

/// A line per command, its input indented.
fn check(system: System, interface: &str, wanted: &Wanted, expected: &Expect) {
    let mut shown = String::new();
    for Run { path, args, input } in commands(system, interface, MAC, wanted) {
        shown.push_str(&format!("{path} {}\n", args.join(" ")));
        for line in input.iter().flat_map(|input| input.lines()) {
            shown.push_str(&format!("  | {line}\n"));
        }
    }
    expected.assert_eq(&shown);
}

#[test]
fn the_first_manager_that_runs_is_asked() {
    for (os_id, probed, expected) in [
        ("mswindows", "", Some(System::Windows)),
        ("fedora", "nm\nnetworkd\nip", Some(System::NetworkManager)),
        ("ubuntu", "networkd\nifupdown\nip", Some(System::Networkd)),
        ("debian", "ifupdown\nip", Some(System::Ifupdown)),
        ("", "ip", Some(System::Plain)),
        ("freebsd", "", None),
    ] {
        assert_eq!(system(os_id, probed), expected, "{os_id}");
    }
}

#[test]
fn network_manager_gets_a_connection_that_is_preferred() {
    check(
        System::NetworkManager,
        "eth0",
        &fixed(),
        &expect![[r#"
        sh -e
          | nmcli connection delete relevo-eth0 >/dev/null 2>&1 || true
        nmcli connection add type ethernet autoconnect yes con-name relevo-eth0 ifname eth0 connection.autoconnect-priority 999 ipv4.method manual ipv4.addresses 10.0.0.5/24,10.0.0.6/24 ipv4.gateway 10.0.0.1 ipv4.routes 0.0.0.0/0 10.0.0.2 1000 ipv4.dns 10.0.0.53 ipv6.method manual ipv6.addresses fd00::5/64 ipv6.gateway fd00::1 ipv6.dns fd00::53
        nmcli connection up relevo-eth0
    "#]],
    );
    check(
        System::NetworkManager,
        "eth0",
        &dhcp(),
        &expect![[r#"
        sh -e
          | nmcli connection delete relevo-eth0 >/dev/null 2>&1 || true
        nmcli connection add type ethernet autoconnect yes con-name relevo-eth0 ifname eth0 connection.autoconnect-priority 999 ipv4.method auto ipv6.method auto
        nmcli connection up relevo-eth0
    "#]],
    );
}

#[test]
fn networkd_gets_a_file_that_comes_first() {
    check(
        System::Networkd,
        "ens3",
        &fixed(),
        &expect![[r#"
        sh -c mkdir -p /etc/systemd/network && cat > /etc/systemd/network/05-relevo-ens3.network && chmod 644 /etc/systemd/network/05-relevo-ens3.network
          | [Match]
          | MACAddress=52:54:00:12:34:56
          | 
          | [Network]
          | DHCP=no
          | Address=10.0.0.5/24
          | Address=10.0.0.6/24
          | Address=fd00::5/64
          | Gateway=10.0.0.1
          | Gateway=10.0.0.2
          | Gateway=fd00::1
          | DNS=10.0.0.53
          | DNS=fd00::53
        networkctl reload
        networkctl reconfigure ens3
    "#]],
    );
    check(
        System::Networkd,
        "ens3",
        &dhcp(),
        &expect![[r#"
        sh -c mkdir -p /etc/systemd/network && cat > /etc/systemd/network/05-relevo-ens3.network && chmod 644 /etc/systemd/network/05-relevo-ens3.network
          | [Match]
          | MACAddress=52:54:00:12:34:56
          | 
          | [Network]
          | DHCP=ipv4
        networkctl reload
        networkctl reconfigure ens3
    "#]],
    );
}

#[test]
fn ifupdown_gets_a_file_in_place_of_the_interfaces_own_paragraphs() {
    check(
        System::Ifupdown,
        "eth0",
        &fixed(),
        &expect![[r##"
        sh -e
          | ifdown --force eth0 || true
          | cd /etc/network
          | [ -f interfaces.before-relevo ] || cp interfaces interfaces.before-relevo
          | awk -v i=eth0 '
          | /^[ \t]*(auto|allow-[a-z]+|iface|mapping|source|source-directory)[ \t]/ { own = ($2 == i && $1 !~ /^source/) }
          | { print (own && NF ? "# relevo: " : "") $0 }' interfaces.before-relevo > interfaces.new
          | grep -q '^source.*interfaces.d/relevo-\*' interfaces.new || echo 'source /etc/network/interfaces.d/relevo-*' >> interfaces.new
          | mv interfaces.new interfaces
          | mkdir -p interfaces.d
          | cat > interfaces.d/relevo-eth0 <<'END'
          | auto eth0
          | iface eth0 inet static
          |     address 10.0.0.5/24
          |     up ip route replace default via 10.0.0.1 dev eth0 metric 0
          |     up ip route replace default via 10.0.0.2 dev eth0 metric 1
          |     dns-nameservers 10.0.0.53
          | iface eth0 inet static
          |     address 10.0.0.6/24
          | iface eth0 inet6 static
          |     address fd00::5/64
          |     up ip -6 route replace default via fd00::1 dev eth0 metric 0
          |     dns-nameservers fd00::53
          | END
          | ifup eth0
    "##]],
    );
    check(
        System::Ifupdown,
        "eth0",
        &dhcp(),
        &expect![[r##"
        sh -e
          | ifdown --force eth0 || true
          | cd /etc/network
          | [ -f interfaces.before-relevo ] || cp interfaces interfaces.before-relevo
          | awk -v i=eth0 '
          | /^[ \t]*(auto|allow-[a-z]+|iface|mapping|source|source-directory)[ \t]/ { own = ($2 == i && $1 !~ /^source/) }
          | { print (own && NF ? "# relevo: " : "") $0 }' interfaces.before-relevo > interfaces.new
          | grep -q '^source.*interfaces.d/relevo-\*' interfaces.new || echo 'source /etc/network/interfaces.d/relevo-*' >> interfaces.new
          | mv interfaces.new interfaces
          | mkdir -p interfaces.d
          | cat > interfaces.d/relevo-eth0 <<'END'
          | auto eth0
          | iface eth0 inet dhcp
          | END
          | ifup eth0
    "##]],
    );
}

#[test]
fn a_guest_without_a_manager_is_set_by_ip() {
    check(
        System::Plain,
        "eth0",
        &fixed(),
        &expect![[r#"
        ip link set dev eth0 up
        ip address flush dev eth0 scope global
        ip address add 10.0.0.5/24 dev eth0
        ip address add 10.0.0.6/24 dev eth0
        ip address add fd00::5/64 dev eth0
        ip -4 route replace default via 10.0.0.1 dev eth0 metric 1
        ip -4 route replace default via 10.0.0.2 dev eth0 metric 2
        ip -6 route replace default via fd00::1 dev eth0 metric 3
        sh -c mkdir -p /etc && cat > /etc/resolv.conf
          | nameserver 10.0.0.53
          | nameserver fd00::53
    "#]],
    );
    check(
        System::Plain,
        "eth0",
        &dhcp(),
        &expect![[r#"
        ip link set dev eth0 up
        ip address flush dev eth0 scope global
        sh -e
          | if command -v udhcpc >/dev/null; then udhcpc -n -q -i eth0; else dhclient -1 eth0; fi
    "#]],
    );
}

#[test]
fn windows_is_set_by_powershell() {
    check(
        System::Windows,
        "Ethernet",
        &fixed(),
        &expect![[r#"
        powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -Command -
          | $ErrorActionPreference = 'Stop'
          | $i = (Get-NetAdapter | Where-Object MacAddress -eq '52-54-00-12-34-56').ifIndex
          | if (-not $i) { throw 'no adapter 52-54-00-12-34-56' }
          | Get-NetIPAddress -InterfaceIndex $i -AddressFamily IPv4 -ErrorAction SilentlyContinue | Where-Object PrefixOrigin -eq 'Manual' | Remove-NetIPAddress -Confirm:$false
          | Get-NetRoute -InterfaceIndex $i -DestinationPrefix '0.0.0.0/0' -ErrorAction SilentlyContinue | Remove-NetRoute -Confirm:$false
          | Get-NetIPAddress -InterfaceIndex $i -AddressFamily IPv6 -ErrorAction SilentlyContinue | Where-Object PrefixOrigin -eq 'Manual' | Remove-NetIPAddress -Confirm:$false
          | Get-NetRoute -InterfaceIndex $i -DestinationPrefix '::/0' -ErrorAction SilentlyContinue | Remove-NetRoute -Confirm:$false
          | Set-NetIPInterface -InterfaceIndex $i -AddressFamily IPv4 -Dhcp Disabled
          | New-NetIPAddress -InterfaceIndex $i -IPAddress '10.0.0.5' -PrefixLength 24 | Out-Null
          | New-NetIPAddress -InterfaceIndex $i -IPAddress '10.0.0.6' -PrefixLength 24 | Out-Null
          | New-NetIPAddress -InterfaceIndex $i -IPAddress 'fd00::5' -PrefixLength 64 | Out-Null
          | New-NetRoute -InterfaceIndex $i -DestinationPrefix '0.0.0.0/0' -NextHop '10.0.0.1' -RouteMetric 1 | Out-Null
          | New-NetRoute -InterfaceIndex $i -DestinationPrefix '0.0.0.0/0' -NextHop '10.0.0.2' -RouteMetric 2 | Out-Null
          | New-NetRoute -InterfaceIndex $i -DestinationPrefix '::/0' -NextHop 'fd00::1' -RouteMetric 3 | Out-Null
          | Set-DnsClientServerAddress -InterfaceIndex $i -ServerAddresses @('10.0.0.53','fd00::53')
    "#]],
    );
    check(
        System::Windows,
        "Ethernet",
        &dhcp(),
        &expect![[r#"
        powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -Command -
          | $ErrorActionPreference = 'Stop'
          | $i = (Get-NetAdapter | Where-Object MacAddress -eq '52-54-00-12-34-56').ifIndex
          | if (-not $i) { throw 'no adapter 52-54-00-12-34-56' }
          | Get-NetIPAddress -InterfaceIndex $i -AddressFamily IPv4 -ErrorAction SilentlyContinue | Where-Object PrefixOrigin -eq 'Manual' | Remove-NetIPAddress -Confirm:$false
          | Get-NetRoute -InterfaceIndex $i -DestinationPrefix '0.0.0.0/0' -ErrorAction SilentlyContinue | Remove-NetRoute -Confirm:$false
          | Set-NetIPInterface -InterfaceIndex $i -AddressFamily IPv4 -Dhcp Enabled
    "#]],
    );
}

/// The interfaces file of a Debian guest, as the script for ifupdown leaves it: run here with everything else than
/// files left out.
#[test]
fn only_the_interfaces_own_paragraphs_are_commented_out_however_often_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let before = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\nauto eth0\n\
                  iface eth0 inet static\n    address 192.0.2.9/24\n    gateway 192.0.2.1\n\nauto eth1\niface eth1 inet dhcp\n";
    std::fs::write(folder.path().join("interfaces"), before).unwrap();
    let [Run { input: Some(script), .. }] = &commands(System::Ifupdown, "eth0", MAC, &dhcp())[..] else {
        panic!()
    };
    let script = script.replace("/etc/network", path).replace("ifdown", "true").replace("ifup ", "true ");
    for _ in 0..2 {
        let status = std::process::Command::new("sh").args(["-e", "-c", &script]).status().unwrap();
        assert!(status.success());
        let after = std::fs::read_to_string(folder.path().join("interfaces")).unwrap();
        let after = after.replace(path, "/etc/network");
        expect![[r#"
            source /etc/network/interfaces.d/*

            auto lo
            iface lo inet loopback

            # relevo: auto eth0
            # relevo: iface eth0 inet static
            # relevo:     address 192.0.2.9/24
            # relevo:     gateway 192.0.2.1

            auto eth1
            iface eth1 inet dhcp
            source /etc/network/interfaces.d/relevo-*
        "#]]
        .assert_eq(&after);
        assert!(
            std::fs::read_to_string(folder.path().join("interfaces.d/relevo-eth0")).unwrap().contains("dhcp")
        );
    }
}
