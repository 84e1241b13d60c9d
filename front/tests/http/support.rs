//! A listener with a small service behind it, and clients.

use bytes::Bytes;
use cim::{Caller, Role};
use front::{
    Access, Account, Authenticator, Body, Limits, Listener, Service, Settings, Tls, TlsFiles,
    users::{self, PasswordHash, Users, UsersError, UsersFile},
};
use futures::{StreamExt, future::BoxFuture, stream};
use http::{Request, Response, header::HOST, request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, Semaphore},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// `anna:correct horse`, an administrator.
pub const ANNA: &str = "Basic YW5uYTpjb3JyZWN0IGhvcnNl";
/// `anna:correct house`.
pub const WRONG: &str = "Basic YW5uYTpjb3JyZWN0IGhvdXNl";

/// Bytes in a piece of `/stream`.
pub const PIECE_BYTES: usize = 64 << 10;

/// Says what reached it, and answers as a test lets it.
#[derive(Debug)]
pub struct Probe {
    /// One for each piece of `/stream`, and one for the end of `/wait`.
    pub permits: Semaphore,
    pub pieces_made: AtomicUsize,
    /// `/wait` has begun.
    pub begun: Notify,
    /// `/wait` is done.
    pub done: Notify,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(0),
            pieces_made: AtomicUsize::new(0),
            begun: Notify::new(),
            done: Notify::new(),
        }
    }
}

/// `/who` tells the caller, `/length` the body's length, `/open` is for anybody, `/stream` never ends, `/count/N`
/// ends after N pieces, `/wait` takes as long as the test wants, `/panic` does.
pub struct ProbeService(pub Arc<Probe>);

impl Service for ProbeService {
    fn access(&self, head: &request::Parts) -> Access {
        match head.uri.path() {
            "/absent" => Access::Absent,
            "/open" => Access::Anybody,
            _ => Access::Users,
        }
    }

    fn handle<'a>(
        &'a self,
        request: Request<Bytes>,
        caller: Option<&'a Caller>,
    ) -> BoxFuture<'a, Response<Body>> {
        let probe = self.0.clone();
        Box::pin(async move {
            assert!(!request.headers().contains_key("authorization"));
            match request.uri().path() {
                "/who" => text(format!("{caller:?}")),
                "/length" | "/open" => text(request.body().len().to_string()),
                "/stream" => Response::new(pieces(probe, None)),
                "/wait" => {
                    probe.begun.notify_one();
                    probe.permits.acquire().await.unwrap().forget();
                    probe.done.notify_one();
                    text("done".to_owned())
                }
                "/panic" => panic!("as asked"),
                path => {
                    let count: usize = path.strip_prefix("/count/").unwrap().parse().unwrap();
                    probe.permits.add_permits(count);
                    Response::new(pieces(probe, Some(count)))
                }
            }
        })
    }
}

fn text(text: String) -> Response<Body> {
    Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync())
}

/// Letters that repeat after 251 bytes: gzip makes them short, but not to nothing.
fn pieces(probe: Arc<Probe>, count: Option<usize>) -> Body {
    let piece: Vec<u8> = (0..PIECE_BYTES).map(|index| b'a' + (index % 251 % 26) as u8).collect();
    let piece = Bytes::from(piece);
    let pieces = stream::iter(0..count.unwrap_or(usize::MAX)).then(move |_| {
        let (probe, piece) = (probe.clone(), piece.clone());
        async move {
            probe.permits.acquire().await.unwrap().forget();
            probe.pieces_made.fetch_add(1, Ordering::Relaxed);
            Ok::<_, io::Error>(Frame::data(piece))
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn sign(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        identity(certificate, key)
    }
}

pub fn self_signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    identity(certificate, key)
}

fn identity(certificate: rcgen::Certificate, key: KeyPair) -> Identity {
    let key_pem = key.serialize_pem();
    Identity {
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap(),
        certificate_pem: certificate.pem(),
        key_pem,
    }
}

pub struct Server {
    pub listener: Option<Listener>,
    pub address: SocketAddr,
    pub probe: Arc<Probe>,
    pub authority: Authority,
    pub tls: Option<Arc<Tls>>,
    pub passed_s: Arc<AtomicU64>,
    pub dir: TempDir,
}

/// TLS on loopback, with anna for a user.
pub async fn server(limits: Limits) -> Server {
    start(limits, true, None).await
}

/// The same without TLS, for tests that write their own bytes.
pub async fn plain_server(limits: Limits) -> Server {
    start(limits, false, None).await
}

/// TLS on loopback, or not, for clients with tickets.
pub async fn server_with_tickets(tickets: Account, with_tls: bool) -> Server {
    start(Limits::default(), with_tls, Some(tickets)).await
}

async fn start(limits: Limits, with_tls: bool, tickets: Option<Account>) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority of the test");
    let tls = with_tls.then(|| Tls::load(&tls_files(&dir, &authority)).unwrap());
    let passed_s = Arc::new(AtomicU64::new(0));
    let (probe, authenticator) = (Arc::default(), authenticator(&dir, passed_s.clone(), tickets));
    let settings =
        Settings { addresses: vec!["127.0.0.1:0".to_owned()], tls: tls.clone(), realm: "TEST", limits };
    let service = Arc::new(ProbeService(Arc::clone(&probe)));
    let listener = Listener::bind(settings, authenticator, service).await.unwrap();
    Server { address: listener.addresses[0], listener: Some(listener), probe, authority, tls, passed_s, dir }
}

pub fn tls_files(dir: &TempDir, authority: &Authority) -> TlsFiles {
    let host = authority.sign(CertificateParams::new(["localhost".to_owned()]).unwrap());
    let write = |name: &str, text: &str| -> PathBuf {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    TlsFiles {
        certificate: write("host.pem", &host.certificate_pem),
        key: write("host.key", &host.key_pem),
        client_authorities: Some(write("ca.pem", &authority.pem)),
    }
}

pub fn authenticator(
    dir: &TempDir,
    passed_s: Arc<AtomicU64>,
    tickets: Option<Account>,
) -> Arc<Authenticator> {
    let path = dir.path().join("users.toml");
    users::edit(&path, |users| {
        users.add("anna", Role::Administrator)?;
        users.set_password("anna", Some(PasswordHash::new("correct horse")?))
    })
    .unwrap();
    let start = Instant::now();
    let clock = Arc::new(move || start + Duration::from_secs(passed_s.load(Ordering::Relaxed)));
    Authenticator::with_tickets(UsersFile::open(&path).unwrap(), clock, tickets)
}

impl Server {
    pub fn edit(&self, change: impl FnOnce(&mut Users) -> Result<(), UsersError>) {
        users::edit(&self.dir.path().join("users.toml"), change).unwrap();
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub async fn tls(&self, identity: Option<&Identity>) -> io::Result<TlsStream<TcpStream>> {
        let config = client_config(&self.authority, identity, &[&version::TLS13]);
        tls(TcpStream::connect(self.address).await?, config).await
    }

    pub async fn client(&self) -> SendRequest<Full<Bytes>> {
        client(self.tls(None).await.unwrap()).await
    }

    pub async fn shutdown(&mut self) {
        self.listener.take().unwrap().shutdown().await;
    }
}

pub fn client_config(
    authority: &Authority,
    identity: Option<&Identity>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
            .unwrap(),
    }
}

pub async fn tls(tcp: TcpStream, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

pub async fn client<S>(stream: S) -> SendRequest<Full<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A POST with a body and headers.
pub fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(path).header(HOST, "localhost");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::new(body.into())).unwrap()
}

pub async fn ask(client: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Response<Incoming> {
    client.ready().await.unwrap();
    client.send_request(request).await.unwrap()
}

/// Status and body as text.
pub async fn read(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Sends bytes as they are, and reads until the server closes.
pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![];
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// What has to happen by itself, happens in this time.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it does not happen")
}
