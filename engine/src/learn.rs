//! What a host learns from how its peer stands: tokens that moved, hand-overs that were answered, and that
//! it was superseded.

use crate::{
    Context, Effect, Relationship, Superseded, Token,
    standing::{Standing, TokenKind},
};
use model::{Mode, ReplicationState, generation::Precedence};

/// Applies the peer's standing. Returns what has to be done at once.
pub fn learn(r: &mut Relationship, ctx: Context, theirs: &Standing, running_here: bool) -> Vec<Effect> {
    r.peer_latest = theirs.latest.filter(|_| theirs.mode.is_replica());
    // The replica that fed this one has become the primary.
    if r.mode == Mode::ExtendedReplica && theirs.mode == Mode::Primary {
        r.mode = Mode::Replica;
    }
    if r.token.generation() == &theirs.generation {
        same(r, theirs);
        return vec![];
    }
    learn_beyond(r, ctx, theirs, running_here)
}

/// Applies what a host that is not the peer knows of the right to run the VM. That it knows no more than we do
/// tells nothing about the peer.
pub fn learn_beyond(
    r: &mut Relationship,
    ctx: Context,
    theirs: &Standing,
    running_here: bool,
) -> Vec<Effect> {
    let mut effects = vec![];
    match r.token.generation().against(&theirs.generation) {
        Precedence::Same => {}
        Precedence::Ours => {}
        Precedence::Theirs => newer(r, ctx, theirs, running_here, &mut effects),
        Precedence::Conflict => conflict(r, ctx, theirs, running_here),
    }
    effects
}

fn same(r: &mut Relationship, theirs: &Standing) {
    match (&mut r.token, theirs.token) {
        (Token::Held { acknowledged, .. }, TokenKind::Elsewhere | TokenKind::Released) => {
            *acknowledged = true;
        }
        (Token::Released { to, .. }, TokenKind::Held) => {
            r.token = Token::Elsewhere { generation: to.clone() }
        }
        // Given to a host beyond the peer: the peer has it on its disk, and tells that host.
        (Token::Released { to, .. }, TokenKind::Elsewhere) if to.owner != r.peer => {
            r.token = Token::Elsewhere { generation: to.clone() }
        }
        _ => {}
    }
}

fn newer(
    r: &mut Relationship,
    ctx: Context,
    theirs: &Standing,
    running_here: bool,
    effects: &mut Vec<Effect>,
) {
    let generation = theirs.generation.clone();
    let ours = generation.owner == r.host;
    match (theirs.token, &r.token) {
        // They gave it to us. If we still hold an older one (they took over behind our back and reverted),
        // it simply goes on; otherwise it waits to be taken.
        (TokenKind::Released, Token::Held { .. }) if ours => {
            r.superseded = None;
            r.token = Token::Held { generation, acknowledged: false };
        }
        (TokenKind::Released, _) if ours => r.token = Token::Offered { generation },
        // They promised to refuse what we had released, and the answer to us was lost: it is asked for again.
        (TokenKind::Elsewhere, Token::Released { .. }) if ours => {}
        // A host beyond them gave it to us, and they pass that on.
        (TokenKind::Elsewhere, Token::Held { .. }) if ours => {
            r.superseded = None;
            r.token = Token::Held { generation, acknowledged: false };
        }
        (TokenKind::Elsewhere, _) if ours => r.token = Token::Offered { generation },
        (_, Token::Held { .. }) => supersede(r, ctx, theirs, running_here, effects),
        _ => r.token = Token::Elsewhere { generation },
    }
}

/// Equal numbers, different random ids. Whoever does not hold gives way; two holders need an operator, be it that
/// they hear of each other through a host between them.
fn conflict(r: &mut Relationship, ctx: Context, theirs: &Standing, running_here: bool) {
    // Who does not hold it himself may know a third host that does.
    let third = ![&r.host, &r.peer].contains(&&theirs.generation.owner);
    match (&r.token, theirs.token) {
        (Token::Held { .. }, kind) if kind == TokenKind::Held || third => {
            // A failed-over replica keeps its state: from there it can be reverted.
            if r.mode == Mode::Primary {
                r.state = ReplicationState::Critical;
            }
            r.superseded = Some(Superseded {
                by: theirs.generation.clone(),
                at_ms: ctx.now_ms,
                was_running: running_here,
            });
        }
        (Token::Held { .. }, _) => {}
        (_, TokenKind::Held) => r.token = Token::Elsewhere { generation: theirs.generation.clone() },
        // Both took over and both were reverted: each gave the right to the other, and neither has it. One of
        // them, the same seen from both sides, takes what it was given; the other goes on giving.
        (Token::Released { .. }, TokenKind::Released)
            if theirs.generation.owner == r.host && r.host < r.peer =>
        {
            r.token = Token::Offered { generation: theirs.generation.clone() };
        }
        _ => {}
    }
}

fn supersede(
    r: &mut Relationship,
    ctx: Context,
    theirs: &Standing,
    running_here: bool,
    effects: &mut Vec<Effect>,
) {
    r.token = Token::Elsewhere { generation: theirs.generation.clone() };
    r.superseded =
        Some(Superseded { by: theirs.generation.clone(), at_ms: ctx.now_ms, was_running: running_here });
    r.wants_running = false;
    effects.push(Effect::PauseVm);
    if r.mode == Mode::Primary {
        r.state = ReplicationState::Critical;
        if r.work.as_ref().is_some_and(|work| work.kind.is_turn()) {
            effects.push(Effect::CancelStep);
        }
    }
}

#[cfg(test)]
mod tests;
