//! Giving a running guest its addresses through the guest agent, and seeing that it has them. Blocking.

use super::{
    Wanted,
    plan::{self, PROBE, Run, System},
};
use crate::api::error::chain;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hypervisor::Hypervisor;
use model::VmId;
use serde_json::{Value, json};
use std::{
    thread,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// A guest may take this long from its start until its agent answers.
const BOOT_MAX: Duration = Duration::from_secs(600);
/// A program in the guest may take this long, DHCP included.
const PROGRAM_MAX: Duration = Duration::from_secs(90);
/// Addresses show up within this time; IPv6 ones are probed for duplicates first.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(10);

pub struct Guest<'a> {
    pub hypervisor: &'a Hypervisor,
    pub vm: VmId,
    pub cancel: &'a CancellationToken,
}

/// Gives each adapter, named by its MAC address, what is wanted. What was done, in a sentence, or why not.
pub fn apply(guest: &Guest<'_>, adapters: &[(String, Wanted)]) -> Result<String, String> {
    guest.wait_for_agent()?;
    let os_id = guest.ask(&json!({"execute": "guest-get-osinfo"})).ok();
    let os_id = os_id.as_ref().and_then(|info| info["id"].as_str()).unwrap_or_default().to_owned();
    let system = guest.system(&os_id)?;
    let mut done = vec![];
    for (mac, wanted) in adapters {
        let interface = guest.interface(mac)?;
        for run in plan::commands(system, &interface, mac, wanted) {
            guest.run(&run)?;
        }
        guest.sees(mac, wanted)?;
        let mut got: Vec<_> = wanted.subnets.iter().map(ToString::to_string).collect();
        got.extend(wanted.dhcp.then(|| "DHCP".to_owned()));
        done.push(format!("{interface} ({mac}) has {}", got.join(", ")));
    }
    let lasting =
        if system == System::Plain { "; until the guest restarts: nothing manages its network" } else { "" };
    Ok(format!("{}{lasting}", done.join("; ")))
}

impl Guest<'_> {
    fn ask(&self, command: &Value) -> Result<Value, String> {
        self.hypervisor.agent_command(self.vm, command, ANSWER_MAX).map_err(|error| chain(&error))
    }

    /// Looks until there is something to see, or the time is over.
    fn until<T>(&self, bound: Duration, mut look: impl FnMut() -> Option<T>) -> Result<Option<T>, String> {
        let give_up = Instant::now() + bound;
        loop {
            if self.cancel.is_cancelled() {
                return Err("the daemon was stopped".to_owned());
            }
            if let Some(found) = look() {
                return Ok(Some(found));
            }
            if Instant::now() >= give_up {
                return Ok(None);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn wait_for_agent(&self) -> Result<(), String> {
        let answers = || self.ask(&json!({"execute": "guest-ping"})).ok().map(drop);
        self.until(BOOT_MAX, answers)?
            .ok_or_else(|| format!("no guest agent answered within {} s", BOOT_MAX.as_secs()))
    }

    fn system(&self, os_id: &str) -> Result<System, String> {
        let probe = Run { path: "sh".to_owned(), args: vec!["-c".to_owned(), PROBE.to_owned()], input: None };
        let probed = if os_id == "mswindows" { String::new() } else { self.run(&probe)? };
        plan::system(os_id, &probed).ok_or_else(|| {
            "the guest has none of NetworkManager, systemd-networkd, ifupdown and ip".to_owned()
        })
    }

    fn interfaces(&self) -> Result<Vec<Value>, String> {
        let said = self.ask(&json!({"execute": "guest-network-get-interfaces"}))?;
        Ok(said.as_array().cloned().unwrap_or_default())
    }

    /// What the guest calls the adapter.
    fn interface(&self, mac: &str) -> Result<String, String> {
        let interfaces = self.interfaces()?;
        let found = interfaces.iter().find(|interface| is(interface, mac));
        let name = found.and_then(|interface| interface["name"].as_str());
        let name = name.ok_or_else(|| format!("the guest has no adapter {mac}"))?;
        // It stands in scripts.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-@ #()".contains(c);
        if name.chars().all(plain) {
            Ok(name.to_owned())
        } else {
            Err(format!("the adapter {mac} is called {name:?}"))
        }
    }

    /// Waits until the guest shows the addresses, or any IPv4 address where DHCP gives one.
    fn sees(&self, mac: &str, wanted: &Wanted) -> Result<(), String> {
        let mut shown: Vec<String> = vec![];
        let all = || {
            let interfaces = self.interfaces().ok()?;
            let own = interfaces.iter().find(|interface| is(interface, mac))?;
            let addresses = own["ip-addresses"].as_array().cloned().unwrap_or_default();
            shown = addresses.iter().filter_map(|one| Some(one["ip-address"].as_str()?.to_owned())).collect();
            let has_v4 = addresses.iter().any(|one| one["ip-address-type"] == "ipv4");
            let complete = wanted.subnets.iter().all(|subnet| shown.contains(&subnet.address.to_string()));
            (complete && (!wanted.dhcp || has_v4)).then_some(())
        };
        let seen = self.until(SHOWN_WITHIN, all)?;
        seen.ok_or_else(|| format!("the adapter {mac} shows {} after it was set", shown.join(", ")))
    }

    /// Runs a program in the guest to its end; what it printed. One that fails is an error.
    fn run(&self, run: &Run) -> Result<String, String> {
        let Run { path, args, input } = run;
        let mut arguments = json!({"path": path, "arg": args, "capture-output": true});
        if let Some(input) = input {
            arguments["input-data"] = STANDARD.encode(input).into();
        }
        let line = || format!("`{path} {}`", args.join(" "));
        let started = self.ask(&json!({"execute": "guest-exec", "arguments": arguments}));
        let started = started.map_err(|error| format!("cannot run {} in the guest: {error}", line()))?;
        let status = json!({"execute": "guest-exec-status", "arguments": {"pid": started["pid"]}});
        let ended = self.until(PROGRAM_MAX, || self.ask(&status).ok().filter(|it| it["exited"] == true))?;
        let ended = ended.ok_or_else(|| format!("{} does not end in the guest", line()))?;
        let text = |key: &str| {
            let bytes = ended[key].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        if ended["exitcode"] == 0 {
            return Ok(text("out-data"));
        }
        Err(format!(
            "{} failed in the guest ({}): {} {}",
            line(),
            ended["exitcode"],
            text("out-data"),
            text("err-data")
        ))
    }
}

fn is(interface: &Value, mac: &str) -> bool {
    interface["hardware-address"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(mac))
}
