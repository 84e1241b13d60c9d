//! The owner of a relationship: one task per VM that has the record, takes one event at a time, persists what
//! the engine decides, then has it carried out. Nobody else writes the record.
//!
//! ```text
//! mail ──▶ apply(event) ──▶ persist the record ──▶ carry out the effects ──▶ mail
//! ```

mod peer;
mod vm;

use crate::{
    api::{ErrorKind, Failure},
    changes::Change,
    clock::now_ms,
    host::{Host, document},
    jobs::{Progress, work_kind},
    peer::{Answer, Message, PeerRequest, PeerResult, text::SetText},
    steps,
};
use engine::{
    Context, Effect, Event, OfferAnswer, Operation, Refusal, Relationship, Standing, Step, StepFailure,
    StepResult,
};
use model::{DeltaId, DiskId, Generation, JobId, Mode, ReplicationState, VmId};
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use transport::Mark;

/// Mail that waits for an owner; a sender waits when it is full.
const MAIL_MAX: usize = 64;
/// How often a host that has something to hear or to say greets its peer.
const GREET_EVERY_MS: i64 = 5_000;
/// The longest sleep between two looks at the clock, so that a clock that jumps is noticed.
const TICK_MAX_MS: i64 = 1_000;

#[derive(Clone)]
pub struct OwnerHandle {
    pub vm: VmId,
    /// The delta that is being received, if one is.
    pub receiving: Arc<Mutex<Option<DeltaId>>>,
    mail: mpsc::Sender<Mail>,
    snapshot: Arc<Mutex<Snapshot>>,
}

/// What can be seen of an owner without asking it.
#[derive(Clone)]
pub struct Snapshot {
    pub record: Relationship,
    pub job: Option<JobId>,
    pub progress: Arc<Progress>,
}

pub enum Mail {
    Operate {
        operation: Operation,
        job: Option<JobId>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Peer {
        message: Box<Message>,
        reply: oneshot::Sender<Answer>,
    },
    /// An operator cancels the job: its step is asked to stop, and the turn is taken back.
    CancelJob(JobId),
    StepEnded(Result<StepResult, StepFailure>),
    Greeted(Result<Standing, String>),
    Power {
        running: bool,
    },
    /// A delta has arrived whole and its files are durable: make it a point, if it still may be one.
    Commit {
        delta: DeltaId,
        sealed: Box<layers::Sealed>,
        generation: Generation,
        base: Option<DeltaId>,
        reply: oneshot::Sender<Result<(), OfferAnswer>>,
    },
    Release {
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// Change what nothing follows from: settings, counters.
    Amend {
        amend: Amend,
        reply: oneshot::Sender<()>,
    },
    /// Stop owning: the relationship is removed.
    Stop {
        reply: oneshot::Sender<()>,
    },
}

type Amend = Box<dyn FnOnce(&mut Relationship) + Send>;

/// The operation that a job stands for, kept so that the job survives a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct JobLink {
    job: JobId,
    operation: Operation,
}

struct Owner {
    host: Arc<Host>,
    record: Relationship,
    mail: mpsc::Sender<Mail>,
    snapshot: Arc<Mutex<Snapshot>>,
    job: Option<JobLink>,
    progress: Arc<Progress>,
    step: Option<CancellationToken>,
    last_failure: Option<String>,
    greeted_ms: i64,
    /// When the overlays' size was last looked at.
    measured_ms: i64,
    greeting: bool,
    /// Start the VM once the peer has answered, or at this time.
    autostart_ms: Option<i64>,
}

impl OwnerHandle {
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn mode(&self) -> Mode {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).record.mode
    }

    pub fn record(&self) -> Relationship {
        self.snapshot().record
    }

    pub async fn operate(&self, operation: Operation, job: Option<JobId>) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Mail::Operate { operation, job, reply }).await;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn peer(&self, message: Message) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        self.send(Mail::Peer { message: Box::new(message), reply }).await;
        answer.await.ok()
    }

    pub async fn release(&self) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Mail::Release { reply }).await;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Changes settings or counters of the record, durably.
    pub async fn amend(&self, amend: impl FnOnce(&mut Relationship) + Send + 'static) -> Result<(), Failure> {
        let (reply, amended) = oneshot::channel();
        self.send(Mail::Amend { amend: Box::new(amend), reply }).await;
        amended.await.map_err(|_| gone())
    }

    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        self.send(Mail::Stop { reply }).await;
        let _ = stopped.await;
    }

    pub async fn send(&self, mail: Mail) {
        // An owner that has stopped drops the mail; the sender's reply channel tells.
        let _ = self.mail.send(mail).await;
    }
}

fn gone() -> Failure {
    Failure::new(ErrorKind::InvalidState, "not-protected", "the relationship was removed meanwhile")
}

/// Starts the owner of `record`; it runs until it is stopped or the host shuts down.
pub fn start(host: Arc<Host>, record: Relationship) -> OwnerHandle {
    let (mail, inbox) = mpsc::channel(MAIL_MAX);
    let progress = Arc::new(Progress::default());
    let snapshot = Snapshot { record: record.clone(), job: None, progress: progress.clone() };
    let snapshot = Arc::new(Mutex::new(snapshot));
    let handle = OwnerHandle {
        vm: record.vm,
        receiving: Arc::default(),
        mail: mail.clone(),
        snapshot: snapshot.clone(),
    };
    let job = host.document(record.vm, document::JOB).ok().flatten();
    let owner = Owner {
        host: host.clone(),
        record,
        mail,
        snapshot,
        job,
        progress,
        step: None,
        last_failure: None,
        greeted_ms: 0,
        measured_ms: 0,
        greeting: false,
        autostart_ms: None,
    };
    host.tasks.spawn(owner.run(inbox));
    handle
}

/// The jobs that the relationships of an earlier run were busy with.
pub fn live_job(host: &Host, record: &Relationship) -> Option<JobId> {
    let link: JobLink = host.document(record.vm, document::JOB).ok().flatten()?;
    stands_for(&link.operation, record).then_some(link.job)
}

/// Is the record still busy with this operation.
fn stands_for(operation: &Operation, record: &Relationship) -> bool {
    let waits = record.waiting.as_ref() == Some(operation);
    let works = record.work.as_ref().is_some_and(|work| {
        work_kind(operation) == Some(work.kind) || work.kind == engine::WorkKind::Abandon
    });
    waits || works
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Mail>) {
        if let Err(failure) = self.reconcile().await {
            tracing::error!(vm = %self.record.name, %failure, "cannot reconcile after the start");
        }
        if let Some(work) = &self.record.work {
            let step = work.step().map_or("", Step::name);
            tracing::info!(vm = %self.record.name, work = work.kind.name(), step, "resuming");
        }
        self.apply(Event::Started).await;
        loop {
            let wait = self.until_next();
            let mail = tokio::select! {
                biased;
                () = self.host.shutdown.cancelled() => break,
                mail = inbox.recv() => mail,
                () = tokio::time::sleep(wait) => None,
            };
            match mail {
                Some(Mail::Stop { reply }) => {
                    self.stop_step(&mut inbox).await;
                    let _ = reply.send(());
                    return;
                }
                Some(mail) => self.handle(mail).await,
                None => {}
            }
            self.on_time().await;
        }
        self.stop_step(&mut inbox).await;
    }

    /// Asks the running step to stop and waits for it; its result is lost, as in a crash.
    async fn stop_step(&mut self, inbox: &mut mpsc::Receiver<Mail>) {
        let Some(step) = self.step.take() else { return };
        step.cancel();
        while let Some(mail) = inbox.recv().await {
            if matches!(mail, Mail::StepEnded(_)) {
                return;
            }
        }
    }

    fn until_next(&self) -> Duration {
        let r = &self.record;
        let now = now_ms();
        let mut next = now + TICK_MAX_MS;
        if let Some(until) = r.retry.until_ms {
            next = next.min(until);
        }
        if r.mode == Mode::Primary && r.work.is_none() && r.state == ReplicationState::Replicating {
            next = next.min(r.next_cycle_ms.max(r.retry.until_ms.unwrap_or(0)));
        }
        Duration::from_millis(u64::try_from((next - now).max(0)).unwrap_or(0) + 1)
    }

    async fn on_time(&mut self) {
        let now = now_ms();
        let r = &self.record;
        let due = r.retry.until_ms.is_some_and(|until| now >= until)
            || (r.work.is_none() && r.mode == Mode::Primary && now >= r.next_cycle_ms);
        if due {
            self.apply(Event::Tick).await;
        }
        if self.autostart_ms.is_some_and(|at| now >= at) {
            self.autostart().await;
        }
        if self.record.mode == Mode::Primary && now - self.measured_ms >= self.measure_every_ms() {
            self.measured_ms = now;
            self.relieve().await;
        }
        if self.should_greet() && now - self.greeted_ms >= GREET_EVERY_MS {
            self.greet();
        }
    }

    /// Is there something that the peer should learn, or that we wait to hear.
    fn should_greet(&self) -> bool {
        use engine::Token;
        let r = &self.record;
        self.autostart_ms.is_some()
            || r.superseded.is_some()
            || matches!(r.token, Token::Held { acknowledged: false, .. } | Token::Released { .. })
            || (r.retry.until_ms.is_some() && r.retry.attempts > 0)
            || matches!(r.state, ReplicationState::Recovered | ReplicationState::SyncedReplicationComplete)
    }

    fn greet(&mut self) {
        self.greeted_ms = now_ms();
        if std::mem::replace(&mut self.greeting, true) {
            return;
        }
        let (host, mail, record) = (self.host.clone(), self.mail.clone(), self.record.clone());
        self.host.tasks.spawn(async move {
            let answer = steps::ask(&host, &record, PeerRequest::Greet).await;
            let heard = match answer {
                Ok(Answer { standing: Some(standing), .. }) => Ok(standing),
                Ok(_) => Err("the peer does not know this VM".to_owned()),
                Err(failure) => Err(failure.message),
            };
            let _ = mail.send(Mail::Greeted(heard)).await;
        });
    }

    async fn handle(&mut self, mail: Mail) {
        match mail {
            Mail::Operate { operation, job, reply } => {
                let result = self.operate(operation, job).await;
                let _ = reply.send(result);
            }
            Mail::Peer { message, reply } => {
                let answer = self.answer(*message).await;
                let _ = reply.send(answer);
            }
            Mail::CancelJob(job) => {
                if self.job.as_ref().is_some_and(|link| link.job == job)
                    && let Some(step) = &self.step
                {
                    step.cancel();
                }
            }
            Mail::StepEnded(result) => {
                self.step = None;
                let event = match result {
                    Ok(result) => Event::Done(result),
                    Err(failure) => {
                        tracing::warn!(vm = %self.record.name, step = self.step_name(), reason = failure.reason(), "step failed");
                        self.last_failure = Some(failure.reason().to_owned());
                        Event::Failed(failure)
                    }
                };
                self.apply(event).await;
            }
            Mail::Greeted(heard) => {
                self.greeting = false;
                if let Ok(standing) = heard {
                    self.apply(Event::Heard(standing)).await;
                    if self.autostart_ms.is_some() {
                        self.autostart().await;
                    }
                }
            }
            Mail::Power { running } => self.power(running).await,
            Mail::Commit { delta, sealed, generation, base, reply } => {
                let result = self.commit(delta, *sealed, &generation, base).await;
                let _ = reply.send(result);
            }
            Mail::Release { reply } => {
                let _ = reply.send(self.release("the checkpoints were released".to_owned()).await);
            }
            Mail::Amend { amend, reply } => {
                amend(&mut self.record);
                self.persist();
                let _ = reply.send(());
            }
            Mail::Stop { .. } => {}
        }
    }

    fn step_name(&self) -> &'static str {
        self.record.work.as_ref().and_then(engine::Work::step).map_or("", Step::name)
    }

    async fn operate(&mut self, operation: Operation, job: Option<JobId>) -> Result<(), Failure> {
        let (before, operation_copy) = (self.record.clone(), operation.clone());
        let effects = self.record.apply(context(), Event::Operation(operation)).map_err(|refusal| {
            self.record = before;
            refused(&self.record, &operation_copy, &refusal)
        })?;
        if let Some(job) = job {
            let link = JobLink { job, operation: operation_copy };
            if let Err(failure) = self.host.put_document(self.record.vm, document::JOB, &link) {
                tracing::error!(vm = %self.record.name, %failure, "cannot link the job");
            }
            if let Some(progress) = self.host.jobs.progress(job) {
                self.progress = progress;
            }
            self.job = Some(link);
        }
        self.persist();
        self.carry_out(effects).await;
        Ok(())
    }

    async fn apply(&mut self, event: Event) {
        let before = self.record.clone();
        let heard = matches!(event, Event::Heard(_));
        match self.record.apply(context(), event) {
            Ok(effects) => {
                if heard && before.superseded.is_none() && self.record.superseded.is_some() {
                    let running = self.is_running().await;
                    self.record.superseded.iter_mut().for_each(|s| s.was_running = running);
                }
                if self.record != before {
                    self.persist();
                }
                self.carry_out(effects).await;
            }
            Err(refusal) => tracing::debug!(vm = %self.record.name, %refusal, "event refused"),
        }
    }

    /// The record is durable before anything that follows from it happens. A host that cannot write its
    /// record must not go on: it stops, and its start-up recovery is the tested path.
    fn persist(&mut self) {
        if let Err(failure) = self.host.save(&self.record) {
            tracing::error!(vm = %self.record.name, %failure, "cannot persist the record: stopping");
            std::process::abort();
        }
        self.publish();
    }

    fn publish(&self) {
        let snapshot = Snapshot {
            record: self.record.clone(),
            job: self.job.as_ref().map(|link| link.job),
            progress: self.progress.clone(),
        };
        let job = snapshot.job;
        let mut shown = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let same = shown.record == snapshot.record && shown.job == job;
        *shown = snapshot;
        drop(shown);
        if !same {
            self.host.changes.publish(Change::Vm(self.record.vm));
            job.into_iter().for_each(|job| self.host.changes.publish(Change::Job(job)));
        }
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut failure = None;
        for effect in effects {
            match effect {
                Effect::Run(step) => self.run_step(step),
                Effect::CancelStep => {
                    if let Some(step) = &self.step {
                        step.cancel();
                    }
                }
                Effect::PauseVm => self.pause().await,
                Effect::ResumeVm => {}
                Effect::Greet => self.greet(),
                Effect::Finished { failure: reason } => failure = Some(reason),
            }
        }
        self.follow_job(failure);
        self.publish();
    }

    fn run_step(&mut self, step: Step) {
        if self.step.is_some() {
            // Cannot happen: the engine runs one step at a time. A second one would race with the first.
            tracing::error!(vm = %self.record.name, step = step.name(), "a step is already running");
            return;
        }
        let cancel = self.host.shutdown.child_token();
        self.step = Some(cancel.clone());
        self.progress.start(step.name(), 0);
        let context = steps::StepContext {
            host: self.host.clone(),
            record: self.record.clone(),
            progress: self.progress.clone(),
            cancel,
        };
        let mail = self.mail.clone();
        self.host.tasks.spawn(async move {
            let name = step.name();
            tracing::debug!(vm = %context.record.name, step = name, "step");
            let (vm, begun) = (context.record.name.clone(), Instant::now());
            let result = steps::run(context, step).await;
            tracing::debug!(%vm, ended = name, ms = begun.elapsed().as_millis(), "step ended");
            let _ = mail.send(Mail::StepEnded(result)).await;
        });
    }

    /// Ends the job when the record is no longer busy with what it stands for.
    fn follow_job(&mut self, finished: Option<Option<String>>) {
        let Some(link) = &self.job else { return };
        if stands_for(&link.operation, &self.record) {
            return;
        }
        let name = &self.record.name;
        let result = match finished.flatten() {
            None => Ok(format!("{name}: {} done", link.operation.name())),
            Some(reason) if reason == "given up" => Err(Failure::new(
                ErrorKind::Cancelled,
                "cancelled",
                format!("{name}: {} was given up", link.operation.name()),
            )),
            Some(reason) => Err(Failure::new(
                ErrorKind::Failed,
                "operation-failed",
                format!("{name}: {} failed: {reason}", link.operation.name()),
            )),
        };
        self.host.jobs.end(link.job, result);
        self.job = None;
        self.progress = Arc::default();
        if let Err(failure) = self.host.drop_document(self.record.vm, document::JOB) {
            tracing::error!(vm = %name, %failure, "cannot unlink the job");
        }
    }
}

fn context() -> Context {
    Context { now_ms: now_ms(), fresh: uuid::Uuid::new_v4() }
}

/// A refusal of the engine, for the operator.
pub fn refused(record: &Relationship, operation: &Operation, refusal: &Refusal) -> Failure {
    let (name, peer) = (&record.name, &record.peer);
    let what = operation.name();
    match refusal {
        Refusal::WrongHost => Failure::new(
            ErrorKind::WrongHost,
            "wrong-host",
            format!("{what} of {name} runs on {peer}, not here"),
        )
        .hint(format!("run the same command on {peer}")),
        Refusal::Busy { work } => {
            Failure::new(ErrorKind::InUse, "busy", format!("{name}: {work} is under way"))
                .hint("`relevo job list` shows it; try again when it has ended")
        }
        Refusal::State { mode, state } => Failure::new(
            ErrorKind::InvalidState,
            "invalid-state",
            format!("{what} of {name} is not possible: this host is its {mode}, state `{state}`"),
        )
        .hint(format!("`relevo status {name}` shows what is possible")),
        Refusal::Because(why) => Failure::new(
            ErrorKind::InvalidState,
            "invalid-state",
            format!("{what} of {name} is not possible: {why}"),
        ),
    }
}

/// Runs what blocks on a thread where that is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
