//! Answers that are long, and what becomes of them at the end.

use crate::support::{ANNA, PIECE_BYTES, ask, post, read, server, soon};
use flate2::write::GzDecoder;
use front::Limits;
use http_body_util::BodyExt;
use std::{io::Write, sync::atomic::Ordering, time::Duration};
use tokio::net::TcpStream;

const GZIP: [(&str, &str); 2] = [("authorization", ANNA), ("accept-encoding", "gzip, deflate")];

#[tokio::test]
async fn a_long_answer_is_compressed_as_it_is_made() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    let response = ask(&mut client, post("/count/1000", &GZIP, "")).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.headers()["vary"], "accept-encoding");
    let mut body = response.into_body();
    let (mut wire_bytes, mut decoder) = (0, GzDecoder::new(Count::default()));
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        wire_bytes += data.len();
        decoder.write_all(&data).unwrap();
    }
    assert_eq!(decoder.finish().unwrap().0, 1000 * PIECE_BYTES);
    assert!(wire_bytes < 1000 * PIECE_BYTES / 20, "{wire_bytes}");
    // The next one on the same connection is not asked for in gzip.
    let response = ask(&mut client, post("/count/3", &GZIP[..1], "")).await;
    assert!(!response.headers().contains_key("content-encoding"));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 3 * PIECE_BYTES);
}

#[derive(Default)]
struct Count(usize);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 += data.len();
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_is_made_that_the_client_does_not_take() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    // As many as it wants to make.
    server.probe.permits.add_permits(1_000_000);
    let mut body = ask(&mut client, post("/stream", &GZIP[..1], "")).await.into_body();
    let mut taken = 0;
    while taken < 8 << 20 {
        taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    // What the kernel and the TLS layers hold.
    let made = server.probe.pieces_made.load(Ordering::Relaxed) * PIECE_BYTES;
    assert!(made < taken + (32 << 20), "{made} {taken}");
}

#[tokio::test]
async fn a_shutdown_lets_an_answer_finish_and_nobody_new_in() {
    let mut server = server(Limits::default()).await;
    let mut client = server.client().await;
    let address = server.address;
    let probe = server.probe.clone();
    let waiting =
        tokio::spawn(async move { read(ask(&mut client, post("/wait", &GZIP[..1], "")).await).await });
    soon(probe.begun.notified()).await;
    let shutdown = tokio::spawn(async move { server.shutdown().await });
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    assert!(!shutdown.is_finished());
    probe.permits.add_permits(1);
    assert_eq!(soon(waiting).await.unwrap(), (200, "done".to_owned()));
    soon(shutdown).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_an_answer_without_end() {
    let limits = Limits { shutdown_time: Duration::from_millis(200), ..Limits::default() };
    let mut server = server(limits).await;
    let mut client = server.client().await;
    server.probe.permits.add_permits(1);
    let mut body = ask(&mut client, post("/stream", &GZIP[..1], "")).await.into_body();
    body.frame().await.unwrap().unwrap();
    soon(server.shutdown()).await;
    soon(async { while let Some(Ok(_)) = body.frame().await {} }).await;
}

#[tokio::test]
async fn an_idle_client_does_not_delay_a_shutdown() {
    let mut server = server(Limits { shutdown_time: Duration::MAX, ..Limits::default() }).await;
    let mut client = server.client().await;
    assert_eq!(ask(&mut client, post("/open", &[], "")).await.status(), 200);
    soon(server.shutdown()).await;
}

#[tokio::test]
async fn what_has_begun_is_done_although_the_client_is_gone() {
    let server = server(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut client = server.client().await;
    client.ready().await.unwrap();
    let sent = tokio::spawn(client.send_request(post("/wait", &GZIP[..1], "")));
    soon(server.probe.begun.notified()).await;
    sent.abort();
    drop(client);
    // There is room again: the server has seen that the client is gone.
    soon(async { while server.tls(None).await.is_err() {} }).await;
    server.probe.permits.add_permits(1);
    soon(server.probe.done.notified()).await;
}

#[tokio::test]
async fn a_panic_is_one_failed_request() {
    let server = server(Limits::default()).await;
    let mut client = server.client().await;
    let failed = ask(&mut client, post("/panic", &GZIP[..1], "")).await;
    assert_eq!(read(failed).await, (500, "internal error".to_owned()));
    assert_eq!(ask(&mut client, post("/open", &[], "")).await.status(), 200);
}
