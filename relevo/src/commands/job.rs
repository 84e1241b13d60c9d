//! `relevo job`: operations that take longer than a moment.

use super::unambiguous;
use crate::client::Client;
use clap::{Args, Subcommand};
use model::JobId;
use service::api::{Command, ErrorKind, Failure, Reply};

#[derive(Debug, Subcommand)]
pub enum JobAction {
    List(ListArgs),
    Show(ShowArgs),
    Watch(WatchArgs),
    Cancel(CancelArgs),
}

/// List the jobs of this host; an ended one is shown for five minutes
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that carries the jobs out.\n\nExample:\n  relevo job list")]
pub struct ListArgs {}

/// Show one job
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that carries the job out.\n\nExample:\n  relevo job show 5d0c")]
pub struct ShowArgs {
    /// The job's id, or the beginning of it
    job: String,
}

/// Follow a job until it ends; the exit code is the job's
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that carries the job out.\n\nExample:\n  relevo job watch 5d0c")]
pub struct WatchArgs {
    /// The job's id, or the beginning of it
    job: String,
}

/// Cancel a job
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host that carries the job out.\n\nExample:\n  relevo job cancel 5d0c")]
pub struct CancelArgs {
    /// The job's id, or the beginning of it
    job: String,
}

impl JobAction {
    pub fn command(self, client: &Client) -> Result<Command, Failure> {
        Ok(match self {
            Self::List(_) => Command::JobList,
            Self::Show(ShowArgs { job }) => Command::JobShow { job: find(&job, client)? },
            Self::Watch(WatchArgs { job }) => Command::JobWatch { job: find(&job, client)? },
            Self::Cancel(CancelArgs { job }) => Command::JobCancel { job: find(&job, client)? },
        })
    }
}

fn find(text: &str, client: &Client) -> Result<JobId, Failure> {
    if let Ok(job) = text.parse() {
        return Ok(job);
    }
    match client.look(Command::JobList)? {
        Reply::Jobs(jobs) => {
            let ids: Vec<JobId> = jobs.iter().map(|job| job.job).collect();
            unambiguous(&ids, text, "job", "relevo job list")
        }
        _ => Err(Failure::new(
            ErrorKind::Failed,
            "answer-unexpected",
            "the daemon did not answer with its jobs",
        )),
    }
}
