//! What needs a real guest: the power button and the agent.

mod support;

use hypervisor::{DomainState, Error, Event};
use model::VmId;
use std::{fs, path::Path, process::Command, sync::mpsc::Receiver, time::Duration};
use support::{Host, disk, domain_xml, eventually};

const PATIENCE: Duration = Duration::from_secs(120);
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Boots the guest that `cargo xtask guest` builds. Its init says so on the serial line, writes to its disk
/// and heeds the power button.
fn boot(host: &Host, name: &str, agent: bool) -> VmId {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest");
    let (kernel, initrd) = (assets.join("vmlinuz"), assets.join("initrd.gz"));
    assert!(kernel.exists() && initrd.exists(), "no test guest: run `cargo xtask guest`");
    let serial = host.path("serial.log");
    let boot = format!(
        "<kernel>{}</kernel><initrd>{}</initrd>\
         <cmdline>console=ttyS0 quiet panic=-1 no_timer_check oracle.disks=1 oracle.seed=1 \
         oracle.area_mib=1</cmdline></os>\
         <features><acpi/></features>",
        kernel.display(),
        initrd.display()
    );
    let mut devices = format!("<devices><serial type='file'><source path='{}'/></serial>", serial.display());
    if agent {
        devices += "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    }
    let definition = domain_xml(name, VmId::random(), &[disk("vda", &host.image("a.qcow2"))])
        .replace("</os>", &boot)
        .replace("<devices>", &devices)
        .replace("<memory unit='MiB'>16", "<memory unit='MiB'>96");
    let vm = host.hypervisor().define(&definition).unwrap();
    host.hypervisor().start(vm).unwrap();
    eventually("the guest is up", || fs::read_to_string(&serial).is_ok_and(|log| log.contains("guest up")));
    vm
}

fn agent_connects(events: &Receiver<Event>, vm: VmId) {
    let wanted = Event::Agent { vm, connected: true };
    while events.recv_timeout(PATIENCE).expect("an agent connects") != wanted {}
}

#[test]
fn a_guest_with_an_agent_freezes_thaws_and_shuts_down() {
    let host = Host::new();
    let hypervisor = host.hypervisor();
    let events = hypervisor.events();
    let vm = boot(&host, "agent", true);
    agent_connects(&events, vm);
    assert!(hypervisor.agent_answers(vm, AGENT_TIMEOUT).unwrap());
    assert_eq!(hypervisor.domain(vm).unwrap().unwrap().guest_agent, Some(true));
    let frozen = hypervisor.freeze(vm, AGENT_TIMEOUT).unwrap();
    assert_eq!(hypervisor.thaw(vm, AGENT_TIMEOUT).unwrap(), frozen);
    hypervisor.shutdown(vm).unwrap();
    hypervisor.wait_for_state(vm, DomainState::ShutOff, PATIENCE).unwrap();
}

#[test]
fn a_silent_agent_is_given_up_on_and_a_freeze_that_arrives_late_is_taken_back() {
    let host = Host::new();
    let hypervisor = host.hypervisor();
    let events = hypervisor.events();
    let vm = boot(&host, "silent", true);
    agent_connects(&events, vm);
    let pid = host.pid("silent").to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    let silent = hypervisor.freeze(vm, Duration::from_secs(1));
    signal("-CONT");
    assert!(matches!(silent, Err(Error::AgentSilent { .. })), "{silent:?}");
    eventually("the agent answers again", || hypervisor.thaw(vm, AGENT_TIMEOUT).is_ok());
    assert!(hypervisor.freeze(vm, AGENT_TIMEOUT).is_ok());
    hypervisor.thaw(vm, AGENT_TIMEOUT).unwrap();
}

#[test]
fn without_an_agent_a_freeze_is_refused_at_once() {
    let host = Host::new();
    let vm = boot(&host, "none", false);
    let refused = host.hypervisor().freeze(vm, AGENT_TIMEOUT);
    assert!(matches!(refused, Err(Error::NoAgent { .. })), "{refused:?}");
    assert!(!host.hypervisor().agent_answers(vm, AGENT_TIMEOUT).unwrap());
    assert_eq!(host.hypervisor().domain(vm).unwrap().unwrap().guest_agent, None);
}
