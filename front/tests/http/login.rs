//! Passwords, lock-out, and what the service learns of the caller.

use crate::support::{self, ANNA, ProbeService, WRONG, ask, post, read, server};
use front::{BindError, Limits, Listener, Settings};
use std::sync::{Arc, atomic::Ordering};

#[tokio::test]
async fn the_service_learns_who_asks_and_from_where() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    let headers = [("authorization", ANNA), ("accept-language", "de-AT, de;q=0.9, en;q=0.5")];
    let (status, who) = read(ask(&mut client, post("/who", &headers, "")).await).await;
    let who = who.split("127.0.0.1:").next().unwrap();
    let expected =
        r#"Some(Caller { user: "anna", role: Administrator, locale: Some("de-AT"), address: Some("#;
    assert_eq!((status, who), (200, expected));
}

#[tokio::test]
async fn a_stranger_is_told_how_to_log_in_and_stays_connected() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    // Clients that authenticate only when asked to send the whole request twice, on one connection.
    for headers in [&[][..], &[("authorization", WRONG)], &[("authorization", "Negotiate YII=")]] {
        let response = ask(&mut client, post("/length", headers, vec![b'x'; 50_000])).await;
        assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"TEST\", charset=\"UTF-8\"");
        assert_eq!(read(response).await, (401, String::new()));
    }
    let response = ask(&mut client, post("/length", &[("authorization", ANNA)], vec![b'x'; 50_000])).await;
    assert_eq!(read(response).await, (200, "50000".to_owned()));
}

#[tokio::test]
async fn who_guesses_is_locked_out_until_time_has_passed() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    let mut statuses = vec![];
    for _ in 0..7 {
        statuses
            .push(ask(&mut client, post("/who", &[("authorization", WRONG)], "")).await.status().as_u16());
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 401, 429]);
    let response = ask(&mut client, post("/who", &[("authorization", ANNA)], "")).await;
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(read(response).await, (429, "too many failed attempts to log in; wait 1 s".to_owned()));
    server.passed_s.fetch_add(1, Ordering::Relaxed);
    assert_eq!(ask(&mut client, post("/who", &[("authorization", ANNA)], "")).await.status(), 200);
}

#[tokio::test]
async fn some_resources_are_for_anybody_and_some_are_not_there() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    assert_eq!(read(ask(&mut client, post("/open", &[], "abc")).await).await, (200, "3".to_owned()));
    let absent = ask(&mut client, post("/absent", &[("authorization", ANNA)], "")).await;
    assert_eq!(read(absent).await, (404, "no such resource".to_owned()));
}

#[tokio::test]
async fn a_user_without_a_file_is_nobody() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    let request = || post("/who", &[("authorization", ANNA)], "");
    assert_eq!(ask(&mut client, request()).await.status(), 200);
    std::fs::remove_file(server.dir.path().join("users.toml")).unwrap();
    assert_eq!(ask(&mut client, request()).await.status(), 401);
}

async fn bind(addresses: &[&str], with_tls: bool) -> Result<Listener, BindError> {
    let dir = tempfile::tempdir().unwrap();
    let authority = support::Authority::new("authority of the test");
    let tls = with_tls.then(|| front::Tls::load(&support::tls_files(&dir, &authority)).unwrap());
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    let settings = Settings { addresses, tls, realm: "TEST", limits: Limits::default() };
    let service = Arc::new(ProbeService(Arc::default()));
    Listener::bind(settings, support::authenticator(&dir, Arc::default(), None), service).await
}

#[tokio::test]
async fn plain_http_is_for_loopback_only() {
    let listener = bind(&["127.0.0.1:0", "localhost:0"], false).await.unwrap();
    assert!(listener.addresses.iter().all(|address| address.ip().is_loopback()));
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = bind(&["127.0.0.1:0", address], false).await.err().unwrap();
        let expected = "can be reached from outside: without TLS, passwords would be readable on the way";
        assert_eq!(refused.to_string(), format!("{address} {expected}"));
    }
    bind(&["0.0.0.0:0"], true).await.unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_named() {
    let taken = bind(&["127.0.0.1:0"], false).await.unwrap();
    let address = taken.addresses[0];
    let refused = bind(&["127.0.0.1:0", &address.to_string()], false).await.err().unwrap();
    assert_eq!(refused.to_string(), format!("cannot listen on {address}"));
    let refused = bind(&["no port"], false).await.err().unwrap();
    assert_eq!(refused.to_string(), "no port does not resolve");
}
