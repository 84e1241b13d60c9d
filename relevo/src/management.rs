//! The management listeners: WS-Management and CIM-XML over the namespaces that this host serves. Off until the
//! configuration gives them addresses.
//!
//! ```text
//! front::Listener ─▶ wsman::Server  ─┐
//! front::Listener ─▶ cimxml::Server ─┴▶ cim::Union ─▶ hvr::Hvr (virtualization, cimv2) ─▶ service
//!                                            └▶ cimxml::interop (discovery, subscriptions)
//! ```

mod subscriptions;

use cim::{Caller, Provider, Union};
use cimxml::{delivery, interop};
use front::{
    Access, Account, Authenticator, Body, Limits, Listener, Service, Settings, Tls, TlsError, TlsFiles,
    users::UsersFile,
};
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response, request};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use service::{
    Host,
    api::{ErrorKind, Failure, error::chain},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};
use tokio::sync::watch;

/// Where the users are kept, unless the configuration says otherwise.
pub fn users_path(config: &Path) -> PathBuf {
    config.with_file_name("users.toml")
}

/// Begins to listen. What it returns ends that in good order.
pub async fn start(host: Arc<Host>) -> Result<BoxFuture<'static, ()>, Failure> {
    let config = host.config.management.clone();
    if !config.is_on() {
        return Ok(async {}.boxed());
    }
    let interop = Arc::new(open_interop(&host)?);
    let hvr: Arc<dyn Provider> = Arc::new(hvr::Hvr::new(host.clone()));
    let provider: Arc<dyn Provider> = Arc::new(Union(vec![hvr, interop.clone()]));
    let users = config.users.clone().unwrap_or_else(|| users_path(&host.dirs.config));
    let users = UsersFile::open(&users).map_err(|error| failure("read the users", &error))?;
    let tickets = tickets(&host)?;
    let mut security_profiles = SECURITY_PROFILES.map(str::to_owned).to_vec();
    security_profiles.extend(tickets.is_some().then(|| WITH_TICKETS.to_owned()));
    let authenticator = Authenticator::with_tickets(users, Arc::new(Instant::now), tickets);
    let wsman: Arc<dyn Service> = Arc::new(WsMan(wsman::Server::new(
        provider.clone(),
        wsman::Settings {
            product_vendor: "Relevo".to_owned(),
            product_version: env!("CARGO_PKG_VERSION").to_owned(),
            security_profiles,
            host: host.name.to_string(),
            default_namespace: Some(hvr::schema::V2.into()),
            limits: wsman::Limits::default(),
        },
        {
            let start = Instant::now();
            Arc::new(move || start.elapsed())
        },
    )));
    let cimxml: Arc<dyn Service> = Arc::new(CimXml(cimxml::Server::new(
        provider.clone(),
        host.name.to_string(),
        cimxml::Limits::default(),
        Arc::new(Instant::now),
    )));
    let sealed = !config.wsman.is_empty() || !config.cimxml.is_empty();
    let tls = if sealed { Some(load_tls(&host)?) } else { None };
    let mut listeners = vec![];
    for (addresses, tls, realm, service) in [
        (&config.wsman, &tls, "WSMAN", &wsman),
        (&config.wsman_plain, &None, "WSMAN", &wsman),
        (&config.cimxml, &tls, "CIMOM", &cimxml),
        (&config.cimxml_plain, &None, "CIMOM", &cimxml),
    ] {
        if addresses.is_empty() {
            continue;
        }
        let settings =
            Settings { addresses: addresses.clone(), tls: tls.clone(), realm, limits: Limits::default() };
        let listener = Listener::bind(settings, authenticator.clone(), service.clone()).await;
        let listener = listener.map_err(|error| {
            failure("open the management listeners", &error)
                .hint("`[management]` in the configuration names the addresses")
        })?;
        tracing::info!(realm, tls = tls.is_some(), addresses = ?listener.addresses, "management");
        listeners.push(listener);
    }
    let options = delivery::Options { tls: delivery_tls(&host)?, ..delivery::Options::default() };
    host.tasks.spawn(delivery::run(interop, provider, options, host.shutdown.child_token()));
    Ok(async move {
        for listener in listeners {
            listener.shutdown().await;
        }
    }
    .boxed())
}

/// How clients may log in (DSP0226, annex A).
const SECURITY_PROFILES: [&str; 2] = [
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/basic",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual",
];

const WITH_TICKETS: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/spnego-kerberos";

/// The keys that clients' tickets are for, where they are configured.
fn tickets(host: &Host) -> Result<Option<Account>, Failure> {
    let Some(keytab) = host.config.management.keytab.clone() else { return Ok(None) };
    let account = Account { principal: None, keytab, folder: host.dirs.state.clone() };
    account
        .check()
        .map_err(|error| failure("take tickets at the management listeners", &error).hint(error.hint()))?;
    Ok(Some(account))
}

fn open_interop(host: &Host) -> Result<interop::Interop, Failure> {
    let schemas = [hvr::schema::V2, hvr::schema::CIMV2].map(|name| Arc::new(hvr::schema::schema(name)));
    let description = interop::Description {
        system_name: host.name.to_string(),
        name: "Relevo".to_owned(),
        element_name: "Relevo".to_owned(),
        description: format!("Relevo {}", env!("CARGO_PKG_VERSION")),
        profiles: vec![],
    };
    let store = Arc::new(subscriptions::File(host.dirs.state.join("subscriptions.json")));
    let schema = hvr::schema::schema("interop");
    interop::Interop::new(schema, schemas.to_vec(), description, store, Arc::new(SystemTime::now))
        .map_err(|error| failure("open the namespace interop", &error))
}

/// Loads the certificate, and again whenever one is installed.
fn load_tls(host: &Host) -> Result<Arc<Tls>, Failure> {
    let config = &host.config.management;
    let own = |given: &Option<PathBuf>, file| given.clone().unwrap_or_else(|| host.dirs.certs.join(file));
    let files = TlsFiles {
        certificate: own(&config.certificate, "host.pem"),
        key: own(&config.key, "host.key"),
        client_authorities: config.client_authorities.clone(),
    };
    let refused = |error: TlsError| failure("load the certificate of the management listeners", &error);
    let tls = Tls::load(&files).map_err(refused)?;
    let used = tls.clone();
    host.on_certificates(Box::new(move || used.reload(&files).map_err(refused)));
    Ok(tls)
}

/// Indications go over TLS to whom the clients' authorities, or this host's, vouch for; without such, over plain HTTP
/// only. They are read again whenever a certificate is installed.
fn delivery_tls(host: &Host) -> Result<watch::Receiver<Option<Arc<rustls::ClientConfig>>>, Failure> {
    let path = host.config.management.client_authorities.clone();
    let path = path.unwrap_or_else(|| host.dirs.certs.join("ca.pem"));
    let (trust, trusted) = watch::channel(trusting(&path)?);
    host.on_certificates(Box::new(move || {
        trust.send_replace(trusting(&path)?);
        Ok(())
    }));
    Ok(trusted)
}

/// Trusts whom these authorities vouch for; `None` where there is no such file.
fn trusting(authorities: &Path) -> Result<Option<Arc<rustls::ClientConfig>>, Failure> {
    if !authorities.exists() {
        return Ok(None);
    }
    let doing = format!("use the authorities in {} for indications", authorities.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authorities).map_err(|error| failure(&doing, &error))? {
        let certificate = certificate.map_err(|error| failure(&doing, &error))?;
        roots.add(certificate).map_err(|error| failure(&doing, &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers for them");
    Ok(Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())))
}

fn failure(doing: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(ErrorKind::Configuration, "management", format!("cannot {doing}: {}", chain(error)))
}

struct WsMan(wsman::Server);

impl Service for WsMan {
    fn access(&self, head: &request::Parts) -> Access {
        match head.uri.path() {
            path if !wsman::serves(path) => Access::Absent,
            _ if wsman::is_anonymous(head) => Access::Anybody,
            _ => Access::Users,
        }
    }

    fn handle<'a>(
        &'a self,
        request: Request<bytes::Bytes>,
        caller: Option<&'a Caller>,
    ) -> BoxFuture<'a, Response<Body>> {
        async move {
            match caller {
                Some(caller) => self.0.handle(request, caller).await,
                None => self.0.identify(&request),
            }
        }
        .boxed()
    }
}

struct CimXml(cimxml::Server);

impl Service for CimXml {
    fn access(&self, _head: &request::Parts) -> Access {
        Access::Users
    }

    fn handle<'a>(
        &'a self,
        request: Request<bytes::Bytes>,
        caller: Option<&'a Caller>,
    ) -> BoxFuture<'a, Response<Body>> {
        let caller = caller.expect("nobody else is let in");
        self.0.handle(request, caller).boxed()
    }
}
