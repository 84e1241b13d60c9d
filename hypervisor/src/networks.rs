//! libvirt's virtual networks.

use crate::{Error, Hypervisor, Result, error};
use virt::{error::ErrorNumber, network::Network};

/// A network as libvirt knows it, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Lower case, with dashes.
    pub uuid: String,
    pub name: String,
    pub active: bool,
}

impl Hypervisor {
    /// All networks, by name. None where this libvirt has no driver for them, as an embedded one has not.
    pub fn networks(&self) -> Result<Vec<NetworkInfo>> {
        let listed = match self.connection().list_all_networks(0) {
            Ok(listed) => listed,
            Err(error) if error::is(&error, ErrorNumber::NoSupport) => return Ok(vec![]),
            Err(source) => return Err(Error::Networks { source }),
        };
        let info = |network: &Network| {
            Ok(NetworkInfo {
                uuid: network.uuid_string()?,
                name: network.name()?,
                active: network.is_active()?,
            })
        };
        let infos: std::result::Result<Vec<_>, _> = listed.iter().map(info).collect();
        let mut infos = infos.map_err(|source| Error::Networks { source })?;
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libvirt's own driver for tests has one network.
    #[test]
    fn networks_are_listed() {
        let libvirt = Hypervisor::connect("test:///default").unwrap();
        let networks = libvirt.networks().unwrap();
        assert_eq!(networks.len(), 1, "{networks:?}");
        assert_eq!((networks[0].name.as_str(), networks[0].active), ("default", true));
        assert_eq!(networks[0].uuid.len(), 36);
    }
}
