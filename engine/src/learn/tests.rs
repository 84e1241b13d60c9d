use super::*;
use crate::testing::{context, generation, record};
use expect_test::expect;
use model::Generation;
use std::fmt::Write;

const KINDS: [TokenKind; 4] =
    [TokenKind::Held, TokenKind::Released, TokenKind::Offered, TokenKind::Elsewhere];

fn token(kind: TokenKind, generation: Generation) -> Token {
    match kind {
        TokenKind::Held => Token::Held { generation, acknowledged: false },
        TokenKind::Released => Token::Released { to: generation, withdrawing: None },
        TokenKind::Offered => Token::Offered { generation },
        TokenKind::Elsewhere => Token::Elsewhere { generation },
    }
}

fn kind(token: &Token) -> TokenKind {
    match token {
        Token::Held { .. } => TokenKind::Held,
        Token::Released { .. } => TokenKind::Released,
        Token::Offered { .. } => TokenKind::Offered,
        Token::Elsewhere { .. } => TokenKind::Elsewhere,
    }
}

/// What `a`, a running primary of generation 5, learns of each standing of `b` under `theirs`.
fn learnt(theirs: &Generation) -> String {
    let mut table = String::new();
    for ours in KINDS {
        for their_kind in KINDS {
            let mut r =
                record(Mode::Primary, ReplicationState::Replicating, token(ours, generation(5, "a", 5)));
            let standing = Standing {
                generation: theirs.clone(),
                token: their_kind,
                mode: Mode::Replica,
                state: ReplicationState::Replicating,
                latest: None,
                running: false,
            };
            let before = r.token.clone();
            let effects = learn(&mut r, context(7), &standing, true);
            let mut row = if r.token == before {
                "nothing".to_owned()
            } else {
                format!("{:?} {}", kind(&r.token), r.token.generation().number)
            };
            if matches!(r.token, Token::Held { acknowledged: true, .. }) {
                row.push_str(", acknowledged");
            }
            if r.superseded.is_some() {
                row.push_str(", superseded");
            }
            if effects.contains(&Effect::PauseVm) {
                row.push_str(", paused");
            }
            writeln!(table, "{ours:?} hears {their_kind:?}: {row}").unwrap();
        }
    }
    table
}

#[test]
fn an_older_generation_teaches_nothing() {
    let rows = learnt(&generation(4, "b", 4));
    assert!(rows.lines().all(|row| row.ends_with(": nothing")), "{rows}");
}

#[test]
fn the_same_generation_tells_that_the_peer_knows() {
    expect![[r#"
        Held hears Held: nothing
        Held hears Released: Held 5, acknowledged
        Held hears Offered: nothing
        Held hears Elsewhere: Held 5, acknowledged
        Released hears Held: Elsewhere 5
        Released hears Released: nothing
        Released hears Offered: nothing
        Released hears Elsewhere: Elsewhere 5
        Offered hears Held: nothing
        Offered hears Released: nothing
        Offered hears Offered: nothing
        Offered hears Elsewhere: nothing
        Elsewhere hears Held: nothing
        Elsewhere hears Released: nothing
        Elsewhere hears Offered: nothing
        Elsewhere hears Elsewhere: nothing
    "#]]
    .assert_eq(&learnt(&generation(5, "a", 5)));
}

#[test]
fn a_newer_generation_of_theirs_supersedes_a_holder() {
    expect![[r#"
        Held hears Held: Elsewhere 6, superseded, paused
        Held hears Released: Elsewhere 6, superseded, paused
        Held hears Offered: Elsewhere 6, superseded, paused
        Held hears Elsewhere: Elsewhere 6, superseded, paused
        Released hears Held: Elsewhere 6
        Released hears Released: Elsewhere 6
        Released hears Offered: Elsewhere 6
        Released hears Elsewhere: Elsewhere 6
        Offered hears Held: Elsewhere 6
        Offered hears Released: Elsewhere 6
        Offered hears Offered: Elsewhere 6
        Offered hears Elsewhere: Elsewhere 6
        Elsewhere hears Held: Elsewhere 6
        Elsewhere hears Released: Elsewhere 6
        Elsewhere hears Offered: Elsewhere 6
        Elsewhere hears Elsewhere: Elsewhere 6
    "#]]
    .assert_eq(&learnt(&generation(6, "b", 6)));
}

#[test]
fn a_newer_generation_of_ours_was_given_to_us() {
    expect![[r#"
        Held hears Held: Elsewhere 6, superseded, paused
        Held hears Released: Held 6
        Held hears Offered: Elsewhere 6, superseded, paused
        Held hears Elsewhere: Held 6
        Released hears Held: Elsewhere 6
        Released hears Released: Offered 6
        Released hears Offered: Elsewhere 6
        Released hears Elsewhere: nothing
        Offered hears Held: Elsewhere 6
        Offered hears Released: Offered 6
        Offered hears Offered: Elsewhere 6
        Offered hears Elsewhere: Offered 6
        Elsewhere hears Held: Elsewhere 6
        Elsewhere hears Released: Offered 6
        Elsewhere hears Offered: Elsewhere 6
        Elsewhere hears Elsewhere: Offered 6
    "#]]
    .assert_eq(&learnt(&generation(6, "a", 6)));
}

#[test]
fn of_equal_numbers_a_holder_stays_and_two_holders_need_an_operator() {
    expect![[r#"
        Held hears Held: nothing, superseded
        Held hears Released: nothing
        Held hears Offered: nothing
        Held hears Elsewhere: nothing
        Released hears Held: Elsewhere 5
        Released hears Released: nothing
        Released hears Offered: nothing
        Released hears Elsewhere: nothing
        Offered hears Held: Elsewhere 5
        Offered hears Released: nothing
        Offered hears Offered: nothing
        Offered hears Elsewhere: nothing
        Elsewhere hears Held: Elsewhere 5
        Elsewhere hears Released: nothing
        Elsewhere hears Offered: nothing
        Elsewhere hears Elsewhere: nothing
    "#]]
    .assert_eq(&learnt(&generation(5, "b", 6)));
}

#[test]
fn a_failed_over_replica_in_conflict_can_still_be_reverted() {
    let mut r =
        record(Mode::Replica, ReplicationState::Recovered, token(TokenKind::Held, generation(5, "a", 5)));
    let theirs =
        record(Mode::Replica, ReplicationState::Recovered, token(TokenKind::Held, generation(5, "b", 6)));
    learn(&mut r, context(0), &theirs.standing(true), true);
    assert_eq!((r.state, r.superseded.is_some()), (ReplicationState::Recovered, true));
    assert!(r.permit(&crate::Operation::Revert).is_ok() && r.permit(&crate::Operation::Commit).is_err());
    // The other one is reverted: the right comes to us, and nothing is left of the conflict.
    let reverted = token(TokenKind::Released, generation(6, "a", 7));
    let theirs = record(Mode::Replica, ReplicationState::Replicating, reverted);
    learn(&mut r, context(0), &theirs.standing(false), true);
    assert!(r.may_run() && r.superseded.is_none());
}

#[test]
fn of_two_hosts_that_gave_the_right_to_each_other_the_first_by_name_takes_it() {
    let released = |owner, nonce| token(TokenKind::Released, generation(5, owner, nonce));
    let mut a = record(Mode::Replica, ReplicationState::Replicating, released("b", 1));
    let mut b = record(Mode::Replica, ReplicationState::Replicating, released("a", 2));
    (b.host, b.peer) = (a.peer.clone(), a.host.clone());
    let (from_a, from_b) = (a.standing(false), b.standing(false));
    learn(&mut b, context(0), &from_a, false);
    learn(&mut a, context(0), &from_b, false);
    assert_eq!((kind(&a.token), kind(&b.token)), (TokenKind::Offered, TokenKind::Released));
    assert_eq!(a.token.generation(), b.token.generation());
}
