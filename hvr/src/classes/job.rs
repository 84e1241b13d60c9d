//! `Msvm_ConcreteJob` and `Msvm_Error`.

use super::{Make, Row, row};
use crate::{
    errors,
    instance::{datetime, interval, unix_ms},
    names::guid,
    world::time_before_removal,
};
use cim::{DateTime, Instance};
use service::api::{JobState, JobView};

pub const ROWS: &[Row] = &[
    row("Msvm_ConcreteJob", Make::Job(|_, view| vec![job(view)])),
    row("Msvm_Error", Make::Never("it is only ever embedded: in GetError, GetErrorEx and health issues")),
];

pub fn job(view: &JobView) -> Instance {
    let failure = view.failure.as_ref();
    let ended = view.state.has_ended();
    let changed =
        unix_ms(&view.submitted_at).map(|at| at + if ended { (view.elapsed_s * 1000.0) as i64 } else { 0 });
    Instance::new("Msvm_ConcreteJob")
        .with("InstanceID", guid(view.job))
        .with("Name", view.kind.as_str())
        .with("ElementName", view.kind.as_str())
        .with("Caption", view.kind.as_str())
        .with("Description", view.outcome.as_deref().or(view.vm_name.as_deref()))
        .with("JobType", view.kind_number)
        .with("JobState", view.state as u16)
        .with("JobStatus", status(view))
        .with("PercentComplete", u16::from(view.progress_percent))
        .with("Cancellable", view.cancellable)
        .with("TimeSubmitted", datetime(&view.submitted_at))
        .with("StartTime", datetime(&view.submitted_at))
        .with("ElapsedTime", interval(view.elapsed_s))
        .with("TimeOfLastStateChange", changed.map(DateTime::from_unix_ms))
        .with("TimeBeforeRemoval", time_before_removal())
        .with("DeleteOnCompletion", true)
        .with("ErrorCode", error_code(view))
        .with("ErrorDescription", failure.map(|failure| failure.message.as_str()))
        .with("ErrorSummaryDescription", failure.map(|failure| failure.message.as_str()))
        .with("HealthState", 5u16)
        .with("OperationalStatus", vec![2u16])
        .with("StatusDescriptions", vec!["OK"])
}

fn status(view: &JobView) -> String {
    match view.state {
        JobState::Completed => "Completed".to_owned(),
        JobState::Terminated => "Cancelled".to_owned(),
        JobState::Exception => "Failed".to_owned(),
        _ if view.stage.is_empty() => "Running".to_owned(),
        _ => view.stage.clone(),
    }
}

/// 0 while nothing has failed; the return codes of the methods do not exceed 16 bits.
fn error_code(view: &JobView) -> u16 {
    let code = view.failure.as_ref().map_or(0, |failure| errors::codes(failure).return_code);
    u16::try_from(code).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn a_job_that_names_no_stage_is_running() {
        let running =
            |stage: &str| JobView { state: JobState::Running, stage: stage.into(), ..samples::job() };
        assert_eq!(job(&running("")).text("JobStatus"), Some("Running"));
        assert_eq!(job(&running("ship")).text("JobStatus"), Some("ship"));
    }
}
