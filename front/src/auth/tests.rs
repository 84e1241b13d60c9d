use super::*;
use crate::users::{self, CertificateMapping};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

/// Users `anna` (administrator) and `bert` (reader, by certificate only), on a clock that a test moves.
struct World {
    authenticator: Arc<Authenticator>,
    passed_s: Arc<AtomicU64>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    users::edit(&path, |users| {
        users.add("anna", Role::Administrator)?;
        users.set_password("anna", Some(PasswordHash::new("correct horse")?))?;
        users.add("bert", Role::Reader)?;
        users.map("bert", CertificateMapping::Sha256("ab".repeat(32)))
    })
    .unwrap();
    let start = Instant::now();
    let passed_s = Arc::new(AtomicU64::new(0));
    let seconds = passed_s.clone();
    let clock: Clock = Arc::new(move || start + Duration::from_secs(seconds.load(Ordering::Relaxed)));
    let authenticator = Authenticator::new(UsersFile::open(&path).unwrap(), clock);
    World { authenticator, passed_s, path, _dir: dir }
}

impl World {
    async fn log_in(&self, from: [u8; 4], user: &str, password: &str) -> Verdict {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        self.authenticator.authenticate(&headers, from.into(), None).await
    }
}

const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [10, 0, 0, 2];

fn anna() -> Verdict {
    Verdict::Admitted { user: "anna".to_owned(), role: Role::Administrator }
}

fn locked_s(seconds: u64) -> Verdict {
    Verdict::Locked { wait: Duration::from_secs(seconds) }
}

#[tokio::test]
async fn a_password_admits_its_user_only() {
    let world = world();
    assert_eq!(world.log_in(HERE, "anna", "correct horse").await, anna());
    for (user, password) in
        [("anna", "correct house"), ("Anna", "correct horse"), ("bert", ""), ("carl", "x")]
    {
        assert_eq!(world.log_in(HERE, user, password).await, Verdict::Refused, "{user}");
    }
}

#[tokio::test]
async fn a_name_that_is_guessed_at_waits_and_recovers() {
    let world = world();
    // Known before the attack: the proof goes on to count.
    assert_eq!(world.log_in(THERE, "anna", "correct horse").await, anna());
    for user in ["anna", "nobody"] {
        for _ in 0..=USER_FAILURES_FREE {
            assert_eq!(world.log_in(HERE, user, "guess").await, Verdict::Refused);
        }
        assert_eq!(world.log_in(HERE, user, "guess").await, locked_s(1), "{user}");
    }
    assert_eq!(world.log_in(HERE, "anna", "correct horse").await, locked_s(1));
    assert_eq!(world.log_in(THERE, "anna", "correct horse").await, anna());

    world.passed_s.store(1, Ordering::Relaxed);
    assert_eq!(world.log_in(HERE, "anna", "guess").await, Verdict::Refused);
    assert_eq!(world.log_in(HERE, "anna", "correct horse").await, locked_s(2));
    world.passed_s.store(3, Ordering::Relaxed);
    assert_eq!(world.log_in(HERE, "anna", "correct horse").await, anna());
    assert_eq!(world.log_in(HERE, "anna", "guess").await, Verdict::Refused);
    assert_eq!(world.log_in(HERE, "anna", "guess").await, Verdict::Refused);
}

#[tokio::test]
async fn an_address_that_guesses_at_many_names_waits() {
    let world = world();
    for number in 0..=ADDRESS_FAILURES_FREE {
        assert_eq!(world.log_in(HERE, &format!("user{number}"), "guess").await, Verdict::Refused);
    }
    assert_eq!(world.log_in(HERE, "anna", "correct horse").await, locked_s(1));
    assert_eq!(world.log_in(THERE, "anna", "correct horse").await, anna());
}

#[tokio::test]
async fn guesses_sent_side_by_side_are_counted_one_by_one() {
    let world = world();
    let guesses = (0..20).map(|number| {
        let world = &world;
        async move { world.log_in(HERE, "anna", &format!("guess {number}")).await }
    });
    let verdicts = futures::future::join_all(guesses).await;
    let tried = verdicts.iter().filter(|verdict| **verdict == Verdict::Refused).count();
    assert_eq!(tried, USER_FAILURES_FREE as usize + 1);
}

#[tokio::test]
async fn a_changed_file_counts_at_once() {
    let world = world();
    assert_eq!(world.log_in(HERE, "anna", "correct horse").await, anna());
    users::edit(&world.path, |users| users.set_password("anna", Some(PasswordHash::new("battery staple")?)))
        .unwrap();
    assert_eq!(world.log_in(HERE, "anna", "correct horse").await, Verdict::Refused);
    assert_eq!(world.log_in(HERE, "anna", "battery staple").await, anna());
    users::edit(&world.path, |users| users.remove("anna")).unwrap();
    assert_eq!(world.log_in(HERE, "anna", "battery staple").await, Verdict::Refused);
}

#[tokio::test]
async fn a_certificate_admits_where_no_password_is_sent() {
    let world = world();
    let certificate = ClientCertificate { sha256: "ab".repeat(32), sha1: String::new(), names: vec![] };
    let bert = Verdict::Admitted { user: "bert".to_owned(), role: Role::Reader };
    let authenticator = &world.authenticator;
    let mut headers = HeaderMap::new();
    assert_eq!(authenticator.authenticate(&headers, HERE.into(), Some(&certificate)).await, bert);
    assert_eq!(authenticator.authenticate(&headers, HERE.into(), None).await, Verdict::Refused);
    headers.insert(AUTHORIZATION, "Basic YW5uYTp4".parse().unwrap());
    assert_eq!(authenticator.authenticate(&headers, HERE.into(), Some(&certificate)).await, Verdict::Refused);
    let stranger = ClientCertificate { sha256: "cd".repeat(32), sha1: String::new(), names: vec![] };
    headers.clear();
    assert_eq!(authenticator.authenticate(&headers, HERE.into(), Some(&stranger)).await, Verdict::Refused);
}

/// What an attacker could learn from the time of an answer: whether there is such a user. No machine computes the
/// hash in this time, and nothing else takes so long.
#[tokio::test]
async fn an_unknown_name_costs_a_hash_too() {
    let world = world();
    for user in ["anna", "bert", "nobody"] {
        let start = Instant::now();
        assert_eq!(world.log_in(HERE, user, "guess").await, Verdict::Refused);
        assert!(start.elapsed() > Duration::from_millis(2), "{user}");
    }
}
