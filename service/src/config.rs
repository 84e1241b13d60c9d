//! The configuration of one host: one struct, unknown keys refused, units in the values. Documented key by
//! key in dist/relevo.toml.

use crate::api::{ErrorKind, Failure};
use model::{Bandwidth, HostName};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Where hosts listen for each other unless their configurations say otherwise.
pub const PORT: u16 = 9443;
/// The same under Kerberos.
pub const KERBEROS_PORT: u16 = 9080;
/// What the principals of hosts begin with, unless their configurations say otherwise.
pub const SERVICE: &str = "relevo";

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
    /// How long a guest agent may take to freeze the guest's file systems.
    pub freeze_timeout_s: u32,
    /// All of this host's sending together: `200MiB/s`, or a list with windows of time in it.
    #[serde(deserialize_with = "bandwidth")]
    pub bandwidth: Bandwidth,
    pub transfers: TransfersConfig,
    pub spool: SpoolConfig,
    pub test_failover: TestFailoverConfig,
    pub monitoring: MonitoringConfig,
    pub management: ManagementConfig,
    pub kerberos: KerberosConfig,
    /// Networks of other hosts' VMs (left) and what they are called here (right).
    pub networks: BTreeMap<String, String>,
    /// Processor models of other hosts' VMs (left) and what they get here (right).
    pub cpu_models: BTreeMap<String, String>,
    /// `http://[user:password@]host:port`; the environment's HTTPS_PROXY when absent.
    pub proxy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// `10.0.0.2`, `10.0.0.2:9443`, `[::1]:9443`.
    pub address: Option<String>,
    /// The same under Kerberos: `10.0.0.2:9080`.
    pub kerberos_address: Option<String>,
    /// Its principal, where it is not our service's at that host: `hvr/b.example@OTHER.REALM`.
    pub principal: Option<String>,
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

/// How many deltas may be on their way at once; the others wait their turn. One of each is kept for cycles, so that
/// first copies and comparisons, which may take hours, never hold all.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransfersConfig {
    #[serde(deserialize_with = "at_least_two")]
    pub sending_max: u32,
    #[serde(deserialize_with = "at_least_two")]
    pub receiving_max: u32,
}

impl Default for TransfersConfig {
    fn default() -> Self {
        Self { sending_max: 4, receiving_max: 4 }
    }
}

/// Replication under Kerberos; off without a keytab.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KerberosConfig {
    /// Holds the key of `principal`.
    pub keytab: Option<PathBuf>,
    /// `SERVICE/HOST` or `SERVICE/HOST@REALM`; `relevo/HOST_NAME` in the default realm where absent.
    pub principal: Option<String>,
    pub listen: SocketAddr,
    /// Whose principals may be hosts; the principal's own where empty.
    pub realms: Vec<String>,
}

impl Default for KerberosConfig {
    fn default() -> Self {
        let listen = SocketAddr::from(([0, 0, 0, 0], KERBEROS_PORT));
        Self { keytab: None, principal: None, listen, realms: vec![] }
    }
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
    /// Keys of `HTTP/…` and `WSMAN/…`: clients may log in with tickets, over TLS. Off where absent.
    pub keytab: Option<PathBuf>,
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
    /// Networks in which VMs run (left) and into which their test VMs go (right); cards in others are unplugged.
    pub networks: BTreeMap<String, String>,
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
            freeze_timeout_s: 10,
            bandwidth: Bandwidth::default(),
            transfers: TransfersConfig::default(),
            spool: SpoolConfig::default(),
            test_failover: TestFailoverConfig::default(),
            monitoring: MonitoringConfig::default(),
            management: ManagementConfig::default(),
            kerberos: KerberosConfig::default(),
            networks: BTreeMap::new(),
            cpu_models: BTreeMap::new(),
            proxy: None,
        }
    }
}

/// Over which time health and statistics are reckoned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitoringConfig {
    /// 3600 to 604 800.
    pub interval_s: u32,
    /// When of the day intervals begin, in seconds, UTC.
    pub start_s: u32,
}

impl Default for MonitoringConfig {
    fn default() -> Self {
        Self { interval_s: 43_200, start_s: 9 * 3600 }
    }
}

impl MonitoringConfig {
    /// The last instant until now at which an interval began.
    pub fn boundary_ms(&self, now_ms: i64) -> i64 {
        let (every_ms, start_ms) = (i64::from(self.interval_s.max(1)) * 1000, i64::from(self.start_s) * 1000);
        (now_ms - start_ms).div_euclid(every_ms) * every_ms + start_ms
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
    size(String::deserialize(from)?.trim_end_matches("/s"))
}

fn size<E: serde::de::Error>(text: &str) -> Result<u64, E> {
    parse_bytes(text)
        .ok_or_else(|| E::custom(format!("`{text}` is not a size: write it with its unit, such as 64GiB")))
}

/// `20MiB/s` is the limit outside of windows such as `08:00-18:00 = 5MiB/s`.
fn bandwidth<'de, D: Deserializer<'de>>(from: D) -> Result<Bandwidth, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Texts::deserialize(from)? {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    let mut bandwidth = Bandwidth::default();
    for text in texts {
        if text.contains('=') {
            bandwidth.windows.push(text.parse().map_err(D::Error::custom)?);
            continue;
        }
        let rate = size(text.trim_end_matches("/s"))?;
        if bandwidth.otherwise_bytes_per_s.replace(rate).is_some() {
            return Err(D::Error::custom("a bandwidth has one limit outside of its windows, not several"));
        }
    }
    Ok(bandwidth)
}

fn at_least_two<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    const MAX: u32 = 1024;
    let count = u32::deserialize(from)?;
    if (2..=MAX).contains(&count) {
        return Ok(count);
    }
    Err(D::Error::custom(format!("{count} is out of range: allowed are 2 (one is kept for cycles) to {MAX}")))
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
        assert!(failure("bandwidth = [\"8-18 = 1MB/s\"]").contains("by the time of the day"));
        assert!(failure("bandwidth = [\"1MB/s\", \"2MB/s\"]").contains("not several"));
        assert!(failure("[transfers]\nsending_max = 1").contains("one is kept for cycles"));
        assert!(failure("host_name = \"10.0.0.1\"").contains("is not a host name"));
    }

    #[test]
    fn a_bandwidth_is_a_rate_or_a_list_with_windows() {
        let read = |text: &str| toml::from_str::<Config>(text).unwrap().bandwidth;
        assert_eq!(read("").otherwise_bytes_per_s, None);
        assert_eq!(read("bandwidth = \"200MiB/s\"").otherwise_bytes_per_s, Some(200 << 20));
        let bandwidth = read("bandwidth = [\"mon-fri 08:00-18:00 = 20MiB/s\", \"100MiB/s\"]");
        let at = |day, minute| bandwidth.at(model::WallTime { day, minute });
        assert_eq!((at(0, 480), at(0, 479), at(5, 480)), (Some(20 << 20), Some(100 << 20), Some(100 << 20)));
    }

    #[test]
    fn an_absent_file_means_the_defaults() {
        let config = load(Path::new("/nonexistent/relevo.toml")).unwrap();
        assert_eq!(config.replication.port(), 9443);
    }

    #[test]
    fn monitoring_intervals_begin_at_nine_and_follow_each_other() {
        const HOUR_MS: i64 = 3_600_000;
        let config = MonitoringConfig::default();
        for (now_h, begin_h) in [(33, 33), (34, 33), (44, 33), (45, 45), (56, 45), (57, 57), (8, -3)] {
            assert_eq!(config.boundary_ms(now_h * HOUR_MS), begin_h * HOUR_MS, "{now_h}");
        }
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
