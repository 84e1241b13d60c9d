//! The crate graph, and the walls that hold it: which room may depend on what. A wall is loosened here, in
//! the open, or not at all. Development dependencies are free: a test may look behind a wall.

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;

/// Room, and the rooms of ours that it may depend on.
const ROOMS: &[(&str, &[&str])] = &[
    ("cim", &[]),
    ("kerberos", &[]),
    ("model", &[]),
    ("engine", &["model"]),
    ("catalog", &["model"]),
    ("hypervisor", &["model"]),
    ("transport", &["kerberos", "model"]),
    ("layers", &["catalog", "model"]),
    ("capture", &["hypervisor", "model"]),
    ("service", &["capture", "catalog", "engine", "hypervisor", "layers", "model", "transport"]),
    ("wsman", &["cim"]),
    ("cimxml", &["cim"]),
    ("front", &["cim", "kerberos", "model"]),
    ("hvr", &["cim", "model", "service"]),
    ("fuzz", &["cim", "cimxml", "wsman"]),
    ("relevo", &["cim", "cimxml", "front", "hvr", "model", "service", "wsman"]),
    ("testkit", &[]),
    ("xtask", &[]),
];

/// What comes from outside, and the only rooms that may know it.
const OUTSIDE: &[(&[&str], &[&str])] = &[
    (&["rusqlite"], &["catalog"]),
    (&["virt", "virt-sys", "xmltree"], &["hypervisor"]),
    (&["imago"], &["capture", "layers"]),
    (&["axum", "reqwest"], &["transport"]),
    (&["hyper", "hyper-util"], &["cimxml", "front", "transport"]),
    (&["http-body-util"], &["cimxml", "front", "fuzz", "transport", "wsman"]),
    (&["rustls", "rustls-pki-types", "tokio-rustls"], &["cimxml", "front", "relevo", "testkit", "transport"]),
    (&["x509-parser"], &["front", "transport"]),
    (&["rcgen"], &["transport"]),
    (&["argon2", "flate2"], &["front"]),
    (&["base64"], &["front", "kerberos", "service", "testkit"]),
    (&["jiff"], &["service"]),
    (&["libfuzzer-sys"], &["fuzz"]),
    (&["libgssapi", "libgssapi-sys"], &["kerberos"]),
    (
        &["tokio", "tokio-util"],
        &["cimxml", "front", "fuzz", "hvr", "relevo", "service", "transport", "wsman"],
    ),
    (&["futures"], &["cim", "cimxml", "front", "hvr", "relevo", "service", "transport", "wsman"]),
    (&["roxmltree"], &["cim", "cimxml", "fuzz", "wsman"]),
    (&["clap"], &["relevo", "xtask"]),
    (&["clap_complete", "indicatif"], &["relevo"]),
    (&["anyhow"], &["testkit", "xtask"]),
];

/// Rooms that know nothing from outside but this. `xtask` is built before there is anything but Rust.
const NOTHING_BUT: &[(&str, &[&str])] = &[
    ("cim", &["futures", "roxmltree", "thiserror"]),
    ("engine", &["serde", "serde_json", "thiserror", "uuid"]),
    ("kerberos", &["base64", "libgssapi", "libgssapi-sys", "thiserror"]),
    ("model", &["blake3", "serde", "thiserror", "uuid"]),
    ("wsman", &["bytes", "cim", "futures", "http", "http-body-util", "roxmltree", "tokio", "uuid"]),
    ("xtask", &["anyhow", "clap", "serde_json", "toml"]),
];

/// What a room's own code must not name. Its tests may.
const UNSPOKEN: &[(&str, &[&str])] = &[
    ("engine", &["std::fs", "std::net", "std::thread", "std::process", "std::env", "SystemTime", "Instant"]),
    ("model", &["std::net", "std::thread", "std::process", "std::env", "SystemTime", "Instant"]),
    ("layers", &["std::net", "std::os::unix::net"]),
    ("capture", &["std::net", "std::os::unix::net"]),
    ("hvr", &["catalog", "hypervisor", "transport"]),
    ("catalog", &["std::net", "std::os::unix::net", "std::process"]),
];

/// A workspace member and what it depends on, development apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub dependencies: Vec<String>,
}

/// Reads the members from what `cargo metadata --no-deps` prints.
pub fn members(metadata: &str) -> Result<Vec<Member>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is not JSON")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let member = |package: &Value| {
        let dependencies = package["dependencies"].as_array()?.iter();
        let dependencies = dependencies.filter(|dependency| dependency["kind"] != "dev");
        let dependencies = dependencies.map(|dependency| text(&dependency["name"])).collect::<Option<_>>()?;
        Some(Member { name: text(&package["name"])?, dependencies })
    };
    packages.iter().map(member).collect::<Option<_>>().context("cargo metadata lacks names")
}

/// Walls that the crate graph breaks.
pub fn check_graph(members: &[Member]) -> Vec<String> {
    let mut problems = vec![];
    for Member { name, dependencies } in members {
        let Some((_, rooms)) = ROOMS.iter().find(|(room, _)| room == name) else {
            problems.push(format!("{name}: no walls are stated for it in xtask/src/tidy/walls.rs"));
            continue;
        };
        for dependency in dependencies {
            let dependency = dependency.as_str();
            if ROOMS.iter().any(|(room, _)| *room == dependency) {
                if !rooms.contains(&dependency) {
                    problems.push(format!("{name}: must not know {dependency}"));
                }
                continue;
            }
            let owners = OUTSIDE.iter().find(|(crates, _)| crates.contains(&dependency));
            if let Some((_, owners)) = owners.filter(|(_, owners)| !owners.contains(&name.as_str())) {
                problems.push(format!("{name}: {dependency} is for {} only", owners.join(" and ")));
            }
            let bounds = NOTHING_BUT.iter().find(|(room, _)| room == name);
            if let Some((_, allowed)) = bounds.filter(|(_, allowed)| !allowed.contains(&dependency)) {
                problems.push(format!("{name}: {dependency}; it knows nothing but {}", allowed.join(", ")));
            }
        }
    }
    problems
}

/// Names in a source file that its room must not speak.
pub fn check_names(path: &Path, code: &str) -> Vec<String> {
    let room = path.iter().next().unwrap_or_default();
    let names = UNSPOKEN.iter().find(|(other, _)| *other == room).map_or(&[][..], |(_, names)| names);
    let spoken = names.iter().filter(|name| code.lines().any(|line| super::has_word(line, name)));
    spoken.map(|name| format!("{}: {} must not know {name}", path.display(), room.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(name: &str, dependencies: &[&str]) -> Vec<String> {
        let dependencies = dependencies.iter().map(|name| (*name).to_owned()).collect();
        check_graph(&[Member { name: name.to_owned(), dependencies }])
    }

    #[test]
    fn each_kind_of_wall_holds() {
        assert_eq!(broken("engine", &["model", "serde"]), [""; 0]);
        assert_eq!(broken("engine", &["tokio"]).len(), 2);
        assert_eq!(broken("layers", &["hypervisor"]), ["layers: must not know hypervisor"]);
        assert_eq!(broken("relevo", &["rusqlite"]), ["relevo: rusqlite is for catalog only"]);
        assert_eq!(broken("xtask", &["model"]), ["xtask: must not know model"]);
        assert!(broken("new", &[])[0].contains("no walls"));
    }

    #[test]
    fn development_dependencies_are_free() {
        let metadata = r#"{"packages": [{"name": "capture", "dependencies": [
            {"name": "model", "kind": null}, {"name": "transport", "kind": "dev"}, {"name": "x", "kind": "build"}]}]}"#;
        let dependencies = vec!["model".to_owned(), "x".to_owned()];
        assert_eq!(members(metadata).unwrap(), [Member { name: "capture".into(), dependencies }]);
        assert!(members("{}").is_err());
    }

    #[test]
    fn the_engine_names_no_clock() {
        let code = "use std::{fs, time::Instant};\nlet instantly = 1;";
        assert_eq!(check_names(Path::new("engine/src/x.rs"), code).len(), 1);
        assert_eq!(check_names(Path::new("service/src/x.rs"), code).len(), 0);
        assert_eq!(check_names(Path::new("engine/src/x.rs"), "let instantly = 1;").len(), 0);
    }
}
