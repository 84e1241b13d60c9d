//! The management clients that others wrote: what `cargo xtask setup` installed, run unmodified.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

/// A client that is not there.
#[derive(Debug, thiserror::Error)]
#[error("the client {name} is not in {place}: run `cargo xtask setup`")]
pub struct NoClient {
    name: String,
    place: String,
}

/// Where requests and curl would look for authorities instead of where they are told to.
const AUTHORITIES: [&str; 3] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];

/// A program of the Python environment in `target/clients`: `python`, `pywbemcli`.
pub fn python_program(name: &str) -> Result<Command, NoClient> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a room in a repository");
    let place = dir.join("target/clients");
    // Without the key its building was not finished.
    let (path, key) = (place.join("bin").join(name), place.join("key"));
    if !path.exists() || !key.exists() {
        return Err(NoClient { name: name.to_owned(), place: place.display().to_string() });
    }
    Ok(command(&path))
}

/// A program that Debian packs: `wbemcli`, `wslenum`.
pub fn debian_program(name: &str) -> Result<Command, NoClient> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.exists());
    match found {
        Some(path) => Ok(command(&path)),
        None => Err(NoClient { name: name.to_owned(), place: "PATH".to_owned() }),
    }
}

fn command(path: &Path) -> Command {
    let mut command = Command::new(path);
    AUTHORITIES.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a client to its end. What it printed, or what it said when it failed.
pub fn said(command: &mut Command) -> io::Result<Result<String, String>> {
    let output = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout);
    Ok(if output.status.success() { Ok(printed) } else { Err(printed + &text(&output.stderr)) })
}

/// The repository's folder of example clients.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a room in a repository").join("examples")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_missing_is_named_with_the_way_to_get_it() {
        for missing in [debian_program("no-such-client"), python_program("no-such-client")] {
            let said = missing.unwrap_err().to_string();
            assert!(said.contains("no-such-client") && said.contains("cargo xtask setup"), "{said}");
        }
    }
}
