//! Fire drill: a test failover that boots a point, waits for the guest's sign of life, notes what it saw and cleans
//! up. The test VM stays apart from the network, as in any test failover, and replication goes on.

use super::test::{self, TestVm};
use crate::{
    api::{ErrorKind, Failure, Reply},
    clock::now_ms,
    host::{Host, document},
    owner::blocking,
};
use model::{DeltaId, VmId};
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// A guest that has not answered by then is not alive.
const SIGN_OF_LIFE_MAX: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// `Msvm_ConcreteJob.JobType` of a test failover.
const JOB_TYPE: u16 = 102;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drill {
    pub at_ms: i64,
    pub point: DeltaId,
    pub passed: bool,
    pub message: String,
}

pub fn begin(host: &Arc<Host>, vm: &str, point: Option<&str>) -> Result<Reply, Failure> {
    let (record, mut test) = test::prepare(host, vm, point)?;
    host.put_document(record.vm, document::DRILLING, &true)?;
    let (job, cancel) = host.jobs.begin(Some((record.vm, &record.name)), "fire drill", JOB_TYPE);
    let worker = host.clone();
    host.tasks.spawn(async move {
        let (jobs, vm, name) = (worker.jobs.clone(), record.vm, record.name);
        let copy = worker.clone();
        let result = blocking(move || run(&copy, vm, &name, &mut test, &cancel)).await;
        crate::upkeep::after_point(&worker, vm);
        jobs.end(job, result);
    });
    host.jobs
        .view(job)
        .map(|view| Reply::Job(Box::new(view)))
        .ok_or_else(|| Failure::new(ErrorKind::Failed, "failed", "the job has vanished"))
}

fn run(
    host: &Host,
    vm: VmId,
    name: &str,
    test: &mut TestVm,
    cancel: &CancellationToken,
) -> Result<String, Failure> {
    let seen = test::make(host, vm, test, true)
        .map_err(|failure| failure.message)
        .and_then(|()| sign_of_life(host, test.vm, cancel));
    if host.shutdown.is_cancelled() {
        // The next start cleans up.
        return Err(Failure::new(ErrorKind::Cancelled, "cancelled", "the daemon was stopped"));
    }
    let passed = seen.is_ok();
    let message = match seen {
        Ok(after) => format!("the guest answered after {:.1} s", after.as_secs_f64()),
        Err(why) => why,
    };
    let drill = Drill { at_ms: now_ms(), point: test.point, passed, message };
    host.put_document(vm, document::LAST_DRILL, &drill)?;
    clean_up(host, vm)?;
    let message = format!("{name}, point {}: {}", drill.point, drill.message);
    tracing::info!(vm = %name, passed, message, "fire drill");
    if passed { Ok(message) } else { Err(Failure::new(ErrorKind::Failed, "drill", message)) }
}

/// Waits until the guest's agent answers; how long that took.
fn sign_of_life(host: &Host, vm: VmId, cancel: &CancellationToken) -> Result<Duration, String> {
    let began = Instant::now();
    loop {
        let domain = host.hypervisor.sketch(vm).ok().flatten();
        match domain {
            Some(domain) if domain.guest_agent.is_none() => {
                return Err(
                    "the VM has no channel for a guest agent: nothing tells whether it lives".to_owned()
                );
            }
            Some(domain) if domain.state != hypervisor::DomainState::Running => {
                return Err("the test VM does not run any more".to_owned());
            }
            Some(_) => {}
            None => return Err("the test VM is gone".to_owned()),
        }
        if matches!(host.hypervisor.agent_answers(vm, ANSWER_MAX), Ok(true)) {
            return Ok(began.elapsed());
        }
        if cancel.is_cancelled() || host.shutdown.is_cancelled() {
            return Err("it was cancelled".to_owned());
        }
        if began.elapsed() > SIGN_OF_LIFE_MAX {
            return Err(format!("the guest gave no sign of life within {} s", SIGN_OF_LIFE_MAX.as_secs()));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Removes what a drill made; one that was interrupted, too.
pub fn clean_up(host: &Host, vm: VmId) -> Result<(), Failure> {
    if is_under_way(host, vm) {
        test::remove(host, vm)?;
        host.drop_document(vm, document::DRILLING)?;
    }
    Ok(())
}

pub fn is_under_way(host: &Host, vm: VmId) -> bool {
    host.document::<bool>(vm, document::DRILLING).ok().flatten() == Some(true)
}

pub fn last(host: &Host, vm: VmId) -> Option<Drill> {
    host.document(vm, document::LAST_DRILL).ok().flatten()
}
