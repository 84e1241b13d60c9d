//! The configuration of one host: one struct, unknown keys refused, units in the values. Documented key by
//! key in dist/relevo.toml.

use crate::api::{ErrorKind, Failure};
use model::HostName;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Where hosts listen for each other unless their configurations say otherwise.
pub const PORT: u16 = 9443;

/// `/etc/relevo/relevo.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This host's identity; must be a DNS name of its certificate. The certificate's first when absent.
    pub host_name: Option<HostName>,
    /// Where the replication link listens.
    pub replication: SocketAddr,
    /// libvirt's URI; under `--root` an embedded one of its own.
    pub libvirt: Option<String>,
    /// How other hosts are reached when their name does not say it.
    pub peers: BTreeMap<HostName, PeerConfig>,
    /// A protected VM whose peer does not answer is started this long after the daemon; absent: never by
    /// itself.
    pub autostart_after_s: Option<u64>,
    /// How long a guest may take to shut down in a planned failover.
    pub shutdown_timeout_s: u64,
    /// All of this host's sending together.
    #[serde(deserialize_with = "optional_bytes")]
    pub bandwidth: Option<u64>,
    pub spool: SpoolConfig,
    pub test_failover: TestFailoverConfig,
    pub management: ManagementConfig,
    /// Networks of other hosts' VMs (left) and what they are called here (right).
    pub networks: BTreeMap<String, String>,
    /// `http://[user:password@]host:port`; the environment's HTTPS_PROXY when absent.
    pub proxy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// `10.0.0.2`, `10.0.0.2:9443`, `[::1]:9443`.
    pub address: Option<String>,
    pub bypass_proxy: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Deltas on their way; best a file system of its own.
    pub folder: Option<PathBuf>,
    /// What one VM may hold there.
    #[serde(deserialize_with = "bytes")]
    pub quota: u64,
    /// What a cut must leave free in the spool's file system.
    #[serde(deserialize_with = "bytes")]
    pub keep_free: u64,
}

/// The management listeners; those without addresses are off.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ManagementConfig {
    /// WS-Management over HTTPS: `0.0.0.0:5986`.
    pub wsman: Vec<String>,
    /// The same over plain HTTP, on loopback only: `127.0.0.1:5985`.
    pub wsman_plain: Vec<String>,
    /// CIM-XML over HTTPS: `0.0.0.0:5989`.
    pub cimxml: Vec<String>,
    pub cimxml_plain: Vec<String>,
    /// PEM; the replication's where absent.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// PEM: whose signature makes a name in a client's certificate count.
    pub client_authorities: Option<PathBuf>,
    /// `users.toml` beside the configuration where absent.
    pub users: Option<PathBuf>,
}

impl ManagementConfig {
    pub fn is_on(&self) -> bool {
        [&self.wsman, &self.wsman_plain, &self.cimxml, &self.cimxml_plain].iter().any(|list| !list.is_empty())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestFailoverConfig {
    /// libvirt network of test VMs; unplugged when absent.
    pub network: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host_name: None,
            replication: SocketAddr::from(([0, 0, 0, 0], PORT)),
            libvirt: None,
            peers: BTreeMap::new(),
            autostart_after_s: Some(120),
            shutdown_timeout_s: 120,
            bandwidth: None,
            spool: SpoolConfig::default(),
            test_failover: TestFailoverConfig::default(),
            management: ManagementConfig::default(),
            networks: BTreeMap::new(),
            proxy: None,
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { folder: None, quota: 64 << 30, keep_free: 256 << 20 }
    }
}

/// Where an instance keeps things: the system's folders, or all of it under one `--root`.
#[derive(Clone, Debug)]
pub struct Dirs {
    pub root: Option<PathBuf>,
    pub config: PathBuf,
    pub certs: PathBuf,
    pub state: PathBuf,
    pub socket: PathBuf,
}

impl Dirs {
    pub fn new(root: Option<&Path>) -> Self {
        match root {
            Some(root) => Self {
                root: Some(root.to_owned()),
                config: root.join("etc/relevo.toml"),
                certs: root.join("etc/certs"),
                state: root.join("lib"),
                socket: root.join("run/control.sock"),
            },
            None => Self {
                root: None,
                config: "/etc/relevo/relevo.toml".into(),
                certs: "/etc/relevo/certs".into(),
                state: "/var/lib/relevo".into(),
                socket: "/run/relevo/control.sock".into(),
            },
        }
    }

    pub fn catalog(&self) -> PathBuf {
        self.state.join("catalog.sqlite")
    }
}

/// Reads the configuration; an absent file means the defaults. Errors name file, line and key.
pub fn load(path: &Path) -> Result<Config, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => {
            let message = format!("cannot read configuration {}: {error}", path.display());
            return Err(Failure::new(ErrorKind::Configuration, "configuration-unreadable", message));
        }
    };
    toml::from_str(&text).map_err(|error| {
        let line =
            error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let message = format!("configuration {}, line {line}: {}", path.display(), error.message());
        Failure::new(ErrorKind::Configuration, "configuration-invalid", message)
            .hint("dist/relevo.toml documents every key")
    })
}

/// Sizes are written with their unit: `64GiB`, `500MB`, `1024B`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim() {
        "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "TiB" => 1 << 40,
        _ => return None,
    };
    let bytes = number * unit as f64;
    (0.0..1e18).contains(&bytes).then_some(bytes as u64)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    let text = text.trim_end_matches("/s");
    parse_bytes(text).ok_or_else(|| {
        D::Error::custom(format!("`{text}` is not a size: write it with its unit, such as 64GiB"))
    })
}

fn optional_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    bytes(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relevo.toml");
        std::fs::write(&path, text).unwrap();
        load(&path).unwrap_err().message
    }

    #[test]
    fn a_broken_configuration_names_key_and_line() {
        assert!(
            failure("replication = \"[::]:9443\"\nintervall = 3\n")
                .contains("line 2: unknown field `intervall`")
        );
        assert!(failure("[spool]\nquota = 12\n").contains("line 2"));
        assert!(failure("bandwidth = \"12 parsecs\"").contains("`12 parsecs` is not a size"));
        assert!(failure("host_name = \"10.0.0.1\"").contains("is not a host name"));
    }

    #[test]
    fn an_absent_file_means_the_defaults() {
        let config = load(Path::new("/nonexistent/relevo.toml")).unwrap();
        assert_eq!(config.replication.port(), 9443);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("1.5KiB"), Some(1536));
        assert_eq!(parse_bytes("200 MB"), Some(200_000_000));
        assert_eq!(parse_bytes("200"), None);
    }

    #[test]
    fn the_documented_configuration_is_valid() {
        load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/relevo.toml")).unwrap();
    }
}
