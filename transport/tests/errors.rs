//! Every way in which a link fails, produced for real, is told apart and says what to do.

mod common;

use common::{Authority, Keeper, client, install, name, options, serve};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use transport::{
    CallError, Client, ClientOptions, LinkError, LinkProblem, PROTOCOL_OLDEST, Tls, TlsIdentity, certs,
    fault::{Fault, FaultProxy},
};

const A: &str = "a.example";
const B: &str = "b.example";

async fn failure(client: &Client, to: &str) -> LinkError {
    let error = match client.call::<Value>(&name(to), &json!({})).await {
        Err(CallError::Link(error)) => error,
        other => panic!("{other:?}"),
    };
    let text = error.to_string();
    assert!(text.contains(to) && text.contains(&error.address), "{text}");
    assert!(text.contains(error.problem.hint()), "{text}");
    error
}

macro_rules! expect_problem {
    ($error:expr, $pattern:pat) => {
        let error = $error;
        assert!(matches!(error.problem, $pattern), "{error}: {:?}", error.problem);
    };
}

fn days(days: i64) -> time::Duration {
    time::Duration::days(days)
}

/// A listener that says `answer` to whatever comes, once the first bytes have come.
async fn plain(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut scrap = [0; 4096];
            let _ = tcp.read(&mut scrap).await;
            let _ = tcp.write_all(answer).await;
            let _ = tcp.shutdown().await;
            while tcp.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
        }
    });
    address
}

/// As [`plain`], under TLS that both sides accept.
async fn sealed(authority: &Authority, answer: &'static [u8]) -> SocketAddr {
    let identity = authority.identity(B, OffsetDateTime::now_utc());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key.unwrap())
            .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = acceptor.accept(tcp).await.unwrap();
            let mut scrap = [0; 4096];
            let _ = tls.read(&mut scrap).await;
            let _ = tls.write_all(answer).await;
            let _ = tls.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let client = Client::new(Authority::new().tls(A), ClientOptions::default());
    expect_problem!(failure(&client, "b.invalid").await, LinkProblem::NameUnresolved(_));
}

#[tokio::test]
async fn a_port_where_nobody_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    expect_problem!(
        failure(&client(Authority::new().tls(A), B, address), B).await,
        LinkProblem::ConnectionRefused
    );
}

#[tokio::test]
async fn a_peer_that_does_not_answer_in_time() {
    let authority = Authority::new();
    let server = serve(authority.tls(B), Keeper::new());
    let proxy = FaultProxy::start(server.local_addr).await.unwrap();
    proxy.set(Fault::BlackHole);
    let mut options = options(B, &proxy.address.to_string());
    options.connect_timeout = Duration::from_millis(200);
    let client = Client::new(authority.tls(A), options.clone());
    expect_problem!(failure(&client, B).await, LinkProblem::TimedOut { .. });

    // Connected, and then no answer: the handler waits for a permit that never comes.
    options.connect_timeout = Duration::from_secs(30);
    options.call_timeout = Duration::from_millis(500);
    options.peers.get_mut(&name(B)).unwrap().address = Some(server.local_addr.to_string());
    let client = Client::new(authority.tls(A), options);
    let stuck = client.call::<Value>(&name(B), &json!({ "wait": true })).await;
    assert!(
        matches!(&stuck, Err(CallError::Link(LinkError { problem: LinkProblem::TimedOut { .. }, .. }))),
        "{stuck:?}"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused_by_the_client() {
    let server = serve(Authority::new().tls(B), Keeper::new());
    let client = client(Authority::new().tls(A), B, server.local_addr);
    expect_problem!(failure(&client, B).await, LinkProblem::UntrustedIssuer);
    server.shutdown().await;
}

#[tokio::test]
async fn expired_early_and_misnamed_certificates_of_the_peer() {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::at(now - days(1500));
    let client_of = |address| client(authority.tls(A), B, address);

    let server = serve(authority.tls_at(B, now - days(1000)), Keeper::new());
    expect_problem!(failure(&client_of(server.local_addr), B).await, LinkProblem::Expired);
    server.shutdown().await;

    let server = serve(authority.tls_at(B, now + days(2)), Keeper::new());
    expect_problem!(failure(&client_of(server.local_addr), B).await, LinkProblem::NotYetValid);
    server.shutdown().await;

    let server = serve(authority.tls("c.example"), Keeper::new());
    let error = failure(&client_of(server.local_addr), B).await;
    assert!(error.to_string().contains("c.example"), "{error}");
    expect_problem!(error, LinkProblem::WrongName { .. });
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_a_bad_one_hears_why() {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::at(now - days(1500));
    let server = serve(authority.tls(B), Keeper::new());
    let authorities = authority.identity(A, now).authorities;

    let none = TlsIdentity { chain: vec![], key: None, authorities: authorities.clone() };
    let bare = client(Tls::new(none).unwrap(), B, server.local_addr);
    expect_problem!(failure(&bare, B).await, LinkProblem::NoClientCertificate);

    let expired = client(authority.tls_at(A, now - days(1000)), B, server.local_addr);
    expect_problem!(failure(&expired, B).await, LinkProblem::RejectedByPeer { .. });

    // Signed by an authority that only the client knows.
    let foreign = TlsIdentity { authorities, ..Authority::new().identity(A, now) };
    let foreign = client(Tls::new(foreign).unwrap(), B, server.local_addr);
    expect_problem!(failure(&foreign, B).await, LinkProblem::RejectedByPeer { .. });
    server.shutdown().await;
}

#[tokio::test]
async fn listeners_that_are_something_else() {
    let authority = Authority::new();
    let smtp = plain(b"220 mail.example ESMTP\r\n").await;
    expect_problem!(failure(&client(authority.tls(A), B, smtp), B).await, LinkProblem::NotTls);
    let imaps = sealed(&authority, b"* OK IMAP4rev1 ready\r\n").await;
    expect_problem!(failure(&client(authority.tls(A), B, imaps), B).await, LinkProblem::NotHttp);
    let web = sealed(&authority, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    expect_problem!(
        failure(&client(authority.tls(A), B, web), B).await,
        LinkProblem::NotRelevo { status: 200 }
    );
    let silent = sealed(&authority, b"").await;
    expect_problem!(failure(&client(authority.tls(A), B, silent), B).await, LinkProblem::Cut(_));
}

#[tokio::test]
async fn a_peer_of_another_protocol_version() {
    let authority = Authority::new();
    let newer = sealed(
        &authority,
        b"HTTP/1.1 426 Upgrade Required\r\nrelevo-protocol: 9, 8\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let error = failure(&client(authority.tls(A), B, newer), B).await;
    let LinkProblem::ProtocolMismatch { theirs, .. } = &error.problem else { panic!("{error}") };
    assert_eq!(theirs, "9, 8");
}

#[tokio::test]
async fn this_server_tells_its_versions_to_others_and_bounds_messages() {
    let authority = Authority::new();
    let server = serve(authority.tls(B), Keeper::new());
    for (version, path, body, status) in [
        (Some(PROTOCOL_OLDEST - 1), "/call", 2, 426),
        (Some(transport::PROTOCOL + 1), "/call", 2, 426),
        (None, "/delta", 2, 426),
        (Some(1), "/other", 2, 404),
        (Some(1), "/call", 1, 400),
        (Some(1), "/call", (16 << 20) + 1, 413),
        (Some(1), "/delta", 4000, 400),
    ] {
        let mut request = hyper::Request::post(path).header("host", B);
        if let Some(version) = version {
            request = request.header("relevo-protocol", version.to_string());
        }
        let answer = raw(&authority, server.local_addr, request, vec![b'{'; body]).await;
        assert_eq!(answer.status(), status, "{path} {version:?} {body}");
        assert_eq!(answer.headers()["relevo-protocol"], "1");
    }
    server.shutdown().await;
}

/// A request that our own client would not make.
async fn raw(
    authority: &Authority,
    to: SocketAddr,
    request: hyper::http::request::Builder,
    body: Vec<u8>,
) -> hyper::Response<hyper::body::Incoming> {
    let identity = authority.identity(A, OffsetDateTime::now_utc());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.authorities[0].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain, identity.key.unwrap())
        .unwrap();
    let tcp = tokio::net::TcpStream::connect(to).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tls = connector.connect(B.try_into().unwrap(), tcp).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::new(bytes::Bytes::from(body));
    sender.send_request(request.body(body).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::at(now - days(1500));
    let server_tls = authority.tls_at(B, now - days(1000));
    let client_tls = authority.tls_at(A, now - days(1000));
    let server = serve(server_tls.clone(), Keeper::new());
    let client = client(client_tls.clone(), B, server.local_addr);
    expect_problem!(failure(&client, B).await, LinkProblem::Expired);
    server_tls.reload(authority.identity(B, now)).unwrap();
    expect_problem!(failure(&client, B).await, LinkProblem::RejectedByPeer { .. });
    client_tls.reload(authority.identity(A, now)).unwrap();
    client.call::<Value>(&name(B), &json!({})).await.unwrap();
    server.shutdown().await;
}

/// A proxy that understands CONNECT, and counts.
async fn connect_proxy(status: &'static str) -> (String, Arc<std::sync::atomic::AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let target = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
            tcp.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
            if status.starts_with('2') {
                let mut to = tokio::net::TcpStream::connect(target).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tcp, &mut to).await });
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_proxy_is_used_unless_bypassed_and_its_refusal_is_told() {
    let authority = Authority::new();
    let server = serve(authority.tls(B), Keeper::new());
    let (proxy, count) = connect_proxy("200 Connection established").await;
    let mut through = options(B, &server.local_addr.to_string());
    through.proxy = Some(proxy);
    let client = Client::new(authority.tls(A), through.clone());
    client.call::<Value>(&name(B), &json!({})).await.unwrap();
    client.call::<Value>(&name(B), &json!({})).await.unwrap();
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1, "the connection is kept");

    let mut peers = through.peers.clone();
    peers.get_mut(&name(B)).unwrap().bypass_proxy = true;
    client.set_peers(peers);
    client.call::<Value>(&name(B), &json!({})).await.unwrap();
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1, "bypassed");

    let (proxy, _) = connect_proxy("403 Forbidden").await;
    through.proxy = Some(proxy);
    let error = failure(&Client::new(authority.tls(A), through), B).await;
    assert!(error.to_string().contains("403"), "{error}");
    expect_problem!(error, LinkProblem::Proxy { .. });
    server.shutdown().await;
}

#[test]
fn certificate_files_are_private_whole_and_of_one_authority() {
    use std::os::unix::fs::PermissionsExt;
    let now = OffsetDateTime::now_utc();
    let (ca, host, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(matches!(certs::load(host.path()), Err(certs::CertificateError::Absent { .. })));
    certs::init_ca(ca.path(), now).unwrap();
    certs::init_ca(other.path(), now).unwrap();
    assert!(matches!(certs::init_ca(ca.path(), now), Err(certs::CertificateError::AuthorityExists { .. })));
    install(ca.path(), B, now, host.path());
    install(ca.path(), A, now, ca.path());
    for path in [ca.path().join("ca.key"), ca.path().join("host.key"), host.path().join("host.key")] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    assert!(!host.path().join("ca.key").exists(), "the authority's key stays at home");

    let bundle = certs::issue(other.path(), &name(B), now).unwrap();
    let installed = certs::install(&bundle, host.path());
    assert!(matches!(installed, Err(certs::CertificateError::OtherAuthority { .. })), "{installed:?}");
    let path = host.path().join("bundle.pem");
    certs::write_bundle(&path, &bundle).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // Parts of two bundles.
    let own = certs::issue(ca.path(), &name(B), now).unwrap();
    let split = |text: &str| text.find("-----BEGIN CERTIFICATE").unwrap();
    let mixed = own[..split(&own)].to_owned() + &bundle[split(&bundle)..];
    assert!(matches!(certs::install(&mixed, host.path()), Err(certs::CertificateError::OtherKey)));
    let last = |text: &str| text.rfind("-----BEGIN CERTIFICATE").unwrap();
    let mixed = own[..last(&own)].to_owned() + &bundle[last(&bundle)..];
    assert!(matches!(certs::install(&mixed, host.path()), Err(certs::CertificateError::NotSigned)));
    for bad in ["", &own[..last(&own)], &own[split(&own)..], &own.replace("MI", "!!")] {
        assert!(certs::install(bad, host.path()).is_err());
    }
    std::fs::write(host.path().join("host.pem"), "nothing").unwrap();
    assert!(matches!(certs::load(host.path()), Err(certs::CertificateError::Damaged { .. })));
}

#[test]
fn another_certificate_is_chosen_by_its_thumbprint_and_the_one_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let now = OffsetDateTime::now_utc();
    certs::init_ca(dir.path(), now).unwrap();
    install(dir.path(), B, now, dir.path());
    let beside = |host: &str, name_of_it: &str, at| {
        let bundle = certs::issue(dir.path(), &name(host), at).unwrap();
        certs::install_beside(&bundle, dir.path(), name_of_it)
    };
    beside(B, "spare", now).unwrap();
    beside(A, "of-a", now).unwrap();
    beside(B, "old", now - time::Duration::days(3000)).unwrap();
    for taken in ["ca", "host", "", "../x", "a.b"] {
        assert!(matches!(beside(B, taken, now), Err(certs::CertificateError::Name { .. })), "{taken}");
    }
    let of = |file: &str| {
        let views = certs::show(dir.path()).unwrap();
        views.into_iter().find(|view| view.path.ends_with(file)).unwrap_or_else(|| panic!("no {file}"))
    };
    let (before, spare) = (of("host.pem"), of("spare.pem"));
    assert_eq!(certs::own(dir.path()).unwrap().len(), 4);
    let choose = |print: &str| certs::choose(dir.path(), print, &name(B), now);
    assert!(matches!(choose("abcd"), Err(certs::CertificateError::Unknown { .. })));
    for unsuitable in ["of-a.pem", "old.pem"] {
        let chosen = choose(&of(unsuitable).sha1);
        assert!(matches!(chosen, Err(certs::CertificateError::Unsuitable { .. })), "{unsuitable}");
    }
    assert_eq!(of("host.pem").sha1, before.sha1);
    choose(&spare.sha1.to_uppercase()).unwrap();
    assert_eq!(of("host.pem").sha1, spare.sha1);
    certs::load(dir.path()).unwrap();
    choose(&before.sha256).unwrap();
    choose(&before.sha256).unwrap();
    assert_eq!(of("host.pem").sha1, before.sha1);
    certs::load(dir.path()).unwrap();
}

#[test]
fn a_certificate_shows_what_an_operator_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    certs::init_ca(dir.path(), now).unwrap();
    install(dir.path(), B, now, dir.path());
    let [ca, host]: [certs::CertificateView; 2] = certs::show(dir.path()).unwrap().try_into().unwrap();
    assert_eq!(ca.purpose, ["authority"]);
    assert_eq!((ca.not_after - now).whole_days(), 3653);
    assert_eq!(host.purpose, ["client", "server"]);
    assert_eq!((host.subject.as_str(), host.sans.as_slice()), ("CN=b.example", &[B.to_owned()][..]));
    assert_eq!(host.issuer, ca.subject);
    assert_eq!((host.not_after - now).whole_days(), 731);
    assert!(host.not_before < now);
    assert_eq!((host.sha1.len(), host.sha256.len()), (40, 64));
}
