//! Methods: a table from each to its function, the role that it takes, and what of it is refused. A refusal is a
//! return value, and an `Msvm_Error` that can be asked for through `Job`.

mod addresses;
mod authorization;
mod call;
mod failover;
mod job;
mod relationship;
mod resources;
mod service;
pub mod settings;
mod states;
mod statistics;
mod system;

pub use call::{Answer, Call, Refusal};

use crate::{errors::codes, names, provider::Hvr};
use ::service::api::{ErrorKind, Failure};
use cim::{Caller, Class, Error, MethodResult, Name, ObjectPath, Role, Value};
use futures::future::BoxFuture;

pub type Handler = for<'a> fn(&'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>>;

/// A method, as the class names it that clients call.
pub struct Method {
    pub class: &'static str,
    pub name: &'static str,
    pub role: Role,
    pub how: How,
    /// What of it is refused, or worth knowing; empty where nothing is.
    pub note: &'static str,
}

pub enum How {
    Works(Handler),
    /// Answers this return code; why.
    Refused(u32, &'static str),
}

pub const NOT_SUPPORTED: u32 = 32770;
const JOB_STARTED: u32 = 4096;
const ACCESS_DENIED: u32 = 32769;

pub fn methods() -> impl Iterator<Item = &'static Method> {
    let families = [
        authorization::METHODS,
        relationship::METHODS,
        failover::METHODS,
        addresses::METHODS,
        statistics::METHODS,
        service::METHODS,
        states::METHODS,
        system::METHODS,
        job::METHODS,
    ];
    families.into_iter().flatten()
}

pub fn find(class: &Name, name: &Name) -> Option<&'static Method> {
    methods().find(|method| class.is(method.class) && name.is(method.name))
}

/// Calls a method; its arguments are checked against the schema.
pub async fn invoke(
    hvr: &Hvr,
    caller: &Caller,
    target: &ObjectPath,
    name: &Name,
    arguments: Vec<(Name, Value)>,
) -> Result<MethodResult, Error> {
    let schema = hvr.v2().clone();
    let class = schema.require(&target.class)?;
    let Some(method) = find(&target.class, name) else {
        return Err(Error::new(
            cim::Status::MethodNotAvailable,
            format!("{}.{name} is not available", target.class),
        ));
    };
    if target.is_class() {
        let message = format!("{}.{name} is called on an instance, not on the class", target.class);
        return Err(Error::new(cim::Status::InvalidParameter, message));
    }
    let call = Call { hvr, caller, target, arguments, schema: &schema };
    let result =
        if caller.role < method.role { Err(denied(method, caller)) } else { run(&call, method).await };
    let (code, out) = match result {
        Ok(answer) => answered(answer),
        Err(refusal) => refused(&call, class, method, refusal),
    };
    if method.role > Role::Reader {
        audit(&call, method, code);
    }
    Ok(MethodResult { return_value: Value::Uint32(code), out })
}

async fn run(call: &Call<'_>, method: &Method) -> Result<Answer, Refusal> {
    match method.how {
        How::Works(handler) => handler(call).await,
        How::Refused(code, why) => {
            let message = format!("{} is not supported: {why}", method.name);
            Err(Refusal { code, failure: Failure::new(ErrorKind::NotSupported, "not-supported", message) })
        }
    }
}

fn denied(method: &Method, caller: &Caller) -> Refusal {
    let message =
        format!("{} takes the role {:?}; {} has {:?}", method.name, method.role, caller.user, caller.role);
    let failure = Failure::new(ErrorKind::AccessDenied, "role", message.to_ascii_lowercase());
    Refusal { code: ACCESS_DENIED, failure }
}

fn answered(answer: Answer) -> (u32, Vec<(Name, Value)>) {
    let mut out = answer.out;
    let code = match answer.job {
        Some(job) => {
            out.push(("Job".into(), names::job(job).into()));
            JOB_STARTED
        }
        None => answer.code,
    };
    (code, out)
}

/// The return code, and the job that holds the error where the method has a place for it.
fn refused(call: &Call<'_>, class: &Class, method: &Method, refusal: Refusal) -> (u32, Vec<(Name, Value)>) {
    let declared = class.method(method.name).and_then(|declared| declared.parameter("Job"));
    let out = declared.filter(|job| job.is_out()).map(|_| {
        let job = call.hvr.refusals.keep(call.about(), method.name, refusal.failure);
        (Name::from("Job"), Value::from(names::job(job)))
    });
    (refusal.code, out.into_iter().collect())
}

fn audit(call: &Call<'_>, method: &Method, result: u32) {
    let Caller { user, role, address, .. } = call.caller;
    let (class, method) = (method.class, method.name);
    let address = address.map(|address| address.to_string());
    let about = call.about().map(|vm| vm.to_string());
    let target = about.unwrap_or_else(|| call.target.relative());
    tracing::info!(target: "audit", user, address, ?role, class, method, on = target, result);
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal { code: codes(&failure).return_code, failure }
    }
}
