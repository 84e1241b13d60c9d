//! Two real ends on loopback: deltas arrive whole, resume, wait, and stop.

mod common;

use common::{Authority, Keeper, PATIENCE, client, disk_of, expected, header, name, serve};
use model::Chunk;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;
use transport::{
    CallError, Compression, Limiter, LinkProblem, Mark, ReceiveError, SendError, SendOptions, Totals,
    fault::{Fault, FaultProxy, frames, send_frames},
};

const B: &str = "b.example";

fn compression(compression: Compression) -> SendOptions {
    SendOptions { compression, ..SendOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_of_200_mib_arrives_as_it_was_sent_at_any_compression() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(3200);
    let expected = expected(sizes.len(), source.clone());
    let mut sent = vec![];
    for level in [Compression::Off, Compression::Adaptive, Compression::Always(1)] {
        let keeper = Keeper::new();
        let server = serve(authority.tls(B), keeper.clone());
        let client = client(authority.tls("a.example"), B, server.local_addr);
        let options = compression(level);
        let progress = options.progress.clone();
        let answer = client.send_delta(&name(B), header(&sizes), source.clone(), options).await.unwrap();
        server.shutdown().await;
        let kept = keeper.kept.lock().unwrap();
        assert!(kept.disks == expected, "{level:?}");
        let totals = kept.end.unwrap();
        assert_eq!(answer["data_bytes"], totals.data_bytes);
        assert_eq!(progress.raw_bytes.load(Ordering::Relaxed), totals.data_bytes);
        assert_eq!(progress.frames.load(Ordering::Relaxed), totals.mark.frames);
        assert_eq!(kept.largest_chunk, 1 << 20, "the writer gets large requests");
        sent.push((progress.sent_bytes.load(Ordering::Relaxed), totals));
    }
    assert!(sent[0].0 > sent[0].1.data_bytes, "off: all of it and the headers");
    assert!(sent[2].0 < sent[2].1.data_bytes * 6 / 10, "half of the data compresses well");
    assert!(sent.iter().all(|(_, totals)| *totals == sent[0].1), "the chain does not know compression");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_cut_at_random_places_resumes_from_the_last_mark_until_it_is_whole() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(800);
    let keeper = Keeper::new();
    let server = serve(authority.tls(B), keeper.clone());
    let proxy = FaultProxy::start(server.local_addr).await.unwrap();
    let through_proxy = client(authority.tls("a.example"), B, proxy.address);
    let direct = client(authority.tls("a.example"), B, server.local_addr);
    let mut random = StdRng::seed_from_u64(1);
    let mut header = header(&sizes);
    let mut cuts = 0;
    let to = name(B);
    loop {
        // Anywhere, the handshake included; later and later, so that it ends.
        proxy.set(Fault::CutAfter(random.random_range(0..8_000_000) + cuts * 200_000));
        // Compression differs from try to try: the chain does not.
        let level = if cuts % 2 == 0 { Compression::Off } else { Compression::Always(1) };
        let sending = through_proxy.send_delta(&to, header.clone(), source.clone(), compression(level));
        match timeout(PATIENCE, sending).await.unwrap() {
            Ok(_) => break,
            Err(SendError::Link(error)) => {
                assert!(matches!(error.problem, LinkProblem::Cut(_)), "{error}");
                cuts += 1;
            }
            // A cut attempt that the server came to only after it had told its mark.
            Err(SendError::Refused { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        header.from = direct.call(&name(B), &json!({ "mark": true })).await.unwrap();
    }
    assert!(cuts > 3, "only {cuts} cuts");
    assert!(keeper.kept.lock().unwrap().disks == expected(sizes.len(), source));
    proxy.stop().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_before_the_mark_is_refused_before_anything_is_sent() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(64);
    let keeper = Keeper::new();
    let server = serve(authority.tls(B), keeper.clone());
    let client = client(authority.tls("a.example"), B, server.local_addr);
    let mut header = header(&sizes);
    header.from = Mark { frames: 20, chain: [7; 32] };
    let sent = client.send_delta(&name(B), header.clone(), source.clone(), SendOptions::default()).await;
    assert!(matches!(sent, Err(SendError::ChainMismatch { frames: 20, .. })), "{sent:?}");
    // A mark behind the source's end is a mismatch too.
    header.from.frames = 1_000_000;
    let sent = client.send_delta(&name(B), header, source, SendOptions::default()).await;
    assert!(matches!(sent, Err(SendError::ChainMismatch { .. })), "{sent:?}");
    assert!(keeper.kept.lock().unwrap().disks.is_empty());
    server.shutdown().await;
}

/// Counts what is read.
fn counted<I: Iterator<Item = Result<Chunk, Infallible>>>(
    source: I,
    read: Arc<AtomicU64>,
) -> impl Iterator<Item = Result<Chunk, Infallible>> {
    source.inspect(move |chunk| {
        if let Ok(Chunk { content: model::ChunkContent::Data { bytes, .. }, .. }) = chunk {
            read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    })
}

/// How the delta ended for the receiver.
fn outcome(keeper: &Keeper) -> (Option<Totals>, Option<ReceiveError>) {
    let kept = keeper.kept.lock().unwrap();
    (kept.end, kept.error.clone())
}

/// Waits for a condition.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it never came to pass");
}

/// Waits until the receiver's handler has the delta.
async fn begun(keeper: &Keeper) {
    until(|| !keeper.kept.lock().unwrap().disks.is_empty()).await;
}

/// Waits until a counter stands still, and returns it. A test that something does *not* go on cannot wait for
/// a sign of it; too short a wait here makes it weaker and never false.
async fn settled(counter: &AtomicU64) -> u64 {
    let mut before = counter.load(Ordering::Relaxed);
    let mut still = 0;
    while still < 40 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let now = counter.load(Ordering::Relaxed);
        still = if now == before && now > 0 { still + 1 } else { 0 };
        before = now;
    }
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_nothing_makes_the_sender_wait() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(3200);
    let keeper = Keeper::closed();
    let server = serve(authority.tls(B), keeper.clone());
    let client = Arc::new(client(authority.tls("a.example"), B, server.local_addr));
    let read = Arc::new(AtomicU64::new(0));
    let source = counted(source, read.clone());
    let sending = tokio::spawn(async move {
        client.send_delta(&name(B), header(&sizes), source, compression(Compression::Off)).await
    });
    let waiting = settled(&read).await;
    // The sender's queues, the receiver's share, and the sockets' buffers, which are most of it.
    assert!(waiting < 120 << 20, "{waiting} bytes were read for a receiver that takes none");
    keeper.gate.add_permits(tokio::sync::Semaphore::MAX_PERMITS / 2);
    timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_the_sender_and_tells_the_receiver() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(3200);
    let keeper = Keeper::closed();
    let server = serve(authority.tls(B), keeper.clone());
    let client = Arc::new(client(authority.tls("a.example"), B, server.local_addr));
    let options = compression(Compression::Off);
    let cancel = options.cancel.clone();
    let sending =
        tokio::spawn(async move { client.send_delta(&name(B), header(&sizes), source, options).await });
    begun(&keeper).await;
    cancel.cancel();
    let sent = timeout(PATIENCE, sending).await.unwrap().unwrap();
    assert!(matches!(sent, Err(SendError::Cancelled { .. })), "{sent:?}");
    keeper.gate.add_permits(tokio::sync::Semaphore::MAX_PERMITS / 2);
    timeout(PATIENCE, keeper.receives_ended.acquire()).await.unwrap().unwrap().forget();
    let (_, error) = outcome(&keeper);
    assert!(matches!(error, Some(ReceiveError::Cut { .. })), "{error:?}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delta_stops_early_with_the_peers_answer() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(3200);
    let server = serve(authority.tls(B), Keeper::new());
    let client = client(authority.tls("a.example"), B, server.local_addr);
    let mut header = header(&sizes);
    header.extra = json!({ "refuse": { "kind": "busy" } });
    let read = Arc::new(AtomicU64::new(0));
    let source = counted(source, read.clone());
    let sent = client.send_delta(&name(B), header, source, compression(Compression::Off)).await;
    let Err(SendError::Refused { answer, .. }) = sent else { panic!("{sent:?}") };
    assert_eq!(answer, json!({ "kind": "busy" }));
    until(|| Arc::strong_count(&read) == 1).await;
    assert!(read.load(Ordering::Relaxed) < 150 << 20, "the rest is not even read");
    server.shutdown().await;
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read sector 7")]
struct BadSector;

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_midway_is_the_senders_error_and_the_receivers_cut() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(640);
    let keeper = Keeper::new();
    let server = serve(authority.tls(B), keeper.clone());
    let client = client(authority.tls("a.example"), B, server.local_addr);
    let source = source.map(|chunk| chunk.map_err(|never| match never {})).take(30).chain([Err(BadSector)]);
    let sent = client.send_delta(&name(B), header(&sizes), source, compression(Compression::Off)).await;
    let Err(SendError::Source { source, .. }) = sent else { panic!("{sent:?}") };
    assert_eq!(source.to_string(), "cannot read sector 7");
    timeout(PATIENCE, keeper.receives_ended.acquire()).await.unwrap().unwrap().forget();
    let (end, error) = outcome(&keeper);
    assert!(end.is_none() && matches!(error, Some(ReceiveError::Cut { .. })), "{end:?} {error:?}");
    server.shutdown().await;
}

type Spoil = fn(&mut Vec<bytes::Bytes>);

#[tokio::test(flavor = "multi_thread")]
async fn frames_lost_repeated_swapped_or_damaged_under_tls_are_refused() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(40);
    let chunks: Vec<Chunk> = source.map(|Ok(chunk)| chunk).collect();
    let whole = frames(&chunks, Compression::Always(1)).unwrap();
    let spoil: [(&str, Spoil); 6] = [
        ("nothing", |_| {}),
        ("lost", |frames| drop(frames.remove(9))),
        ("repeated", |frames| frames.insert(9, frames[9].clone())),
        ("swapped", |frames| frames.swap(9, 11)),
        ("damaged", |frames| {
            let mut frame = frames[9].to_vec();
            *frame.last_mut().unwrap() ^= 1;
            frames[9] = frame.into();
        }),
        ("without its end", |frames| drop(frames.pop())),
    ];
    for (what, spoil) in spoil {
        let keeper = Keeper::new();
        let server = serve(authority.tls(B), keeper.clone());
        let client = client(authority.tls("a.example"), B, server.local_addr);
        let mut frames = whole.clone();
        spoil(&mut frames);
        let answer = send_frames(&client, &name(B), &header(&sizes), frames).await.unwrap();
        assert_eq!(answer.is_ok(), what == "nothing", "{what}: {answer:?}");
        let (end, error) = outcome(&keeper);
        assert_eq!(end.is_some(), what == "nothing", "{what}");
        if let Some(error) = error {
            let named = matches!(error, ReceiveError::Damaged(_) | ReceiveError::Truncated { .. });
            assert!(named, "{what}: {error}");
        }
        if what != "nothing" && what != "without its end" {
            let good = if what == "repeated" { 10 } else { 9 };
            let frames = keeper.kept.lock().unwrap().mark.frames;
            assert_eq!(frames, good, "{what}: what came before is kept");
        }
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_damaged_on_the_wire_cuts_the_stream() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(160);
    let server = serve(authority.tls(B), Keeper::new());
    let proxy = FaultProxy::start(server.local_addr).await.unwrap();
    let to = name(B);
    for fault in [Fault::FlipAt(3_000_001), Fault::DuplicateAt(3_000_001), Fault::DropAt(3_000_001)] {
        proxy.set(fault);
        let client = client(authority.tls("a.example"), B, proxy.address);
        let sending = client.send_delta(&to, header(&sizes), source.clone(), compression(Compression::Off));
        let sent = timeout(PATIENCE, sending).await.unwrap();
        assert!(matches!(sent, Err(SendError::Link(_) | SendError::Refused { .. })), "{fault:?}: {sent:?}");
    }
    proxy.stop().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_does_not_change_what_arrives() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(32);
    let keeper = Keeper::new();
    let server = serve(authority.tls(B), keeper.clone());
    let proxy = FaultProxy::start(server.local_addr).await.unwrap();
    proxy.set(Fault::Delay(Duration::from_millis(5)));
    let client = client(authority.tls("a.example"), B, proxy.address);
    client.send_delta(&name(B), header(&sizes), source.clone(), SendOptions::default()).await.unwrap();
    assert!(keeper.kept.lock().unwrap().disks == expected(sizes.len(), source));
    proxy.stop().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_limiter_stops_the_stream_and_a_raised_one_lets_it_end() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(320);
    let server = serve(authority.tls(B), Keeper::new());
    let client = Arc::new(client(authority.tls("a.example"), B, server.local_addr));
    let limiter = Arc::new(Limiter::new(Some(0)));
    let options = SendOptions { limiters: vec![limiter.clone()], ..compression(Compression::Off) };
    let progress = options.progress.clone();
    let sending =
        tokio::spawn(async move { client.send_delta(&name(B), header(&sizes), source, options).await });
    until(|| progress.raw_bytes.load(Ordering::Relaxed) > 4 << 20).await;
    assert_eq!(progress.sent_bytes.load(Ordering::Relaxed), 0);
    limiter.set(None);
    timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_carries_json_both_ways_and_tells_who_asks() {
    let authority = Authority::new();
    let server = serve(authority.tls(B), Keeper::new());
    let client = client(authority.tls("a.example"), B, server.local_addr);
    for round in 0..20 {
        let answer: Value = client.call(&name(B), &json!({ "round": round })).await.unwrap();
        assert_eq!(answer, json!({ "echo": { "round": round }, "peer": ["a.example"] }));
    }
    let refused = client.call::<Value>(&name(B), &json!({ "refuse": "no" })).await;
    assert!(matches!(&refused, Err(CallError::Refused { answer, .. }) if answer == "no"), "{refused:?}");
    let other = client.call::<Vec<u8>>(&name(B), &json!({})).await;
    assert!(matches!(other, Err(CallError::Answer { .. })), "{other:?}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_calls_and_cuts_deltas() {
    let authority = Authority::new();
    let (sizes, source) = disk_of(3200);
    let keeper = Keeper::closed();
    let server = serve(authority.tls(B), keeper.clone());
    let client = Arc::new(client(authority.tls("a.example"), B, server.local_addr));
    let options = compression(Compression::Off);
    let delta = tokio::spawn({
        let client = client.clone();
        async move { client.send_delta(&name(B), header(&sizes), source, options).await }
    });
    begun(&keeper).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<Value>(&name(B), &json!({ "wait": true })).await }
    });
    keeper.calls_waiting.acquire().await.unwrap().forget();

    let shutdown = tokio::spawn(server.shutdown());
    keeper.gate.add_permits(tokio::sync::Semaphore::MAX_PERMITS / 2);
    assert!(timeout(PATIENCE, delta).await.unwrap().unwrap().is_err());
    let (_, error) = outcome(&keeper);
    assert!(matches!(error, Some(ReceiveError::ShuttingDown)), "{error:?}");
    assert!(!shutdown.is_finished(), "the call is still being answered");
    keeper.call_gate.add_permits(1);
    timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    timeout(PATIENCE, shutdown).await.unwrap().unwrap();
    let refused = client.call::<Value>(&name(B), &json!({})).await;
    let Err(CallError::Link(error)) = refused else { panic!("{refused:?}") };
    assert!(matches!(error.problem, LinkProblem::ConnectionRefused), "{error}");
}
