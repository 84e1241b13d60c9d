//! The third host, and the relationship of B that forwards to it.

use super::{
    disk::{COUNT, Clusters, difference},
    reality::Outcome,
    shell::base_of,
    world::{A, Answer, B, Body, Check, F, Flight, Host, Message, World, X},
};
use engine::{CutKind, Event, Operation, Refusal, Relationship, Step, StepFailure, StepResult};
use model::{DeltaId, Mode};
use rand::Rng;

impl World {
    /// As [`Self::new`], and B is to forward to X what it receives.
    pub fn three(seed: u64) -> Self {
        let mut world = Self::new(seed);
        let b = world.hosts[B].record.clone();
        let third = "x.example".parse().expect("a host name");
        let forwards = Relationship::extended(&b, third, b.settings.clone());
        let generation = b.token.generation().clone();
        let (host, from) = (forwards.peer.clone(), b.host.clone());
        let mut x = Relationship::replica(b.vm, b.name.clone(), host, from, b.settings.clone(), generation);
        x.mode = Mode::ExtendedReplica;
        world.hosts.extend([x, forwards].map(Host::new));
        world
    }

    /// The host on which an owner is.
    pub fn place(actor: usize) -> usize {
        if actor == F { B } else { actor }
    }

    /// The other owner of the same host.
    pub fn beside(&self, actor: usize) -> Option<usize> {
        let other = [(B, F), (F, B)].into_iter().find(|(one, _)| *one == actor)?.1;
        (other < self.hosts.len()).then_some(other)
    }

    pub fn peer_of(&self, actor: usize) -> usize {
        let peer = &self.hosts[actor].record.peer;
        [A, B, X]
            .into_iter()
            .find(|host| self.hosts[*host].record.host == *peer)
            .expect("a host of this world")
    }

    /// Whom a message is for: the relationship with its sender.
    pub fn addressed(&self, from: usize, to: usize) -> Option<usize> {
        let from = Self::place(from);
        let actors = [Some(to), self.beside(to).filter(|other| Self::place(*other) == to)];
        let is_his = |actor: &usize| !self.hosts[*actor].gone && self.peer_of(*actor) == from;
        actors.into_iter().flatten().find(is_his)
    }

    /// A host that was the peer before tells and hears who may run the VM.
    pub fn heard_from_former_peer(
        &mut self,
        from: usize,
        to: usize,
        id: u64,
        standing: engine::Standing,
    ) -> Check {
        let sender = self.hosts[Self::place(from)].record.host.clone();
        let knows = |live: &Relationship| live.former_peers.contains(&sender);
        if !self.hosts[to].live.as_ref().is_some_and(knows) {
            return Ok(());
        }
        self.apply(to, Event::HeardBeyond(standing))?;
        if self.hosts[to].live.is_some() {
            let standing = self.standing(to);
            let answer = Answer::Refused(Refusal::Because("not the peer"));
            self.post(Message::Reply { to: from, id, standing, answer });
        }
        Ok(())
    }

    /// The peer's standing; X's is heard by B's relationship 0 first.
    pub fn hear(&mut self, actor: usize, standing: engine::Standing) -> Check {
        if actor == F {
            self.apply(B, Event::HeardBeyond(standing.clone()))?;
            self.follow(true)?;
        }
        self.apply(actor, Event::Heard(standing)).map(|_| ())
    }

    /// F looks at how relationship 0 stands.
    pub fn follow(&mut self, anyway: bool) -> Check {
        let (Some(b), Some(forwards)) =
            (&self.hosts[B].live, self.hosts.get(F).and_then(|it| it.live.as_ref()))
        else {
            return Ok(());
        };
        let upstream = b.upstream();
        if anyway || (&forwards.token, forwards.source) != (&upstream.token, upstream.source) {
            self.apply(F, Event::Upstream(upstream))?;
        }
        Ok(())
    }

    pub fn start_forwarding(&mut self) -> Check {
        if self.hosts.len() <= F || self.hosts[F].gone || self.hosts[B].live.is_none() {
            return Ok(());
        }
        self.hosts[F].live = Some(self.hosts[F].record.clone());
        self.apply(F, Event::Started)?;
        self.follow(true)
    }

    /// B's points are not dropped while one of them is on its way.
    pub fn forwards_still(&self, host: usize, step: &Step) -> bool {
        let works = |there: &Host| !there.gone && there.record.work.is_some();
        host == B && matches!(step, Step::HidePoints) && self.hosts.get(F).is_some_and(works)
    }

    /// B's points are about to become its disk: nothing is left to forward.
    pub fn leave_third(&mut self, host: usize, step: &Step) {
        if host != B || !matches!(step, Step::Promote) || self.hosts.len() <= F || self.hosts[F].gone {
            return;
        }
        (self.hosts[F].gone, self.hosts[F].live, self.hosts[F].flight) = (true, None, None);
        let third = self.hosts[F].record.peer.clone();
        let live = self.hosts[B].live.as_mut().expect("it carries a step out");
        if live.peer != third && !live.former_peers.contains(&third) {
            live.former_peers.push(third);
        }
        self.hosts[B].record = self.hosts[B].live.clone().expect("as above");
    }

    pub fn forward_step(&mut self, host: usize, live: &Relationship, step: &Step) -> Outcome {
        if host == B {
            return Err(StepFailure::Busy("a point is being forwarded".into()));
        }
        let reality = &mut self.hosts[B].reality;
        match step {
            Step::Cut { delta, base, how } => {
                let there = reality.points.iter().any(|point| {
                    point.delta == *delta && (point.visible || reality.bookmarks.contains(delta))
                });
                if !there {
                    return Err(StepFailure::Cancelled);
                }
                if !reality.bookmarks.contains(delta) {
                    reality.bookmarks.push(*delta);
                }
                let known = base.is_some_and(|base| {
                    reality.bookmarks.contains(&base) && reality.points.iter().any(|it| it.delta == base)
                });
                if *how == CutKind::Incremental && !known {
                    return Err(StepFailure::ResyncNeeded("what X has is gone here".into()));
                }
            }
            Step::Settle { delta } => reality.bookmarks.retain(|it| it == delta),
            Step::Abandon { .. } => reality.bookmarks.retain(|it| Some(*it) == live.latest),
            other => return Err(StepFailure::Fatal(format!("{} is no step of F", other.name()))),
        }
        Ok(StepResult::Bytes { bytes: 1 })
    }

    pub fn send_point(&mut self, delta: DeltaId, base: Option<DeltaId>, step: Step) -> Check {
        let live = self.hosts[F].live.as_ref().ok_or("F is down")?;
        debug_assert_eq!(base_of(live, delta), base);
        let how = live.work.as_ref().and_then(|work| match work.plan.first() {
            Some(Step::Cut { how, .. }) => Some(*how),
            _ => None,
        });
        let points = &self.hosts[B].reality.points;
        let at = |delta| points.iter().position(|point| Some(point.delta) == delta);
        let Some(point) = at(Some(delta)).map(|at| &points[at]) else {
            self.hosts[F].flight = Some(Flight::Ended(Err(StepFailure::Recoverable("it is gone".into()))));
            return Ok(());
        };
        let clusters = match (how, at(base), at(Some(delta))) {
            (Some(CutKind::Incremental), Some(from), Some(to)) => {
                let between = points[from.min(to) + 1..=from.max(to)].iter();
                between.fold(Clusters::NONE, |all, point| all.union(point.clusters))
            }
            (Some(CutKind::Compare), ..) => {
                let theirs = self.hosts[X].reality.points.last().map_or([0; COUNT], |point| point.content);
                difference(&theirs, &point.content)
            }
            _ => Clusters::ALL,
        };
        let content = point.content;
        let id = self.request(F, Body::Delta { delta, base, clusters, content });
        self.hosts[F].flight = Some(Flight::Asked(id, step));
        Ok(())
    }

    /// B's retention merges a point into the next one.
    pub fn merge_points(&mut self) {
        let b = &self.hosts[B];
        let rests =
            b.record.work.is_none() && b.record.failed_over.is_none() && b.record.mode == Mode::Replica;
        let count = b.reality.points.len();
        if !rests || count < 3 {
            return;
        }
        // The bottom may be a disk in place, which is never written.
        let at = self.rng.random_range(1..count - 1);
        let reality = &mut self.hosts[B].reality;
        if !reality.bookmarks.contains(&reality.points[at].delta) {
            let merged = reality.points.remove(at);
            reality.points[at].clusters = reality.points[at].clusters.union(merged.clusters);
        }
    }

    /// Operations that only a world of three hosts has.
    pub fn draw_third(&mut self, host: usize) -> Option<Operation> {
        if host == F {
            return Some(match self.rng.random_range(0..8) {
                0..3 => Operation::StartReplication,
                3 => Operation::Suspend,
                4 | 5 => Operation::Resume,
                6 => Operation::Resynchronize,
                _ => Operation::CancelResynchronize,
            });
        }
        let forwards = self.hosts.get(F).filter(|there| host == B && !there.gone)?;
        let base = forwards.record.peer_latest.or(forwards.record.latest)?;
        let (peer, settings) = (forwards.record.peer.clone(), Box::new(forwards.record.settings.clone()));
        (self.rng.random_range(0..8) == 0).then_some(Operation::ChangeToPrimary { peer, base, settings })
    }
}
