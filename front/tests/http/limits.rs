//! Clients that want too much, or take too long.

use crate::support::{ANNA, ask, client, exchange, plain_server, post, read, server, soon};
use front::Limits;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

const SHORT: Duration = Duration::from_millis(200);

fn head(path: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_slow_head_is_not_waited_for() {
    let server = plain_server(Limits { head_time: SHORT, ..Limits::default() }).await;
    assert_eq!(exchange(server.tcp().await, b"POST /who HTTP/1.1\r\nHo").await, "");
    assert_eq!(exchange(server.tcp().await, b"").await, "");
}

#[tokio::test]
async fn a_slow_handshake_is_not_waited_for() {
    let server = server(Limits { handshake_time: SHORT, ..Limits::default() }).await;
    assert_eq!(exchange(server.tcp().await, &[22, 3, 1]).await, "");
    // Plain HTTP to a TLS port is answered by an alert.
    assert!(!exchange(server.tcp().await, head("/who", "").as_bytes()).await.contains("HTTP"));
}

#[tokio::test]
async fn a_slow_body_is_not_waited_for() {
    let server = plain_server(Limits { body_time: SHORT, ..Limits::default() }).await;
    for headers in ["Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"] {
        let request = head("/length", &format!("Authorization: {ANNA}\r\n{headers}")) + "7\r\nabcdefg";
        let answer = exchange(server.tcp().await, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
    }
    let stranger = head("/length", "Content-Length: 100\r\n") + "abc";
    let answer = exchange(server.tcp().await, stranger.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn two_gibibytes_are_refused_before_they_are_sent() {
    let server = plain_server(Limits::default()).await;
    // Some of it is under way already; the answer must arrive all the same.
    let body = "x".repeat(1 << 20);
    for (credentials, status) in [(format!("Authorization: {ANNA}\r\n"), "413"), (String::new(), "401")] {
        let request = head("/length", &format!("{credentials}Content-Length: 2147483648\r\n")) + &body;
        let answer = exchange(server.tcp().await, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let stranger = head("/open", "Content-Length: 65537\r\n") + &body[..65537];
    assert!(exchange(server.tcp().await, stranger.as_bytes()).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_body_that_does_not_say_its_length_is_cut_at_the_limit() {
    let server = plain_server(Limits { body_bytes_max: 10_000, ..Limits::default() }).await;
    let chunks = format!("{:x}\r\n{}\r\n", 9000, "x".repeat(9000)).repeat(2) + "0\r\n\r\n";
    let request =
        head("/length", &format!("Authorization: {ANNA}\r\nTransfer-Encoding: chunked\r\n")) + &chunks;
    let answer = exchange(server.tcp().await, request.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("a request has at most 10000 bytes"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_only_if_it_is_known() {
    let server = plain_server(Limits::default()).await;
    let asking = "Expect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n";
    let mut known = server.tcp().await;
    known.write_all(head("/length", &format!("Authorization: {ANNA}\r\n{asking}")).as_bytes()).await.unwrap();
    let mut told = vec![0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    soon(known.read_exact(&mut told)).await.unwrap();
    assert_eq!(told, b"HTTP/1.1 100 Continue\r\n\r\n");
    let answer = exchange(known, b"abc").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n3"), "{answer}");

    let answer = exchange(server.tcp().await, head("/length", asking).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = plain_server(Limits { head_bytes_max: 8192, headers_max: 10, ..Limits::default() }).await;
    let long = head("/open", &format!("X: {}\r\n", "x".repeat(10_000)));
    assert!(exchange(server.tcp().await, long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = head("/open", &"X: y\r\n".repeat(11));
    assert!(exchange(server.tcp().await, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn connections_of_one_address_are_bounded_and_those_of_all() {
    let limits = Limits { connections_max: 3, connections_per_address_max: 2, ..Limits::default() };
    let server = plain_server(limits).await;
    let open = async |source: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(source.parse().unwrap()).unwrap();
        let mut client = client(socket.connect(server.address).await.unwrap()).await;
        client.ready().await.ok()?;
        let answer = client.send_request(post("/open", &[], "")).await.ok()?;
        assert_eq!(read(answer).await.0, 200);
        Some(client)
    };
    let first = open("127.0.0.1:0").await.unwrap();
    let mut second = open("127.0.0.1:0").await.unwrap();
    assert!(open("127.0.0.1:0").await.is_none());
    let _third = open("127.0.0.2:0").await.unwrap();
    assert!(open("127.0.0.3:0").await.is_none());
    // Those that are open are served on.
    assert_eq!(ask(&mut second, post("/open", &[], "")).await.status(), 200);
    drop(first);
    soon(async { while open("127.0.0.3:0").await.is_none() {} }).await;
}
