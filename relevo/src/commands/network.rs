//! `failover-network`: the addresses that a guest gets after a failover.

use clap::{ArgGroup, Args};
use service::api::{AdapterAddresses, Command, ErrorKind, Failure};

/// Set the addresses that an adapter gets in the guest after a failover to this host, or its network in tests
///
/// Once the VM runs after a failover, its guest agent is asked to set them: through NetworkManager, systemd-networkd,
/// ifupdown, `ip` or, in Windows, PowerShell. Each host has its own; `relevo vm show` shows them.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["adapter", "apply"])))]
#[command(after_help = "Run it on the host that shall take over.\n\n\
                        Example:\n  relevo failover-network web --adapter 52:54:00:12:34:56 \
                        --address 10.1.0.5/24 --gateway 10.1.0.1 --dns 10.1.0.53")]
pub struct NetworkArgs {
    /// The VM's name or UUID
    vm: String,
    /// The adapter's MAC address
    #[arg(long, value_name = "MAC")]
    adapter: Option<String>,
    /// An IPv4 or IPv6 address with its prefix length; may be repeated
    #[arg(long, value_name = "ADDRESS/PREFIX", requires = "adapter")]
    address: Vec<String>,
    /// A default gateway; at most five, the first counts most
    #[arg(long, value_name = "ADDRESS", requires = "adapter")]
    gateway: Vec<String>,
    /// A name server
    #[arg(long, value_name = "ADDRESS", requires = "adapter")]
    dns: Vec<String>,
    /// IPv4 by DHCP
    #[arg(long, requires = "adapter")]
    dhcp: bool,
    /// Leave this adapter alone from now on
    #[arg(long, requires = "adapter", conflicts_with_all = ["address", "gateway", "dns", "dhcp"])]
    clear: bool,
    /// In test failovers here, plug it into this libvirt network, whatever the configuration says
    #[arg(long, value_name = "NETWORK", requires = "adapter",
          conflicts_with_all = ["address", "gateway", "dns", "dhcp", "clear"])]
    test_network: Option<String>,
    /// In test failovers here, plug it in as the configuration says: nowhere, unless told
    #[arg(long, requires = "adapter",
          conflicts_with_all = ["address", "gateway", "dns", "dhcp", "clear", "test_network"])]
    no_test_network: bool,
    /// Apply what is set to the VM that runs here, now
    #[arg(long, conflicts_with = "adapter")]
    apply: bool,
}

impl NetworkArgs {
    pub fn command(self) -> Result<Command, Failure> {
        let Some(mac) = self.adapter else { return Ok(Command::ApplyFailoverAddresses { vm: self.vm }) };
        if self.test_network.is_some() || self.no_test_network {
            let adapters = [(mac, self.test_network)].into();
            return Ok(Command::SetTestNetworks { vm: self.vm, adapters });
        }
        if !self.clear && !self.dhcp && self.address.is_empty() {
            let message = "nothing is set for the adapter: give --address or --dhcp, or --clear";
            return Err(Failure::new(ErrorKind::InvalidParameter, "usage", message));
        }
        let mut set = AdapterAddresses {
            mac,
            dhcp: self.dhcp,
            gateways: self.gateway,
            dns: self.dns,
            ..Default::default()
        };
        for text in self.address {
            let (address, subnet) = text.split_once('/').ok_or_else(|| {
                let message = format!("`{text}` has no prefix length: write it as 10.1.0.5/24");
                Failure::new(ErrorKind::InvalidParameter, "usage", message)
            })?;
            set.addresses.push(address.to_owned());
            set.subnets.push(subnet.to_owned());
        }
        Ok(Command::SetFailoverAddresses { vm: self.vm, adapters: vec![set] })
    }
}
