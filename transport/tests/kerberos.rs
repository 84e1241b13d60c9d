//! The link under Kerberos, with a real KDC: the same as under TLS, nothing readable on the wire, whatever is done to
//! records on their way is noticed, and what is wrong is named.

mod common;

use common::{Authority, Keeper, client, disk_of, expected, header, name, options};
use serde_json::{Value, json};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use testkit::kdc::{Kdc, REALM, in_realm};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use transport::{
    CallError, Client, ClientOptions, Compression, Kerberos, KerberosOptions, LinkProblem, PeerAddress,
    ReceiveError, SendError, SendOptions, Server, Target,
    fault::{Fault, FaultProxy},
};

const A: &str = "a.example";
const B: &str = "b.example";

fn run(test: &str, body: impl AsyncFnOnce(&Kdc)) {
    in_realm(test, |kdc| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body(kdc));
    });
}

/// A host's options, with a new key of its principal.
fn account(kdc: &Kdc, principal: &str) -> KerberosOptions {
    let folder = kdc.folder().join(principal.replace('/', "-"));
    std::fs::create_dir_all(&folder).unwrap();
    let keytab = kdc.keytab(&format!("{}.keytab", principal.replace('/', "-")), &[principal]).unwrap();
    KerberosOptions { principal: principal.to_owned(), keytab, folder, ..KerberosOptions::default() }
}

fn host(kdc: &Kdc, name: &str) -> Arc<Kerberos> {
    Kerberos::new(account(kdc, &format!("relevo/{name}"))).unwrap()
}

fn serve(kerberos: Arc<Kerberos>, keeper: Arc<Keeper>) -> Server {
    Server::bind("127.0.0.1:0".parse().unwrap(), kerberos, keeper).unwrap()
}

fn caller(kerberos: Arc<Kerberos>, to: &str, address: SocketAddr) -> Client {
    let peer = PeerAddress { kerberos_address: Some(address.to_string()), ..PeerAddress::default() };
    let options = ClientOptions { peers: [(name(to), peer)].into(), ..ClientOptions::default() };
    Client::new(Authority::new().tls(A), options).with_kerberos(Some(kerberos))
}

fn to(host: &model::HostName) -> Target<'_> {
    Target { by: model::Authentication::Kerberos, ..host.into() }
}

async fn failure(client: &Client, peer: &str) -> LinkProblem {
    match client.call::<Value>(to(&name(peer)), &json!({})).await {
        Err(CallError::Link(error)) => {
            let text = error.to_string();
            assert!(text.contains(peer) && text.contains(error.problem.hint()), "{text}");
            error.problem
        }
        other => panic!("{other:?}"),
    }
}

/// What a [`Middle`] does with the record of this number from the calling side.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    Nothing,
    Repeat(usize),
    Drop(usize),
    SwapWithNext(usize),
    Shorten(usize),
    Flip {
        record: usize,
        byte: usize,
    },
    /// The connection is closed in order, but on TCP only.
    EndAfter(usize),
    /// It claims to be longer than any may be.
    Claim(usize),
}

/// Stands between two hosts, understands records, and keeps all bytes that pass.
struct Middle {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Middle {
    async fn start(target: SocketAddr, mischief: Mischief) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(vec![]));
        let keep = seen.clone();
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(relay(caller, target, mischief, keep.clone()));
            }
        });
        Self { address, seen }
    }
}

async fn relay(
    caller: TcpStream,
    target: SocketAddr,
    mischief: Mischief,
    seen: Arc<Mutex<Vec<u8>>>,
) -> io::Result<()> {
    let called = TcpStream::connect(target).await?;
    let (mut caller_read, mut caller_write) = caller.into_split();
    let (mut called_read, mut called_write) = called.into_split();
    let back = seen.clone();
    let back = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = called_read.read(&mut buffer).await?;
            back.lock().unwrap().extend(&buffer[..count]);
            caller_write.write_all(&buffer[..count]).await?;
            if count == 0 {
                return caller_write.shutdown().await;
            }
        }
    };
    let there = async move {
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(caller_read.read_u8().await?);
        }
        called_write.write_all(&head).await?;
        let mut held: Option<Vec<u8>> = None;
        for number in 0.. {
            let mut record = caller_read.read_u32_le().await?.to_le_bytes().to_vec();
            let length = u32::from_le_bytes(record[..4].try_into().unwrap()) as usize;
            record.resize(4 + length, 0);
            caller_read.read_exact(&mut record[4..]).await?;
            seen.lock().unwrap().extend(&record);
            match mischief {
                Mischief::Repeat(at) if at == number => called_write.write_all(&record).await?,
                Mischief::Drop(at) if at == number => continue,
                Mischief::SwapWithNext(at) if at == number => {
                    held = Some(record);
                    continue;
                }
                Mischief::Shorten(at) if at == number => {
                    record.pop();
                    record[..4].copy_from_slice(&(length as u32 - 1).to_le_bytes());
                }
                Mischief::Flip { record: at, byte } if at == number => record[4 + byte] ^= 0x10,
                Mischief::EndAfter(at) if at == number => return called_write.shutdown().await,
                Mischief::Claim(at) if at == number => record[..4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]),
                _ => {}
            }
            called_write.write_all(&record).await?;
            if let Some(held) = held.take() {
                called_write.write_all(&held).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(there, back).map(drop)
}

fn plain() -> SendOptions {
    SendOptions { compression: Compression::Off, ..SendOptions::default() }
}

#[test]
fn what_goes_over_the_link_arrives_and_none_of_it_can_be_read_on_the_way() {
    run("what_goes_over_the_link_arrives_and_none_of_it_can_be_read_on_the_way", async |kdc| {
        let (sizes, source) = disk_of(160);
        let keeper = Keeper::new();
        let server = serve(host(kdc, B), keeper.clone());
        let middle = Middle::start(server.local_addr, Mischief::Nothing).await;
        let client = caller(host(kdc, A), B, middle.address);
        for round in 0..20 {
            let answer: Value = client.call(to(&name(B)), &json!({ "round": round })).await.unwrap();
            assert_eq!(answer, json!({ "echo": { "round": round }, "peer": ["a.example"] }));
        }
        let answer = client.send_delta(to(&name(B)), header(&sizes), source.clone(), plain()).await.unwrap();
        let kept = expected(sizes.len(), source);
        assert!(keeper.kept.lock().unwrap().disks == kept);
        assert!(answer["data_bytes"].as_u64().unwrap() > 1 << 20);
        let seen = middle.seen.lock().unwrap().clone();
        assert!(seen.len() > answer["data_bytes"].as_u64().unwrap() as usize);
        let cluster = kept[0].values().find(|bytes| bytes.len() > 4096).unwrap();
        // Of six bytes and more: four are found in ten megabytes of noise once in four hundred runs.
        for secret in [&b"\"round\""[..], b"\"echo\"", b"POST /", b"RLVODLTA", &cluster[1024..1040]] {
            assert!(!seen.windows(secret.len()).any(|window| window == secret), "{secret:?} can be read");
        }
        server.shutdown().await;
    });
}

#[test]
fn records_that_a_middle_touches_end_the_connection() {
    run("records_that_a_middle_touches_end_the_connection", async |kdc| {
        let (sizes, source) = disk_of(160);
        let (a, b) = (host(kdc, A), host(kdc, B));
        let all = [
            Mischief::Repeat(30),
            Mischief::Drop(30),
            Mischief::SwapWithNext(30),
            Mischief::Shorten(30),
            Mischief::Flip { record: 30, byte: 2 },
            Mischief::Flip { record: 30, byte: 500 },
            Mischief::EndAfter(30),
            Mischief::Claim(30),
            Mischief::Flip { record: 0, byte: 20 },
        ];
        for mischief in all {
            let keeper = Keeper::new();
            let server = serve(b.clone(), keeper.clone());
            let middle = Middle::start(server.local_addr, mischief).await;
            let client = caller(a.clone(), B, middle.address);
            let to_b = name(B);
            let sending = client.send_delta(to(&to_b), header(&sizes), source.clone(), plain());
            let sent = timeout(common::PATIENCE, sending).await.unwrap();
            assert!(
                matches!(sent, Err(SendError::Link(_) | SendError::Refused { .. })),
                "{mischief:?}: {sent:?}"
            );
            if !matches!(mischief, Mischief::Flip { record: 0, .. }) {
                timeout(common::PATIENCE, keeper.receives_ended.acquire()).await.unwrap().unwrap().forget();
                let kept = keeper.kept.lock().unwrap();
                assert!(kept.end.is_none(), "{mischief:?}");
                assert!(
                    matches!(kept.error, Some(ReceiveError::Cut { .. })),
                    "{mischief:?}: {:?}",
                    kept.error
                );
            }
            server.shutdown().await;
        }
    });
}

#[test]
fn bytes_damaged_lost_or_cut_off_anywhere_cut_the_stream() {
    run("bytes_damaged_lost_or_cut_off_anywhere_cut_the_stream", async |kdc| {
        let (sizes, source) = disk_of(160);
        let keeper = Keeper::new();
        let server = serve(host(kdc, B), keeper.clone());
        let proxy = FaultProxy::start(server.local_addr).await.unwrap();
        let a = host(kdc, A);
        let faults = [100, 400, 3_000_001].into_iter().flat_map(|at| {
            [Fault::FlipAt(at), Fault::DuplicateAt(at), Fault::DropAt(at), Fault::CutAfter(at)]
        });
        for fault in faults {
            proxy.set(fault);
            let mut options = options(B, "127.0.0.1:1");
            options.peers.get_mut(&name(B)).unwrap().kerberos_address = Some(proxy.address.to_string());
            // A lost byte of a token leaves both sides waiting.
            options.connect_timeout = Duration::from_secs(2);
            let client = Client::new(Authority::new().tls(A), options).with_kerberos(Some(a.clone()));
            let to_b = name(B);
            let sending = client.send_delta(to(&to_b), header(&sizes), source.clone(), plain());
            let sent = timeout(common::PATIENCE, sending).await.unwrap();
            let refused = matches!(sent, Err(SendError::Link(_) | SendError::Refused { .. }));
            assert!(refused && keeper.kept.lock().unwrap().end.is_none(), "{fault:?}: {sent:?}");
        }
        proxy.stop().await;
        server.shutdown().await;
    });
}

#[test]
fn what_is_wrong_with_the_link_is_named() {
    run("what_is_wrong_with_the_link_is_named", async |kdc| {
        let b = host(kdc, B);
        let server = serve(b.clone(), Keeper::new());
        let a = caller(host(kdc, A), B, server.local_addr);
        a.call::<Value>(to(&name(B)), &json!({})).await.unwrap();

        let without = client(Authority::new().tls(A), B, server.local_addr);
        assert!(matches!(failure(&without, B).await, LinkProblem::NoKerberos));
        let says = async |client: &Client, peer: &str, words: &str| {
            let problem = failure(client, peer).await;
            assert!(problem.to_string().contains(words), "{problem:?} does not say {words:?}");
        };
        says(&a, "c.example", &format!("the KDC does not know relevo/c.example@{REALM}")).await;

        // A user of the realm, and a host of a realm that is not let in.
        let peers = [(name(B), format!("relevo/{B}"))].into();
        let user = Kerberos::new(KerberosOptions { peers, ..account(kdc, "web/a.example") }).unwrap();
        let user = caller(user, B, server.local_addr);
        says(&user, B, "web/a.example@RELEVO.TEST is no host's principal here").await;
        let picky = Kerberos::new(KerberosOptions {
            realms: vec!["OTHER.TEST".to_owned()],
            ..account(kdc, "relevo/d.example")
        });
        let picky = serve(picky.unwrap(), Keeper::new());
        let to_picky = caller(host(kdc, A), "d.example", picky.local_addr);
        says(&to_picky, "d.example", "relevo/a.example@RELEVO.TEST is no host's principal here").await;
        picky.shutdown().await;

        // The right principal at the wrong address: that host cannot read the ticket, and is not believed.
        kdc.keytab("e.keytab", &["relevo/e.example"]).unwrap();
        let astray = caller(host(kdc, A), "e.example", server.local_addr);
        says(&astray, "e.example", "a principal or a key that this host does not have").await;

        // B's key was changed: its own keytab is behind the KDC's.
        let a = caller(host(kdc, A), B, server.local_addr);
        a.call::<Value>(to(&name(B)), &json!({})).await.unwrap();
        kdc.keytab("newer.keytab", &["relevo/b.example"]).unwrap();
        let astray = caller(host(kdc, A), B, server.local_addr);
        says(&astray, B, "it refused this host's ticket").await;

        // Other things that listen, and other things that call.
        let tls = common::serve(Authority::new().tls(B), Keeper::new());
        let at_tls = caller(host(kdc, A), B, tls.local_addr);
        let problem = failure(&at_tls, B).await;
        assert!(matches!(problem, LinkProblem::NotHttp | LinkProblem::Cut(_)), "{problem:?}");
        let tls_at = client(Authority::new().tls(A), B, server.local_addr);
        let called = tls_at.call::<Value>(&name(B), &json!({})).await;
        assert!(
            matches!(&called, Err(CallError::Link(error)) if matches!(error.problem, LinkProblem::NotTls))
        );
        tls.shutdown().await;
        let answer = plain_http(server.local_addr, "GET / HTTP/1.1\r\nhost: b\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        let ask = "GET / HTTP/1.1\r\nhost: b\r\nrelevo-protocol: 1\r\nupgrade: relevo-sealed\r\nconnection: upgrade\r\n";
        let answer = plain_http(server.local_addr, &format!("{ask}\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: Negotiate"),
            "{answer}"
        );
        let answer =
            plain_http(server.local_addr, &format!("{ask}authorization: Negotiate YWJj\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("not accepted"), "{answer}");

        kdc.stop().unwrap();
        let late = caller(host_again(kdc, A), B, server.local_addr);
        says(&late, B, "no KDC answers").await;
        kdc.resume().unwrap();
        server.shutdown().await;
    });
}

/// A host that begins with the key that it has.
fn host_again(kdc: &Kdc, name: &str) -> Arc<Kerberos> {
    let folder = kdc.folder().join(format!("relevo-{name}"));
    let keytab = kdc.folder().join(format!("relevo-{name}.keytab"));
    let principal = format!("relevo/{name}");
    Kerberos::new(KerberosOptions { principal, keytab, folder, ..KerberosOptions::default() }).unwrap()
}

async fn plain_http(address: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![];
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains("\r\n\r\n{") {
        let count = timeout(common::PATIENCE, tcp.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend(&buffer[..count]);
    }
    String::from_utf8(answer).unwrap()
}
