//! Indications on their way to a listener that answers, fails, or is not there.

use crate::common::{World, dtd, touch, world};
use crate::interop::{subscribe, subscriptions};
use bytes::Bytes;
use cimxml::delivery::{self, Options};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

const QUERY: &str = "SELECT * FROM CIM_InstModification WHERE SourceInstance ISA 'Msvm_ComputerSystem'";
const TAKEN: &str = "<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE ID=\"1\" PROTOCOLVERSION=\"1.0\"><SIMPLEEXPRSP>\
                     <EXPMETHODRESPONSE NAME=\"ExportIndication\"/></SIMPLEEXPRSP></MESSAGE></CIM>";

/// A listener on a free port that refuses the first few requests; what it hears comes out of the channel.
async fn listener(refuses: u32) -> (String, mpsc::Receiver<(HeaderMap, String)>) {
    listener_over(None, refuses).await
}

async fn listener_over(
    tls: Option<TlsAcceptor>,
    refuses: u32,
) -> (String, mpsc::Receiver<(HeaderMap, String)>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "{}://localhost:{}/indications",
        if tls.is_some() { "https" } else { "http" },
        socket.local_addr().unwrap().port()
    );
    let (heard, hears) = mpsc::channel(100);
    let left = Arc::new(AtomicU32::new(refuses));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = socket.accept().await.unwrap();
            let (heard, left) = (heard.clone(), left.clone());
            let serve = service_fn(move |request: Request<Incoming>| {
                let (heard, left) = (heard.clone(), left.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = String::from_utf8(body.collect().await?.to_bytes().into()).unwrap();
                    heard.send((head.headers, body)).await.unwrap();
                    let refused = left
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                        .is_ok();
                    let error = TAKEN.replace("\"/>", "\"><ERROR CODE=\"1\"/></EXPMETHODRESPONSE>");
                    let answer = if refused { error } else { TAKEN.to_owned() };
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(answer))))
                }
            });
            let tls = tls.clone();
            tokio::spawn(async move {
                let http = http1::Builder::new();
                match tls {
                    Some(tls) => match tls.accept(tcp).await {
                        Ok(stream) => http.serve_connection(TokioIo::new(stream), serve).await,
                        Err(_) => Ok(()),
                    },
                    None => http.serve_connection(TokioIo::new(tcp), serve).await,
                }
            });
        }
    });
    (url, hears)
}

/// Delivers until the guard is dropped.
fn deliver(world: &World) -> DropGuard {
    deliver_over(world, watch::channel(None).1)
}

fn deliver_over(world: &World, tls: watch::Receiver<Option<Arc<ClientConfig>>>) -> DropGuard {
    let options = Options { tls, attempts: 3, pause: Duration::from_millis(1), ..Options::default() };
    let stop = CancellationToken::new();
    tokio::spawn(delivery::run(world.interop.clone(), world.provider.clone(), options, stop.clone()));
    stop.drop_guard()
}

/// Changes a machine until the listener hears of it: the subscription begins at an unknown moment.
async fn first(world: &World, hears: &mut mpsc::Receiver<(HeaderMap, String)>) -> (HeaderMap, String) {
    let mut uptime_ms = 1;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            heard = hears.recv() => return heard.unwrap(),
            _ = tick.tick() => touch(&world.machines, uptime_ms).await,
        }
        uptime_ms += 1;
    }
}

fn property<'a>(indication: &'a str, name: &str) -> &'a str {
    let start =
        indication.find(&format!("NAME=\"{name}\"")).unwrap_or_else(|| panic!("{name}: {indication}"));
    let value = &indication[start..][indication[start..].find("<VALUE>").unwrap() + "<VALUE>".len()..];
    &value[..value.find("</VALUE>").unwrap()]
}

#[tokio::test]
async fn a_listener_is_told_of_each_change_in_order() {
    let world = world();
    let (url, mut hears) = listener(0).await;
    subscribe(&world, QUERY, &url, "").await;
    let _delivering = deliver(&world);
    let (head, indication) = first(&world, &mut hears).await;
    assert_eq!(head["cimexport"], "MethodRequest");
    assert_eq!(head["cimexportmethod"], "ExportIndication");
    dtd::assert_valid(&indication);
    assert!(
        indication
            .contains("<EXPPARAMVALUE NAME=\"NewIndication\"><INSTANCE CLASSNAME=\"CIM_InstModification\">")
    );
    assert!(
        indication.contains(
            "NAME=\"SourceInstance\" TYPE=\"string\" EmbeddedObject=\"object\"><VALUE>&lt;INSTANCE "
        )
    );
    assert_eq!(property(&indication, "IndicationFilterName"), "f");
    assert_eq!(property(&indication, "SequenceNumber"), "0");
    touch(&world.machines, 1_000_000).await;
    let mut number = 0;
    while !property(&hears.recv().await.map(|(_, indication)| indication).unwrap(), "SourceInstance")
        .contains("1000000")
    {
        number += 1;
    }
    assert!(number < 1000);
}

/// What a listener called `localhost` shows, and what trusts it.
fn certificate() -> (TlsAcceptor, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let server = server.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    (TlsAcceptor::from(Arc::new(server.unwrap())), Arc::new(client))
}

#[tokio::test]
async fn a_listener_over_tls_is_believed_by_its_certificate() {
    let world = world();
    let (acceptor, trusts_it) = certificate();
    let (url, mut hears) = listener_over(Some(acceptor.clone()), 0).await;
    subscribe(&world, QUERY, &url, "").await;
    let (trust, trusted) = watch::channel(None);
    let _delivering = deliver_over(&world, trusted);
    trust.send_replace(Some(trusts_it));
    assert_eq!(first(&world, &mut hears).await.0["cimexportmethod"], "ExportIndication");

    let stranger = crate::common::world();
    let (url, mut hears) = listener_over(Some(acceptor), 0).await;
    let remove = "<PROPERTY NAME=\"OnFatalErrorPolicy\" TYPE=\"uint16\"><VALUE>4</VALUE></PROPERTY>";
    subscribe(&stranger, QUERY, &url, remove).await;
    let _delivering = deliver_over(&stranger, watch::channel(Some(certificate().1)).1);
    given_up(&stranger).await;
    assert!(hears.try_recv().is_err());
}

/// Changes a machine until the only subscription is given up.
async fn given_up(world: &World) {
    let mut changes = world.interop.changes();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            changed = changes.changed() => break changed.unwrap(),
            _ = tick.tick() => touch(&world.machines, 1).await,
        }
    }
    assert_eq!(subscriptions(world).await, 0);
}

#[tokio::test]
async fn what_a_listener_refuses_is_sent_again() {
    let world = world();
    let (url, mut hears) = listener(2).await;
    subscribe(&world, QUERY, &url, "").await;
    let _delivering = deliver(&world);
    let (_, indication) = first(&world, &mut hears).await;
    for _ in 0..2 {
        let (_, again) = hears.recv().await.unwrap();
        assert_eq!(property(&again, "IndicationIdentifier"), property(&indication, "IndicationIdentifier"));
    }
}

#[tokio::test]
async fn a_subscription_that_keeps_failing_goes_as_it_asked_to() {
    let world = world();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", gone.local_addr().unwrap());
    drop(gone);
    let remove = "<PROPERTY NAME=\"OnFatalErrorPolicy\" TYPE=\"uint16\"><VALUE>4</VALUE></PROPERTY>";
    subscribe(&world, QUERY, &url, remove).await;
    let _delivering = deliver(&world);
    given_up(&world).await;
}

#[tokio::test]
async fn a_subscription_ends_when_its_time_is_over() {
    let world = world();
    let short = "<PROPERTY NAME=\"SubscriptionDuration\" TYPE=\"uint64\"><VALUE>0</VALUE></PROPERTY>";
    subscribe(&world, QUERY, "http://127.0.0.1:9/", short).await;
    let mut changes = world.interop.changes();
    let _delivering = deliver(&world);
    changes.changed().await.unwrap();
    assert_eq!(subscriptions(&world).await, 0);
}

#[tokio::test]
async fn shutting_down_ends_what_waits_for_a_listener() {
    let world = world();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    subscribe(&world, QUERY, &format!("http://{}/", silent.local_addr().unwrap()), "").await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(delivery::run(
        world.interop.clone(),
        world.provider.clone(),
        Options::default(),
        stop.clone(),
    ));
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let _connection = loop {
        tokio::select! {
            connected = silent.accept() => break connected.unwrap(),
            _ = tick.tick() => touch(&world.machines, 1).await,
        }
    };
    stop.cancel();
    running.await.unwrap();
}
