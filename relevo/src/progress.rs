//! Progress of a job while the operator waits: a bar on a terminal, otherwise a line per change of stage and
//! at most one every two seconds in between. All on stderr; nothing at all with `--json`.

use crate::render::{self, job::Pace};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use service::api::JobView;
use std::{
    io::{self, IsTerminal},
    time::Duration,
};

/// Seconds of the job's own time between two lines of the same stage.
const LINE_EVERY_S: f64 = 2.0;

pub struct Progress {
    pace: Pace,
    kind: Kind,
}

enum Kind {
    Silent,
    Lines(Lines),
    Bar(Option<ProgressBar>),
}

impl Progress {
    pub fn new(silent: bool) -> Self {
        let kind = if silent {
            Kind::Silent
        } else if io::stderr().is_terminal() {
            Kind::Bar(None)
        } else {
            Kind::Lines(Lines::default())
        };
        Self { pace: Pace::default(), kind }
    }

    pub fn show(&mut self, job: &JobView) {
        self.pace.observe(job);
        match &mut self.kind {
            Kind::Silent => {}
            Kind::Lines(lines) => {
                if lines.is_due(job) {
                    eprintln!("{}", render::printable(&render::job::progress(job, &self.pace)));
                }
            }
            Kind::Bar(bar) => {
                let bar = bar.get_or_insert_with(|| start(job));
                bar.set_position(u64::from(job.progress_percent));
                bar.set_message(render::printable(&render::job::progress(job, &self.pace)));
            }
        }
    }

    /// Takes the bar away, so that the answer stands alone.
    pub fn end(&mut self) {
        if let Kind::Bar(Some(bar)) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

fn start(job: &JobView) -> ProgressBar {
    eprintln!("job {} (an interrupt leaves it running; `relevo job watch` follows it again)", job.job);
    let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} [{bar:20}] {wide_msg}").expect("a fixed template");
    bar.set_style(style.progress_chars("=> "));
    // The spinner turns by itself: a job that is silent for a while is seen to be waited for.
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Which lines are worth printing.
#[derive(Default)]
struct Lines {
    last: Option<(String, f64)>,
}

impl Lines {
    fn is_due(&mut self, job: &JobView) -> bool {
        let due = match &self.last {
            Some((stage, at_s)) => *stage != job.stage || job.elapsed_s - at_s >= LINE_EVERY_S,
            None => true,
        };
        if due {
            self.last = Some((job.stage.clone(), job.elapsed_s));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_line_is_due_at_a_new_stage_or_after_two_seconds() {
        let mut lines = Lines::default();
        let mut due = |stage: &str, elapsed_s| {
            lines.is_due(&JobView { stage: stage.to_owned(), elapsed_s, ..samples::job() })
        };
        assert!(due("copying vda", 0.1));
        assert!(!due("copying vda", 1.0));
        assert!(!due("copying vda", 2.0));
        assert!(due("copying vda", 2.1));
        assert!(due("copying vdb", 2.2));
        assert!(!due("copying vdb", 4.1));
        assert!(due("copying vdb", 4.2));
    }
}
