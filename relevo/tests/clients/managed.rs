//! Two hosts with open management listeners and one user, and the examples run against them.

use crate::support;
use anyhow::{Context, Result, ensure};
use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};
use testkit::{
    clients, free_port,
    pair::{Host, Pair},
};

pub const USER: &str = "anna";
pub const PASSWORD: &str = "correct-horse";

/// Where one host's listeners are.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub cimxml: u16,
    pub wsman: u16,
}

/// Makes hosts a and b with their listeners and their user; neither runs.
pub fn prepare() -> Result<(Pair, [Ports; 2])> {
    let pair = Pair::prepare(support::binary())?;
    let certificate = pair.root.join("localhost.pem");
    pair.a.run(&["cert", "issue", "localhost", "--out", &certificate.to_string_lossy()])?;
    let open = |host: &Host, other: &Host| -> Result<Ports> {
        let ports = Ports { cimxml: free_port()?, wsman: free_port()? };
        let management = format!(
            "management = {{ cimxml = [\"127.0.0.1:{}\"], wsman = [\"127.0.0.1:{}\"], \
             certificate = \"{certificate}\", key = \"{certificate}\" }}",
            ports.cimxml,
            ports.wsman,
            certificate = certificate.display(),
        );
        host.configure(other, &management)?;
        add_user(host)?;
        Ok(ports)
    };
    let ports = [open(&pair.a, &pair.b)?, open(&pair.b, &pair.a)?];
    Ok((pair, ports))
}

/// The password is read from standard input.
fn add_user(host: &Host) -> Result<()> {
    let mut command = Command::new(support::binary());
    command.arg("--root").arg(&host.root).args(["user", "add", USER, "--role", "administrator"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    writeln!(child.stdin.take().context("no input")?, "{PASSWORD}")?;
    ensure!(child.wait()?.success(), "the user is refused");
    Ok(())
}

/// PEM: who vouches for the listeners' certificates.
pub fn authority(pair: &Pair) -> PathBuf {
    pair.a.root.join("etc/certs/ca.pem")
}

/// Runs an example; what it printed.
pub fn example(pair: &Pair, protocol: &str, name: &str, args: &[&str]) -> Result<String> {
    let mut python = clients::python_program("python")?;
    python.arg(clients::examples().join(format!("{name}.py")));
    python.args(["--protocol", protocol, "--user", USER, "--ca"]).arg(authority(pair)).args(args);
    println!("$ {name} {}", args.join(" "));
    let said = clients::said(python.env("RELEVO_PASSWORD", PASSWORD))?;
    let said = said.map_err(anyhow::Error::msg).with_context(|| format!("{name} {}", args.join(" ")))?;
    print!("{said}");
    Ok(said)
}
