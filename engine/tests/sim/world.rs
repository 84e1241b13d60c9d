//! Two hosts, one VM, the network between them, and everything that can go wrong, drawn from a seed.

use super::{
    disk::{COUNT, Clusters, Content},
    reality::{Changes, Domain, Reality, Truth},
};
use engine::{
    Context, OfferAnswer, Operation, Refusal, Relationship, Settings, Standing, Step, StepFailure,
    StepResult, Token,
};
use model::{DeltaId, Generation, VmId};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use uuid::Uuid;

pub const A: usize = 0;
pub const B: usize = 1;
/// The third host, where there is one.
pub const X: usize = 2;
/// B's relationship 1, which forwards to X: a record and an owner of its own, and no reality.
pub const F: usize = 3;

/// Lines of what happened that a failure shows.
const TRACE_MAX: usize = 600;

/// A broken rule, in words.
pub type Check<T = ()> = Result<T, String>;

pub struct Host {
    /// What survives a crash of the daemon.
    pub record: Relationship,
    /// The daemon's own copy; `None` while it is down.
    pub live: Option<Relationship>,
    pub flight: Option<Flight>,
    pub reality: Reality,
    /// The relationship was dropped.
    pub gone: bool,
    /// How the last operations ended, newest last.
    pub finished: Vec<Option<String>>,
}

/// The step that the engine wants done.
#[derive(Debug)]
pub enum Flight {
    ToDo(Step),
    /// Asked of the peer under this number.
    Asked(u64, Step),
    Ended(Result<StepResult, StepFailure>),
}

pub enum Message {
    Request { from: usize, to: usize, id: u64, standing: Standing, body: Body },
    Reply { to: usize, id: u64, standing: Standing, answer: Answer },
}

#[derive(Clone, Debug)]
pub enum Body {
    Greet,
    Offer { delta: DeltaId, base: Option<DeltaId> },
    Delta { delta: DeltaId, base: Option<DeltaId>, clusters: Clusters, content: Content },
    Withdraw(Generation),
    Ask(Operation, Option<Changes>),
}

#[derive(Clone, Debug)]
pub enum Answer {
    Fine,
    Offer(OfferAnswer),
    Yielded { base: DeltaId, changes: Option<Changes> },
    Refused(Refusal),
}

/// How likely things go wrong, in thousandths of the occasions for it.
#[derive(Clone, Copy)]
pub struct Faults {
    pub crash: u32,
    pub lost: u32,
    pub repeated: u32,
    pub step: u32,
}

impl Faults {
    pub const NONE: Self = Self { crash: 0, lost: 0, repeated: 0, step: 0 };
    /// Few faults let histories grow long, many make every step fail: both find what the other does not.
    pub const KINDS: [Self; 4] = [
        Self { crash: 12, lost: 60, repeated: 60, step: 25 },
        Self { crash: 4, lost: 0, repeated: 0, step: 0 },
        Self { crash: 0, lost: 100, repeated: 200, step: 0 },
        Self { crash: 1, lost: 10, repeated: 10, step: 5 },
    ];
}

/// Where a daemon was killed: work, step, and between which two of its duties.
pub type CrashPoint = (&'static str, &'static str, &'static str);

pub struct World {
    /// A and B, or A, B, X and F.
    pub hosts: Vec<Host>,
    pub network: Vec<Message>,
    pub partitioned: bool,
    pub now_ms: i64,
    pub rng: StdRng,
    pub faults: Faults,
    pub truth: Truth,
    /// Generations that were taken without asking.
    pub claimed: BTreeSet<Uuid>,
    /// From which generation each was made, by their nonces.
    pub made_from: BTreeMap<Uuid, Uuid>,
    /// What the guest's disk held when its right was last handed over in a planned failover.
    pub handed_over: Option<(Uuid, Content)>,
    pub crashes: BTreeMap<CrashPoint, u64>,
    /// Work that ended, and how.
    pub ended: BTreeMap<(&'static str, bool), u64>,
    pub trace: VecDeque<String>,
    requests: u64,
    values: u32,
}

impl World {
    /// A protects its VM, which runs, with B.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let vm = VmId::random();
        let host = |name: &str| format!("{name}.example").parse().expect("a host name");
        let settings = Settings {
            interval_s: 30,
            history: 4,
            history_every_s: 3600,
            auto_resynchronize: rng.random(),
            app_consistent_every_s: if rng.random() { 60 } else { 0 },
            compress: true,
            ..Settings::default()
        };
        let a = Relationship::primary(vm, "vm".into(), host("a"), host("b"), settings.clone());
        let generation = a.token.generation().clone();
        let b = Relationship::replica(vm, "vm".into(), host("b"), host("a"), settings, generation);
        let mut hosts: Vec<Host> = [a, b].into_iter().map(Host::new).collect();
        hosts[A].reality.disk = Some([1; COUNT]);
        hosts[A].reality.domain = Some(Domain { on_overlay: false, running: true, paused: false });
        if rng.random_range(0..4) == 0 {
            // An older copy of the VM stands on the replica's host.
            hosts[A].record.seed = Some(DeltaId(Uuid::from_u128(rng.random())));
            hosts[A].live = Some(hosts[A].record.clone());
            hosts[B].reality.disk = Some(std::array::from_fn(|cluster| u32::from(cluster < 6)));
            hosts[B].reality.domain = Some(Domain { on_overlay: false, running: false, paused: false });
        }
        Self {
            hosts,
            network: vec![],
            partitioned: false,
            now_ms: 1_000_000,
            rng,
            faults: Faults::NONE,
            truth: BTreeMap::new(),
            claimed: BTreeSet::new(),
            made_from: BTreeMap::new(),
            handed_over: None,
            crashes: BTreeMap::new(),
            ended: BTreeMap::new(),
            trace: VecDeque::new(),
            requests: 0,
            values: 1,
        }
    }

    pub fn note(&mut self, line: String) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    pub fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.rng.random_range(0..1000) < thousandths
    }

    pub fn context(&mut self) -> Context {
        Context { now_ms: self.now_ms, utc_offset_min: 0, fresh: Uuid::from_u128(self.rng.random()) }
    }

    pub fn name(host: usize) -> char {
        ['A', 'B', 'X', 'F'][host]
    }

    pub fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// The guest writes a cluster: something new, or something that some cluster held before.
    pub fn guest_writes(&mut self, host: usize) {
        let cluster = self.rng.random_range(0..COUNT);
        let value = if self.rng.random_range(0..3) == 0 {
            self.rng.random_range(0..=self.values.min(4))
        } else {
            self.values += 1;
            self.values
        };
        if self.hosts[host].reality.runs() {
            self.hosts[host].reality.guest_writes(cluster, value);
        }
    }

    /// The daemon dies. QEMU and everything on disk stay.
    pub fn crash(&mut self, host: usize, between: &'static str) {
        // A host's records have one daemon.
        if let Some(other) = self.beside(host) {
            self.hosts[other].live = None;
            self.hosts[other].flight = None;
        }
        let there = &mut self.hosts[host];
        let Some(live) = there.live.take() else { return };
        let work = live.work.as_ref();
        let kind = work.map_or("nothing", |work| work.kind.name());
        let step = work.and_then(|work| work.step()).map_or("-", Step::name);
        there.flight = None;
        *self.crashes.entry((kind, step, between)).or_default() += 1;
        self.note(format!("{}: killed {between}, at {kind}/{step}", Self::name(host)));
    }

    /// The whole host dies: the VM stops, and with it what QEMU knew of changed clusters.
    pub fn lose_power(&mut self, host: usize) {
        let host = Self::place(host);
        self.crash(host, "at power loss");
        self.hosts[host].live = None;
        self.hosts[host].flight = None;
        let reality = &mut self.hosts[host].reality;
        if let Some(domain) = &mut reality.domain {
            if domain.running {
                reality.tracking = None;
                reality.spool.iter_mut().for_each(|spool| spool.since = None);
            }
            (domain.running, domain.paused) = (false, false);
        }
        self.note(format!("{}: power lost", Self::name(host)));
    }

    pub fn dump(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for line in &self.trace {
            let _ = writeln!(text, "  {line}");
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let r = host.live.as_ref().unwrap_or(&host.record);
            let up = if host.live.is_some() { "up" } else { "down" };
            let _ = writeln!(text, "{} {up}: {}", Self::name(index), summary(r));
            let _ = writeln!(text, "   flight {:?}", host.flight);
            let _ = writeln!(text, "   {:?}", host.reality);
        }
        text
    }
}

impl Host {
    pub fn new(record: Relationship) -> Self {
        Self {
            live: Some(record.clone()),
            record,
            flight: None,
            reality: Reality::default(),
            gone: false,
            finished: vec![],
        }
    }
}

pub fn summary(r: &Relationship) -> String {
    let token = match &r.token {
        Token::Held { generation, .. } => format!("held {generation}"),
        Token::Released { to, .. } => format!("released {to}"),
        Token::Offered { generation } => format!("offered {generation}"),
        Token::Elsewhere { generation } => format!("elsewhere {generation}"),
    };
    let work = r.work.as_ref().map(|work| (work.kind, work.at, work.step().map(Step::name), &work.failure));
    format!(
        "{}/{} {token} latest {:?} work {work:?} waiting {:?} resync {:?} superseded {} failed over {:?} retry {:?}",
        r.mode,
        r.state,
        r.latest,
        r.waiting,
        r.resync,
        r.superseded.is_some(),
        r.failed_over,
        r.retry,
    )
}
