//! Against a real KDC: both sides come to know each other, what they say is sealed, and what goes wrong is named.

use kerberos::{Acceptor, Account, Initiator, KerberosError, RecordError, SEAL_BYTES_MAX, Session};
use std::path::{Path, PathBuf};
use testkit::kdc::{Kdc, REALM, in_realm, in_realm_ahead};

const A: &str = "relevo/a.example";
const B: &str = "relevo/b.example";

fn account(kdc: &Kdc, principal: &str, keytab: &Path) -> Account {
    let folder = kdc.folder().join(principal.replace('/', "-"));
    std::fs::create_dir_all(&folder).unwrap();
    Account { principal: Some(principal.to_owned()), keytab: keytab.to_owned(), folder }
}

fn host(kdc: &Kdc, principal: &str) -> Account {
    let keytab = kdc.keytab(&format!("{}.keytab", principal.replace('/', "-")), &[principal]).unwrap();
    account(kdc, principal, &keytab)
}

/// Both ends of a connection: the calling one, the called one.
fn meet(a: &Account, b: &Account) -> Result<(Session, Session), KerberosError> {
    let (mut initiator, mut token) = Initiator::begin(a, B)?;
    let mut acceptor = Acceptor::new(b)?;
    loop {
        if let Some(answer) = acceptor.step(&token)?
            && let Some(next) = initiator.step(&answer)?
        {
            token = next;
            continue;
        }
        assert!(acceptor.is_complete());
        return Ok((initiator.finish()?, acceptor.finish()?));
    }
}

#[test]
fn both_sides_know_each_other_and_what_they_say_is_sealed() {
    in_realm("both_sides_know_each_other_and_what_they_say_is_sealed", |kdc| {
        let (a, b) = (host(kdc, A), host(kdc, B));
        let (mut a, mut b) = meet(&a, &b).unwrap();
        assert_eq!(b.peer.0, format!("{A}@{REALM}"));
        assert_eq!(a.peer.0, format!("{B}@{REALM}"));
        assert!(a.good_for.as_secs() > 3600 && b.good_for.as_secs() > 3600);
        let secret = vec![b'x'; 100_000];
        let sealed = a.seal(&secret).unwrap();
        assert!(sealed.len() <= secret.len() + SEAL_BYTES_MAX, "{}", sealed.len());
        assert!(!sealed.windows(8).any(|window| window == b"xxxxxxxx"));
        assert_eq!(*b.open(&sealed).unwrap(), *secret);
        let back = b.seal(b"").unwrap();
        assert_eq!(*a.open(&back).unwrap(), *b"");

        // What a middle can do.
        assert_eq!(b.open(&sealed).unwrap_err(), RecordError::Repeated);
        let records: Vec<_> = (0..3).map(|_| a.seal(b"next").unwrap()).collect();
        assert_eq!(b.open(&records[1]).unwrap_err(), RecordError::OutOfOrder);
        let (mut a, mut b) = (a, b);
        for at in [0, 2, 3, 15, 16, 40, 60] {
            let mut record = a.seal(b"next").unwrap().to_vec();
            record[at] ^= 2;
            let error = b.open(&record).unwrap_err();
            assert!(matches!(error, RecordError::Damaged { .. } | RecordError::Plain), "{at}: {error}");
        }
        for length in [0, 1, 2, 3, 15, 16, 30, 59] {
            let record = a.seal(b"next").unwrap();
            let error = b.open(&record[..length]).unwrap_err();
            assert!(matches!(error, RecordError::Damaged { .. } | RecordError::Plain), "{length}: {error}");
        }
        // Its own words thrown back at it.
        let own = a.seal(b"mirror").unwrap();
        assert!(a.open(&own).is_err());
    });
}

fn check(error: KerberosError, expected: &str) {
    assert!(error.to_string().contains(expected), "{error:?} does not say {expected:?}");
}

#[test]
fn what_goes_wrong_is_named() {
    in_realm("what_goes_wrong_is_named", |kdc| {
        let (a, b) = (host(kdc, A), host(kdc, B));
        meet(&a, &b).unwrap();

        let absent = Account { keytab: PathBuf::from("/nonexistent/keytab"), ..a.clone() };
        check(Initiator::begin(&absent, B).unwrap_err(), "cannot read the keytab /nonexistent/keytab");
        check(Acceptor::new(&absent).unwrap_err(), "cannot read the keytab");
        let other = account(kdc, "relevo/c.example", &a.keytab);
        check(Initiator::begin(&other, B).unwrap_err(), "has no key of relevo/c.example");
        check(other.check().unwrap_err(), "has no key of relevo/c.example");
        assert_eq!(a.check().unwrap().unwrap().0, format!("{A}@{REALM}"));
        check(Initiator::begin(&a, "relevo/d.example").unwrap_err(), "does not know relevo/d.example");

        // The peer got a new key: the tickets that we have are for the old one, new ones are not.
        let keytab = kdc.keytab("new.keytab", &[B]).unwrap();
        let newer = account(kdc, B, &keytab);
        check(meet(&a, &newer).unwrap_err(), "for a principal or a key that is not in the keytab");
        a.forget_tickets().unwrap();
        meet(&a, &newer).unwrap();

        // Ours is an old one.
        kdc.keytab("a-new.keytab", &[A]).unwrap();
        a.forget_tickets().unwrap();
        check(Initiator::begin(&a, B).unwrap_err(), "has another key of relevo/a.example than the keytab");
        kdc.admin(&format!("delprinc -force {A}")).unwrap();
        check(Initiator::begin(&a, B).unwrap_err(), "does not know this host's principal relevo/a.example");

        // Keys of the principal that was have the same numbers.
        std::fs::remove_file(&a.keytab).unwrap();
        let a = host(kdc, A);
        kdc.admin(&format!("modprinc -expire yesterday {A}")).unwrap();
        check(Initiator::begin(&a, B).unwrap_err(), "no valid ticket");
        kdc.admin(&format!("modprinc -expire never {A}")).unwrap();

        kdc.stop().unwrap();
        check(Initiator::begin(&a, B).unwrap_err(), "no KDC answers");
        kdc.resume().unwrap();
        meet(&a, &newer).unwrap();
        // With the tickets that are here it goes on without a KDC.
        kdc.stop().unwrap();
        meet(&a, &newer).unwrap();
        kdc.resume().unwrap();
    });
}

#[test]
fn a_clock_that_is_an_hour_ahead_is_named_by_the_side_that_is_called() {
    in_realm_ahead("a_clock_that_is_an_hour_ahead_is_named_by_the_side_that_is_called", "+1h", |kdc| {
        // The calling side gets over it: it learns the time from the KDC.
        check(
            meet(&host(kdc, A), &host(kdc, B)).unwrap_err(),
            "the clocks differ by more than Kerberos allows",
        );
    });
}

#[test]
fn what_is_no_token_is_refused() {
    in_realm("what_is_no_token_is_refused", |kdc| {
        let b = host(kdc, B);
        for garbage in [&b"x"[..], &[0x60; 40], &[0xff; 4000]] {
            assert!(Acceptor::new(&b).unwrap().step(garbage).is_err());
        }
        // NTLM, as clients without a ticket send it.
        assert!(Acceptor::new(&b).unwrap().step(b"NTLMSSP\0\x01\0\0\0\x97\x82\x08\xe2").is_err());
        let a = host(kdc, A);
        let (_, token) = Initiator::begin(&a, B).unwrap();
        Acceptor::new(&b).unwrap().step(&token).unwrap();
        // The same token again, by whoever heard it.
        let error = Acceptor::new(&b).unwrap().step(&token).unwrap_err();
        assert!(error.to_string().contains("replay"), "{error}");
    });
}
