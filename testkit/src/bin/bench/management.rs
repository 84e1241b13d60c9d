//! The management protocols on a host with a thousand VMs, each with a relationship: how long an enumeration takes,
//! whether the daemon's memory grows with the answer, and how long a Get takes while eight clients call.

use crate::{GUESTS_FOLDER, Options, binary, create_disk, define, report::Figure};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use testkit::{
    GuestSpec, free_port,
    http::{Answer, Client},
    pair::{Host, Pair},
    poll, wbem,
};

/// At which memory is looked at; then all.
const FEW: usize = 100;
const MANY: usize = 1000;
const CLIENTS: usize = 8;
const GETS_PER_CLIENT: usize = 250;
const ENUMERATE_S_MAX: f64 = 1.5;
const GET_P99_MS_MAX: f64 = 5.0;
/// What an answer to a thousand may cost more than one to a hundred.
const GROWTH_MIB_MAX: f64 = 8.0;
const CLASSES: [&str; 2] = ["Msvm_ComputerSystem", "Msvm_ReplicationRelationship"];
const USER: (&str, &str) = ("bench", "correct horse battery");
/// Generous: every relationship is made by both daemons, durably.
const BOUND: Duration = Duration::from_secs(900);

type All = fn(&mut Client, &str) -> Result<(usize, usize)>;
type Get = fn(&mut Client, &str, &[(&str, &str)]) -> Result<Answer>;

/// A protocol, where it listens, and how it is asked.
struct Protocol {
    name: &'static str,
    address: SocketAddr,
    all: All,
    get: Get,
}

pub fn management(options: &Options) -> Result<Vec<Figure>> {
    let mut pair = Pair::start_in(&binary("relevo")?, Path::new(GUESTS_FOLDER))?;
    let address = || -> Result<SocketAddr> { Ok(([127, 0, 0, 1], free_port()?).into()) };
    let protocols = [
        Protocol { name: "WS-Man", address: address()?, all: wbem::wsman_all, get: wbem::wsman_get },
        Protocol { name: "CIM-XML", address: address()?, all: wbem::cimxml_all, get: wbem::cimxml_get },
    ];
    open(&mut pair, &protocols)?;
    let template = pair.root.join("a/template.qcow2");
    create_disk(&template, 1 << 20)?;
    let mut vms = vec![];
    let mut peaks = vec![];
    let mut figures = vec![];
    for count in [FEW, MANY] {
        add(&pair, &protocols[0], &template, &mut vms, count)?;
        for protocol in &protocols {
            peaks.push(peak_mib(&pair.a, protocol, count)?);
        }
    }
    for (protocol, (few, many)) in protocols.iter().zip(peaks[..2].iter().zip(&peaks[2..])) {
        for class in CLASSES {
            let what = format!("all {MANY} {class} over {}", protocol.name);
            let runs =
                (0..options.runs).map(|_| all_s(&pair.a, protocol, class, MANY)).collect::<Result<_>>()?;
            figures.push(Figure::alone(what, "s", runs, Some(ENUMERATE_S_MAX)));
        }
        let what = format!("memory of the daemon before {MANY} VMs are enumerated over {}", protocol.name);
        figures.push(Figure::alone(what, "MiB", vec![many.before], None));
        let what = format!("its peak above that; with {FEW} VMs {:.1} MiB", few.above);
        figures.push(Figure::alone(what, "MiB", vec![many.above], Some(few.above + GROWTH_MIB_MAX)));
        let what = "what of it is left afterwards".to_owned();
        figures.push(Figure::alone(what, "MiB", vec![many.left], None));
    }
    for protocol in &protocols {
        for class in CLASSES {
            let before_ms = processor_ms(&pair.a)?;
            let times = gets_ms(&pair.a, protocol, class, &vms)?;
            let each_ms = (processor_ms(&pair.a)? - before_ms) / times.len() as f64;
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            let what = format!("{CLIENTS} clients get {class} over {}", protocol.name);
            figures.push(Figure::alone(
                format!("{what}: the daemon's processor time for each"),
                "ms",
                vec![each_ms],
                None,
            ));
            figures.push(Figure::alone(format!("{what}: median"), "ms", vec![at(0.5)], None));
            figures.push(Figure::alone(
                format!("{what}: 99th percentile"),
                "ms",
                vec![at(0.99)],
                Some(GET_P99_MS_MAX),
            ));
        }
    }
    Ok(figures)
}

/// Opens the listeners on host a.
fn open(pair: &mut Pair, protocols: &[Protocol; 2]) -> Result<()> {
    let [wsman, cimxml] = protocols.each_ref().map(|protocol| protocol.address);
    pair.a.stop();
    pair.a.configure(&pair.b, &format!("[management]\nwsman = [\"{wsman}\"]\ncimxml = [\"{cimxml}\"]\n"))?;
    pair.a.run_with_input(&["user", "add", USER.0, "--role", "administrator"], USER.1)?;
    pair.a.start()
}

fn client(host: &Host, protocol: &Protocol) -> Result<Client> {
    let authority = host.root.join("etc/certs/ca.pem");
    Client::connect(protocol.address, &host.name, &authority, USER.0, USER.1)
}

/// Defines VMs up to this number, each with an empty disk, and makes a relationship for each over the API. Its first
/// copy is not begun.
fn add(pair: &Pair, protocol: &Protocol, template: &Path, vms: &mut Vec<String>, count: usize) -> Result<()> {
    let had = vms.len();
    for index in had..count {
        let disk = pair.root.join(format!("a/vm-{index}.qcow2"));
        fs::copy(template, &disk)?;
        let serial = pair.root.join(format!("vm-{index}.log"));
        define(&pair.a, &GuestSpec::new(&format!("vm-{index:04}"), &[(disk, "qcow2")], &serial))?;
    }
    let listed = pair.a.run(&["vm", "list"])?;
    let ids = listed.as_array().into_iter().flatten().filter_map(|vm| vm["vm"].as_str());
    let new: Vec<String> = ids.map(str::to_uppercase).filter(|id| !vms.contains(id)).collect();
    let mut client = client(&pair.a, protocol)?;
    let settings = format!(
        "&lt;INSTANCE CLASSNAME=\"Msvm_ReplicationSettingData\"&gt;&lt;PROPERTY NAME=\"RecoveryConnectionPoint\" \
         TYPE=\"string\"&gt;&lt;VALUE&gt;{}&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;/INSTANCE&gt;",
        pair.b.name
    );
    for id in &new {
        let uri = format!("{}/{}/Msvm_ComputerSystem", wbem::WMI, wbem::V2);
        let arguments = format!(
            "<p:ComputerSystem><a:Address>x</a:Address><a:ReferenceParameters><w:ResourceURI>{uri}</w:ResourceURI>\
             <w:SelectorSet><w:Selector Name=\"CreationClassName\">Msvm_ComputerSystem</w:Selector>\
             <w:Selector Name=\"Name\">{id}</w:Selector></w:SelectorSet></a:ReferenceParameters></p:ComputerSystem>\
             <p:ReplicationSettingData>{settings}</p:ReplicationSettingData>"
        );
        let method = "CreateReplicationRelationship";
        let answer = wbem::wsman_call(&mut client, "Msvm_ReplicationService", &[], method, &arguments)?;
        ensure!(answer.body.contains(">4096<"), "{}", answer.body);
    }
    vms.extend(new);
    let made = || wbem::wsman_all(&mut client, CLASSES[1]).is_ok_and(|(made, _)| made == count);
    ensure!(poll(BOUND, made), "the relationships are not made");
    println!("  {count} VMs");
    Ok(())
}

/// How long a client waits until it has all.
fn all_s(host: &Host, protocol: &Protocol, class: &str, count: usize) -> Result<f64> {
    let mut client = client(host, protocol)?;
    let began = Instant::now();
    let (found, bytes) = (protocol.all)(&mut client, class)?;
    let took_s = began.elapsed().as_secs_f64();
    // The host itself is a computer system, too.
    ensure!(found == count + usize::from(class == CLASSES[0]), "{found} instances of {class}");
    println!("  {} {class}: {took_s:.2} s, {bytes} bytes", protocol.name);
    Ok(took_s)
}

/// Memory of the daemon around one enumeration, in MiB.
struct Peak {
    before: f64,
    /// The peak, above what there was before.
    above: f64,
    left: f64,
}

fn peak_mib(host: &Host, protocol: &Protocol, count: usize) -> Result<Peak> {
    let pid = host.daemon_pid().context("the daemon does not run")?;
    // A first one, so that what is allocated once is there.
    all_s(host, protocol, CLASSES[0], count)?;
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let before = crate::memory::mib(host, "VmRSS")?;
    all_s(host, protocol, CLASSES[0], count)?;
    let peak = crate::memory::mib(host, "VmHWM")?;
    Ok(Peak { before, above: peak - before, left: crate::memory::mib(host, "VmRSS")? - before })
}

/// Processor time that the daemon has used so far.
fn processor_ms(host: &Host) -> Result<f64> {
    let pid = host.daemon_pid().context("the daemon does not run")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // What follows the command's name begins with the third field; 14 and 15 are ticks.
    let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
    let ticks: f64 = ticks.sum::<Result<f64, _>>()?;
    Ok(ticks * 1000.0 / rustix::param::clock_ticks_per_second() as f64)
}

/// Times of Gets by all clients at once, sorted.
fn gets_ms(host: &Host, protocol: &Protocol, class: &str, vms: &[String]) -> Result<Vec<f64>> {
    let one = |number: usize| -> Result<Vec<f64>> {
        let mut client = client(host, protocol)?;
        let mut times = vec![];
        for round in 0..GETS_PER_CLIENT {
            // All clients walk over all VMs, each its own way.
            let vm = &vms[(number * 131 + round * 37) % vms.len()];
            let id = format!("Microsoft:{vm}\\HVR\\0");
            let keys: &[(&str, &str)] = match class == CLASSES[0] {
                true => &[("CreationClassName", CLASSES[0]), ("Name", vm)],
                false => &[("InstanceID", &id)],
            };
            let began = Instant::now();
            let answer = (protocol.get)(&mut client, class, keys)?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            ensure!(answer.status == 200 && answer.body.contains(vm), "{}: {}", answer.status, answer.body);
        }
        Ok(times)
    };
    let mut times = vec![];
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || one(number))).collect();
        for client in clients {
            times.extend(client.join().expect("a client does not panic")?);
        }
        Ok(())
    })?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}
