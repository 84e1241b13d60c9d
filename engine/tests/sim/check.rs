//! The three rules, as checks.

use super::world::{A, B, Check, F, Host, World};
use engine::{FailoverType, Relationship, Step, Token, WorkKind};
use model::{DeltaId, Mode, generation::Precedence};
use uuid::Uuid;

impl World {
    /// What holds between any two actions.
    pub fn check(&self) -> Check {
        self.check_right_to_run()?;
        for (index, host) in self.hosts.iter().enumerate() {
            for point in host.reality.points.iter().filter(|point| point.visible) {
                if self.truth.get(&point.delta) != Some(&point.content) {
                    let name = Self::name(index);
                    return Err(format!(
                        "rule 3: point {} of {name} holds {:?}, at its cut it was {:?}",
                        point.delta,
                        point.content,
                        self.truth.get(&point.delta)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Rule 1. Two hosts hold, or run, only after a claim that the older one has not heard of.
    fn check_right_to_run(&self) -> Check {
        for (index, host) in self.hosts.iter().enumerate().filter(|(index, _)| *index != F) {
            if let Some(live) = &host.live
                && host.reality.runs()
                && !live.may_run()
            {
                return Err(format!("rule 1: the VM runs on {} without the right", Self::name(index)));
            }
        }
        let hosts: Vec<usize> = (0..self.hosts.len()).filter(|host| *host != F).collect();
        for (at, one) in hosts.iter().enumerate() {
            for other in &hosts[at + 1..] {
                self.check_right_of_two(&self.hosts[*one], &self.hosts[*other])?;
            }
        }
        Ok(())
    }

    fn check_right_of_two(&self, a: &Host, b: &Host) -> Check {
        let both_hold = a.record.may_run() && b.record.may_run();
        if both_hold {
            let (ours, theirs) = (a.record.token.generation(), b.record.token.generation());
            let newer = match ours.against(theirs) {
                // Two operators, two claims: one of them has to revert.
                Precedence::Conflict if self.claimed.contains(&ours.nonce) => theirs,
                Precedence::Theirs => theirs,
                Precedence::Ours => ours,
                Precedence::Conflict if self.hosts.len() > 2 => theirs,
                Precedence::Same | Precedence::Conflict => {
                    return Err("rule 1: both hosts hold the same generation's number".into());
                }
            };
            // Of three hosts two may pass the right on while they have not heard that the third claimed it.
            let unheard = self.hosts.len() > 2
                && (self.claimed.contains(&ours.nonce) || self.claimed.contains(&theirs.nonce));
            let older = if newer == ours { theirs } else { ours };
            if !unheard && !self.goes_back_to_a_claim(newer.nonce, older.nonce) {
                return Err(format!("rule 1: both hosts hold, and {newer} was not claimed"));
            }
        }
        if a.reality.runs() && b.reality.runs() && !both_hold && a.live.is_some() && b.live.is_some() {
            return Err("rule 1: the VM runs twice".into());
        }
        Ok(())
    }

    /// Was the right claimed somewhere on its way from the older generation to the newer one. Who still holds the older one
    /// cannot know.
    fn goes_back_to_a_claim(&self, newer: Uuid, older: Uuid) -> bool {
        let ways = std::iter::successors(Some(newer), |nonce| self.made_from.get(nonce).copied());
        ways.take_while(|nonce| *nonce != older).any(|nonce| self.claimed.contains(&nonce))
    }

    /// What may change from one record to the next.
    pub fn check_transition(&mut self, host: usize, before: &Relationship, after: &Relationship) -> Check {
        if let Some(work) =
            before.work.as_ref().filter(|work| after.work.as_ref().is_none_or(|now| now.kind != work.kind))
        {
            let undone = after.work.as_ref().is_some_and(|now| now.kind == WorkKind::Abandon);
            let well = work.failure.is_none() && !undone;
            *self.ended.entry((work.kind.name(), well)).or_default() += 1;
        }
        let (old, new) = (before.token.generation(), after.token.generation());
        if new.number < old.number {
            return Err(format!("rule 1: {} goes back from {old} to {new}", after.host));
        }
        if new.number > old.number {
            // The host that makes one is the first to have it.
            self.made_from.entry(new.nonce).or_insert(old.nonce);
        }
        let taken = after.may_run() && (!before.may_run() || old.nonce != new.nonce);
        let work = after.work.as_ref().or(before.work.as_ref());
        let claim =
            work.is_some_and(|w| w.plan.iter().any(|s| matches!(s, Step::Claim(g) if g.nonce == new.nonce)));
        if taken && claim {
            self.claimed.insert(new.nonce);
        }
        if taken && let Some((nonce, content)) = &self.handed_over {
            let planned = after.failed_over.as_ref().filter(|f| f.kind == FailoverType::Planned);
            let overlay = self.hosts[host].reality.overlay.as_ref();
            if let (Some(f), Some(overlay)) = (planned, overlay)
                && Some(f.point) == after.latest
                && *nonce == new.nonce
                && overlay.content != *content
            {
                return Err(format!(
                    "rule 2: a planned failover lost {content:?}, got {:?}",
                    overlay.content
                ));
            }
        }
        // Of three hosts one may give back what it claimed to a second, while the third has claimed it, too.
        if self.hosts.len() > 2
            && matches!(after.token, Token::Released { .. })
            && work.is_none_or(|work| work.kind != WorkKind::Prepare)
            && self.claimed.contains(&old.nonce)
        {
            self.claimed.insert(new.nonce);
        }
        let released = before.may_run() && !after.may_run() && after.superseded == before.superseded;
        let prepared = work.is_some_and(|work| work.kind == WorkKind::Prepare);
        if released
            && prepared
            && let Some(disk) = self.hosts[host].reality.disk
        {
            self.handed_over = Some((new.nonce, disk));
        }
        Ok(())
    }

    /// Rule 2: the sender forgets only what the receiver has.
    pub fn check_settle(&self, host: usize, step: &Step) -> Check {
        let Step::Settle { delta } = step else { return Ok(()) };
        let peer = &self.hosts[self.peer_of(host)];
        let there = peer.reality.points.iter().any(|point| point.delta == *delta);
        // A third host took the VM over: what is settled then belongs to a branch that ended.
        let generation = |host: &Host| host.record.token.generation().number;
        let own = &self.hosts[host];
        let taken_over =
            self.hosts.len() > 2 && (own.record.superseded.is_some() || generation(peer) > generation(own));
        let moved_on = peer.record.may_run() || peer.record.mode == Mode::Primary || taken_over;
        let carried = self.hosts[host].reality.files.is_some_and(|(exported, _)| exported == *delta);
        if there || moved_on || carried {
            Ok(())
        } else {
            Err(format!("rule 2: {delta} is settled, but the peer lost it"))
        }
    }

    /// Rule 2: points are dropped only when the peer has the one that it asked for.
    pub fn check_hide(&self, host: usize, live: &Relationship, step: &Step) -> Check {
        let plan = live.work.iter().flat_map(|work| &work.plan);
        let mut sent =
            plan.filter_map(|it| if let Step::SendPoint { point, .. } = it { Some(*point) } else { None });
        let peer = &self.hosts[self.peer_of(host)];
        let lost = |point| peer.reality.points.iter().all(|there| there.delta != point);
        match sent.next().filter(|point| matches!(step, Step::HidePoints) && lost(*point)) {
            // What took over there since dropped it itself, even if a third host took over from it.
            Some(point)
                if !peer.record.may_run()
                    && peer.record.mode == Mode::Replica
                    && (self.hosts.len() == 2 || peer.record.failed_over.is_none()) =>
            {
                Err(format!("rule 2: points are hidden, but the peer does not have {point}"))
            }
            _ => Ok(()),
        }
    }

    /// Replication stands where it should: one holder, a replica that has all of it.
    pub fn is_settled(&self) -> bool {
        use model::ReplicationState::Replicating;
        let holder = [A, B].into_iter().find(|&host| self.hosts[host].record.may_run());
        let Some(primary) = holder else { return false };
        let (p, r) = (&self.hosts[primary], &self.hosts[1 - primary]);
        let quiet = |r: &Relationship| r.work.is_none() && r.waiting.is_none() && r.state == Replicating;
        let newest: Option<DeltaId> = r.reality.newest();
        !r.record.may_run()
            && quiet(&p.record)
            && quiet(&r.record)
            && p.record.mode == Mode::Primary
            && r.record.mode == Mode::Replica
            && p.record.superseded.is_none()
            && p.record.latest == newest
            && r.record.latest == newest
            && p.record.token.generation() == r.record.token.generation()
            && r.reality.points.last().map(|point| point.content) == p.reality.disk
    }
}
