//! Which instances there are: a table from classes to the functions that make them. A file for each family.

mod associations;
mod authorization;
mod cimv2;
pub mod computer_system;
pub mod devices;
mod job;
mod relationship;
mod service;
pub mod settings;
mod slots;
pub mod statistics;
mod summary;
mod switches;
mod system_settings;

pub use service::settings as service_settings;
pub use summary::summary;

use crate::world::{HostFacts, Subject, World};
use ::service::{
    api::JobView,
    inventory::{Machine, Parts},
};
use cim::{Instance, Name, Schema};

/// A class and what makes instances of it. An association that joins things of different kinds has several rows.
pub struct Row {
    pub class: &'static str,
    pub make: Make,
}

pub enum Make {
    /// From the host itself.
    Host(fn(&World, &HostFacts) -> Vec<Instance>),
    /// From each VM.
    Vm(Parts, fn(&World, &Machine) -> Vec<Instance>),
    /// From each job.
    Job(fn(&World, &JobView) -> Vec<Instance>),
    /// Declared, and never with an instance; why.
    Never(&'static str),
}

/// The relationship alone.
const RELATIONSHIP: Parts = Parts { vm: false, points: false };
const VM: Parts = Parts { vm: true, points: false };
const POINTS: Parts = Parts { vm: true, points: true };

pub fn rows() -> impl Iterator<Item = &'static Row> {
    let families = [
        service::ROWS,
        authorization::ROWS,
        relationship::ROWS,
        settings::ROWS,
        statistics::ROWS,
        computer_system::ROWS,
        system_settings::ROWS,
        devices::ROWS,
        slots::ROWS,
        summary::ROWS,
        switches::ROWS,
        job::ROWS,
        associations::ROWS,
        cimv2::ROWS,
    ];
    families.into_iter().flatten()
}

/// The rows of a class and of its subclasses.
pub fn rows_of<'a>(schema: &'a Schema, class: &'a Name) -> impl Iterator<Item = &'static Row> + 'a {
    rows().filter(|row| schema.is_a(&row.class.into(), class))
}

impl Row {
    /// The instances that the subject has; none where it is of another kind.
    pub fn instances(&self, world: &World, subject: &Subject) -> Vec<Instance> {
        match (&self.make, subject) {
            (Make::Host(make), Subject::Host(facts)) => make(world, facts),
            (Make::Vm(_, make), Subject::Vm(machine)) => make(world, machine),
            (Make::Job(make), Subject::Job(view)) => make(world, view),
            _ => vec![],
        }
    }
}

const fn row(class: &'static str, make: Make) -> Row {
    Row { class, make }
}
