//! Figures, kept raw as JSON, and the table made of them.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";
const TABLE_HEAD: &str =
    "| figure | runs | measured | beside | ratio | target | |\n|---|---|---|---|---|---|---|\n";

/// One line of the table: a subject's runs, and those of what it is compared with.
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub subject: Vec<f64>,
    /// What ran in turn with the subject, and its runs.
    pub peer: Option<(String, Vec<f64>)>,
    /// At most this: of the ratio where there is a peer, otherwise of the figure itself.
    pub target: Option<f64>,
}

impl Figure {
    /// A figure that stands alone.
    pub fn alone(
        what: impl Into<String>,
        unit: &'static str,
        subject: Vec<f64>,
        target: Option<f64>,
    ) -> Self {
        Self { what: what.into(), unit, subject, peer: None, target }
    }

    pub fn beside(
        what: impl Into<String>,
        unit: &'static str,
        subject: Vec<f64>,
        peer: (&str, Vec<f64>),
        target: f64,
    ) -> Self {
        let peer = Some((peer.0.to_owned(), peer.1));
        Self { what: what.into(), unit, subject, peer, target: Some(target) }
    }

    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "subject": self.subject,
            "peer_name": self.peer.as_ref().map(|(name, _)| name),
            "peer": self.peer.as_ref().map(|(_, runs)| runs),
            "target": self.target,
        })
    }
}

/// Of an even number the upper of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub struct Report {
    folder: PathBuf,
    page: PathBuf,
    machine: String,
}

impl Report {
    pub fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a room in a repository")?;
        let folder = root.join("docs/figures");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, page: root.join("docs/performance.md"), machine: machine() })
    }

    /// Keeps a benchmark's figures, in place of its earlier ones, and shows them.
    pub fn keep(&self, name: &str, figures: &[Figure]) -> Result<()> {
        let figures: Vec<Value> = figures.iter().map(Figure::to_json).collect();
        for figure in &figures {
            println!("  {}", row(figure));
        }
        let kept = json!({ "machine": self.machine, "commit": said("git", &["describe", "--always", "--dirty"]), "figures": figures });
        fs::write(self.path(name), serde_json::to_vec_pretty(&kept)?)?;
        Ok(())
    }

    /// Puts all kept figures of these benchmarks between the page's markers, wherever they were measured.
    pub fn write_table(&self, names: &[&str]) -> Result<()> {
        let page = fs::read_to_string(&self.page).with_context(|| self.page.display().to_string())?;
        let (before, rest) = page.split_once(BEGIN).context("docs/performance.md has no begin marker")?;
        let (_, after) = rest.split_once(END).context("docs/performance.md has no end marker")?;
        // Each table tells of one machine.
        let mut tables: Vec<(String, String)> = vec![];
        for name in names {
            let Ok(bytes) = fs::read(self.path(name)) else { continue };
            let kept: Value = serde_json::from_slice(&bytes)?;
            let machine = kept["machine"].as_str().unwrap_or("unknown");
            let at = tables.iter().position(|(of, _)| of == machine).unwrap_or_else(|| {
                tables.push((machine.to_owned(), TABLE_HEAD.to_owned()));
                tables.len() - 1
            });
            for figure in kept["figures"].as_array().into_iter().flatten() {
                writeln!(tables[at].1, "{}", row(figure))?;
            }
        }
        let tables: Vec<_> =
            tables.into_iter().map(|(machine, table)| format!("{machine}\n\n{table}")).collect();
        fs::write(&self.page, format!("{before}{BEGIN}\n\n{}\n{END}{after}", tables.join("\n")))?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

fn row(figure: &Value) -> String {
    let runs = |key: &str| -> Option<Vec<f64>> {
        Some(figure[key].as_array()?.iter().filter_map(Value::as_f64).collect())
    };
    let text = |key: &str| figure[key].as_str().unwrap_or_default();
    let subject = runs("subject").unwrap_or_default();
    let measured = format!("{} {}", short(median(subject.clone())), text("unit"));
    let (count, target) = (subject.len(), figure["target"].as_f64());
    let (beside, ratio, held) = match runs("peer") {
        Some(peer) => {
            let beside = format!("{}: {} {}", text("peer_name"), short(median(peer.clone())), text("unit"));
            let ratio = median(subject.iter().zip(&peer).map(|(subject, peer)| subject / peer).collect());
            (beside, format!("{ratio:.2}"), target.map(|target| ratio <= target))
        }
        None => (String::new(), String::new(), target.map(|target| median(subject) <= target)),
    };
    let verdict = held.map_or("", |held| if held { "held" } else { "**missed**" });
    let target = target.map(|target| format!("≤ {}", short(target))).unwrap_or_default();
    format!("| {} | {count} | {measured} | {beside} | {ratio} | {target} | {verdict} |", text("what"))
}

fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 || value.fract() == 0.0 { 0 } else { 2 };
    format!("{value:.digits$}")
}

/// Bytes that a process has read from files so far.
pub fn rchar(pid: u32) -> Result<f64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).context("no rchar")?;
    Ok(line.parse()?)
}

/// What the figures were measured on.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = said("uname", &["-r"]);
    let qemu = said("qemu-system-x86_64", &["--version"]);
    let qemu = qemu.split(' ').nth(3).unwrap_or("unknown");
    let libvirt = said("virsh", &["--version"]);
    format!("{cores} cores of {model}, Linux {kernel}, QEMU {qemu} (software emulation), libvirt {libvirt}.")
}

/// The first line that a command prints.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
