//! The management listeners of a running daemon, over TLS: who is let in, what is refused, what the log says of it.

use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};
use testkit::{
    free_port,
    http::{Answer, Client},
    pair::{Host, Pair},
    wbem,
};

/// Generous: a delivery that fails is tried again for half a minute.
const PATIENCE: Duration = Duration::from_secs(120);
const SERVICE: &str = "Msvm_ReplicationService";
const NAMES: [(&str, &str); 3] = [("anna", "administrator"), ("olga", "operator"), ("rita", "reader")];
/// Nothing else in a log looks like these.
const SECRET: &str = "correct-horse-of-";

/// A daemon with listeners of both protocols, on IPv4 and IPv6.
struct Stage {
    pair: Pair,
    wsman: [SocketAddr; 2],
    cimxml: SocketAddr,
}

impl Stage {
    fn new() -> Result<Self> {
        let mut pair = Pair::prepare(Path::new(env!("CARGO_BIN_EXE_relevo")))?;
        let loopback =
            |address: &str| -> Result<SocketAddr> { Ok(format!("{address}:{}", free_port()?).parse()?) };
        let (wsman, cimxml) = ([loopback("127.0.0.1")?, loopback("[::1]")?], loopback("127.0.0.1")?);
        let listeners =
            format!("[management]\nwsman = [\"{}\", \"{}\"]\ncimxml = [\"{cimxml}\"]\n", wsman[0], wsman[1]);
        pair.a.configure(&pair.b, &listeners)?;
        for (name, role) in NAMES {
            pair.a.run_with_input(&["user", "add", name, "--role", role], &format!("{SECRET}{name}"))?;
        }
        pair.a.start()?;
        Ok(Self { pair, wsman, cimxml })
    }

    fn authority(&self) -> PathBuf {
        self.pair.a.root.join("etc/certs/ca.pem")
    }

    fn log_in(&self, address: SocketAddr, user: &str, password: &str) -> Result<Client> {
        Client::connect(address, &self.pair.a.name, &self.authority(), user, password)
    }

    fn client(&self, address: SocketAddr, user: &str) -> Result<Client> {
        self.log_in(address, user, &format!("{SECRET}{user}"))
    }

    /// Whether the service can be got there.
    fn serves(&self, client: &mut Client, address: SocketAddr) -> Result<bool> {
        let keys = service(&self.pair.a);
        let answer = match address == self.cimxml {
            true => wbem::cimxml_get(client, SERVICE, &keys)?,
            false => wbem::wsman_get(client, SERVICE, &keys)?,
        };
        Ok(answer.status == 200 && answer.body.contains("replicasvc"))
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.pair.a.log_path())?)
    }

    /// The audit log's lines, from the user on.
    fn audit(&self) -> Result<Vec<String>> {
        let log = self.log()?;
        let lines = log.lines().filter_map(|line| line.split_once(" audit: "));
        Ok(lines.map(|(_, line)| line.to_owned()).collect())
    }
}

/// The service's keys.
fn service(host: &Host) -> [(&'static str, &str); 4] {
    [
        ("Name", "replicasvc"),
        ("SystemCreationClassName", "Msvm_ComputerSystem"),
        ("SystemName", &host.name),
        ("CreationClassName", SERVICE),
    ]
}

fn wsman_code(answer: &Answer) -> &str {
    wbem::between(&answer.body, "ReturnValue>", "<").unwrap_or(&answer.body)
}

fn cimxml_code(answer: &Answer) -> &str {
    let code = wbem::between(&answer.body, "<RETURNVALUE PARAMTYPE=\"uint32\"><VALUE>", "<");
    code.unwrap_or(&answer.body)
}

fn domain(name: &str, id: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{id}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    )
}

#[test]
fn whoever_changes_something_or_may_not_stands_in_the_log_and_no_secret_does() -> Result<()> {
    let stage = Stage::new()?;
    let host = &stage.pair.a;
    let id = "0B1F1C9E-0000-4000-8000-000000000001";
    let xml = host.root.join("web.xml");
    fs::write(&xml, domain("web", id))?;
    host.run(&["vm", "define", &xml.to_string_lossy()])?;
    let vm = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", id)];

    // Both protocols: refused for the role, refused for the state, done.
    let (mut wsman, mut cimxml) =
        (stage.client(stage.wsman[0], "rita")?, stage.client(stage.cimxml, "rita")?);
    let suspend = "<p:RequestedState>7</p:RequestedState>";
    let asked =
        wbem::wsman_call(&mut wsman, "Msvm_ComputerSystem", &vm, "RequestReplicationStateChange", suspend)?;
    assert_eq!(wsman_code(&asked), "32769");
    let suspend = "<PARAMVALUE NAME=\"RequestedState\" PARAMTYPE=\"uint16\"><VALUE>7</VALUE></PARAMVALUE>";
    let asked =
        wbem::cimxml_call(&mut cimxml, "Msvm_ComputerSystem", &vm, "RequestReplicationStateChange", suspend)?;
    assert_eq!(cimxml_code(&asked), "32769");
    assert_eq!(wbem::wsman_get(&mut wsman, "Msvm_ComputerSystem", &vm)?.status, 200, "a reader reads");

    let mut wsman = stage.client(stage.wsman[1], "olga")?;
    let mut cimxml = stage.client(stage.cimxml, "olga")?;
    let suspend = "<p:RequestedState>7</p:RequestedState>";
    let asked =
        wbem::wsman_call(&mut wsman, "Msvm_ComputerSystem", &vm, "RequestReplicationStateChange", suspend)?;
    assert_eq!(wsman_code(&asked), "32775");
    let entry = "&lt;INSTANCE CLASSNAME=\"Msvm_ReplicationAuthorizationSettingData\"/&gt;";
    let entry = format!(
        "<PARAMVALUE NAME=\"AuthorizationEntry\" PARAMTYPE=\"string\"><VALUE>{entry}</VALUE></PARAMVALUE>"
    );
    let keys = service(host);
    let asked = wbem::cimxml_call(&mut cimxml, SERVICE, &keys, "AddAuthorizationEntry", &entry)?;
    assert_eq!(cimxml_code(&asked), "32769", "an operator authorizes nobody");

    let mut wsman = stage.client(stage.wsman[0], "anna")?;
    let remove = "<p:AllowedPrimaryHostSystem>b.example</p:AllowedPrimaryHostSystem>";
    let asked = wbem::wsman_call(&mut wsman, SERVICE, &keys, "RemoveAuthorizationEntry", remove)?;
    let removed = wsman_code(&asked).to_owned();
    let filter = "<IPARAMVALUE NAME=\"NewInstance\"><INSTANCE CLASSNAME=\"CIM_IndicationFilter\">\
                  <PROPERTY NAME=\"Name\" TYPE=\"string\"><VALUE>f</VALUE></PROPERTY>\
                  <PROPERTY NAME=\"Query\" TYPE=\"string\"><VALUE>SELECT * FROM CIM_InstModification</VALUE></PROPERTY>\
                  <PROPERTY NAME=\"QueryLanguage\" TYPE=\"string\"><VALUE>WQL</VALUE></PROPERTY></INSTANCE></IPARAMVALUE>";
    for user in ["rita", "anna"] {
        let mut cimxml = stage.client(stage.cimxml, user)?;
        let answer = wbem::cimxml_intrinsic(&mut cimxml, "interop", "CreateInstance", filter)?;
        assert_eq!(answer.body.contains("<ERROR CODE=\"2\""), user == "rita", "{}", answer.body);
    }
    assert_eq!(
        stage
            .log_in(stage.wsman[0], "anna", "guessed-by-nobody")
            .and_then(|mut client| { wbem::wsman_get(&mut client, SERVICE, &[]) })?
            .status,
        401
    );

    let mut lines = stage.audit()?;
    // The port of a client is another each time.
    lines.iter_mut().for_each(|line| {
        if let Some(address) = wbem::between(line, "address=\"", "\"").map(str::to_owned) {
            let named = address.rsplit_once(':').map_or("", |(address, _)| address).to_owned();
            *line = line.replace(&address, &named);
        }
    });
    let on = id.to_lowercase();
    let state = format!("class=\"Msvm_ComputerSystem\" method=\"RequestReplicationStateChange\" on=\"{on}\"");
    let keys = service(host).map(|(name, value)| format!("{name}=\\\"{value}\\\"")).join(",");
    let on_service = format!("class=\"{SERVICE}\"");
    let filter = "CIM_IndicationFilter.SystemCreationClassName";
    let expected = [
        format!("user=\"rita\" address=\"127.0.0.1\" role=Reader {state} result=32769"),
        format!("user=\"rita\" address=\"127.0.0.1\" role=Reader {state} result=32769"),
        format!("user=\"olga\" address=\"[::1]\" role=Operator {state} result=32775"),
        format!("user=\"olga\" address=\"127.0.0.1\" role=Operator {on_service} method=\"AddAuthorizationEntry\" on=\"{SERVICE}.{keys}\" result=32769"),
        format!("user=\"anna\" address=\"127.0.0.1\" role=Administrator {on_service} method=\"RemoveAuthorizationEntry\" on=\"{SERVICE}.{keys}\" result={removed}"),
        "user=\"rita\" address=\"127.0.0.1\" role=Reader operation=\"CreateInstance\" on=\"CIM_IndicationFilter\" result=2".to_owned(),
        format!("user=\"anna\" address=\"127.0.0.1\" role=Administrator operation=\"CreateInstance\" on=\"{filter}"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
    let log = stage.log()?;
    assert!(log.contains("a password was refused"), "{log}");
    for secret in [SECRET, "guessed-by-nobody", "Basic ", "$argon2"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    Ok(())
}

#[test]
fn an_installed_certificate_is_shown_without_a_restart() -> Result<()> {
    let stage = Stage::new()?;
    let (host, pid) = (&stage.pair.a, stage.pair.a.daemon_pid());
    let mut old = stage.client(stage.wsman[0], "anna")?;
    let bundle = stage.pair.root.join("renewed.bundle");
    host.run(&["cert", "issue", &host.name, "--out", &bundle.to_string_lossy()])?;
    let said = host.run(&["cert", "install", &bundle.to_string_lossy()])?;
    assert_eq!(said["message"], "installed; the running daemon uses it from now on");
    for address in [stage.wsman[0], stage.wsman[1], stage.cimxml] {
        let mut new = stage.client(address, "anna")?;
        assert_ne!(new.certificate(), old.certificate(), "{address}");
        assert!(stage.serves(&mut new, address)?);
    }
    assert_eq!(wbem::wsman_get(&mut old, SERVICE, &[])?.status, 200, "who is connected stays so");
    assert_eq!(stage.pair.a.daemon_pid(), pid);
    Ok(())
}

/// Whom a listener for indications, called `localhost`, hears over TLS: the bodies of what is sent to it.
fn hears(certs: &Path) -> Result<(u16, mpsc::Receiver<String>)> {
    let identity = transport::certs::load(certs)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let shown = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key.context("it has a key")?)?;
    let shown = Arc::new(shown);
    let socket = TcpListener::bind("127.0.0.1:0")?;
    let port = socket.local_addr()?.port();
    let (heard, hears) = mpsc::channel();
    // Goes with the test.
    thread::spawn(move || {
        for tcp in socket.incoming() {
            let body = tcp.map_err(anyhow::Error::from).and_then(|tcp| take(tcp, &shown));
            if body.is_ok_and(|body| heard.send(body).is_err()) {
                return;
            }
        }
    });
    Ok((port, hears))
}

/// One indication, and the answer that it was taken.
fn take(tcp: TcpStream, shown: &Arc<ServerConfig>) -> Result<String> {
    const TAKEN: &str = "<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE ID=\"1\" PROTOCOLVERSION=\"1.0\">\
                         <SIMPLEEXPRSP><EXPMETHODRESPONSE NAME=\"ExportIndication\"/></SIMPLEEXPRSP></MESSAGE></CIM>";
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(shown.clone())?, tcp));
    let mut length = 0;
    loop {
        let mut line = String::new();
        anyhow::ensure!(stream.read_line(&mut line)? > 0, "the request ends early");
        if let Some((_, value)) =
            line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n",
        TAKEN.len()
    );
    stream.get_mut().write_all((head + TAKEN).as_bytes())?;
    stream.get_mut().flush()?;
    Ok(String::from_utf8(body)?)
}

/// Subscribes `url` to the VMs that come.
fn subscribe(client: &mut Client, url: &str) -> Result<()> {
    let text = |name: &str, value: &str| {
        format!("<PROPERTY NAME=\"{name}\" TYPE=\"string\"><VALUE>{value}</VALUE></PROPERTY>")
    };
    let mut create = |class: &str, properties: &str| -> Result<String> {
        let instance = format!(
            "<IPARAMVALUE NAME=\"NewInstance\"><INSTANCE CLASSNAME=\"{class}\">{properties}</INSTANCE></IPARAMVALUE>"
        );
        let answer = wbem::cimxml_intrinsic(client, "interop", "CreateInstance", &instance)?;
        let made = wbem::between(&answer.body, "<IRETURNVALUE>", "</IRETURNVALUE>");
        Ok(made.with_context(|| answer.body.clone())?.to_owned())
    };
    let query = "SELECT * FROM CIM_InstCreation WHERE SourceInstance ISA &quot;Msvm_ComputerSystem&quot;";
    let namespaces = format!(
        "<PROPERTY.ARRAY NAME=\"SourceNamespaces\" TYPE=\"string\"><VALUE.ARRAY><VALUE>{}</VALUE></VALUE.ARRAY></PROPERTY.ARRAY>",
        wbem::V2
    );
    let filter = text("Name", "new") + &text("Query", query) + &text("QueryLanguage", "WQL") + &namespaces;
    let filter = create("CIM_IndicationFilter", &filter)?;
    let destination = text("Name", "here") + &text("Destination", url);
    let destination = create("CIM_ListenerDestinationCIMXML", &destination)?;
    let refers = |name: &str, to: &str| {
        format!(
            "<PROPERTY.REFERENCE NAME=\"{name}\"><VALUE.REFERENCE>{to}</VALUE.REFERENCE></PROPERTY.REFERENCE>"
        )
    };
    let both = refers("Filter", &filter) + &refers("Handler", &destination);
    create("CIM_IndicationSubscription", &both).map(drop)
}

#[test]
fn indications_go_to_whom_the_authorities_of_now_vouch_for() -> Result<()> {
    let mut stage = Stage::new()?;
    let (certs, others) = (stage.pair.a.root.join("etc/certs"), stage.pair.root.join("others"));
    let now = time::OffsetDateTime::now_utc();
    transport::certs::init_ca(&others, now)?;
    transport::certs::install(&transport::certs::issue(&others, &"localhost".parse()?, now)?, &others)?;
    let authorities = stage.pair.root.join("authorities.pem");
    fs::copy(certs.join("ca.pem"), &authorities)?;
    stage.pair.a.stop();
    let (wsman, cimxml) = (stage.wsman[0], stage.cimxml);
    stage.pair.a.configure(
        &stage.pair.b,
        &format!(
            "[management]\nwsman = [\"{wsman}\"]\ncimxml = [\"{cimxml}\"]\nclient_authorities = \"{}\"\n",
            authorities.display()
        ),
    )?;
    stage.pair.a.start()?;
    let (port, hears) = hears(&others)?;
    subscribe(&mut stage.client(cimxml, "anna")?, &format!("https://localhost:{port}/"))?;

    let host = &stage.pair.a;
    fs::copy(others.join("ca.pem"), &authorities)?;
    let bundle = stage.pair.root.join("renewed.bundle");
    host.run(&["cert", "issue", &host.name, "--out", &bundle.to_string_lossy()])?;
    host.run(&["cert", "install", &bundle.to_string_lossy()])?;
    let xml = host.root.join("web.xml");
    fs::write(&xml, domain("web", "0B1F1C9E-0000-4000-8000-000000000002"))?;
    host.run(&["vm", "define", &xml.to_string_lossy()])?;
    let heard = hears.recv_timeout(PATIENCE).context("nothing was heard")?;
    assert!(heard.contains("0B1F1C9E-0000-4000-8000-000000000002"), "{heard}");
    Ok(())
}

/// Two GiB announced; a quarter of one sent in chunks.
#[test]
fn a_body_without_end_is_refused_and_costs_no_memory() -> Result<()> {
    let stage = Stage::new()?;
    let pid = stage.pair.a.daemon_pid().context("it runs")?;
    let peak = || -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = wbem::between(&status, "VmHWM:", "kB").context("no peak")?;
        Ok(kib.trim().parse()?)
    };
    let before_kib = peak()?;
    for address in [stage.wsman[0], stage.cimxml] {
        let mut client = stage.client(address, "anna")?;
        let announced = client.head("/wsman", "Content-Length: 2147483648\r\nContent-Type: text/xml\r\n");
        client.send(announced.as_bytes())?;
        assert_eq!(client.answer()?.status, 413, "before a byte of it is sent");

        let mut client = stage.client(address, "anna")?;
        let chunked = client.head("/wsman", "Transfer-Encoding: chunked\r\nContent-Type: text/xml\r\n");
        client.send(chunked.as_bytes())?;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        // What is refused is thrown away for a moment, so that the client hears why; then the connection ends.
        for _ in 0..(256 << 20 >> 16) {
            if client.send(chunk.as_bytes()).is_err() {
                break;
            }
        }
        if let Ok(answer) = client.answer() {
            assert_eq!(answer.status, 413);
        }
        let mut client = stage.client(address, "anna")?;
        assert!(stage.serves(&mut client, address)?);
    }
    let grown_kib = peak()? - before_kib;
    assert!(grown_kib < 96 << 10, "{grown_kib} KiB");
    Ok(())
}
