//! `Msvm_ConcreteJob`: its errors, and how it is cancelled.

use super::{Answer, Call, How, Method, Refusal, call::invalid};
use crate::{errors, names, world};
use cim::{Role, Value, embedded};
use futures::{FutureExt, future::BoxFuture};
use model::JobId;
use service::api::{Command, ErrorKind, Failure, JobView};

const JOB: &str = "Msvm_ConcreteJob";

// Return codes of CIM_ConcreteJob.RequestStateChange.
const NOT_SUPPORTED: u32 = 1;
const INVALID_PARAMETER: u32 = 5;
const INVALID_TRANSITION: u32 = 4097;
const NO_TIMEOUT: u32 = 4098;

pub const METHODS: &[Method] = &[
    Method { class: JOB, name: "GetError", role: Role::Reader, how: How::Works(error), note: "" },
    Method { class: JOB, name: "GetErrorEx", role: Role::Reader, how: How::Works(errors), note: "" },
    Method {
        class: JOB,
        name: "RequestStateChange",
        role: Role::Operator,
        how: How::Works(request_state),
        note: "4 cancels, where Cancellable is TRUE; others 1",
    },
    Method {
        class: JOB,
        name: "KillJob",
        role: Role::Operator,
        how: How::Refused(NOT_SUPPORTED, "RequestStateChange cancels a job"),
        note: "",
    },
];

async fn view(call: &Call<'_>) -> Result<JobView, Refusal> {
    let id = call.target.key("InstanceID").and_then(Value::as_str).unwrap_or_default();
    let job: JobId = names::uuid(id).ok_or_else(|| invalid(format!("InstanceID {id:?} names no job")))?;
    let found = world::job(&call.hvr.host, &call.hvr.refusals, job).await;
    found.ok_or_else(|| {
        Failure::new(ErrorKind::NotFound, "job-unknown", format!("there is no job {job}")).into()
    })
}

/// The job's error as text; none where nothing failed.
async fn error_text(call: &Call<'_>) -> Result<Option<String>, Refusal> {
    let view = view(call).await?;
    let source = view.vm.map_or_else(|| names::job(view.job), names::vm);
    let error = view.failure.as_ref().map(|failure| errors::error(failure, &source));
    Ok(error.map(|error| embedded::write(&error, call.schema)))
}

fn error<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move { Ok(Answer::done().with("Error", error_text(call).await?)) }.boxed()
}

fn errors<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let texts: Vec<String> = error_text(call).await?.into_iter().collect();
        Ok(Answer::done().with("Errors", texts))
    }
    .boxed()
}

fn request_state<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let refuse = |code, kind, id: &str, message: String| {
            Err(Refusal { code, failure: Failure::new(kind, id, message) })
        };
        if let Some(Value::DateTime(timeout)) = call.value("TimeoutPeriod")
            && timeout.to_interval_ms() != Some(0)
        {
            let message = format!("TimeoutPeriod {timeout}: jobs are cancelled without a time limit");
            return refuse(NO_TIMEOUT, ErrorKind::NotSupported, "timeout", message);
        }
        match call.required_number("RequestedState")? {
            4 => {}
            other @ (2 | 3 | 5 | 6) => {
                let message = format!("RequestedState {other}: 4, terminate, is supported");
                return refuse(NOT_SUPPORTED, ErrorKind::NotSupported, "not-supported", message);
            }
            other => {
                let message = format!("RequestedState {other}: allowed is 4, terminate");
                return refuse(INVALID_PARAMETER, ErrorKind::InvalidParameter, "requested-state", message);
            }
        }
        let view = view(call).await?;
        if !view.cancellable {
            let message = format!("the job ({}) cannot be cancelled, or has ended", view.kind);
            return refuse(INVALID_TRANSITION, ErrorKind::InvalidState, "job-not-cancellable", message);
        }
        call.run(Command::JobCancel { job: view.job }).await
    }
    .boxed()
}
