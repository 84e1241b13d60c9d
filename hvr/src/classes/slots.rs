//! Where a VM's disks are plugged in, in Hyper-V's shape: a controller, a drive in one of its slots, and an image in the
//! drive. A disk on a paravirtual bus is told as one on a SCSI controller, as each network adapter is told as a
//! synthetic one.

use super::{Make, Row, VM, row};
use crate::names::{by_id, instance_id};
use cim::{Instance, ObjectPath};
use model::VmId;
use service::inventory::Machine;

const CLASS: &str = "Msvm_ResourceAllocationSettingData";

/// Drives on one channel of an IDE controller; Hyper-V tells a channel as a controller.
const IDE_CHANNEL: u32 = 2;

pub const ROWS: &[Row] = &[
    row(CLASS, Make::Vm(VM, |_, machine| controllers(machine).iter().map(Controller::instance).collect())),
    row(CLASS, Make::Vm(VM, |_, machine| slots(machine).map(|slot| slot.drive()).collect())),
];

/// One for each bus that a disk's target names: `vd`, `sd`, `hd`.
#[derive(PartialEq, Eq)]
struct Controller<'a> {
    vm: VmId,
    bus: &'a str,
    /// Of an IDE controller.
    channel: Option<u32>,
}

struct Slot<'a> {
    controller: Controller<'a>,
    target: &'a str,
    address: u32,
}

fn slots(machine: &Machine) -> impl Iterator<Item = Slot<'_>> {
    let disks = machine.vm.iter().flat_map(|view| &view.disks);
    disks.filter_map(|disk| slot(machine.id, &disk.target))
}

fn controllers(machine: &Machine) -> Vec<Controller<'_>> {
    let mut found = vec![];
    for slot in slots(machine) {
        if !found.contains(&slot.controller) {
            found.push(slot.controller);
        }
    }
    found
}

/// `vdb` is in the second slot of the bus `vd`, `hdc` in the first one of the second IDE channel.
fn slot(vm: VmId, target: &str) -> Option<Slot<'_>> {
    let (bus, letters) = target.split_at(target.find('d')? + 1);
    let number = letters.bytes().try_fold(0u32, |number, letter| {
        let digit = letter.is_ascii_lowercase().then(|| u32::from(letter - b'a') + 1)?;
        number.checked_mul(26)?.checked_add(digit)
    });
    let number = number?.checked_sub(1)?;
    let (channel, address) = match bus {
        "hd" => (Some(number / IDE_CHANNEL), number % IDE_CHANNEL),
        _ => (None, number),
    };
    Some(Slot { controller: Controller { vm, bus, channel }, target, address })
}

impl Controller<'_> {
    fn id(&self) -> String {
        let channel = self.channel.map(|channel| format!("\\{channel}")).unwrap_or_default();
        instance_id(self.vm, &format!("\\Controller\\{}{channel}", self.bus))
    }

    fn instance(&self) -> Instance {
        let (name, kind, number) = match self.channel {
            Some(_) => ("IDE Controller", "Microsoft:Hyper-V:Emulated IDE Controller", 5u16),
            None => ("SCSI Controller", "Microsoft:Hyper-V:Synthetic SCSI Controller", 6),
        };
        Instance::new(CLASS)
            .with("InstanceID", self.id())
            .with("ElementName", name)
            .with("ResourceType", number)
            .with("ResourceSubType", kind)
            .with("Address", self.channel.map(|channel| channel.to_string()))
    }
}

impl Slot<'_> {
    fn drive(&self) -> Instance {
        Instance::new(CLASS)
            .with("InstanceID", drive_id(self.controller.vm, self.target))
            .with("ElementName", "Hard Drive")
            .with("ResourceType", 17u16)
            .with("ResourceSubType", "Microsoft:Hyper-V:Synthetic Disk Drive")
            // None of its own: the image in it has one.
            .with("HostResource", Vec::<String>::new())
            .with("Parent", by_id(CLASS, self.controller.id()).to_string())
            .with("AddressOnParent", self.address.to_string())
    }
}

fn drive_id(vm: VmId, target: &str) -> String {
    instance_id(vm, &format!("\\Drive\\{target}"))
}

/// The drive that holds the disk with this target; `None`: its slot is not known.
pub fn drive(vm: VmId, target: &str) -> Option<ObjectPath> {
    slot(vm, target).map(|slot| by_id(CLASS, drive_id(vm, slot.target)))
}

/// All controllers and drives of a VM.
pub fn paths(machine: &Machine) -> Vec<ObjectPath> {
    let controllers = controllers(machine).into_iter().map(|it| by_id(CLASS, it.id()));
    controllers.chain(slots(machine).filter_map(|slot| drive(machine.id, slot.target))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_its_slot() {
        let vm = VmId::random();
        let place = |target| {
            let slot = slot(vm, target)?;
            Some((slot.controller.bus.to_owned(), slot.controller.channel, slot.address))
        };
        assert_eq!(place("vdb"), Some(("vd".into(), None, 1)));
        assert_eq!(place("sdaa"), Some(("sd".into(), None, 26)));
        assert_eq!(place("xvda"), Some(("xvd".into(), None, 0)));
        assert_eq!(place("hdc"), Some(("hd".into(), Some(1), 0)));
        assert_eq!(place("vd"), None);
        assert_eq!(place("vda1"), None);
        assert_eq!(place("cache"), None);
    }
}
