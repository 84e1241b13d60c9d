//! Clients that log in by certificate.

use crate::support::{
    ANNA, Authority, Identity, Server, ask, client, client_config, post, read, self_signed, server, tls,
    tls_files,
};
use cim::Role;
use expect_test::expect;
use front::{Limits, Tls, TlsFiles};
use rcgen::{CertificateParams, DnType, SanType};
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::net::TcpStream;

/// The user's name that the service saw, or the status.
async fn log_in(server: &Server, identity: Option<&Identity>) -> String {
    let mut client = client(server.tls(identity).await.unwrap()).await;
    let mutual = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";
    let (status, who) = read(ask(&mut client, post("/who", &[("authorization", mutual)], "")).await).await;
    match who.split('"').nth(1) {
        Some(user) if status == 200 => user.to_owned(),
        _ => status.to_string(),
    }
}

fn map(server: &Server, user: &str, mapping: &str) {
    server.edit(|users| {
        if users.get(user).is_none() {
            users.add(user, Role::Operator)?;
        }
        users.map(user, mapping.parse().unwrap())
    });
}

fn hex(algorithm: &'static aws_lc_rs::digest::Algorithm, identity: &Identity) -> String {
    let digest = aws_lc_rs::digest::digest(algorithm, &identity.certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

#[tokio::test]
async fn a_thumbprint_admits_whoever_signed_the_certificate() {
    let server = server(Limits::default()).await;
    let pinned = self_signed(CertificateParams::default());
    let legacy = self_signed(CertificateParams::default());
    map(&server, "bert", &format!("sha256:{}", hex(&aws_lc_rs::digest::SHA256, &pinned)));
    map(&server, "carl", &format!("sha1:{}", hex(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &legacy)));
    assert_eq!(log_in(&server, Some(&pinned)).await, "bert");
    assert_eq!(log_in(&server, Some(&legacy)).await, "carl");
    assert_eq!(log_in(&server, Some(&self_signed(CertificateParams::default()))).await, "401");
    assert_eq!(log_in(&server, None).await, "401");
    server.edit(|users| users.remove("bert"));
    assert_eq!(log_in(&server, Some(&pinned)).await, "401");
}

#[tokio::test]
async fn a_name_counts_only_under_an_authority_of_ours() {
    let server = server(Limits::default()).await;
    for name in ["dns.example", "mail@example", "upn@example", "common name"] {
        map(&server, &format!("user of {name}"), &format!("name:{name}"));
    }
    let with_sans = |sans: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        params
    };
    let upn = (vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "UPN@Example".into());
    let mut common = CertificateParams::default();
    common.distinguished_name.push(DnType::CommonName, "Common Name");
    let kinds = [
        ("dns.example", with_sans(vec![SanType::DnsName("DNS.example".try_into().unwrap())])),
        ("mail@example", with_sans(vec![SanType::Rfc822Name("mail@example".try_into().unwrap())])),
        ("upn@example", with_sans(vec![SanType::OtherName(upn)])),
        ("common name", common),
    ];
    let stranger = Authority::new("authority of the test");
    for (name, params) in kinds {
        let ours = server.authority.sign(params.clone());
        assert_eq!(log_in(&server, Some(&ours)).await, format!("user of {name}"));
        assert_eq!(log_in(&server, Some(&stranger.sign(params.clone()))).await, "401", "{name}");
        assert_eq!(log_in(&server, Some(&self_signed(params))).await, "401", "{name}");
    }
    let two = with_sans(vec![
        SanType::DnsName("dns.example".try_into().unwrap()),
        SanType::Rfc822Name("mail@example".try_into().unwrap()),
    ]);
    assert_eq!(log_in(&server, Some(&server.authority.sign(two))).await, "401");
}

#[tokio::test]
async fn a_certificate_is_nothing_outside_of_its_time() {
    let server = server(Limits::default()).await;
    for (from, to) in [(2001, 2002), (4000, 4001)] {
        let mut params = CertificateParams::new(["bert.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let identity = server.authority.sign(params);
        map(&server, &from.to_string(), &format!("sha256:{}", hex(&aws_lc_rs::digest::SHA256, &identity)));
        assert_eq!(log_in(&server, Some(&identity)).await, "401", "{from}");
    }
}

#[tokio::test]
async fn a_password_is_stronger_than_the_certificate_beside_it() {
    let server = server(Limits::default()).await;
    map(&server, "bert", "name:bert.example");
    let bert = server.authority.sign(CertificateParams::new(["bert.example".to_owned()]).unwrap());
    let mut client = client(server.tls(Some(&bert)).await.unwrap()).await;
    let (_, who) = read(ask(&mut client, post("/who", &[("authorization", ANNA)], "")).await).await;
    assert!(who.contains("anna"), "{who}");
    let (_, who) = read(ask(&mut client, post("/who", &[], "")).await).await;
    assert!(who.contains("bert") && who.contains("Operator"), "{who}");
}

/// Notes whether the server asked.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_client_is_asked_for_a_certificate_only_if_one_could_log_in() {
    let server = server(Limits::default()).await;
    let is_asked = async |version| {
        let asked = Arc::new(Asked::default());
        let mut config = client_config(&server.authority, None, &[version]);
        config.client_auth_cert_resolver = asked.clone();
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let mut client = client(tls(tcp, config).await.unwrap()).await;
        assert_eq!(ask(&mut client, post("/open", &[], "")).await.status(), 200);
        asked.0.load(Ordering::Relaxed)
    };
    assert!(!is_asked(&TLS13).await && !is_asked(&TLS12).await);
    map(&server, "bert", "name:bert.example");
    assert!(is_asked(&TLS13).await && is_asked(&TLS12).await);
}

#[tokio::test]
async fn a_new_certificate_of_ours_is_shown_to_the_next_client() {
    let server = server(Limits::default()).await;
    let mut old = server.client().await;
    let renewed = Authority::new("renewed");
    let trust_renewed =
        async || tls(server.tcp().await, client_config(&renewed, None, &[&TLS13])).await.is_ok();
    assert!(!trust_renewed().await);
    server.tls.as_ref().unwrap().reload(&tls_files(&server.dir, &renewed)).unwrap();
    assert!(trust_renewed().await);
    assert_eq!(ask(&mut old, post("/open", &[], "")).await.status(), 200);
}

#[test]
fn files_that_are_no_certificate_and_its_key_are_named() {
    let [dir, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let files = tls_files(&dir, &Authority::new("authority of the test"));
    let others = tls_files(&other, &Authority::new("authority of the test"));
    let said = |files: &TlsFiles| {
        let said = Tls::load(files).unwrap_err().to_string();
        said.replace(dir.path().to_str().unwrap(), "DIR").replace(other.path().to_str().unwrap(), "OTHER")
    };
    let mixed = TlsFiles { key: others.key, ..files.clone() };
    let absent = TlsFiles { key: dir.path().join("none.pem"), ..files.clone() };
    let empty = TlsFiles { certificate: files.key.clone(), ..files.clone() };
    let distrustful = TlsFiles { client_authorities: Some(files.key.clone()), ..files };
    expect![[r#"
        DIR/host.pem and OTHER/host.key cannot be used together
        cannot read DIR/none.pem
        there is no certificate in DIR/host.key
        there is no certificate in DIR/host.key"#]]
    .assert_eq(&[mixed, absent, empty, distrustful].map(|files| said(&files)).join("\n"));
}

#[tokio::test]
async fn a_client_that_negotiates_another_protocol_is_served_all_the_same() {
    let server = server(Limits::default()).await;
    let mut config = client_config(&server.authority, None, &[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.0".to_vec()];
    let mut client = client(tls(server.tcp().await, config).await.unwrap()).await;
    assert_eq!(ask(&mut client, post("/open", &[], "")).await.status(), 200);
}
