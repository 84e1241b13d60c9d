//! pywbemcli, wbemcli, wsl and python-dracclient against one host: each enumerates, gets, and calls a method that
//! changes nothing.

use crate::{
    managed::{self, PASSWORD, Ports, USER},
    support::{VM, image},
};
use anyhow::{Result, ensure};
use std::{fs, path::Path, process::Command};
use testkit::{GuestSpec, clients, domain_xml, pair::Pair};

const NAMESPACE: &str = "root/virtualization/v2";
const WINDOWS: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2";
/// The host's replication service, as its own name is a key of it.
const SERVICE: &str = "Msvm_ReplicationService.CreationClassName=\"Msvm_ReplicationService\",Name=\"replicasvc\",\
                       SystemCreationClassName=\"Msvm_ComputerSystem\",SystemName=\"a.example\"";

/// Host a with a VM that is off.
pub fn host() -> Result<(Pair, Ports)> {
    let (mut pair, [ports, _]) = managed::prepare()?;
    pair.a.start()?;
    let disk = pair.root.join("a/disk.qcow2");
    image(&disk, "qcow2", 1 << 20)?;
    let xml = pair.root.join("guest.xml");
    let spec = GuestSpec::new(VM, &[(disk, "qcow2")], &pair.root.join("serial.log"));
    fs::write(&xml, domain_xml(&spec)?)?;
    pair.a.run(&["vm", "define", &xml.to_string_lossy()])?;
    Ok((pair, ports))
}

/// Runs a client; what it says has to hold this.
fn says(command: &mut Command, expected: &str) -> Result<String> {
    let said = clients::said(command)?;
    let said = said.map_err(|said| anyhow::anyhow!("{command:?}: {said}"))?;
    ensure!(said.contains(expected), "{command:?} does not say {expected:?}: {said}");
    Ok(said)
}

fn is_refused(command: &mut Command) -> Result<()> {
    ensure!(clients::said(command)?.is_err(), "{command:?} is not refused");
    Ok(())
}

pub fn pywbemcli(pair: &Pair, ports: Ports) -> Result<()> {
    let run = |password: &str, args: &[&str]| -> Result<Command> {
        let mut command = clients::python_program("pywbemcli")?;
        command.args(["--server", &format!("https://localhost:{}", ports.cimxml)]);
        command.args(["--user", USER, "--password", password, "--default-namespace", NAMESPACE]);
        command.arg("--ca-certs").arg(managed::authority(pair)).args(args);
        Ok(command)
    };
    let run_says = |args: &[&str], expected: &str| says(&mut run(PASSWORD, args)?, expected);
    run_says(&["namespace", "list"], NAMESPACE)?;
    run_says(&["server", "brand"], "Relevo")?;
    run_says(&["class", "find", "Msvm_Replication*"], "Msvm_ReplicationRelationship")?;
    run_says(&["class", "get", "Msvm_ReplicationSettingData"], "uint16 RecoveryHistory = 0;")?;
    run_says(&["qualifier", "get", "Key"], "Qualifier Key : boolean")?;
    run_says(&["instance", "enumerate", "CIM_ComputerSystem"], &format!("ElementName = \"{VM}\""))?;
    run_says(&["instance", "get", SERVICE], "Name = \"replicasvc\"")?;
    run_says(&["instance", "associators", SERVICE, "--names-only"], "Msvm_ComputerSystem")?;
    run_says(&["instance", "invokemethod", SERVICE, "GetSystemCertificates"], "EncodedCertificates=")?;
    run_says(&["instance", "invokemethod", SERVICE, "StopService"], "ReturnValue=1")?;
    is_refused(&mut run("wrong", &["namespace", "list"])?)
}

pub fn wbemcli(pair: &Pair, ports: Ports) -> Result<()> {
    let run = |password: &str, operation: &str, path: &str, args: &[&str]| -> Result<Command> {
        let mut command = clients::debian_program("wbemcli")?;
        command.arg(operation).arg("-cacert").arg(managed::authority(pair));
        command.arg(format!("https://{USER}:{password}@localhost:{}/{NAMESPACE}:{path}", ports.cimxml));
        command.args(args);
        Ok(command)
    };
    let run_says = |operation: &str, path: &str, args: &[&str], expected: &str| {
        says(&mut run(PASSWORD, operation, path, args)?, expected)
    };
    run_says("ei", "Msvm_ComputerSystem", &[], &format!("ElementName=\"{VM}\""))?;
    run_says("gi", SERVICE, &["Name,Started"], "Name=\"replicasvc\",Started=TRUE")?;
    run_says("gc", "Msvm_Error", &[], "CIMStatusCodeDescription=")?;
    run_says("ain", SERVICE, &[], "Msvm_ReplicationServiceSettingData.InstanceID")?;
    run_says("cm", SERVICE, &["GetSystemCertificates"], "GetSystemCertificates: 0, EncodedCertificates")?;
    run_says("cm", SERVICE, &["StopService"], "StopService: 1")?;
    is_refused(&mut run("wrong", "ein", "Msvm_ComputerSystem", &[])?)
}

pub fn wsl(pair: &Pair, ports: Ports) -> Result<()> {
    let folder = pair.root.join("wsl");
    let endpoint = format!("localhost:{}", ports.wsman);
    fs::create_dir(&folder)?;
    // By this name, beside its other files, it looks for who vouches for the host.
    fs::copy(managed::authority(pair), folder.join(format!("{endpoint}.crt")))?;
    let run_says = |program: &str, args: &[&str], expected: &str| -> Result<String> {
        let mut command = clients::debian_program(program)?;
        command.env("WSENDPOINT", &endpoint).env("WSUSER", USER).env("WSPASS", PASSWORD);
        says(command.env("HOME", &folder).current_dir(&folder).args(args), expected)
    };
    let service = format!("{WINDOWS}/Msvm_ReplicationService");
    run_says("wslid", &["check"], "<wsmid:ProductVendor>Relevo</wsmid:ProductVendor>")?;
    run_says("wslget", &[&service, "Name=replicasvc"], "<p:Started>true</p:Started>")?;
    let vms = format!("{WINDOWS}/Msvm_ComputerSystem");
    run_says("wslenum", &[&vms], &format!("<p:ElementName>{VM}</p:ElementName>"))?;
    run_says("wslenum", &[&vms, "-mode", "epr"], "<w:Selector Name=\"CreationClassName\">")?;
    run_says("wslinvoke", &[&service, "GetSystemCertificates"], "<p:ReturnValue>0</p:ReturnValue>")?;
    // Inline, as virt-who reads them.
    let management = format!("{WINDOWS}/Msvm_VirtualSystemManagementService");
    let summary = format!("<p1:ElementName>{VM}</p1:ElementName>");
    run_says("wslinvoke", &[&management, "GetSummaryInformation"], &summary)?;
    run_says("wslinvoke", &[&service, "StopService"], "<p:ReturnValue>1</p:ReturnValue>")?;
    Ok(())
}

/// It is a library: a program of a few lines calls it. It does not look at certificates.
pub fn dracclient(ports: Ports) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/dracclient_calls.py");
    let mut command = clients::python_program("python")?;
    let args = [&ports.wsman.to_string(), USER, PASSWORD, VM];
    says(command.arg(script).args(args), "StopService 1").map(drop)
}

/// What docs/clients.md shows in Python runs as it stands there, but for the names.
pub fn documented(pair: &Pair, ports: Ports) -> Result<()> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md"))?;
    let blocks: Vec<&str> =
        text.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    ensure!(blocks.len() == 2, "docs/clients.md has {} Python programs", blocks.len());
    for block in blocks {
        let authority = managed::authority(pair);
        let program = block
            .replace("https://a.example:5989", &format!("https://localhost:{}", ports.cimxml))
            .replace("\"a.example\", port=5986", &format!("\"localhost\", port={}", ports.wsman))
            .replace("/etc/relevo/certs/ca.pem", &authority.to_string_lossy())
            .replace("'web'", &format!("'{VM}'"));
        let expected = if block.contains("pypsrp") { "EncodedCertificates" } else { "0 0 0\n" };
        says(clients::python_program("python")?.args(["-c", &program]), expected)?;
    }
    Ok(())
}
