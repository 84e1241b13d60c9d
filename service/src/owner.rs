//! The owner of a relationship: one task per VM that has the record, takes one event at a time, persists what
//! the engine decides, then has it carried out. Nobody else writes the record.
//!
//! ```text
//! mail ──▶ apply(event) ──▶ persist the record ──▶ carry out the effects ──▶ mail
//! ```

mod job;
mod peer;
mod vm;

pub use job::live_job;

use crate::{
    api::{ErrorKind, Failure},
    changes::Change,
    clock::{Jumps, now_ms},
    events,
    host::{Host, document},
    jobs::Progress,
    pace::Pace,
    peer::{Answer, Message, OwnChanges, PeerRequest, PeerResult},
    steps,
    turns::{self, Turn},
};
use engine::{
    Effect, Event, OfferAnswer, Operation, Refusal, Relationship, Standing, Step, StepFailure, StepResult,
};
use job::{JobLink, job_key};
use model::{DeltaId, DiskId, Generation, JobId, Mode, ReplicationState, VmId};
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
const GREET_EVERY: Duration = Duration::from_secs(5);
/// How often a VM that another host took over is looked at, so that it does not run here, too.
const PAUSE_EVERY: Duration = Duration::from_secs(5);
/// How often a guest that was left frozen is asked to thaw.
const THAW_EVERY: Duration = Duration::from_secs(2);
/// The longest sleep between two looks at the clock, so that a clock that jumps is noticed.
const TICK_MAX_MS: i64 = 1_000;

#[derive(Clone)]
pub struct OwnerHandle {
    pub vm: VmId,
    pub index: u16,
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
    /// A guest that an interrupted cut left frozen was asked to thaw.
    Thawed,
    /// The guest has its addresses, or cannot be given them.
    Addressed,
    Power {
        running: bool,
    },
    /// Relationship 0 of the VM has moved: look at it.
    Upstream,
    /// Another host than the peer said how it stands; answered when it was taken note of.
    HeardBeyond {
        standing: Standing,
        reply: oneshot::Sender<()>,
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

struct Owner {
    host: Arc<Host>,
    record: Relationship,
    mail: mpsc::Sender<Mail>,
    snapshot: Arc<Mutex<Snapshot>>,
    job: Option<JobLink>,
    progress: Arc<Progress>,
    step: Option<CancellationToken>,
    /// What lets the delta under way be sent; put there by the step that waited for it.
    turn: Arc<Mutex<Option<Turn>>>,
    last_failure: Option<String>,
    jumps: Jumps,
    greets: Pace,
    greeting: bool,
    /// Looks at the overlays' size.
    measures: Pace,
    /// Looks whether the guest was left frozen.
    thaws: Pace,
    pauses: Pace,
    thawing: bool,
    addressing: bool,
    /// The guest may have to be given addresses: look.
    may_be_addressed: bool,
    /// Start the VM once the peer has answered, or at this time; and when that is tried again.
    autostart_at: Option<Instant>,
    autostart_again_at: Option<Instant>,
    /// Who waits for the checkpoints to be released, which a turn under way still needs.
    releases: Vec<oneshot::Sender<Result<(), Failure>>>,
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

    /// Tells what a host that is not the peer knows, and waits until it was taken note of.
    pub async fn hear_beyond(&self, standing: Standing) {
        let (reply, heard) = oneshot::channel();
        self.send(Mail::HeardBeyond { standing, reply }).await;
        let _ = heard.await;
    }

    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        self.send(Mail::Stop { reply }).await;
        let _ = stopped.await;
    }

    /// Passes an operator's wish to cancel a job on to the owner, as long as the job goes on.
    pub fn follow_cancel(&self, host: &Host, job: JobId, cancel: CancellationToken) {
        let (owner, jobs, shutdown) = (self.clone(), host.jobs.clone(), host.shutdown.clone());
        host.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => owner.send(Mail::CancelJob(job)).await,
                () = jobs.until_ended(job) => {}
                () = shutdown.cancelled() => {}
            }
        });
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
        index: record.index,
        receiving: Arc::default(),
        mail: mail.clone(),
        snapshot: snapshot.clone(),
    };
    let job: Option<JobLink> = host.document(record.vm, job_key(&record)).ok().flatten();
    if let Some(link) = &job
        && let Some(cancel) = host.jobs.canceller(link.job)
    {
        handle.follow_cancel(&host, link.job, cancel);
    }
    let owner = Owner {
        host: host.clone(),
        record,
        mail,
        snapshot,
        job,
        progress,
        step: None,
        turn: Arc::default(),
        last_failure: None,
        jumps: Jumps::default(),
        greets: Pace::default(),
        greeting: false,
        measures: Pace::default(),
        thaws: Pace::default(),
        pauses: Pace::default(),
        thawing: false,
        addressing: false,
        may_be_addressed: true,
        autostart_at: None,
        autostart_again_at: None,
        releases: vec![],
    };
    host.tasks.spawn(owner.run(inbox));
    handle
}

/// What an event ended.
#[derive(Default)]
struct End {
    /// Why the work that ended did not go well.
    failure: Option<String>,
    /// Why the operation that waited will not begin.
    not_begun: Option<String>,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Mail>) {
        self.thaw_left_frozen();
        let received = self.reconcile().await.unwrap_or_else(|failure| {
            tracing::error!(vm = %self.record.name, %failure, "cannot reconcile after the start");
            None
        });
        if let Some(work) = &self.record.work {
            let step = work.step().map_or("", Step::name);
            tracing::info!(vm = %self.record.name, work = work.kind.name(), step, "resuming");
        }
        self.apply(Event::Started).await;
        if let Some(received) = received {
            self.apply(received).await;
        }
        self.follow_upstream().await;
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
        if let Some(scheduled) = r.scheduled.as_ref().filter(|_| r.work.is_none()) {
            next = next.min(scheduled.at_ms);
        }
        // What is forwarded is told by relationship 0.
        let awaits_source = r.is_extended() && r.source.is_none();
        if r.mode == Mode::Primary
            && r.work.is_none()
            && r.state == ReplicationState::Replicating
            && !awaits_source
        {
            next = next.min(r.next_cycle_ms.max(r.retry.until_ms.unwrap_or(0)));
        }
        Duration::from_millis(u64::try_from((next - now).max(0)).unwrap_or(0) + 1)
    }

    async fn on_time(&mut self) {
        self.release_when_idle().await;
        let context = self.context();
        let (now, r) = (context.now_ms, &self.record);
        let due = r.waits_too_long(now)
            || r.retry.until_ms.is_some_and(|until| now >= until)
            || (r.work.is_none() && r.mode == Mode::Primary && now >= r.next_cycle_ms)
            || r.scheduled.as_ref().is_some_and(|scheduled| now >= scheduled.at_ms)
            || r.scrub_is_due(context);
        if due {
            self.apply(Event::Tick).await;
        }
        if self.autostart_at.is_some_and(|at| Instant::now() >= at)
            || self.autostart_again_at.take_if(|at| Instant::now() >= *at).is_some()
        {
            self.autostart().await;
        }
        let r = &self.record;
        let superseded = r.superseded.is_some() && !r.may_run() && !r.is_extended();
        if superseded && self.pauses.is_due(PAUSE_EVERY) {
            self.keep_paused().await;
        }
        let captures = self.record.mode == Mode::Primary && !self.record.is_extended();
        if captures && self.measures.is_due(self.measure_every()) {
            self.relieve().await;
        }
        if !(self.host.monitoring().boundary_ms(now)..=now)
            .contains(&self.record.statistics.interval.began_ms)
        {
            self.close_interval(now);
        }
        if self.thaws.is_due(THAW_EVERY) {
            self.thaw_left_frozen();
            self.give_addresses();
            self.drill(now);
        }
        if self.should_greet() && self.greets.is_due(GREET_EVERY) {
            self.greet();
        }
    }

    /// Is there something that the peer should learn, or that we wait to hear.
    fn should_greet(&self) -> bool {
        use engine::Token;
        let r = &self.record;
        self.autostart_at.is_some()
            || r.superseded.is_some()
            || r.exported.is_some()
            || (!r.is_extended()
                && matches!(r.token, Token::Held { acknowledged: false, .. } | Token::Released { .. }))
            // A third host took the VM over, which the peer can only learn from us.
            || (r.mode == Mode::Replica && ![&r.host, &r.peer].contains(&&r.token.generation().owner))
            || (r.retry.until_ms.is_some() && r.retry.attempts > 0)
            || matches!(r.state, ReplicationState::Recovered | ReplicationState::SyncedReplicationComplete)
    }

    fn greet(&mut self) {
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
                if let Some(link) = self.job.clone().filter(|link| link.job == job) {
                    self.apply(Event::Cancel(link.operation)).await;
                }
            }
            Mail::StepEnded(result) => {
                self.step = None;
                self.may_be_addressed |= self.step_name() == Step::DefineOverlay.name();
                let event = match result {
                    Ok(result) => Event::Done(result),
                    Err(failure) => {
                        tracing::warn!(event = events::NOT_REPLICATED, vm = %self.record.name, step = self.step_name(), reason = failure.reason(), "step failed");
                        self.last_failure = Some(failure.reason().to_owned());
                        Event::Failed(failure)
                    }
                };
                self.apply(event).await;
            }
            Mail::Greeted(heard) => {
                self.greeting = false;
                if let Ok(standing) = heard {
                    self.hear(standing).await;
                    if self.autostart_at.is_some() {
                        self.autostart().await;
                    }
                }
            }
            Mail::Thawed => self.thawing = false,
            Mail::Addressed => {
                self.addressing = false;
                self.host.changes.publish(Change::Vm(self.record.vm));
            }
            Mail::Power { running } => self.power(running).await,
            Mail::Upstream => self.follow_upstream().await,
            Mail::HeardBeyond { standing, reply } => {
                self.apply(Event::HeardBeyond(standing)).await;
                let _ = reply.send(());
            }
            Mail::Commit { delta, sealed, generation, base, reply } => {
                let result = self.commit(delta, *sealed, &generation, base).await;
                let _ = reply.send(result);
            }
            Mail::Release { reply } => self.releases.push(reply),
            Mail::Amend { amend, reply } => {
                amend(&mut self.record);
                self.may_be_addressed = true;
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
        let context = self.context();
        let (before, operation_copy) = (self.record.clone(), operation.clone());
        let effects = self.record.apply(context, Event::Operation(operation)).map_err(|refusal| {
            self.record = before;
            refused(&self.record, &operation_copy, &refusal)
        })?;
        if let Some(job) = job {
            self.link_job(job, operation_copy);
        }
        self.persist();
        self.carry_out(effects).await;
        Ok(())
    }

    /// The peer said how it stands. What the host that we forward to says of the right to run the VM goes to
    /// relationship 0 first.
    async fn hear(&mut self, standing: Standing) {
        if self.record.is_extended()
            && let Some(owner) = self.host.owner(self.record.vm)
        {
            owner.hear_beyond(standing.clone()).await;
            self.follow_upstream().await;
        }
        self.apply(Event::Heard(standing)).await;
    }

    /// Looks at how relationship 0 stands; for relationship 1.
    async fn follow_upstream(&mut self) {
        if let Some(owner) = self.host.owner(self.record.vm).filter(|_| self.record.is_extended()) {
            self.apply(Event::Upstream(owner.record().upstream())).await;
        }
    }

    /// Has relationship 1 follow a change of this one, which is relationship 0. Not waited for: it may be
    /// waiting for us.
    fn tell_extended(&self) {
        let Some(extended) = self.host.extended(self.record.vm).filter(|_| !self.record.is_extended()) else {
            return;
        };
        let upstream = self.record.upstream();
        let known = extended.record();
        if (&known.token, known.source) != (&upstream.token, upstream.source) {
            self.host.tasks.spawn(async move { extended.send(Mail::Upstream).await });
        }
    }

    async fn apply(&mut self, event: Event) {
        let context = self.context();
        let before = self.record.clone();
        let heard = matches!(event, Event::Heard(_) | Event::HeardBeyond(_));
        match self.record.apply(context, event) {
            Ok(effects) => {
                if heard && before.superseded.is_none() && self.record.superseded.is_some() {
                    let running = self.is_running().await;
                    self.record.superseded.iter_mut().for_each(|s| s.was_running = running);
                }
                self.begin_job_of_itself(&before);
                if self.record != before {
                    self.persist();
                    events::tell(&before, &self.record);
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
        self.tell_extended();
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
        let mut end = End::default();
        for effect in effects {
            match effect {
                Effect::Run(step) => self.run_step(step),
                Effect::CancelStep => {
                    if let Some(step) = &self.step {
                        step.cancel();
                    }
                }
                Effect::PauseVm => self.pause().await,
                Effect::Greet => self.greet(),
                Effect::Finished { failure } => end.failure = failure,
                Effect::NotBegun { reason } => end.not_begun = Some(reason),
            }
        }
        if !self.record.work.as_ref().is_some_and(turns::is_sent) {
            *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.follow_job(end);
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
        let (mail, turn) = (self.mail.clone(), self.turn.clone());
        self.host.tasks.spawn(async move {
            let name = step.name();
            if !wait_for_turn(&context, &step, &turn, &mail).await {
                let _ = mail.send(Mail::StepEnded(Err(StepFailure::Cancelled))).await;
                return;
            }
            tracing::debug!(vm = %context.record.name, step = name, "step");
            let (vm, begun) = (context.record.name.clone(), Instant::now());
            let result = steps::run(context, step).await;
            tracing::debug!(%vm, ended = name, ms = begun.elapsed().as_millis(), "step ended");
            let _ = mail.send(Mail::StepEnded(result)).await;
        });
    }
}

/// Waits until the delta may be sent, where the step is one for which that is asked; `false`: cancelled meanwhile.
async fn wait_for_turn(
    c: &steps::StepContext,
    step: &Step,
    turn: &Mutex<Option<Turn>>,
    mail: &mpsc::Sender<Mail>,
) -> bool {
    let held = || turn.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(work) = c.record.work.as_ref().filter(|work| turns::is_sent(work)) else { return true };
    if held().is_some() {
        return true;
    }
    let long = work.kind != engine::WorkKind::Cycle;
    let taken = match c.host.turns.try_take(long) {
        Some(taken) => taken,
        None => {
            c.progress.set_stage(turns::WAITS);
            tracing::debug!(vm = %c.record.name, "waits until fewer transfers are under way");
            let (reply, _) = oneshot::channel();
            let amend: Amend = Box::new(Relationship::note_wait);
            let _ = mail.send(Mail::Amend { amend, reply }).await;
            let taken = tokio::select! {
                () = c.cancel.cancelled() => return false,
                taken = c.host.turns.take(long) => taken,
            };
            c.progress.set_stage(step.name());
            taken
        }
    };
    *held() = Some(taken);
    true
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

/// How long libvirt may take for an answer that somebody waits for.
const LIBVIRT_TIME_MAX: Duration = Duration::from_secs(20);

/// Runs what asks libvirt, which may hang, on a thread where that is allowed. That goes on where the answer came too late.
pub async fn libvirt<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::time::timeout(LIBVIRT_TIME_MAX, blocking(work)).await.map_err(|_| {
        let message = format!("libvirt does not answer within {} s", LIBVIRT_TIME_MAX.as_secs());
        Failure::new(ErrorKind::Timeout, "libvirt-silent", message)
            .hint("see to libvirt on this host, and try again")
    })
}

/// Runs what blocks on a thread where that is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
