//! A call: who calls what with which arguments, and how these are read. What is wrong with one is told with its
//! name, its value, and what is allowed.

use crate::{
    errors::UNKNOWN_VM,
    names::{self, uuid, uuids},
    provider::Hvr,
    world::{self, ask},
};
use cim::{Caller, DateTime, Instance, Name, ObjectPath, Schema, Value, embedded};
use model::{DeltaId, JobId, VmId};
use service::{
    api::{Command, ErrorKind, Failure, Reply},
    inventory::{Machine, Parts, Replication},
};
use std::time::SystemTime;

pub struct Call<'a> {
    pub hvr: &'a Hvr,
    pub caller: &'a Caller,
    pub target: &'a ObjectPath,
    pub arguments: Vec<(Name, Value)>,
    pub schema: &'a Schema,
}

/// What a method answers.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// The return code where no job was started.
    pub code: u32,
    pub job: Option<JobId>,
    pub out: Vec<(Name, Value)>,
}

/// A refusal, and the code that says so.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub code: u32,
    pub failure: Failure,
}

/// What recovery points are instances of.
const POINT: &str = "Msvm_VirtualSystemSettingData";

/// How far a start time may lie from now and still mean now: clients send the time at which they call, by a clock
/// of their own.
const NOW_MS: std::ops::RangeInclusive<i64> = -60_000..=5_000;

impl Answer {
    /// Done at once.
    pub fn done() -> Answer {
        Answer::default()
    }

    pub fn job(job: JobId) -> Answer {
        Answer { job: Some(job), ..Answer::default() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Answer {
        self.out.push((name.into(), value.into()));
        self
    }
}

/// A refusal for what was asked for wrongly.
pub fn invalid(message: impl Into<String>) -> Refusal {
    Failure::new(ErrorKind::InvalidParameter, "invalid-parameter", message).into()
}

/// A refusal for what is of another type, or another class, than the method declares.
pub fn wrong_type(message: impl Into<String>) -> Refusal {
    const INCORRECT_TYPE: u32 = 32776;
    let failure = Failure::new(ErrorKind::InvalidParameter, "incorrect-type", message);
    Refusal { code: INCORRECT_TYPE, failure }
}

/// A refusal for what cannot be done here at all.
pub fn unsupported(message: impl Into<String>) -> Refusal {
    Failure::new(ErrorKind::NotSupported, "not-supported", message).into()
}

/// A refusal for what cannot be done now.
pub fn wrong_state(message: impl Into<String>) -> Refusal {
    Failure::new(ErrorKind::InvalidState, "invalid-state", message).into()
}

impl Call<'_> {
    /// The VM that the call is about, as far as its arguments and its target tell.
    pub fn about(&self) -> Option<VmId> {
        let argument = ["ComputerSystem", "AffectedSystem"].iter().find_map(|name| self.path(name));
        uuids(argument.unwrap_or(self.target)).into_iter().next()
    }

    /// An argument; none where it is absent or NULL.
    pub fn value(&self, name: &str) -> Option<&Value> {
        let found = self.arguments.iter().find(|(own, _)| own.is(name));
        found.map(|(_, value)| value).filter(|value| !value.is_null())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str().filter(|text| !text.is_empty())
    }

    pub fn path(&self, name: &str) -> Option<&ObjectPath> {
        self.value(name)?.as_path()
    }

    pub fn number(&self, name: &str) -> Option<u32> {
        self.value(name)?.as_i128().and_then(|number| u32::try_from(number).ok())
    }

    pub fn required_number(&self, name: &str) -> Result<u32, Refusal> {
        self.number(name).ok_or_else(|| invalid(format!("{name} is missing")))
    }

    /// The VM that a reference argument names.
    pub fn vm_argument(&self, name: &str) -> Result<VmId, Refusal> {
        let path =
            self.path(name).ok_or_else(|| invalid(format!("{name} is missing: a reference to a VM")))?;
        if !path.class.is(names::COMPUTER_SYSTEM) {
            return Err(wrong_type(format!("{name} {path} refers to no {}", names::COMPUTER_SYSTEM)));
        }
        let named = path.key("Name").and_then(Value::as_str).unwrap_or_default();
        uuid(named).ok_or_else(|| unknown_vm(named))
    }

    /// What is known of the VM in `ComputerSystem`.
    pub async fn machine(&self, parts: Parts) -> Result<Machine, Refusal> {
        let vm = self.vm_argument("ComputerSystem")?;
        self.look_at(vm, parts).await
    }

    pub async fn look_at(&self, vm: VmId, parts: Parts) -> Result<Machine, Refusal> {
        world::machine(&self.hvr.host, vm, parts).await?.ok_or_else(|| unknown_vm(&names::guid(vm)))
    }

    /// The relationship of the VM in `ComputerSystem`. 32775 where it has none.
    pub async fn replication(&self) -> Result<Replication, Refusal> {
        let machine = self.machine(Parts::default()).await?;
        replication(machine)
    }

    /// The point that a reference argument names; none where it is absent. Another VM's is refused.
    pub async fn point(&self, name: &str) -> Result<Option<DeltaId>, Refusal> {
        let Some(path) = self.path(name) else { return Ok(None) };
        if !self.schema.is_a(&path.class, &POINT.into()) {
            return Err(wrong_type(format!("{name} {path} refers to no {POINT}")));
        }
        let point =
            names::point(path).ok_or_else(|| invalid(format!("{name} {path} names no recovery point")))?;
        let machine = self.machine(Parts { vm: false, points: true }).await?;
        if machine.points.iter().any(|kept| kept.point == point) {
            return Ok(Some(point));
        }
        let message = format!("{name}: the recovery point {point} is not one of this VM's, or not any more");
        Err(Failure::new(ErrorKind::NotFound, "point-unknown", message).into())
    }

    /// The point that an argument names by its InstanceID, or by a path in text; none where it is absent. It may be one of
    /// the other host's: whether it is there is not looked at.
    pub fn point_identifier(&self, name: &str) -> Result<Option<DeltaId>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let none = || {
            invalid(format!(
                "{name} {text:?} names no recovery point: allowed is the InstanceID of a {POINT}"
            ))
        };
        match text.parse::<ObjectPath>() {
            Ok(path) if !path.bindings().is_empty() => {
                if !self.schema.is_a(&path.class, &POINT.into()) {
                    return Err(wrong_type(format!("{name} {path} refers to no {POINT}")));
                }
                names::point(&path).map(Some).ok_or_else(none)
            }
            _ => names::uuid(text).map(Some).ok_or_else(none),
        }
    }

    /// An argument with an embedded instance of this class; none where it is absent.
    pub fn embedded(&self, name: &str, class: &str) -> Result<Option<Instance>, Refusal> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let instance = embedded::of_value(value, self.schema)
            .map_err(|error| invalid(format!("{name} is no instance of {class}: {error}")))?;
        match instance {
            Some(instance) if !self.schema.is_a(&instance.class, &class.into()) => {
                Err(wrong_type(format!("{name} is an instance of {}; {class} is expected", instance.class)))
            }
            instance => Ok(instance),
        }
    }

    pub fn required_embedded(&self, name: &str, class: &str) -> Result<Instance, Refusal> {
        self.embedded(name, class)?
            .ok_or_else(|| invalid(format!("{name} is missing: an instance of {class}")))
    }

    /// The relationship of the machine that the argument `ReplicationRelationship` names. Absent means the primary
    /// one. 32775 where the VM has no such relationship.
    pub fn relationship(&self, machine: Machine) -> Result<Replication, Refusal> {
        match self.index(machine.id)? {
            0 => replication(machine),
            _ => extended(machine),
        }
    }

    fn index(&self, vm: VmId) -> Result<u16, Refusal> {
        let Some(given) = self.embedded("ReplicationRelationship", "Msvm_ReplicationRelationship")? else {
            return Ok(0);
        };
        let id = given.text("InstanceID").unwrap_or_default();
        let allowed = [0, 1].map(|index| names::relationship_id(vm, index));
        let index = (0..).zip(&allowed).find(|(_, known)| id.eq_ignore_ascii_case(known));
        index.map(|(index, _)| index).ok_or_else(|| {
            let allowed = allowed.join("\", \"");
            invalid(format!(
                "ReplicationRelationship: InstanceID {id:?} is not that of this VM: \"{allowed}\""
            ))
        })
    }

    /// When something is to begin; none means now. A time that has passed is 32773.
    pub fn start_time(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let Value::DateTime(start) = value else {
            return Err(invalid(format!("{name} {value} is no datetime")));
        };
        let now_ms = now_ms();
        match start {
            DateTime::Interval(_) if start.to_interval_ms() == Some(0) => Ok(None),
            _ => match start.to_unix_ms() {
                Some(at) if NOW_MS.contains(&(at - now_ms)) => Ok(None),
                Some(at) if at > now_ms => Ok(Some(at)),
                Some(_) => Err(invalid(format!(
                    "{name} {start} has passed: allowed are NULL, for now, and up to seven days ahead"
                ))),
                None => Err(invalid(format!("{name} {start} is no point in time"))),
            },
        }
    }

    /// Carries out a command on a VM: done at once, or a job that was started.
    pub async fn run(&self, command: Command) -> Result<Answer, Refusal> {
        match ask(&self.hvr.host, command).await? {
            Reply::Job(view) => Ok(Answer::job(view.job)),
            _ => Ok(Answer::done()),
        }
    }

    /// Carries out a command that takes effect at once, but not soon, under a job of this type.
    pub fn in_background(
        &self,
        vm: Option<(VmId, &str)>,
        kind: &str,
        job_type: u16,
        command: Command,
    ) -> Result<Answer, Refusal> {
        let view = service::in_background(&self.hvr.host, vm, kind, job_type, command)?;
        Ok(Answer::job(view.job))
    }
}

pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

pub fn replication(machine: Machine) -> Result<Replication, Refusal> {
    let name = names::guid(machine.id);
    machine.replication.ok_or_else(|| {
        Failure::new(ErrorKind::InvalidState, "not-protected", format!("the VM {name} is not replicated"))
            .into()
    })
}

/// The relationship that forwards the machine's replica.
pub fn extended(machine: Machine) -> Result<Replication, Refusal> {
    let name = names::guid(machine.id);
    machine.extended.ok_or_else(|| {
        wrong_state(format!("the VM {name} is not forwarded from here: it has no relationship 1"))
    })
}

/// The command, of the relationship that is meant.
pub fn command_of(index: u16, command: Command) -> Command {
    if index == 0 { command } else { Command::Extended { command: Box::new(command) } }
}

fn unknown_vm(name: &str) -> Refusal {
    let message = format!("there is no VM {name} on this host");
    Failure::new(ErrorKind::NotFound, UNKNOWN_VM, message).into()
}
