//! The three rules, as checks.

use super::world::{A, B, Check, World};
use engine::{FailoverType, Relationship, Step, WorkKind};
use model::{DeltaId, Mode, generation::Precedence};

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
        for (index, host) in self.hosts.iter().enumerate() {
            if let Some(live) = &host.live
                && host.reality.runs()
                && !live.may_run()
            {
                return Err(format!("rule 1: the VM runs on {} without the right", Self::name(index)));
            }
        }
        let [a, b] = [A, B].map(|host| &self.hosts[host]);
        let both_hold = a.record.may_run() && b.record.may_run();
        if both_hold {
            let (ours, theirs) = (a.record.token.generation(), b.record.token.generation());
            let newer = match ours.against(theirs) {
                // Two operators, two claims: one of them has to revert.
                Precedence::Conflict if self.claimed.contains(&ours.nonce) => theirs,
                Precedence::Theirs => theirs,
                Precedence::Ours => ours,
                Precedence::Same | Precedence::Conflict => {
                    return Err("rule 1: both hosts hold the same generation's number".into());
                }
            };
            if !self.claimed.contains(&newer.nonce) {
                return Err(format!("rule 1: both hosts hold, and {newer} was not claimed"));
            }
        }
        if a.reality.runs() && b.reality.runs() && !both_hold && a.live.is_some() && b.live.is_some() {
            return Err("rule 1: the VM runs twice".into());
        }
        Ok(())
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
        let peer = &self.hosts[1 - host];
        let there = peer.reality.points.iter().any(|point| point.delta == *delta);
        let moved_on = peer.record.may_run() || peer.record.mode == Mode::Primary;
        if there || moved_on {
            Ok(())
        } else {
            Err(format!("rule 2: {delta} is settled, but the peer lost it"))
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
