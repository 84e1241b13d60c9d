//! Jobs, their pace, and the plans of dangerous commands.

use super::{
    or_dash,
    table::{Table, fields, indented},
    units::{duration, rate, size},
};
use crate::output::failure_text;
use service::api::{JobState, JobView, PlanView};

/// How fast a job goes, from its own reports. The rate is smoothed over about [`Self::SMOOTHING_S`] seconds:
/// long enough not to jitter, short enough to follow a link that slows down.
#[derive(Debug, Default)]
pub struct Pace {
    /// Elapsed seconds and bytes at the last report.
    last: Option<(f64, u64)>,
    bytes_per_s: Option<f64>,
}

impl Pace {
    const SMOOTHING_S: f64 = 5.0;

    pub fn observe(&mut self, job: &JobView) {
        let Some((at_s, bytes)) = self.last else {
            self.last = Some((job.elapsed_s, job.bytes_done));
            return;
        };
        if job.bytes_done < bytes {
            // A new stage counts from zero; its speed has nothing to do with the last one's.
            *self = Self { last: Some((job.elapsed_s, job.bytes_done)), bytes_per_s: None };
            return;
        }
        let passed_s = job.elapsed_s - at_s;
        if passed_s <= 0.0 {
            return;
        }
        let now = (job.bytes_done - bytes) as f64 / passed_s;
        let weight = 1.0 - (-passed_s / Self::SMOOTHING_S).exp();
        self.bytes_per_s = Some(self.bytes_per_s.map_or(now, |before| before + weight * (now - before)));
        self.last = Some((job.elapsed_s, job.bytes_done));
    }

    /// Bytes per second; `None` until two reports with progress between them.
    pub fn bytes_per_s(&self) -> Option<f64> {
        self.bytes_per_s.filter(|rate| *rate >= 1.0)
    }

    pub fn left_s(&self, job: &JobView) -> Option<f64> {
        let left = job.bytes_total.checked_sub(job.bytes_done).filter(|left| *left > 0)?;
        Some(left as f64 / self.bytes_per_s()?)
    }
}

/// One line: what, how far, how fast, how long still.
pub fn progress(job: &JobView, pace: &Pace) -> String {
    let mut parts = vec![match job.stage.is_empty() {
        true => title(job),
        false => format!("{}: {}", title(job), job.stage),
    }];
    parts.push(format!("{} %", job.progress_percent));
    if job.bytes_total > 0 {
        parts.push(format!("{} of {}", size(job.bytes_done), size(job.bytes_total)));
        parts.extend(pace.bytes_per_s().map(rate));
        parts.extend(pace.left_s(job).map(|left| format!("{} left", duration(left))));
    }
    parts.join(", ")
}

pub fn list(views: &[JobView]) -> String {
    if views.is_empty() {
        return "there is no job, and none ended in the last five minutes".to_owned();
    }
    let mut table = Table::new(&["JOB", "VM", "WHAT", "STATE", "DONE", "FOR", "STAGE"]).right(&[4, 5]);
    for view in views {
        table.row([
            view.job.to_string(),
            or_dash(view.vm_name.clone()),
            view.kind.clone(),
            state(view.state).to_owned(),
            format!("{} %", view.progress_percent),
            duration(view.elapsed_s),
            view.stage.clone(),
        ]);
    }
    table.text()
}

pub fn show(view: &JobView) -> String {
    let facts = fields(&[
        ("job", view.job.to_string()),
        ("state", state(view.state).to_owned()),
        (
            "done",
            format!("{} %, {} of {}", view.progress_percent, size(view.bytes_done), size(view.bytes_total)),
        ),
        ("stage", if view.stage.is_empty() { "-".to_owned() } else { view.stage.clone() }),
        ("submitted", format!("{}, running for {}", view.submitted_at, duration(view.elapsed_s))),
        ("can be cancelled", if view.cancellable { "yes" } else { "no" }.to_owned()),
    ]);
    let mut text = format!("{}\n{}", title(view), indented(&facts));
    if let Some(outcome) = &view.outcome {
        text.push_str(&format!("\n\n{}", indented(outcome)));
    }
    if let Some(failure) = &view.failure {
        text.push_str(&format!("\n\n{}", indented(&failure_text(failure))));
    }
    text
}

/// What a dangerous command would do, before the question.
pub fn plan(view: &PlanView) -> String {
    let mut text = view.title.clone();
    for (index, step) in view.steps.iter().enumerate() {
        text.push_str(&format!("\n  {}. {step}", index + 1));
    }
    text.push('\n');
    if view.losses.is_empty() {
        text.push_str("Nothing is lost.");
    } else {
        text.push_str("Stopped or lost:");
        for loss in &view.losses {
            text.push_str(&format!("\n  - {loss}"));
        }
    }
    match view.peer_answers {
        Some(true) => text.push_str("\nThe other host answers."),
        Some(false) => text.push_str("\nTHE OTHER HOST DOES NOT ANSWER: it may still run the VM."),
        None => {}
    }
    text
}

fn title(job: &JobView) -> String {
    match &job.vm_name {
        Some(name) => format!("{} of {name}", job.kind),
        None => job.kind.clone(),
    }
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::New => "new",
        JobState::Starting => "starting",
        JobState::Running => "running",
        JobState::Suspended => "suspended",
        JobState::Completed => "completed",
        JobState::Terminated => "cancelled",
        JobState::Exception => "failed",
    }
}
