//! Tickets of a real KDC, from curl and from a client of our own.

use crate::support::{Server, ask, post, read, server_with_tickets};
use front::Account;
use kerberos::{Initiator, negotiate};
use std::{path::Path, process::Command, sync::atomic::Ordering};
use testkit::kdc::{Kdc, REALM, in_realm};

fn run(test: &str, body: impl AsyncFnOnce(&Kdc)) {
    in_realm(test, |kdc| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body(kdc));
    });
}

fn account(kdc: &Kdc, folder: &str, principal: Option<&str>, keys_of: &str) -> Account {
    let folder = kdc.folder().join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let keytab = kdc.keytab(&format!("{}.keytab", keys_of.replace('/', "-")), &[keys_of]).unwrap();
    Account { principal: principal.map(str::to_owned), keytab, folder }
}

/// Anna has a principal.
async fn server(kdc: &Kdc, with_tls: bool) -> Server {
    let server = server_with_tickets(account(kdc, "server", None, "HTTP/localhost"), with_tls).await;
    server.edit(|users| users.map_principal("anna", &format!("anna@{REALM}")));
    server
}

/// `kinit`, then curl to these URLs: what it wrote, and what it said on the way.
fn curl(kdc: &Kdc, user: &str, ca: &Path, urls: &[String]) -> (String, String) {
    let keytab = kdc.keytab(&format!("{user}.keytab"), &[user]).unwrap();
    let cache = kdc.folder().join(format!("{user}.tickets"));
    let run = |command: &mut Command| {
        let output = command.env("KRB5CCNAME", &cache).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    run(Command::new("kinit").arg("-kt").arg(keytab).arg(user));
    let mut command = Command::new("curl");
    command
        .args([
            "-sv",
            "--noproxy",
            "*",
            "--negotiate",
            "-u",
            ":",
            "-X",
            "POST",
            "-w",
            " %{http_code}\\n",
            "--cacert",
        ])
        .arg(ca);
    let [out, said] = run(command.args(urls));
    (out, said)
}

#[test]
fn curl_logs_in_with_a_ticket() {
    run("tickets::curl_logs_in_with_a_ticket", async |kdc| {
        let server = server(kdc, true).await;
        let ca = server.dir.path().join("ca.pem");
        let url = format!("https://localhost:{}/who", server.address.port());
        let (out, said) = curl(kdc, "anna", &ca, &[url.clone(), url.clone()]);
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 2, "{out}");
        for line in lines {
            assert!(line.contains("user: \"anna\"") && line.ends_with(" 200"), "{line}");
        }
        assert!(said.contains("< www-authenticate: Negotiate "), "the server proves who it is: {said}");
        let (out, said) = curl(kdc, "bert", &ca, &[url]);
        assert!(out.ends_with(" 401\n"), "{out}");
        assert!(said.contains("< www-authenticate: Basic "), "{said}");
    });
}

#[test]
fn a_connection_is_its_users_as_long_as_the_user_and_the_ticket_last() {
    run("tickets::a_connection_is_its_users_as_long_as_the_user_and_the_ticket_last", async |kdc| {
        let server = server(kdc, true).await;
        let anna = account(kdc, "anna", Some("anna"), "anna");
        let (mut initiator, token) = Initiator::begin(&anna, "HTTP/localhost").unwrap();
        let mut client = server.client().await;
        let token = negotiate::write(&token);
        let response = ask(&mut client, post("/who", &[("authorization", &token)], "")).await;
        let proof = negotiate::read(response.headers()["www-authenticate"].as_bytes()).unwrap();
        assert!(initiator.step(&proof).unwrap().is_none());
        assert_eq!(initiator.finish().unwrap().peer.0, format!("HTTP/localhost@{REALM}"));
        let (status, who) = read(response).await;
        assert!(status == 200 && who.contains("user: \"anna\", role: Administrator"), "{status} {who}");

        // Clients of WS-Management do not show it again. Another connection is another client.
        assert_eq!(ask(&mut client, post("/who", &[], "")).await.status(), 200);
        let mut other = server.client().await;
        let response = ask(&mut other, post("/who", &[], "")).await;
        let offered: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
        assert_eq!(offered, ["Negotiate", "Basic realm=\"TEST\", charset=\"UTF-8\""]);
        // A token that somebody heard is of no use to him.
        assert_eq!(ask(&mut other, post("/who", &[("authorization", &token)], "")).await.status(), 401);
        assert_eq!(
            ask(&mut other, post("/who", &[("authorization", "Negotiate YWJj")], "")).await.status(),
            401
        );

        server.edit(|users| users.unmap_principal("anna", &format!("anna@{REALM}")));
        assert_eq!(ask(&mut client, post("/who", &[], "")).await.status(), 401);
        server.edit(|users| users.map_principal("anna", &format!("anna@{REALM}")));
        assert_eq!(ask(&mut client, post("/who", &[], "")).await.status(), 200);
        server.passed_s.fetch_add(2 * 86_400, Ordering::Relaxed);
        assert_eq!(ask(&mut client, post("/who", &[], "")).await.status(), 401);
    });
}

/// The requests with which pypsrp begins: none of its tokens is a ticket, and it is told each time what is taken.
#[test]
fn ntlm_is_refused_with_an_offer_of_what_is_taken() {
    run("tickets::ntlm_is_refused_with_an_offer_of_what_is_taken", async |kdc| {
        let server = server(kdc, true).await;
        let mut client = server.client().await;
        for capture in [
            include_str!("../captures/pypsrp-negotiate-01.req"),
            include_str!("../captures/pypsrp-negotiate-02.req"),
        ] {
            let headers = capture.lines().skip(1).filter_map(|line| line.split_once(": "));
            let headers: Vec<_> = headers.filter(|(name, _)| *name != "Host").collect();
            let response = ask(&mut client, post("/wsman", &headers, "")).await;
            let offered: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
            assert_eq!(offered, ["Negotiate", "Basic realm=\"TEST\", charset=\"UTF-8\""], "{capture}");
            assert_eq!(response.status(), 401);
        }
    });
}

#[test]
fn tickets_are_not_taken_without_tls() {
    run("tickets::tickets_are_not_taken_without_tls", async |kdc| {
        let server = server(kdc, false).await;
        let anna = account(kdc, "anna", Some("anna"), "anna");
        let (_, token) = Initiator::begin(&anna, "HTTP/localhost").unwrap();
        let mut client = crate::support::client(server.tcp().await).await;
        let headers = [("authorization", negotiate::write(&token))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let response = ask(&mut client, post("/who", &headers, "")).await;
        assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"TEST\", charset=\"UTF-8\"");
        assert_eq!(response.status(), 401);
    });
}
